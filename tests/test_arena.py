"""Battles on a tiny model: what is drawn, said, kept and revealed, who may do what, and what a full disk does to it."""

import json
import re
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from random import Random
from types import SimpleNamespace

import pytest

from ram_demo import arena as arena_module
from ram_demo import exchange, pairing
from ram_demo.arena import Arena
from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.record import from_record, to_record
from ram_demo.decoding.trace import Trace
from ram_demo.errors import StorageError, UserError
from ram_demo.models.aligners import Registry
from ram_demo.models.proposal import encode_conversation
from ram_demo.pairing import Pair
from ram_demo.request import Choice, Request
from ram_demo.votes import SIDES, Ballot, clean_text
from ram_demo.workbench import Workbench
from tests import stores, tiny, tiny_workbench, traces
from tests.tiny_workbench import PATIENCE, Opened, Paced

one_thread = tiny_workbench.one_thread
store = stores.store
ME, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
LANES = {"base", "one:0.5", "one:1", "two:0.5", "two:1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arena")
    base = tiny.save(folder / "base", tiny.model(max_position_embeddings=512))
    for seed, name in enumerate(("one", "two")):
        tiny.adapter(folder / "data" / "aligners" / name, base, seed=seed)
    return folder


@pytest.fixture(scope="module")
def proposal(folder):
    return tiny_workbench.load(folder / "base")


@pytest.fixture
def paced(proposal):
    """The proposal's model, whose forwards wait to be let through, once it is not free."""
    model = Paced(proposal.model, free=True)
    yield model
    model.release()
    for thread in threading.enumerate():  # one that still decodes when Python ends takes it down
        if thread.name == "decoding":
            thread.join(PATIENCE)


@pytest.fixture
def bench(folder, proposal, paced):
    return Workbench(tiny_workbench.settings(folder), replace(proposal, model=paced))


@pytest.fixture
def arena(bench, folder, store, monkeypatch):
    monkeypatch.setattr(arena_module, "ANSWER_TOKENS", 6)
    monkeypatch.setattr(exchange, "FASTEST", 1e9)
    return again(bench, folder, store)


def again(bench, folder, store, seed=0) -> Arena:
    """An arena that knows nothing yet, as after a restart."""
    registry = Registry(folder / "nothing shipped", folder / "data" / "aligners")
    return Arena(Opened(bench), registry, store, Random(seed))


@pytest.fixture
def drawn(monkeypatch):
    """Call it with a pair: the next battles have it."""
    return lambda *pair: monkeypatch.setattr(pairing, "draw", lambda *_: Pair(*pair))


def pull(arena, battle, session=ME) -> dict[str, str]:
    """Ask as a page does until both have ended. Returns all that was shown."""
    said, heard = {"a": "", "b": ""}, 0
    for _ in range(int(PATIENCE / 0.01)):
        news = arena.news(battle, session, heard)
        said = {side: said[side] + getattr(news, side) for side in SIDES}
        heard = news.heard
        if news.state in ("ended", "failed"):
            assert news.state == "ended", arena.give_up_turn(battle, session)
            return said
        threading.Event().wait(0.01)
    raise AssertionError("the answers do not end")


def fight(arena, *prompts, session=ME) -> str:
    """A battle that has ended, one turn a prompt. Returns its id."""
    battle = arena.start(prompts[0] if prompts else "the tin", session)
    pull(arena, battle, session)
    for prompt in prompts[1:]:
        arena.go_on(battle, session, prompt)
        pull(arena, battle, session)
    return battle


