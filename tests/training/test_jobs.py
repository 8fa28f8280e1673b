"""Runs as jobs, with real processes on a tiny model: turns, stopping, killing, resuming, a server that restarts."""

import json
import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from ram_demo.errors import StorageError, UserError
from ram_demo.models.aligners import Registry
from ram_demo.training.folder import RunFolder
from ram_demo.training.jobs import Jobs
from ram_demo.training.recipe import Recipe
from tests import tiny, tiny_workbench

PATIENCE = 90
LONG = 100_000  # epochs: it never ends by itself within a test


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("models") / "base", tiny.model())


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "upload" / "examples.jsonl"
    file.parent.mkdir()
    file.write_text("\n".join(json.dumps({"prompt": f"the {n}", "completion": "an inn"}) for n in range(8)))
    return file


@pytest.fixture
def settings(tmp_path):
    return tiny_workbench.settings(tmp_path)


@pytest.fixture
def jobs(settings):
    jobs = Jobs(settings)
    yield jobs
    for job in jobs.all():
        if job.folder.is_worked_on:
            pid_of(job.folder).kill()
            pid_of(job.folder).wait(PATIENCE)


def recipe(base: Path, name: str = "short", epochs: int = 1, **changes) -> Recipe:
    return Recipe(
        name=name, description="Says little.", data="", data_license="CC0", base=str(base), loss="sft", epochs=epochs,
        lora_rank=2, batch_size=4, held_out=0.25, **changes,
    )  # fmt: skip


def pid_of(folder: RunFolder) -> psutil.Process:
    return psutil.Process(json.loads((folder.path / "process.json").read_text())["pid"])


def until(jobs: Jobs, name: str, *states: str, has: str = "") -> None:
    """Look, as a page does, until a run is in a state, and tells of an event."""
    pause = threading.Event()
    for _ in range(PATIENCE * 20):
        jobs.advance()
        job = jobs.find(name)
        if job.state in states and (not has or any(event["kind"] == has for event in job.folder.events())):
            return
        pause.wait(0.05)
    log = (job.folder.path / "log.txt").read_text() if (job.folder.path / "log.txt").exists() else ""
    pytest.fail(f"{name} is {job.state} ({job.note}), not {states}; {log[-1000:]}")


def test_a_run_is_done_in_a_process_of_its_own_and_used(jobs, base, data, settings, tmp_path):
    job = jobs.start(recipe(base), data)
    assert job.state in ("queued", "running")
    data.unlink()  # an upload does not stay
    until(jobs, "short", "done")
    assert jobs.use("short") == settings.own_aligners / "short"
    package = Registry(tmp_path / "none", settings.own_aligners).find("short")
    assert not package.problem and package.card.description == "Says little."
    assert jobs.find("short").state == "done", "using it changes nothing"


def test_one_runs_and_the_others_wait_their_turn(jobs, base, data):
    for name, epochs in (("a", LONG), ("b", 1), ("c", 1)):
        jobs.start(recipe(base, name, epochs), data)
    until(jobs, "a", "running", has="step")
    assert [jobs.find(name).state for name in "abc"] == ["running", "queued", "queued"]
    jobs.stop("b")
    assert jobs.find("b").state == "stopped"
    jobs.stop("a")
    until(jobs, "a", "stopped")
    until(jobs, "c", "done")
    assert jobs.find("a").folder.result.is_dir(), "what it had learnt is kept"
    assert jobs.find("b").state == "stopped", "and one that was stopped while it waited never begins"
    assert [job.name for job in jobs.all()] == ["c", "b", "a"]


def test_another_server_finds_a_run_that_goes_on(jobs, base, data, settings):
    jobs.start(recipe(base, "a", LONG), data)
    until(jobs, "a", "running", has="step")
    other = Jobs(settings)
    assert other.find("a").state == "running"
    with pytest.raises(UserError, match="going on"):
        other.start(recipe(base, "a"), data)
    other.stop("a")
    until(other, "a", "stopped")
    assert jobs.find("a").state == "stopped"


def test_a_killed_run_says_so_and_goes_on_when_told(jobs, base, data):
    jobs.start(recipe(base, "a", LONG, checkpoint_every=5), data)
    until(jobs, "a", "running", has="checkpoint")
    pid_of(jobs.find("a").folder).send_signal(signal.SIGKILL)
    until(jobs, "a", "interrupted")
    before = max(e["step"] for e in jobs.find("a").folder.events() if e["kind"] == "checkpoint")
    jobs.resume("a")
    until(jobs, "a", "running", has="step")
    jobs.stop("a")
    until(jobs, "a", "stopped")
    events = jobs.find("a").folder.events()
    resumed = events[max(i for i, e in enumerate(events) if e["kind"] == "started") :]
    assert [e["step"] for e in resumed if e["kind"] == "step"][:1] in ([before + 1], [])
    jobs.remove("a")
    with pytest.raises(UserError, match="no run named"):
        jobs.find("a")


def test_a_mistake_ends_the_run_with_its_sentence(jobs, base, data):
    data.write_text('{"prompt": "x", "completion": "y"}\nnot JSON\n')
    jobs.start(recipe(base), data)
    until(jobs, "short", "failed")
    assert "line 2: this is not JSON" in jobs.find("short").note
    with pytest.raises(UserError, match="no checkpoint"):
        jobs.use("short")
    jobs.start(recipe(base), data)  # one that is over gives up its name


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "base", "x" * 61])
def test_a_name_that_cannot_be_a_folders_is_refused(jobs, base, data, name):
    with pytest.raises(UserError):
        jobs.start(recipe(base, name), data)
    with pytest.raises(UserError):
        jobs.find(name)
    assert not jobs.all()


def test_two_starts_at_the_same_moment_are_one_run(jobs, base, data, settings):
    barrier, told = threading.Barrier(4), []

    def start() -> None:
        mine = Jobs(settings)
        barrier.wait(PATIENCE)
        try:
            mine.start(recipe(base, "a", LONG), data)
            told.append("started")
        except UserError as error:
            told.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert told.count("started") == 1 and all("going on" in words for words in told if words != "started")
    working = [p for p in psutil.process_iter(["cmdline"]) if str(settings.runs / "a") in (p.info["cmdline"] or [])]
    assert len(working) == 1


def test_a_place_that_cannot_be_written_is_one_sentence(jobs, base, data, settings):
    settings.data.mkdir(parents=True)
    settings.runs.write_text("in the way")
    with pytest.raises(StorageError, match="cannot be kept"):
        jobs.start(recipe(base), data)


def test_a_process_id_that_went_to_another_is_not_taken_for_the_run(jobs, base, data, settings):
    folder = RunFolder.create(settings.runs / "a", {"name": "a"}, data, None)
    folder.tell(kind="started")
    (folder.path / "process.json").write_text(json.dumps({"pid": os.getpid(), "started": 1.0}))
    assert jobs.find("a").state == "interrupted"
