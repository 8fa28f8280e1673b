"""A whole trace as JSON: what is kept with a battle, written to a file, and given to the Inspector. Version 1.

In columns, one entry a step; a step's candidates are `count` entries of their columns, which are base64 of
little-endian int32 or float32, so that nothing is rounded: at m candidates and k aligners, 5.3 m (5 + k) bytes a step
and some 300 for all else. Traces kept before there were versions are read too; they lack the noise, so nothing can be
decided again.

Knows nothing of files. What is read may come from anybody: whatever does not fit raises UserError, and nothing is run.
"""

import base64
import binascii
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_type_hints

import numpy as np

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.trace import BASE, Monitor, Slate, Step, Trace
from ram_demo.errors import UserError

VERSION = 1
MOST_STEPS, MOST_CANDIDATES = 10_000, 1_000_000  # of a lane; a step may list all of V
LONGEST_TEXT = 2_000_000
HEAD = {"lane": str, "done": str, "text": str, "tokens_per_s": float, "first_token_ms": float, "settings": dict}
FLOATS = ("kl", "support", "entropy", "push", "ms", "mass", "compose")
WHOLE = ("token", "base_token", "gated", "nucleus", "rank_p", "rank")
COLUMNS = {"id": "<i4", "log_p": "<f4", "noise": "<f4", "draws": "<i4", "weight": "<f4"}
MONITOR = ("kl", "gated", "support")
DONE = ("eos", "length", "stopped")


# Writing --------------------------------------------------------------------------------------------------------------


def to_record(trace: Trace) -> dict:
    """The whole of a lane."""
    found = columns(trace.steps, seats(trace.settings, trace.lane))
    kl = found["steps"]["kl"]
    # Of what is written, so that what is read and written again is the same.
    return {"version": VERSION, **trace.summary(), "mean_kl": sum(kl) / len(kl) if kl else 0.0, **found}


def seats(settings: dict, lane: str) -> list[str]:
    """Who the columns of Q are of: the lane's aligners, or of the base's lane P_M itself."""
    return [aligner["name"] for aligner in settings["lanes"][lane]] or [BASE]


def columns(steps: Sequence[Step], seats: Sequence[str]) -> dict:
    """Some steps of a lane as {words, steps, candidates}."""
    slates = [step.slate for step in steps]
    words = {i: word for slate in slates for i, word in zip(slate.ids, slate.texts, strict=True)}
    scalars = {name: [int(getattr(step, name)) for step in steps] for name in WHOLE}
    scalars |= {name: [_short(getattr(step, name)) for step in steps] for name in FLOATS}
    if steps and steps[0].monitors:
        scalars["monitors"] = {
            name: {
                "kl": [_short(step.monitors[k].kl) for step in steps],
                "gated": [int(step.monitors[k].gated) for step in steps],
                "support": [_short(step.monitors[k].support) for step in steps],
            }
            for k, name in enumerate(seats)
        }
    names = dict(zip(COLUMNS, ("ids", "log_p", "noise", "draws", "weight"), strict=True))
    packed = {name: _pack((getattr(s, field) for s in slates), COLUMNS[name]) for name, field in names.items()}
    before = [k for k, _ in enumerate(seats) if slates and slates[0].log_q0 and slates[0].log_q0[k] is not None]
    return {
        "words": {str(i): word for i, word in sorted(words.items())},
        "steps": {"first": steps[0].index if steps else 0, "text": [step.text for step in steps], **scalars},
        "candidates": {
            "count": [len(slate.ids) for slate in slates],
            "inside": [slate.inside for slate in slates],
            **packed,
            "log_q": {name: _pack((s.log_q[k] for s in slates), "<f4") for k, name in enumerate(seats)},
            "log_q0": {seats[k]: _pack((s.log_q0[k] for s in slates), "<f4") for k in before},
        },
    }


def _short(x: float) -> float:
    """The shortest number that is the same in float32, in which all of them were computed."""
    return float(str(np.float32(x)))


def _pack(parts: Iterable[Sequence[float]], dtype: str) -> str:
    flat = [x for part in parts for x in part]
    return base64.b64encode(np.array(flat, dtype).tobytes()).decode()


# Reading --------------------------------------------------------------------------------------------------------------


def from_record(record: Any) -> Trace:
    """The trace of a record. Raises UserError for what is none, or of a version that is not known here."""
    if not isinstance(record, dict):
        raise UserError("This is not a trace.")
    if record.get("version", 0) not in (0, VERSION):
        raise UserError(f"This trace is of version {str(record['version'])[:20]}; {VERSION} is known here.")
    head = {name: _get(record, name, kind) for name, kind in HEAD.items()}
    if head["done"] not in DONE or len(head["text"]) > LONGEST_TEXT:
        raise UserError("This trace does not say how its answer ended, or is too long.")
    check_settings(head["settings"], head["lane"])
    names = seats(head["settings"], head["lane"])
    is_old = "version" not in record
    steps = tuple(_old_steps(record, head["lane"], len(names)) if is_old else _steps(record, head["lane"], names))
    return Trace(**head, steps=steps)


def check_settings(settings: dict, lane: str) -> None:
    """What views and replays rely on. Numbers are checked where they are used again, as of any request."""
    lanes, modes = _get(settings, "lanes", dict), _get(settings, "modes", dict)
    for name, kind in get_type_hints(DecodingSettings).items():
        _get(settings, name, kind)
    _get(modes, lane, str)
    for aligner in _get(lanes, lane, list):
        _get(aligner, "name", str), _get(aligner, "beta", float), _get(aligner, "revision", str)
        if aligner.get("tau") is not None:
            _get(aligner, "tau", float)
    for token in settings.get("forced", []):
        if type(token) is not int or token < 0:
            raise UserError("This trace was forced to begin with something that is no token.")


