"""Starting the app where it cannot work: one sentence, and no half-started server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("RAM_DEMO_DATA", "{file}/data", "cannot be written"),
        ("RAM_DEMO_PORT", "many", "must be a number"),
        ("RAM_DEMO_DTYPE", "float8", "it can be"),
    ],
)
def test_a_start_that_cannot_succeed_ends_in_one_sentence(tmp_path, variable, value, sentence):
    file = tmp_path / "a-file"
    file.write_text("")
    env = {**os.environ, "RAM_DEMO_DATA": str(tmp_path / "data"), variable: value.format(file=file)}
    done = subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
