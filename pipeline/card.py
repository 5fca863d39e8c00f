"""The data card: what a prepared data set is, in a page that a person reads. A function of the manifest alone."""

from models.config_base import dump
from pipeline.manifest import Manifest
from pipeline.plan import Recipe
from pipeline.sequence import SPLITS


def data_card(manifest: Manifest, recipe: Recipe) -> str:
    """Markdown."""
    spec = manifest.spec
    if spec.image is not None:
        kind = f"a picture of {spec.image[0]} x {spec.image[1]}, stored as bytes"
    else:
        kind = "binary, bit-packed" if spec.binary else "float32"
    rows = "\n".join(_row(manifest, split) for split in SPLITS)
    return f"""# {recipe.title}

{manifest.items} raw items, of which {manifest.unreadable} could not be read (`quarantine.jsonl` says why).

| split | shards | sequences | frames | hours |
|---|---:|---:|---:|---:|
{rows}

- **One frame:** {spec.dim} channels, {kind}; {spec.units}. A frame every {spec.interval:g} s.
- **One sequence:** at most {spec.length} frames ({spec.length * spec.interval:g} s); each carries its times \
in seconds and a mask of the frames that are there.
- **Splits:** by group (song, speaker, trial), never by window; where the data set brings no split of its own, a \
group's split follows from a hash of its name.
- **Statistics:** mean and scale of each channel, from the train split alone, in `manifest.json`.
- **Licence:** {recipe.licence}
- **Format:** WebDataset tar shards; `manifest.json` lists their sha256, and the sha256 of every raw file.

Prepared with `driftwork prepare RECIPE.yaml source=DIR out=DIR`, where RECIPE.yaml holds

```yaml
{dump(recipe)}```
"""


def _row(manifest: Manifest, split: str) -> str:
    shards = [shard for shard in manifest.shards if shard.split == split]
    frames = sum(sum(shard.frames) for shard in shards)
    hours = frames * manifest.spec.interval / 3600
    return f"| {split} | {len(shards)} | {sum(shard.samples for shard in shards)} | {frames} | {hours:.2f} |"
