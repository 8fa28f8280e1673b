"""The memory set aside for caches: what was asked for, or a share of what the machine or its container has left."""

from types import SimpleNamespace

import pytest
import torch

from ram_demo.models import memory

CPU = torch.device("cpu")
GB = 2**30


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 8 GB free, in a container of which the test writes the limit and the use."""
    files = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GB))
    monkeypatch.setattr(memory, "CONTAINER", files)
    return files


def test_what_was_asked_for_is_given(machine):
    assert memory.for_caches(CPU, 1.5) == 1.5 * GB


def test_else_it_is_a_quarter_of_what_is_free(machine):
    assert memory.for_caches(CPU, None) == 2 * GB


@pytest.mark.parametrize(
    ("limit", "current", "free"),
    [
        (f"{4 * GB}\n", f"{GB}\n", 3 * GB),
        (f"{64 * GB}\n", f"{GB}\n", 8 * GB),  # the container may, but the machine has not
        ("max\n", f"{GB}\n", 8 * GB),
    ],
)
def test_a_container_has_a_limit_of_its_own(machine, limit, current, free):
    machine[0].write_text(limit)
    machine[1].write_text(current)
    assert memory.free(CPU) == free
