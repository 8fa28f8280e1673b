"""Reads votes from a file: our own jsonl and csv, a public arena's rows, TRL's preferences.

Knows nothing of databases. A file is read twice: once to find every row that cannot be used, before anything is kept.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ram_demo.errors import UserError
from ram_demo.votes import formats
from ram_demo.votes.battles import VoteRow
from ram_demo.votes.records import BadRecord, from_cells, from_record, read_json

TOLD = 5  # bad rows that a sentence names
LONGEST_CELL = 2**31 - 1

Raw = tuple[int, Any]
"""Where a row stands in its file, and what was read there: an object, or the BadRecord that it is."""


def read(file: Path, format: str) -> Iterator[VoteRow]:
    """The votes of a file in one of IMPORTS, one by one, marked as imported.

    The same row has the same id whenever it is read. Raises UserError, before the first vote, for a file that cannot be
    read, is in no such format, or has rows that cannot be used: the first of them are named by line.
    """
    if format not in IMPORTS:
        raise UserError(f"Unknown format {format!r}: choose one of {', '.join(IMPORTS)}.")
    problems = [(number, found) for number, found in _votes(file, format) if isinstance(found, BadRecord)]
    if problems:
        told = "; ".join(f"line {number}: {found}" for number, found in problems[:TOLD])
        more = f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
        raise UserError(f"{file.name}, {told}{more}. Nothing was imported.")
    return (found for _, found in _votes(file, format))


def read_vote(record: Any) -> VoteRow:
    """One vote as our own jsonl has it, with its traces. Raises UserError."""
    try:
        return from_record(record)
    except BadRecord as bad:
        raise UserError(f"This vote cannot be read: {bad}.") from None


def _votes(file: Path, format: str) -> Iterator[tuple[int, VoteRow | BadRecord]]:
    rows, parse = IMPORTS[format]
    seen: Counter[str] = Counter()
    try:
        for number, raw in rows(file):
            try:
                if isinstance(raw, BadRecord):
                    raise raw
                if not isinstance(raw, dict):
                    raise BadRecord("this is no object of columns and values")
                key = json.dumps(raw, sort_keys=True, default=str)
                yield number, parse(raw, seen[key])
                seen[key] += 1
            except BadRecord as bad:
                yield number, bad
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


# What kinds of files there are.


def _lines(file: Path) -> Iterator[Raw]:
    """One object a line; blank lines are none."""
    with file.open(encoding="utf-8-sig", newline="\n") as opened:
        for number, line in enumerate(opened, 1):
            if line.strip():
                yield number, _json(line)


def _sheet(file: Path) -> Iterator[Raw]:
    csv.field_size_limit(LONGEST_CELL)  # the module's own limit is shorter than a long answer
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened, strict=True)
        begins = 2
        for row in reader:
            yield begins, BadRecord("there are more cells than columns") if None in row else row
            begins = reader.line_num + 1  # a row ends some lines further where its texts have several


def _lines_or_list(file: Path) -> Iterator[Raw]:
    """Objects a line, one list of objects (a row's number is then its place), or a sheet."""
    with file.open(encoding="utf-8-sig") as opened:
        first = opened.read(1024).lstrip()[:1]
        if first == "[":
            opened.seek(0)
            whole = _json(opened.read())
            yield from [(1, whole)] if isinstance(whole, BadRecord) else enumerate(whole, 1)
            return
    yield from _lines(file) if first == "{" else _sheet(file)


def _json(text: str) -> Any:
    try:
        return read_json(text)
    except BadRecord as bad:
        return bad


IMPORTS: dict[str, tuple[Callable[[Path], Iterator[Raw]], Callable[[dict[str, Any], int], VoteRow]]] = {
    "trl": (_lines_or_list, formats.from_trl),
    "arena": (_lines_or_list, formats.from_arena),
    "csv": (_sheet, lambda cells, _seen: from_record(from_cells(cells))),
    "jsonl": (_lines, lambda record, _seen: from_record(record)),
}
