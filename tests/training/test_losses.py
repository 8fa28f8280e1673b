"""The objectives against values worked by hand, torch.distributions and plain loops."""

import math

import pytest
import torch
from torch.distributions import Categorical

from ram_demo.training import losses
from ram_demo.training.losses import IGNORE


def test_a_uniform_model_gives_each_response_token_the_same_share():
    logits = torch.zeros(2, 5, 4)
    labels = torch.tensor([[IGNORE, IGNORE, 1, 3, 0], [IGNORE, 2, IGNORE, IGNORE, IGNORE]])
    # Summed, not averaged: three tokens cost three times what one does.
    assert losses.log_likelihood(logits, labels).tolist() == pytest.approx([-3 * math.log(4), -math.log(4)])


def test_two_tokens_worked_by_hand():
    # After the prompt the model says 3/4, then 1/8, to the tokens that come.
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(7), 0.0], [5.0, -5.0]]])
    labels = torch.tensor([[IGNORE, 1, 1]])
    assert losses.log_likelihood(logits, labels).item() == pytest.approx(math.log(3 / 4) + math.log(1 / 8), rel=1e-6)


def test_random_logits_against_a_loop_over_distributions():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 11, generator=generator) * 3
    labels = torch.randint(0, 11, (3, 7), generator=generator)
    labels[0, :3], labels[1, :5], labels[2, :1] = IGNORE, IGNORE, IGNORE
    labels[2, 5:] = IGNORE
    expected = [
        sum(Categorical(logits=logits[b, t - 1]).log_prob(labels[b, t]) for t in range(1, 7) if labels[b, t] != IGNORE)
        for b in range(3)
    ]
    torch.testing.assert_close(losses.log_likelihood(logits, labels), torch.stack(expected))


def test_only_what_predicts_the_response_has_a_gradient():
    logits = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    losses.log_likelihood(logits, torch.tensor([[IGNORE, IGNORE, 4, 1, IGNORE, IGNORE]])).sum().backward()
    touched = logits.grad.abs().sum(-1)[0] > 0
    assert touched.tolist() == [False, True, True, False, False, False]


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(1, 400, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
    labels = torch.arange(400)[None] % 64
    result = losses.log_likelihood(logits, labels)
    exact = torch.log_softmax(logits[0, :-1].double(), -1).gather(1, labels[0, 1:, None]).sum()
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(exact.item(), rel=1e-5)


def test_ram_sft_by_hand():
    chosen, rejected = torch.tensor([-2.0, -4.0]), torch.tensor([-10.0, -30.0])
    # ((2 - 1) + (4 - 3)) / 2
    assert losses.ram_sft(chosen, rejected, 0.1).item() == pytest.approx(1.0)
    # ((2 - 0.001) + (4 - 0.003)) / 2
    assert losses.ram_sft(chosen, rejected, 1e-4).item() == pytest.approx(2.998)


def test_sft_is_ram_sft_without_the_rejected():
    chosen, rejected = torch.tensor([-2.0, -4.5, -1.0]), torch.tensor([-10.0, -30.0, 0.0])
    assert losses.sft(chosen).item() == pytest.approx(2.5)
    assert losses.ram_sft(chosen, rejected, 0.0).item() == pytest.approx(2.5)


def test_ram_sft_raises_the_chosen_and_lowers_the_rejected():
    chosen, rejected = (torch.tensor([-3.0, -7.0], requires_grad=True) for _ in range(2))
    losses.ram_sft(chosen, rejected, 0.25).backward()
    assert chosen.grad.tolist() == [-0.5, -0.5]
    assert rejected.grad.tolist() == [0.125, 0.125]
