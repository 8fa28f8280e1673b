"""Votes come back from a file as they went, once, and rows that cannot be used are named."""

import io
import json
import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ram_demo.errors import UserError
from ram_demo.votes import Ballot, Turn, VoteStore, export, preferences, read


@pytest.fixture
def filled(store, battle):
    """A store with votes of every kind, one of them excluded by its owner."""
    battle = replace(battle, a=replace(battle.a, mean_kl=0.1))  # SQLite makes 0.0 of a -0.0
    answered = Turn("And?", replace(battle.a, text="=x"), battle.b)
    asked = [
        ("a", battle, Ballot()),
        (
            "b",
            replace(battle, kind="pair", blind=True, category="science"),
            Ballot(("clear",), "'=1", ("a", 0, 2), 9.5),
        ),
        ("tie", replace(battle, prompt="'-\u2028\r\n;", later=(answered, answered)), Ballot(comment="\u202e<b>,")),
        ("both_bad", replace(battle, a=replace(battle.a, text="", tokens=0)), Ballot(reading_seconds=0.0)),
    ]
    for choice, one, ballot in asked:
        store.vote(store.record_battle(one), choice, one.session, ballot)
    store.review(next(store.rows()).id, False, "spam, said the owner")
    return store


@pytest.fixture
def elsewhere(tmp_path):
    store = VoteStore(f"sqlite:///{tmp_path}/elsewhere.sqlite3")
    yield store
    store.close()


def written(store, format, file, voters=False):
    with file.open("w", encoding="utf-8", newline="") as out:
        export(store.rows(), format, out, store.salt() if voters else None)
    return file


# Ours


@pytest.mark.parametrize("format", ["jsonl", "csv"])
@pytest.mark.parametrize("voters", [False, True])
def test_what_was_exported_comes_back_as_it_was_and_only_once(filled, elsewhere, tmp_path, format, voters):
    file = written(filled, format, tmp_path / "out", voters)
    assert [elsewhere.add(read(file, format)) for _ in range(3)] == [4, 0, 0]
    assert written(elsewhere, format, tmp_path / "again", voters).read_bytes() == file.read_bytes()
    assert all(row.imported for row in elsewhere.rows())
    assert elsewhere.ballots(imported=True).id == filled.ballots(imported=False).id
    assert elsewhere.ballots(imported=False).id == ()


@pytest.mark.parametrize("format", ["jsonl", "csv", "arena"])
def test_a_stores_own_votes_are_not_taken_twice(filled, tmp_path, format):
    before = list(filled.rows())
    assert filled.add(read(written(filled, format, tmp_path / "out"), format)) == 0
    assert list(filled.rows()) == before


def test_voters_that_are_not_told_are_each_their_own(filled, elsewhere, tmp_path):
    elsewhere.add(read(written(filled, "jsonl", tmp_path / "out"), "jsonl"))
    columns = elsewhere.ballots(only_counting=False)
    assert columns.voter == columns.id and len(columns) == 4
    assert all(row.battle.session == "" for row in elsewhere.rows())


def test_nobody_votes_on_an_imported_battle(filled, elsewhere, tmp_path):
    elsewhere.add(read(written(filled, "jsonl", tmp_path / "out"), "jsonl"))
    with pytest.raises(UserError, match="voted on once"):
        elsewhere.vote(next(elsewhere.rows()).battle_id, "b", "")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
CELLS = st.one_of(TEXTS, st.text(st.sampled_from("='\"\r\n,\t+-@"), max_size=6))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(prompt=CELLS, text=CELLS, number=st.floats(allow_nan=False, min_value=-1e300, max_value=1e300).filter(abs))
def test_any_text_and_number_goes_out_and_in(filled, tmp_path, prompt, text, number):
    row = next(filled.rows())
    number = number % 1e9
    b = replace(row.battle.b, text=text, mean_kl=number)
    row = replace(row, imported=True, battle=replace(row.battle, prompt=prompt, session="", b=b))
    for format in ("jsonl", "csv"):
        file = tmp_path / "any"
        with file.open("w", encoding="utf-8", newline="") as out:
            export([row], format, out)
        (back,) = read(file, format)
        wanted = row if format == "jsonl" else replace(row, battle=without_traces(row.battle))
        assert back == wanted


