"""`driftwork compare` on synthetic run folders: contents of the tables, and refusals."""

import math

import numpy as np
import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import compare
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.scoring import comparison, side_by_side
from launch.scoring.estimates import Estimate, Scores, difference, estimate, over_seeds
from launch.scoring.results import write_results
from launch.scoring.tables import figure
from tests.places import ROOT

KEYS = tuple(f"song{i // 2}-{i}" for i in range(24))
GROUPS = tuple(key.partition("-")[0] for key in KEYS)
NAMES = {"density": "nll_nats_per_frame", "prediction": "accuracy_percent", "interpolation": "accuracy_percent"}


def scored(level, seed):
    """Return scores of a model or a baseline, all near `level`."""
    x = level + np.random.default_rng(seed).normal(size=24)
    w = (np.arange(24) != 5).astype(float)
    return Scores(KEYS, GROUPS, tuple((x * w).tolist()), tuple(w.tolist()))


def ran(folder, level, *overrides, config="tiny_vsdn_vae.yaml", manifest="a" * 64, tables=None):
    """Write a run folder whose model has the score `level` everywhere."""
    options = [f"out={folder}", "data=rolls", *overrides]
    run_folder.create(load(RunConfig, ROOT / "tests/launch" / config, options))
    run_folder.remember(folder, manifest=manifest)
    rates = ("50", "25")  # the table sorts the rows
    rivals = {"prediction": {r: {NAMES["prediction"]: scored(20, int(r))} for r in rates}}
    default = {
        "model": {t: {r: {m: scored(level, i + int(r))} for r in rates} for i, (t, m) in enumerate(NAMES.items())},
        "persistence": {**rivals, "interpolation": {r: {NAMES["interpolation"]: scored(40, int(r))} for r in rates}},
        "nearest": {"interpolation": {r: {NAMES["interpolation"]: scored(45, int(r))} for r in rates}},
    }
    write_results(folder, "test", tables or default)
    return str(folder)


def lines(path):
    """Return the rows of cells by label, for each table of a Markdown file."""
    tables, rows = [], {}
    for line in path.read_text().splitlines():
        if line.startswith("| ---"):
            rows = {}
            tables.append(rows)
        elif line.startswith("| ") and not line.startswith("|  |"):
            label, *cells = line.strip("| ").split(" | ")
            rows[label] = cells
    return tables


def test_compare_prints_the_papers_table(tmp_path, capsys):
    runs = [ran(tmp_path / "a", 30.0, "model.name=vsdn_vae_res"), ran(tmp_path / "b", 28.0)]
    assert compare.main([*runs, f"out={tmp_path / 'table.md'}"]) == 0
    text = (tmp_path / "table.md").read_text()
    assert f"`driftwork compare {runs[0]} {runs[1]}" in text
    assert "|  | NLL 25 % | NLL 50 % | pred. 25 % | pred. 50 % | interp. 25 % | interp. 50 % |" in text
    assert "23 sequences in 12 groups" in text
    figures, differences = lines(tmp_path / "table.md")
    assert list(figures) == ["vsdn_vae_res", "vsdn_vae", "persistence", "nearest"]
    assert list(differences) == ["vsdn_vae", "persistence", "nearest"]
    one, other = estimate(scored(30.0, 25)), estimate(scored(28.0, 25))
    assert figures["vsdn_vae_res"][0] == figure(one).replace("±", " ± ")
    assert figures["vsdn_vae"][0] == f"**{figure(other).replace('±', ' ± ')}**"  # less is better
    assert figures["vsdn_vae_res"][2].startswith("**")  # more is better
    assert figures["persistence"][:2] == figures["nearest"][:2] == ["–", "–"]
    assert figures["nearest"][2:4] == ["–", "–"]
    assert [cell[:4] for cell in figures["nearest"][4:]] == ["**45", "**44"]
    paired = difference([scored(28.0, 25)], [scored(30.0, 25)])
    assert (paired.value, paired.stderr) == (pytest.approx(-2.0), pytest.approx(0, abs=1e-12))
    assert differences["vsdn_vae"][0].startswith("-2.00")
    assert "▲" in differences["nearest"][4]
    assert "▼" in differences["persistence"][2]
    shown = capsys.readouterr().out  # a terminal of 80 columns is too narrow for this one
    assert all(figure(x) in shown for x in (one, other))


