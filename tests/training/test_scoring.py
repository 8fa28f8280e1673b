"""Packed rows against each conversation by itself, through transformers' own loss; and the order of batches."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributions import Categorical, kl_divergence

from ram_demo.training.dataset import Encoded
from ram_demo.training.scoring import Scorer, batches
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread
ROWS = [
    Encoded((5, 6, 9), (7, 11, 2), (8, 2)),
    Encoded((8,), (9, 4, 3, 2), (12, 5, 6, 7, 2)),
    Encoded((3, 4, 5, 6, 7), (2,), (9, 9, 2)),
]


def alone(model, prompt, answer) -> float:
    """-log-likelihood by the mean that transformers gives, times the tokens."""
    ids = torch.tensor([[*prompt, *answer]])
    labels = torch.tensor([[-100] * len(prompt) + list(answer)])
    return -float(model(ids, labels=labels).loss) * len(answer)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_packed_rows_are_each_conversation_by_itself(family):
    model = tiny.model(family).eval()
    with torch.inference_mode():
        found, apart = Scorer(model, 0)(ROWS)
        for row, (better, bad) in zip(ROWS, found.tolist(), strict=True):
            assert better == pytest.approx(alone(model, row.prompt, row.response), abs=1e-4)
            assert bad == pytest.approx(alone(model, row.prompt, row.rejected), abs=1e-4)
    assert apart.tolist() == [0, 0, 0], "none is an anchor"


def test_rows_without_a_second_answer_score_nothing_for_it():
    model = tiny.model().eval()
    with torch.inference_mode():
        found, _ = Scorer(model, 0)([Encoded(row.prompt, row.response) for row in ROWS])
    assert found[:, 1].tolist() == [0, 0, 0]
    assert float(found[0, 0]) == pytest.approx(alone(model, ROWS[0].prompt, ROWS[0].response), abs=1e-4)


def test_of_anchors_it_says_how_far_the_adapter_moves_the_model_along_their_answers():
    adapted = get_peft_model(tiny.model(), LoraConfig(r=2, target_modules=["q_proj", "up_proj"])).eval()
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    mixed = [replace(row, is_anchor=i != 1, rejected=row.rejected if i == 1 else None) for i, row in enumerate(ROWS)]
    still = next(p for name, p in adapted.named_parameters() if "lora_A" in name).requires_grad_(False)
    found, apart = Scorer(adapted, 0, anchored=True)(mixed)
    assert not still.requires_grad, "what stands still goes on standing still"
    torch.testing.assert_close(found, Scorer(adapted, 0)(mixed)[0])
    assert float(apart[1]) == 0
    for row, mean in [(mixed[0], apart[0]), (mixed[2], apart[2])]:
        ids = torch.tensor([[*row.prompt, *row.response]])
        places = slice(len(row.prompt) - 1, ids.shape[1] - 1)
        with torch.inference_mode():
            q = Categorical(logits=adapted(ids).logits[0, places])
            with adapted.disable_adapter():
                p = Categorical(logits=adapted(ids).logits[0, places])
        assert float(mean) > 0.01
        torch.testing.assert_close(mean.detach(), kl_divergence(p, q).mean(), rtol=1e-4, atol=1e-6)
    apart.sum().backward()
    assert all(p is still or p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_every_row_comes_once_an_epoch_and_the_order_is_the_seeds():
    rows = [Encoded((1,), tuple(range(2, 3 + n % 7))) for n in range(50)]
    made = batches(rows, 4, 7, 0)
    assert sorted(i for batch in made for i in batch) == list(range(50))
    assert made == batches(rows, 4, 7, 0) != batches(rows, 4, 7, 1) != batches(rows, 4, 8, 1)
