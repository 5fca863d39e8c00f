"""A command ends soon, and silently."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.places import ROOT


@pytest.mark.process
@pytest.mark.skipif(find_spec("triton") is None, reason="pip install -e '.[triton]'")
def test_triton_prints_nothing_at_the_end():
    """Its library lists the objects that are left at the end of a process; torch's optimizers import it."""
    script = "import triton; from driftwork.command import run; raise SystemExit(run('train', len, []))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
