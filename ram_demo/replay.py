"""A battle run again from what was kept of it, token for token. Knows what votes keep and the workbench; no pages.

Each answer is asked for anew with its own seed, settings, strength and gate, after the history it had, and compared
with its trace as it grows. What has changed since (an aligner, the proposal, how weights are kept) is told beside.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.loop import Told
from ram_demo.decoding.trace import Trace
from ram_demo.errors import UserError
from ram_demo.request import Choice, Request
from ram_demo.votes import Battle, Response
from ram_demo.workbench import Workbench

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """Where a replay first said something else: turn and token count from 0."""

    side: str
    turn: int
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


class Replay:
    """Every answer of a battle, generated again and compared."""

    def __init__(self, bench: Workbench, battle: Battle):
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done: dict[tuple[int, str], int] = {}
        self._left = 0
        self._differs: Difference | None = None
        self._problem = ""
        plans = [((turn, side), response, bench.plan(asked)) for turn, side, response, asked in requests(battle)]
        self._wanted = {key: [step["token"] for step in response.trace["steps"]] for key, response, _ in plans}
        changed = [words for _, response, plan in plans for words in _changed(response.trace["settings"], plan.record)]
        self._changes = tuple(dict.fromkeys(changed))
        for key, _, plan in plans:
            bench.submit(plan, self._stop, partial(self._hear, key))

    def standing(self) -> Standing:
        with self._lock:
            over = self._left == len(self._wanted)
            of = sum(map(len, self._wanted.values()))
            return Standing(over, sum(self._done.values()), of, self._differs, self._changes, self._problem)

    def _hear(self, key: tuple[int, str], told: Told | Exception | None) -> None:
        with self._lock:
            if told is None or isinstance(told, Exception):
                self._left += 1
                if told is not None and not self._problem:
                    self._problem = _words(told)
            elif isinstance(told, tuple):
                for step in told:
                    self._compare(key, step.index, step.token)
            elif isinstance(told, Trace) and len(told.steps) < len(self._wanted[key]):
                self._compare(key, len(told.steps), None)

    def _compare(self, key: tuple[int, str], index: int, token: int | None) -> None:
        wanted = self._wanted[key]
        if index >= len(wanted):  # the first run was stopped here
            return
        self._done[key] = index + 1
        if token != wanted[index] and self._differs is None:
            self._differs = Difference(key[1], key[0], index)
        if all(self._done.get(other) == len(tokens) for other, tokens in self._wanted.items()):
            self._stop.set()  # an answer that was stopped then would go on now


def requests(battle: Battle) -> Iterator[tuple[int, str, Response, Request]]:
    """(turn, side, what was answered, what asks for it again), each after the history that its own side had: as the
    traces have it, where every character was kept."""
    history: dict[str, list[tuple[str, str]]] = {"a": [], "b": []}
    for number, turn in enumerate(battle.turns):
        for side, response in (("a", turn.a), ("b", turn.b)):
            yield number, side, response, _request(turn.prompt, response, tuple(history[side]))
            history[side] += [("user", turn.prompt), ("assistant", response.trace["text"])]


def _request(prompt: str, response: Response, history: tuple[tuple[str, str], ...]) -> Request:
    record = response.trace["settings"]
    aligners = record["lanes"][response.lane]
    values = {field.name: record[field.name] for field in fields(DecodingSettings)}
    taus = [aligner["tau"] for aligner in aligners]
    return Request(
        prompt,
        (tuple(Choice(aligner["name"], aligner["beta"]) for aligner in aligners),),
        tau="off" if not taus or taus[0] is None else taus[0],
        settings=DecodingSettings(**{**values, "mode": record["modes"][response.lane]}),
        with_base=False,
        history=history,
    )


def _changed(then: dict, now: dict) -> Iterator[str]:
    words = {
        "proposal": "the proposal is another one",
        "proposal_revision": "the proposal's weights are other ones",
        "engine": "another engine runs the proposal",
        "precision": "the weights are kept in another form",
    }
    yield from (sentence for name, sentence in words.items() if then[name] != now[name])
    for lane, aligners in now["lanes"].items():
        for old, new in zip(then["lanes"][lane], aligners, strict=True):
            if old["revision"] != new["revision"]:
                yield f"the aligner {new['name']} has other weights"


def _words(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    log.error("a replay failed", exc_info=error)
    return "Something went wrong in the replay; it is in the log."
