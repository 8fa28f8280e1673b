"""How near a step comes to what memory allows: the bytes it must read, over the bandwidth measured beside it.

A decoding step multiplies so few rows that reading the weights is the least it can cost. Counted once each: the
projections as they are packed, the head, the adapter, and the caches read at the middle of the answer.
"""

import time
from collections.abc import Iterator

import torch

from benchmarks import ours
from benchmarks.tables import RUNS, Figure, Table
from ram_demo.models.apart import apart
from ram_demo.models.formats import GROUP
from ram_demo.models.lean import FUSED, LeanModel
from ram_demo.workbench import Workbench

BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4 + 32 / GROUP}
ROWS = [None, None, ours.ALIGNER + "-0"]  # two branches of the base, and the aligner's
PROMPT_TOKENS, STEPS = 64, 60


def roofline(bench: Workbench) -> Iterator[Figure]:
    model = bench.proposal.model
    bench.plan(ours.Request(ours.PROMPT, ours.lanes(1)))  # loads the aligner
    bandwidths, steps = apart(lambda: ([_bandwidth() for _ in range(RUNS)], _steps(model)))
    needed = _bytes(model)
    table = Table("Roofline of a step at 3 rows")
    yield table.median("bandwidth measured, reading", [b / 1e9 for b in bandwidths], "GB/s")
    yield table.single("bytes a step must read", needed / 1e6, "MB")
    yield table.median("the forward of a step", [1000 * s for s in steps], "ms")
    yield table.ratio("share of the roofline", [needed / s for s in steps], bandwidths, "at least 0.4x")


def _bandwidth() -> float:
    """Bytes a second, reading far more than any cache holds with all cores."""
    much = torch.ones(2**28)
    much.sum()
    start = time.perf_counter()
    much.sum()
    return much.nbytes / (time.perf_counter() - start)


def _steps(model: LeanModel) -> list[float]:
    """Seconds a forward: RUNS medians of STEPS steps each."""
    medians = []
    for _ in range(RUNS):
        reading = model.prefill(list(range(100, 100 + PROMPT_TOKENS)), ROWS, STEPS)
        try:
            while True:
                next(reading)
        except StopIteration as end:
            _, rows = end.value
        times = []
        for n in range(STEPS):
            start = time.perf_counter()
            model.step(torch.tensor([100 + n, 200 + n, 100 + n]), [rows])
            times.append(time.perf_counter() - start)
        medians.append(sorted(times)[STEPS // 2])
    return medians


def _bytes(model: LeanModel) -> float:
    hidden = model.norm.numel()
    weights = sum(
        BITS[getattr(layer, product).format] / 8 * sum(model.shapes[p][0] * model.shapes[p][1] for p in parts)
        for layer in model.layers
        for product, parts in FUSED.items()
    )
    head = BITS[model.head.format] / 8 * model.vocab_size * hidden
    pairs = [p for name in ROWS if name for layer in model.adapters[name] for p in layer.values()]
    adapters = sum(t.nbytes for p in pairs for t in (p.down, p.up))
    return weights + head + adapters + len(ROWS) * model.bytes_per_token * (PROMPT_TOKENS + STEPS / 2)
