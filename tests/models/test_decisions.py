"""The decided set against the best of all sets, by enumeration of sets and truths."""

import itertools

import numpy as np
import pytest
import torch

from models.decisions import Neighbours, best_threshold, decided, joined


def every_set(n):
    """Return all subsets, [2^n, n] bool."""
    return torch.tensor(list(itertools.product((False, True), repeat=n)))


def expected_scores(p):
    """Return the expected score of every set, [2^n] for p [n]: the ratio of its expected counts over all 2^n truths.

    The empty set scores 1 in silence and 0 otherwise, so its expected score is the probability of silence."""
    sets = truths = every_set(len(p))
    likelihood = torch.where(truths, p, 1 - p).prod(1)
    hits = (sets[:, None] & truths).sum(2).double() @ likelihood
    either = (sets[:, None] | truths).sum(2).double() @ likelihood
    scores = hits / either.clamp_min(1e-300)
    scores[~sets.any(1)] = likelihood[~truths.any(1)]
    return scores


def random(n, kind, count=20):
    g = torch.Generator().manual_seed(n)
    p = torch.rand(count, n, generator=g, dtype=torch.float64)
    if kind == "ties":
        return (4 * p).round() / 4  # exact zeros and ones are included
    return {"even": p, "rare": p**6, "sure": p ** (1 / 6)}[kind]


def score_of(p, chosen):
    index = int((every_set(len(p)) == chosen).all(1).nonzero())
    return expected_scores(p)[index]


@pytest.mark.parametrize("kind", ["even", "rare", "sure", "ties"])
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_no_set_has_a_better_expected_score(n, kind):
    every = random(n, kind)
    chosen = decided(every[:, None], torch.ones(len(every), 1, dtype=torch.bool), "expected_score")[:, 0]
    for p, one in zip(every, chosen, strict=True):
        torch.testing.assert_close(score_of(p, one), expected_scores(p).max(), rtol=1e-12, atol=0)


def test_threshold_is_a_fixed_point():
    """The set above J / (1 + J) has the score J."""
    p = random(8, "even")
    threshold = best_threshold(p[:, None], torch.ones(len(p), 1, dtype=torch.bool))
    for row, t in zip(p, threshold, strict=True):
        J = t / (1 - t)
        torch.testing.assert_close(score_of(row, row > t), J, rtol=1e-12, atol=0)
        assert 0 < t <= 0.5


def test_unscored_frames_change_nothing():
    g = torch.Generator().manual_seed(0)
    p = torch.rand(3, 6, 4, generator=g)
    scored = torch.tensor([[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    found = decided(p, scored, "expected_score")
    assert torch.equal(found, decided(torch.where(scored[..., None], p, 1 - p), scored, "expected_score"))
    assert not found[~scored].any()
    for b in range(2):
        alone = p[b, scored[b]][None]
        expected = decided(alone, torch.ones(alone.shape[:2], dtype=torch.bool), "expected_score")
        assert torch.equal(found[b, scored[b]], expected[0])


@pytest.mark.parametrize("p", [0.0, 1e-9, 1e-4])
def test_likely_silence_is_predicted_as_silence(p):
    """The set of all 1000 entries would have the best ratio of counts, a score of p."""
    assert not decided(torch.full((1, 10, 100), p), torch.ones(1, 10, dtype=torch.bool), "expected_score").any()


def test_equal_probabilities_get_equal_decisions():
    scored = torch.ones(1, 10, dtype=torch.bool)
    assert decided(torch.full((1, 10, 100), 0.01), scored, "expected_score").all()
    assert decided(torch.ones(1, 10, 100), scored, "expected_score").all()


def test_rule_of_the_papers_is_one_half():
    p = torch.tensor([[[0.4, 0.5, 0.6]]])
    assert decided(p, torch.ones(1, 1, dtype=torch.bool), "0.5").tolist() == [[[False, False, True]]]


def test_known_neighbours_enclose_one_change_at_most():
    """At four times the rate, the number of notes that begin is that of the known frames. A frame that does not lie
    between two known frames, one apart, is unchanged.
    """
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.random((3, 9, 50)) < 0.5)
    known = torch.tensor([0.0, 1, 2, 3, 4, 6, 7, 8, 9], dtype=torch.float64)  # 5 is missing
    times = torch.arange(37, dtype=torch.float64) / 4
    notes = torch.from_numpy(rng.random((3, 37, 50)) < 0.5)
    at = torch.searchsorted(times, known)
    notes[:, at] = frames
    found = joined(notes, Neighbours.of(known, frames.float(), times, 1.0))
    apart = (times > 4) & (times < 6)
    assert torch.equal(found[:, apart], notes[:, apart])
    assert torch.equal(found[:, at], frames)
    for fine, coarse in ((found[:, times <= 4], frames[:, :5]), (found[:, times >= 6], frames[:, 5:])):
        begins = [(x[:, 1:] & ~x[:, :-1]).sum() for x in (fine, coarse)]
        changes = [(x[:, 1:] ^ x[:, :-1]).sum() for x in (fine, coarse)]
        assert begins[0] == begins[1]
        assert changes[0] == changes[1]
    falls = frames[0, 0] & ~frames[0, 1]
    first_0 = torch.stack([notes[0, q] for q in range(4)])[:, falls].long().cumprod(0)
    assert torch.equal(found[0, :4][:, falls].long(), first_0)
    rises = ~frames[0, 0] & frames[0, 1]
    last_0 = notes[0, 1:5][:, rises].long().flip(0).cumprod(0).flip(0)
    assert torch.equal(found[0, 1:5][:, rises].long(), last_0)