def test_difference_shows_its_standard_errors(tmp_path):
    tables = [{"model": {"density": {"25": {NAMES["density"]: scored(9.0, s)}}}, "persistence": {}} for s in (1, 2)]
    runs = [ran(tmp_path / f"{i}", 0, f"model.latent={3 + i}", tables=t) for i, t in enumerate(tables)]
    compare.main([*runs, f"out={tmp_path / 'table.md'}"])
    paired = difference([scored(9.0, 2)], [scored(9.0, 1)])
    assert list(lines(tmp_path / "table.md")[0]) == ["vsdn_vae (latent 3)", "vsdn_vae (latent 4)", "persistence"]
    cell = lines(tmp_path / "table.md")[1]["vsdn_vae (latent 4)"][0]
    assert cell.endswith(f"({paired.value / paired.stderr:.1f})")
    assert abs(paired.value) < 2 * paired.stderr  # so that there is no mark


def test_equal_digits_are_equally_best():
    levels = {"a": 9.0001, "b": 9.0, "c": 9.5}
    rows = {name: [{"density": {"25": {NAMES["density"]: scored(x, 1)}}}] for name, x in levels.items()}
    assert [row.cells[0].best for row in side_by_side.figures("", rows).rows] == [True, True, False]


def test_models_of_single_rates_share_a_row(tmp_path):
    """As in the paper's tables, each model is trained anew at 25 and at 50 %, and scored at its own rate."""

    def one(rate, seed, name="vsdn_vae"):
        ratio, level = f"[{int(rate) / 100}]", 30.0 + seed
        tables = {
            "model": {t: {rate: {m: scored(level, i + int(rate))}} for i, (t, m) in enumerate(NAMES.items())},
            "persistence": {"prediction": {rate: {NAMES["prediction"]: scored(20, int(rate))}}},
        }
        patterns = ("observe.train.pattern=random", "observe.evaluate.pattern=regular")
        ratios = (f"observe.train.ratios={ratio}", f"observe.evaluate.ratios={ratio}")
        options = (*patterns, *ratios, f"train.seed={seed}")
        return ran(tmp_path / f"{name}-{rate}-{seed}", 0, f"model.name={name}", *options, tables=tables)

    runs = [one(rate, seed) for rate in ("25", "50") for seed in (0, 1)]
    compare.main([*runs, one("50", 0, "vsdn_vae_res"), f"out={tmp_path / 'table.md'}"])
    figures, _ = lines(tmp_path / "table.md")
    assert list(figures) == ["vsdn_vae (2 seeds)", "vsdn_vae_res", "persistence"]
    for column, rate in enumerate(("25", "50")):
        both = over_seeds([scored(30.0, int(rate)), scored(31.0, int(rate))])
        assert figures["vsdn_vae (2 seeds)"][column].strip("*") == figure(both).replace("±", " ± ")
    assert figures["vsdn_vae_res"][0] == "–"
    assert "–" not in figures["persistence"][2:4]
    with pytest.raises(DriftworkError, match="the same model, settings and seed"):
        compare.main([*runs, runs[0]])


def binary(level, decided):
    """Return scores of a model and of persistence as evaluation writes them, from before or after decisions existed."""

    def metrics(level, points=0):
        old = {"accuracy_percent": scored(level, 25)}
        new = {"accuracy_decided_percent": scored(level + points, 25), **old, "brier": scored(0.1, 3)}
        return new if decided else old

    model = metrics(level, 10) | ({"ece_percent": scored(0.2, 4)} if decided else {})
    return {
        "model": {"prediction": {"25": model}, "interpolation": {"25": model, "50": model}},
        "persistence": {"prediction": {"25": metrics(20)}, "interpolation": {"25": metrics(20), "50": metrics(20)}},
    }


def test_old_scores_set_one_decision_rule(tmp_path):
    """One run that was scored only at 0.5 sets the rule for all rows, and the caption states it."""
    new, newer = (
        ran(tmp_path / n, 0, f"model.latent={x}", tables=binary(30.0 + x, True)) for n, x in (("a", 3), ("b", 4))
    )
    old = ran(tmp_path / "old", 0, "model.latent=5", tables=binary(35.0, False))
    compare.main([new, newer, f"out={tmp_path / 'new.md'}"])
    compare.main([new, old, f"out={tmp_path / 'mixed.md'}"])
    text, mixed = ((tmp_path / f"{name}.md").read_text() for name in ("new", "mixed"))
    assert "accuracy in %, by the decision of the best expected score" in text
    assert "at the papers' threshold of 0.5" not in text
    assert "accuracy in %, at the papers' threshold of 0.5" in mixed
    assert "by the decision" not in mixed
    ours, theirs = lines(tmp_path / "new.md")[0], lines(tmp_path / "mixed.md")[0]
    assert ours["vsdn_vae (latent 3)"][0] == figure(estimate(scored(43.0, 25))).replace("±", " ± ")
    assert theirs["vsdn_vae (latent 3)"][0] == figure(estimate(scored(33.0, 25))).replace("±", " ± ")
    assert theirs["vsdn_vae (latent 5)"][0].startswith("**")


