"""Votes as columns, against what the rows say."""

from dataclasses import fields, replace
from statistics import mean

import pytest
from sqlalchemy import event

from ram_demo.votes import Ballot, Turn
from ram_demo.votes.schema import now


@pytest.fixture
def voted(store, battle):
    """Call it with changes to the battle: the id of its vote."""

    def vote(choice="a", ballot=Ballot(), **changes):  # noqa: B008 it is frozen
        changed = replace(battle, **changes)
        store.vote(store.record_battle(changed), choice, changed.session, ballot)
        return list(store.rows())[-1].id

    return vote


def test_columns_say_what_the_rows_say(store, battle, voted):
    again = Turn("And?", replace(battle.a, tokens=5, mean_kl=1.0), replace(battle.b, tokens=4))
    voted("b", kind="pair", blind=True, category="science", later=(again,))
    voted("tie", Ballot(reading_seconds=0.0), session="browser-2")
    voted("both_bad", a=replace(battle.b, tokens=None), kind="placebo")
    columns, rows = store.ballots(only_counting=False), list(store.rows())
    assert len(columns) == 3
    for n, row in enumerate(rows):
        turns = row.battle.turns
        assert (columns.id[n], columns.created_at[n], columns.choice[n]) == (row.id, row.created_at, row.choice)
        shared = ("kind", "blind", "category", "prompt")
        assert [getattr(columns, name)[n] for name in shared] == [getattr(row.battle, name) for name in shared]
        assert columns.voter[n] == row.battle.session
        assert (columns.counts[n], columns.why[n], columns.imported[n]) == (row.counts, row.why, False)
        assert (columns.a_label[n], columns.b_label[n]) == (turns[0].a.label, turns[0].b.label)
        known = [turn.a.tokens for turn in turns if turn.a.tokens is not None]
        assert columns.a_tokens[n] == (sum(known) if known else None)
        assert columns.b_tokens[n] == sum(turn.b.tokens for turn in turns)
        for name in ("mean_kl", "gated_share"):
            values = [value for turn in turns if (value := getattr(turn.a, name)) is not None]
            assert getattr(columns, f"a_{name}")[n] == (mean(values) if values else None)
        assert columns.b_mean_kl[n] is None
    assert columns.a_label == ("concise:1.0", "concise:1.0", "base")
    assert all(isinstance(value, bool) for value in columns.counts + columns.blind)


def test_filters_keep_what_they_name(store, voted):
    fast = voted(ballot=Ballot(reading_seconds=0.0))
    pair = voted(kind="pair", blind=True, category="science")
    middle = now()
    placebo = voted(kind="placebo", blind=True)
    assert store.ballots().id == (pair, placebo)
    assert store.ballots(only_counting=False).id == (fast, pair, placebo)
    assert store.ballots(blind_only=True, kinds=("pair", "compare")).id == (pair,)
    assert store.ballots(kinds=()).id == ()
    assert store.ballots(category="science").id == (pair,)
    assert store.ballots(since=middle).id == (placebo,)
    assert store.ballots(imported=True).id == ()
    assert store.ballots(imported=False).id == (pair, placebo)
    store.review(fast, True, "a quick reader")
    store.review(placebo, False, "spam")
    assert store.ballots().id == (fast, pair)


def test_an_empty_store_has_empty_columns(store):
    assert all(getattr(store.ballots(), field.name) == () for field in fields(store.ballots()))


def test_columns_read_no_answer_and_no_trace(store, voted):
    voted()
    asked = []
    event.listen(store._engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    store.ballots()
    query, parameters = asked.pop()
    assert "trace" not in query and "response.text" not in query
    if store._engine.dialect.name == "sqlite":  # PostgreSQL prefers to read so small a table whole
        with store._engine.connect() as db:
            plan = " ".join(row[3] for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", parameters))
        assert "COVERING INDEX ix_response_summary" in plan


def test_the_newest_come_first_a_page_at_a_time_whether_they_count_or_not(store, voted):
    ids = [voted(prompt=str(n), ballot=Ballot(reading_seconds=0.0 if n == 2 else None)) for n in range(5)]
    assert [row.id for row in store.newest(2)] == [ids[4], ids[3]]
    second = store.newest(2, skip=2)
    assert [(row.id, row.counts) for row in second] == [(ids[2], False), (ids[1], True)]
    assert second == [row for row in reversed(list(store.rows())) if row.id in ids[1:3]]
    assert store.newest(2, skip=5) == []


def test_votes_are_counted_by_pair_of_labels_however_many_turns(store, battle, voted):
    voted(later=(Turn("And?", battle.a, battle.b),))
    voted("tie", Ballot(reading_seconds=0.0))
    voted(a=battle.b, b=battle.a)
    voted(kind="placebo", a=battle.b)
    store.record_battle(battle)  # without a vote
    assert store.pair_counts() == {("concise:1.0", "base"): 2, ("base", "concise:1.0"): 1, ("base", "base"): 1}


def test_a_blind_vote_on_an_answer_that_names_itself_does_not_count(store, battle, voted):
    named = replace(battle.a, text="I am concise. Air.")
    voted(a=named)
    assert store.newest(1)[0].counts, "what is shown with its name is not blind"
    voted(a=named, blind=True, later=(Turn("And?", battle.a, battle.b),))
    row = store.newest(1)[0]
    assert (row.counts, row.why) == (False, "names itself: answer A says that it is concise")
