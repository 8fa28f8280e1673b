"""What several rooms' tests share: the browser, and their order. Knows nothing of what is tested with it."""

import os

# Before anything imports a hub client: no test may reach a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tools.browser import installed_browser, playwrights_own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that processes that share the tests end about together."""
    items.sort(key=lambda item: "test_train" not in item.nodeid and "test_fitting" not in item.nodeid)


@pytest.fixture(scope="session")
def browser_path() -> str | None:
    """The browser's path for Playwright's `executable_path`; None stands for Playwright's own.

    Without any browser the tests that ask for one fail in CI and are skipped, with the reason, elsewhere.
    """
    path = installed_browser()
    if path is None and playwrights_own() is None:
        absence = "no browser was found and none could be got, so nothing is known of the page: try `make browser`"
        if os.environ.get("CI"):
            pytest.fail(absence, pytrace=False)
        pytest.skip(absence)
    return path


@pytest.fixture(scope="session")
def browser(browser_path: str | None) -> Iterator[Browser]:
    """A headless Chromium that talks to nobody but the page under test."""
    arguments = [
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    if os.geteuid() == 0:
        # Chromium's sandbox refuses to run as root.
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=arguments)
        yield browser
        browser.close()
