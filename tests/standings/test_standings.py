"""From stored votes to standings: which votes are rated and why others are not, and numbers counted by hand."""

import json
from dataclasses import replace

import pytest

from ram_demo.errors import UserError
from ram_demo.standings import Filters, Leaderboard, as_text
from ram_demo.votes import Ballot, Battle, Response
from tests import stores

store = stores.store

SLOW, FAST = Ballot(reading_seconds=60.0), Ballot(reading_seconds=0.0)


def answer(aligners: str, tokens: int | None = 10, kl: float | None = None, text: str = "It is so.") -> Response:
    return Response(aligners or "base", aligners, "", text, "eos", tokens, 20.0, 90.0, None, kl, {})


@pytest.fixture
def leaderboard(store):
    return Leaderboard(store, rest=0.0)


@pytest.fixture
def vote(store):
    """Keep a battle of two answers, and a vote on it."""

    def keep(a, b, choice="b", voter="v", ballot=SLOW, times=1, **battle):
        battle = {"kind": "pair", "blind": True} | battle
        for _ in range(times):
            a_, b_ = (answer(side) if isinstance(side, str) else side for side in (a, b))
            made = Battle("Why?", voter, 7, "product", {}, "tiny", "cd", a_, b_, **battle)
            store.vote(store.record_battle(made), choice, voter, ballot)

    return keep


def test_no_votes_are_no_places(leaderboard):
    found = leaderboard.standings()
    assert (found.votes, found.places) == (0, ())
    assert "0 votes" in as_text(found)
    json.dumps(found.to_json(), allow_nan=False)


def test_every_strength_is_a_lane_against_the_base(leaderboard, vote):
    vote("", "concise:1", "b", times=8)
    vote("concise:1.0", "", "b", times=2)
    vote("", "concise:2", "b", times=3)
    vote("", "pirate:1,concise:0.5", "a", times=4)
    found = leaderboard.standings()
    lanes = {place.lane: place for place in found.places}
    assert set(lanes) == {"base", "concise:1", "concise:2", "pirate:1,concise:0.5"}, "1.0 and 1 are one strength"
    assert [place.points for place in found.places] == sorted((p.points for p in found.places), reverse=True)
    base, one = lanes["base"], lanes["concise:1"]
    assert (base.points, base.low, base.high) == (0, 0, 0)
    assert one.low < one.points < one.high and one.points > 0 > lanes["pirate:1,concise:0.5"].points
    assert (one.aligner, one.strength, one.votes) == ("concise", 1.0, 10)
    assert (one.against_base.value, one.against_base.votes) == (0.8, 10)
    assert (lanes["pirate:1,concise:0.5"].aligner, lanes["pirate:1,concise:0.5"].strength) == ("pirate+concise", None)
    order = [place.lane for place in found.places]
    assert found.matrix[order.index("concise:1")][order.index("base")].value == 0.8
    assert found.matrix[order.index("concise:1")][order.index("concise:2")].votes == 0
    assert found.places[-1].separating is None and all(place.separating is not None for place in found.places[:-1])


def test_votes_that_are_not_rated_have_their_reason_told(leaderboard, vote, store):
    vote("", "x:1", times=5)
    vote("", "x:1", ballot=FAST)
    vote("", "x:1", "a", voter="cheat")
    store.review(store.ballots().id[-1], False, "the owner's own: a test")
    vote("x:1", "x:1", "a", kind="placebo", times=3)
    vote("x:1", "x:1", "b", kind="placebo")
    found = leaderboard.standings()
    assert found.votes == 5
    assert found.left_out == {"too fast": 1, "the owner's own": 1}
    assert (found.left_in_placebos.value, found.left_in_placebos.votes) == (0.75, 4)


def test_filters_choose_votes(leaderboard, vote):
    vote("", "x:1", category="science", times=2)
    vote("", "x:1", category="cooking", blind=False, kind="compare")
    vote("x:1", "x:2", kind="strength", times=3)
    for filters, votes in (
        (Filters(), 6),
        (Filters(category="science"), 2),
        (Filters(category="none such"), 0),
        (Filters(kind="strength"), 3),
        (Filters(blind_only=True), 5),
        (Filters(category="cooking", kind="compare"), 1),
    ):
        assert leaderboard.standings(filters).votes == votes
    assert leaderboard.standings().categories == ("cooking", "science")
    for wrong in (Filters(kind="duel"), Filters(most=-1), Filters(control="tone"), Filters(intervals="exact")):
        with pytest.raises(UserError):
            leaderboard.standings(wrong)


