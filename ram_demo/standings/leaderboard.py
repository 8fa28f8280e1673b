"""The standings of a store, kept until a vote or a review is new."""

import threading
from dataclasses import dataclass, field

from ram_demo.standings.reckon import standings
from ram_demo.standings.records import Filters, Standings
from ram_demo.votes import Columns, VoteStore

KEPT = 16  # standings, of as many filters


ALL = Filters()


@dataclass
class Leaderboard:
    """The standings of a store, worked out anew only when there is something new. Threads may share one."""

    store: VoteStore
    _known: tuple = ()
    _columns: Columns | None = None
    _standings: dict[Filters, Standings] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def version(self) -> tuple[int, int]:
        """What changes when a vote or a review comes in. Cheap."""
        return self.store.version()

    def standings(self, filters: Filters = ALL) -> Standings:
        """Raises UserError for a filter that cannot be, StorageError where the votes cannot be read."""
        with self._lock:
            now = self.version()
            if self._known != now:
                self._columns, self._known, self._standings = self.store.ballots(only_counting=False), now, {}
            if filters not in self._standings:
                while len(self._standings) >= KEPT:
                    del self._standings[next(iter(self._standings))]
                styles = self.store.styles() if filters.control == "style" else None
                self._standings[filters] = standings(self._columns, filters, styles)
            return self._standings[filters]
