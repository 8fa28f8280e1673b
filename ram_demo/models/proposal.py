"""A model with its tokenizer, loaded and frozen: the proposal, or another base that aligners stand on.

Knows the chat template and the end-of-text ids; knows nothing of aligners or decoding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ram_demo.errors import UserError
from ram_demo.models import formats, lean, vocabulary
from ram_demo.models.apart import apart
from ram_demo.models.language_model import LanguageModel
from ram_demo.models.reference import ReferenceModel
from ram_demo.models.sources import Source

# Special tokens that end a turn or a text in the chat formats in use, wherever a model's own files forget one.
END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<end_of_turn>", "<|end|>")
CONTENT = "\N{OBJECT REPLACEMENT CHARACTER}prompt\N{OBJECT REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Proposal:
    """P_M: frozen weights behind `LanguageModel`, and the tokenizer that every aligner must share."""

    source: Source
    model: LanguageModel
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def fingerprint(self) -> str:
        return vocabulary.fingerprint(self.tokenizer)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        return end_ids(self.source.path, self.tokenizer)

    def encode_prompt(self, prompt: str) -> list[int]:
        return encode_prompt(self.tokenizer, prompt)

    def encode_conversation(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        return encode_conversation(self.tokenizer, turns)


def load(source: Source, device: str, dtype: str) -> Proposal:
    """Load what `source` names. device: auto, cpu, cuda...; dtype: auto or one of `formats.FORMATS`."""
    where = pick_device(device)
    is_lean = lean.supports(read_config(source.path))
    engine = lean.LeanModel if is_lean else ReferenceModel
    form = formats.pick(dtype, where, is_lean)
    model = apart(lambda: engine(source.path, where, form))
    return Proposal(source, model, load_tokenizer(source.path))


def pick_device(device: str) -> torch.device:
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"There is no device {device!r} here: {str(error).splitlines()[0]}") from error
    return chosen


def read_config(folder: Path):
    """The model's configuration. Raises UserError if it would need remote code or is unknown."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise UserError(f"{folder.name} is of no architecture that can be loaded without its own code.") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as its own tokenizer.json says. AutoTokenizer goes by the class named beside it, and some classes
    (GPT2Tokenizer, which SmolLM2's files name) lay a pre-tokenizer of their own over the file's."""
    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder.name} has no tokenizer that can be loaded.") from error


def end_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends a text: the files name one, or a list, or forget it (a known trap)."""
    named: list = [tokenizer.eos_token_id, getattr(read_config(folder), "eos_token_id", None)]
    if (folder / "generation_config.json").is_file():
        named.append(GenerationConfig.from_pretrained(folder).eos_token_id)
    flat = [i for entry in named for i in (entry if isinstance(entry, list) else [entry])]
    added = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    return frozenset(i for i in flat + [added.get(token) for token in END_TOKENS] if i is not None)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The ids of a single question in the tokenizer's chat template, ready for an answer."""
    return encode_conversation(tokenizer, [("user", prompt)])


def encode_conversation(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]]) -> list[int]:
    """The ids of a conversation, (role, text) a turn, in the tokenizer's chat template, ready for an answer; without a
    template, the texts as they are. Raises UserError for an empty text, or turns that the template refuses.

    The template is laid out around placeholders, and what a person types is cut inside every control token (such as
    `<|im_end|>`), so that it is read as text and cannot end the turn. All else is encoded as the template's own text.
    """
    texts = [text.encode("utf-8", "replace").decode("utf-8").strip() for _, text in turns]  # no lone surrogates
    if not all(texts):
        raise UserError("The prompt is empty.")
    if tokenizer.chat_template is None:
        return tokenizer.encode("\n\n".join(texts), split_special_tokens=True)
    marks = [f"{CONTENT}{n}{CONTENT}" for n in range(len(turns))]
    messages = [{"role": role, "content": mark} for (role, _), mark in zip(turns, marks, strict=True)]
    try:
        laid_out = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise UserError(f"The model's chat template refuses this conversation: {error}.") from error
    frame = re.split("|".join(map(re.escape, marks)), laid_out)
    if len(frame) != len(turns) + 1:
        raise UserError("The model's chat template does not show every turn of this conversation.")
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    whole = "".join(frame)
    control = [t.content for t in added if t.special or t.content in END_TOKENS or t.content in whole]
    # A place after the first character of a control token: cut there, no piece holds one.
    places = "|".join(f"(?<={re.escape(c[0])})(?={re.escape(c[1:])})" for c in control if len(c) > 1)
    pieces = [frame[0]]
    for text, after in zip(texts, frame[1:], strict=True):
        first, *rest = re.split(places, text) if places else [text]
        pieces[-1] += first
        pieces += rest
        pieces[-1] += after
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]
