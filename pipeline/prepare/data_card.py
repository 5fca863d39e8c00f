"""The data card: a page that describes a prepared data set and the files left out of it."""

from pathlib import Path
from typing import NamedTuple, Self

from driftwork.config_base import dump
from driftwork.files import printable
from pipeline.prepare.plan import Recipe
from pipeline.readers.raw_files import listing
from pipeline.sequence import SPLITS, Item
from pipeline.shards.manifest import Manifest


class LeftOut(NamedTuple):
    """Files and links below the raw folder that are left out for reasons other than being unreadable."""

    ignored: int
    """Number of macOS resource files."""
    loops: tuple[str, ...]
    """Links to folders that are listed already."""
    dead: tuple[str, ...]
    """Links without a target whose name is not that of a raw file."""

    @classmethod
    def of(cls, source: Path | None, items: list[Item]) -> Self:
        """List `source` once more, and leave out the files that `items` are read from."""
        if source is None or not source.is_dir():
            return cls(0, (), ())
        found, read = listing(source), {file for item in items for file in item.files}
        return cls(len(found.ignored), found.loops, tuple(name for name in found.dead if name not in read))

    def lines(self) -> list[str]:
        """Return a line for the ignored files, and a line for each link."""
        lines = [f"{self.ignored} macOS resource files ignored"] if self.ignored else []
        lines += [
            f"{printable(name)} is a link to a folder that is listed already; not followed" for name in self.loops
        ]
        return lines + [f"{printable(name)} is a link without a target" for name in self.dead]


def data_card(manifest: Manifest, recipe: Recipe, left_out: LeftOut) -> str:
    """Return the data card as Markdown."""
    spec, table = manifest.spec, manifest.spec.table is not None
    if spec.image is not None:
        kind = f"a picture of {spec.image[0]} x {spec.image[1]}, stored as bytes"
    else:
        kind = "binary, bit-packed" if spec.binary else "float32"
    rows = "\n".join(_row(manifest, split) for split in SPLITS)
    notes = "".join(f"- {line}\n" for line in (*_columns(manifest), *_duplicates(manifest), *_left_out(left_out)))
    return f"""# {recipe.title}

{manifest.items} raw items, of which {manifest.unreadable} could not be read (`quarantine.jsonl` gives the reasons).

| split | shards | sequences | frames | hours |
|---|---:|---:|---:|---:|
{rows}

- **One frame:** {spec.dim} channels, {kind}; {spec.units}. A frame every {spec.interval:g} s{" on average" * table}.
- **One sequence:** at most {spec.length} frames{"" if table else f" ({spec.length * spec.interval:g} s)"}; each \
carries its times in seconds and a mask of the {"values" if table else "frames"} that are present.
- **Splits:** by group (song, speaker, trial), never by window; if the data set does not define them, a \
group's split follows from a hash of its name.
{notes}- **Statistics:** mean and scale of each channel, from the train split alone, in `manifest.json`.
- **Licence:** {recipe.licence}
- **Format:** WebDataset tar shards; `manifest.json` lists their sha256, and the sha256 of every raw file.

Prepared with `driftwork prepare RECIPE.yaml source=DIR out=DIR`, where RECIPE.yaml holds

```yaml
{dump(recipe)}```
"""


def _columns(manifest: Manifest) -> list[str]:
    """Return a line on the channels of a table, with the number of values of each in the training split."""
    table = manifest.spec.table
    if table is None:
        return []
    observed, units = manifest.stats.observed or (), table.units or ("",) * len(table.channels)
    each = [
        f"{printable(name)}{f' in {printable(unit)}' * bool(unit)} ({count} values)"
        for name, unit, count in zip(table.channels, units, observed, strict=True)
    ]
    more = f", and {len(each) - 50} more" if len(each) > 50 else ""
    return [f"**Channels,** with the number of values in the training split: {', '.join(each[:50])}{more}."]


def _duplicates(manifest: Manifest) -> list[str]:
    if not manifest.joined:
        return []
    return [
        f"**Duplicates:** {len(manifest.joined)} groups have the same content as another group, byte for byte or value "
        "for value; each is joined to that group and lies in its split (`joined` in `manifest.json`)."
    ]


def _left_out(left_out: LeftOut) -> list[str]:
    return [f"**Left out:** {'; '.join(left_out.lines())}."] if left_out.lines() else []


def _row(manifest: Manifest, split: str) -> str:
    shards = [shard for shard in manifest.shards if shard.split == split]
    frames = sum(sum(shard.frames) for shard in shards)
    hours = frames * manifest.spec.interval / 3600
    return f"| {split} | {len(shards)} | {sum(shard.samples for shard in shards)} | {frames} | {hours:.2f} |"
