"""log Q(y|x) of whole batches, as one module that accelerate can wrap; and in which order batches come.

Knows a causal LM of transformers, plain or under PEFT. The vocabulary's projection, a fifth of a small model, is
computed for the answers' tokens alone, and y+ and y- of a batch share one forward.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ram_demo.training import losses
from ram_demo.training.dataset import Encoded, collate

WINDOW = 8  # batches within which rows are put together by length


class Scorer(nn.Module):
    """The model with what it is asked for. pad: the id that fills up short rows."""

    def __init__(self, model: nn.Module, pad: int):
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, rows: Sequence[Encoded]) -> Tensor:
        """log Q(response | prompt) of each row, summed over its tokens: float32 [B]."""
        plain = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        device = plain.device
        ids, mask, labels = (part.to(device) for part in collate(rows, self.pad))
        hidden = plain.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state
        # Position t is predicted from t - 1.
        where = labels[:, 1:] != losses.IGNORE
        logits = plain.get_output_embeddings()(hidden[:, :-1][where])
        picked = losses.log_probability(logits, labels[:, 1:][where])
        return torch.zeros(len(rows), device=device).index_add(0, where.nonzero()[:, 0], picked)


def worse(row: Encoded) -> Encoded:
    """The same prompt with the answer that is not wanted."""
    return Encoded(row.prompt, row.rejected)


def batches(rows: Sequence[Encoded], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows' numbers in batches: shuffled, then put together by length within windows, then the batches shuffled.

    Fixed by (seed, epoch), so that a run that is resumed goes on in the same order.
    """
    chance = random.Random(f"{seed}, {epoch}")
    order = list(range(len(rows)))
    chance.shuffle(order)
    made = []
    for start in range(0, len(order), WINDOW * size):
        window = sorted(order[start : start + WINDOW * size], key=lambda i: rows[i].length)
        made += [window[i : i + size] for i in range(0, len(window), size)]
    chance.shuffle(made)
    return made
