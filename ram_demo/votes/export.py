"""Votes as text that other programs read. Knows nothing of databases, or of where the text goes."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, TextIO

from ram_demo.errors import UserError
from ram_demo.votes.battles import SIDES, Battle, Response, VoteRow

_VOTE = [field.name for field in fields(VoteRow) if field.name not in ("battle", "ballot", "imported")]
_BATTLE = [field.name for field in fields(Battle) if field.name not in ("session", "later", *SIDES)]
_RESPONSE = [field.name for field in fields(Response) if field.name != "trace"]


def export(
    rows: Iterable[VoteRow],
    format: str,
    out: TextIO,
    *,
    include_traces: bool = True,
    include_session: bool = False,
) -> int:
    """Write `rows` to `out` in one of FORMATS, in their order, and return how many there were.

    The session is personal, so it stays behind unless asked for. Traces are for jsonl; csv has none. Lines of csv end
    in CR LF, so open a file for it with `newline=""`. Raises UserError, before anything is written, for an unknown
    format.
    """
    if format not in FORMATS:
        raise UserError(f"Unknown format {format!r}: choose one of {', '.join(FORMATS)}.")
    write = FORMATS[format](out, include_traces, include_session)
    count = 0
    for row in rows:
        write(row)
        count += 1
    return count


def preferences(rows: Iterable[VoteRow]) -> Iterator[dict[str, str]]:
    """What votes say of two answers, as TRL's `prompt`, `chosen`, `rejected`; ties and both-bad say nothing of it."""
    for row in rows:
        if row.choice in SIDES:
            (other,) = set(SIDES) - {row.choice}
            better, worse = (getattr(row.battle, side).text for side in (row.choice, other))
            if better.strip() and worse.strip() and better.strip() != worse.strip():
                yield {"prompt": row.battle.prompt, "chosen": better, "rejected": worse}


def _jsonl(out: TextIO, include_traces: bool, include_session: bool) -> Callable[[VoteRow], None]:
    """One JSON object a vote, in ASCII, so that no character in a text can end the line."""
    names = _RESPONSE + ["trace"] * include_traces

    def write(row: VoteRow) -> None:
        sides = {side: _pick(getattr(row.battle, side), names) for side in SIDES}
        out.write(json.dumps(_shared(row, include_session) | sides) + "\n")

    return write


def _csv(out: TextIO, _include_traces: bool, include_session: bool) -> Callable[[VoteRow], None]:
    """One flat line a vote. The side goes before the name of a response's column; the settings are one cell of JSON."""
    # Only with CR LF as its line's end does every supported Python quote a cell that holds a lone CR.
    writer = csv.writer(out, lineterminator="\r\n")
    responses = [f"{side}_{name}" for side in SIDES for name in _RESPONSE]
    writer.writerow(_VOTE + _BATTLE + ["session"] * include_session + responses)

    def write(row: VoteRow) -> None:
        shared = _shared(row, include_session)
        shared["settings"] = json.dumps(shared["settings"])
        sides = [value for side in SIDES for value in _pick(getattr(row.battle, side), _RESPONSE).values()]
        writer.writerow([_guard(value) for value in [*shared.values(), *sides]])

    return write


FORMATS: dict[str, Callable[[TextIO, bool, bool], Callable[[VoteRow], None]]] = {"jsonl": _jsonl, "csv": _csv}


def _shared(row: VoteRow, include_session: bool) -> dict[str, Any]:
    """What a vote says of its battle as a whole, moments as ISO 8601."""
    shared = _pick(row, _VOTE) | _pick(row.battle, _BATTLE + ["session"] * include_session)
    return shared | {name: shared[name].isoformat() for name in ("created_at", "battle_created_at")}


def _pick(source: object, names: list[str]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _guard(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets a quote before it; numbers pass as they are."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
