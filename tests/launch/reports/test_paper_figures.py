"""Tables and figures of a report, from rows without a tracker."""

import pytest

from launch.reports import paper_figures, published
from launch.reports import rows as report_rows
from launch.reports.rows import Group, Kind, Member
from launch.reports.tracked_runs import TrackedRun
from launch.scoring import comparison, tables
from launch.scoring.estimates import Estimate
from launch.scoring.side_by_side import Column
from launch.scoring.tables import Cell, Row, Table
from tests.launch.reports.scored import MANIFEST, rates_of


def test_figure_selects_suitable_runs(tmp_path):
    """Nine settings are too many lines. The best settings have no third rate, so the settings that have one are
    drawn."""

    def kind(hidden, rates, best):
        member = Member(
            TrackedRun(str(hidden), "run", 0, {"val/best_score": best}, {}),
            comparison.Evaluated(tmp_path, {"train.seed": 0}, rates_of(10, rates)), {},
        )  # fmt: skip
        return Kind("VSDN-VAE", {"model.hidden": hidden}, f"VSDN-VAE (hidden {hidden})", [member])

    kinds = [*(kind(hidden, ("25", "50"), 1.0) for hidden in range(9)), kind(9, ("10", "25", "50"), 2.0)]
    (figure,) = paper_figures.draw(Group("rolls", "lakh", MANIFEST, kinds), tmp_path, "")
    assert [shown.settings["model.hidden"] for shown in figure.kinds] == [9]


def test_report_joins_models_of_single_rates(tmp_path):
    def member(rate, seed):
        ratios = [int(rate) / 100]
        config = {"train.seed": seed, "model.name": "vsdn_vae", "observe.train.ratios": ratios}
        evaluated = comparison.Evaluated(
            tmp_path, {**config, "observe.evaluate.ratios": ratios}, rates_of(seed, (rate,))
        )
        return Member(TrackedRun(f"{rate}-{seed}", "run", 0, {"val/best_score": 1.0}, {}), evaluated, {})

    members = [member(rate, seed) for rate in ("25", "50") for seed in (0, 1)]
    left_out = []
    assert all(report_rows._fits(one, members, left_out) for one in members)
    assert left_out == []
    (kind,) = report_rows._kinds(members)
    assert len(kind.tables) == 2
    assert all(list(table["density"]) == ["25", "50"] for table in kind.tables)
    again = members[0]._replace(tracked=members[0].tracked._replace(run_id="again"))
    assert not report_rows._fits(again, [*members, again], left_out)


def test_latex_and_html_escape_what_they_print():
    table = Table(
        "a_b & <c>", ["", "50 %"], [Row(("x_1",), [Cell(Estimate(1.0, 0.1, 2, 2), "\n(2.0▲)", best=True)])], "#"
    )
    assert r"x\_1 & \textbf{1.00 $\pm$ 0.10 (2.0$\uparrow$)} \\" in tables.latex(table, "t")
    assert r"\caption{a\_b \& <c>. \#}" in tables.latex(table, "t")
    assert "a_b &amp; &lt;c&gt;" in tables.html(table)
    assert tables.as_csv(table) == 'model,50 %,"50 %, standard error"\nx_1,1.0,0.1\n'


def test_published_figures_are_in_their_columns():
    columns = [
        Column("density", "50", "rmse"),
        Column("interpolation", "25", "rmse"),
        Column("prediction", "10", "rmse"),
    ]
    (paper,) = published.of("timit")
    assert published.printed(paper.figures["VSDN-SDE"], columns) == ["-0.672", "0.1033", ""]
    horizons = [Column("forecast", name, "mse") for name in ("10", "297")]
    assert published.printed(published.of("mocap")[0].figures["ODE2VAE"], horizons) == ["", "10.06"]


@pytest.mark.parametrize(
    ("name", "variance", "gamma", "label"),
    [
        ("neural_ode", "none", 0.0, "Neural ODE"),
        ("ode2vae", "shared", 0.0, "ODE2VAE"),
        ("ode2vae", "shared", 1.0, "ODE2VAE-KL"),
        ("neural_ode", "shared", 1.0, "ODE2VAE-KL, first order"),
        ("ode2vae", "none", 0.0, "ODE2VAE, plain f"),
    ],
)
def test_ode2vae_variants_have_published_names(name, variance, gamma, label):
    assert published.label({"model.name": name, "model.variance": variance, "model.gamma": gamma}) == label
