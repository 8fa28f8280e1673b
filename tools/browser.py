"""Finds the browser that the tests drive and, run as a script, gets one where there is none.

Knows nothing of the tests. The order: one found on the machine, else Debian's `chromium` when root,
else Playwright's own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def installed_browser() -> str | None:
    """The path of a browser on this machine that starts: `$CHROME`, else the first of `NAMES` on PATH; else None."""
    for name in (os.environ.get("CHROME", ""), *NAMES):
        path = shutil.which(name)
        if path and _starts(path):
            return path
    return None


def playwrights_own() -> str | None:
    """The path of the browser that Playwright downloaded, where it has and it starts; else None."""
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() and _starts(path) else None


def _starts(path: str) -> bool:
    # A name on PATH may be a stub that only says what to install, and a download may lack system libraries.
    return subprocess.run([path, "--version"], capture_output=True).returncode == 0


def _get() -> None:
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update"], env=environment)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "chromium"], env=environment)
        if installed_browser():
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


def _main() -> None:
    if not (installed_browser() or playwrights_own()):
        _get()
    found = installed_browser() or playwrights_own()
    print(f"Browser for the tests: {found or 'none, and none could be got'}")


if __name__ == "__main__":
    _main()
