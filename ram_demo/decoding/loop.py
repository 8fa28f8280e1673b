"""One loop for everybody: comparisons join and leave one batch between two steps.

It drives the coroutines of `engine.compare`: every tick reads one piece of one newcomer's prompt and takes one step for
all the others, their rows in one forward for each model. Whoever does not fit into memory waits in line, told how many
are ahead and about how long. A comparison that fails, stops or is closed leaves alone; nobody else notices.

Knows models only as things that step. It runs in a thread of its own while there is work, and in none otherwise.
"""

import heapq
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from torch import Tensor

from ram_demo.decoding.engine import Asked, Forward
from ram_demo.decoding.trace import Step, Trace
from ram_demo.errors import UserError
from ram_demo.models.language_model import LanguageModel

MOST_ROWS = 48  # in one forward: more would make everybody slow, where waiting in line makes only newcomers wait
TELL_SECONDS = 0.5  # those who wait are told how it stands about so often


@dataclass(frozen=True)
class Waiting:
    """ahead: how many comparisons come first; seconds: until one's own begins, at the longest, as things stand."""

    ahead: int
    seconds: float


Told = tuple[Step, ...] | Trace | Waiting


@dataclass(eq=False)
class Ticket:
    """One comparison in the loop. size: bytes its caches may take; rows: it may have at most; steps: likewise; uses:
    the adapters (model, name) that it needs. forward: what it asks for; None while it reads its prompt."""

    growing: Generator[Asked, dict[LanguageModel, Tensor] | None, None]
    size: int
    rows: int
    steps: int
    uses: frozenset
    stop: threading.Event
    tell: Callable[[Told | Exception | None], None]
    forward: Forward | None = None
    closed: bool = False


