"""The forms in which people keep examples, each row of a file told apart, checked, and turned into an `Example`.

Knows JSON and the forms' names; knows nothing of tokens. The forms:

    prompt + completion            TRL's, plain or conversational (lists of {"role", "content"})
    prompt + chosen + rejected     likewise; a conversational pair may hold its prompt in both answers instead
    HH transcripts                 chosen + rejected, whole dialogues of "\\n\\nHuman: " and "\\n\\nAssistant: "
    Alpaca                         instruction + input + output
"""

import gzip
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ram_demo.errors import UserError

MOST_BYTES = 100 * 2**20  # of a file: a tab that reads more would stand still
TOLD = 5  # bad lines that a sentence names
ROLES = ("system", "user", "assistant")
TURN = re.compile(r"\n\n(Human|Assistant):[ \t]?")

Turns = tuple[tuple[str, str], ...]
"""A conversation: (role, text) of each turn."""


@dataclass(frozen=True)
class Example:
    """prompt: the conversation so far, a person's turn last. completion: the answer wanted (y+). rejected: one that is
    not (y-), where the data has it."""

    prompt: Turns
    completion: str
    rejected: str | None = None
    line: int = field(default=0, compare=False)  # of the file it was read from

    def to_json(self) -> dict:
        """The row in TRL's conversational form; y- only where the data has it."""
        record = {
            "prompt": [{"role": role, "content": text} for role, text in self.prompt],
            "completion": [{"role": "assistant", "content": self.completion}],
        }
        if self.rejected is not None:
            record["chosen"] = record.pop("completion")
            record["rejected"] = [{"role": "assistant", "content": self.rejected}]
        return record

    @property
    def question(self) -> str:
        """The prompt as one text: what a person would recognise it by. Of several turns it says whose each is."""
        (_, first), *more = self.prompt
        return "\n\n".join(f"{role}: {text}" for role, text in self.prompt) if more else first


@dataclass(frozen=True)
class Table:
    """A file as read. form: its name, for people; problems: (line, sentence) of each row that cannot be used."""

    form: str
    examples: tuple[Example, ...]
    problems: tuple[tuple[int, str], ...]


class _Bad(Exception):
    """What is wrong with one row, as the end of a sentence."""


def read(file: Path) -> Table:
    """Read a JSONL file, plain or packed (`.gz`). The form is the first row's that has one; all others must have it.

    Raises UserError for a file that cannot be read, is too large, or holds nothing that can be used.
    """
    form, examples, problems = None, [], []
    for number, line in _lines(file):
        try:
            row = _json(line)
            form = form or _form(row)
            examples.append(replace(FORMS[form](row), line=number))
        except _Bad as bad:
            problems.append((number, str(bad)))
    if not examples:
        raise UserError(_words(file.name, problems) if problems else f"{file.name} holds no examples.")
    return Table(form, tuple(examples), tuple(problems))


def read_prompts(file: Path) -> tuple[Example, ...]:
    """The prompts of a JSONL file, each once and with an empty answer, whatever else its rows hold. Raises UserError,
    naming the first bad lines."""
    found, problems = {}, []
    for number, line in _lines(file):
        try:
            example = replace(_ends_with_a_question(_prompt(_json(line).get("prompt"), "prompt"), ""), line=number)
            found.setdefault(same(example), example)
        except _Bad as bad:
            problems.append((number, str(bad)))
    if problems or not found:
        raise UserError(_words(file.name, problems) if problems else f"{file.name} holds no prompts.")
    return tuple(found.values())


def require_whole(file: Path, table: Table) -> None:
    """Raise UserError, naming the first bad lines, unless every row can be used."""
    if table.problems:
        raise UserError(_words(file.name, table.problems))


