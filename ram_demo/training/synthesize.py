"""y-: one answer of the frozen proposal to each prompt, sampled once and kept by content hash (RAM paper, section 3).

The sampling is the paper's: temperature 0.5, top-p 0.95, top-k 10, repetition penalty 1.05.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ram_demo.errors import StorageError

SAMPLING = {"do_sample": True, "temperature": 0.5, "top_p": 0.95, "top_k": 10, "repetition_penalty": 1.05}
BATCH = 16


class Kept:
    """Answers under `cache`, by everything that decides them, as text. Raises StorageError: before the minutes of
    sampling, not after them."""

    def __init__(self, cache: Path, asked: str):
        self.file = cache / "synthesis" / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
        with self._writing():
            self.file.parent.mkdir(parents=True, exist_ok=True)

    @property
    def known(self) -> list[list[int]] | None:
        return json.loads(self.file.read_text()) if self.file.is_file() else None

    def keep(self, answers: list[list[int]]) -> None:
        """In one move: what is there is whole."""
        with self._writing():
            with tempfile.NamedTemporaryFile("w", dir=self.file.parent, delete=False) as aside:
                json.dump(answers, aside)
            os.replace(aside.name, self.file)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise StorageError(f"Answers cannot be written to {self.file.parent}: {why}.") from error


def synthesize(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    end_ids: frozenset[int],
    max_new_tokens: int,
    seed: int,
    revision: str,
    cache: Path,
    progress: Callable[[int, int], None],
) -> list[list[int]]:
    """One response (ids, ending included if it came) for each prompt. progress gets prompts done and prompts in all.

    Cached under `cache` by everything that decides the answers, the proposal's content included.
    """
    recipe = json.dumps([SAMPLING, [list(p) for p in prompts], sorted(end_ids), max_new_tokens, seed, revision, BATCH])
    kept = Kept(cache, recipe)
    if kept.known is not None:
        return kept.known
    torch.manual_seed(seed)
    responses = []
    pad = min(end_ids)
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        with torch.inference_mode():
            out = model.generate(
                ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(end_ids),
                pad_token_id=pad,
                **SAMPLING,
            )
        responses += [_until_end(row, end_ids) for row in out[:, width:].tolist()]
        progress(len(responses), len(prompts))
    kept.keep(responses)
    return responses


def _until_end(ids: list[int], end_ids: frozenset[int]) -> list[int]:
    """Up to and including the first end-of-text id."""
    stop = next((i for i, token in enumerate(ids) if token in end_ids), len(ids) - 1)
    return ids[: stop + 1]
