"""Load DeepSpeed without packages that Driftwork does not use, which saves two seconds of each start."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

LAUNCH = """
import atexit, gc, sys
atexit.register(gc.freeze)
sys.modules['mlflow'] = None
from deepspeed.launcher.launch import main
main()
"""
"""Code of `python -m deepspeed.launcher.launch` that starts and ends sooner. DeepSpeed's tuner imports MLflow if it
can."""


@contextmanager
def deepspeed_alone() -> Iterator[None]:
    """Block the import of MLflow within the context, and leave functions decorated for torch's compiler uncompiled.

    DeepSpeed's optimizer Muon has such functions. They would load the compiler, which is not used."""
    tracker = sys.modules.get("mlflow")
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        with mock.patch.object(torch, "compile", _uncompiled):
            yield
    finally:
        del sys.modules["mlflow"]
        if tracker is not None:
            sys.modules["mlflow"] = tracker


def _uncompiled(function: Callable[..., Any] | None = None, **options: object) -> Callable[..., Any]:
    return function or (lambda later: later)
