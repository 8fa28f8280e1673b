"""A tiny model with an adapter on it, in a folder that tests may copy and spoil."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads that wait for each other cost a tiny product far more than they save, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("tiny") / "base", tiny.model())


@pytest.fixture(scope="session")
def tiny_adapter(tmp_path_factory, tiny_base) -> Path:
    return tiny.adapter(tmp_path_factory.mktemp("tiny") / "adapter", tiny_base)


@pytest.fixture
def copy(tmp_path) -> Callable[[Path], Path]:
    """A copy of a folder, the test's own."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / f"my {folder.name}"))
