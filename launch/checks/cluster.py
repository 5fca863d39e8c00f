"""Checks of Ray: access by token and open ports, and the size of an upload by `ray job submit --working-dir .`."""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pathspec import GitIgnoreSpec

from launch.checks.finding import Finding, error, ok, warning

_MIB = 2**20
UPLOAD_MIB = 512
"""Size of Ray's largest message, in MiB (RAY_max_grpc_message_size). A packed working directory is one message."""
_MAKE_TOKEN = "ray get-auth-token --generate && chmod 600 ~/.ray/auth_token, the same on every node"


def token() -> Finding:
    """Check the token's file: whoever can read it can run code on the cluster."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return ok("ray token", "in RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    if not path.is_file() or not path.stat().st_size:
        there = "empty" if path.is_file() else "absent"
        if mode == "token":
            return error("ray token", f"{path} is {there}, and RAY_AUTH_MODE=token requires it", _MAKE_TOKEN)
        return warning("ray token", f"{path} is {there}: a cluster started here has no login", _MAKE_TOKEN)
    rights = stat.S_IMODE(path.stat().st_mode)
    if rights & 0o077:
        return error("ray token", f"{path} has mode {rights:o}: others may run code with it", f"chmod 600 {path}")
    return ok("ray token", f"{path}, mode {rights:o}")


def auth_mode() -> Finding:
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode == "token":
        return ok("ray login", "RAY_AUTH_MODE=token")
    if not mode:
        message = "RAY_AUTH_MODE is not set: a cluster requires a token only if it finds one at its start"
        return warning("ray login", message, "export RAY_AUTH_MODE=token, on every node")
    message = f"RAY_AUTH_MODE={mode}: whoever reaches the dashboard can run code"
    return error("ray login", message, "export RAY_AUTH_MODE=token")


def open_ports(services: dict[int, str]) -> Iterator[Finding]:
    """Report each service of this machine, with its port, that any other machine can reach."""
    found = list(listening())
    for port, name in services.items():
        addresses = {address for address, where in found if where == port}
        if addresses & {"0.0.0.0", "::"}:
            cure = "bind it to 127.0.0.1 and reach it through ssh -L; for Ray: ray start --dashboard-host=127.0.0.1"
            yield error("open port", f"{name} listens on {port} for every machine, and may have no login", cure)
        elif addresses:
            yield ok("open port", f"{name} on {port}: {', '.join(sorted(addresses))} only")
    if not any(where in services for _, where in found):
        yield ok("open port", f"none of {', '.join(f'{name} ({port})' for port, name in services.items())}")


def listening(tables: tuple[str, ...] = ("/proc/net/tcp", "/proc/net/tcp6")) -> Iterator[tuple[str, int]]:
    """Yield (address, port) of each socket that listens for connections. Without /proc nothing is yielded."""
    for table in tables:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            address, port = local.split(":")
            if state == "0A":
                words = struct.pack(
                    f"<{len(address) // 8}I", *struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
                )
                yield socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words), int(port, 16)


def upload(folder: Path) -> Finding:
    """Check the size of the working directory that Ray would upload, without files named in .gitignore and
    .rayignore."""
    if not (folder / ".rayignore").exists():
        message, cure = (
            f"{folder} has no .rayignore",
            "copy driftwork's own, which excludes data, runs and environments",
        )
        missing = warning("upload", message, cure)
    else:
        missing = None
    try:
        packed = dict(_packed(folder))
    except ValueError as problem:
        return warning("upload", f"{folder}: .gitignore or .rayignore: {problem}", "correct that line")
    total = sum(packed.values())
    largest = max(packed.items(), key=lambda entry: entry[1], default=("", 0))
    message = f"ray job submit --working-dir {folder} would pack {total / _MIB:.0f} MiB"
    cure = f"name it in .rayignore; the largest file is {largest[0]}, {largest[1] / _MIB:.0f} MiB"
    if total >= UPLOAD_MIB * _MIB:
        return error("upload", f"{message}; Ray accepts at most {UPLOAD_MIB} MiB", cure)
    if total >= UPLOAD_MIB * _MIB / 2:
        return warning("upload", f"{message}, and Ray accepts at most {UPLOAD_MIB} MiB", cure)
    return missing or ok("upload", message)


def _packed(folder: Path) -> Iterator[tuple[str, int]]:
    rules = [_rules(folder / name) for name in (".gitignore", ".rayignore")]
    if os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE") == "1":
        rules = rules[1:]
    for parent, folders, files in os.walk(folder):
        here = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if not any(rule.match_file(f"{here / name}/") for rule in rules)]
        for name in files:
            path = here / name
            if not any(rule.match_file(path) for rule in rules):
                with suppress(OSError):  # files come and go
                    yield path.as_posix(), (folder / path).lstat().st_size


def _rules(file: Path) -> GitIgnoreSpec:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return GitIgnoreSpec.from_lines(lines)
