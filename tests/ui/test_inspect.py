"""The Inspector's questions by themselves: who may open what, what is no question, and the page that is saved."""

import base64
import hashlib
import re
from dataclasses import replace

import pytest

from ram_demo.errors import UserError
from ram_demo.replay import Standing
from ram_demo.settings import from_environment
from ram_demo.ui.guard import Guard
from ram_demo.ui.inspect import questions, saved_page
from ram_demo.votes import Battle, Response, VoteStore
from tests.ui.test_arena import Told

LOCAL, PUBLIC = "127.0.0.1", "0.0.0.0"
ME = {"session": "0" * 32}


def guard(host: str = LOCAL, token: str = "") -> Guard:
    return Guard(replace(from_environment({"RAM_DEMO_HOST": host}), owner_token=token), None)


def ask(name: str, value, inspector=None, arena=None, owner: Guard | None = None):
    every = questions(inspector or Told(), arena or Told(), owner or guard())
    return next(question for question in every if question.__name__ == name)(value)


@pytest.fixture
def store(tmp_path):
    store = VoteStore(f"sqlite:///{tmp_path / 'votes.sqlite3'}")
    yield store
    store.close()


def voted(store: VoteStore, prompt: str = "Why?") -> str:
    """A battle with its vote. Returns the battle's id."""
    a = Response("base", "", "", "So.", "eos", 2, 1.0, 1.0, None, None, {})
    b = replace(a, lane="pirate", aligners="pirate:2")
    battle = store.record_battle(Battle(prompt, "somebody", 7, "product", {}, "P", "r", a, b))
    store.vote(battle, "b", "somebody")
    return battle


def test_a_comparison_is_opened_by_its_id_and_a_file_by_its_text():
    inspector = Told(of_run={"turns": [1]}, of_file={"turns": [2]})
    assert ask("open", {**ME, "run": "r"}, inspector) == {"view": {"turns": [1]}}
    assert ask("open", {**ME, "text": "{}", "name": "x" * 900}, inspector) == {"view": {"turns": [2]}}
    assert inspector.asked == [("of_run", "r"), ("of_file", "{}", "x" * 200)]


def test_who_fought_a_battle_opens_it_by_what_the_arena_reveals():
    inspector, arena = Told(of_battle={"turns": []}), Told(reveal="the battle")
    assert ask("open", {**ME, "battle": "b"}, inspector, arena) == {"view": {"turns": []}}
    assert arena.asked == [("reveal", "b", ME["session"])] and inspector.asked == [("of_battle", "the battle", "b")]
    refused = ask("open", {**ME, "battle": "b"}, inspector, Told(reveal=UserError("not yours")))
    assert refused["error"] == "not yours" and len(inspector.asked) == 1


@pytest.mark.parametrize(
    ("host", "secret", "given", "let_in"),
    [(LOCAL, "", "", True), (PUBLIC, "secret", "secret", True), (PUBLIC, "secret", "", False), (PUBLIC, "", "", False)],
)
def test_any_battle_and_the_list_of_votes_are_the_owners(store, host, secret, given, let_in):
    battle, owner, inspector = voted(store), guard(host, secret), Told(of_battle={"turns": []})
    arena = Told()
    arena.store = store
    opened = ask("open", {**ME, "battle": battle, "token": given}, inspector, arena, owner)
    listed = ask("votes", {**ME, "token": given, "skip": 0}, inspector, arena, owner)
    assert ("view" in opened, "votes" in listed, len(inspector.asked)) == (let_in, let_in, int(let_in))
    if not let_in:
        assert "takes the owner's token" in opened["error"] and "takes the owner's token" in listed["error"]


def test_votes_are_listed_newest_first_with_what_opens_them(store):
    battles = [voted(store, f"{n} {'long ' * 90}") for n in range(12)]
    arena = Told()
    arena.store = store
    first, second = (ask("votes", {**ME, "token": "", "skip": skip}, None, arena) for skip in (0, 10))
    assert [vote["battle"] for vote in first["votes"] + second["votes"]] == battles[::-1]
    assert first["of"] == 12 and len(first["votes"][0]["prompt"]) == 200
    assert first["votes"][0]["words"] == "B was better · A: base, B: pirate:2"


def test_a_vote_is_on_the_two_answers_of_a_branch():
    run, runs = Told(), Told()
    run.id, run.plan, run.traces = "r", Told(), {"base": 1, "one": 2}
    run.plan.record = {"lanes": {"base": [], "one": [{}]}}
    runs.answers = {"find": run}
    inspector = Told()
    inspector.runs = runs
    assert ask("vote", {**ME, "run": "r", "choice": "tie"}, inspector) == {}
    assert runs.asked[-1] == ("vote", "r", ME["session"], ("base", "one"), "tie")
    run.traces = {}
    assert "no two answers" in ask("vote", {**ME, "run": "r", "choice": "tie"}, inspector)["error"]


def test_a_replay_is_begun_asked_after_and_opened_by_its_session():
    inspector = Told(replay="id", follow="id", standing=Standing(True, 9, 9, None, (), ""), of_replay={"turns": []})
    assert ask("replay", {**ME, "view": {"turns": []}}, inspector) == {"replay": "id"}
    assert ask("follow", {**ME, "link": "abc"}, inspector) == {"replay": "id"}
    assert ask("standing", {**ME, "replay": "id"}, inspector)["same"] is True
    assert ask("replayed", {**ME, "replay": "id"}, inspector) == {"view": {"turns": []}}
    assert {asked[-1] for asked in inspector.asked} == {ME["session"]}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("open", {}),
        ("open", {"run": 5}),
        ("open", {"battle": None}),
        ("open", {"battle": "b", "token": 5}),
        ("open", {"text": 5, "name": "x"}),
        ("open", {"text": "x"}),
        ("votes", {"token": "", "skip": -1}),
        ("votes", {"token": "", "skip": "0"}),
        ("begin", {"session": 5}),
        ("part", {"run": "r", "heard": -1}),
        ("part", {"run": "r", "heard": True}),
        ("part", {"heard": 0}),
        ("stop", {"session": None}),
        ("vote", {"run": []}),
        ("replay", {"session": 5, "view": {}}),
        ("follow", {"link": ["x"]}),
        ("standing", {}),
        ("replayed", {"replay": 5}),
    ],
)
def test_what_is_no_question_gets_a_sentence(name, wrong):
    inspector = Told()
    inspector.runs = Told()
    assert ask(name, {**ME, **wrong}, inspector)["error"]
    assert "no question" in ask(name, [], inspector)["error"]


# The page that is saved -----------------------------------------------------------------------------------------------


def test_a_saved_page_lets_in_its_own_script_and_style_and_nothing_else():
    page = saved_page()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    script, style = (re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("script", "style"))
    assert len(script) == len(style) == 1

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy == (
        f"default-src 'none'; script-src {hashed(script[0])}; style-src {hashed(style[0])}; "
        "base-uri 'none'; form-action 'none'"
    )


def test_a_saved_page_has_one_place_for_what_is_open_and_points_nowhere():
    page = saved_page()
    assert page.index(">DATA<") == page.index('id="data">DATA</script>') + len('id="data"')
    assert set(re.findall(r"https?://[^\s\"'`<>)]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"<(?:link|img|iframe)\b|\bsrc=|@import|url\(", page)
    assert saved_page() == page == ask("shell", ME)["page"]
