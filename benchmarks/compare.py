"""Everything that is measured, in one run: `python -m ram_demo bench`, or `make bench`.

Peers, ours, people, prompts, forms of the weights, the roofline, training and the page; each room says how it measures.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ours, peers, roofline, speed, weights
from benchmarks.tables import Figure, show
from ram_demo.settings import SHIPPED_ALIGNERS, Settings

MOST_LANES = 8


def figures(settings: Settings) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as data:
        bench = ours.open_endless(ours.with_copies(settings, Path(data), MOST_LANES))
        plain = peers.Transformers(bench.proposal.source.path, SHIPPED_ALIGNERS / ours.ALIGNER)
        llama = peers.llama_cpp()
        yield from speed.side_by_side(bench, plain, llama)
        yield from speed.first_token(bench, plain, llama)
        del plain, llama
        yield from speed.by_mode(bench)
        yield from speed.by_lanes(bench)
        yield from speed.by_people(bench)
        yield from roofline.roofline(bench)
        yield from speed.swapping(bench)
        del bench
    yield from weights.formats(settings)
    if importlib.util.find_spec("trl"):
        from benchmarks import training

        yield from training.cost(settings)
    else:
        print("Training was not measured: that takes requirements-dev.txt; `make bench` brings it.", file=sys.stderr)
    if not importlib.util.find_spec("playwright"):
        print("The page was not measured: that takes requirements-dev.txt; `make bench` brings it.", file=sys.stderr)
        return
    from benchmarks import arena, inspector, pages

    yield from arena.voting(settings)
    yield from pages.start_up(settings)
    yield from pages.streaming(settings)
    yield from inspector.long_answers(settings)


def main(settings: Settings, as_json: bool) -> None:
    """Measure everything and print the tables, or one JSON object a line."""
    show(figures(settings), as_json)
