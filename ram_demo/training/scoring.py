"""log Q(y|x) of whole batches, as one module that accelerate can wrap; and in which order batches come.

Knows a causal LM of transformers, plain or under PEFT. The vocabulary's projection, a fifth of a small model, is
computed for the answers' tokens alone, and y+ and y- share one reading of their prompt.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ram_demo.training import losses
from ram_demo.training.dataset import Encoded, Packed, pack

WINDOW = 8  # batches within which rows are put together by length


class Scorer(nn.Module):
    """The model with what it is asked for. pad: the id that fills up short rows; anchored: some rows are anchors, for
    which the model under PEFT is read without its adapter too."""

    def __init__(self, model: nn.Module, pad: int, anchored: bool = False):
        super().__init__()
        self.model, self.pad, self.anchored = model, pad, anchored
        self.still = {name for name, p in model.named_parameters() if not p.requires_grad}
        self._no_split_modules = self._plain._no_split_modules  # by these accelerate cuts what processes share (FSDP)

    @property
    def _plain(self) -> nn.Module:
        """The causal LM; under PEFT with the adapter in it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """log Q(y+ | prompt) and log Q(y- | prompt) of each row, summed over their tokens: float32 [B, 2]; the second
        is 0 where there is no y-. And KL(P_M || Q) of each anchor, its mean over y+: float32 [B], 0 for other rows."""
        packed = pack(rows, self.pad)
        row, bad = packed.row.to(self._plain.device), packed.bad.to(self._plain.device)
        # Of several processes none may read the proposal alone, so one without anchors reads a row for nothing.
        held = [i for i, each in enumerate(rows) if each.is_anchor] or [0]
        if self.anchored:
            with torch.no_grad(), self.model.disable_adapter():
                of_proposal = self._logits(pack([replace(rows[i], rejected=None) for i in held], self.pad))
            for name, p in self.model.named_parameters():
                if name in self.still:  # PEFT lets every part of an adapter learn that was off
                    p.requires_grad_(False)
        logits = self._logits(packed)
        picked = losses.log_probability(logits, packed.token.to(logits.device))
        sums = torch.zeros(2 * len(rows), device=logits.device).index_add(0, 2 * row + bad, picked).view(-1, 2)
        apart = torch.zeros(len(rows), device=logits.device)
        if self.anchored and rows[held[0]].is_anchor:
            here = torch.isin(row, torch.tensor(held, device=row.device)) & ~bad
            length = torch.tensor([len(each.response) for each in rows], device=row.device)
            apart = apart.index_add(0, row[here], losses.divergence(logits[here], of_proposal)) / length
        return sums, apart

    def _logits(self, packed: Packed) -> Tensor:
        """What stands before each token of the answers says of it: [N, V]."""
        plain = self._plain
        hidden = read(plain, packed)[packed.row.to(plain.device), packed.before.to(plain.device)]
        return plain.get_output_embeddings()(hidden)


def read(plain: nn.Module, packed: Packed) -> Tensor:
    """A causal LM's last hidden states of packed rows, without the vocabulary's projection: [B, T, D]."""
    return plain.base_model(
        packed.ids.to(plain.device),
        attention_mask=packed.sees.to(plain.device),
        position_ids=packed.positions.to(plain.device),
        use_cache=False,
    ).last_hidden_state


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