def test_further_scores_have_their_own_table(tmp_path):
    runs = [ran(tmp_path / f"{x}", 0, f"model.latent={x}", tables=binary(30.0 + x, True)) for x in (3, 4)]
    compare.main([*runs, f"out={tmp_path / 'table.md'}"])
    text = (tmp_path / "table.md").read_text()
    assert "rolls, test split: further scores" in text
    assert text.count("|  |  | pred. 25 % | interp. 25 % | interp. 50 % |") == 2
    at_half, brier = estimate(scored(33.0, 25)), estimate(scored(0.1, 3))
    assert f"| accuracy at 0.5, % | vsdn_vae (latent 3) | {figure(at_half).replace('±', ' ± ')} |" in text
    # equal scores are all bold
    assert f"| Brier score | vsdn_vae (latent 3) | **{figure(brier).replace('±', ' ± ')}** |" in text
    rows = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("|") and "calibration error" in line]
    assert rows == ["vsdn_vae (latent 3)", "vsdn_vae (latent 4)"]  # the second is the difference
    assert "persistence" in text.partition("Brier score")[2].partition("calibration error")[0]


def test_no_coverage_is_the_best():
    """Coverage is not a score: neither more nor less is better."""
    tables = {"prediction": {"25": {"rmse": scored(1.0, 1), "coverage_50_percent": scored(50.0, 1)}}}
    further = side_by_side.beside("", {"a": [tables], "b": [tables]})
    assert [(*row.labels, row.cells[0].best) for row in further.rows] == [
        ("in 50 % interval, %", "a", False), ("", "b", False),
    ]  # fmt: skip
    assert side_by_side.beside("", {"a": [{"density": {"25": {NAMES["density"]: scored(9.0, 1)}}}]}) is None


def test_seeds_share_a_row(tmp_path):
    runs = [ran(tmp_path / f"{s}", 30.0 + s, f"train.seed={s}", f"tracking.parent=p{s}") for s in range(3)]
    runs.append(ran(tmp_path / "gru", 28.0, "model.name=vsdn_vae_res"))
    compare.main([*runs, f"out={tmp_path / 'table.md'}"])
    figures, differences = lines(tmp_path / "table.md")
    assert list(figures)[:2] == ["vsdn_vae (3 seeds)", "vsdn_vae_res"]
    seeds = [scored(30.0 + s, 25) for s in range(3)]
    assert figures["vsdn_vae (3 seeds)"][0] == figure(over_seeds(seeds)).replace("±", " ± ")
    assert differences["vsdn_vae_res"][0].startswith(figure(difference([scored(28.0, 25)], seeds)).replace("±", " ± "))


def test_folds_are_pooled_before_seeds(tmp_path):
    """Six runs, of three folds and two seeds, score like two runs on all sequences."""
    cv, plain = [], []
    for seed in (0, 1):
        whole = {
            who: {"forecast": {"9": {"mse": scored(x, seed)}}} for who, x in (("model", 5.0), ("persistence", 9.0))
        }
        whole["persistence"]["forecast"]["9"]["mse"] = scored(9.0, 7)
        plain.append(ran(tmp_path / f"whole{seed}", 0, f"train.seed={seed}", tables=whole))
        for fold in (2, 0, 1):
            part = {
                who: {"forecast": {"9": {"mse": Scores(*(x[fold::3] for x in table["forecast"]["9"]["mse"]))}}}
                for who, table in whole.items()
            }
            options = (f"train.seed={seed}", f"folds={{count: 3, fold: {fold}}}")
            cv.append(ran(tmp_path / f"{seed}-{fold}", 0, *options, tables=part))
    compare.main([*cv, f"out={tmp_path / 'cv.md'}"])
    compare.main([*plain, f"out={tmp_path / 'plain.md'}"])
    assert lines(tmp_path / "cv.md") == lines(tmp_path / "plain.md")
    assert list(lines(tmp_path / "cv.md")[0]) == ["vsdn_vae (2 seeds)", "persistence"]
    with pytest.raises(DriftworkError, match=r"0-2: fold 1 of this cross-validation is missing \(1 of 3 are\)"):
        compare.main([run for run in cv if not run.endswith("0-1")])
    with pytest.raises(
        DriftworkError, match=r"the same model, settings, seed and fold as .*0-2; name only one of them$"
    ):
        compare.main([*cv, ran(tmp_path / "again", 0, "train.seed=0", "folds={count: 3, fold: 2}", tables=part)])


