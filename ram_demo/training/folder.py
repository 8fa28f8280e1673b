"""One training run on disk, which is the truth of it: whoever reads the folder knows all that its process knew.

    config.json      the recipe, the data file and the settings that the run was started with
    events.jsonl     what happened, one object a line, only ever appended
    held_out.jsonl   the examples that are not trained on
    samples.jsonl    the same few prompts answered at each checkpoint, base beside aligned
    checkpoints/     step-N/: each written aside and renamed, so that one that is there is whole
    best/            a copy of the checkpoint that did best on held-out examples
    log.txt          what the process printed
    queued, stop     there if it waits for its turn, or somebody asked it to stop
    process.json     id and start of the process that last worked on it

Knows files; knows nothing of models or pages.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from ram_demo.errors import StorageError

PACKAGE = "package"  # in each checkpoint: the aligner as it was then
HELD_OUT = "held_out.jsonl"  # in a package some of them, for the next calibration
KEPT = 2  # checkpoints: the newest, and the one before it


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def create(
        cls, path: Path, recipe: dict, data: Path, max_steps: int | None, copy_data: bool = False
    ) -> "RunFolder":
        """A new run, not yet begun. What an earlier one left at this place goes. copy_data: keep the examples too, as
        the file may not stay where it is. Raises StorageError."""
        folder = cls(path)
        with folder.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".run-") as aside:
                new = Path(aside) / "new"
                new.mkdir()
                if copy_data:
                    shutil.copyfile(data, new / data.name)
                    data = path / data.name
                write_json(new / "config.json", {"recipe": recipe, "data": str(data), "max_steps": max_steps})
                if path.exists():
                    os.replace(path, Path(aside) / "replaced")
                os.replace(new, path)
        return folder

    def config(self) -> dict:
        return json.loads((self.path / "config.json").read_text("utf-8"))

    # What happened ------------------------------------------------------------------------------------------------

    def tell(self, **event) -> None:
        """Append an event with its time, in seconds; it is on disk when this returns. Raises StorageError."""
        self._append("events.jsonl", {**event, "at": round(time.time(), 2)})

    def sample(self, **answers) -> None:
        self._append("samples.jsonl", answers)

    def _append(self, file: str, record: dict) -> None:
        with self.writing(), (self.path / file).open("ab+") as opened:
            if opened.tell():  # what a kill cut short stays on a line of its own
                opened.seek(-1, os.SEEK_END)
                if opened.read(1) != b"\n":
                    opened.write(b"\n")
            opened.write(json.dumps(record).encode() + b"\n")
            opened.flush()
            os.fsync(opened.fileno())

    def events(self) -> list[dict]:
        """All events that are whole; a line that a kill cut short is none."""
        return list(_objects(self.path / "events.jsonl"))

    def samples(self) -> list[dict]:
        return list(_objects(self.path / "samples.jsonl"))

    # What is kept -------------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, the oldest first."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")))

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to write into, which becomes checkpoint `step` in one move; older ones go. Raises StorageError."""
        home = self.path / "checkpoints"
        with self.writing():
            home.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.path, prefix=".writing-") as aside:
                whole = Path(aside) / "whole"
                whole.mkdir()
                yield whole
                place = home / f"step-{step}"
                if place.exists():
                    os.replace(place, Path(aside) / "replaced")
                os.replace(whole, place)
            for old in self.checkpoints()[:-KEPT]:
                shutil.rmtree(old)

    def keep_best(self, checkpoint: Path) -> None:
        """Copy a checkpoint to `best`, in one move."""
        with self.writing(), tempfile.TemporaryDirectory(dir=self.path, prefix=".writing-") as aside:
            shutil.copytree(checkpoint, Path(aside) / "best")
            if self.best.exists():
                os.replace(self.best, Path(aside) / "replaced")
            os.replace(Path(aside) / "best", self.best)

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def result(self) -> Path | None:
        """The package this run is for: as it did best on held-out examples, else at the last checkpoint."""
        newest = self.checkpoints()
        return self.best / PACKAGE if self.best.is_dir() else newest[-1] / PACKAGE if newest else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"The run {self.name} cannot be written: {error.strerror or error}.") from error

    # Who works on it ----------------------------------------------------------------------------------------------

    def queue(self) -> None:
        """Let it wait for its turn; an older wish that it stop counts no more."""
        with self.writing():
            (self.path / "stop").unlink(missing_ok=True)
            (self.path / "queued").touch()

    def unqueue(self) -> None:
        (self.path / "queued").unlink(missing_ok=True)

    @property
    def queued_at(self) -> float | None:
        """Since when it waits for its turn, in seconds; None if it does not."""
        try:
            return (self.path / "queued").stat().st_mtime
        except FileNotFoundError:
            return None

    def ask_to_stop(self) -> None:
        with self.writing():
            (self.path / "stop").touch()

    @property
    def is_asked_to_stop(self) -> bool:
        return (self.path / "stop").exists()

    def work_on(self, pid: int) -> None:
        """Note that this process works on the run now."""
        with self.writing():
            write_json(self.path / "process.json", {"pid": pid, "started": psutil.Process(pid).create_time()})
            self.unqueue()

    def leave(self) -> None:
        """Nobody works on it any more, and a wish that it stop is fulfilled."""
        for name in ("process.json", "stop"):
            (self.path / name).unlink(missing_ok=True)

    @property
    def is_worked_on(self) -> bool:
        """Does the process that was noted still live? An id alone may have gone to another since."""
        try:
            noted = json.loads((self.path / "process.json").read_text())
            process = psutil.Process(noted["pid"])
            return process.create_time() == noted["started"] and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.NoSuchProcess):
            return False


def write_json(file: Path, record: dict) -> None:
    """Whole or not at all."""
    aside = file.with_name(f".{file.name}.writing")
    aside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(aside, file)


def _objects(file: Path) -> Iterator[dict]:
    if not file.is_file():
        return
    for line in file.read_bytes().split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue
