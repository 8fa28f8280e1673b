"""Votes as text that other programs read. Knows nothing of databases, or of where the text goes."""

import csv
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from ram_demo.errors import UserError
from ram_demo.votes import formats, records
from ram_demo.votes.battles import VoteRow

Records = Callable[[VoteRow, str | None], Iterable[dict[str, Any]]]


def export(rows: Iterable[VoteRow], format: str, out: TextIO, salt: str | None = None) -> int:
    """Write `rows` to `out` in one of FORMATS, in their order, and return how many votes were written.

    Who voted is personal, and stays behind; with the store's `salt` each voter has a name that says only which votes
    are the same person's. `jsonl` and `csv` hold every vote and say whether it counts; the other forms hold those that
    do, as far as they can tell of them. Lines of csv end in CR LF, so open a file for it with `newline=""`. Raises
    UserError, before anything is written, for an unknown format.
    """
    if format not in FORMATS:
        raise UserError(f"Unknown format {format!r}: choose one of {', '.join(FORMATS)}.")
    chosen, count = FORMATS[format], 0

    def written() -> Iterator[dict[str, Any]]:
        nonlocal count
        for row in rows:
            found = list(chosen.records(row, None if salt is None else voter(row, salt)))
            count += bool(found)
            yield from found

    chosen.frame(written(), out, salt is not None)
    return count


def voter(row: VoteRow, salt: str) -> str:
    """A name for who voted: the session, hidden by the salt (HMAC-SHA256). What was imported has one already."""
    session = row.battle.session
    return session if row.imported else hmac.new(salt.encode(), session.encode(), hashlib.sha256).hexdigest()[:32]


def preferences(rows: Iterable[VoteRow]) -> Iterator[dict[str, str]]:
    """What votes say of two answers to one prompt, as plain `prompt`, `chosen`, `rejected`.

    Of a conversation nothing: its sides answered different histories, so no one prompt has both answers.
    """
    for row in rows:
        for pair in () if row.battle.later else formats.trl(row, None):
            yield {name: messages[0]["content"] for name, messages in pair.items()}


# One object a line; the objects of one list; a sheet. In ASCII, so that no character in a text can end a line.


def _lines(found: Iterator[dict[str, Any]], out: TextIO, _voters: bool) -> None:
    for record in found:
        out.write(json.dumps(record) + "\n")


def _list(found: Iterator[dict[str, Any]], out: TextIO, _voters: bool) -> None:
    start = "[\n"
    for record in found:
        out.write(start + json.dumps(record))
        start = ",\n"
    out.write("\n]\n" if start == ",\n" else "[]\n")


def _sheet(found: Iterator[dict[str, Any]], out: TextIO, voters: bool) -> None:
    # Only with CR LF as its line's end does every supported Python quote a cell that holds a lone CR.
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(records.columns(voters))
    for record in found:
        writer.writerow(records.to_cells(record))


def _outputs(found: Iterator[dict[str, Any]], out: TextIO, voters: bool) -> None:
    """AlpacaEval wants one output of a generator for an instruction: the first."""
    _list(_first_of(found, "instruction", "generator"), out, voters)


def _first_of(found: Iterator[dict[str, Any]], *names: str) -> Iterator[dict[str, Any]]:
    seen = set()
    for record in found:
        key = tuple(record[name] for name in names)
        if key not in seen:
            seen.add(key)
            yield record


def _whole(row: VoteRow, who: str | None) -> Iterator[dict[str, Any]]:
    yield records.to_record(row, who)


def _flat(row: VoteRow, who: str | None) -> Iterator[dict[str, Any]]:
    yield records.to_record(row, who, traces=False)


@dataclass(frozen=True)
class Format:
    """How one vote becomes records, and how records become a file."""

    records: Records
    frame: Callable[[Iterator[dict[str, Any]], TextIO, bool], None]


FORMATS = {
    "jsonl": Format(_whole, _lines),
    "csv": Format(_flat, _sheet),
    "trl": Format(formats.trl, _lines),
    "trl-unpaired": Format(formats.trl_unpaired, _lines),
    "arena": Format(formats.arena, _list),
    "alpaca": Format(formats.alpaca, _outputs),
}
