"""Weights, sharpening and composition by hand-worked values."""

import math

import pytest
import torch

from ram_demo.decoding.weights import MODES, compose, log_weights, sharpen

PT = torch.tensor([0.5, 0.3, 0.2])
Q = torch.tensor([0.1, 0.2, 0.05])
R = torch.tensor([0.4, 0.1, 0.2])
Q0 = torch.tensor([0.2, 0.1, 0.1])
COUNTS = torch.tensor([3, 1, 2])

BY_HAND = {
    # Pt * Q^2 * R
    "product": [0.5 * 0.01 * 0.4, 0.3 * 0.04 * 0.1, 0.2 * 0.0025 * 0.2],
    # count * Q^2 * R
    "sis": [3 * 0.01 * 0.4, 1 * 0.04 * 0.1, 2 * 0.0025 * 0.2],
    # Q^2 * R
    "par": [0.01 * 0.4, 0.04 * 0.1, 0.0025 * 0.2],
    # Pt * (Q / Q0)^2 * (R / Q0)
    "ratio": [0.5 * 0.25 * 2, 0.3 * 4 * 1, 0.2 * 0.25 * 2],
}


@pytest.mark.parametrize("mode", MODES)
def test_weights_by_hand(mode):
    q0 = [Q0.log(), Q0.log()] if mode == "ratio" else []
    weights = log_weights(mode, PT.log(), [Q.log(), R.log()], [2.0, 1.0], q0, COUNTS).exp()
    expected = torch.tensor(BY_HAND[mode])
    torch.testing.assert_close(weights / weights.sum(), expected / expected.sum())


def test_every_mode_is_worked_out_by_hand():
    assert set(MODES) == set(BY_HAND)


def test_an_unknown_mode_fails():
    with pytest.raises(ValueError, match="average"):
        log_weights("average", PT.log(), [Q.log()], [1.0], [], COUNTS)


def test_sharpening_by_hand():
    """1/2, 1/3, 1/6 squared and normalised: 9, 4 and 1 of 14."""
    pi = torch.tensor([1 / 2, 1 / 3, 1 / 6]).log()
    torch.testing.assert_close(sharpen(pi, 0.5).exp(), torch.tensor([9 / 14, 4 / 14, 1 / 14]))
    torch.testing.assert_close(sharpen(pi + 5, 1.0).exp(), torch.tensor([1 / 2, 1 / 3, 1 / 6]))


@pytest.mark.parametrize("temperature", [0, 1e-6, 1e-40, 5e-324])
def test_ever_sharper_ends_at_the_mode(temperature):
    assert sharpen(torch.tensor([0.2, 0.5, 0.3]).log(), temperature).exp().tolist() == [0.0, 1.0, 0.0]


def test_impossible_stays_impossible():
    assert sharpen(torch.tensor([0.0, -math.inf, 1.0]), 2.0)[1] == -math.inf


def test_composition_is_the_normalised_product():
    a, b = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.2, 0.2, 0.6])
    torch.testing.assert_close(compose([a.log(), b.log()]).exp(), torch.tensor([0.1, 0.05, 0.15]) / 0.3)
    torch.testing.assert_close(compose([a.log()]).exp(), a)
