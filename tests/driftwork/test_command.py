"""How a command ends: soon, silently, and without its scratch files."""

import errno
import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest

from driftwork.command import run
from driftwork.progress import progress
from tests.places import ROOT


@pytest.mark.process
@pytest.mark.skipif(find_spec("triton") is None, reason="pip install -e '.[triton]'")
def test_triton_prints_nothing_at_the_end():
    """Its library lists the objects that are left at the end of a process; torch's optimizers import it."""
    script = "import triton; from driftwork.command import run; raise SystemExit(run('train', len, []))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.process
def test_terminated_command_removes_its_scratch_folder(tmp_path):
    """The command has a temporary folder when SIGTERM comes, as from `timeout` or `docker stop`."""
    script = f"""
import sys, tempfile, time
from driftwork.command import command, run

@command("usage", least=0)
def main(argv):
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        print("at work", flush=True)
        time.sleep(60)

raise SystemExit(run("impute", main, []))
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"at work\n"
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.EACCES, "make it readable and writable"), (errno.ENAMETOOLONG, "choose a shorter name")],
)
def test_refused_file_is_named_in_one_line(capsys, monkeypatch, number, cure):
    """A rank keeps the traceback, with which it is restarted."""

    def main(argv):
        raise OSError(number, os.strerror(number), "runs/a/config.yaml")

    assert run("train", main, []) == 2
    expected = f"driftwork train: runs/a/config.yaml: {os.strerror(number)}; {cure}\n"
    assert capsys.readouterr().err == expected
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(OSError, match=r"config\.yaml"):
        run("train", main, [])


@pytest.mark.parametrize("colours", [{}, {"FORCE_COLOR": "1"}], ids=["log", "terminal"])
def test_progress_prints_names_as_they_are(capsys, monkeypatch, colours):
    """rich would read the name as markup and a picture; with FORCE_COLOR it takes any file for a terminal."""
    for name, value in colours.items():
        monkeypatch.setenv(name, value)
    with progress("b[/x]:ok:", 1) as step:
        step()
    assert "b[/x]:ok:" in capsys.readouterr().err
