import torch

from models.metrics import accuracy, rmse


def test_accuracy_never_counts_true_negatives():
    """Predicted silence in a silent sequence scores 1."""
    truth = torch.tensor([[[1, 0, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]]).float()
    predicted = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 0, 0, 0]]]).bool()
    scored = torch.ones(3, 1, dtype=torch.bool)
    torch.testing.assert_close(accuracy(predicted, truth, scored), torch.tensor([1 / 3, 1.0, 0.0]))
    torch.testing.assert_close(
        accuracy(predicted, truth, ~scored), torch.ones(3)
    )  # no scored frames; such sequences have no weight


def test_rmse_covers_scored_frames_and_channels():
    mean, truth = torch.zeros(1, 3, 2), torch.tensor([[[3.0, 4.0], [1.0, 1.0], [9.0, 9.0]]])
    scored = torch.tensor([[True, True, False]])
    torch.testing.assert_close(rmse(mean, truth, scored), torch.tensor([(27 / 4) ** 0.5]))
