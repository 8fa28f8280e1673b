"""What tests of training share: accelerate remembers, for a whole process, what it was first asked for."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def accelerate_asked_anew() -> Iterator[None]:
    """Each test is the first in its process to ask, as every run is."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
