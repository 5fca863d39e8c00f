"""Write the folder of a report.

index.html      the page; it needs no other file
tables.md       all tables; each is there as .csv and .tex too
*.pdf, *.png    the figures
runs/RUN_ID/    config.yaml of each run, and the outputs that the page shows
report.json     the runs of the report, and those left out
"""

import json
import re
import shutil
from datetime import datetime
from pathlib import Path

from launch.reports import page, paper_figures, paper_tables
from launch.reports.page import Evidence, Section
from launch.reports.paper_figures import Drawn
from launch.reports.paper_tables import Tabled
from launch.reports.rows import BEST, OUTPUTS, Group, Kind, Member
from launch.reports.tracked_runs import TrackedRun
from launch.runs.config import CONFIG_FILE
from launch.scoring import tables
from launch.scoring.tables import Cell, Row, Table
from launch.tracker import tags
from launch.tracker.provenance import COMMIT_TAG

MARKER = "report.json"
PAGE = "index.html"
RUNS = "runs"

_CAPTIONS = {
    "interpolation": "Interpolation of a held-out sequence (figure 3)",
    "latent": "Draws from the posterior: latent trajectories, and channels",
    "forecast-error": "Squared error of forecasts, frame by frame",
    "strips": "Forecasts of held-out sequences",
    "reliability": "Calibration: observed frequencies against predicted probabilities",
}


def write(
    folder: Path, experiment: str, split: str, command: str, groups: list[Group], showcases: list[TrackedRun],
    left_out: list[str],
) -> list[Table]:  # fmt: skip
    """Fill the folder, which contains the files fetched from the runs, and return the tables in the papers' form."""
    sections = {name: Section(name, []) for name in ("Tables", "Figures", "Outputs of the models", "Runs", "Left out")}
    pages, papers = [f"`{command}`\n"], []
    for group in groups:
        prefix = f"{group.manifest[:8]}-" if len(groups) > 1 else ""
        for made in paper_tables.of(group, split):
            found = _evidence(group, made.kinds, split)
            _write_table(folder / f"{prefix}{made.name}", made)
            pages += [tables.markdown(made.table), f"Data {found.data}, manifest `{found.manifest}`\n", "```",
                      *found.commands, "```\n"]  # fmt: skip
            sections["Tables"].parts.append(tables.html(made.table) + page.evidence(found))
            papers += [made.table] if made.name in ("table1", "table2") else []
        for drawn in paper_figures.draw(group, folder, prefix):
            sections["Figures"].parts.append(_figure(drawn, _evidence(group, drawn.kinds, split, more=True)))
    sections["Outputs of the models"].parts.extend(_made(folder, split, groups, showcases))
    sections["Runs"].parts.append(tables.html(_runs(groups)))
    if left_out:
        sections["Left out"].parts.append(page.listed(left_out))
    members = [member for group in groups for kind in group.kinds for member in kind.members]
    facts = [
        f"{len(members)} tracked run{'s' * (len(members) > 1)}, {split} split; {datetime.now():%d %B %Y, %H:%M}",
        command,
    ]
    (folder / PAGE).write_text(page.page(f"Report: {experiment}", facts, sections.values()), encoding="utf-8")
    (folder / "tables.md").write_text("\n".join(pages), encoding="utf-8")
    _tidy(folder / RUNS, groups, showcases)
    record = {"command": command, "runs": {m.tracked.run_id: m.tracked.name for m in members}, "left_out": left_out}
    (folder / MARKER).write_text(json.dumps(record, indent=1) + "\n")
    return papers


def _write_table(path: Path, made: Tabled) -> None:
    path.with_suffix(".csv").write_text(tables.as_csv(made.table), encoding="utf-8")
    path.with_suffix(".tex").write_text(tables.latex(made.table, path.name), encoding="utf-8")


def _figure(drawn: Drawn, found: Evidence) -> str:
    png = next(file for file in drawn.files if file.suffix == ".png")
    return page.heading(drawn.title) + page.picture(png, drawn.caption) + page.evidence(found)


def _evidence(group: Group, kinds: list[Kind], split: str, more: bool = False) -> Evidence:
    """Return the data and the commands of these kinds of runs. With `more`, they include evaluations at other rates
    than the runs' own.
    """
    commands = [line for kind in kinds for member in kind.members for line in _commands(member, split, more)]
    return Evidence(group.data, group.manifest, list(dict.fromkeys(commands)))


