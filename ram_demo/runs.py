"""Comparisons under way and just ended: a thread that generates, an append-only record that pages read, and the vote.

A run belongs to the browser session that started it: only that session may stop it or vote on it. The thread does not
depend on anybody reading, so a page that closes or stalls holds nothing up. Knows nothing of gradio.
"""

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from uuid import uuid4

from ram_demo.decoding.loop import Told, Waiting
from ram_demo.decoding.trace import Step, Trace
from ram_demo.errors import UserError
from ram_demo.request import Request
from ram_demo.responses import response_of
from ram_demo.votes import CHOICES, Battle, Response, VoteStore
from ram_demo.workbench import Opening, Plan

log = logging.getLogger(__name__)

KEPT = 100  # ended runs that can still be voted on
UNHEARD_SECONDS = 20  # a run whose page has not asked for so long is given up


@dataclass(frozen=True)
class News:
    """What happened since a reader last asked: where the run stands, and the steps and traces that are new."""

    state: str  # opening, waiting, running, ended, failed
    note: str  # what is going on, or what went wrong
    steps: tuple[Step, ...]
    traces: tuple[Trace, ...]
    heard: int  # to be given at the next asking


class Run:
    """One comparison, generating in its own thread. Read it with `news`, end it with `stop`."""

    def __init__(self, request: Request, session: str, opening: Opening):
        self.id = uuid4().hex
        self.request, self.session, self.opening = request, session, opening
        self.plan: Plan | None = None
        self.traces: dict[str, Trace] = {}
        self.battles: dict[tuple[str, str], str] = {}
        self.voting = threading.Lock()
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._events: list[Step | Trace] = []
        self._state, self._note = "opening", ""
        self._asked = time.monotonic()
        threading.Thread(target=self._begin, name=f"run-{self.id[:6]}", daemon=True).start()

    @property
    def ended(self) -> bool:
        return self._state in ("ended", "failed")

    def stop(self) -> None:
        """Ask it to end; it does so within one step."""
        self._stop.set()

    def listen(self) -> None:
        """Somebody is there: a run that nobody asks for is given up."""
        self._asked = time.monotonic()

    def news(self, heard: int, wait: float) -> News:
        """What is new after the first `heard` events, waiting at most `wait` seconds for something to happen."""
        self.listen()
        with self._changed:
            if len(self._events) == heard and not self.ended:
                self._changed.wait(wait)
            new = self._events[heard:]
            return News(
                self._state,
                self._note,
                tuple(e for e in new if isinstance(e, Step)),
                tuple(e for e in new if isinstance(e, Trace)),
                len(self._events),
            )

    def _tell(self, state: str, note: str = "", events: tuple[Step | Trace, ...] = ()) -> None:
        with self._changed:
            self._state, self._note = state, note
            self._events += events
            self._changed.notify_all()

    def _given_up(self) -> bool:
        return self._stop.is_set() or time.monotonic() - self._asked > UNHEARD_SECONDS

    def _begin(self) -> None:
        try:
            bench = self.opening.wait(lambda what, _share: self._tell("opening", what), self._given_up)
            if bench is None:
                return self._tell("ended", "stopped before it began")
            self.plan = bench.plan(self.request, lambda what, _share: self._tell("opening", what))
            bench.submit(self.plan, self._stop, self._hear)
        except Exception as error:
            self._fail(error)

    def _hear(self, told: Told | Exception | None) -> None:
        if told is None:
            self._tell("ended", "" if self.traces else "stopped while waiting")
        elif isinstance(told, Exception):
            self._fail(told)
        elif isinstance(told, Waiting):
            self._tell("waiting", _queue(told))
        elif isinstance(told, Trace):
            self.traces[told.lane] = told
            self._tell("running", "", (told,))
        else:
            self._tell("running", "", told)
        if self._given_up():
            self._stop.set()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, UserError):
            return self._tell("failed", str(error))
        log.error("run %s failed", self.id, exc_info=error)
        self._tell("failed", "Something went wrong here; it is in the log. Nothing of your vote or data is lost.")


def _queue(waiting: Waiting) -> str:
    ahead = "One comparison is" if waiting.ahead == 1 else f"{waiting.ahead} comparisons are"
    return f"{ahead} ahead of yours; it begins within about {max(1, round(waiting.seconds))} s."


class Runs:
    """Every run that can still be read, stopped or voted on, by id, and the store that votes go to."""

    def __init__(self, opening: Opening, store: VoteStore):
        self.opening, self.store = opening, store
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, request: Request, session: str) -> Run:
        """Begin a run; an earlier one of the same session that is still going is stopped."""
        self.stop(session)
        run = Run(request, session, self.opening)
        with self._lock:
            self._runs[run.id] = run
            ended = [key for key, other in self._runs.items() if other.ended]
            for key in ended[: max(0, len(self._runs) - KEPT)]:
                del self._runs[key]
        return run

    def find(self, run_id: str) -> Run:
        with self._lock:
            run = self._runs.get(run_id)
        if run is None:
            raise UserError("This comparison is no longer here; run it again.")
        return run

    def stop(self, session: str) -> None:
        """Stop what this session is running."""
        with self._lock:
            mine = [run for run in self._runs.values() if run.session == session and not run.ended]
        for run in mine:
            run.stop()

    def vote(self, run_id: str, session: str, pair: tuple[str, str], choice: str) -> int:
        """Record the battle of two lanes of a run, and the session's vote on it. Returns the number of votes there are.

        Raises UserError unless the session ran it, both lanes have ended, and it is the first vote; StorageError if it
        could not be saved.
        """
        run = self.find(run_id)
        if run.session != session:
            raise UserError("Only the browser session that ran a comparison may vote on it.")
        if choice not in CHOICES:
            raise UserError(f"There is no vote {choice!r}; there are: {', '.join(CHOICES)}.")
        if not run.ended or not set(pair) <= set(run.traces):
            raise UserError("Both answers must have ended before they are voted on.")
        shown = list(run.plan.record["lanes"])
        if shown.index(pair[0]) >= shown.index(pair[1]):
            raise UserError("A vote is on two different answers, in the order in which they are shown.")
        with run.voting:
            if pair not in run.battles:
                run.battles[pair] = self.store.record_battle(_battle(run, pair))
        self.store.vote(run.battles[pair], choice, session)
        return self.store.count()


def _battle(run: Run, pair: tuple[str, str]) -> Battle:
    record = run.plan.record
    return Battle(
        prompt=run.request.prompt,
        session=run.session,
        seed=record["seed"],
        mode=record["modes"][pair[1]],
        settings=record,
        proposal=record["proposal"],
        proposal_revision=record["proposal_revision"],
        a=_response(run, pair[0]),
        b=_response(run, pair[1]),
    )


def _response(run: Run, lane: str) -> Response:
    trace, aligners = run.traces[lane], run.plan.record["lanes"][lane]
    return response_of(trace, aligners)