def test_one_voter_counts_at_most_so_often_and_the_earliest_count(leaderboard, vote):
    vote("", "x:1", "a", voter="busy", times=2)
    vote("", "x:1", "b", voter="busy", times=20)
    vote("", "x:1", "a", voter="other")
    capped = leaderboard.standings(Filters(most=2))
    assert capped.votes == 3 and capped.left_out == {"over the voter's cap": 20}
    place = next(place for place in capped.places if place.lane == "x:1")
    assert place.against_base.value == 0 and place.points < 0


def test_wins_move_with_strength_and_with_kl(leaderboard, vote):
    for strength, wins in ((0.5, 1), (1, 2), (2, 4)):
        lane = answer(f"x:{strength:g}", kl=strength / 10)
        vote("", lane, "b", times=wins)
        vote(lane, "", "b", times=4 - wins)
    found = leaderboard.standings()
    (curve,) = found.by_strength
    assert [(x, share.value) for x, share in curve.points] == [(0.5, 0.25), (1, 0.5), (2, 1)]
    (curve,) = found.by_kl
    assert sum(share.votes for _, share in curve.points) == 12, "in parts large enough to say something"


def test_both_bad_is_told_by_itself_and_rated_as_a_tie(leaderboard, vote):
    vote("", "x:1", "b", times=3)
    vote("", "x:1", "both_bad", times=2)
    bad = leaderboard.standings()
    vote("", "y:1", "b", times=3)
    vote("", "y:1", "tie", times=2)
    both = leaderboard.standings()
    assert bad.both_bad.value == 0.4
    points = {place.lane: place.points for place in both.places}
    assert points["x:1"] == pytest.approx(points["y:1"], abs=1e-3)


def test_what_length_and_looks_are_worth_can_be_taken_out(leaderboard, vote):
    plain, listed = answer("", tokens=20), answer("", tokens=20, text="1. It is.\n- So **it** is.")
    long = answer("x:1", tokens=60)
    vote(plain, long, "b", times=6)
    vote(replace(plain, tokens=60), replace(long, tokens=20), "a", times=6)
    vote(listed, replace(long, tokens=20), "a", times=6)
    by_length = leaderboard.standings(Filters(control="length"))
    assert [weight.name for weight in by_length.weights] == ["length"]
    assert by_length.weights[0].points > 0
    by_style = leaderboard.standings(Filters(control="style"))
    assert [weight.name for weight in by_style.weights] == ["length", "lists", "bold"], "no answer has a heading"
    assert all(weight.low < weight.points < weight.high for weight in by_style.weights)


def test_standings_are_worked_out_again_only_for_something_new(leaderboard, vote, store):
    vote("", "x:1")
    first = leaderboard.standings()
    assert leaderboard.standings() is first
    vote("", "x:1")
    second = leaderboard.standings()
    assert second.votes == 2 and second is not first
    store.review(store.ballots().id[0], False, "a test")
    assert leaderboard.standings().votes == 1


def test_a_store_that_is_slow_to_read_is_left_in_peace_for_a_while(vote, store):
    leaderboard = Leaderboard(store, rest=1e9)
    vote("", "x:1")
    assert leaderboard.standings().votes == 1
    version = leaderboard.version()
    vote("", "x:1")
    assert leaderboard.standings().votes == 1 and leaderboard.version() == version
    assert Leaderboard(store, rest=0.0).standings().votes == 2


def test_no_trace_and_no_answer_is_read_for_them(leaderboard, vote, store, monkeypatch):
    vote("", "x:1")
    monkeypatch.setattr(store, "rows", lambda **_: pytest.fail("the leaderboard reads columns alone"))
    assert leaderboard.standings().votes == 1


def test_elo_is_there_for_those_who_ask(leaderboard, vote):
    vote("", "x:1", "b", times=2)
    assert all(place.elo is None for place in leaderboard.standings().places)
    found = leaderboard.standings(Filters(elo=True))
    # A first win is 2 points to each side; the second, expected at 1 / (1 + 10^(-4 / 400)), a little less.
    assert found.places[0].elo == pytest.approx(4 + 8 * (1 - 1 / (1 + 10 ** (-4 / 400))))
    assert "elo" in as_text(found)
