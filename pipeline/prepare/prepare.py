"""The Ray job that turns raw files into a prepared data set, with one task per shard.

If it is killed at any point and run again, it ends in the same bytes, with any number of workers.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from pydantic import Field

from driftwork.errors import DriftworkError
from driftwork.files import printable
from driftwork.plugins import Plugged
from driftwork.progress import progress
from pipeline.prepare import cluster
from pipeline.prepare.build import Entry, Job, Unreadable, build_shard
from pipeline.prepare.data_card import LeftOut, data_card
from pipeline.prepare.duplicates import joined
from pipeline.prepare.gather import Gathered, gather, keep, kept, made_of, read_files, scratch
from pipeline.prepare.guard import Limits
from pipeline.prepare.output import CARD, QUARANTINE, Output, check_inputs, inputs_of, quarantine
from pipeline.prepare.plan import Recipe, ShardPlan, make_plan
from pipeline.prepare.store_output import StoreOutput
from pipeline.readers.registry import reader
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Found, Table, find
from pipeline.sequence import SPLITS, Item, folder
from pipeline.shards.manifest import MANIFEST, SCHEMA, Manifest
from pipeline.shards.stats import Moments
from pipeline.shards.storage import Place
from pipeline.split import FEW_GROUPS

_Output = Output | StoreOutput


class PrepareConfig(Recipe, Plugged):
    source: Path | None = None
    """Folder of raw files, or a single file if it is a whole data set, such as a MIDI, a .mat or a .csv file. A table
    also takes a glob, such as 'raw/*.csv'. Null for simulated data."""
    out: Place
    """Folder for the shards, or its URL in a store, as in s3://bucket/lakh. It must be new or empty, or hold this
    same preparation, finished or not."""
    max_unreadable: float = Field(0.1, ge=0, le=1)
    """Fraction of unreadable items above which the job fails. In Lakh, under 0.02 are unreadable; in a wrong folder
    nearly all are."""
    seconds_per_file: float = Field(20.0, gt=0)
    """Processor time that reading a raw file may take, in seconds. A file that needs more counts as unreadable. A MIDI
    file takes 0.01 seconds. For a table it is the time per MiB of the largest file."""
    mib_per_file: int = Field(2048, ge=512)
    """Memory of the process that reads raw files, in MiB. A file that needs more counts as unreadable."""
    workers: int | None = Field(None, ge=1)
    """Number of shards that are built at the same time. Null builds one per CPU core."""
    address: str = "local"
    """Ray cluster that builds the shards. `local` starts Ray on this machine; `auto` or HOST:PORT joins a cluster whose
    machines share `source` and `out`."""

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.model_dump(include=set(Recipe.model_fields)))


def prepare(config: PrepareConfig) -> Manifest:
    """Prepare the data set at `config.out`, or continue a killed attempt. A complete one is only checked and repaired.

    Raises `DriftworkError` if there is nothing to read, too little is readable, or `out` cannot be written.
    """
    dataset, output = reader(config.dataset), _output(config)
    if isinstance(dataset, Table):
        return _prepare_table(config, dataset, output)
    source = config.source and folder(config.source).absolute()  # workers may have another working folder
    limits = Limits(config.seconds_per_file, config.mib_per_file)
    staging = output.staging.absolute() if isinstance(output, Output) else output.staging
    job = Job(config.recipe, dataset, source, staging, limits)
    items = dataset.find(config.source)
    left_out = LeftOut.of(config.source, items)
    finished = output.finished()
    if finished is None:
        print("".join(f"source={config.source}: {line}\n" for line in left_out.lines()), end="", flush=True)
        with output.opened():
            return _make(config, job, output, items, left_out)
    plans = make_plan(items, config.recipe, finished.joined)
    check_inputs(finished, inputs_of(plans, source), config.out)
    bad = output.damaged(finished)
    if bad:
        with output.opened():
            _repair(config, job, output, finished, [plan for plan in plans if plan.file in bad])
    else:
        _nothing_to_do(config, output)
    return finished


def _prepare_table(config: PrepareConfig, table: Table, output: _Output) -> Manifest:
    """Prepare a table: gather its series from all files, then build their shards like those of other data sets."""
    finished = output.finished()
    found = find(config.source)
    inputs = found.hashed()
    if finished is not None:
        check_inputs(finished, inputs, config.out)
    bad = output.damaged(finished) if finished is not None else set()
    if finished is not None and not bad:
        _nothing_to_do(config, output)
        return finished
    limits = Limits(config.seconds_per_file, config.mib_per_file)
    staging = output.staging.absolute() if isinstance(output, Output) else output.staging
    with output.opened(), scratch(staging if isinstance(staging, Path) else None, config.address) as place:
        mark = made_of(table.config, inputs, limits)
        gathered = kept(place, mark, inputs)
        if gathered is not None:
            print(f"{config.out}: continues with the series that an earlier attempt gathered", flush=True)
        else:
            gathered = _gathered(config, table, output, found, inputs, place, limits)
            keep(place, mark, gathered)
        job = Job(config.recipe, gathered.series, None, staging, limits, gathered.hash)
        items = gathered.series.find(None)
        if finished is None:
            return _make(config, job, output, items, LeftOut.of(None, []), gathered)
        plans = make_plan(items, config.recipe, finished.joined)
        _repair(config, job, output, finished, [plan for plan in plans if plan.file in bad])
    return finished


def _gathered(
    config: PrepareConfig, table: Table, output: _Output, found: Found, inputs: dict[str, str | None], place: Path,
    limits: Limits,
) -> Gathered:  # fmt: skip
    """Gather the series of a table in the folder `place`. Raises `DriftworkError` if too few files are readable."""
    unreadable = read_files(table.config, found, place, limits, config.workers)
    if len(unreadable) > config.max_unreadable * len(inputs) or len(unreadable) == len(inputs):
        output.discard(unreadable)
        raise DriftworkError(_too_many(config, output, unreadable, len(inputs), "files"))
    return gather(table.config, found, place, inputs, unreadable)


def _nothing_to_do(config: PrepareConfig, output: _Output) -> None:
    output.clean()
    print(f"{config.out}: already prepared from these files; nothing written")


def _output(config: PrepareConfig) -> _Output:
    if isinstance(config.out, str):
        return StoreOutput(config.out, config.recipe)
    return Output(config.out, config.recipe)


def _make(
    config: PrepareConfig, job: Job, output: _Output, items: list[Item], left_out: LeftOut,
    gathered: Gathered | None = None,
) -> Manifest:  # fmt: skip
    joins, plans, entries = _built(config, job, output, items)
    unreadable = [bad for entry in entries for bad in entry.unreadable]
    files = gathered.unreadable if gathered is not None else []
    problem = _too_little(config, output, plans, entries, unreadable)
    if problem:
        output.discard([*files, *unreadable])
        raise DriftworkError(problem)
    moments = Moments.empty(job.reader.spec().dim)
    for entry, plan in zip(entries, plans, strict=True):
        if plan.split == "train":
            moments = moments.merge(entry.moments)
    inputs = {file: digest for entry in entries for file, digest in entry.inputs.items()}
    manifest = Manifest(
        schema_version=SCHEMA,
        spec=job.reader.spec(),
        recipe=job.recipe.model_dump(mode="json"),
        stats=moments.stats(),
        items=sum(len(plan.items) for plan in plans) + len(files),
        unreadable=len(unreadable) + len(files),
        inputs=dict(sorted((gathered.inputs if gathered is not None else inputs).items())),
        joined=joins,
        shards=tuple(entry.shard for entry in entries if entry.shard is not None),
    )
    card = data_card(manifest, job.recipe, left_out)
    pages = {QUARANTINE: quarantine([*files, *unreadable]), CARD: card.encode(), MANIFEST: manifest.encode()}
    output.publish(manifest, pages)
    _warn_of_few_groups(config, plans, unreadable)
    return manifest


def _warn_of_few_groups(config: PrepareConfig, plans: list[ShardPlan], unreadable: list[Unreadable]) -> None:
    left_out = {bad.file for bad in unreadable}
    for split in SPLITS:
        items = (item for plan in plans if plan.split == split for item in plan.items)
        count = len({item.group for item in items if printable(item.name) not in left_out})
        if 0 < count < FEW_GROUPS:
            what = f"{config.out}: warning: the {split} split has {count} groups, under {FEW_GROUPS}"
            why = "standard errors do not cover differences between groups (docs/evaluation.md)"
            print(f"{what}: {why}; prepare more files, or a larger fraction", flush=True)


def _built(
    config: PrepareConfig, job: Job, output: _Output, items: list[Item]
) -> tuple[dict[str, str], list[ShardPlan], list[Entry]]:
    """Build the shards; return the joined groups, the resulting plan, and the entries of its shards.

    Equal items can be found only after reading. So shards are first built as if no two items were equal, and then the
    shards that change are built again. An attempt begins with the joined groups that a killed attempt found.
    """
    names = {item.name: item for item in items}
    joins = output.joins()
    with _workers(config) as build:
        while True:
            plans = make_plan(items, config.recipe, joins)
            entries = build(job, plans)
            pairs = [
                (names[item.name], content)
                for plan, entry in zip(plans, entries, strict=True)
                for item, content in zip(plan.items, entry.contents, strict=True)
                if content is not None
            ]
            found = joined(pairs, where=f"source={config.source}")
            if found == joins:
                return joins, plans, entries
            if found:
                print(f"{len(found)} groups have the same content as another group and are joined to it", flush=True)
            joins = found
            output.keep_joins(joins)


def _repair(config: PrepareConfig, job: Job, output: _Output, manifest: Manifest, damaged: list[ShardPlan]) -> None:
    """Build lost or damaged shards again. They must come out exactly as in the manifest."""
    with _workers(config) as build:
        entries = build(job, damaged)
    for entry, plan in zip(entries, damaged, strict=True):
        if entry.shard not in manifest.shards:
            output.discard([])
            raise DriftworkError(
                f"out={config.out}: {plan.file} is damaged, and this version of driftwork builds it differently; "
                "delete the folder and prepare the data set again"
            )
    output.publish(manifest, {})
    print(f"{config.out}: repaired {', '.join(plan.file for plan in damaged)}")


def _too_little(
    config: PrepareConfig, output: _Output, plans: list[ShardPlan], entries: list[Entry], unreadable: list[Unreadable]
) -> str:
    """Return the error message if too little is readable for a data set, or else an empty string."""
    total = sum(len(plan.items) for plan in plans)
    share, what = len(unreadable) / total, "series" if isinstance(config.dataset, TableConfig) else "files"
    if share > config.max_unreadable or len(unreadable) == total:
        return _too_many(config, output, unreadable, total, what)
    filled = {entry.shard.split for entry in entries if entry.shard is not None}
    shares = {"train": 1 - config.val - config.test, "val": config.val, "test": config.test}
    empty = [split for split in SPLITS if shares[split] and split not in filled]
    if empty:
        readable = total - len(unreadable)
        return (
            f"{readable} readable of {total} {what} leave the {empty[0]} split empty (val={config.val:g} "
            f"test={config.test:g}); add {what}, or set larger fractions, or val=0 or test=0"
        )
    return ""


def _too_many(config: PrepareConfig, output: _Output, unreadable: list[Unreadable], total: int, what: str) -> str:
    first = "; ".join(f"{bad.file}: {bad.reason}" for bad in unreadable[:3])
    limit = f"more than max_unreadable={config.max_unreadable:g}" if len(unreadable) < total else "all of them"
    if total == 1:
        return f"{first}; see {output.reasons}"
    return (
        f"{len(unreadable)} of {total} {what} are unreadable, {len(unreadable) / total:.1%}, {limit} ({first}); "
        f"see {output.reasons}"
    )


@contextmanager
def _workers(config: PrepareConfig) -> Iterator[Callable[[Job, list[ShardPlan]], list[Entry]]]:
    """Yield a function that builds the shards of a plan on Ray and returns their entries, in the plan's order."""
    with cluster.connected(config.address, config.workers) as nodes:
        yield partial(_run, config, config.workers or nodes.cpus)


def _run(config: PrepareConfig, at_once: int, job: Job, plans: list[ShardPlan]) -> list[Entry]:
    entries: dict[int, Entry] = {}
    with progress("shards", len(plans)) as advance:
        shared = cluster.share(job)
        waiting = deque(cluster.Task(index, (shared, plan)) for index, plan in enumerate(plans))
        # A worker that was killed is tried again.
        with closing(cluster.work(build_shard, waiting, at_once, retries=2)) as ended:
            for index, result in ended:
                try:
                    entries[index] = result()
                except cluster.TaskDiedError:
                    raise DriftworkError(
                        f"{plans[index].file}: its worker died three times, perhaps for lack of memory; set a "
                        "smaller files_per_shard, or fewer workers"
                    ) from None
                except OSError as error:
                    raise DriftworkError(
                        f"{config.out}: {plans[index].file} cannot be written: {error}; free space there"
                    ) from None
                else:
                    advance()
    return [entries[index] for index in range(len(plans))]
