"""The page's scripts without a page: they run in the node that comes inside Playwright, one process for all tests."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import playwright
import pytest

from tests.decoding.conftest import bench, folders, one_thread  # noqa: F401  for what runs tiny models

NODE = Path(playwright.__file__).parent / "driver" / "node"
HOST = Path(__file__).with_name("host.js")
WEB = Path(__file__).resolve().parents[2] / "assets" / "web"
SCRIPTS = ("trace.js", "whatif.js")  # in the order in which pages have them


class ScriptError(Exception):
    """What a script threw: the message of a plain Error, else the error's name as well."""


@pytest.fixture(scope="session")
def js() -> Iterator[Callable]:
    """`js("return recut(decodeTrace(record)).first", record=...)`: a function's body, with its arguments by name.

    Arguments go as JSON. What is returned comes as JSON, typed arrays as lists; NaN and the infinities come back too.
    Without node the tests that ask for it fail in CI and are skipped, with the reason, elsewhere.
    """
    if not NODE.exists():
        absence = f"Playwright came without its node ({NODE}), so nothing is known of the page's scripts"
        if os.environ.get("CI"):
            pytest.fail(absence, pytrace=False)
        pytest.skip(absence)
    command = [NODE, HOST, *(WEB / name for name in SCRIPTS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as node:

        def run(body: str, **values):
            line = json.dumps({"body": body, "names": list(values), "values": list(values.values())}, allow_nan=False)
            node.stdin.write(line + "\n")
            node.stdin.flush()
            answer = json.loads(node.stdout.readline())
            if "error" in answer:
                raise ScriptError(answer["error"])
            return answer["value"]

        yield run
        node.stdin.close()
