"""What models say of given words, against whole forwards of transformers."""

import pytest
import torch

from ram_demo.evaluation.likelihood import Text, log_likelihoods, read_along
from tests import tiny_workbench

one_thread = tiny_workbench.one_thread
TEXTS = [
    Text((5, 6, 7), (8, 9)),
    Text((4,), (11, 3, 2, 8, 5)),
    Text((9, 9), ()),
    *[Text((n, 5), (n, 2)) for n in range(3, 12)],
]


def whole(model, text) -> torch.Tensor:
    """log-probabilities before each token of the answer, [n, V]."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*text.prompt, *text.answer]])).logits[0]
    return torch.log_softmax(logits, -1)[len(text.prompt) - 1 : -1]


def test_every_position_is_the_whole_forwards(bench, plain):
    loaded = bench.aligners.get("a")
    seats = [(bench.proposal.model, None), (loaded.model, loaded.adapter)]
    found = {(i, n): [] for i, text in enumerate(TEXTS) for n in range(len(text.answer))}
    place = [0] * len(TEXTS)
    for which, token, said in read_along(seats, TEXTS):
        assert token == TEXTS[which].answer[place[which]]
        found[which, place[which]] = said
        place[which] += 1
    assert place == [len(text.answer) for text in TEXTS], "every token once"
    for i, text in enumerate(TEXTS):
        for n in range(len(text.answer)):
            for model, said in zip(plain, found[i, n], strict=True):
                torch.testing.assert_close(said, whole(model, text)[n], atol=1e-4, rtol=0)


def test_log_likelihoods_are_sums_over_the_answer(bench, plain):
    expected = [
        sum(float(row[token]) for row, token in zip(whole(plain[0], t), t.answer, strict=True)) if t.answer else 0.0
        for t in TEXTS
    ]
    assert log_likelihoods((bench.proposal.model, None), TEXTS) == pytest.approx(expected, abs=1e-3)
