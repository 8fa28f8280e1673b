"""The shared noise and the repetition penalty."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gumbel_r, kstest
from transformers import RepetitionPenaltyLogitsProcessor

from ram_demo.decoding import sampling
from tests.decoding import oracle


def noise(seed: int, position: int, ids: list[int], vocab_size: int = 50) -> np.ndarray:
    return sampling.SharedNoise(seed, position, vocab_size).gumbel(torch.tensor(ids)).numpy()


def test_noise_belongs_to_the_token_whatever_the_order_asked():
    forwards, backwards = noise(7, 3, [1, 5, 40]), noise(7, 3, [40, 5, 1])
    assert forwards.tolist() == backwards[::-1].tolist()
    assert noise(7, 3, [5]).tolist() == [forwards[1]]
    # A position needs none of those before it.
    assert noise(7, 900, [5]).tolist() == noise(7, 900, [5]).tolist()


def test_a_wider_vocabulary_leaves_the_noise_of_its_beginning():
    """Models of one family pad their vocabulary differently."""
    assert noise(7, 3, [0, 49], 50).tolist() == noise(7, 3, [0, 49], 64).tolist()


@pytest.mark.parametrize("other", [(8, 3), (7, 4), (3, 7)])
def test_another_seed_or_position_has_other_noise(other):
    assert not np.isclose(noise(7, 3, [0, 1, 2, 3]), noise(*other, [0, 1, 2, 3])).any()


def test_the_two_streams_are_unlike():
    shared, extra = (sampling.uniforms(7, 3, stream, 2000) for stream in (sampling.SHARED, sampling.DRAWS))
    assert not np.intersect1d(shared, extra).size
    assert abs(np.corrcoef(shared, extra)[0, 1]) < 0.1


def test_the_noise_is_standard_gumbel():
    everything = np.concatenate([noise(seed, 0, list(range(2000)), 2000) for seed in range(5)])
    assert kstest(everything, gumbel_r.cdf).pvalue > 1e-3
    assert everything.mean() == pytest.approx(np.euler_gamma, abs=0.05)
    assert everything.var() == pytest.approx(np.pi**2 / 6, abs=0.1)


def test_uniforms_are_uniform_over_seeds_and_positions():
    """Not only within one position: the first number of many seeds, and of many positions, too."""
    assert kstest(sampling.uniforms(11, 0, sampling.DRAWS, 5000), "uniform").pvalue > 1e-3
    assert kstest([sampling.uniforms(s, 0, sampling.DRAWS, 1)[0] for s in range(3000)], "uniform").pvalue > 1e-3
    assert kstest([sampling.uniforms(7, p, sampling.SHARED, 1)[0] for p in range(3000)], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("raw", [0, 2**64 - 1])
def test_uniforms_are_strictly_between_zero_and_one(raw, monkeypatch):
    """At either end the Gumbel noise would be infinite, and a draw would fall beside the nucleus."""

    class Extreme:
        def __init__(self, **_):
            pass

        def random_raw(self, n):
            return np.full(n, raw, dtype=np.uint64)

    monkeypatch.setattr(sampling.np.random, "Philox", Extreme)
    (value,) = sampling.uniforms(0, 0, sampling.DRAWS, 1)
    assert 0 < value < 1


def test_the_largest_seed_is_taken():
    assert np.isfinite(noise(2**63 - 1, 4095, [0, 1])).all()


def test_a_draw_is_an_exact_sample():
    pi = np.array([0.5, 0.3, 0.15, 0.05])
    log_pi, ids = torch.tensor(pi).float().log(), torch.arange(4)
    tokens = [sampling.draw(log_pi, sampling.SharedNoise(seed, 0, 4).gumbel(ids)) for seed in range(3000)]
    assert oracle.p_value(np.bincount(tokens, minlength=4), pi) > 1e-4


def test_what_is_impossible_is_never_drawn():
    log_pi = torch.tensor([-torch.inf, 0.0])
    assert {sampling.draw(log_pi, torch.from_numpy(noise(seed, 0, [0, 1]))) for seed in range(100)} == {1}


@settings(max_examples=50, deadline=None)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6),
    seen=st.lists(st.integers(0, 5), max_size=9),
    penalty=st.sampled_from([0.7, 1.0, 1.05, 1.3, 2.0]),
)
def test_the_penalty_is_transformers_own(logits, seen, penalty):
    scores = torch.tensor(logits)
    penalised = sampling.penalise(scores, torch.tensor(seen, dtype=torch.int64).unique(), penalty)
    expected = scores[None]
    if seen:
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), expected.clone())
    torch.testing.assert_close(penalised, expected[0])


def test_the_penalty_leaves_the_raw_logits_as_they_were():
    logits = torch.tensor([1.0, -1.0])
    sampling.penalise(logits, torch.tensor([0, 1]), 2.0)
    assert logits.tolist() == [1.0, -1.0]