def _steps(record: dict, lane: str, seats: Sequence[str]) -> Iterator[Step]:
    words, scalars, packed = (_get(record, name, dict) for name in ("words", "steps", "candidates"))
    text = _column(scalars, "text", str, None)
    n = len(text)
    if n > MOST_STEPS:
        raise UserError(f"This trace has {n:,} steps; {MOST_STEPS:,} are the most that are opened.")
    first = _get(scalars, "first", int)
    numbers = {name: _column(scalars, name, int, n) for name in WHOLE}
    numbers |= {name: _column(scalars, name, float, n) for name in FLOATS}
    monitors = _get(scalars, "monitors", dict) if len(seats) > 1 else {}
    watched = [
        {part: _column(_get(monitors, name, dict), part, int if part == "gated" else float, n) for part in MONITOR}
        for name in (seats if monitors else ())
    ]
    count, inside = (_column(packed, name, int, n) for name in ("count", "inside"))
    if any(not 0 < few <= many for few, many in zip(inside, count, strict=True)) or sum(count) > MOST_CANDIDATES:
        raise UserError("This trace's candidates do not fit its steps.")
    total = sum(count)
    flat = {name: _unpack(_get(packed, name, str), dtype, total, name == "noise") for name, dtype in COLUMNS.items()}
    texts = [_get(words, str(i), str) for i in flat["id"]]
    log_q = [_unpack(_get(_get(packed, "log_q", dict), name, str), "<f4", total) for name in seats]
    known = _get(packed, "log_q0", dict)
    log_q0 = [_unpack(_get(known, name, str), "<f4", total) if name in known else None for name in seats]
    at = 0
    for i in range(n):
        here = slice(at, at := at + count[i])
        in_nucleus = flat["id"][here][: inside[i]]
        if not {numbers["token"][i], numbers["base_token"][i]} <= set(in_nucleus) or not numbers["mass"][i] > 0:
            raise UserError(f"This trace cannot be read: step {i + 1} does not list what it drew.")
        yield Step(
            lane=lane,
            index=first + i,
            text=text[i],
            **{name: column[i] for name, column in numbers.items()} | {"gated": bool(numbers["gated"][i])},
            slate=Slate(
                ids=tuple(flat["id"][here]),
                texts=tuple(texts[here]),
                inside=inside[i],
                **{name: tuple(flat[name][here]) for name in ("log_p", "noise", "draws", "weight")},
                log_q=tuple(tuple(column[here]) for column in log_q),
                log_q0=tuple(None if column is None else tuple(column[here]) for column in log_q0),
            ),
            monitors=tuple(
                Monitor(name, mine["kl"][i], bool(mine["gated"][i]), mine["support"][i])
                for name, mine in zip(seats, watched, strict=False)
            ),
        )


def _get(record: Any, name: str, kind: type) -> Any:
    """One value of a kind; a whole number is a number too. Raises UserError."""
    value = record.get(name) if isinstance(record, dict) else None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise UserError(f"This trace cannot be read: its {name[:40]!r} is missing or not what it should be.")
    return value


def _column(record: dict, name: str, kind: type, length: int | None) -> list:
    values = _get(record, name, list)
    if length is not None and len(values) != length:
        raise UserError(f"This trace cannot be read: its {name!r} has {len(values):,} entries, not {length:,}.")
    return [_get({name: value}, name, kind) for value in values]


def _unpack(text: str, dtype: str, length: int, may_lack: bool = False) -> list:
    try:
        found = np.frombuffer(base64.b64decode(text, validate=True), dtype)
    except (binascii.Error, ValueError):
        found = None
    is_whole = found is not None and len(found) == length
    if not is_whole or np.isposinf(found).any() or (np.isnan(found).any() and not may_lack):
        raise UserError("This trace cannot be read: a column of its candidates is broken.")
    return found.tolist()


# Before there were versions -------------------------------------------------------------------------------------------


def _old_steps(record: dict, lane: str, seats: int) -> Iterator[Step]:
    """Steps that listed each candidate with its p, q and weight, and nothing more."""
    for i, raw in enumerate(_get(record, "steps", list)):
        listed = _get(raw, "candidates", list)
        p, q, weight = ([_get(c, name, float) for c in listed] for name in ("p", "q", "weight"))
        ids = [_get(c, "token", int) for c in listed]
        nothing = (math.nan,) * len(ids)
        yield Step(
            lane=lane,
            index=i,
            text=_get(raw, "text", str),
            **{name: _get(raw, name, int) for name in ("token", "base_token", "nucleus")},
            **{name: _get(raw, name, float) for name in ("kl", "support", "entropy", "push", "ms")},
            gated=_get(raw, "gated", bool),
            rank_p=1 + sum(x > p[ids.index(raw["token"])] for x in p) if raw["token"] in ids else 1,
            rank=1 + sum(x > weight[ids.index(raw["token"])] for x in weight) if raw["token"] in ids else 1,
            slate=Slate(
                ids=tuple(ids),
                texts=tuple(_get(c, "text", str) for c in listed),
                inside=len(ids),
                log_p=tuple(map(_log, p)),
                noise=nothing,
                draws=(0,) * len(ids),
                weight=tuple(weight),
                # What each of several aligners said was not kept.
                log_q=(tuple(map(_log, q)),) if seats == 1 else ((-math.inf,) * len(ids),) * seats,
                log_q0=(None,) * seats,
            ),
            monitors=tuple(map(_old_monitor, _get(raw, "monitors", list))) if seats > 1 else (),
        )


def _old_monitor(raw: Any) -> Monitor:
    kinds = {"aligner": str, "kl": float, "gated": bool, "support": float}
    return Monitor(**{name: _get(raw, name, kind) for name, kind in kinds.items()})


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
