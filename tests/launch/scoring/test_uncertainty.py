"""Scores of distributions: small closed cases, a calibrated model, and an overconfident one."""

import json
import math

import numpy as np
import pytest
import torch

from launch.figures.reliability import reliability
from launch.scoring import calibration, uncertainty
from launch.scoring.estimates import Scores, estimate
from models.parts.likelihoods import Gaussian, Marginal
from models.predictive import Predictive

B, T, D = 40, 60, 2


def collected(found, groups=None):
    """Return the scores of a batch in the form of `scores.collect`."""
    some = next(iter(found.values()))
    N = len(next(iter(some.values())).x)
    keys = tuple(f"{i:03d}" for i in range(N))
    return {
        column: {
            name: Scores(keys, groups or keys, tuple(ratio.x.double().tolist()), tuple(ratio.w.double().tolist()))
            for name, ratio in metrics.items()
        }
        for column, metrics in found.items()
    }


def believed(spread=1.0, draws=20):
    """Return a random walk of each sequence with a model's predictive of it.

    The model's mixture has components N(m_s, 0.6^2) at m_s = 0.8 z_s: over z it is N(0, 1), like the truth. `spread` is
    the ratio of the model's deviations to the true ones.
    """
    g = torch.Generator().manual_seed(0)
    # Midpoints of equal parts of a normal distribution instead of draws, so that the mixture has no noise.
    z = torch.special.ndtri((torch.arange(draws, dtype=torch.float64) + 0.5) / draws)
    std = (1 - 0.64 * float(z.square().mean())) ** 0.5
    centre = 3 * torch.randn(B, T, D, generator=g, dtype=torch.float64)
    y = centre + torch.randn(B, T, D, generator=g, dtype=torch.float64)
    likelihood = Gaussian(Marginal(torch.zeros(D), 1.0)).double()
    raw = 4 * math.atanh((math.log(spread * std) + 2) / 4)  # as `Normal.of` reads it
    spreads = torch.full((B, T, D), raw, dtype=torch.float64)
    mean = [torch.cat([centre + spread * 0.8 * x, spreads], -1) for x in z]
    return Predictive(likelihood, mean.__getitem__, draws), y


ALL = {"100": torch.ones(B, T, dtype=torch.bool)}


def test_calibrated_model_has_nominal_coverage():
    """Coverage is within four of its own standard errors; the intervals of one sequence are independent enough."""
    predictive, y = believed()
    found = collected(uncertainty.of_values(predictive, y, ALL))["100"]
    for level in uncertainty.LEVELS:
        x = estimate(found[f"coverage_{level}_percent"])
        binomial = 100 * (level / 100 * (1 - level / 100) / (B * T * D)) ** 0.5
        assert x.stderr == pytest.approx(binomial, rel=0.5)
        assert abs(x.value - level) < 4 * x.stderr
    # The CRPS of the true distribution is E|Y - Y'| / 2, which is 1 / sqrt(pi) for N(0, 1).
    crps = estimate(found["crps"])
    assert abs(crps.value - 1 / math.sqrt(math.pi)) < 4 * crps.stderr


@pytest.mark.parametrize(("spread", "covered"), [(0.5, 26.4), (2.0, 82.3)])
def test_coverage_shows_over_and_underconfidence(spread, covered):
    """The expected coverage is P(|Y| < 0.6745 spread) for Y ~ N(0, 1)."""
    predictive, y = believed(spread)
    x = estimate(collected(uncertainty.of_values(predictive, y, ALL))["100"]["coverage_50_percent"])
    assert abs(x.value - covered) < 4 * x.stderr + 0.1
    honest = estimate(collected(uncertainty.of_values(*believed(), ALL))["100"]["crps"])
    assert estimate(collected(uncertainty.of_values(predictive, y, ALL))["100"]["crps"]).value > honest.value


def test_only_scored_frames_count():
    predictive, y = believed()
    g = torch.Generator().manual_seed(1)
    few, fewer = torch.rand(B, T, generator=g) < 0.5, torch.rand(B, T, generator=g) < 0.1
    few[3] = fewer[3] = False
    found = uncertainty.of_values(predictive, y, {"10": few, "2": fewer & few})
    crps = predictive.mixture().crps(y).mean(-1)
    assert set(found) == {"10", "2"}
    for column, scored in (("10", few), ("2", fewer & few)):
        x, w = found[column]["crps"]
        assert torch.equal(w, scored.sum(1))
        torch.testing.assert_close(x, torch.where(scored, crps, 0.0).sum(1), rtol=1e-12, atol=1e-12)
    assert found["10"]["crps"].x[3] == found["10"]["crps"].w[3] == 0
    probability = torch.rand(B, T, D, generator=g)
    truth = (probability > 0.4).float()
    changed = torch.where(few[..., None], probability, 1 - probability)
    same = [uncertainty.of_probabilities(p, truth, {"10": few})["10"] for p in (probability, changed)]
    for name in same[0]:
        assert torch.equal(same[0][name].x, same[1][name].x), name
        assert torch.equal(same[0][name].w, same[1][name].w), name


def test_unscored_data_have_no_curve(tmp_path):
    predictive, y = believed()
    nothing = {"100": torch.zeros(B, T, dtype=torch.bool)}
    for found in (uncertainty.of_values(predictive, y, nothing), uncertainty.of_probabilities(y, y, nothing)):
        scored = {"interpolation": collected(found)}
        metrics = calibration.metrics(scored)["interpolation"]["100"]
        assert all(math.isnan(estimate(scores).value) for scores in metrics.values())
        assert calibration.curves(scored) == {}
    assert reliability(tmp_path / "none", {}, intervals=True, title="") == []