def _words(name: str, problems) -> str:
    """The first few problems, each told once with all of its lines among them."""
    lines: dict[str, list[str]] = {}
    for number, what in problems[:TOLD]:
        lines.setdefault(what, []).append(str(number))
    named = "; ".join(f"line{'s' * (len(at) > 1)} {', '.join(at)}: {what}" for what, at in lines.items())
    more = f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
    return f"{name}, {named}{more}."


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers. A line ends at a newline and nowhere else."""
    most = f"at most {MOST_BYTES // 2**20} are read."
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{file.name} has {size / 2**20:.0f} MB; {most}")
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            number = read = 0
            while raw := opened.readline(MOST_BYTES + 1):
                number, read = number + 1, read + len(raw)
                if read > MOST_BYTES:
                    raise UserError(f"{file.name} unpacks to more than {MOST_BYTES // 2**20} MB; {most}")
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(f"{file.name}, line {number}: this is not UTF-8 text.") from None
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"The data {file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _json(line: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise _Bad("this is not JSON") from None
    if not isinstance(row, dict):
        raise _Bad("this is no object of columns and values")
    return row


def _form(row: dict) -> str:
    has = {name for name in row if row[name] is not None}
    if {"chosen", "rejected"} <= has:
        if isinstance(row["chosen"], str) and "prompt" not in has:
            return "HH transcripts"
        return "prompt, chosen, rejected"
    if {"prompt", "completion"} <= has:
        return "prompt, completion"
    if {"instruction", "output"} <= has:
        return "Alpaca"
    columns = ", ".join(map(repr, list(row)[:6])) or "none"
    raise _Bad(
        "its columns are those of no form that is known: prompt and completion; prompt, chosen and rejected; chosen "
        f"and rejected transcripts; or instruction, input and output (here: {columns})"
    )


def _pair(row: dict) -> Example:
    prompt = _prompt(row["prompt"], "prompt") if "prompt" in row else ()
    return _ends_with_a_question(prompt, _answer(row, "completion"))


def _preference(row: dict) -> Example:
    if row.get("prompt") is not None:
        prompt = _prompt(row["prompt"], "prompt")
        return _ends_with_a_question(prompt, _answer(row, "chosen"), _answer(row, "rejected"))
    return _from_dialogues(*(_turns(row.get(name), name) for name in ("chosen", "rejected")))


def _transcripts(row: dict) -> Example:
    return _from_dialogues(*(_dialogue(row.get(name), name) for name in ("chosen", "rejected")))


def _alpaca(row: dict) -> Example:
    instruction, extra = _text(row.get("instruction"), "instruction"), row.get("input") or ""
    if not isinstance(extra, str):
        raise _Bad("'input' must be a text")
    asked = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return _ends_with_a_question((("user", asked),), _text(row.get("output"), "output"))


FORMS: dict[str, Callable[[dict], Example]] = {
    "prompt, completion": _pair,
    "prompt, chosen, rejected": _preference,
    "HH transcripts": _transcripts,
    "Alpaca": _alpaca,
}


def _text(value, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Bad(f"{name!r} must be a text that is not empty")
    return value


def _turns(value, name: str) -> Turns:
    """A conversation as TRL has it."""
    if not isinstance(value, list) or not value:
        raise _Bad(f"{name!r} must be a text, or a list of turns with 'role' and 'content'")
    turns = []
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise _Bad(f"each turn of {name!r} needs a 'role' of {', '.join(ROLES)}")
        turns.append((turn["role"], _text(turn.get("content"), f"content of {name}")))
    return tuple(turns)


def _prompt(value, name: str) -> Turns:
    return (("user", _text(value, name)),) if isinstance(value, str) else _turns(value, name)


def _answer(row: dict, name: str) -> str:
    """An answer: a text, or a conversation of one turn of the assistant's."""
    value = row.get(name)
    if isinstance(value, list):
        turns = _turns(value, name)
        if len(turns) != 1 or turns[0][0] != "assistant":
            raise _Bad(f"{name!r} must be one turn of the assistant's")
        return turns[0][1]
    return _text(value, name)


def _dialogue(value, name: str) -> Turns:
    """A transcript; turns of one speaker in a row are one."""
    parts = TURN.split(_text(value, name))
    if parts[0].strip() or len(parts) < 3:
        raise _Bad(f"{name!r} must begin with '\\n\\nHuman: '")
    turns: list[tuple[str, str]] = []
    for speaker, text in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n\n{text}".strip())
        else:
            turns.append((role, text.strip()))
    return tuple(turns)


def _from_dialogues(chosen: Turns, rejected: Turns) -> Example:
    """Two whole dialogues that differ in their last turn."""
    for turns, name in ((chosen, "chosen"), (rejected, "rejected")):
        if turns[-1][0] != "assistant" or not turns[-1][1]:
            raise _Bad(f"{name!r} must end with an answer of the assistant's")
    if chosen[:-1] != rejected[:-1]:
        raise _Bad("'chosen' and 'rejected' answer different prompts")
    return _ends_with_a_question(chosen[:-1], chosen[-1][1], rejected[-1][1])


def _ends_with_a_question(prompt: Turns, completion: str, rejected: str | None = None) -> Example:
    if not prompt or prompt[-1][0] != "user":
        raise _Bad("the prompt must end with the user's turn")
    if rejected is not None and rejected.strip() == completion.strip():
        raise _Bad("the two answers are the same")
    return Example(prompt, completion, rejected)


# What a file is like as a whole ---------------------------------------------------------------------------------------


def same(example: Example) -> str:
    """What tells a prompt apart for splitting and counting: its words, without case or spacing."""
    return " ".join(example.question.casefold().split())


def split(examples: tuple[Example, ...], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, parted by prompt: no prompt is in both. share: of the prompts, held out.

    Nothing is held out at a share of 0; otherwise one prompt at least, and one at least is trained on. Raises UserError
    if all examples have the same prompt.
    """
    prompts = sorted({same(example) for example in examples})
    if not share:
        return list(examples), []
    if len(prompts) < 2:
        what = "There is one example alone" if len(examples) == 1 else "All examples have the same prompt"
        raise UserError(f"{what}, so none can be held out: add others, or set held_out: 0.")
    random.Random(seed).shuffle(prompts)
    away = set(prompts[: min(len(prompts) - 1, max(1, round(share * len(prompts))))])
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[same(example) in away].append(example)
    return parts


@dataclass(frozen=True)
class Doubles:
    """duplicates: rows that repeat an earlier one; repeated: rows whose prompt an earlier row has, with another answer;
    leaks: held-out rows whose answer is also trained on, word for word."""

    duplicates: int
    repeated: int
    leaks: int


def doubles(training: list[Example], held_out: list[Example]) -> Doubles:
    everything = [*training, *held_out]
    rows = Counter((same(example), example.completion.strip(), example.rejected) for example in everything)
    duplicates = len(everything) - len(rows)
    learnt = {example.completion.strip() for example in training}
    return Doubles(
        duplicates=duplicates,
        repeated=len(everything) - duplicates - len({same(example) for example in everything}),
        leaks=sum(example.completion.strip() in learnt for example in held_out),
    )
