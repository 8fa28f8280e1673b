"""The Inspector on a long answer: what a trace takes, and how soon a browser shows a token's details or a recut.

The browser's times are from the press to the frame after the one in which all is drawn, on the cores that the app has.
"""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks import ours, pages
from benchmarks.tables import Figure, Table
from ram_demo import views
from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.trace import Trace
from ram_demo.request import Choice, Request
from ram_demo.settings import Settings
from tools.browser import installed_browser, playwrights_own

TOKENS, PRESSES = 2000, 30
COMPOSED = (Choice("concise", 1.0), Choice("pirate", 2.0))

# What is done, and milliseconds until it was seen.
SEEN = """async (act) => {
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame();
  const began = performance.now();
  act();
  await frame(); await frame();
  return performance.now() - began;
}"""
PRESS = """async (i) => {
  const nodes = document.querySelectorAll("#inspect .pane:last-child .token");
  const seen = SEEN;
  return await seen(() => nodes[i].click());
}""".replace("SEEN", SEEN)
TURN = """async (value) => {
  const knob = document.querySelector("#inspect .whatif input[type=range]");
  const seen = SEEN;
  return await seen(() => { knob.value = value; knob.dispatchEvent(new Event("input", { bubbles: true })); });
}""".replace("SEEN", SEEN)


def long_answers(settings: Settings) -> Iterator[Figure]:
    """Bytes a token of the stored trace, and of a browser's time on it."""
    bench = ours.open_endless(settings)
    table = Table(f"The Inspector, answers of {TOKENS:,} tokens")
    alone = _answer(bench, (Choice(ours.ALIGNER),), TOKENS)
    composed = _answer(bench, COMPOSED, 200)
    for words, view in (("one aligner", alone), ("two composed", composed)):
        trace = view["turns"][0]["lanes"][1]["trace"]
        kept = sum(trace["candidates"]["count"]) / trace["tokens"]
        size = len(json.dumps(trace, ensure_ascii=False).encode()) / trace["tokens"]
        yield table.single(f"trace, {words}, {kept:.1f} candidates", size, "bytes a token", "at most 1536 at 20")
    del bench
    path = installed_browser() or playwrights_own()
    if path is None:
        print("No browser was found: the Inspector's page was not measured.", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as place, pages.app(settings) as url, sync_playwright() as playwright:
        file = Path(place) / "long.json"
        file.write_text(json.dumps(alone), "utf-8")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.wait_for_selector(".status.ready")
        yield from _in_browser(page, file, table)
        browser.close()


def _answer(bench, choices: tuple[Choice, ...], tokens: int) -> dict:
    request = Request(ours.PROMPT, (choices,), settings=DecodingSettings(mode="auto", max_new_tokens=tokens))
    told = bench.run(bench.plan(request), threading.Event())
    return views.of_traces(ours.PROMPT, (), [event for event in told if isinstance(event, Trace)], {})


def _in_browser(page: Page, file: Path, table: Table) -> Iterator[Figure]:
    page.get_by_role("tab", name="Inspect").click()
    page.set_input_files("#inspect input[type=file]", file)
    page.wait_for_selector("#inspect .inspector[data-state=open]")
    page.wait_for_function(f"document.querySelectorAll('#inspect .pane:last-child .token').length >= {TOKENS}")
    every = TOKENS // PRESSES
    presses = [page.evaluate(PRESS, n * every) for n in range(PRESSES)]
    yield table.median("pressing a token shows its details", presses, "ms", "under 100")
    turns = [page.evaluate(TURN, 0.5 + n * 0.05) for n in range(PRESSES)]
    yield table.median("turning the strength recuts all of it", turns, "ms", "under 100")
