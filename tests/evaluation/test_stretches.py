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


TOKENS = st.lists(st.integers(0, 2), max_size=3)


@given(TOKENS, TOKENS, st.integers(1, 7), st.integers(2, 4), st.integers(1, 9))
def test_a_loop_is_what_a_plain_search_finds(before, run, again, times, least):
    tokens = before + run * again
    every = [
        (begin, len(tokens) - begin, period)
        for period in range(1, len(tokens) + 1)
        for begin in range(len(tokens))
        if len(tokens) - begin >= max(times * period, least)
        and all(tokens[i] == tokens[i - period] for i in range(begin + period, len(tokens)))
    ]
    assert stretches.loop(tokens, times, least) == next(iter(every), None)
