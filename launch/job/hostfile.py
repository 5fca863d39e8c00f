"""The hosts of a job: DeepSpeed's hostfile, and the settings by which hosts are reached."""

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from driftwork.config_base import Config
from driftwork.errors import DriftworkError

_LINE = re.compile(r"(\S+)\s+slots=([1-9]\d*)")


class HostsConfig(Config):
    ssh: str = "ssh -o BatchMode=yes -o ConnectTimeout=10"
    """Command that runs a command on another host. The name of the host and that command are appended to it."""
    address: str | None = None
    """Address at which the other hosts reach the first one. Null takes its name in the hostfile."""
    port: int | None = Field(None, ge=1, le=65535)
    """TCP port of the first host, where the ranks meet. Null takes any free port."""
    silence: float = Field(30.0, gt=1)
    """Time without a sign of life after which a host counts as lost, in seconds."""


class Host(NamedTuple):
    name: str
    slots: int
    """Number of ranks that run on this host."""


def read(file: Path) -> list[Host]:
    """Parse the lines `NAME slots=N` of a hostfile. Raises `DriftworkError` for another line, or without hosts."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DriftworkError(
            f"hostfile={file}: cannot be read: {getattr(error, 'strerror', error)}; give a readable file"
        ) from None
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None or text.startswith("-"):  # ssh would read the name as an option
            raise DriftworkError(
                f"hostfile={file}: line {number}, '{text}', is not of the form NAME slots=N; correct it"
            )
        if found[1] in hosts:
            raise DriftworkError(f"hostfile={file}: line {number} names {found[1]} again; give one line all its slots")
        hosts[found[1]] = Host(found[1], int(found[2]))
    if not hosts:
        raise DriftworkError(f"hostfile={file}: names no host; add a line NAME slots=N")
    return list(hosts.values())
