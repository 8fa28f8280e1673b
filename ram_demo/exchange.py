"""Both sides of a battle answering one prompt, and what may be seen of it while they do.

Neither pace nor length gives a side away: at each moment both are shown up to the same token, so the faster one waits;
when one has ended, the other goes on at the pace at which they went together; and nobody is told that a side has ended
until both have, and all of it was shown. Knows plans and the loop; knows nothing of votes, pages or who asks.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ram_demo.decoding.loop import Told, Waiting
from ram_demo.decoding.trace import Step, Trace
from ram_demo.workbench import Plan, Workbench

FASTEST = 40.0  # tokens a second that are shown: quicker than anybody reads


@dataclass(frozen=True)
class News:
    """What may be seen beyond the first `heard` tokens. state: waiting, running, ended or failed. ahead: who comes
    first, while one waits in line. heard: to be given at the next asking."""

    state: str
    ahead: Waiting | None
    a: str
    b: str
    heard: int


class Exchange:
    """Two comparisons of one lane each, in everybody's loop. gone: has nobody asked for too long?"""

    def __init__(self, bench: Workbench, prompt: str, plans: dict[str, Plan], gone: Callable[[], bool]):
        self.prompt, self.plans = prompt, plans
        self.traces: dict[str, Trace] = {}
        self.error: Exception | None = None
        self._gone = gone
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._steps: dict[str, list[Step]] = {side: [] for side in plans}
        self._left: set[str] = set()  # sides that the loop has let go of
        self._ahead: Waiting | None = None
        self._pace, self._together = FASTEST, None
        self._shown, self._looked = 0.0, None
        try:
            for side, plan in plans.items():
                bench.submit(plan, self._stop, partial(self._hear, side))
        except Exception:
            self.stop()
            raise

    @property
    def over(self) -> bool:
        """Has the loop let go of both sides? What they said may not all be shown yet."""
        return len(self._left) == len(self._steps)

    @property
    def whole(self) -> bool:
        """Have both sides said something, to its end, and was there no error?"""
        said = [trace for trace in self.traces.values() if trace.steps]
        return self.over and self.error is None and len(said) == len(self._steps)

    def stop(self) -> None:
        """Ask both to end; they do so within one step."""
        self._stop.set()

    def text(self, side: str) -> str:
        return self.traces[side].text

    def news(self, heard: int) -> News:
        """What may be seen by now, after the first `heard` tokens of each side."""
        with self._lock:
            shown = self._released()
            a, b = ("".join(step.text for step in self._steps[side][heard:shown]) for side in ("a", "b"))
            if self.error is not None or (self.over and not self.whole):
                state = "failed"
            elif self.over and shown == max(map(len, self._steps.values())):
                state = "ended"
            else:
                state = "running" if shown else "waiting"
            return News(state, None if shown else self._ahead, a, b, max(shown, heard))

    def _released(self) -> int:
        """How many tokens of each side may be seen. A side that has ended holds nobody back."""
        growing = [len(steps) for side, steps in self._steps.items() if side not in self._left]
        there = min(growing) if growing else max(map(len, self._steps.values()))
        now = time.monotonic()
        if self._stop.is_set() and self.over:
            self._shown = there
        elif there:
            more = 1 if self._looked is None else self._pace * (now - self._looked)
            self._shown = min(there, self._shown + more)
            self._looked = now
        return int(self._shown)

    def _hear(self, side: str, told: Told | Exception | None) -> None:
        with self._lock:
            if told is None or isinstance(told, Exception):
                self._left.add(side)
                self.error = self.error or told
            elif isinstance(told, Waiting):
                self._ahead = told
            elif isinstance(told, Trace):
                self.traces[side] = told
                self._slow_down(len(told.steps))
            else:
                self._steps[side] += told
                if self._together is None and all(self._steps.values()):
                    self._together = time.monotonic()
        if isinstance(told, Exception) or self._gone():
            self.stop()

    def _slow_down(self, tokens: int) -> None:
        """One has ended: from now on no quicker than both together were, or the other's own pace would show."""
        took = time.monotonic() - self._together if self._together is not None else 0
        if took > 0 and self._pace == FASTEST:
            self._pace = min(FASTEST, tokens / took)