def refused(act, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        act(*arguments)
    assert not isinstance(caught.value, StorageError)
    return str(caught.value)


# From the prompt to what is revealed ----------------------------------------------------------------------------------


def test_what_was_shown_is_what_is_kept_and_revealed(arena, store):
    battle = arena.start("the tin", ME, "explain")
    first = pull(arena, battle)
    assert arena.go_on(battle, ME, "and the inn?") == 1
    second = pull(arena, battle)
    arena.vote(battle, ME, "b", Ballot(("clear",), "so plain", ("a", 0, 2)))
    revealed = arena.reveal(battle, ME)
    assert [turn.prompt for turn in revealed.turns] == ["the tin", "and the inn?"]
    for turn, shown in zip(revealed.turns, (first, second), strict=True):
        assert {side: getattr(turn, side).trace["text"] for side in SIDES} == shown
        assert {side: getattr(turn, side).text for side in SIDES} == {s: clean_text(text) for s, text in shown.items()}
    (row,) = store.rows()
    assert (row.choice, row.battle) == ("b", revealed)
    assert (row.ballot.reasons, row.ballot.comment, row.ballot.span) == (("clear",), "so plain", ("a", 0, 2))
    assert (revealed.blind, revealed.category, revealed.session) == (True, "explain", ME)
    assert {revealed.a.label, revealed.b.label} <= LANES


def test_each_side_goes_on_from_its_own_answers(arena, bench, drawn, monkeypatch):
    drawn("pair", "base", "two:1")
    read, plan = [], bench.plan
    monkeypatch.setattr(bench, "plan", lambda request, *_: read.append(plan(request)) or read[-1])
    battle = arena.reveal(fight(arena, "the tin", "the inn", "then"), ME)
    for n, side in enumerate(SIDES):
        said = [("user", "the tin")]
        for number, turn in enumerate(battle.turns):
            if number:
                before = getattr(battle.turns[number - 1], side).trace["text"]
                said += [("assistant", before), ("user", turn.prompt)]
            wanted = encode_conversation(bench.proposal.tokenizer, said)
            assert list(read[2 * number + n].prompt_ids) == wanted


def test_both_sides_share_the_seed_and_each_answer_is_the_lanes_own(arena, bench, drawn):
    """The very answers that Compare gives under that seed, in which one lane knows nothing of the arena."""
    drawn("pair", "one:0.5", "base")
    battle = arena.reveal(fight(arena), ME)
    settings = DecodingSettings(mode="auto", seed=battle.seed, max_new_tokens=6)
    plan = bench.plan(Request("the tin", ((Choice("one", 0.5),),), settings=settings))
    compared = {told.lane: told.text for told in bench.run(plan, threading.Event()) if isinstance(told, Trace)}
    assert (battle.a.trace["text"], battle.b.trace["text"]) == (compared["one"], compared["base"])
    assert (battle.a.label, battle.b.label, battle.a.trace["settings"]["seed"]) == ("one:0.5", "base", battle.seed)
    assert battle.b.mean_kl is None and battle.a.mean_kl == pytest.approx(from_record(battle.a.trace).mean_kl)


def test_a_placebo_is_one_lane_under_two_seeds(arena, drawn):
    drawn("placebo", "one:1", "one:1")
    battle = arena.reveal(fight(arena, "the tin", "again"), ME)
    assert (battle.kind, battle.a.label, battle.b.label) == ("placebo", "one:1", "one:1")
    seeds = [getattr(turn, side).trace["settings"]["seed"] for turn in battle.turns for side in SIDES]
    assert len(set(seeds)) == 4, "nor do two turns share the noise"


def test_a_trace_comes_back_from_what_was_kept(arena):
    battle = arena.reveal(fight(arena), ME)
    for response in (battle.a, battle.b):
        again = json.loads(json.dumps(to_record(from_record(response.trace))))
        assert again.pop("mean_kl") == pytest.approx(response.trace.pop("mean_kl"))
        assert again == response.trace


def test_pairs_are_drawn_by_what_is_known_here_and_in_the_store(arena, store, monkeypatch):
    """Ten battles without a placebo: the ten pairs of five lanes. What only waits for its vote is known of too."""
    monkeypatch.setattr(pairing, "PLACEBO_SHARE", 0)
    monkeypatch.setattr(arena_module, "VOTES_A_MINUTE", 100)
    pairs = set()
    for n in range(10):
        battle = fight(arena, str(n))
        pairs.add(frozenset((arena._live[battle].pair.a, arena._live[battle].pair.b)))
        if n % 2:
            arena.vote(battle, ME, "tie", Ballot())
    assert len(pairs) == 10


def test_without_a_placebo_or_luck_everything_is_drawn(bench, folder, store):
    drawn = [again(bench, folder, store, seed)._draw(bench) for seed in range(60)]
    assert {pair.kind for pair, _ in drawn} == {"pair", "strength", "placebo"}
    assert {label for pair, _ in drawn for label in (pair.a, pair.b)} == LANES
    for pair, seeds in drawn:
        assert (seeds["a"] == seeds["b"]) is (pair.kind != "placebo")


def test_an_aligner_that_does_not_fit_the_proposal_is_drawn_no_more(arena, folder, tmp_path, monkeypatch):
    own = tmp_path / "aligners"
    shutil.copytree(folder / "data" / "aligners", own)
    shutil.copytree(own / "one", own / "odd")
    (own / "odd" / "aligner.json").write_text('{"tokenizer": "0123456789abcdef"}')
    arena.registry.own = arena.opening.workbench.registry.own = own
    battles = [arena.start(str(n), ME) for n in range(12)]
    assert arena._unfit == {"odd"}
    assert {label for b in battles for label in (arena._live[b].pair.a, arena._live[b].pair.b)} == LANES


# Who may do what, and when --------------------------------------------------------------------------------------------


def test_nothing_is_revealed_or_voted_on_before_both_have_ended(arena, paced, store):
    paced.free = False
    battle = arena.start("the tin", ME)
    paced.wait()
    for act in (lambda: arena.vote(battle, ME, "a", Ballot()), lambda: arena.reveal(battle, ME)):
        assert "must have ended" in refused(act)
    assert "must have ended" in refused(arena.go_on, battle, ME, "more")
    paced.release()
    pull(arena, battle)
    arena.vote(battle, ME, "a", Ballot())
    assert store.count() == 1


def test_answers_that_have_ended_but_were_not_shown_whole_cannot_be_voted_on(arena, monkeypatch):
    monkeypatch.setattr(exchange, "FASTEST", 1e-9)
    battle = arena.start("the tin", ME)
    turn = arena._live[battle].turns[0]
    while not turn.over:
        threading.Event().wait(0.01)
    assert arena.news(battle, ME, 0).heard == 1
    assert "must have ended" in refused(arena.vote, battle, ME, "a", Ballot())
    assert "must have ended" in refused(arena.reveal, battle, ME)


def test_one_vote_a_battle_and_none_after_it_was_revealed(arena, store):
    voted, given_up = fight(arena), fight(arena, "other")
    arena.vote(voted, ME, "a", Ballot())
    assert "voted on once" in refused(arena.vote, voted, ME, "b", Ballot())
    arena.reveal(voted, ME)
    arena.reveal(given_up, ME)
    for battle in (voted, given_up):
        assert "revealed" in refused(arena.vote, battle, ME, "a", Ballot())
        assert "no longer here" in refused(arena.go_on, battle, ME, "more")
    assert [row.choice for row in store.rows()] == ["a"]


def test_a_vote_that_was_saved_unheard_may_be_sent_again_but_no_other_one(arena, store):
    battle = fight(arena)
    arena.vote(battle, ME, "a", Ballot(), retried=True)
    arena.reveal(battle, ME)
    arena.vote(battle, ME, "a", Ballot(), retried=True)
    assert "revealed" in refused(arena.vote, battle, ME, "b", Ballot(), True)
    assert "not yours" in refused(arena.vote, battle, OTHER, "a", Ballot(), True)
    assert [row.choice for row in store.rows()] == ["a"]


def test_fifty_votes_at_once_are_one(arena, store):
    battle = fight(arena)
    gate = threading.Barrier(50, timeout=PATIENCE)

    def attempt(n):
        gate.wait()
        try:
            arena.vote(battle, ME, ("a", "b")[n % 2], Ballot())
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(50) as pool:
        assert sum(pool.map(attempt, range(50))) == 1
    assert store.count() == 1


@pytest.mark.parametrize("theirs", [True, False], ids=["another's battle", "a forged id"])
def test_a_battle_is_its_sessions_alone(arena, store, theirs):
    battle = fight(arena, session=OTHER) if theirs else "0" * 32
    words = "not yours|no longer here|Unknown battle"
    acts = [
        lambda: arena.news(battle, ME, 0),
        lambda: arena.go_on(battle, ME, "more"),
        lambda: arena.vote(battle, ME, "a", Ballot()),
        lambda: arena.reveal(battle, ME),
        lambda: arena.replay(battle, ME),
        lambda: arena.give_up_turn(battle, ME),
    ]
    assert all(re.search(words, refused(act)) for act in acts)
    assert store.count() == 0
    if theirs:
        arena.vote(battle, OTHER, "a", Ballot())


@pytest.mark.parametrize("session", ["", "short", "x" * 32, "a" * 65, "'; drop table vote", None, 7])
def test_what_is_no_session_starts_nothing(arena, session):
    assert "not a session" in refused(arena.start, "the tin", session)


def test_a_session_has_so_many_votes_a_minute_and_a_day(arena, store, monkeypatch):
    monkeypatch.setattr(arena_module, "VOTES_A_MINUTE", 2)
    for n in range(2):
        arena.vote(fight(arena, str(n)), ME, "a", Ballot())
    assert "2 votes within a minute are the most" in refused(arena.start, "more", ME)
    theirs = fight(arena, session=OTHER)
    arena.vote(theirs, OTHER, "a", Ballot())
    monkeypatch.setattr(arena_module, "VOTES_A_MINUTE", 100)
    monkeypatch.setattr(arena_module, "VOTES_A_DAY", 2)
    assert "2 votes a day are the most" in refused(arena.start, "more", ME)


def test_a_battle_has_so_many_turns(arena, monkeypatch):
    monkeypatch.setattr(arena_module, "MOST_TURNS", 2)
    battle = fight(arena, "the tin", "the inn")
    assert "2 turns at most" in refused(arena.go_on, battle, ME, "more")
    arena.vote(battle, ME, "a", Ballot())


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "words"), [("  ", "prompt is empty"), ("long " * 600, "tokens too long")])
def test_a_prompt_that_cannot_be_answered_begins_nothing(arena, tmp_path, prompt, words):
    assert words in refused(arena.start, prompt, ME)
    with closing(sqlite3.connect(tmp_path / "votes.sqlite3")) as db:
        assert db.execute("SELECT count(*) FROM battle").fetchone() == (0,)


