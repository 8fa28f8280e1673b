"""Examples of prompt and completion: read and checked line by line, turned into ids with the prompt masked.

Knows a tokenizer and the chat template; knows nothing of models.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ram_demo.errors import UserError
from ram_demo.models.proposal import encode_prompt
from ram_demo.training.losses import IGNORE


@dataclass(frozen=True)
class Example:
    prompt: str
    completion: str


@dataclass(frozen=True)
class Encoded:
    """prompt and response ids; the response ends with the end-of-text id, so that ending is learnt too."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


def read(file: Path) -> list[Example]:
    """One JSON object a line with `prompt` and `completion`. Raises UserError that names the first bad line."""
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The data {file} cannot be read: {error}.") from error
    examples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise UserError(f"{file.name}, line {number}: this is not JSON.") from None
        for key in ("prompt", "completion"):
            if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key].strip():
                raise UserError(f"{file.name}, line {number}: {key!r} must be a text that is not empty.")
        examples.append(Example(row["prompt"], row["completion"]))
    if not examples:
        raise UserError(f"{file.name} holds no examples.")
    return examples


def content_hash(examples: Sequence[Example]) -> str:
    """12 hex digits over the examples in their order."""
    return hashlib.sha256(json.dumps([[e.prompt, e.completion] for e in examples]).encode()).hexdigest()[:12]


def encode(tokenizer, examples: Sequence[Example], max_tokens: int) -> list[Encoded]:
    """Raises UserError for an example longer than max_tokens, naming it by its place."""
    encoded = []
    for number, example in enumerate(examples, 1):
        prompt = encode_prompt(tokenizer, example.prompt)
        completion = example.completion.encode("utf-8", "replace").decode("utf-8").strip()  # no lone surrogates
        response = tokenizer.encode(completion, add_special_tokens=False, split_special_tokens=True)
        length = len(prompt) + len(response) + 1
        if length > max_tokens:
            raise UserError(f"Example {number} has {length} tokens; the recipe allows {max_tokens}.")
        encoded.append(Encoded(tuple(prompt), (*response, tokenizer.eos_token_id)))
    return encoded


def collate(rows: Sequence[Encoded], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, attention mask and labels, each int64 [B, T]; labels are IGNORE on prompt and padding."""
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