def without_traces(battle):
    return replace(battle, a=replace(battle.a, trace={}), b=replace(battle.b, trace={}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": "A"}, "Unknown choice 'A'"),
        ({"choice": None}, "'choice' must be a text"),
        ({"id": ""}, "'id' must have 1 to 64 characters"),
        ({"id": "x" * 65}, "'id' must have 1 to 64 characters"),
        ({"created_at": "yesterday"}, "'created_at' must be a moment"),
        ({"created_at": "2026-01-01T00:00:00"}, "'created_at' must be a moment"),
        ({"comment": "x" * 4001}, "The comment has 4,001 characters"),
        ({"reasons": ["nice"]}, "Unknown reason 'nice'"),
        ({"reasons": [{}]}, "'reasons' must be a list of texts"),
        ({"span": ["a", 0, 999]}, "'span' must lie in the last answer"),
        ({"span": ["a", 0]}, "'span' must be a side and two numbers"),
        ({"counts": "yes"}, "'counts' must be true or false"),
        ({"kind": "duel"}, "'kind' must be one of compare"),
        ({"seed": 2**63}, "'seed' is beyond what can be kept"),
        ({"seed": True}, "'seed' must be a whole number or nothing"),
        ({"a": None}, "'a' must be an object"),
        ({"b": {}}, "'lane' is missing"),
        ({"later": [1]}, "'later' must be a list of turns"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_kept(filled, elsewhere, tmp_path, change, message):
    file = written(filled, "jsonl", tmp_path / "votes.jsonl")
    lines = file.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    file.write_text("\n".join([*lines[:1], "", *lines[1:]]))
    with pytest.raises(UserError, match=r"^votes.jsonl, line 4: .*Nothing was imported\.$") as refused:
        elsewhere.add(read(file, "jsonl"))
    assert message in str(refused.value)
    assert elsewhere.count() == 0


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"id": NaN}', "[" * 100_000, "{}"])
def test_a_line_that_is_no_vote_is_named(tmp_path, line):
    (tmp_path / "votes.jsonl").write_text(line)
    with pytest.raises(UserError, match="line 1: "):
        read(tmp_path / "votes.jsonl", "jsonl")


def test_many_bad_lines_are_counted(tmp_path):
    (tmp_path / "votes.jsonl").write_text("{}\n" * 9)
    with pytest.raises(UserError, match="line 5: 'id' is missing; and 4 more"):
        read(tmp_path / "votes.jsonl", "jsonl")


def test_a_sheet_that_is_none_is_said(filled, tmp_path):
    text = written(filled, "csv", file := tmp_path / "votes.csv").read_bytes()
    for broken, message in (
        (text.replace(b",tokens", b",x"), None),
        (b"id,choice\r\n1,a\r\n", "line 2: 'choice'|line 2: '.*' is missing"),
        (text.replace(b"9007199254740993", b"many", 1), "line 2: 'seed' is 'many', which cannot be read"),
        (b"id\r\n1,2\r\n", "line 2: there are more cells than columns"),
        (b'id\r\n"1', "cannot be read"),
        (b"id\r\n\xff\r\n", "cannot be read"),
    ):
        file.write_bytes(broken)
        if message:
            with pytest.raises(UserError, match=message):
                read(file, "csv")


def test_a_file_that_is_not_there_and_a_format_that_is_none(tmp_path):
    with pytest.raises(UserError, match="absent cannot be read: No such file"):
        read(tmp_path / "absent", "jsonl")
    with pytest.raises(UserError, match="Unknown format 'alpaca': choose one of trl, arena, csv, jsonl"):
        read(tmp_path / "absent", "alpaca")


# An arena's


MINIMAL = [
    {"model_a": "x", "model_b": "base", "winner": "model_a"},
    {"model_a": "x", "model_b": "base", "winner": "model_a"},
    {"model_a": "y", "model_b": "x", "winner": "tie (bothbad)"},
]


def test_three_columns_make_a_vote(store, tmp_path):
    for name, text in (
        ("list", json.dumps(MINIMAL)),
        ("lines", "\n".join(map(json.dumps, MINIMAL))),
        ("sheet", "model_a,model_b,winner\n" + "\n".join(",".join(row.values()) for row in MINIMAL)),
    ):
        (tmp_path / name).write_text(text)
        assert len(list(read(tmp_path / name, "arena"))) == 3
        assert store.add(read(tmp_path / name, "arena")) == (3 if name == "list" else 0), "they are the same votes"
    columns = store.ballots()
    assert sorted(zip(columns.a_label, columns.b_label, columns.choice, strict=True)) == [
        ("x", "base", "a"), ("x", "base", "a"), ("y", "x", "both_bad"),
    ]  # fmt: skip
    assert set(columns.imported) == set(columns.blind) == {True}
    assert list(preferences(store.rows())) == [], "nothing was kept of what was said"


def test_an_arenas_whole_row_comes_back(filled, elsewhere, tmp_path):
    row = {
        "question_id": "58210e39b3fd4441a2bd4a518bb44c2d", "model_a": "chatglm-6b", "model_b": "base", "winner": "tie",
        "judge": "arena_user_973", "turn": 2, "anony": False, "language": "English", "tstamp": 1682351591.1322,
        "conversation_a": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
                           {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}],
        "conversation_b": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "c"},
                           {"role": "user", "content": "r"}, {"role": "assistant", "content": "d"}],
    }  # fmt: skip
    (tmp_path / "arena.json").write_text(json.dumps([row, row]))
    assert elsewhere.add(read(tmp_path / "arena.json", "arena")) == 1, "one question_id is one vote"
    (vote,) = elsewhere.rows()
    assert (vote.choice, vote.battle.session, vote.battle.blind) == ("tie", "973", False)
    assert [(turn.prompt, turn.a.text, turn.b.text) for turn in vote.battle.turns] == [("q", "a", "c"), ("r", "b", "d")]
    assert (vote.battle.a.label, vote.battle.b.label, vote.battle.a.tokens) == ("chatglm-6b", "base", None)
    out = io.StringIO()
    export(elsewhere.rows(), "arena", out, elsewhere.salt())
    assert json.loads(out.getvalue()) == [{**row, "language": "unknown"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "'model_a' must name a model"),
        ({"model_a": "x", "model_b": 3, "winner": "tie"}, "'model_b' must name a model"),
        ({"model_a": "x", "model_b": "y", "winner": "x"}, "'winner' must be one of model_a, model_b, tie"),
        ({**MINIMAL[0], "conversation_a": "hello"}, "'conversation_a' must be a list of messages"),
        ({**MINIMAL[0], "conversation_a": [{"role": "user", "content": "q"}]}, "both sides must answer each question"),
    ],
)
def test_an_arenas_bad_row_is_named(tmp_path, row, message):
    (tmp_path / "arena.json").write_text(json.dumps([MINIMAL[0], row]))
    with pytest.raises(UserError, match=f"line 2: {message}"):
        read(tmp_path / "arena.json", "arena")


