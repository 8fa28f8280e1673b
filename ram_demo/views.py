"""What the Inspector is given to open: a view, plain JSON, of a comparison, of a battle, or from a file.

A view has turns, a turn has lanes, a lane has its head, its health and its trace as `decoding/record.py` writes it.
Branches hang on a lane's token and have lanes of their own. Whatever is read from a file is checked and written anew,
so nothing gets through that is not known here. Knows nothing of pages, and runs nothing.
"""

import json
from collections.abc import Iterable
from typing import Any

from ram_demo.decoding.record import from_record, to_record
from ram_demo.decoding.trace import Trace
from ram_demo.errors import UserError
from ram_demo.evaluation import health
from ram_demo.request import BASE
from ram_demo.votes import SIDES, Battle, read_vote

VERSION = 1
MOST_CHARACTERS = 16_000_000  # of a file: two answers of 2,000 tokens are some 4 million
MOST_LANES, MOST_TURNS, MOST_BRANCHES = 10, 50, 200

History = tuple[tuple[str, str], ...]


# Heads ----------------------------------------------------------------------------------------------------------------


def lane_head(settings: dict, lane: str) -> dict:
    """One pane's name, title and small print, from the settings as a trace keeps them. aligned: does anything weigh?"""
    aligners = settings["lanes"][lane]
    return {
        "name": lane,
        "title": "Base" if lane == BASE else lane,
        "detail": _detail(aligners, settings["modes"][lane]),
        "tau": _tau(aligners),
        "aligned": bool(aligners),
    }


def _detail(aligners: list[dict], mode: str) -> str:
    if not aligners:
        return "the proposal alone"
    strengths = " + ".join(f"{aligner['beta']:g}" for aligner in aligners)
    return f"strength {strengths}, {mode}"


def _tau(aligners: list[dict]) -> float | None:
    """The lane's gate, where its aligners share one."""
    taus = {aligner["tau"] for aligner in aligners}
    return taus.pop() if len(taus) == 1 else None


# Making ---------------------------------------------------------------------------------------------------------------


def of_traces(prompt: str, history: History, traces: Iterable[Trace], source: dict) -> dict:
    """A comparison: lanes named as they were asked for."""
    return _view(prompt, source, [_turn(prompt, [(trace.lane, trace, history) for trace in traces])])


def of_replay(turns: dict[int, list[tuple[str, str, Trace, History]]]) -> dict:
    """Answers that were given again: by turn, (prompt, lane's name, trace, history) of each."""
    found = [_turn(lanes[0][0], [lane[1:] for lane in lanes]) for _, lanes in sorted(turns.items())]
    return _view(f"Again: {found[0]['prompt']}", {}, found)


def of_battle(battle: Battle, source: dict) -> dict:
    """A battle: lanes named a and b, each turn after the history that its own side had."""
    said: dict[str, History] = dict.fromkeys(SIDES, ())
    turns = []
    for turn in battle.turns:
        lanes = [(side, from_record(getattr(turn, side).trace), said[side]) for side in SIDES]
        turns.append(_turn(turn.prompt, lanes))
        for side, trace, _ in lanes:
            said[side] += (("user", turn.prompt), ("assistant", trace.text))
    return _view(battle.prompt, source, turns)


def _view(title: str, source: dict, turns: list[dict], branches: Iterable[dict] = ()) -> dict:
    return {"version": VERSION, "title": _shorten(title), "source": source, "turns": turns, "branches": list(branches)}


def _turn(prompt: str, lanes: Iterable[tuple[str, Trace, History]]) -> dict:
    return {"prompt": prompt, "lanes": [lane_of(*lane) for lane in lanes]}


def lane_of(name: str, trace: Trace, history: History) -> dict:
    """One lane whole. history: what was said before its prompt."""
    return {
        **lane_head(trace.settings, trace.lane),
        "name": name,
        "history": [list(entry) for entry in history],
        "health": [finding.to_json() for finding in health.findings(trace)],
        "trace": to_record(trace),
    }