def small():
    """Provide two sequences, with two and one scored frames of two channels each."""
    probability = torch.tensor([[[0.05, 0.2], [0.2, 0.9]], [[0.25, 0.3], [0.5, 0.5]]])
    truth = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]])
    scored = torch.tensor([[True, True], [True, False]])
    return probability, truth, {"25": scored}


def test_brier_and_calibration_error_by_hand():
    found = collected(uncertainty.of_probabilities(*small()))
    metrics = calibration.metrics({"prediction": found})["prediction"]["25"]
    brier = (0.05**2 + 0.8**2 + 0.2**2 + 0.1**2) / 2, (0.25**2 + 0.7**2) / 2
    np.testing.assert_allclose(metrics["brier"].x, brier, rtol=1e-6)
    assert metrics["brier"].w == (2.0, 1.0)
    # Bins of a tenth: 0.05 -> 0 ones; 0.2, 0.2, 0.25 -> 1 of 3; 0.3 -> 1 of 1; 0.9 -> 1 of 1.
    expected = 100 * (0.05 + abs(1 - 0.65) + 0.7 + 0.1) / 6
    ece = metrics["ece_percent"]
    assert estimate(ece).value == pytest.approx(expected, rel=1e-6)
    assert ece.w == (4.0, 2.0)
    np.testing.assert_allclose(ece.x, [100 * (0.05 + 0.6 + 0.1), 100 * (0.7 - 0.25)], rtol=1e-6)
    assert set(metrics) == {"brier", "ece_percent"}


def test_grey_scores_like_ones_and_zeros():
    probability = torch.tensor([[[0.3]]])
    at = {"1": torch.ones(1, 1, dtype=torch.bool)}
    grey = uncertainty.of_probabilities(probability, torch.tensor([[[0.25]]]), at)["1"]["brier"].x
    ones, zeros = (
        uncertainty.of_probabilities(probability, torch.tensor([[[y]]]), at)["1"]["brier"].x for y in (1.0, 0.0)
    )
    torch.testing.assert_close(grey, 0.25 * ones + 0.75 * zeros)


def test_true_probabilities_have_no_calibration_error():
    """The error is noise of about 1 / sqrt(n) for bins with n values, and 10 % for probabilities that are wrong by 10
    %."""
    g = torch.Generator().manual_seed(2)
    p = torch.rand(B, T, 50, generator=g)
    truth = (torch.rand(B, T, 50, generator=g) < p).float()
    found = [collected(uncertainty.of_probabilities(q, truth, ALL)) for q in (p, (p + 0.1).clamp_max(1))]
    true, shifted = (estimate(calibration.metrics({"t": x})["t"]["100"]["ece_percent"]) for x in found)
    noise = 100 * 0.5 / (B * T * 50 / uncertainty.BINS) ** 0.5
    assert true.value < 2 * noise
    assert abs(shifted.value - 9.5) < 4 * shifted.stderr  # 10, except above 0.9: there 5 on average


def test_ece_standard_error_matches_new_data():
    """The reference is the spread over 200 data sets of 40 groups, for a model whose probabilities are wrong by 10
    %."""
    g = torch.Generator().manual_seed(3)
    found = []
    for _ in range(200):
        shift = 0.1 * torch.rand(40, 1, 1, generator=g)  # shared within a group: clusters matter
        p = torch.rand(40, 5, 4, generator=g) * 0.5
        truth = (torch.rand(40, 5, 4, generator=g) < p + 0.1 + shift).float()
        batch = collected(uncertainty.of_probabilities(p, truth, {"1": torch.ones(40, 5, dtype=torch.bool)}))
        found.append(estimate(calibration.metrics({"t": batch})["t"]["1"]["ece_percent"]))
    spread = np.std([x.value for x in found])
    # The standard deviation of 200 draws is known to 1 / sqrt(400), 5 %, and the mean error is about as sure.
    assert np.mean([x.stderr for x in found]) == pytest.approx(spread, rel=0.2)


def test_point_prediction_counts_as_certain():
    probability, truth, columns = small()
    (brier,) = uncertainty.of_points((probability > 0.25).float(), truth, columns, bernoulli=True)["25"].values()
    torch.testing.assert_close(brier.x, torch.tensor([0.5, 0.0], dtype=torch.float64))
    (crps,) = uncertainty.of_points(probability, truth, columns, bernoulli=False)["25"].values()
    torch.testing.assert_close(crps.x, torch.tensor([1.15 / 2, 0.95 / 2], dtype=torch.float64))


def test_curves_cover_the_split_and_are_written(tmp_path):
    scored = {"prediction": collected(uncertainty.of_probabilities(*small()))}
    curves = calibration.curves(scored)
    points = curves["prediction"]["25"]
    np.testing.assert_allclose([p.nominal for p in points], [5, 65 / 3, 30, 90], rtol=1e-6)
    assert [round(p.found.value, 3) for p in points] == [0, 33.333, 100, 100]
    assert [p.share for p in points] == [1 / 6, 1 / 2, 1 / 6, 1 / 6]
    path = calibration.write(tmp_path, "test", curves)
    assert path.name == "evaluation-test-calibration.json"
    assert json.loads(path.read_text())["prediction"]["25"][1]["value"] == pytest.approx(100 / 3)
    intervals = calibration.curves({"forecast": collected(uncertainty.of_values(*believed(), ALL))})
    assert [p.nominal for p in intervals["forecast"]["100"]] == list(uncertainty.LEVELS)
    for name, drawn in (("a", curves), ("b", curves), ("c", intervals)):
        files = reliability(tmp_path / name, drawn, intervals=name == "c", title="a model")
        assert [file.suffix for file in files] == [".png", ".pdf"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() != (tmp_path / "c.png").read_bytes()
