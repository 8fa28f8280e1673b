"""One end-to-end test on the real embedded model: a comparison and a vote, in a real browser."""

import os
from pathlib import Path

import platformdirs
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import serve


@pytest.mark.browser
@pytest.mark.embedded
def test_the_shipped_aligner_on_the_embedded_model(browser: Browser, tmp_path: Path):
    # The converted model is shared with the app's own cache, so that it is unpacked once.
    cache = os.environ.get("RAM_DEMO_CACHE") or platformdirs.user_cache_dir("ram-demo")
    for app in serve(tmp_path, RAM_DEMO_CACHE=cache):
        page = browser.new_page()
        page.goto(app.url)
        page.wait_for_selector(".status.ready", timeout=180_000)
        page.fill("#prompt textarea", "What is the capital of Italy?")
        page.locator("#length input[type=number]").fill("40")
        page.locator("#length input[type=number]").press("Tab")
        for card in page.locator(".picker .option").all():
            card.locator("input[type=checkbox]").set_checked(card.get_attribute("data-name") == "concise")
        page.click("#run")
        expect(page.locator(".pane footer", has_text="first after")).to_have_count(2, timeout=120_000)
        said = page.locator(".pane .text").nth(1).inner_text()
        assert "Rome" in said
        page.click("#votes button:has-text('B better')")
        expect(page.locator("#said")).to_contain_text("Saved")
        assert app.votes() == [("b", "base", "concise", 7)]
        page.close()
