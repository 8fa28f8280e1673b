"""KL, gate, support and entropy, worked out by hand for two and three tokens."""

import math

import pytest
import torch
from scipy.special import rel_entr

from ram_demo.decoding import monitor

LOG2, LOG3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("p", "q", "nats"),
    [
        # 1/2 log 2 + 1/2 log (2/3)
        ([1 / 2, 1 / 2], [1 / 4, 3 / 4], LOG2 - LOG3 / 2),
        # The other way round: 1/4 log (1/2) + 3/4 log (3/2)
        ([1 / 4, 3 / 4], [1 / 2, 1 / 2], 0.75 * LOG3 - LOG2),
        # 1/2 log 2 + 1/4 log (1/2) + 1/4 log 1
        ([1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4], LOG2 / 4),
        ([0.9, 0.1], [0.9, 0.1], 0.0),
    ],
)
def test_kl_by_hand(p, q, nats):
    assert monitor.kl(torch.tensor(p).log(), torch.tensor(q).log()) == pytest.approx(nats, abs=1e-6)


def test_kl_over_a_large_vocabulary_is_scipys():
    generator = torch.Generator().manual_seed(1)
    p, q = (torch.log_softmax(3 * torch.randn(49152, generator=generator), -1) for _ in range(2))
    expected = rel_entr(p.double().exp().numpy(), q.double().exp().numpy()).sum()
    assert monitor.kl(p, q) == pytest.approx(expected, rel=1e-4)


def test_kl_is_never_negative():
    """Rounding alone would put a tiny negative number on some pages."""
    for seed in range(50):
        p = torch.log_softmax(torch.randn(1000, generator=torch.Generator().manual_seed(seed)), -1)
        assert monitor.kl(p, p + 1e-8) >= 0


def test_kl_of_no_number_is_not_nothing():
    with pytest.raises(FloatingPointError):
        monitor.kl(torch.tensor([0.5, 0.5]).log(), torch.full((2,), float("nan")))


@pytest.mark.parametrize(
    ("divergence", "tau", "gated"),
    [(0.11, 0.1, True), (0.1, 0.1, False), (9.0, None, False), (1e-9, 0.0, True), (0.0, 0.0, False)],
)
def test_the_gate_closes_above_its_threshold(divergence, tau, gated):
    assert monitor.is_gated(divergence, tau) is gated


def test_the_papers_threshold():
    assert monitor.PAPER_TAU == 0.1


def test_support_by_hand():
    assert monitor.support(torch.tensor([0.25, 0.125]).log()) == pytest.approx(0.375)


def test_entropy_by_hand():
    assert monitor.entropy(torch.tensor([0.5, 0.25, 0.25]).log()) == pytest.approx(1.5 * LOG2)
    assert monitor.entropy(torch.tensor([1.0, 0.0]).log()) == 0