def test_differing_settings_have_short_names():
    one = {"model.latent": 8, "observe.train.ratios": (0.1,), "observe.evaluate.ratios": (0.1, 0.5), "train.beta": 1}
    other = one | {"model.latent": 32, "observe.train.ratios": (0.5,), "observe.evaluate.ratios": (0.5,)}
    assert comparison.differing(one, [one, other]) == ["latent 8", "train.ratios (0.1,)", "evaluate.ratios (0.1, 0.5)"]


def test_forecasts_have_a_column_a_horizon(tmp_path):
    def forecaster(level):
        horizons = {h: {"mse": scored(level, 0), "mse_of_mean_path": scored(1.0, 0)} for h in ("100", "3", "20")}
        density = {"100": {"nll_nats_per_dimension": scored(level, 0)}}
        return {"model": {"density": density, "forecast": horizons}, "persistence": {"forecast": horizons}}

    yaml = "tiny_ode2vae.yaml"
    runs = [ran(tmp_path / n, 0, f"model.name={n}", config=yaml, tables=forecaster(x))
            for n, x in (("ode2vae", 5.0), ("neural_ode", 7.0))]  # fmt: skip
    with pytest.raises(DriftworkError, match="neural_ode: forecast 3 was scored on other frames than in"):
        compare.main(runs)  # persistence scored otherwise: the horizons begin elsewhere
    write_results(tmp_path / "neural_ode", "test", {**forecaster(7.0), "persistence": forecaster(5.0)["persistence"]})
    compare.main([*runs, f"out={tmp_path / 'table.md'}"])
    assert "|  | NLL 100 % | MSE 3 | MSE 20 | MSE 100 |" in (tmp_path / "table.md").read_text()
    figures, _ = lines(tmp_path / "table.md")
    assert [cell.startswith("**") for cell in figures["ode2vae"]] == [True] * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "elsewhere"], "elsewhere: trained on other data than .*a .manifests bbbbbbbbbbbb and aaaaaaaaaaaa"),
        (["a", "unscored"], "unscored: not evaluated yet; run driftwork evaluate .*unscored split=test"),
        (["a", "again"], "again: the same model, settings and seed as .*a; name only one of them$"),
        (["a", "split=val"], "a: not evaluated yet; run driftwork evaluate .*a split=val"),
        (["a", "spilt=val"], "unknown key 'spilt'; did you mean 'split'"),
        (["a", "split=tset"], "split=tset: input should be"),
        (["a", "nowhere/run"], "nowhere/run: no run folder"),
        (["a", "shifted"], "shifted: interpolation 25 was scored on other frames than in .*a; evaluate both"),
    ],
)
def test_mistake_is_one_line(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    a, again = (ran(tmp_path / name, 30.0) for name in ("a", "again"))
    ran(tmp_path / "elsewhere", 30.0, "model.latent=9", manifest="b" * 64)
    ran(tmp_path / "unscored", 30.0, "model.latent=9")
    (tmp_path / "unscored/evaluation-test-sequences.json").unlink()
    persistence = {"interpolation": {"25": {NAMES["interpolation"]: scored(41, 25)}}}
    model = {"interpolation": {"25": {NAMES["interpolation"]: scored(50, 25)}}}
    ran(tmp_path / "shifted", 0, "model.latent=9", tables={"model": model, "persistence": persistence})
    with pytest.raises(DriftworkError, match=said) as caught:
        compare.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (9.1849, 0.2049, "9.18±0.20"),
        (11.2634, 0.949, "11.3±0.9"),
        (54.96, 3.59, "55.0±3.6"),
        (54.96, 3.61, "55±4"),
        (0.11663, 0.00123, "0.1166±0.0012"),
        (2249.0, 155.0, "2249±155"),
        (-0.6, 0.0, "-0.60±0.00"),
        (1.5, math.nan, "1.50"),
        (math.nan, math.nan, "–"),
    ],
)
def test_figure_digits_follow_its_error(value, stderr, text):
    assert figure(Estimate(value, stderr, 9, 9)) == text
