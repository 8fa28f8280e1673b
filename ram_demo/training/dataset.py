"""Examples as tokens: prompts in the chat template, answers that end, and batches that hold each prompt once.

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
from ram_demo.training.rows import Example

PADDING, PROMPT, BETTER, WORSE = range(4)  # what a place of a packed row is


@dataclass(frozen=True)
class Encoded:
    """One conversation as ids. A response ends with the end-of-text id, so that ending is learnt too. prompt + response
    is what is learnt (y+), prompt + rejected what is not (y-), where there is one. is_anchor: its response is the
    proposal's own, along which the aligner is to stay what the proposal is."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    rejected: tuple[int, ...] | None = None
    is_anchor: bool = False
    example: Example | None = field(default=None, compare=False, repr=False)  # what it was made from

    @property
    def width(self) -> int:
        """Tokens in all, the prompt once."""
        return len(self.prompt) + len(self.response) + len(self.rejected or ())

    @property
    def length(self) -> int:
        """Tokens of the longer of the two conversations."""
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
    return Encoded(tuple(prompt), answer_ids(tokenizer, example.completion), rejected, example=example)


def answer_ids(tokenizer, text: str) -> tuple[int, ...]:
    """An answer as ids, the end-of-text id last; control tokens in it are read as text."""
    plain = text.encode("utf-8", "replace").decode("utf-8").strip()  # no lone surrogates
    ids = tokenizer.encode(plain, add_special_tokens=False, split_special_tokens=True)
    return (*ids, tokenizer.eos_token_id)


@dataclass(frozen=True)
class Packed:
    """Rows of [prompt, y+, y-], each prompt once, right-padded to [B, T] and ready for one forward.

    ids, positions: int64 [B, T]; both answers count on from the prompt's end. sees: bool [B, 1, T, T], who attends to
    whom: to what came before in the prompt and in one's own answer. The answers' tokens, [N] each: `token`, the `row`
    it is in, the place `before` it that predicts it, and whether it is of y- (`bad`).
    """

    ids: Tensor
    positions: Tensor
    sees: Tensor
    token: Tensor
    row: Tensor
    before: Tensor
    bad: Tensor


def pack(rows: Sequence[Encoded], pad: int) -> Packed:
    """pad: the id that fills up short rows."""
    width = max(row.width for row in rows)
    ids, positions = torch.full((len(rows), width), pad), torch.zeros((len(rows), width), dtype=torch.int64)
    part = torch.full((len(rows), width), PADDING)
    answers = []
    for i, row in enumerate(rows):
        prompt, first = len(row.prompt), len(row.prompt) + len(row.response)
        rejected = row.rejected or ()
        ids[i, : row.width] = torch.tensor([*row.prompt, *row.response, *rejected])
        positions[i, :first] = torch.arange(first)
        positions[i, first : row.width] = torch.arange(prompt, prompt + len(rejected))
        part[i, :prompt], part[i, prompt:first], part[i, first : row.width] = PROMPT, BETTER, WORSE
        for start, answer, bad in ((prompt, row.response, False), (first, rejected, True)):
            answers += [(token, i, prompt - 1 if n == 0 else start + n - 1, bad) for n, token in enumerate(answer)]
    earlier = torch.ones((width, width), dtype=torch.bool).tril()
    mine = (part[:, None, :] == PROMPT) | (part[:, None, :] == part[:, :, None])
    token, which, before, bad = map(torch.tensor, zip(*answers, strict=True))
    return Packed(ids, positions, (earlier & mine)[:, None], token, which, before, bad)
