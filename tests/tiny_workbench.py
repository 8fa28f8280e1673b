"""A workbench around a tiny model, and a model whose steps wait to be let through. Knows `ram_demo`'s services."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ram_demo.models import proposal as proposals
from ram_demo.models import sources
from ram_demo.models.proposal import Proposal
from ram_demo.settings import Settings, from_environment
from ram_demo.workbench import Workbench

ENDS = (0, 2)  # <|endoftext|> and <|im_end|> of `tiny`'s tokenizers
PATIENCE = 30  # seconds until a test that would hang fails instead


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors on several threads mostly wait for one another, above all on a busy machine. Name it in a module."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(folder: Path) -> Settings:
    """Everything under `folder`, float32 on the CPU."""
    places = {"RAM_DEMO_DATA": str(folder / "data"), "RAM_DEMO_CACHE": str(folder / "cache")}
    return replace(from_environment(places), dtype="float32", device="cpu")


def load(folder: Path, name: str = "") -> Proposal:
    """The model in `folder` as a proposal, in float32."""
    source = sources.Source(name or folder.name, folder.resolve(), "path", sources.content_hash(folder))
    return proposals.load(source, "cpu", "float32")


class Paced:
    """A `LanguageModel` that never ends a text, and whose prefill and steps each wait for a `let`."""

    def __init__(self, model, free: bool = False):
        self.model = model
        self.entered = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.free = free

    def __getattr__(self, name):
        return getattr(self.model, name)

    def let(self, forwards: int = 1) -> None:
        """Let so many forwards through, once the model is in each."""
        for _ in range(forwards):
            self.wait()
            self.allowed.release()

    def wait(self) -> None:
        """Until the model stands before its next forward."""
        assert self.entered.acquire(timeout=PATIENCE), "the model was not asked for another forward"

    def release(self) -> None:
        """From now on nothing waits."""
        self.free = True
        self.allowed.release()

    def prefill(self, ids, adapters, room, is_branch=False):
        self._pass()
        logits, rows = yield from self.model.prefill(ids, adapters, room, is_branch)
        return _endless(logits), rows

    def step(self, tokens, groups):
        self._pass()
        return _endless(self.model.step(tokens, groups))

    def _pass(self) -> None:
        if self.free:
            return
        self.entered.release()
        assert self.allowed.acquire(timeout=PATIENCE), "nobody let the model go on"


def _endless(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.clone()
    logits[:, list(ENDS)] = -1e4
    return logits


class Opened:
    """Stands where `workbench.Opening` does, with a workbench that is open already."""

    def __init__(self, workbench: Workbench):
        self.workbench = workbench

    def wait(self, progress=sources.silent, given_up=lambda: False) -> Workbench:
        return self.workbench
