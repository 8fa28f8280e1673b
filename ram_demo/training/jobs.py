"""Runs as jobs: each a folder and a process of its own; one runs, the others wait their turn. The disk is the truth.

Any number of pages, and a server that was restarted, read the same folders and see the same runs; a run outlives the
server that started it. Knows folders and processes; knows nothing of models or pages.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ram_demo.errors import StorageError, UserError
from ram_demo.models.aligners import check_name
from ram_demo.settings import Settings
from ram_demo.training.folder import RunFolder
from ram_demo.training.package import put
from ram_demo.training.recipe import Recipe

OVER = ("done", "stopped", "failed", "interrupted")
WATCH_SECONDS = 2.0  # between two looks at whether the next run can begin


@dataclass(frozen=True)
class Job:
    """state: queued, running, stopping, or how it is over: done, stopped, failed, interrupted (its process died)."""

    name: str
    state: str
    note: str
    folder: RunFolder


class Jobs:
    """The runs under one folder. Watches them, in a thread, from `watch` to `close`."""

    def __init__(self, settings: Settings):
        self.settings, self.root = settings, settings.runs
        self._children: list[subprocess.Popen] = []
        self._closed = threading.Event()

    # What there is --------------------------------------------------------------------------------------------------

    def all(self) -> list[Job]:
        """Every run, the newest first."""
        folders = [RunFolder(path.parent) for path in self.root.glob("[!.]*/config.json")]
        folders.sort(key=lambda folder: (folder.path / "config.json").stat().st_mtime, reverse=True)
        return [_job(folder) for folder in folders]

    def find(self, name: str) -> Job:
        """Raises UserError if there is none of this name."""
        check_name(name)
        folder = RunFolder(self.root / name)
        if not (folder.path / "config.json").is_file():
            raise UserError(f"There is no run named {name!r}.")
        return _job(folder)

    # What can be done -----------------------------------------------------------------------------------------------

    def start(self, recipe: Recipe, data: Path, max_steps: int | None = None) -> Job:
        """Queue a new run, with a copy of its data. One that is over gives up its name; one that is not keeps it."""
        check_name(recipe.name)
        with self._alone():
            folder = RunFolder(self.root / recipe.name)
            if folder.path.exists() and _job(folder).state not in OVER:
                raise UserError(f"A run named {recipe.name} is going on; stop it first, or choose another name.")
            folder = RunFolder.create(folder.path, asdict(recipe), data, max_steps, copy_data=True)
            folder.queue()
        self.advance()
        return self.find(recipe.name)

    def resume(self, name: str) -> None:
        """Queue a run that is over, to go on from its newest checkpoint."""
        with self._alone():
            job = self.find(name)
            if job.state not in OVER or job.state == "done":
                raise UserError(f"The run {name} is {job.state}, so there is nothing to resume.")
            job.folder.queue()
        self.advance()

    def stop(self, name: str) -> None:
        """Let a run end at its next step, keeping what it has learnt; one in the queue leaves it."""
        with self._alone():
            job = self.find(name)
            if job.state == "queued":
                job.folder.unqueue()
                job.folder.tell(kind="ended", how="stopped", note="before it began")
            elif job.state == "running":
                job.folder.ask_to_stop()

    def remove(self, name: str) -> None:
        """Delete a run that is over, and all it left."""
        with self._alone():
            job = self.find(name)
            if job.state not in OVER:
                raise UserError(f"The run {name} is {job.state}; stop it first.")
            with job.folder.writing():
                shutil.rmtree(job.folder.path)

    def use(self, name: str) -> Path:
        """Put what a run has learnt so far among the user's aligners. Returns the package's folder."""
        job = self.find(name)
        if job.folder.result is None:
            raise UserError(f"The run {name} has no checkpoint yet.")
        out = self.settings.own_aligners / name
        put(job.folder.result, out)
        return out

    # Taking turns ---------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin the next run whenever one can, until `close`."""
        threading.Thread(target=self._watch, name="jobs", daemon=True).start()

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_SECONDS):
            self.advance()

    def close(self) -> None:
        """End the watching. Runs go on."""
        self._closed.set()

    def advance(self) -> None:
        """Begin the run that has waited longest, unless one is going on."""
        self._children = [child for child in self._children if child.poll() is None]
        if not self.root.is_dir():
            return
        with self._alone():
            jobs = self.all()
            waiting = sorted((j for j in jobs if j.state == "queued"), key=lambda j: j.folder.queued_at)
            if waiting and not any(j.state in ("running", "stopping") for j in jobs):
                self._begin(waiting[0].folder)

    def _begin(self, folder: RunFolder) -> None:
        environment = {
            **os.environ,
            "RAM_DEMO_DATA": str(self.settings.data),
            "RAM_DEMO_CACHE": str(self.settings.cache),
            "PYTHONUNBUFFERED": "1",
            # Threads that wait for one another sleep: by spinning they would take the cores from those who decode.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        with folder.writing(), (folder.path / "log.txt").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "ram_demo.training.worker", str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=Path(__file__).parents[2],
                start_new_session=True,  # it outlives this server
            )
        self._children.append(child)
        folder.work_on(child.pid)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time, whoever makes it: another thread, another server on the same folder."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("w")
        except OSError as error:
            raise StorageError(f"Runs cannot be kept in {self.root}: {error.strerror or error}.") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _job(folder: RunFolder) -> Job:
    if folder.is_worked_on:
        return Job(folder.name, "stopping" if folder.is_asked_to_stop else "running", "", folder)
    if folder.queued_at is not None:
        return Job(folder.name, "queued", "", folder)
    last = next((e for e in reversed(folder.events()) if e["kind"] in ("ended", "started")), None)
    if last is not None and last["kind"] == "ended":
        return Job(folder.name, last["how"], last["note"], folder)
    note = "Its process ended without a word; it can go on from its newest checkpoint."
    return Job(folder.name, "interrupted", note, folder)
