"""A small tree of configs, with a union, sections of every kind, and a field that was renamed."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from driftwork.config_base import Config


class Cello(Config):
    name: Literal["cello", "gamba"]
    """Which of the two bowed instruments it is."""
    strings: int = Field(4, ge=1)
    """Number of strings that are tuned."""
    tension: float = Field(60.0, gt=0)
    """Force on each string, in newtons."""

    renamed: ClassVar = {"pull": "tension"}


class Flute(Config):
    name: Literal["flute"] = "flute"
    """The instrument without strings."""
    keys: int = Field(16, ge=1)
    """Number of keys that a player presses."""


Instrument = Annotated[Cello | Flute, Field(discriminator="name")]


class Hall(Config):
    seats: int = 100
    """Number of seats in the hall."""
    reverb: tuple[float, ...] = ()
    """Reverberation times, in seconds."""
    levels: dict[str, float] = Field({})
    """Loudness of each named source, in decibels."""


class Concert(Config):
    out: Path
    """Folder of the recording."""
    player: Instrument
    """The instrument that is played."""
    hall: Hall = Hall(seats=50)
    """The place of the concert."""
    encore: Hall | None = None
    """Another place for the encore; null means none."""
    tuning: Literal[415, 440] = 440
    """Pitch of the A, in hertz."""
    takes: tuple[Hall, ...] = ()
    """Further places."""
