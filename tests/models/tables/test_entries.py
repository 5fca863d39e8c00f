"""Properties of every model of tables, whose channels are observed separately."""

import pytest
import torch

from driftwork.errors import DriftworkError
from models.base import LatentDynamics, Smoother, StateSpace
from models.baseline import GruOdeModel
from tests.models.gradients import assert_all_reached, assert_same_training
from tests.models.tables.making import CONFIGS, MARGINAL, SIZES, D, T, make_batch, small

DYNAMICS = [name for name in CONFIGS if not name.startswith("bi_gru_ode")]


def other_values(batch, where):
    """Return the batch with other values at these entries [B, T, D]; the binary channel stays binary."""
    changed = 3.0 - 2.0 * batch.values
    changed[..., 0] = 1.0 - batch.values[..., 0]
    return batch._replace(values=torch.where(where, changed, batch.values))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_gets_a_gradient(name):
    assert_all_reached(small(name), make_batch())


@pytest.mark.parametrize("name", CONFIGS)
def test_unobserved_entries_change_nothing(name):
    """A batch contains the values of held-out entries, but neither loss, gradient nor any prediction reads them."""
    model, batch = small(name), make_batch()
    changed = other_values(batch, ~batch.observed)
    assert_same_training(model, batch, changed)
    model.eval()
    with torch.no_grad():
        for answer in answers(model):
            assert torch.equal(answer(batch).mean, answer(changed).mean)


def answers(model):
    yield lambda batch: model.interpolate(batch, 2)
    if isinstance(model, LatentDynamics):
        yield lambda batch: model.predict(batch, 4)
    if isinstance(model, StateSpace):
        yield lambda batch: model.rollout(batch, 2)


@pytest.mark.parametrize("name", DYNAMICS)
def test_no_leak_to_the_last_bit(name):
    """Changing all values from the n-th time on, or those of one channel, leaves the prediction of all channels at the
    n-th time the same, for every n; a change before it does not."""
    model, batch = small(name).eval(), make_batch()
    at = torch.arange(T)[:, None]
    with torch.no_grad():
        predicted = model.predict(batch, 2).mean
        for n in range(T):
            for channel in (slice(None), n % D):
                later = torch.zeros(T, D, dtype=torch.bool)
                later[:, channel] = at[:, :1].expand(T, D)[:, channel] >= n
                changed = model.predict(other_values(batch, later), 2).mean
                assert torch.equal(changed[:, : n + 1], predicted[:, : n + 1])
        first = int(batch.observed[0].any(1).nonzero()[0])
        changed = model.predict(other_values(batch, at == first), 2).mean
        assert not torch.equal(changed[0, first + 1], predicted[0, first + 1])


@pytest.mark.parametrize("name", ["bi_gru_ode", "bi_gru_ode from neighbours"])
def test_smoother_reads_no_channel_of_the_same_time(name):
    """The pseudo-likelihood and the interpolation of all channels at a time read other times alone."""
    model, batch = small(name).eval(), make_batch()
    with torch.no_grad():
        before = model.interpolate(batch, 1).mean
        for n in range(T):
            changed = model.interpolate(other_values(batch, (torch.arange(T) == n)[:, None]), 1).mean
            assert torch.equal(changed[:, n], before[:, n])
        first = int(batch.observed[0].any(1).nonzero()[0])
        changed = model.interpolate(other_values(batch, (torch.arange(T) == first)[:, None]), 1).mean
        others = torch.arange(T) != first
        assert (changed[0, others] != before[0, others]).any(1).all()


