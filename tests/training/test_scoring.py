"""Packed rows against each conversation by itself, through transformers' own loss; and the order of batches."""

import pytest
import torch

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
        found = Scorer(model, 0)(ROWS)
        for row, (better, bad) in zip(ROWS, found.tolist(), strict=True):
            assert better == pytest.approx(alone(model, row.prompt, row.response), abs=1e-4)
            assert bad == pytest.approx(alone(model, row.prompt, row.rejected), abs=1e-4)


def test_rows_without_a_second_answer_score_nothing_for_it():
    model = tiny.model().eval()
    with torch.inference_mode():
        found = Scorer(model, 0)([Encoded(row.prompt, row.response) for row in ROWS])
    assert found[:, 1].tolist() == [0, 0, 0]
    assert float(found[0, 0]) == pytest.approx(alone(model, ROWS[0].prompt, ROWS[0].response), abs=1e-4)


def test_every_row_comes_once_an_epoch_and_the_order_is_the_seeds():
    rows = [Encoded((1,), tuple(range(2, 3 + n % 7))) for n in range(50)]
    made = batches(rows, 4, 7, 0)
    assert sorted(i for batch in made for i in batch) == list(range(50))
    assert made == batches(rows, 4, 7, 0) != batches(rows, 4, 7, 1) != batches(rows, 4, 8, 1)
