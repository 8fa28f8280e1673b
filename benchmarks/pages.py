"""What a person waits for: the page's start, and streaming to a real browser against the command line's.

The browser runs on the same cores as the model, as it does on a laptop. Both sides answer the same request with the
same seed, and are timed from the first token that can be seen to the last.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from gradio_client import Client
from playwright.sync_api import Page, sync_playwright

from benchmarks import ours
from benchmarks.tables import RUNS, Figure, Table, alternate
from ram_demo.settings import Settings
from tools.browser import installed_browser, playwrights_own

ROOT = Path(__file__).parents[1]
PROMPT, TOKENS, SEED = "Write a long story about a lighthouse keeper and the sea.", 300, 7

# Counts the tokens of the base's pane whenever the page changes: [milliseconds, tokens] of the first and the newest.
WATCH = """() => {
  window.seen = [];
  const look = () => {
    const pane = document.querySelector(".pane");
    const n = pane ? pane.querySelectorAll(".token").length : 0;
    if (n && (!seen.length || n > seen.at(-1)[1])) seen.push([performance.now(), n]);
  };
  new MutationObserver(look).observe(document.querySelector(".panes"), { childList: true, subtree: true });
}"""


@contextmanager
def app(settings: Settings) -> Iterator[str]:
    """`python app.py` with a data folder of its own. Gives its address once its page says that the model is ready."""
    with tempfile.TemporaryDirectory() as data:
        port = str(settings.port + 1000)
        env = {**os.environ, "RAM_DEMO_PORT": port, "RAM_DEMO_DATA": data}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([sys.executable, "app.py"], env=env, cwd=ROOT, **quiet)
        try:
            client = None
            while process.poll() is None and (client is None or "ready" not in client.predict(api_name="/status")):
                try:
                    client = client or Client(f"http://127.0.0.1:{port}", verbose=False)
                except (httpx.HTTPError, ValueError):  # it does not serve yet
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def start_up(settings: Settings) -> Iterator[Figure]:
    """From `python app.py` to a page whose model is ready, with the model converted before."""

    def start() -> float:
        began = time.perf_counter()
        with app(settings):
            return time.perf_counter() - began

    yield Table("Start").median("start to a usable page", [start() for _ in range(RUNS)], "s", "under 15")


def streaming(settings: Settings) -> Iterator[Figure]:
    """Tokens a second of the base's pane, beside an aligned one: in headless Chromium and on the command line."""
    path = installed_browser() or playwrights_own()
    if path is None:
        print("No browser was found: streaming to the page was not measured.", file=sys.stderr)
        return
    table = Table("Streaming")
    with app(settings) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector(".status.ready")
        page.evaluate(WATCH)
        for card in page.locator(".picker .option").all():
            card.locator("input[type=checkbox]").set_checked(card.get_attribute("data-name") == ours.ALIGNER)
        page.locator("#length input[type=number]").fill(str(TOKENS))
        page.locator("#length input[type=number]").press("Tab")
        page.fill("#prompt textarea", PROMPT)
        on_page, on_line = alternate(lambda: _on_page(page), _on_line)
        browser.close()
    yield table.median("page, in Chromium on the same cores", on_page, "tokens/s a lane")
    yield table.median("command line", on_line, "tokens/s a lane")
    yield table.ratio("page against command line", on_page, on_line, "at least 0.95x")


def _on_page(page: Page) -> float:
    page.evaluate("() => { window.seen = []; }")
    page.click("#run")
    for state in ("running", "ended"):  # asked seldom: by default it asks at each frame, and costs what it measures
        page.wait_for_function(f"document.querySelector('.stage').dataset.state === '{state}'", polling=500)
    seen = page.evaluate("() => seen")
    (began, first), (ended, last) = seen[0], seen[-1]
    return 1000 * (last - first) / (ended - began)


def _on_line() -> float:
    command = [sys.executable, "-m", "ram_demo", "generate", "--json", "--prompt", PROMPT, "--aligner", ours.ALIGNER]
    command += ["--max-new-tokens", str(TOKENS), "--seed", str(SEED), "--mode", "auto"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    times = []
    for line in process.stdout:
        step = json.loads(line)
        if step["lane"] == "base" and "index" in step:
            times.append(time.perf_counter())
    process.wait()
    return (len(times) - 1) / (times[-1] - times[0])
