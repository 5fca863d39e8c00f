"""A simulated accelerator, which counts the operations that a model would launch and reports where it would wait.

A Python backend of torch gives the device its name, and fake tensors have shapes but no data. An operation on tensors
of two devices raises an error; so does an operation that needs a number from the device, such as `item`, or a mask as
an index. All other operations are launched without waiting, and counted.

The backend cannot be unloaded, so tests use this module in a process of its own.
"""

import json
import os
import sys
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from launch.generation.generator import FrameGenerator, Generated
from models import base
from models.base import Forecaster, Objective, Smoother, StateSpace
from models.ode2vae import Ode2VaeConfig
from models.parts.likelihoods import Marginal
from models.parts.once import shared
from models.registry import build_model
from models.solvers.ode import SolverConfig
from tests.models import conftest

NAME = "card"

CASES = {
    **conftest.CONFIGS,
    "vsdn_sde, held out": conftest.CONFIGS["vsdn_sde"].model_copy(update={"held_out_fraction": 0.5}),
    "ode2vae": Ode2VaeConfig(name="ode2vae", gamma=0.1, noise="frame", variance="per_weight"),
    "ode2vae of images": Ode2VaeConfig(
        name="ode2vae", networks="conv", encoder_width=2, decoder_width=2, activation="relu", gamma=0.1,
        objective="published",
    ),
    "neural_ode": Ode2VaeConfig(name="neural_ode", variance="none", solver=SolverConfig(method="midpoint")),
}  # fmt: skip

# Operations that only describe memory, on which nothing is launched.
_VIEWS = {
    "view", "_unsafe_view", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze", "squeeze", "split",
    "split_with_sizes", "unbind", "detach", "alias", "as_strided", "unfold", "empty", "empty_strided", "empty_like",
    "new_empty", "new_empty_strided", "lift_fresh", "_reshape_alias", "chunk", "diagonal", "set_",
    "device",
}  # fmt: skip


class _Pretence(FakeTensorMode):
    def __deepcopy__(self, memo):  # copies of a tensor stay in the same mode
        return self


class Launches(TorchDispatchMode):
    """A counter of operations on the card, and of copies to and from it. Operations without the card run on the
    host."""

    def __init__(self):
        super().__init__()
        self.count, self.copies = Counter(), Counter()
        self.fake = _Pretence()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.__name__.split(".")[0], kwargs or {}
        inputs = list(_tensors((args, kwargs)))
        if any(isinstance(x, FakeTensor) for x in inputs) or NAME in str(kwargs.get("device")):
            args, kwargs = tree_map_only(torch.Tensor, self._pretended, (args, kwargs))
            with self.fake:
                out = function(*args, **kwargs)
        else:
            out = function(*args, **kwargs)
        devices = {x.device.type for x in (*inputs, *_tensors(out))}
        if devices == {NAME, "cpu"} and name in ("copy_", "_to_copy"):
            source = next(_tensors(args if name == "_to_copy" else args[1:]))
            self.copies[("from" if source.device.type == NAME else "to") + " the card"] += 1
        elif NAME in devices and name not in _VIEWS:
            self.count[name] += 1
        return out

    def _pretended(self, x):
        return x if isinstance(x, FakeTensor) else self.fake.from_tensor(x)


def _tensors(x):
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for y in x:
            yield from _tensors(y)
    elif isinstance(x, dict):
        yield from _tensors(list(x.values()))


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):  # torch.autocast calls it
        return [torch.bfloat16]


def register():
    """Register the simulated accelerator in this process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())


def moved(x):
    """Move tensors to the card, also those in named tuples and modules. Shapes stay the same."""
    if isinstance(x, torch.nn.Module):
        return _changed(x, moved)
    if isinstance(x, torch.Tensor):
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=NAME)
    if hasattr(x, "_fields"):
        return type(x)._make(moved(y) for y in x)
    return x


def _changed(module, change):
    """Change all parameters and buffers of a module in place; `torch.nn.Module` cannot where tensors are fake."""
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for name, value in own.items():
                if value is not None:
                    own[name] = torch.nn.Parameter(change(value)) if own is part._parameters else change(value)
    return module


def case(name):
    """Return a small model and a batch for it, on the host."""
    config = CASES[name]
    D = 64 if getattr(config, "networks", "dense") == "conv" else 5
    batch = conftest.make_batch(T=11, irregular=True)
    values = torch.randn(*batch.times.shape, D, generator=torch.Generator().manual_seed(0))
    return build_model(config, "gaussian", Marginal(torch.full((D,), 0.3), 0.45)), batch._replace(values=values)


class Faulty(torch.nn.Module):
    """A model with one of the faults that the card must report."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.weight = fault, torch.nn.Parameter(torch.ones(()))

    def planner(self):
        return None

    def forward(self, batch, kl_weight):
        loss = self.weight * batch.values.sum((1, 2))
        if self.fault == "waits":
            loss = loss * int(batch.observed.sum(1).max())
        elif self.fault == "copies":
            loss = loss * torch.ones(1).to(NAME)
        elif self.fault == "is on two devices":
            loss = loss * torch.ones(1)
        return Objective(loss, None)


