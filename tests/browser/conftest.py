"""The app itself, started as a person starts it, on a tiny random model whose vocabulary is hostile."""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
# A loaded machine is slow, not wrong.
expect.set_options(timeout=90_000)

HOSTILE = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "${window.hacked=1}",
    "{{window.hacked=1}}",
    "\u202eright to left",
    "&lt;b&gt;",
)


@dataclass(frozen=True)
class App:
    """A running app: its address and its data folder."""

    url: str
    data: Path

    def votes(self) -> list[tuple]:
        """(choice, lane of A, lane of B, seed) of every vote, read behind the app's back."""
        with sqlite3.connect(self.data / "votes.sqlite3") as db:
            return db.execute(
                "SELECT vote.choice, a.lane, b.lane, battle.seed FROM vote JOIN battle ON battle.id = vote.battle_id "
                "JOIN response a ON a.battle_id = battle.id AND a.side = 'a' "
                "JOIN response b ON b.battle_id = battle.id AND b.side = 'b' ORDER BY vote.created_at"
            ).fetchall()


def serve(data: Path, **environment: str) -> Iterator[App]:
    """`python app.py` on a free port until the generator is closed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A screen would open a browser of its own.
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env |= {"RAM_DEMO_DATA": str(data), "RAM_DEMO_PORT": str(port), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    app = subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env=env | environment, stdout=subprocess.PIPE, text=True
    )
    try:
        for line in app.stdout:
            if "Running on local URL" in line:
                break
        assert app.poll() is None, "the app ended before it served"
        yield App(f"http://127.0.0.1:{port}", data)
    finally:
        app.kill()
        app.wait()


def hostile(folder: Path, context: int) -> Path:
    """A tiny model, saved, about every other token of which is one of HOSTILE, and which never ends an answer."""
    tokenizer = tiny.byte_level()
    tokenizer.add_tokens(list(HOSTILE))
    proposal = tiny.model(vocab_size=len(tokenizer), tie_word_embeddings=False, max_position_embeddings=context)
    # Long rows in the head make a token likely; those without any, the two ends, never come.
    proposal.lm_head.weight.data *= 3
    proposal.lm_head.weight.data[-len(HOSTILE) :] *= 2
    proposal.lm_head.weight.data[[0, 2]] = 0
    return tiny.save(folder, proposal, tokenizer)


@pytest.fixture(scope="session")
def app(tmp_path_factory) -> Iterator[App]:
    """On a tiny model, with the aligners `one` and `two` in the user's folder."""
    root = tmp_path_factory.mktemp("app")
    folder = hostile(root / "model", 1400)
    for seed, name in enumerate(("one", "two")):
        tiny.adapter(root / "data" / "aligners" / name, folder, seed=seed)
    yield from serve(root / "data", RAM_DEMO_MODEL=str(folder), RAM_DEMO_DTYPE="float32")


def ready(page: Page) -> None:
    """Wait until the model is loaded and every part of the page stands and listens: parts come one by one."""
    page.wait_for_selector(".status.ready")
    page.wait_for_selector(".stage[data-state=empty]", state="attached")
    page.wait_for_selector(".picker .option")
    page.wait_for_selector("#run:enabled")
    page.wait_for_selector("#prompt textarea")


@pytest.fixture
def page(browser: Browser, app: App) -> Iterator[Page]:
    """The page in a window of its own, its model ready; the test fails if any script error was thrown."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"a dialog: {dialog.message}"))
    page.goto(app.url)
    ready(page)
    yield page
    context.close()
    assert not errors