def _shorten(prompt: str) -> str:
    words = " ".join(prompt.split())
    return words if len(words) <= 80 else f"{words[:79]}…"


# Reading --------------------------------------------------------------------------------------------------------------


def read(text: str, name: str) -> dict:
    """The view in a file: one that was saved, a trace by itself, or a vote with its traces as `votes export` writes it
    (of several the first). Raises UserError for what is none of them."""
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{name} has {len(text):,} characters; {MOST_CHARACTERS:,} are the most that are opened.")
    record = _parse(text, name)
    source = {"file": name}
    if isinstance(record, dict) and "turns" in record:
        return _read_view(record, source)
    if isinstance(record, dict) and "battle_id" in record:
        return of_battle(read_vote(record).battle, source)
    if isinstance(record, dict) and "steps" in record:
        trace = from_record(record)
        return of_traces(name, (), [trace], source)
    raise UserError(f"{name} holds no trace: the Inspector opens what it saved itself, traces, and exported votes.")


def _parse(text: str, name: str) -> Any:
    text = text.removeprefix("\ufeff").strip()
    for part in (text, text.partition("\n")[0]):
        try:
            return json.loads(part, parse_constant=_no_number)
        except (ValueError, RecursionError):
            continue
    raise UserError(f"{name} is not JSON, so it is no trace.")


def _no_number(name: str) -> None:
    raise ValueError(name)


def _read_view(record: dict, source: dict) -> dict:
    if record.get("version") != VERSION:
        raise UserError(f"This view is of version {str(record.get('version'))[:20]}; {VERSION} is known here.")
    turns, branches = _list(record, "turns", MOST_TURNS), _list(record, "branches", MOST_BRANCHES)
    if not turns:
        raise UserError("There are no answers in this file.")
    read_turns = [{"prompt": _text(turn, "prompt"), "lanes": _lanes(turn)} for turn in turns]
    found: list[dict] = []
    for branch in branches:
        parent = branch.get("parent")
        if parent is not None and not (type(parent) is int and 0 <= parent < len(found)):
            raise UserError("A branch of this file hangs on nothing.")
        turn, at = (branch.get(name) for name in ("turn", "at"))
        if type(turn) is not int or type(at) is not int or not 0 <= turn < len(turns) or at < 0:
            raise UserError("A branch of this file hangs on nothing.")
        place = {"parent": parent, "turn": turn, "lane": _text(branch, "lane"), "at": at}
        found.append({"id": len(found), **place, "lanes": _lanes(branch)})
    return _view(_text(record, "title"), source, read_turns, found)


def _lanes(turn: dict) -> list[dict]:
    found = [
        lane_of(_text(lane, "name"), from_record(lane.get("trace")), history_of(lane))
        for lane in _list(turn, "lanes", MOST_LANES)
    ]
    if not found or len({lane["name"] for lane in found}) < len(found):
        raise UserError("Answers of this file have no names, or have the same.")
    return found


def history_of(record: dict) -> History:
    """What was said before, from JSON. Raises UserError."""
    entries = _list(record, "history", 2 * MOST_TURNS, dict_entries=False)
    if any(not isinstance(e, list) or len(e) != 2 or not all(isinstance(part, str) for part in e) for e in entries):
        raise UserError("What was said before cannot be read here.")
    return tuple((role, said) for role, said in entries)


def _list(record: Any, name: str, most: int, dict_entries: bool = True) -> list:
    found = record.get(name, []) if isinstance(record, dict) else None
    if not isinstance(found, list) or len(found) > most:
        raise UserError(f"This file cannot be read: its {name!r} are no list, or more than {most}.")
    if dict_entries and not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"This file cannot be read: one of its {name!r} is no object.")
    return found


def _text(record: dict, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise UserError(f"This file cannot be read: its {name!r} is missing or no text.")
    return value