def train(model, batch):
    """Take a training step: forward, backward, clipping and update."""
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    for group in optimizer.param_groups:  # counters are numbers of the host
        for p in group["params"]:
            optimizer.state[p] = {
                "step": torch.zeros(()), "exp_avg": torch.empty_like(p), "exp_avg_sq": torch.empty_like(p),
            }  # fmt: skip
    loss = (model(batch, 0.5).loss * batch.weight).sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
@shared()
def evaluate(model, batch):
    """Compute the predictions from which scores are computed."""
    if isinstance(model, Forecaster):
        model.density(batch, 2)
        model.forecast(batch, 3).predictive.log_prob(batch.values)
    elif isinstance(model, Smoother):
        model.pseudo_likelihood(batch)
        model.interpolate(batch, 2).mean  # noqa: B018
    else:
        model.density(batch, 2)
        model.predict(batch, 2).log_prob(batch.values)  # of a state-space model, by a filter
        model.interpolate(batch, 2).mean  # noqa: B018
        if isinstance(model, StateSpace):
            model.rollout(batch, 2).log_prob(batch.values)


class Drawing(FrameGenerator):
    """A generator whose sequences are batches, and which discards the frames that it generates."""

    def _batch(self, sequence, draws, name=""):
        return sequence.draws(torch.arange(draws))

    def _made(self, *_):
        return Generated(None, None, None, None, None, 0.0, None)


@torch.no_grad()
def generate(model, batch):
    """Generate frames in every way that the model supports, from batches on the host."""
    spec = SimpleNamespace(binary=False, interval=0.2, length=batch.times.shape[1])
    generator = Drawing(model, None, spec, rate=7.0, every=4, samples=2, particles=2, seed=0)
    one = batch.rows(slice(1)).first(5)
    one = one.changed(times=one.times / 4)  # few steps
    if not isinstance(model, Forecaster):
        list(generator.interpolations([one]))
    if not isinstance(model, Smoother):
        list(generator.continuations([one], 2, None))
        list(generator.priors(one, 2))


TASKS = {"train": train, "evaluate": evaluate, "generate": generate}
ATTEMPTS = [(name, task) for name in CASES for task in TASKS if task == "train" or name != "vsdn_sde, held out"]


def attempt(model, batch, task):
    """Run a task on the card. Returns the launches by operation, the copies, and the error with its place, if any."""
    launches, error = Launches(), None
    with launches:
        there = moved(model).train(task == "train")
        given = batch if task == "generate" else moved(batch.planned(there.planner()))
        launches.count.clear()
        try:
            TASKS[task](there, given)
        except Exception as problem:
            error = f"{_place(problem)}{type(problem).__name__}: {str(problem)[:200]}"
    return {"launches": launches.count, "copies": launches.copies, "error": error}


def _place(problem):
    """Return the innermost line of a model that an exception went through."""
    root = Path(__file__).parents[3]
    paths = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(problem.__traceback__)]
    ours = [(path.relative_to(root), line) for path, line in paths if path.is_relative_to(root / "models")]
    return "{}:{}: ".format(*ours[-1]) if ours else ""


def main():
    """Print a line of JSON for each case and task: their names, and the result of `attempt`."""
    register()
    torch.nn.Module.double = lambda module: _changed(module, torch.Tensor.double)
    base.BLOCK = 4  # fewer steps
    for name, task in ATTEMPTS:
        print(json.dumps({"case": name, "task": task, **attempt(*case(name), task)}), flush=True)
    for fault in ("waits", "copies", "is on two devices"):
        print(
            json.dumps({"case": fault, "task": "train", **attempt(Faulty(fault), conftest.make_batch(), "train")}),
            flush=True,
        )


def end():
    """End this process without torch's exit handlers, since a thread of the simulated device can make them abort."""
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
    end()
