"""What models say of words that are already there, position by position: the log-softmax of their raw logits.

For perplexities, preferences and calibration, which ask about given text. Goes through the very models that decode, in
the weights' format they have there. Knows rows of models; knows nothing of lanes, prompts' text or files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ram_demo.decoding.engine import Seat
from ram_demo.models.language_model import finish

TOGETHER = 8  # texts that are read in one forward


@dataclass(frozen=True)
class Text:
    """prompt and answer as ids; the answer is what is asked about."""

    prompt: Sequence[int]
    answer: Sequence[int]


@torch.inference_mode()
def read_along(seats: Sequence[Seat], texts: Sequence[Text]) -> Iterator[tuple[int, int, list[Tensor]]]:
    """For every token of every answer: (which text, the token, what each seat says before it).

    What a seat says is log-probabilities at temperature 1 over the vocabulary that all seats share, float32 [V]. The
    caller must have the models to itself (`Loop.between`).
    """
    vocab = min(model.vocab_size for model, _ in seats)
    models = list(dict.fromkeys(model for model, _ in seats))
    adapters = {model: [adapter for m, adapter in seats if m is model] for model in models}
    by_length = sorted(range(len(texts)), key=lambda i: -len(texts[i].answer))
    for at in range(0, len(texts), TOGETHER):
        group = by_length[at : at + TOGETHER]
        rows, logits = {}, {}
        for model in models:
            for i in group:
                first, rows[model, i] = finish(model.prefill(texts[i].prompt, adapters[model], len(texts[i].answer)))
                logits[model, i] = first
        for position in range(len(texts[group[0]].answer)):
            group = [i for i in group if len(texts[i].answer) > position]
            for i in group:
                said = [logits[model, i][adapters[model].index(adapter), :vocab] for model, adapter in seats]
                yield i, texts[i].answer[position], [torch.log_softmax(raw, -1) for raw in said]
            going_on = [i for i in group if len(texts[i].answer) > position + 1]
            for model in models if going_on else ():
                width = len(adapters[model])
                tokens = torch.tensor([texts[i].answer[position] for i in going_on]).repeat_interleave(width)
                out = model.step(tokens.to(model.device), [rows[model, i] for i in going_on])
                for i, each in zip(going_on, out.split(width), strict=True):
                    logits[model, i] = each.clone()


def log_likelihoods(seat: Seat, texts: Sequence[Text]) -> list[float]:
    """log P(answer | prompt) in nats, summed over its tokens, for each text."""
    found = [0.0] * len(texts)
    for which, token, (said,) in read_along([seat], texts):
        found[which] += float(said[token])
    return found
