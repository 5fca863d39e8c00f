"""A training run of seconds."""

from pathlib import Path

from launch.config import RunConfig

TINY = (RunConfig, Path(__file__).with_name("tiny.yaml"))
