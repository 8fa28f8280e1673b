"""Stretches in sequences, worked out by hand and against slow, plain searches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ram_demo.evaluation import stretches


@pytest.mark.parametrize(
    ("flags", "at"),
    [("", (0, 0)), ("000", (0, 0)), ("1", (0, 1)), ("0110111", (4, 3)), ("110011", (0, 2)), ("01110", (1, 3))],
)
def test_the_first_of_the_longest_is_found(flags, at):
    assert stretches.longest([flag == "1" for flag in flags]) == at


@pytest.mark.parametrize(
    ("values", "spans"),
    [
        ([0.9] * 6, []),
        ([0.1], []),  # too short to be a span
        ([0.9, 0.1, 0.1, 0.9], [(1, 2)]),
        ([0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1], [(0, 2), (4, 3)]),
        ([0.1, 0.1, 0.1, 0.1], [(0, 4)]),
        ([0.1, 0.1, 1.0, 0.1, 0.1], [(0, 2), (3, 2)]),
    ],
)
def test_low_spans_that_overlap_or_touch_are_one(values, spans):
    assert stretches.low(values, 2, 0.5) == spans


def test_spans_that_touch_are_one():
    assert stretches.low([0.0, 0.4, 0.7, 0.0], 2, 0.5) == [(0, 4)], (
        "the middle two alone are not low, but both ends are"
    )


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], None),
        ([9, 1, 2, 1, 2, 1, 2], (1, 6, 2)),
        ([1, 2, 1, 2, 1, 2, 1], (0, 7, 2)),  # cut within the run
        ([9, 1, 2, 1, 2], None),  # twice is no loop
        ([7, 7, 7], None),  # too few tokens
        ([7, 7, 7, 7, 7, 7], (0, 6, 1)),
        ([1, 2, 1, 2, 1, 2, 3], None),  # it went on
        ([], None),
    ],
)
def test_a_loop_goes_on_until_the_end(tokens, found):
    assert stretches.loop(tokens, 3, 5) == found


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(3, 6))
def test_what_was_said_so_often_is_found(before, run, times):
    tokens = [*before, *run * times]
    begin, count, period = stretches.loop(tokens, 3, 1)
    assert begin <= len(before) and begin + count == len(tokens) and period <= len(run)
    assert all(tokens[i] == tokens[i + period] for i in range(begin, len(tokens) - period))
    assert begin == 0 or tokens[begin - 1] != tokens[begin - 1 + period], "it begins as early as it can"
