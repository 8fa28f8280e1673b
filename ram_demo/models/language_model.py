"""What decoding asks of a model: rows that share one batched forward. Two rooms answer: `lean` and `reference`.

A row is one continuation seen through one adapter (or none). The rows of a `Rows` have equal length, because lanes
advance in lockstep from one prompt. Knows nothing of lanes, sampling or files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

Rows = Any
"""The caches of a batch of rows; made by `prefill`, changed by `step`, never looked into from outside."""


class LanguageModel(Protocol):
    device: torch.device
    vocab_size: int  # width of the logits
    context: int  # the longest sequence, in tokens
    engine: str  # "lean" or "transformers", for people
    precision: str  # the weights' format, for people

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load the LoRA adapter in `folder` beside the frozen weights. Raises UserError if it does not fit."""

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory."""

    def prefill(self, ids: Sequence[int], adapters: Sequence[str | None], room: int) -> tuple[torch.Tensor, Rows]:
        """Run the prompt once for each distinct adapter, leaving room for `room` more tokens.

        Returns the logits after the last token, float32 [len(adapters), vocab_size], and the rows.
        """

    def step(self, tokens: torch.Tensor, rows: Rows) -> torch.Tensor:
        """One token more for every row. tokens: int64 [R]. Returns logits, float32 [R, vocab_size]."""

    def select(self, rows: Rows, index: Sequence[int]) -> Rows:
        """The rows named by `index`: dropped, kept or copied, each with its adapter. The old rows are used up."""
