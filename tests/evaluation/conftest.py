"""A workbench around a tiny model with one adapter, and the same two models as plain transformers ones."""

import pytest

from ram_demo.workbench import Workbench
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    tiny.save(folder / "base", tiny.model())
    tiny.adapter(folder / "own" / "a", folder / "base", seed=1)
    return folder


@pytest.fixture
def bench(made, tmp_path):
    settings = tiny_workbench.settings(tmp_path)
    settings.data.mkdir()
    settings.own_aligners.symlink_to(made / "own")
    return Workbench(settings, tiny_workbench.load(made / "base"))


@pytest.fixture(scope="session")
def plain(made):
    """(the proposal, the aligner merged into it), whose whole forward gives logits at every position."""
    return tiny.model().eval(), tiny.merged(made / "base", made / "own" / "a").eval()
