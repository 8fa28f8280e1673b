"""Work in a thread of its own, for a reason that is OpenMP's. Knows nothing of what it runs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def apart(work: Callable[[], Result]) -> Result:
    """Run `work` in a thread that ends with it, and return or raise what it does.

    OpenMP keeps a team of helpers for every living thread that ever computed in parallel. Once all teams together
    outnumber the cores, each team sleeps between two products instead of spinning, and decoding takes twice as long. So
    whatever computes beside the decoding loop, such as loading a model, does it here and leaves no team behind.
    """
    with ThreadPoolExecutor(1, "apart") as pool:
        return pool.submit(work).result()
