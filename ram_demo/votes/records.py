"""A whole vote as one JSON object or one flat row of a sheet, and back: nothing is lost on the way.

Knows nothing of files or databases. What is read is checked against the types of `battles`; a `BadRecord` says what is
wrong, as the end of a sentence. A sheet has no traces.
"""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ram_demo.errors import UserError
from ram_demo.votes.battles import DONE, KINDS, SIDES, Ballot, Battle, NewBattle, Response, Turn, VoteRow, check_choice
from ram_demo.votes.battles import checked as checked_ballot

MOMENTS = ("created_at", "battle_created_at")
LONGEST_ID = 64
_LIKE_A_FORMULA = re.compile(r"'*[=+\-@\t\r]")


class BadRecord(Exception):
    """What is wrong with one record, as the end of a sentence."""


def _types(cls: type, *without: str) -> dict[str, Any]:
    return {name: kind for name, kind in get_type_hints(cls).items() if name not in without}


VOTE = _types(VoteRow, "battle", "ballot", "imported", *MOMENTS)
BALLOT = {"reasons": list, "comment": str, "span": list | None, "reading_seconds": float | None}
BATTLE = _types(NewBattle, "session")
RESPONSE = _types(Response)


def read_json(text: str) -> Any:
    """Strict JSON: NaN and infinities are none. Raises BadRecord."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadRecord("this is not JSON") from None


def _no_number(name: str) -> None:
    raise ValueError(name)


# JSON -----------------------------------------------------------------------------------------------------------------


def to_record(row: VoteRow, voter: str | None, traces: bool = True) -> dict[str, Any]:
    """A vote as an object of JSON, moments as ISO 8601. voter: told if given. The session itself never is."""
    battle, ballot = row.battle, row.ballot
    record = {
        "id": row.id,
        "created_at": row.created_at.isoformat(),
        "choice": row.choice,
        "reasons": list(ballot.reasons),
        "comment": ballot.comment,
        "span": list(ballot.span) if ballot.span else None,
        "reading_seconds": ballot.reading_seconds,
        "counts": row.counts,
        "why": row.why,
        "battle_id": row.battle_id,
        "battle_created_at": row.battle_created_at.isoformat(),
        "app_version": row.app_version,
        **{name: getattr(battle, name) for name in BATTLE},
    }
    if voter is not None:
        record["voter"] = voter
    record |= {side: _response(getattr(battle, side), traces) for side in SIDES}
    later = [{"prompt": t.prompt, "a": _response(t.a, traces), "b": _response(t.b, traces)} for t in battle.later]
    return record | {"later": later}


def from_record(record: dict[str, Any]) -> VoteRow:
    """The vote that `to_record` told of, marked as imported. Raises BadRecord."""
    vote, ballot, battle = (_checked(record, types) for types in (VOTE, BALLOT, BATTLE))
    try:
        check_choice(vote["choice"])
        ballot = checked_ballot(_ballot(**ballot))
    except UserError as error:
        raise BadRecord(str(error).rstrip(".")) from None
    for name in ("id", "battle_id"):
        if not 0 < len(vote[name]) <= LONGEST_ID:
            raise BadRecord(f"{name!r} must have 1 to {LONGEST_ID} characters")
    if battle["kind"] not in KINDS:
        raise BadRecord(f"'kind' must be one of {', '.join(KINDS)}")
    later = tuple(_turn(turn) for turn in _one(record, "later", list))
    a, b = (_to_response(_one(record, side, dict)) for side in SIDES)
    session = _one({"voter": "", **record}, "voter", str)
    found = Battle(**battle, session=session, a=a, b=b, later=later)
    if ballot.span and ballot.span[2] > len(getattr(found.turns[-1], ballot.span[0]).text):
        raise BadRecord("'span' must lie in the last answer of its side")
    moments = {name: _moment(record, name) for name in MOMENTS}
    return VoteRow(**vote, **moments, ballot=ballot, imported=True, battle=found)


def _response(response: Response, traces: bool) -> dict[str, Any]:
    return {name: value for name, value in vars(response).items() if traces or name != "trace"}


def _to_response(record: dict[str, Any]) -> Response:
    response = Response(**_checked({"trace": {}, **record}, RESPONSE))
    if response.done not in (*DONE, None):
        raise BadRecord(f"'done' must be one of {', '.join(DONE)}")
    return response


def _turn(record: Any) -> Turn:
    if not isinstance(record, dict):
        raise BadRecord("'later' must be a list of turns")
    return Turn(_one(record, "prompt", str), *(_to_response(_one(record, side, dict)) for side in SIDES))


def _ballot(reasons: list, comment: str, span: list | None, reading_seconds: float | None) -> Ballot:
    if not all(isinstance(reason, str) for reason in reasons):
        raise BadRecord("'reasons' must be a list of texts")
    if span is not None and [type(part) for part in span] != [str, int, int]:
        raise BadRecord("'span' must be a side and two numbers")
    return Ballot(tuple(reasons), comment, tuple(span) if span else None, reading_seconds)


def _moment(record: dict[str, Any], name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_one(record, name, str))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BadRecord(f"{name!r} must be a moment in ISO 8601 with its time zone")
    return moment


def _checked(record: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    return {name: _one(record, name, kind) for name, kind in types.items()}


def _one(record: dict[str, Any], name: str, kind: Any) -> Any:
    if name not in record:
        raise BadRecord(f"{name!r} is missing")
    value, kinds = record[name], _kinds(kind)
    if type(value) is int and int not in kinds and float in kinds:
        value = float(value)
    if type(value) not in kinds:
        raise BadRecord(f"{name!r} must be {' or '.join(WORDS[one] for one in kinds)}")
    if type(value) in (int, float) and not abs(value) < (2**63 if name == "seed" else 2**31):
        raise BadRecord(f"{name!r} is beyond what can be kept")
    return value


WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object", list: "a list",
    type(None): "nothing",
}  # fmt: skip


def _kinds(kind: Any) -> tuple[type, ...]:
    """The plain types that a hint stands for."""
    return tuple(get_origin(one) or one for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,)))


# Sheets ---------------------------------------------------------------------------------------------------------------

_SHEET_RESPONSE = {name: kind for name, kind in RESPONSE.items() if name != "trace"}


def columns(voters: bool) -> dict[str, Any]:
    """{column: its type} of a sheet, in order. The side goes before the name of a response's column."""
    found = {"id": str, "created_at": str, "choice": str, **BALLOT, **VOTE, "battle_created_at": str, **BATTLE}
    if voters:
        found["voter"] = str
    found |= {f"{side}_{name}": kind for side in SIDES for name, kind in _SHEET_RESPONSE.items()}
    return found | {"later": list}


