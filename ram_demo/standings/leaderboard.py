"""The standings of a store, kept until a vote or a review is new."""

import threading
import time
from dataclasses import dataclass, field

from ram_demo.standings import numbers
from ram_demo.standings.reckon import standings
from ram_demo.standings.records import Filters, Standings
from ram_demo.votes import VoteStore

ALL = Filters()
KEPT = 16  # standings, of as many filters
REST = 10.0  # times as long as reading took, nothing is read again: a million votes take seconds


@dataclass
class Leaderboard:
    """The standings of a store, worked out anew only when there is something new. Threads may share one."""

    store: VoteStore
    rest: float = REST
    _version: tuple[int, int] | None = None
    _votes: numbers.Votes | None = None
    _standings: dict[Filters, Standings] = field(default_factory=dict)
    _next: float = 0.0  # when the store may be read again
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def version(self) -> tuple[int, int]:
        """Changes when there are new standings to ask for. Cheap."""
        return self._version if time.monotonic() < self._next else self.store.version()

    def standings(self, filters: Filters = ALL) -> Standings:
        """Raises UserError for a filter that cannot be, StorageError where the votes cannot be read."""
        with self._lock:
            now = self.version()
            if self._version != now:
                began = time.monotonic()
                self._votes, self._standings = numbers.votes(self.store.ballots(only_counting=False)), {}
                ended = time.monotonic()
                self._version, self._next = now, ended + self.rest * (ended - began)
            if filters not in self._standings:
                while len(self._standings) >= KEPT:
                    del self._standings[next(iter(self._standings))]
                styles = self.store.styles() if filters.control == "style" else None
                self._standings[filters] = standings(self._votes, filters, styles)
            return self._standings[filters]
