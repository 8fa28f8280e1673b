"""What the page is told of a battle: nothing that depends on a side before the vote, and everything after it."""

import json

import pytest

from ram_demo.decoding.loop import Waiting
from ram_demo.decoding.record import to_record
from ram_demo.errors import StorageError, UserError
from ram_demo.exchange import News
from ram_demo.replay import Difference, Standing
from ram_demo.ui.arena import questions
from ram_demo.votes import Ballot, Battle, Response
from tests import traces

WHO = {"battle": "b" * 32, "session": "0" * 32}


def answer(name: str, beta: float, tokens: list[int]) -> Response:
    """An answer of a lane; an empty name is the base's."""
    lane = name or "base"
    trace = traces.trace(lane, tokens, [(name, beta)] if name else [], seed=5)
    numbers = (trace.gated_share, trace.mean_kl) if name else (None, None)
    label = f"{name}:{beta:g}" if name else ""
    kept = json.loads(json.dumps(to_record(trace)))
    return Response(lane, label, "r" if name else "", trace.text, "eos", len(tokens), 9.0, 80.0, *numbers, kept)


class Told:
    """Stands where the arena does: gives what the test put there, and keeps what it was asked."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def __getattr__(self, name):
        def method(*asked):
            self.asked.append((name, *asked))
            given = self.answers.get(name)
            if isinstance(given, Exception):
                raise given
            return given

        return method


def ask(arena: Told, name: str, value):
    return next(question for question in questions(arena) if question.__name__ == name)(value)


@pytest.mark.parametrize("ahead", [None, Waiting(2, 9.4)])
def test_swapping_the_sides_swaps_two_texts_and_nothing_else(ahead):
    """To the byte: the message with the sides exchanged is the message with its texts exchanged."""
    one, other = "Arr, the sky!", "The sky is blue."
    straight = ask(Told(news=News("running", ahead, one, other, 9)), "news", {**WHO, "heard": 4})
    swapped = ask(Told(news=News("running", ahead, other, one, 9)), "news", {**WHO, "heard": 4})
    assert list(straight) == ["state", "heard", "a", "b", "note"]
    assert json.dumps({**straight, "a": other, "b": one}) == json.dumps(swapped)


def test_what_begins_a_battle_tells_its_id_alone():
    arena = Told(start="id")
    assert ask(arena, "start", {"prompt": " How do I boil an egg? ", "session": "s"}) == {"battle": "id"}
    assert arena.asked == [("start", " How do I boil an egg? ", "s", "how to")]
    assert ask(Told(go_on=3), "go_on", {**WHO, "prompt": "p"}) == {"turn": 3}


def test_a_vote_goes_in_whole_and_only_in_its_own_form():
    arena = Told()
    said = {"choice": "a", "reasons": ["clear"], "comment": "<i>", "span": ["b", 1, 4]}
    assert ask(arena, "vote", {**WHO, **said}) == {}
    assert arena.asked == [("vote", WHO["battle"], WHO["session"], "a", Ballot(("clear",), "<i>", ("b", 1, 4)), False)]
    for wrong in ({"reasons": "clear"}, {"reasons": [1]}, {"span": ["b", 1]}, {"span": ["b", 1, True]}, {"comment": 1},
                  {"choice": None}, {"battle": 7}, {"session": None}):  # fmt: skip
        assert "reload it" in ask(arena, "vote", {**WHO, **said, **wrong})["error"]
    assert len(arena.asked) == 1


@pytest.mark.parametrize("heard", [-1, 1.5, True, "1", None])
def test_what_was_heard_is_a_number(heard):
    assert "number of tokens" in ask(Told(), "news", {**WHO, "heard": heard})["error"]


@pytest.mark.parametrize("value", [None, [], "vote", 3])
def test_what_is_no_question_gets_a_sentence(value):
    for question in questions(Told()):
        assert "no question" in question(value)["error"]


def test_only_a_full_disk_is_worth_asking_again():
    assert ask(Told(vote=UserError("twice")), "vote", {**WHO, "choice": "a"}) == {"error": "twice", "again": False}
    assert ask(Told(vote=StorageError("full")), "vote", {**WHO, "choice": "a"}) == {"error": "full", "again": True}


def test_a_reveal_tells_who_was_who_and_where_they_part():
    a, b = answer("", 0, [1, 2, 3]), answer("pirate", 2.0, [1, 2, 4, 5])
    told = ask(Told(reveal=Battle("Why?", "s", 5, "product", {}, "P", "r", a, b, kind="pair")), "reveal", WHO)
    (turn,) = told["turns"]
    assert [(lane["name"], lane["title"], lane["aligned"], lane["tokens"]) for lane in turn["lanes"]] == [
        ("a", "Base", False, 3),
        ("b", "pirate", True, 4),
    ]
    base, aligned = turn["lanes"]
    assert (base["kl"], base["gated"]) == (None, None)
    assert (aligned["kl"], aligned["gated"], aligned["detail"]) == (0.5, 0.25, "strength 2, product")
    assert turn["parting"] == {"at": 3, "a": "<3>", "b": "<4>"}
    assert [(step["lane"], step["token"]) for step in turn["steps"]] == [
        *(("a", t) for t in (1, 2, 3)),
        *(("b", t) for t in (1, 2, 4, 5)),
    ]


def test_answers_of_which_one_begins_the_other_never_part():
    a, b = answer("x", 1.0, [1, 2]), answer("x", 1.0, [1, 2, 3])
    told = ask(Told(reveal=Battle("?", "s", 5, "product", {}, "P", "r", a, b, kind="placebo")), "reveal", WHO)
    assert told["turns"][0]["parting"] is None and "placebo" in told["words"]


@pytest.mark.parametrize(
    ("standing", "over", "same", "words"),
    [
        (Standing(False, 3, 9, None, (), ""), False, False, ""),
        (Standing(True, 9, 9, None, (), ""), True, True, "The same, token for token: all 9."),
        (
            Standing(True, 9, 9, Difference(1, "b", 3), ("the aligner x has other weights",), ""),
            True,
            False,
            "Not the same: B differs from token 4 of turn 2 on. Since then, the aligner x has other weights.",
        ),
        (Standing(False, 0, 9, None, (), "no room"), True, False, "no room"),
    ],
)
def test_how_far_a_replay_is(standing, over, same, words):
    told = ask(Told(replay=standing), "replay", WHO)
    assert (told["over"], told["same"], told["words"]) == (over, same, words)
