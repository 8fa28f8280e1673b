"""Who may do what in the Train tab. On a page that others reach visitors have limits, and the owner's token lifts them.

Every handler asks here for itself: a private endpoint can still be posted to. Knows settings and jobs; knows no page.
"""

import hmac
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ram_demo.errors import UserError
from ram_demo.settings import Settings
from ram_demo.training import rows
from ram_demo.training.jobs import OVER, Jobs
from ram_demo.training.recipe import Recipe

STEPS, ROWS, RANK, BATCH = 60, 200, 32, 16
LIMITS = (
    f"This page can be reached by others, so a run here is limited to {ROWS} rows and {STEPS} steps of an adapter, one "
    "run at a time, and the votes are not for training. The owner's token lifts the limits."
)


@dataclass
class Guard:
    settings: Settings
    jobs: Jobs
    _started: dict[str, str] = field(default_factory=dict)  # run -> the visit that started it
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_needed(self) -> bool:
        return self.settings.is_public

    def is_owner(self, token: str) -> bool:
        """A page for this machine alone is its owner's. Without a token in the settings nobody else is."""
        wanted = self.settings.owner_token
        return not self.is_needed or (bool(wanted) and hmac.compare_digest(str(token).encode(), wanted.encode()))

    def start(self, token: str, visit: str, recipe: Recipe, data: Path) -> str:
        """Start a run as this visitor may. Returns its name. Raises UserError where a limit is met."""
        if self.is_owner(token):
            return self.jobs.start(recipe, data).name
        trains_all = recipe.method != "lora" or recipe.warm_up_epochs > 0
        if trains_all or recipe.lora_rank > RANK or recipe.batch_size * recipe.accumulate > BATCH:
            raise UserError(f"Visitors train adapters alone, of rank {RANK} and {BATCH} rows a step at most.")
        count = len(rows.read(data).examples)
        if count > ROWS:
            raise UserError(f"These are {count} rows; visitors may train on at most {ROWS}.")
        with self._lock:  # two visitors at once see the same jobs
            jobs = self.jobs.all()
            if any(job.state not in OVER for job in jobs):
                raise UserError("A run is going on, and visitors may start one at a time; try again when it is over.")
            taken = any(job.name == recipe.name for job in jobs) and self._started.get(recipe.name) != visit
            if taken or (self.settings.own_aligners / recipe.name).exists():
                raise UserError(f"The name {recipe.name} is taken here; choose another one.")
            name = self.jobs.start(recipe, data, max_steps=STEPS).name
            self._started[name] = visit
        return name

    def require(self, token: str, visit: str, run: str) -> None:
        """Raise UserError unless this visitor may stop, resume, delete or use the run: its starter, or the owner."""
        if not self.is_owner(token) and self._started.get(run) != visit:
            raise UserError("Only who started this run, or the owner of this page with the token, can do that.")

    def require_owner(self, token: str, what: str) -> None:
        if not self.is_owner(token):
            raise UserError(f"{what} takes the owner's token on a page that others can reach.")