def test_a_turn_that_cannot_be_asked_leaves_the_battle_to_be_voted_on(arena, store):
    battle = fight(arena)
    assert "tokens too long" in refused(arena.go_on, battle, ME, "long " * 600)
    arena.vote(battle, ME, "tie", Ballot())
    assert store.count() == 1


def test_no_error_names_a_lane(arena, bench, drawn, monkeypatch):
    drawn("pair", "base", "one:1")

    def fail(*_):
        raise UserError("one reads at most 3 tokens, fewer than prompt and answer need.")

    monkeypatch.setattr(bench, "plan", fail)
    assert refused(arena.start, "the tin", ME) == "One of the two could not answer this; start a new battle."


def test_a_later_turn_that_fails_is_taken_back(arena, paced, store):
    battle = fight(arena)
    paced.free = False
    arena.go_on(battle, ME, "more")
    paced.wait()
    arena.stop(ME)
    paced.release()
    for _ in range(int(PATIENCE / 0.01)):
        if arena.news(battle, ME, 0).state == "failed":
            break
        threading.Event().wait(0.01)
    assert "stopped before both" in arena.give_up_turn(battle, ME)
    arena.vote(battle, ME, "a", Ballot())
    assert len(arena.reveal(battle, ME).turns) == 1 and store.count() == 1


