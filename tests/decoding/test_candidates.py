"""The nucleus and the draws from it, against naive ways to the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ram_demo.decoding.candidates import HEADS, draws, nucleus
from tests.decoding import oracle

# Steps of 1/16 with few ties: sums in float32 and in float64 then agree on which side of top_p they fall, or nearly.
LOGITS = st.lists(st.integers(-160, 160).map(lambda i: i / 16), min_size=1, max_size=40)


def propose(logits, top_p, top_k, temperature=1.0):
    return nucleus(torch.log_softmax(logits / temperature, -1), top_p, top_k)


@settings(max_examples=150, deadline=None)
@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 2.5]),
    top_p=st.floats(0.01, 1.0),
    top_k=st.sampled_from([0, 0, 1, 2, 7, 1000]),
)
def test_the_smallest_set_that_reaches_top_p(logits, temperature, top_p, top_k):
    ids, log_pt = propose(torch.tensor(logits), top_p, top_k, temperature)
    p = oracle.softmax(np.array(logits), temperature)
    kept = ids.tolist()
    assert len(set(kept)) == len(kept) >= 1
    assert not top_k or len(kept) <= top_k
    # The most probable ones, in order.
    np.testing.assert_allclose(p[kept], np.sort(p)[::-1][: len(kept)], rtol=1e-5)
    mass, rounding = p[kept].sum(), 1e-5
    if len(kept) < top_k or not top_k:
        assert mass >= top_p - rounding, "it does not reach top_p"
    if len(kept) > 1:
        assert mass - p[kept[-1]] < top_p + rounding, "it is not the smallest"
    np.testing.assert_allclose(log_pt.exp(), p[kept] / mass, rtol=1e-4)


@pytest.mark.parametrize(
    ("top_p", "members"), [(0.01, [2]), (0.5, [2]), (0.51, [2, 0]), (0.75, [2, 0]), (0.76, [2, 0, 1])]
)
def test_the_boundary_by_hand(top_p, members):
    """P = 1/4, 1/8, 1/2, 1/16, 1/16 in that order, all exact in binary."""
    ids, log_pt = propose(torch.tensor([0.25, 0.125, 0.5, 0.0625, 0.0625]).log(), top_p, 0)
    assert ids.tolist() == members
    assert float(log_pt.exp().sum()) == pytest.approx(1.0)


def test_top_k_cuts_after_top_p():
    logits = torch.tensor([0.25, 0.125, 0.5, 0.125]).log()
    assert propose(logits, 0.9, 2)[0].tolist() == [2, 0]
    assert propose(logits, 0.3, 2)[0].tolist() == [2]


HEAD = HEADS[0]


@pytest.mark.parametrize("top_k", [0, HEAD - 1, HEAD + 1, 1500])
@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.95])
def test_a_wide_nucleus_is_the_full_sort(top_p, top_k):
    # Far enough apart that rounding orders no two of them otherwise.
    logits = torch.linspace(-0.5, 0.5, 2000)[torch.randperm(2000, generator=torch.Generator().manual_seed(4))]
    ids, log_pt = propose(logits, top_p, top_k)
    expected = oracle.nucleus(logits.numpy(), 1.0, top_p, top_k)
    assert len(expected) > HEAD or top_k == HEAD - 1 or top_p == 0.2
    assert ids.tolist() == expected
    p = oracle.softmax(logits.numpy())[expected]
    np.testing.assert_allclose(log_pt.exp(), p / p.sum(), rtol=1e-4)


@pytest.mark.parametrize("size", [40, 2000])
def test_top_p_of_one_keeps_every_token(size):
    """However unlikely: an aligner may want a token of which the proposal thinks little."""
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 8
    assert len(propose(logits, 1.0, 0)[0]) == size


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_raise(bad):
    with pytest.raises(FloatingPointError):
        propose(torch.tensor([0.0, bad, 1.0]), 0.9, 0)


def test_tokens_that_are_ruled_out_are_never_members():
    ids, log_pt = propose(torch.tensor([0.0, -torch.inf, 1.0]), 0.999, 0)
    assert ids.tolist() == [2, 0]
    assert torch.isfinite(log_pt).all()


def test_draws_invert_the_cumulative_sum():
    log_pt = torch.tensor([0.5, 0.25, 0.25]).log()
    positions, counts = draws(log_pt, torch.tensor([0.0, 0.49, 0.76, 0.2, 0.999], dtype=torch.float64))
    assert positions.tolist() == [0, 2]
    assert counts.tolist() == [3, 2]


@settings(max_examples=50, deadline=None)
@given(logits=LOGITS, seed=st.integers(0, 1000), n=st.integers(1, 60))
def test_draws_are_as_many_as_asked_and_all_possible(logits, seed, n):
    log_pt = torch.log_softmax(torch.tensor(logits), -1)
    uniforms = torch.from_numpy(np.random.default_rng(seed).random(n))
    positions, counts = draws(log_pt, uniforms)
    assert int(counts.sum()) == n
    assert positions.tolist() == sorted(set(positions.tolist()))
    assert all(0 <= position < len(logits) for position in positions.tolist())
