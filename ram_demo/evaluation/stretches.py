"""Stretches of a sequence: the longest that is true, spans that are low, the loop that it ends in. Each is (where it
begins, how many). Pure functions; knows nothing of answers."""

import statistics
from collections.abc import Sequence


def longest(flags: Sequence[bool]) -> tuple[int, int]:
    """The first of the longest stretches that are true; (0, 0) if none is."""
    best, count = (0, 0), 0
    for at, flag in enumerate(flags):
        count = count + 1 if flag else 0
        if count > best[1]:
            best = (at + 1 - count, count)
    return best


def low(values: Sequence[float], size: int, below: float) -> list[tuple[int, int]]:
    """Where `size` values in a row have a mean below a threshold; those that overlap or touch are one."""
    found: list[tuple[int, int]] = []
    for begin in range(len(values) - size + 1):
        if statistics.fmean(values[begin : begin + size]) < below:
            first = found.pop()[0] if found and begin <= sum(found[-1]) else begin
            found.append((first, begin + size - first))
    return found


def loop(tokens: Sequence[int], times: int, least: int) -> tuple[int, int, int] | None:
    """The shortest run that the sequence ends by saying at least so many times, over at least so many tokens: where the
    loop begins, its tokens, and those of the run; None if there is none."""
    for period in range(1, len(tokens) // times + 1):
        at = len(tokens)
        while at > period and tokens[at - 1] == tokens[at - 1 - period]:
            at -= 1
        count = len(tokens) - (at - period)
        if count >= max(times * period, least):
            return at - period, count, period
    return None
