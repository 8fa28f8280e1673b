"""The objectives, against values worked out by hand and torch's own distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical

from ram_demo.training import losses
from tests import tiny

LN2 = math.log(2)


def test_log_probabilities_are_a_categoricals():
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)) * 3
    tokens = torch.tensor([0, 10, 3, 3, 7, 1, 5])
    torch.testing.assert_close(losses.log_probability(logits, tokens), Categorical(logits=logits).log_prob(tokens))


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = losses.log_probability(logits, torch.tensor([1, 2, 3, 4]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, Categorical(logits=logits.float()).log_prob(torch.tensor([1, 2, 3, 4])))


CHOSEN, REJECTED = torch.tensor([-3.0, -10.0]), torch.tensor([-5.0, -8.0])


def test_by_hand():
    assert losses.sft(CHOSEN).tolist() == [3.0, 10.0]
    assert losses.ram_sft(CHOSEN, REJECTED, 0.5).tolist() == [0.5, 6.0]
    assert losses.ram_sft(CHOSEN, REJECTED, 0.0).tolist() == losses.sft(CHOSEN).tolist()
    # -log(1 / (1 + e^-0.2)), -log(1 / (1 + e^0.2))
    assert losses.ram_dpo(CHOSEN, REJECTED, 0.1).tolist() == pytest.approx(
        [math.log1p(math.exp(-0.2)), math.log1p(math.exp(0.2))]
    )
    assert losses.accuracy(CHOSEN, REJECTED).tolist() == [1.0, 0.0]
    # At the start the margins are what they were: log 2 whatever they are.
    assert losses.dpo(CHOSEN, REJECTED, CHOSEN, REJECTED, 0.7).tolist() == pytest.approx([math.log(2)] * 2)
    before = torch.tensor([-4.0, -9.0]), torch.tensor([-5.0, -9.0])
    # (-3 + 4) - (-5 + 5) = 1; (-10 + 9) - (-8 + 9) = -2
    assert losses.dpo(CHOSEN, REJECTED, *before, 0.5).tolist() == pytest.approx(
        [math.log1p(math.exp(-0.5)), math.log1p(math.exp(1.0))]
    )


def test_divergence_is_of_the_proposal_from_the_aligner():
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    found = losses.divergence(torch.stack([q.log() + 3, p.log()]), torch.stack([p.log() - 1, p.log()]))
    torch.testing.assert_close(found, torch.tensor([0.5 * LN2 - 0.25 * LN2, 0.0]))
    torch.testing.assert_close(losses.anchor(found, 4.0), torch.tensor([LN2, 0.0]))


def test_ram_dpo_is_dpo_whose_reference_has_no_preference():
    indifferent = torch.full((2,), -6.0)
    torch.testing.assert_close(
        losses.ram_dpo(CHOSEN, REJECTED, 0.3), losses.dpo(CHOSEN, REJECTED, indifferent, indifferent, 0.3)
    )


def test_gradients_go_where_they_should():
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    losses.ram_dpo(chosen, rejected, 0.1).mean().backward()
    assert (chosen.grad < 0).all() and (rejected.grad > 0).all(), "up with what is wanted, down with what is not"
    chosen.grad = rejected.grad = None
    losses.ram_sft(chosen, rejected, 1e-4).mean().backward()
    assert chosen.grad.tolist() == [-0.5, -0.5] and rejected.grad.tolist() == pytest.approx([5e-5, 5e-5])


def test_dpo_is_trls(tmp_path):
    """TRL's own trainer on a policy and a reference that differ, and ours on the very log-likelihoods it sees."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": "the tin", "chosen": " is an inn", "rejected": " a hat"},
        {"prompt": "a hen", "chosen": " no", "rejected": " that is it, then"},
    ]
    policy, reference = tiny.model(seed=1), tiny.model(seed=2)
    config = DPOConfig(
        str(tmp_path), beta=0.3, per_device_train_batch_size=2, report_to="none", use_cpu=True, bf16=False,
        disable_dropout=True, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        policy, reference, config, train_dataset=Dataset.from_list(rows), processing_class=tiny.byte_level()
    )
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, dict(batch)))

    def sums(model) -> torch.Tensor:
        """log-likelihood of each completion of the batch, the chosen ones first."""
        ids, answer = batch["input_ids"], batch["completion_mask"][:, 1:].float()
        with torch.no_grad():
            logits = model(ids, attention_mask=batch["attention_mask"]).logits[:, :-1]
        flat = losses.log_probability(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        return (flat.view(answer.shape) * answer).sum(-1)

    (chosen, rejected), (chosen_before, rejected_before) = (sums(m).chunk(2) for m in (policy, reference))
    ours = losses.dpo(chosen, rejected, chosen_before, rejected_before, 0.3).mean()
    assert abs(theirs - 0.6931) > 0.05, "a policy that differs from its reference"
    assert float(ours) == pytest.approx(theirs, abs=1e-4)