def _commands(member: Member, split: str, more: bool) -> list[str]:
    """Return the commands that trained and scored the run; for a sweep, one command did both."""
    known = member.tracked.tags
    own = f"driftwork train {RUNS}/{member.tracked.run_id}/{CONFIG_FILE} out=DIR"
    lines = [known.get(tags.COMMAND) or own]
    if not lines[0].startswith("driftwork sweep "):
        lines.append(f"driftwork evaluate {known.get(tags.RUN_FOLDER, 'DIR')} split={split}")
    for name in member.more if more else ():
        ratios = [float(percent) / 100 for percent in re.findall(r"-(\d+(?:\.\d+)?)", name)]
        lines.append(
            f"driftwork evaluate {known.get(tags.RUN_FOLDER, 'DIR')} split={split} "
            f"ratios=[{','.join(f'{ratio:g}' for ratio in ratios)}]"
        )
    return lines


def _made(folder: Path, split: str, groups: list[Group], showcases: list[TrackedRun]) -> list[str]:
    """Return pictures, sounds and files: of parent runs, which show models side by side, then of one run per model."""
    shown = [(parent.name, parent.run_id, _evidence_of_parent(parent, groups, split)) for parent in showcases]
    for group in groups:
        for kind in group.chosen:
            first = kind._replace(members=kind.members[:1])
            name = f"{kind.full_label}, seed {first.members[0].seed}"
            shown.append((name, first.members[0].tracked.run_id, _evidence(group, [first], split)))
    parts = []
    for name, run_id, found in shown:
        outputs = _outputs(folder / RUNS / run_id / OUTPUTS)
        if outputs:
            parts.append(page.heading(name) + outputs + page.evidence(found))
    return parts


def _evidence_of_parent(parent: TrackedRun, groups: list[Group], split: str) -> Evidence:
    """Return data and commands of the parent's children, and the parent's own command if it is known."""
    found = Evidence(parent.tags.get(tags.DATA, ""), "", [])
    for group in groups:
        for kind in group.kinds:
            children = [m for m in kind.members if m.tracked.tags.get("mlflow.parentRunId") == parent.run_id]
            if children:
                own = _evidence(group, [kind._replace(members=children)], split)
                found = own._replace(commands=found.commands + own.commands)
    return found._replace(commands=[parent.tags[tags.COMMAND]]) if tags.COMMAND in parent.tags else found


def _outputs(folder: Path) -> str:
    order = [*_CAPTIONS]
    files = sorted(folder.glob("*"), key=lambda f: (order.index(f.stem) if f.stem in order else len(order), f.name))
    pictures = [page.picture(f, _CAPTIONS.get(f.stem, f.stem)) for f in files if f.suffix == ".png"]
    others = [f for f in files if f.suffix in (page.MEDIA.keys() | page.LINKS.keys()) - {".png"}]
    return "".join(pictures) + page.media(others)


def _runs(groups: list[Group]) -> Table:
    rows = []
    for group in groups:
        for kind in group.kinds:
            for member in kind.members:
                run = member.tracked
                score = f"{run.metrics[BEST]:.4g}" if BEST in run.metrics else "–"
                began = f"{datetime.fromtimestamp(run.started / 1000):%Y-%m-%d %H:%M}"
                facts = (str(member.seed), score, group.data, run.tags.get(COMMIT_TAG, "–")[:12], began, run.run_id)
                rows.append(Row((kind.full_label,), [Cell(quoted=fact) for fact in facts]))
    headings = ["", "seed", "best validation", "data", "commit", "began", "MLflow run"]
    return Table(
        "Tracked runs", headings, rows, f"The config of each run is in {RUNS}/RUN/{CONFIG_FILE} of this report."
    )


def _tidy(folder: Path, groups: list[Group], showcases: list[TrackedRun]) -> None:
    """Delete fetched files except the configs of all used runs and the outputs that the page shows."""
    shown = {kind.members[0].tracked.run_id for group in groups for kind in group.chosen}
    counted = {m.tracked.run_id for group in groups for kind in group.kinds for m in kind.members}
    for path in folder.iterdir():
        if path.name in {parent.run_id for parent in showcases}:
            continue
        if path.name not in counted:
            shutil.rmtree(path)
        elif path.name not in shown:
            shutil.rmtree(path / OUTPUTS)
        for scores in path.glob(f"{OUTPUTS}/*-sequences.json"):
            scores.unlink()
