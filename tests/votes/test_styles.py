"""Lists, headings and bold words are counted in the database as a person would count them."""

from dataclasses import replace

from ram_demo.votes import MARKS, Turn


def test_marks_are_counted_side_by_side_and_over_all_turns(store, battle):
    marked = "# Title\n\n1. one\n2. two\n- three\n**bold** and **bold**\n## More\nno-list 3. here"
    a, b = replace(battle.a, text=marked), replace(battle.b, text="Plain #1, a - b, 2 * 3.")
    later = Turn("And?", replace(a, text="* more"), replace(b, text="**so**"))
    battle_id = store.record_battle(replace(battle, a=a, b=b, later=(later,)))
    store.vote(battle_id, "a", battle.session)
    (vote,) = store.ballots().id
    assert list(MARKS) == ["lists", "headings", "bold"]
    assert store.styles() == {vote: (4, 2, 4, 0, 0, 2)}


def test_a_new_vote_and_a_review_are_a_new_version(store, battle):
    before = store.version()
    store.vote(store.record_battle(battle), "a", battle.session)
    voted = store.version()
    store.review(store.ballots().id[0], False, "a test")
    assert len({before, voted, store.version()}) == 3
