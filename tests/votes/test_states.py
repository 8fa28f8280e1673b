"""A battle's way from state to state, checked against a table of what is allowed, written by hand."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ram_demo.errors import UserError
from ram_demo.votes import Ballot, NewBattle
from ram_demo.votes.battles import checked
from ram_demo.votes.schema import STATES, now

NEW = NewBattle(
    "Why?", "me", 7, "product", {"top_p": 0.95}, "tiny", "cd34", kind="pair", blind=True, category="science"
)

# What each step may start from, and where it leads.
ALLOWED = {
    "begin_turn": {"created": "running", "ended": "running"},
    "end_turn": {"running": "ended"},
    "vote": {"ended": "voted"},
    "reveal": {"ended": "revealed", "voted": "revealed", "revealed": "revealed"},
}


@pytest.fixture
def steps(store, battle):
    """{name: the step, taken on a battle by the session that it belongs to}"""
    return {
        "begin_turn": lambda battle_id, session="me": store.begin_turn(battle_id, session),
        "end_turn": lambda battle_id, turn=1: store.end_turn(battle_id, turn, "And?", battle.a, battle.b),
        "vote": lambda battle_id, session="me": store.vote(battle_id, "a", session),
        "reveal": lambda battle_id, session="me": store.reveal(battle_id, session),
    }


@pytest.fixture
def brought(store, steps):
    """Call it with a state: the id of a battle in it, with one turn where it has any."""

    def bring(state: str) -> str:
        battle_id = store.create_battle(NEW)
        if state == "created":
            return battle_id
        steps["begin_turn"](battle_id)
        if state == "running":
            return battle_id
        steps["end_turn"](battle_id, 0)
        if state in ("voted", "revealed"):
            steps["vote"](battle_id)
        if state == "revealed":
            steps["reveal"](battle_id)
        if state == "expired":
            assert store.expire(now() + timedelta(days=1)) >= 1
        return battle_id

    return bring


@pytest.mark.parametrize("step", ALLOWED)
@pytest.mark.parametrize("state", STATES)
def test_a_step_is_taken_from_where_it_may_and_refused_in_a_sentence_elsewhere(brought, steps, state_of, step, state):
    battle_id = brought(state)
    if state in ALLOWED[step]:
        steps[step](battle_id)
        assert state_of(battle_id) == ALLOWED[step][state]
    else:
        with pytest.raises(UserError, match=r"^[A-Z].*\.$"):
            steps[step](battle_id)
        assert state_of(battle_id) == state


@pytest.mark.parametrize("step", ["begin_turn", "vote", "reveal"])
def test_no_other_session_and_no_forged_id_takes_a_step(brought, steps, state_of, step):
    battle_id = brought("ended")
    for session in ("you", "", "me\0", "ME"):
        with pytest.raises(UserError, match="only the session that ran it"):
            steps[step](battle_id, session)
    for forged in ("", "0" * 32, battle_id.upper() + "x", "' OR '1'='1", "\ud800"):
        with pytest.raises(UserError, match="Unknown battle"):
            steps[step](forged)
    assert state_of(battle_id) == "ended"


def test_a_conversation_comes_back_whole(store, battle):
    battle_id = store.create_battle(NEW)
    asked = ["Why?", "And at night?", "Thanks."]
    for number, prompt in enumerate(asked):
        store.begin_turn(battle_id, "me")
        a = replace(battle.a, text=f"a{number}", trace={"turn": number})
        store.end_turn(battle_id, number, prompt, a, battle.b)
    store.vote(battle_id, "b", "me")
    shown = store.reveal(battle_id, "me")
    assert [turn.prompt for turn in shown.turns] == asked
    assert [turn.a.text for turn in shown.turns] == ["a0", "a1", "a2"]
    assert [turn.a.trace for turn in shown.turns] == [{"turn": 0}, {"turn": 1}, {"turn": 2}]
    assert all(turn.b == battle.b for turn in shown.turns)
    assert (shown.kind, shown.blind, shown.category, shown.seed) == ("pair", True, "science", 7)
    assert store.reveal(battle_id, "me") == shown, "a page that was loaded again may ask again"
    (row,) = store.rows()
    assert row.battle == shown and not row.imported


def test_a_turn_that_failed_leaves_the_battle_where_it_stood(store, brought, steps, state_of):
    first, second = brought("running"), brought("ended")
    steps["begin_turn"](second)
    for battle_id, before in ((first, "created"), (second, "ended")):
        store.abandon_turn(battle_id)
        assert state_of(battle_id) == before
        with pytest.raises(UserError):
            store.abandon_turn(battle_id)
    steps["vote"](second)


def test_only_battles_left_alone_without_a_vote_expire(store, brought, state_of):
    ids = {state: brought(state) for state in STATES if state != "expired"}
    assert store.expire(now() - timedelta(hours=1)) == 0
    assert store.expire(now() + timedelta(hours=1)) == 3
    assert {state: state_of(battle_id) for state, battle_id in ids.items()} == {
        "created": "expired", "running": "expired", "ended": "expired", "voted": "voted", "revealed": "revealed",
    }  # fmt: skip
    with pytest.raises(UserError, match="expired"):
        store.vote(ids["ended"], "a", "me")


# What a vote says


def test_a_ballot_comes_back_whole(store, brought, battle):
    ballot = Ballot(("too long", "clear"), "b is\nshort <b>&amp;</b>", ("a", 0, len(battle.a.text)), 31.25)
    store.vote(brought("ended"), "b", "me", ballot)
    assert next(store.rows()).ballot == ballot


@pytest.mark.parametrize(
    ("ballot", "message"),
    [
        (Ballot(reasons=("nice",)), "Unknown reason 'nice'"),
        (Ballot(comment="x" * 4001), "The comment has 4,001 characters; 4,000 are the most"),
        (Ballot(comment="\x1b" * 2**20), "The comment has 1,048,576 characters"),
        (Ballot(reading_seconds=float("nan")), "reading time"),
        (Ballot(reading_seconds=-1.0), "reading time"),
        (Ballot(span=("c", 0, 1)), "span"),
        (Ballot(span=("a", 1, 1)), "span"),
        (Ballot(span=("a", -1, 1)), "span"),
        (Ballot(span=("a", 0, 5)), "span"),  # its text is "Air."
        (Ballot(span=("b", 0, 10**9)), "span"),
    ],
)
def test_a_ballot_that_cannot_be_is_refused_and_the_vote_stays_open(store, brought, state_of, ballot, message):
    battle_id = brought("ended")
    with pytest.raises(UserError, match=message):
        store.vote(battle_id, "a", "me", ballot)
    assert (state_of(battle_id), store.count()) == ("ended", 0)
    store.vote(battle_id, "a", "me")


def test_a_comment_loses_control_characters_and_nothing_else():
    said = "a\x00b\x1b[2J\r\n\tc\x7f\x9b \u202e<script>alert(1)</script> 👩‍🚀 é"
    assert checked(Ballot(comment=said)).comment == "ab[2J\n\tc \u202e<script>alert(1)</script> 👩‍🚀 é"
    assert len(checked(Ballot(comment="x" * 4000)).comment) == 4000


# Whether it counts


def test_rules_and_the_owner_say_what_counts_and_no_vote_is_changed(store, brought, battle):
    for seconds in (0.0, 60.0, None):
        store.vote(brought("ended"), "a", "me", Ballot(reading_seconds=seconds))
    fast, slow, unmeasured = before = list(store.rows())
    assert (fast.counts, slow.counts, unmeasured.counts) == (False, True, True)
    assert fast.why.startswith("too fast: 0.0 s for what takes 0.8 s")
    assert slow.why == "duplicate prompt"
    store.review(fast.id, True, "I was there")
    store.review(slow.id, False, "spam")
    store.review(slow.id, True, "no spam")
    store.review(slow.id, False, "spam after all")
    after = list(store.rows())
    assert [(row.counts, row.why) for row in after[:2]] == [(True, "I was there"), (False, "spam after all")]
    assert [replace(row, counts=True, why="") for row in after] == [replace(row, counts=True, why="") for row in before]
    assert [row.id for row in store.rows(only_counting=True)] == [fast.id, unmeasured.id]
    with pytest.raises(UserError, match="Unknown vote"):
        store.review("nobody", False, "spam")


def test_votes_of_a_session_are_counted_from_a_moment_on(store, brought):
    start = now()
    for _ in range(3):
        store.vote(brought("ended"), "a", "me")
    assert store.votes_of("me", start) == 3
    assert store.votes_of("you", start) == store.votes_of("me", now() + timedelta(seconds=1)) == 0