@pytest.mark.parametrize("name", ["vsdn_vae", "vsdn_vae_res", "vsdn_sde", "vsdn_sde_res"])
def test_posterior_reads_other_entries_of_its_time(name):
    model, batch = small(name).eval(), make_batch()
    b, n, channel = batch.observed[:, 1:].nonzero()[0].tolist()  # at time 0 VSDN-SDE's latent is a constant
    n, here = n + 1, torch.zeros(T, D, dtype=torch.bool)
    here[n, channel] = True
    with torch.no_grad():
        before, after = (model.interpolate(x, 2).mean for x in (batch, other_values(batch, here)))
    assert (before[b, n] != after[b, n]).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_do_not_depend_on_the_batch(name):
    model, batch = small(name).eval(), make_batch()

    def scores(batch):
        if isinstance(model, Smoother):
            return list(model.pseudo_likelihood(batch))
        terms, weighted = model.density(batch, 3)
        return [*terms, weighted]

    with torch.no_grad():
        together, interpolated = scores(batch), model.interpolate(batch, 3).mean
        for b in range(3):
            n = int(batch.times[b].argmax()) + 1
            alone = batch.rows(slice(b, b + 1)).first(n)
            torch.testing.assert_close([x[0] for x in scores(alone)], [x[b] for x in together], rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(model.interpolate(alone, 3).mean[0], interpolated[b, :n], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["gru_ode", "ode_rnn"])
def test_likelihood_counts_observed_entries_alone(name):
    """One more observed entry at the last time adds the density of this entry under the model's prediction."""
    model, batch = small(name).eval(), make_batch(B=1)
    none = batch.observed & (torch.arange(T) < T - 1)[:, None]
    one = none.clone()
    one[0, -1, 2] = True
    with torch.no_grad():
        less, more = (model.density(batch.changed(observed=x), 1)[0].log_likelihood for x in (none, one))
        predicted = model.predict(batch.changed(observed=none), 1).log_prob(batch.values, one & ~none)
    torch.testing.assert_close(more - less, predicted[:, -1], rtol=1e-10, atol=1e-10)
    assert predicted[:, -1].abs() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_static_covariates_reach_every_prediction(name):
    """The covariates set the first state and reach the decoder: predictions differ before anything is observed."""
    model, batch = small(name).eval(), make_batch()
    other = batch._replace(static=batch.static + 1.0)
    with torch.no_grad():
        for answer in answers(model):
            assert (answer(batch).mean[:, 0] != answer(other).mean[:, 0]).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_predictions_cover_unobserved_times(name):
    """Every entry has a mean, a deviation and quantiles, at frames without any observation and in sequences without
    one too."""
    model, batch = small(name).eval(), make_batch()
    observed = batch.observed.clone()
    observed[1] = False
    with torch.no_grad():
        for answer in answers(model):
            found = answer(batch.changed(observed=observed))
            mixture = found.mixture()
            for x in (found.mean, found.deviation, mixture.quantile(0.05), mixture.quantile(0.95)):
                assert x.shape == batch.values.shape
                assert x.isfinite().all()
            assert (mixture.quantile(0.05) <= mixture.quantile(0.95)).all()


def test_model_of_whole_frames_is_refused(monkeypatch):
    monkeypatch.setattr(GruOdeModel, "reads_entries", False)
    with pytest.raises(DriftworkError, match=r"model.name=gru_ode: it reads whole frames, and these data are a table"):
        small("gru_ode")


@pytest.mark.parametrize("name", ["gru_ode", "gru_ode from neighbours", "vsdn_vae", "vsdn_sde"])
def test_permuted_channels_permute_the_prediction(name):
    """Weights are permuted in the same way. A binary channel would make two parts of the decoder's outputs, so all are
    real."""
    real = MARGINAL._replace(table=MARGINAL.table._replace(binary=(False,) * D))
    order = torch.tensor([2, 0, 3, 1])
    swapped = real._replace(mean=real.mean[order], scale=real.scale[order])
    model, other, batch = small(name, real).eval(), small(name, swapped).eval(), make_batch()
    other.load_state_dict({key: permuted(key, x, order) for key, x in model.state_dict().items()})
    mixed = batch._replace(**{x: getattr(batch, x)[..., order] for x in ("values", "present", "observed")})
    with torch.no_grad():
        torch.testing.assert_close(other.density(mixed, 2)[1], model.density(batch, 2)[1], rtol=1e-10, atol=1e-10)
        for one, two in zip(answers(model), answers(other), strict=True):
            torch.testing.assert_close(two(mixed).mean, one(batch).mean[..., order], rtol=1e-10, atol=1e-10)


def permuted(key, x, order):
    """Return weights for channels in another order: inputs and outputs that stand for channels come in blocks of D."""

    def blocks(x, first, count, axis):
        at = torch.arange(x.shape[axis])
        for k in range(count):
            begin = first + k * D
            at[begin : begin + D] = begin + order
        return x.index_select(axis, at)

    if key.endswith(("standardize.mean", "standardize.scale", "likelihood.mean", "likelihood.scale")):
        return x[order]
    if key.endswith(("project.0.mean", "project.0.scale")):
        return x[order]
    if key == "gru_ode.project.1.weight":
        return blocks(x, 0, 3, 2)
    if key == "features.0.weight" and x.shape[1] > SIZES["hidden"]:
        return blocks(x, SIZES["hidden"], 3, 1)
    if key == "decoder.linear.weight":
        return blocks(blocks(x, 0, 2, 0), x.shape[1] - 2 - 3 * D, 3, 1)
    if key == "decoder.linear.bias":
        return blocks(x, 0, 2, 0)
    if key == "posterior_net.0.weight":
        return blocks(x, x.shape[1] - 4 * D, 4, 1)
    if key == "drifts.read_all.weight":
        return blocks(x, x.shape[1] - 3 * D, 3, 1)
    return x
