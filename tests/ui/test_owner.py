"""The owner's questions by themselves: who gets an answer, and what a review leaves behind."""

from dataclasses import replace

import gradio as gr
import pytest

from ram_demo.settings import from_environment
from ram_demo.ui.guard import Guard
from ram_demo.ui.owner import build, questions
from ram_demo.votes import Battle, Response, VoteStore

LOCAL, PUBLIC = "127.0.0.1", "0.0.0.0"


@pytest.fixture
def store(tmp_path):
    store = VoteStore(f"sqlite:///{tmp_path / 'votes.sqlite3'}")
    answer = Response("base", "", "", "So.", "eos", 2, 1.0, 1.0, None, None, {})
    for n in range(12):
        store.vote(store.record_battle(Battle(f"{n}?", "me", 7, "product", {}, "P", "r", answer, answer)), "a", "me")
    yield store
    store.close()


@pytest.fixture
def asked(store):
    """Call it with a host and the owner's token: the questions by name."""

    def of(host=PUBLIC, token="secret"):
        settings = replace(from_environment({"RAM_DEMO_HOST": host}), owner_token=token)
        return {question.__name__: question for question in questions(store, Guard(settings, None))}

    return of


@pytest.mark.parametrize(
    ("host", "secret", "given", "let_in"),
    [
        (PUBLIC, "secret", "secret", True),
        (PUBLIC, "secret", "Secret", False),
        (PUBLIC, "secret", "", False),
        (PUBLIC, "", "", False),
        (LOCAL, "", "", True),
    ],
)
def test_only_the_owner_is_answered(store, asked, host, secret, given, let_in):
    ask, vote = asked(host, secret), store.newest(1)[0]
    found = ask["votes"]({"token": given, "skip": 0})
    done = ask["review"]({"token": given, "vote": vote.id, "counts": False, "why": "spam"})
    assert ("votes" in found, done == {}, store.newest(1)[0].counts) == (let_in, let_in, not let_in)
    if not let_in:
        assert "takes the owner's token" in found["error"] and "takes the owner's token" in done["error"]


@pytest.mark.parametrize(("host", "token", "there"), [(LOCAL, "", True), (PUBLIC, "x", True), (PUBLIC, "", False)])
def test_the_page_has_an_owners_room_where_there_is_an_owner(store, host, token, there):
    settings = replace(from_environment({"RAM_DEMO_HOST": host}), owner_token=token)
    with gr.Blocks() as page:
        build(store, Guard(settings, None))
    assert ("owner" in [getattr(block, "elem_id", None) for block in page.blocks.values()]) is there


def test_votes_come_newest_first_a_page_at_a_time(asked):
    ask = asked()["votes"]
    first, second = (ask({"token": "secret", "skip": skip}) for skip in (0, 10))
    assert [vote["prompt"] for vote in first["votes"] + second["votes"]] == [f"{n}?" for n in reversed(range(12))]
    assert first["of"] == 12 and first["votes"][0]["a"] == {"label": "base", "text": "So."}


def test_a_review_is_added_and_may_be_taken_back_and_nothing_is_deleted(store, asked):
    ask, vote = asked()["review"], store.newest(1)[0]
    for counts, why in ((False, "spam"), (True, " looked again ")):
        assert ask({"token": "secret", "vote": vote.id, "counts": counts, "why": why}) == {}
        now = store.newest(1)[0]
        assert (now.id, now.counts, now.why) == (vote.id, counts, why.strip())
    assert store.count() == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"why": " "},
        {"why": "x" * 301},
        {"why": None},
        {"counts": 0},
        {"counts": "false"},
        {"vote": "none"},
        {"vote": 7},
    ],
)
def test_what_is_no_review_changes_nothing(store, asked, changes):
    vote = store.newest(1)[0]
    told = asked()["review"]({"token": "secret", "vote": vote.id, "counts": False, "why": "spam", **changes})
    assert told["error"] and store.newest(1)[0] == vote


@pytest.mark.parametrize("wrong", [None, [], "votes", {}, {"token": "secret"}, {"token": "secret", "skip": -1}])
def test_what_is_no_question_gets_a_sentence(asked, wrong):
    assert asked()["votes"](wrong)["error"]