class Loop:
    """budget: bytes that all caches together may take."""

    def __init__(self, budget: int):
        self.budget = budget
        self.changed = threading.Condition()
        self.line: deque[Ticket] = deque()
        self.active: list[Ticket] = []
        self.step_seconds = 0.05  # what a tick took lately
        self._thread: threading.Thread | None = None
        self._ticking, self._guests = False, 0
        self._told_at = 0.0

    def submit(
        self,
        growing: Generator,
        size: int,
        rows: int,
        steps: int,
        uses: Iterable,
        stop: threading.Event,
        tell: Callable[[Told | Exception | None], None],
    ) -> Ticket:
        """Take a comparison in. tell is called in the loop's thread, which waits for it: with what the comparison
        tells, and last with None, or with the exception that ended it.

        Stopped while it waits in line, it ends without having told anything but that it waits. Raises UserError if it
        needs more memory than there can be.
        """
        if size > self.budget:
            raise UserError(
                f"This comparison may need {size / 2**30:.1f} GB for its caches, and {self.budget / 2**30:.1f} GB are "
                "set aside for all: ask for a shorter answer, fewer aligners or a shorter prompt."
            )
        ticket = Ticket(growing, size, rows, steps, frozenset(uses), stop, tell)
        with self.changed:
            self.line.append(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="decoding", daemon=True)
                self._thread.start()
            self.changed.notify_all()
        return ticket

    def run(
        self, growing: Generator, size: int, rows: int, steps: int, uses: Iterable, stop: threading.Event
    ) -> Iterator[Told]:
        """The same as an iterator over what is told. Closing it ends the comparison within a step."""
        told: SimpleQueue[Told | Exception | None] = SimpleQueue()
        ticket = self.submit(growing, size, rows, steps, uses, stop, told.put)
        try:
            while (item := told.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            ticket.closed = True

    @contextmanager
    def between(self, ready: Callable[[], bool] = lambda: True):
        """Hold the loop between two ticks, as soon as `ready`: for changes to what is loaded."""
        with self.changed:
            while self._ticking or not ready():
                self.changed.wait()
            self._guests += 1
        try:
            yield
        finally:
            with self.changed:
                self._guests -= 1
                self.changed.notify_all()

    def is_used(self, adapter: tuple[LanguageModel, str | None]) -> bool:
        """Does anybody who runs or waits need it?"""
        return any(adapter in ticket.uses for ticket in (*self.active, *self.line))

    # In the loop's own thread ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self.changed:
                while self._guests:
                    self.changed.wait()
                self._admit()
                if not self.active:  # then nobody is in line either: one who is alone always fits
                    self._thread = None
                    return
                self._ticking = True
            try:
                self._tick()
            finally:
                with self.changed:
                    self._ticking = False
                    self.changed.notify_all()

    def _admit(self) -> None:
        """First come, first served: those at the head of the line for whom there is room."""
        for ticket in [t for t in self.line if t.closed or t.stop.is_set()]:
            self.line.remove(ticket)
            self._end(ticket)
        while self.line and (not self.active or self._fits(self.line[0])):
            self.active.append(self.line.popleft())
        if self.line and time.monotonic() - self._told_at > TELL_SECONDS:
            self._told_at = time.monotonic()
            for ahead, (ticket, steps) in enumerate(zip(self.line, self._steps_until(), strict=True), 1):
                _tell(ticket, Waiting(ahead, steps * self.step_seconds))

    def _fits(self, ticket: Ticket) -> bool:
        return (
            sum(t.size for t in self.active) + ticket.size <= self.budget
            and sum(t.rows for t in self.active) + ticket.rows <= MOST_ROWS
        )

    def _steps_until(self) -> Iterator[int]:
        """For each in line, after how many steps it begins if everybody before it takes all that they may."""
        now = 0
        size, rows = sum(t.size for t in self.active), sum(t.rows for t in self.active)
        ending = [(t.steps, n, t) for n, t in enumerate(self.active)]
        heapq.heapify(ending)
        for n, ticket in enumerate(self.line, len(ending)):
            while ending and (size + ticket.size > self.budget or rows + ticket.rows > MOST_ROWS):
                now, _, gone = heapq.heappop(ending)
                size, rows = size - gone.size, rows - gone.rows
            size, rows = size + ticket.size, rows + ticket.rows
            heapq.heappush(ending, (now + ticket.steps, n, ticket))
            yield now

    def _tick(self) -> None:
        began = time.monotonic()
        for ticket in [t for t in self.active if t.closed]:
            self._end(ticket)
        stepping = [ticket for ticket in self.active if ticket.forward]
        reader = next((ticket for ticket in self.active if not ticket.forward), None)
        if reader:
            self.active.remove(reader)  # to the end, so that those who read take turns
            self.active.append(reader)
            self._resume(reader, None)
        for ticket, answer in self._forward(stepping):
            ticket.steps -= 1
            self._resume(ticket, answer)
        self.step_seconds += 0.2 * (time.monotonic() - began - self.step_seconds)

    def _forward(self, tickets: list[Ticket]) -> list[tuple[Ticket, dict[LanguageModel, Tensor]]]:
        """Everybody's step, one forward for each model. If it fails, each is asked alone, to see whose fault it is."""
        answers: dict[int, dict[LanguageModel, Tensor]] = {id(ticket): {} for ticket in tickets}
        failed = set()
        for model in dict.fromkeys(model for ticket in tickets for model in ticket.forward.asks):
            mine = [ticket for ticket in tickets if model in ticket.forward.asks and id(ticket) not in failed]
            try:
                for ticket, logits in zip(mine, _step(model, mine), strict=True):
                    answers[id(ticket)][model] = logits
            except Exception:
                for ticket in mine:
                    try:
                        (answers[id(ticket)][model],) = _step(model, [ticket])
                    except Exception as error:
                        failed.add(id(ticket))
                        self._end(ticket, error)
        return [(ticket, answers[id(ticket)]) for ticket in tickets if id(ticket) not in failed]

    def _resume(self, ticket: Ticket, answer: dict[LanguageModel, Tensor] | None) -> None:
        """Let a comparison go on until it asks for something again."""
        try:
            asked = ticket.growing.send(answer)
            while asked is not None and not isinstance(asked, Forward):
                ticket.tell(asked)
                asked = next(ticket.growing)
            ticket.forward = asked
        except StopIteration:
            self._end(ticket)
        except Exception as error:
            self._end(ticket, error)

    def _end(self, ticket: Ticket, error: Exception | None = None) -> None:
        """Let go of a comparison and what it holds, and tell whoever listens why."""
        if ticket in self.active:
            self.active.remove(ticket)
        ticket.growing.close()
        ticket.forward = None
        _tell(ticket, _in_words(error))


def _tell(ticket: Ticket, told: Waiting | Exception | None) -> None:
    """A listener that fails is nobody else's misfortune."""
    try:
        ticket.tell(told)
    except Exception:
        traceback.print_exc()


def _step(model: LanguageModel, tickets: list[Ticket]) -> tuple[Tensor, ...]:
    """One forward for all. Returns each one's logits."""
    asks = [ticket.forward.asks[model] for ticket in tickets]
    logits = model.step(torch.cat([tokens for tokens, _ in asks]), [rows for _, rows in asks])
    return logits.split([len(tokens) for tokens, _ in asks])


def _in_words(error: Exception | None) -> Exception | None:
    """Memory that ran out is for the one to know whom it befell; anything else is as it was."""
    short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return (
        UserError("There was not enough memory for this; ask for a shorter answer or fewer aligners.")
        if short
        else error
    )
