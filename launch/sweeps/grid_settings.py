"""The settings of a sweep and of its runs, for help, with the values that a grid file gives them."""

from driftwork.config_base import layers, read_mapping
from driftwork.help import Part
from driftwork.origins import COMMAND_LINE, resolve
from launch.runs.config import RunConfig
from launch.sweeps.grid import BASE, OWN, GridConfig, combined, parsed

_BY_THE_SWEEP = ("the sweep", [("out", "OUT/VALUES"), ("tracking.run_name", "VALUES")])


def settings(words: list[str]) -> list[Part]:
    """Return the settings of a sweep and of a run; where words are given, with the values that they have in the grid.

    Raises:
        DriftworkError: the grid, or one of its train configs, is wrong.
    """
    if not words:
        return [
            Part("Settings of the sweep, as key=value on the command line or in the grid file", GridConfig),
            Part("Settings of its runs, in the grid file under set, grid, zip or runs, or as key=value", RunConfig),
        ]
    grid, overrides = parsed(words)
    file, own = str(grid.file), [word for word in words[1:] if word.partition("=")[0] in OWN]
    sweep = resolve(GridConfig, [(file, read_mapping(grid.file))], (COMMAND_LINE, own))
    runs = []
    for base, values in combined(grid, overrides):
        varied = {**grid.config.set, **{key: value for key, value in values.items() if key != BASE}}
        given = (file, list(varied.items())), (COMMAND_LINE, overrides), _BY_THE_SWEEP
        runs.append(resolve(RunConfig, layers(base), *given))
    return [
        Part(f"Settings of {file}, with the origin of each value", GridConfig, (sweep,)),
        Part(f"Settings of its {len(runs)} runs; where these differ, all values", RunConfig, tuple(runs)),
    ]
