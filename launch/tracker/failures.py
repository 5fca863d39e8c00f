"""Errors of MLflow, its database or the disk, in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from driftwork.errors import DriftworkError


@contextmanager
def as_user_error(uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its database or the disk into a `DriftworkError` of one line that names the store."""
    try:
        yield
    except DriftworkError:
        raise
    except Exception as error:
        raise DriftworkError(
            f"tracking store {uri}: {one_line(error)}; check the store and the settings of tracking"
        ) from error


def one_line(error: Exception) -> str:
    text = re.sub(r"\(raised as a result of [^)]*\) | \[SQL: .*", "", " ".join(str(error).split()))
    return text[:300] or type(error).__name__
