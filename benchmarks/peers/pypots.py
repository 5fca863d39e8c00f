"""Train SAITS or BRITS of PyPOTS on the sequences of a run's config, and write the imputed values.

    python -m benchmarks.peers.pypots saits|brits CONFIG DATA SEED OUT.npz

`benchmarks.imputation` calls it; it needs the extra `pypots`. Both models read each training sequence once at every
rate of `observe.train`, for as many steps as the config's own model. SAITS is trained on the task that is scored: to
impute the frames that are not observed, with their values as targets. Its own `fit` masks single entries instead, so
that it would never be trained on a whole missing frame. BRITS learns from observed frames alone, by `fit`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from pypots.imputation import BRITS, SAITS
from pypots.imputation.saits.data import DatasetForSAITS
from pypots.optim import Adam
from torch.utils.data import DataLoader

from benchmarks.imputation import Array, Task, tasks
from driftwork.config_base import load
from launch.runs.config import RunConfig


def hidden(split: dict[str, Task]) -> tuple[Array, Array]:
    """Return the sequences of a split at every rate, with NaN for frames that are not observed, and the complete
    values."""
    given = [np.where(task.observed[..., None], task.values, np.nan) for task in split.values()]
    return np.concatenate(given), np.concatenate([task.values for task in split.values()])


def main(name: str, path: Path, data: Path, seed: int, out: Path) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # PyPOTS draws from it
    config = load(RunConfig, path, [f"data={data}"])
    config = config.model_copy(update={"observe": config.observe.model_copy(update={"evaluate": config.observe.train})})
    train, val = hidden(tasks(config, "train")), hidden(tasks(config, "val"))
    T, D = train[0].shape[1:]
    epochs = max(1, config.train.max_epochs // len(config.observe.train.ratios))
    common = {"batch_size": config.train.batch_size, "epochs": epochs, "optimizer": Adam(lr=1e-3), "device": "cpu"}
    if name == "saits":
        model = SAITS(T, D, n_layers=2, d_model=64, n_heads=4, d_k=16, d_v=16, d_ffn=128, dropout=0.0, **common)
        sets = [DatasetForSAITS({"X": x, "X_ori": y}, return_X_ori=True, return_y=False) for x, y in (train, val)]
        loaders = [DataLoader(each, config.train.batch_size, shuffle=each is sets[0]) for each in sets]
        model._train_model(*loaders)
        model.model.load_state_dict(model.best_model_dict)
    else:
        model = BRITS(T, D, rnn_hidden_size=64, **common)
        model.fit({"X": train[0]}, {"X": val[0], "X_ori": val[1]})
    scored = tasks(load(RunConfig, path, [f"data={data}"]), "test")
    np.savez(out, **{rate: model.impute({"X": hidden({rate: task})[0]}) for rate, task in scored.items()})


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:4]), int(sys.argv[4]), Path(sys.argv[5]))
