"""Checks of tokens, ports and uploads of a job, against files, sockets and git."""

import socket
import stat
import subprocess

import pytest

from launch.checks import cluster
from tests.launch.checks.findings import level_of
from tests.places import ROOT


def test_token_must_exist_and_be_private(home, monkeypatch):
    assert level_of(cluster.token()) == "warning"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert level_of(cluster.token()) == "error"
    token = home / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    for mode, level in ((0o644, "error"), (0o640, "error"), (0o600, "ok"), (0o400, "ok")):
        token.chmod(mode)
        assert level_of(cluster.token()) == level
    token.chmod(0o644)
    assert cluster.token().cure == f"chmod 600 {token}"
    assert "secret" not in str(cluster.token())
    assert stat.S_IMODE(token.stat().st_mode) == 0o644  # the check changes nothing
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "elsewhere"))
    assert "elsewhere is absent" in cluster.token().message


@pytest.mark.parametrize(("mode", "level"), [("", "warning"), ("token", "ok"), ("disabled", "error")])
def test_cluster_without_login_is_named(home, monkeypatch, mode, level):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert level_of(cluster.auth_mode()) == level


@pytest.mark.parametrize(
    ("address", "family", "level"),
    [("127.0.0.1", socket.AF_INET, "ok"), ("0.0.0.0", socket.AF_INET, "error"), ("::", socket.AF_INET6, "error")],
)
def test_open_dashboard_is_an_error(address, family, level):
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert (address, port) in set(cluster.listening())
        (finding,) = cluster.open_ports({port: "Ray's dashboard"})
        assert level_of(finding) == level
        assert str(port) in finding.message
    assert "none of" in next(cluster.open_ports({port: "Ray's dashboard"})).message


def test_upload_size_follows_ignore_files(home, monkeypatch):
    """The size is the sum over the files that git itself, with both files of patterns, does not ignore."""
    work = home / "work"
    for name in ("a.py", "runs/big.bin", "sub/runs/kept.bin", "data/x.tar", "data/README.md", "sub/deep/x.log", "x.tmp",
                 ".venv/lib/y", "sub/__pycache__/z.pyc", "keep.tmp.py", "odd/a.b.c", "n1.bin", "nx.bin",
                 "#sharp"):  # fmt: skip
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(bytes(len(name)))
    patterns = "# a comment\n\n/runs/\n.venv/\n__pycache__/\n/data/*\n!/data/README.md\n*.tmp\n**/deep/*.log\n"
    patterns += "n[0-9].bin\n\\#sharp\n"
    (work / ".gitignore").write_text(patterns)
    assert level_of(cluster.upload(work)) == "warning"  # no .rayignore
    (work / ".rayignore").write_text("odd\n")
    subprocess.run(["git", "init", "-q", "."], cwd=work, check=True)
    listing = ["git", "ls-files", "-o", "--exclude-from=.gitignore", "--exclude-from=.rayignore", "-z"]
    kept = subprocess.run(listing, cwd=work, check=True, capture_output=True, text=True).stdout.split("\0")
    (work / ".rayignore").write_text("odd\n.git/\n")
    assert {path for path, _ in cluster._packed(work)} == {path for path in kept if path}
    assert level_of(cluster.upload(work)) == "ok"
    with (work / "large.bin").open("wb") as handle:
        handle.truncate(300 * 2**20)
        assert level_of(cluster.upload(work)) == "warning"
        handle.truncate(600 * 2**20)
    finding = cluster.upload(work)
    assert level_of(finding) == "error"
    assert "large.bin, 600 MiB" in finding.cure


def test_changing_files_and_damaged_patterns_are_no_crash(tmp_path, monkeypatch):
    """A file may be deleted between its listing and the reading of its size."""
    (tmp_path / ".rayignore").write_text("odd\n")
    (tmp_path / ".gitignore").write_bytes(b"caf\xe9\n")
    monkeypatch.setattr(cluster.os, "walk", lambda folder: [(str(folder), [], ["gone.tmp", ".rayignore"])])
    assert list(cluster._packed(tmp_path)) == [(".rayignore", 4)]
    (tmp_path / ".gitignore").write_text("!\n")
    finding = cluster.upload(tmp_path)
    assert level_of(finding) == "warning"
    assert "Invalid git pattern: '!'" in finding.message


def test_this_repository_fits():
    assert level_of(cluster.upload(ROOT)) == "ok"
