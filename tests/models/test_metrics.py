import numpy as np
import torch

from models.metrics import Sums, accuracy, rmse


def test_a_mean_over_sequences_has_its_usual_standard_error_however_it_is_summed():
    x = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real = torch.arange(40) < 37
    parts = [Sums.of(x[i : i + 7], torch.ones(7)[: len(x[i : i + 7])], real[i : i + 7]) for i in range(0, 40, 7)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    value, stderr, n = total.estimate()
    kept = x[:37].numpy()
    assert n == 37
    np.testing.assert_allclose([value, stderr], [kept.mean(), kept.std(ddof=1) / 37**0.5], rtol=1e-10)


def test_a_ratio_is_a_ratio_of_sums_and_its_error_is_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    w = rng.integers(1, 20, (2000, 50)).astype(float)
    x = w * 3 + rng.normal(size=w.shape) * np.sqrt(w)
    ratios = x.sum(1) / w.sum(1)
    value, stderr, _ = Sums.of(torch.tensor(x[0]), torch.tensor(w[0]), torch.ones(50, dtype=torch.bool)).estimate()
    np.testing.assert_allclose(value, ratios[0], rtol=1e-12)
    errors = [
        Sums.of(torch.tensor(a), torch.tensor(b), torch.ones(50, dtype=torch.bool)).estimate().stderr
        for a, b in zip(x[:300], w[:300], strict=True)
    ]
    np.testing.assert_allclose(np.mean(errors), ratios.std(), rtol=0.05)
    assert stderr > 0


def test_accuracy_never_counts_true_negatives_and_silence_is_right():
    truth = torch.tensor([[[1, 0, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]]).float()
    probability = torch.tensor([[[0.9, 0.6, 0.5, 0.1]], [[0.1, 0.2, 0.3, 0.4]], [[0.9, 0.0, 0.0, 0.0]]])
    scored = torch.ones(3, 1, dtype=torch.bool)
    torch.testing.assert_close(accuracy(probability, truth, scored), torch.tensor([1 / 3, 1.0, 0.0]))
    torch.testing.assert_close(accuracy(probability, truth, ~scored), torch.ones(3))  # nothing scored; weighs nothing


def test_rmse_is_over_scored_frames_and_all_channels():
    mean, truth = torch.zeros(1, 3, 2), torch.tensor([[[3.0, 4.0], [1.0, 1.0], [9.0, 9.0]]])
    scored = torch.tensor([[True, True, False]])
    torch.testing.assert_close(rmse(mean, truth, scored), torch.tensor([(27 / 4) ** 0.5]))
