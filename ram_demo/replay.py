"""Answers given again from what was kept of them, token for token. Knows traces and the workbench; no pages, no votes.

Each answer is asked for anew with its own seed, settings, strength and gate, after the history it had, and compared as
it grows. What has changed since (an aligner, the proposal, how weights are kept) is told beside.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.loop import Told
from ram_demo.decoding.trace import Trace
from ram_demo.errors import UserError
from ram_demo.request import Choice, Request
from ram_demo.workbench import Plan, Workbench

log = logging.getLogger(__name__)

Place = tuple[int, str]
"""Turn, from 0, and the name of a lane in it."""


@dataclass(frozen=True)
class Asked:
    """One answer as it was: the lane and settings of its trace, what it answered, and the tokens it drew (those that it
    was forced to begin with are in the settings)."""

    prompt: str
    history: tuple[tuple[str, str], ...]
    lane: str
    settings: dict
    tokens: Sequence[int]

    def request(self) -> Request:
        """What asks for it again. Raises UserError for settings that nobody may ask for."""
        settings = self.settings
        values = {field.name: settings[field.name] for field in fields(DecodingSettings)}
        choices = tuple(
            Choice(aligner["name"], aligner["beta"], "off" if aligner["tau"] is None else aligner["tau"])
            for aligner in settings["lanes"][self.lane]
        )
        return Request(
            self.prompt,
            (choices,),
            settings=DecodingSettings(**{**values, "mode": settings["modes"][self.lane]}),
            with_base=False,
            history=self.history,
            forced=tuple(settings.get("forced", ())),
        )


@dataclass(frozen=True)
class Difference:
    """Where a replay first said something else: turn and token count from 0."""

    turn: int
    lane: str
    token: int


@dataclass(frozen=True)
class Standing:
    """How far a replay is. done: tokens compared, of so many; differs: None while all are the same; changed: what is no
    longer as it was; problem: why it cannot go on."""

    over: bool
    done: int
    of: int
    differs: Difference | None
    changed: tuple[str, ...]
    problem: str

    @property
    def is_same(self) -> bool:
        return self.over and self.differs is None and not self.problem

    def words(self) -> str:
        """What came of it, in one or two sentences; nothing while it goes on."""
        words = self.problem
        if not words and self.differs is not None:
            where = self.differs
            lane = where.lane.upper() if where.lane in ("a", "b") else where.lane  # as pages call the sides of a battle
            words = f"Not the same: {lane} differs from token {where.token + 1} of turn {where.turn + 1} on."
        elif not words and self.over:
            words = f"The same, token for token: all {self.of}."
        if self.changed and words:
            words += " Since then, " + ", ".join(self.changed) + "."
        return words


def asked_of(view: dict) -> dict[Place, Asked]:
    """Every answer of a view (`views.py`) but those of its branches."""
    return {
        (number, lane["name"]): Asked(
            turn["prompt"],
            tuple((role, said) for role, said in lane["history"]),
            lane["trace"]["lane"],
            lane["trace"]["settings"],
            lane["trace"]["steps"]["token"],
        )
        for number, turn in enumerate(view["turns"])
        for lane in turn["lanes"]
    }


class Replay:
    """Several answers, generated again and compared. traces: what was said this time, once a lane has ended."""

    def __init__(self, bench: Workbench, asked: Mapping[Place, Asked]):
        self.asked = asked
        self.traces: dict[Place, Trace] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done: dict[Place, int] = {}
        self._left = 0
        self._differs: Difference | None = None
        self._problem = ""
        plans: dict[Place, Plan] = {place: bench.plan(one.request()) for place, one in asked.items()}
        changed = [words for at, plan in plans.items() for words in _changed(asked[at].settings, plan.record)]
        self._changes = tuple(dict.fromkeys(changed))
        for place, plan in plans.items():
            bench.submit(plan, self._stop, partial(self._hear, place))

    def stop(self) -> None:
        self._stop.set()

    def standing(self) -> Standing:
        with self._lock:
            over = self._left == len(self.asked)
            of = sum(len(one.tokens) for one in self.asked.values())
            return Standing(over, sum(self._done.values()), of, self._differs, self._changes, self._problem)

    def _hear(self, place: Place, told: Told | Exception | None) -> None:
        with self._lock:
            if told is None or isinstance(told, Exception):
                self._left += 1
                if told is not None and not self._problem:
                    self._problem = _words(told)
            elif isinstance(told, tuple):
                first = len(self.asked[place].settings.get("forced", ()))
                for step in told:
                    self._compare(place, step.index - first, step.token)
            elif isinstance(told, Trace):
                self.traces[place] = told
                if len(told.steps) < len(self.asked[place].tokens):
                    self._compare(place, len(told.steps), None)

    def _compare(self, place: Place, index: int, token: int | None) -> None:
        wanted = self.asked[place].tokens
        if index >= len(wanted):  # the first run was stopped here
            return
        self._done[place] = index + 1
        if token != wanted[index] and self._differs is None:
            self._differs = Difference(*place, index)
        if all(self._done.get(other) == len(one.tokens) for other, one in self.asked.items()):
            self._stop.set()  # an answer that was stopped then would go on now


def _changed(then: dict, now: dict) -> Iterator[str]:
    words = {
        "proposal": "the proposal is another one",
        "proposal_revision": "the proposal's weights are other ones",
        "engine": "another engine runs the proposal",
        "precision": "the weights are kept in another form",
    }
    yield from (sentence for name, sentence in words.items() if then.get(name) != now[name])
    for lane, aligners in now["lanes"].items():
        for old, new in zip(then["lanes"][lane], aligners, strict=True):
            if old["revision"] != new["revision"]:
                yield f"the aligner {new['name']} has other weights"


def _words(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    log.error("a replay failed", exc_info=error)
    return "Something went wrong in the replay; it is in the log."
