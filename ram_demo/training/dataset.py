"""Examples as tokens: prompts in the chat template, answers that end, and padded batches with the prompt masked.

Knows a tokenizer and the chat template; knows nothing of files (`rows.py`) or models.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ram_demo.errors import UserError
from ram_demo.models.proposal import encode_conversation
from ram_demo.training.losses import IGNORE
from ram_demo.training.rows import Example


@dataclass(frozen=True)
class Encoded:
    """One conversation as ids. A response ends with the end-of-text id, so that ending is learnt too. prompt + response
    is what is learnt (y+), prompt + rejected what is not (y-), where there is one."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    rejected: tuple[int, ...] | None = None
    example: Example | None = field(default=None, compare=False, repr=False)  # what it was made from

    @property
    def length(self) -> int:
        return len(self.prompt) + max(len(self.response), len(self.rejected or ()))


def content_hash(examples: Sequence[Example]) -> str:
    """12 hex digits over the examples in their order. A question by itself counts the same in whatever form it came."""
    content = []
    for example in examples:
        is_question = len(example.prompt) == 1 and example.prompt[0][0] == "user"
        prompt = example.prompt[0][1] if is_question else example.prompt
        answers = [example.completion] if example.rejected is None else [example.completion, example.rejected]
        content.append([prompt, *answers])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def encode(tokenizer, examples: Sequence[Example], max_tokens: int, leave_out: bool = False) -> list[Encoded]:
    """Raises UserError for an example longer than max_tokens, unless such are left out, or that the chat template
    refuses, naming its line."""
    encoded = []
    for example in examples:
        row = _encode(tokenizer, example)
        if row.length <= max_tokens:
            encoded.append(row)
        elif not leave_out:
            raise UserError(f"Line {example.line} has {row.length} tokens; the recipe allows {max_tokens}.")
    return encoded


def _encode(tokenizer, example: Example) -> Encoded:
    try:
        prompt = encode_conversation(tokenizer, example.prompt)
    except UserError as error:
        raise UserError(f"Line {example.line}: {error}") from error
    rejected = None if example.rejected is None else answer_ids(tokenizer, example.rejected)
    return Encoded(tuple(prompt), answer_ids(tokenizer, example.completion), rejected, example)


def answer_ids(tokenizer, text: str) -> tuple[int, ...]:
    """An answer as ids, the end-of-text id last; control tokens in it are read as text."""
    plain = text.encode("utf-8", "replace").decode("utf-8").strip()  # no lone surrogates
    ids = tokenizer.encode(plain, add_special_tokens=False, split_special_tokens=True)
    return (*ids, tokenizer.eos_token_id)


def collate(rows: Sequence[Encoded], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts with their responses, right-padded: ids, attention mask and labels, each int64 [B, T]; labels are IGNORE
    on prompt and padding."""
    width = max(len(row.prompt) + len(row.response) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    labels = torch.full((len(rows), width), IGNORE)
    for i, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.response)
        ids[i, :end] = torch.tensor([*row.prompt, *row.response])
        mask[i, :end] = 1
        labels[i, start:end] = torch.tensor(row.response)
    return ids, mask, labels
