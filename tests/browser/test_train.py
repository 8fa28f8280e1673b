"""The Train tab in a real browser: from examples to an aligner in Compare, with a refresh and a restart between; what
is refused, and a page that others reach."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ram_demo.evaluation.health import Finding
from ram_demo.training.folder import RunFolder
from ram_demo.training.recipe import Recipe
from tests import tiny
from tests.browser.conftest import App, ready, serve

pytestmark = pytest.mark.browser
WORDS = ("the tin", "an inn", "tan hat", "then that", "in the inn", "a hen", "no", "that is it", "hat", "it")


@pytest.fixture
def examples(tmp_path):
    file = tmp_path / "examples.jsonl"
    rows = [{"prompt": f"<b>{w}</b>?", "completion": f"{w} it is"} for w in WORDS]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def place(tmp_path):
    """(data folder, environment) of an app of its own, on a tiny model."""
    folder = tiny.save(tmp_path / "model", tiny.model(max_position_embeddings=1400))
    return tmp_path / "data", {"RAM_DEMO_MODEL": str(folder), "RAM_DEMO_DTYPE": "float32"}


@pytest.fixture
def open_page(browser: Browser) -> Iterator:
    contexts = []

    def go(app: App) -> Page:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.goto(app.url)
        ready(page)
        page.get_by_role("tab", name="Train").click()
        expect(page.locator("#train")).to_be_visible()
        return page

    yield go
    for context in contexts:
        context.close()


def give(page: Page, examples, name: str, epochs: int) -> None:
    page.locator("#examples-file input[type=file]").set_input_files(examples)
    expect(page.locator("#preview .example")).to_have_count(4)
    page.get_by_label("Name of the aligner").fill(name)
    page.get_by_role("button", name="Its numbers").click()
    page.get_by_label("Epochs").fill(str(epochs))
    page.get_by_label("Epochs").press("Tab")


def test_from_upload_to_compare_with_a_refresh_and_a_restart(place, examples, open_page):
    data, environment = place
    server = serve(data, **environment)
    page = open_page(next(server))
    give(page, examples, "mine", 100_000)
    preview = page.locator("#preview")
    expect(preview).to_contain_text("9 to learn from, 1 held out by prompt")
    expect(preview.locator(".learnt").first).to_be_visible()
    assert preview.locator("b", has_text="the tin").count() == 0, "examples are text, not markup"
    page.locator("#train").click()
    now = page.locator(".board .now")
    expect(now).to_contain_text("training, step")
    expect(page.locator(".board .curves svg").first).to_be_visible()
    expect(page.locator("#resume-run")).to_be_disabled()
    page.reload()
    ready(page)
    page.get_by_role("tab", name="Train").click()
    expect(now).to_contain_text("training, step")
    server.close()
    # The run goes on without its server, and the next server finds it.
    second = serve(data, **environment)
    page = open_page(next(second))
    expect(page.locator(".board .now")).to_contain_text("training, step")
    steps = data / "runs" / "mine" / "checkpoints"
    deadline = time.monotonic() + 90
    while not list(steps.glob("step-*")) and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    page.locator("#stop-run").click()
    expect(page.locator(".board .now")).to_contain_text("stopped")
    expect(page.locator(".board .sample").first).to_be_visible()
    expect(page.locator(".board .told")).to_contain_text("calibrated on 1 held-out examples")
    page.locator("#use-run:enabled").click()
    expect(page.get_by_text("mine is chosen in Compare").first).to_be_visible()
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator('.picker .option[data-name="mine"]')).to_have_class("option on")
    page.locator("#prompt textarea").fill("the tin")
    page.locator("#run").click()
    expect(page.locator(".pane", has_text="mine").first).to_be_visible()
    page.wait_for_selector(".stage[data-state=ended]")
    second.close()


def test_what_is_wrong_with_a_sampled_answer_stands_beside_it(place, open_page):
    data, environment = place
    markup = "<img src=x onerror=window.hacked=1>"
    answer = {"prompt": "the tin", "base": "a hat", "aligned": f"it {markup} it", "done": "length", "kl": 0.5,
              "gated_share": 0.0, "support": 0.9, "repetition": 0.3, "base_repetition": 0.0}  # fmt: skip
    wrong = Finding("repetition", f"30% were said before: “{markup}”.", "Lower the strength.", (3, 8))
    note = Finding("low support", "From token 3 on it is low.", "Raise top-p.", (2, 9), "note")
    recipe = asdict(Recipe("made", "", "rows.jsonl", "none"))
    folder = RunFolder.create(data / "runs" / "made", recipe, Path("rows.jsonl"), None)
    folder.tell(kind="step", step=1, total=1, loss=2.0)
    folder.sample(step=1, answers=[answer])  # as runs told it before there were these checks
    folder.sample(step=2, answers=[{**answer, "health": [wrong.to_json(), note.to_json()]}])
    server = serve(data, **environment)
    page = open_page(next(server))
    sample = page.locator(".board .sample")
    expect(sample).to_have_count(1)
    expect(sample.locator(".finding")).to_have_text([f"{f.kind}: {f.says} {f.advice}" for f in (wrong, note)])
    expect(sample.locator(".finding").last).to_have_attribute("data-level", "note")
    expect(page.locator(".board .advice .finding")).to_have_text(re.compile("repeat themselves: 30%"))
    page.get_by_label("checkpoint").press("ArrowLeft")
    expect(page.locator(".board .samples")).to_contain_text("Answers at step 1")
    expect(sample.locator(".finding")).to_have_count(0)
    assert page.evaluate("window.hacked") is None
    server.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no examples"),
        (b"\xff\xfe bad", "UTF-8"),
        (b'{"question": "a"}', "columns"),
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "c"}', "prompt"),
    ],
    ids=["empty", "bytes", "columns", "one prompt"],
)
def test_what_cannot_be_used_is_said_at_once(page: Page, tmp_path, content, words):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    page.get_by_role("tab", name="Train").click()
    page.locator("#examples-file input[type=file]").set_input_files(file)
    expect(page.locator("#preview")).to_contain_text(words)


def test_a_name_that_is_a_path_or_a_shipped_one_is_refused(page: Page, examples, app: App):
    page.get_by_role("tab", name="Train").click()
    for name, words in (("../up", "cannot have the name"), ("concise", "comes with the demo")):
        page.locator("#examples-file input[type=file]").set_input_files(examples)
        expect(page.locator("#preview .example")).to_have_count(4)
        page.get_by_label("Name of the aligner").fill(name)
        page.locator("#train").click()
        expect(page.get_by_text(words).first).to_be_visible()
        page.reload()
        ready(page)
        page.get_by_role("tab", name="Train").click()
    assert not (app.data / "runs" / "concise").exists() and not list(app.data.parent.glob("up*"))


def test_votes_that_are_not_there_are_said(place, open_page):
    data, environment = place
    server = serve(data, **environment)
    page = open_page(next(server))
    page.get_by_label("the votes collected here").check()
    expect(page.locator("#preview")).to_contain_text("No vote here says yet")
    server.close()


def test_a_page_that_others_reach_says_its_limits(place, examples, open_page):
    data, environment = place
    server = serve(data, **environment, RAM_DEMO_HOST="0.0.0.0", RAM_DEMO_OWNER_TOKEN="secret")
    page = open_page(next(server))
    expect(page.locator("#limits")).to_contain_text("limited to 200 rows and 60 steps")
    page.get_by_label("the votes collected here").check()
    expect(page.locator("#preview")).to_contain_text("takes the owner's token")
    page.get_by_label("a file of yours").check()
    give(page, examples, "theirs", 100_000)
    # All that the line says: on a busy machine the run may be done before we look.
    page.evaluate("""() => {
        window.said = new Set();
        const board = document.querySelector(".board");
        const note = () => said.add(board.querySelector(".now").textContent);
        new MutationObserver(note).observe(board, { childList: true, subtree: true });
    }""")
    page.locator("#train").click()
    page.wait_for_function("[...said].some((words) => words.includes('of 60'))", timeout=90_000)
    other = open_page(App(page.url, data))
    expect(other.locator(".board .runs button")).to_contain_text("theirs")
    expect(other.locator("#delete-run:enabled")).to_be_visible()
    other.locator("#delete-run").click()
    expect(other.get_by_text("Only who started this run").first).to_be_visible()
    assert (data / "runs" / "theirs").is_dir()
    server.close()