def test_a_page_that_is_gone_is_given_up_and_its_battle_expires(arena, paced, store, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(arena_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    paced.free = False
    battle = arena.start("the tin", ME)
    paced.wait()
    clock.now = arena_module.UNHEARD_SECONDS + 1.0
    paced.release()
    turn = arena._live[battle].turns[0]
    while not turn.over:
        threading.Event().wait(0.01)
    assert max(len(trace.steps) for trace in turn.traces.values()) < 6
    monkeypatch.setattr(arena_module, "LIFETIME", timedelta(0))
    clock.now += arena_module.LOOK_SECONDS + 1
    arena.start("another", OTHER)
    assert "expired" in refused(again(None, arena.registry.own.parent.parent, store).vote, battle, ME, "a", Ballot())


def test_what_the_disk_refuses_is_kept_until_it_takes_it(arena, store, monkeypatch):
    """The answers could not be kept when they ended; the vote brings them along once the disk is well again."""
    full = StorageError("The vote was NOT saved: the folder cannot be written (disk is full).")

    def refuse(*_):
        raise full

    with monkeypatch.context() as sick:
        sick.setattr(store, "end_turn", refuse)
        battle = fight(arena)
        for _ in range(3):
            with pytest.raises(StorageError, match="disk is full"):
                arena.vote(battle, ME, "b", Ballot())
    assert store.count() == 0
    arena.vote(battle, ME, "b", Ballot())
    assert [row.choice for row in store.rows()] == ["b"]


def test_a_locked_database_is_a_storage_error_and_the_vote_goes_through_later(arena, store, tmp_path):
    battle = fight(arena)
    with closing(sqlite3.connect(tmp_path / "votes.sqlite3")) as other:
        with store._engine.connect() as db:
            db.exec_driver_sql("PRAGMA busy_timeout = 50")  # a pooled connection: the next write takes it
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="database is locked"):
            arena.vote(battle, ME, "a", Ballot())
        other.rollback()
    arena.vote(battle, ME, "a", Ballot())
    assert store.count() == 1


def test_after_a_restart_a_battle_can_be_voted_on_and_revealed(arena, bench, folder, store):
    battle = fight(arena, "the tin", "the inn")
    restarted = again(bench, folder, store)
    assert "no longer here" in refused(restarted.go_on, battle, ME, "more")
    restarted.vote(battle, ME, "a", Ballot())
    assert len(restarted.reveal(battle, ME).turns) == 2


def test_a_ballot_of_a_megabyte_or_of_nonsense_is_refused_and_the_battle_stays_open(arena, store):
    battle = fight(arena)
    for ballot in (Ballot(comment="x" * 1_000_000), Ballot(("nice",)), Ballot(span=("a", 0, 10_000))):
        refused(arena.vote, battle, ME, "a", ballot)
    refused(arena.vote, battle, ME, "c", Ballot())
    assert store.count() == 0
    arena.vote(battle, ME, "a", Ballot(comment="<b>\x00\x1b[31mred</b>"))
    assert next(store.rows()).ballot.comment == "<b>[31mred</b>"


def test_the_reading_time_is_the_servers(arena, store, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(arena_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    battle = fight(arena)
    clock.now += 42.5
    arena.vote(battle, ME, "a", Ballot(reading_seconds=1e6))
    assert next(store.rows()).ballot.reading_seconds == 42.5


# Again ----------------------------------------------------------------------------------------------------------------


def standing(arena, battle):
    for _ in range(int(PATIENCE / 0.01)):
        if (told := arena.replay(battle, ME)).over:
            return told
        threading.Event().wait(0.01)
    raise AssertionError("the replay does not end")


@pytest.mark.parametrize("pair", [("pair", "one:0.5", "base"), ("placebo", "two:1", "two:1")], ids=["pair", "placebo"])
def test_a_battle_runs_again_token_for_token(arena, drawn, pair):
    drawn(*pair)
    battle = fight(arena, "the \0 tin \ud800", "the inn")
    arena.vote(battle, ME, "a", Ballot())
    told = standing(arena, battle)
    assert "not yours" in refused(arena.replay, battle, OTHER)
    assert (told.over, told.differs, told.changed, told.problem) == (True, None, (), "")
    assert told.done == told.of == 24


def test_a_replay_finds_what_is_not_the_same(arena, store, drawn, tmp_path, monkeypatch):
    drawn("pair", "one:1", "base")
    battle = fight(arena, "the tin", "the inn")
    reveal = store.reveal

    def tampered(*asked):
        kept = reveal(*asked)
        trace = kept.later[0].b.trace
        traces.change(trace, 3)
        trace["settings"]["precision"] = "int3"
        return kept

    monkeypatch.setattr(store, "reveal", tampered)
    told = standing(arena, battle)
    assert (told.differs.lane, told.differs.turn, told.differs.token) == ("b", 1, 3)
    assert told.changed == ("the weights are kept in another form",)


def test_only_what_is_over_runs_again(arena, paced):
    paced.free = False
    battle = arena.start("the tin", ME)
    paced.wait()
    assert "must have ended" in refused(arena.replay, battle, ME)
