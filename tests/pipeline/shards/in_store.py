"""Shared helpers for tests of a data set in an object store."""

from tests.standins.object_store import BUCKET

URL = f"s3://{BUCKET}/lakh"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
