"""What every measurement here shares: taking turns, medians with their spread, ratios, and the printed tables.

Knows numbers; knows nothing of models. Runs of what is compared alternate, so that a machine that slows down slows
both; a ratio is the median of the run-by-run ratios, not the ratio of two medians.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import torch

RUNS = 5


@dataclass(frozen=True)
class Figure:
    """One line of a table. spread: the lowest and the highest run; wanted: what the project asks of it, in words."""

    table: str
    name: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    wanted: str = ""


@dataclass(frozen=True)
class Table:
    """Makes the lines of one table."""

    name: str

    def single(self, name: str, value: float, unit: str, wanted: str = "") -> Figure:
        return Figure(self.name, name, value, unit, None, wanted)

    def median(self, name: str, values: Iterable[float], unit: str, wanted: str = "") -> Figure:
        values = list(values)
        return Figure(self.name, name, statistics.median(values), unit, (min(values), max(values)), wanted)

    def ratio(self, name: str, over: Iterable[float], under: Iterable[float], wanted: str = "") -> Figure:
        return self.median(name, [a / b for a, b in zip(over, under, strict=True)], "x", wanted)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(*actions: Callable[[], float], runs: int = RUNS) -> list[list[float]]:
    """Each action's results, taken in turn after one warm-up of each."""
    for action in actions:
        action()
    return [list(column) for column in zip(*([a() for a in actions] for _ in range(runs)), strict=True)]


def machine() -> str:
    """The machine in words: what a figure must be read with."""
    flags = set(_of_processor("flags").split())
    wide = next((words for flag, words in WIDEST if flag in flags), "no AVX2")
    name = _of_processor("model name") or platform.processor()
    return f"{name}, {os.cpu_count()} cores, {wide}, Python {platform.python_version()}, torch {torch.__version__}"


WIDEST = (("avx512_bf16", "AVX-512 with bfloat16"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))


def _of_processor(what: str) -> str:
    """What Linux tells of the processor; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(what)), "")


def show(figures: Iterable[Figure], as_json: bool) -> None:
    """Print tables as they come, or one JSON object a line."""
    where = machine()
    if as_json:
        for line in figures:
            print(json.dumps({**asdict(line), "machine": where}), flush=True)
        return
    print(where, flush=True)
    for table, lines in groupby(figures, lambda line: line.table):
        print(f"\n### {table}\n\n| | median | from - to | wanted |\n|---|---|---|---|", flush=True)
        for line in lines:
            spread = f"{_number(line.spread[0])} - {_number(line.spread[1])}" if line.spread else ""
            print(f"| {line.name} | {_number(line.value)} {line.unit} | {spread} | {line.wanted} |", flush=True)


def _number(value: float) -> str:
    """Three figures that count, or whole numbers."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
