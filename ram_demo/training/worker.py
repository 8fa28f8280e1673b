"""A run's own process: carries a run folder out and notes in it how that ended.

`python -m ram_demo.training.worker FOLDER`, or the same under `accelerate launch`. It never imports `ui`, and what it
knows it writes into the folder (`folder.py`). What the work is, `stages.py` knows.
"""

import os
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState

from ram_demo.errors import UserError
from ram_demo.models.aligners import CARD
from ram_demo.settings import Settings, from_environment
from ram_demo.training.fitting import Stopped
from ram_demo.training.folder import RunFolder
from ram_demo.training.package import put
from ram_demo.training.recipe import Recipe
from ram_demo.training.stages import Run, Tell

NICE = 10  # a page that answers people comes first


def work(folder: RunFolder, settings: Settings, tell: Tell = lambda **_: None) -> str:
    """Carry a run out in this process and note in its folder how it ended: "done", "stopped" or "failed".

    Everything that happens is appended to the folder and passed on to tell. A user's mistake is re-raised as UserError
    after it was noted; so is a defect.
    """

    def both(**event) -> None:
        if _is_first():
            folder.tell(**event)
            tell(**event)

    if _is_first():
        folder.work_on(os.getpid())
    try:
        both(kind="started")
        Run(folder, settings, both).carry_out()
    except Stopped:
        how, note = "stopped", ""
    except Exception as error:
        note = str(error) if isinstance(error, UserError) else "A defect, not your mistake: it is in the run's log."
        both(kind="ended", how="failed", note=note)
        raise
    else:
        how, note = "done", ""
    finally:
        if _is_first():
            folder.leave()
    both(kind="ended", how=how, note=note)
    return how


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    run: Path,
    settings: Settings,
    max_steps: int | None,
    tell: Tell,
    resume: bool = False,
) -> str:
    """Train in this process, as the command line does, and put the package into `out`. Returns how it ended.

    run: the run's own folder; to resume goes on from what lies there. max_steps cuts the run
    short (the learning rate's course is then that of the shorter run). The package is the checkpoint that did best
    on held-out examples, else the last. Raises UserError for bad data, StorageError if `out` cannot be written.
    """
    if out.exists() and not (out / CARD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and is no aligner, so it is not replaced; name another folder.")
    folder = RunFolder(run)
    if _is_first() and folder.is_worked_on:
        raise UserError(f"{out.name} is being trained by another process; stop it, or name another folder.")
    if not resume:
        if _is_first():
            RunFolder.create(folder.path, asdict(recipe), data, max_steps)
        _state().wait_for_everyone()
    elif not folder.path.is_dir():
        raise UserError(f"There is no run at {folder.path} to resume.")
    elif Recipe.from_json(folder.config()["recipe"]) != recipe:
        raise UserError("The recipe is not the one that the run was started with; start anew, without --resume.")
    if _is_first():
        folder.queue()
    try:
        how = work(folder, settings, tell)
        if folder.result and _is_first():
            put(folder.result, out)
    finally:
        part()
    return how


def part() -> None:
    """Leave the group of the processes that shared this run, if there were several: threads of a group that is still
    there when Python ends can abort the process, and a run that is done would count as failed."""
    _state().destroy_process_group()


def _state() -> PartialState:
    """How many processes share this run, by accelerate. They wait for each other as long as the longest stage takes
    that one of them does alone."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def _is_first() -> bool:
    """Of several processes, the first alone writes."""
    return _state().is_main_process


def main(path: str) -> int:
    os.nice(NICE)
    try:
        work(RunFolder(Path(path)), from_environment())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        part()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