def to_cells(record: dict[str, Any]) -> Iterator[str]:
    """The cells of a record without traces, in the order of `columns`: texts as they are, all else as JSON."""
    for name in columns("voter" in record):
        side, _, part = name.partition("_")
        value = record[side][part] if side in SIDES else record[name]
        yield "" if value is None else _guard(value) if isinstance(value, str) else json.dumps(value)


def from_cells(cells: dict[str, str]) -> dict[str, Any]:
    """The record that `to_cells` told of. Raises BadRecord for a cell that cannot be read."""
    record: dict[str, Any] = {side: {} for side in SIDES}
    for name, kind in columns("voter" in cells).items():
        if cells.get(name) is None:
            raise BadRecord(f"{name!r} is missing")
        side, _, part = name.partition("_")
        place, key = (record[side], part) if side in SIDES else (record, name)
        place[key] = _value(name, cells[name], _kinds(kind))
    return record


def _value(name: str, cell: str, kinds: tuple[type, ...]) -> Any:
    if cell == "" and type(None) in kinds:
        return None
    if str in kinds:
        return cell[1:] if cell.startswith("'") and _LIKE_A_FORMULA.match(cell) else cell
    try:
        return read_json(cell)
    except BadRecord:
        raise BadRecord(f"{name!r} is {cell[:20]!r}, which cannot be read") from None


def _guard(text: str) -> str:
    """A text that a spreadsheet would run as a formula gets a quote before it, as does one that looks so guarded."""
    return f"'{text}" if _LIKE_A_FORMULA.match(text) else text