# TRL's


def test_preferences_come_back_as_votes(elsewhere, tmp_path):
    talk = [{"role": "assistant", "content": "No."}]
    rows = [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"prompt": [{"role": "user", "content": "Why?"}], "chosen": talk, "rejected": talk},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [elsewhere.add(read(tmp_path / "pairs.jsonl", "trl")) for _ in range(2)] == [2, 0]
    assert list(preferences(elsewhere.rows())) == [rows[0]]
    assert set(elsewhere.ballots().a_label) == {"chosen"}
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Why?", "chosen": "x"}')
    with pytest.raises(UserError, match="line 1: 'rejected' must be a list of messages"):
        read(tmp_path / "pairs.jsonl", "trl")


# While people vote


def test_an_export_while_people_vote_is_whole(store, battle, tmp_path):
    ids = [store.record_battle(battle) for _ in range(60)]
    for battle_id in ids[:30]:
        store.vote(battle_id, "a", battle.session)
    voting = threading.Thread(target=lambda: [store.vote(one, "b", battle.session) for one in ids[30:]])
    voting.start()
    first = written(store, "jsonl", tmp_path / "during").read_text().splitlines()
    voting.join()
    told = [json.loads(line)["battle_id"] for line in first]
    assert len(set(told)) == len(told) and set(ids[:30]) <= set(told) <= set(ids)
    assert len(written(store, "jsonl", tmp_path / "after").read_text().splitlines()) == 60


def test_a_slow_reader_keeps_nobody_from_voting_on_a_network_volume(battle, tmp_path):
    store = VoteStore(f"sqlite:///{tmp_path}/votes.sqlite3", network_volume=True)
    ids = [store.record_battle(battle) for _ in range(3)]
    store.vote(ids[0], "a", battle.session)
    store.vote(ids[1], "a", battle.session)
    slow = store.rows()
    next(slow)
    store.vote(ids[2], "a", battle.session)  # there is one connection, and the reader does not hold it
    assert len(list(slow)) == 2
    store.close()
