"""log Q(y|x) of whole batches, as one module that accelerate can wrap; and in which order batches come.

Knows a causal LM of transformers, plain or under PEFT. The vocabulary's projection, a fifth of a small model, is
computed for the answers' tokens alone, and y+ and y- share one reading of their prompt.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ram_demo.training import losses
from ram_demo.training.dataset import Encoded, pack

WINDOW = 8  # batches within which rows are put together by length


class Scorer(nn.Module):
    """The model with what it is asked for. pad: the id that fills up short rows."""

    def __init__(self, model: nn.Module, pad: int):
        super().__init__()
        self.model, self.pad = model, pad
        self._no_split_modules = self._plain._no_split_modules  # by these accelerate cuts what processes share (FSDP)

    @property
    def _plain(self) -> nn.Module:
        """The causal LM; under PEFT with the adapter in it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, rows: Sequence[Encoded]) -> Tensor:
        """log Q(y+ | prompt) and log Q(y- | prompt) of each row, summed over their tokens: float32 [B, 2]; the second
        is 0 where there is no y-."""
        plain = self._plain
        device = plain.device
        packed = pack(rows, self.pad)
        row, bad, token = packed.row.to(device), packed.bad.to(device), packed.token.to(device)
        hidden = plain.base_model(
            packed.ids.to(device),
            attention_mask=packed.sees.to(device),
            position_ids=packed.positions.to(device),
            use_cache=False,
        ).last_hidden_state
        logits = plain.get_output_embeddings()(hidden[row, packed.before.to(device)])
        picked = losses.log_probability(logits, token)
        return torch.zeros(2 * len(rows), device=device).index_add(0, 2 * row + bad, picked).view(-1, 2)


def batches(rows: Sequence[Encoded], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows' numbers in batches: shuffled, then put together by length within windows, then the batches shuffled.

    Fixed by (seed, epoch), so that a run that is resumed goes on in the same order.
    """
    chance = random.Random(f"{seed}, {epoch}")
    order = list(range(len(rows)))
    chance.shuffle(order)
    made = []
    for start in range(0, len(order), WINDOW * size):
        window = sorted(order[start : start + WINDOW * size], key=lambda i: rows[i].width)
        made += [window[i : i + size] for i in range(0, len(window), size)]
    chance.shuffle(made)
    return made
