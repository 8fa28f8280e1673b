"""What decoding asks of a model: rows that share one batched forward. Two rooms answer: `lean` and `reference`.

A row is one continuation seen through one adapter (or none). The rows of a `Rows` belong to one comparison and have
equal length, because its lanes advance in lockstep from one prompt; the `Rows` of several comparisons, each of a length
of its own, share a step. Knows nothing of lanes, sampling or files.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

Rows = Any
"""The caches of a comparison's rows; made by `prefill`, changed by `step`, never looked into from outside."""


class LanguageModel(Protocol):
    device: torch.device
    vocab_size: int  # width of the logits
    context: int  # the longest sequence, in tokens
    engine: str  # "lean" or "transformers", for people
    precision: str  # the weights' format, for people
    bytes_per_token: int  # what one token of one row takes in the caches

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load the LoRA adapter in `folder` beside the frozen weights. Raises UserError if it does not fit."""

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory."""

    def prefill(
        self, ids: Sequence[int], adapters: Sequence[str | None], room: int, is_branch: bool = False
    ) -> Generator[None, None, tuple[torch.Tensor, Rows]]:
        """Read the prompt once for each adapter, leaving room for `room` more tokens; pause after each piece of it.
        is_branch: it goes on from an answer, so what was kept of answers may stand for reading them.

        Returns the logits after the last token, float32 [len(adapters), vocab_size], and the rows.
        """

    def step(self, tokens: torch.Tensor, groups: Sequence[Rows]) -> torch.Tensor:
        """One token more for every row of every group. tokens: int64 [R], group after group.

        Returns logits, float32 [R, vocab_size]. Where it raises, no row has advanced, and it may be asked again.
        """

    def keep(self, rows: Rows, row: int, ids: Sequence[int], logits: torch.Tensor) -> None:
        """Keep one row as it stands, for branches from it. ids: all that it holds; logits [V]: its last."""

    def select(self, rows: Rows, index: Sequence[int]) -> Rows:
        """The rows named by `index`: dropped, kept or copied, each with its adapter. The old rows are used up."""


def finish(reading: Generator[None, None, tuple[torch.Tensor, Rows]]) -> tuple[torch.Tensor, Rows]:
    """A `prefill` run to its end, for callers that have nobody to let pass meanwhile."""
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value
