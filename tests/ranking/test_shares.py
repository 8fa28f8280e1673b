"""What is counted, by hand and against scipy; caps and Elo, which alone look at the order of votes."""

import math

import numpy as np
import pytest
from scipy import stats

from ram_demo.ranking import BASE, Ballots, along, both_bad, elo, fit, left, meetings, votes_to_separate
from ram_demo.ranking.shares import wilson

VOTES = Ballots(
    a=np.array([0, 1, 0, 0, 2]),
    b=np.array([1, 0, 1, 2, 0]),
    result=np.array([1, 0, 2, 3, 1]),
    names=(BASE, "x", "y"),
    voter=np.array([7, 7, 3, 7, 3]),
    order=np.array([50, 40, 30, 20, 10]),
)


def test_who_beat_whom():
    met = meetings(VOTES)
    assert met.wins.tolist() == [[0, 0, 1], [2, 0, 0], [0, 0, 0]]
    assert met.ties.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert met.both_bad.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert met.votes[0, 1] == 3 and met.win_rate(1, 0).value == pytest.approx(2.5 / 3)
    assert math.isnan(met.win_rate(1, 2).value), "they have not met"


def test_the_left_side_and_both_bad_are_shares_of_what_they_are_about():
    assert (left(VOTES).value, left(VOTES).votes) == (1 / 3, 3)
    assert (both_bad(VOTES).value, both_bad(VOTES).votes) == (1 / 5, 5)


@pytest.mark.parametrize(("part", "votes"), [(0, 5), (3, 10), (10, 10), (480, 1000)])
def test_a_share_has_wilsons_interval(part, votes):
    known = stats.binomtest(part, votes).proportion_ci(method="wilson")
    share = wilson(part, votes)
    assert (share.low, share.high) == pytest.approx((known.low, known.high), abs=1e-12)


def test_wins_along_a_number_come_in_its_order_and_keep_equals_together():
    values = np.array([2.0, 1.0, 2.0, 1.0, 1.0, 5.0])
    wins = np.array([1, 0, 0.5, 0, 1, 1])
    found = along(values, wins)
    assert [(x, share.value, share.votes) for x, share in found] == [(1, 1 / 3, 3), (2, 0.75, 2), (5, 1, 1)]
    spread = along(np.linspace(0, 1, 100), np.ones(100), parts=4)
    assert [share.votes for _, share in spread] == [25, 25, 25, 25]
    assert [x for x, _ in spread] == sorted(x for x, _ in spread)
    assert along(np.array([]), np.array([])) == []


def test_a_cap_keeps_each_voters_earliest_votes_wherever_they_stand():
    assert VOTES.capped(1).order.tolist() == [20, 10]
    assert sorted(VOTES.capped(2).order.tolist()) == [10, 20, 30, 40]
    shuffled = VOTES.where(np.array([3, 1, 4, 0, 2]))
    assert sorted(shuffled.capped(2).order.tolist()) == [10, 20, 30, 40]
    assert len(VOTES.capped(9)) == 5
    assert len(Ballots(VOTES.a, VOTES.b, VOTES.result, VOTES.names).capped(1)) == 5, "everybody is somebody else"


def test_elo_moves_by_what_was_not_expected_in_the_order_of_time():
    two = Ballots(np.array([0, 0]), np.array([1, 1]), np.array([0, 1]), (BASE, "x"), order=np.array([2, 1]))
    # First x wins: 2 points to each side. Then the base wins, of which x, 4 points above, was expected to keep it.
    surprise = 4 * (1 - 1 / (1 + 10 ** (4 / 400)))
    assert elo(two).tolist() == pytest.approx([0, 4 - 2 * surprise])
    assert elo(two.where(np.array([1, 0]))).tolist() == pytest.approx([0, 4 - 2 * surprise])


def test_the_votes_that_would_separate_two_lanes_do():
    def votes(wins, losses, ties):
        result = np.repeat([1, 0, 2], [wins, losses, ties])
        return fit(Ballots(np.zeros(len(result), int), np.ones(len(result), int), result, (BASE, "x")), ridge=1e-6)

    now = votes(44, 36, 20)
    more = votes_to_separate(now, 0, 1)
    assert more > 100
    grown = [round(part * (100 + more) / 100) for part in (44, 36, 20)]
    difference, half = votes(*grown).difference(1, 0)
    assert half == pytest.approx(difference, rel=0.03)
    assert votes_to_separate(votes(90, 5, 5), 0, 1) == 0, "they are apart"
    assert votes_to_separate(votes(40, 40, 20), 0, 1) is None, "equal lanes never part"
