"""Which pair comes next: by enumeration against entropies computed the long way, and by simulation."""

import math
from collections import Counter
from itertools import combinations
from random import Random

import numpy as np
import pytest

from ram_demo import pairing
from ram_demo.errors import UserError
from ram_demo.pairing import Pair, draw, information, lanes_of

LANES = ("base", "concise:1", "concise:2", "pirate:2")
COUNTS = {("base", "concise:1"): 9, ("concise:2", "base"): 4, ("concise:1", "concise:2"): 1, ("gone:1", "base"): 50}


@pytest.fixture
def no_placebo(monkeypatch):
    monkeypatch.setattr(pairing, "PLACEBO_SHARE", 0)


def entropy(votes: list[tuple[int, int]]) -> float:
    """Of the strengths' posterior after such votes, up to a constant: -½ log |H|, H summed vote by vote."""
    precision = np.eye(len(LANES))
    for i, j in votes:
        d = np.zeros(len(LANES))
        d[i], d[j] = 1, -1
        precision += 0.25 * np.outer(d, d)
    return -0.5 * np.linalg.slogdet(precision)[1]


def test_information_is_how_much_one_more_vote_lowers_the_entropy():
    at = {label: n for n, label in enumerate(LANES)}
    votes = [(at[a], at[b]) for (a, b), n in COUNTS.items() if a in at for _ in range(n)]
    gains = information(LANES, COUNTS)
    assert set(gains) == set(combinations(LANES, 2))
    for (one, other), gain in gains.items():
        assert gain == pytest.approx(entropy(votes) - entropy([*votes, (at[one], at[other])]))


def test_order_within_a_pair_and_lanes_that_are_gone_do_not_matter():
    turned = {(b, a): n for (a, b), n in COUNTS.items() if a != "gone:1"}
    assert information(LANES, turned) == pytest.approx(information(LANES, COUNTS))


def test_the_least_known_pair_comes_next(no_placebo):
    """Of four lanes all pairs but one were seen often; whatever the seed, that one is drawn."""
    for unseen in combinations(LANES, 2):
        # Lanes that are known through others are nearly known, so all that touches the pair's lanes is seen less.
        counts = {pair: 30 for pair in combinations(LANES, 2) if not set(pair) & set(unseen)}
        assert all({pair.a, pair.b} == set(unseen) for pair in (draw(LANES, counts, Random(s)) for s in range(20)))


def test_a_seed_repeats_a_draw_and_others_differ():
    assert [draw(LANES, COUNTS, Random(s)) for s in range(50)] == [draw(LANES, COUNTS, Random(s)) for s in range(50)]
    assert len({draw(LANES, {}, Random(s)) for s in range(50)}) > 5


def test_kinds_follow_from_who_meets_whom(no_placebo):
    for seed in range(200):
        pair = draw(LANES, {}, Random(seed))
        assert pair.a != pair.b
        assert pair.kind == ("strength" if {pair.a, pair.b} == {"concise:1", "concise:2"} else "pair")


def test_over_a_long_time_pairs_are_even_sides_are_fair_and_placebos_have_their_share():
    """4,000 rounds: six pairs drawn by what is known, all within one round of another; 10% placebos over all lanes."""
    chance, counts, drawn = Random(3), Counter(), []
    for _ in range(4000):
        pair = draw(LANES, counts, chance)
        drawn.append(pair)
        if pair.kind != "placebo":
            counts[pair.a, pair.b] += 1
    placebos = [pair for pair in drawn if pair.kind == "placebo"]
    # Five standard deviations of a binomial.
    assert abs(len(placebos) - 400) < 5 * math.sqrt(4000 * 0.1 * 0.9)
    assert {(pair.a, pair.b) for pair in placebos} == {(lane, lane) for lane in LANES}
    fought = [pair for pair in drawn if pair.kind != "placebo"]
    times = Counter(frozenset((pair.a, pair.b)) for pair in fought)
    assert len(times) == 6 and max(times.values()) - min(times.values()) <= 1
    for a, b in combinations(LANES, 2):
        here = sum((pair.a, pair.b) == (a, b) for pair in fought)
        n = times[frozenset((a, b))]
        assert abs(here - n / 2) < 5 * math.sqrt(n) / 2


def test_the_base_and_each_aligner_at_its_strengths():
    assert lanes_of({"concise": 2.0, "pirate": 1.5}) == ("base", "concise:1", "concise:2", "pirate:0.75", "pirate:1.5")
    assert lanes_of({"still": 0.0}) == ("base",), "at strength 0 it is the base"


def test_without_an_aligner_there_is_nothing_to_compare():
    with pytest.raises(UserError, match="no aligner"):
        draw(("base",), {}, Random(0))
    assert draw(("base", "a:1"), {}, Random(1)) in (Pair("pair", "base", "a:1"), Pair("pair", "a:1", "base"))
