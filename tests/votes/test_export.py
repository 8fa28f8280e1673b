import csv
import io
import json
from dataclasses import replace

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trl import apply_chat_template, is_conversational, unpair_preference_dataset

from ram_demo.errors import UserError
from ram_demo.votes import FORMATS, Ballot, Turn, export, preferences


@pytest.fixture
def rows(store, battle):
    """Two votes; every text of the second is hostile to the reader of a line or of a sheet."""
    hostile = replace(
        battle, prompt="=1+1\r\n", mode='"a,b"', a=replace(battle.a, text="a\u2028b\x85c\rd\n", lane="-x")
    )
    ballot = Ballot(("clear", "tone"), "=so\nit is", ("a", 0, 2), 12.5)
    for one, choice, said in ((battle, "b", Ballot()), (hostile, "tie", ballot)):
        store.vote(store.record_battle(one), choice, "browser-1", said)
    return list(store.rows())


def written(rows, format, salt=None):
    out = io.StringIO(newline="")
    export(rows, format, out, salt)
    return out.getvalue()


def sheet(text):
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


# Ours: whole


def test_jsonl_is_one_object_a_vote(rows, battle):
    first, second = objects(written(rows, "jsonl"))  # splitlines also breaks at what is no newline to JSON
    assert first == {
        "id": rows[0].id,
        "created_at": rows[0].created_at.isoformat(),
        "choice": "b",
        "reasons": [],
        "comment": "",
        "span": None,
        "reading_seconds": None,
        "counts": True,
        "why": "",
        "battle_id": rows[0].battle_id,
        "battle_created_at": rows[0].battle_created_at.isoformat(),
        "app_version": rows[0].app_version,
        "prompt": "Why is the sky blue?",
        "seed": 9007199254740993,
        "mode": "product",
        "settings": battle.settings,
        "proposal": "SmolLM2-135M-Instruct",
        "proposal_revision": "sha256:cd",
        "kind": "compare",
        "blind": False,
        "category": "",
        "a": vars(battle.a),
        "b": vars(battle.b),
        "later": [],
    }
    assert first["created_at"].endswith("+00:00")
    assert (second["prompt"], second["a"]["text"]) == ("=1+1\r\n", "a\u2028b\x85c\rd\n")
    assert (second["reasons"], second["comment"], second["span"]) == (["clear", "tone"], "=so\nit is", ["a", 0, 2])


def test_csv_is_flat(rows):
    first, second = sheet(written(rows, "csv"))
    vote = ["id", "created_at", "choice", "reasons", "comment", "span", "reading_seconds", "counts", "why", "battle_id"]
    vote += ["app_version", "battle_created_at"]
    battle = ["prompt", "seed", "mode", "settings", "proposal", "proposal_revision", "kind", "blind", "category"]
    response = ["lane", "aligners", "aligner_revision", "text", "done"]
    numbers = ["tokens", "tokens_per_s", "first_token_ms", "gated_share", "mean_kl"]
    sides = [f"{side}_{name}" for side in "ab" for name in response + numbers]
    assert list(first) == [*vote, *battle, *sides, "later"]
    assert first["choice"] == "b"
    assert json.loads(first["settings"]) == rows[0].battle.settings
    assert (first["a_aligners"], first["a_tokens"], first["a_gated_share"]) == ("concise:1.0", "3", "0.25")
    assert (first["b_aligners"], first["b_tokens"], first["b_gated_share"]) == ("", "96", "")
    assert (second["mode"], second["a_text"]) == ('"a,b"', "a\u2028b\x85c\rd\n")
    assert (second["comment"], second["span"], second["reading_seconds"]) == ("'=so\nit is", '["a", 0, 2]', "12.5")


def test_columns_stand_even_without_votes():
    assert written([], "csv").startswith("id,created_at,choice,")
    assert [written([], format) for format in ("jsonl", "trl", "arena", "alpaca")] == ["", "", "[]\n", "[]\n"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_becomes_text_and_a_negative_number_stays_a_number(rows, text):
    battle = replace(rows[0].battle, prompt=text, b=replace(rows[0].battle.b, text=text, mean_kl=-0.5), seed=-3)
    (vote,) = sheet(written([replace(rows[0], battle=battle)], "csv"))
    assert vote["prompt"] == vote["b_text"] == f"'{text}"
    assert (vote["b_mean_kl"], vote["seed"]) == ("-0.5", "-3")


@pytest.mark.parametrize("text", ["a=1", " =1", "", "'", "''a", "“=1", "ﬁ"])
def test_harmless_text_is_left_alone(rows, text):
    battle = replace(rows[0].battle, prompt=text)
    assert sheet(written([replace(rows[0], battle=battle)], "csv"))[0]["prompt"] == text


HOSTILE = st.text(st.sampled_from("=+-@\t\r\n\"',;\\a é\u2028"), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the rows are frozen
@given(prompt=HOSTILE, text=HOSTILE)
def test_no_cell_is_run_and_every_text_can_be_read_back(rows, prompt, text):
    battle = replace(rows[0].battle, prompt=prompt, b=replace(rows[0].battle.b, text=text))
    (vote,) = sheet(written([replace(rows[0], battle=battle)], "csv"))
    for cell, wanted in ((vote["prompt"], prompt), (vote["b_text"], text)):
        assert cell in (wanted, "'" + wanted)
        assert cell[:1] not in set("=+-@\t\r")


# Who voted


@pytest.mark.parametrize("format", ["jsonl", "csv", "arena"])
def test_who_voted_stays_behind_and_is_hidden_by_a_salt_if_asked_for(store, rows, format):
    pair = [replace(row, battle=replace(row.battle, kind="pair")) for row in rows]
    assert "browser-1" not in written(pair, format)
    salted, other = written(pair, format, store.salt()), written(pair, format, "another salt")
    assert "browser-1" not in salted + other
    name = json.loads(written(pair, "jsonl", store.salt()).splitlines()[0])["voter"]
    assert len(name) == 32 and salted.count(name) == len(rows) and name not in other
    stranger = replace(pair[0], battle=replace(pair[0].battle, session="browser-2"))
    assert name not in written([stranger], format, store.salt())


def test_the_salt_is_the_databases_own_and_stays(store, url, tmp_path):
    from ram_demo.votes import VoteStore

    again, elsewhere = VoteStore(url), VoteStore(f"sqlite:///{tmp_path}/other.sqlite3")
    assert again.salt() == store.salt() != elsewhere.salt()
    assert len(store.salt()) == 64
    again.close()
    elsewhere.close()


# Other programs' forms


@pytest.fixture
def votes(rows):
    """{choice: a vote for it, on the pair of answers "Air." (concise:1.0) and "The sky ..." (base)}"""
    pair = replace(rows[0], battle=replace(rows[0].battle, kind="pair", blind=True))
    return {choice: replace(pair, choice=choice) for choice in ("a", "b", "tie", "both_bad")}


QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
AIR = [{"role": "assistant", "content": "Air."}]
SKY = [{"role": "assistant", "content": "The sky is blue because\nof air."}]


def test_trl_preferences(votes):
    found = objects(written(votes.values(), "trl"))
    assert found == [
        {"prompt": QUESTION, "chosen": AIR, "rejected": SKY},
        {"prompt": QUESTION, "chosen": SKY, "rejected": AIR},
    ]
    assert all(is_conversational(row) for row in found)


def test_trl_unpaired_is_what_trl_makes_of_the_pairs_and_both_bad_are_two_negatives(votes):
    wins = [votes["a"], votes["b"]]
    theirs = unpair_preference_dataset(Dataset.from_list(objects(written(wins, "trl")))).to_list()
    ours = objects(written(wins, "trl-unpaired"))

    def in_order(found):
        return sorted(found, key=json.dumps)

    assert in_order(ours) == in_order([{key: row[key] for key in ("prompt", "completion", "label")} for row in theirs])
    assert objects(written([votes["both_bad"], votes["tie"]], "trl-unpaired")) == [
        {"prompt": QUESTION, "completion": AIR, "label": False},
        {"prompt": QUESTION, "completion": SKY, "label": False},
    ]


def conversation(row):
    """Its first turn, and another."""
    battle = row.battle
    return replace(row, battle=replace(battle, later=(Turn("And at night?", battle.b, battle.a),)))


def test_trl_reads_a_conversation_with_its_template(votes):
    class Template:
        """As much of a tokenizer as TRL asks of one."""

        def apply_chat_template(self, messages, **_options):
            return "".join(f"<{message['role']}>{message['content']}</>" for message in messages)

    (row,) = objects(written([conversation(votes["a"])], "trl"))
    text = apply_chat_template(row, Template())
    assert text["prompt"] == "<user>Why is the sky blue?</>"
    sky = "The sky is blue because\nof air."
    assert text["chosen"] == f"<assistant>Air.</><user>And at night?</><assistant>{sky}</>"
    assert text["rejected"] == f"<assistant>{sky}</><user>And at night?</><assistant>Air.</>"


def test_answers_that_are_empty_or_equal_are_no_preference(votes):
    def with_text(text, side="a"):
        battle = votes["a"].battle
        return replace(votes["a"], battle=replace(battle, **{side: replace(getattr(battle, side), text=text)}))

    for same in (with_text(" "), with_text(" \n", "b"), with_text("The sky is blue because\nof air.\n")):
        assert written([same], "trl") == "" and list(preferences([same])) == []
    assert len(objects(written([with_text("")], "trl-unpaired"))) == 1


def test_plain_preferences_are_of_one_prompt(votes):
    assert list(preferences([*votes.values(), conversation(votes["a"])])) == [
        {"prompt": "Why is the sky blue?", "chosen": "Air.", "rejected": "The sky is blue because\nof air."},
        {"prompt": "Why is the sky blue?", "chosen": "The sky is blue because\nof air.", "rejected": "Air."},
    ]


def test_the_arenas_columns(votes):
    placebo = replace(votes["a"], battle=replace(votes["a"].battle, kind="placebo"))
    found = json.loads(written([*votes.values(), placebo, conversation(votes["a"])], "arena"))
    assert [row["winner"] for row in found] == ["model_a", "model_b", "tie", "tie (bothbad)", "model_a"]
    assert found[0] == {
        "question_id": votes["a"].id,
        "model_a": "concise:1.0",
        "model_b": "base",
        "winner": "model_a",
        "judge": "arena_user",
        "conversation_a": QUESTION + AIR,
        "conversation_b": QUESTION + SKY,
        "turn": 1,
        "anony": True,
        "language": "unknown",
        "tstamp": votes["a"].created_at.timestamp(),
    }
    night = [{"role": "user", "content": "And at night?"}]
    assert (found[4]["turn"], found[4]["conversation_a"]) == (2, QUESTION + AIR + night + SKY)


def test_alpaca_has_one_output_of_a_generator_for_an_instruction(votes):
    again = replace(votes["b"], battle=replace(votes["b"].battle, a=replace(votes["b"].battle.a, text="Other.")))
    assert json.loads(written([votes["a"], again], "alpaca")) == [
        {"instruction": "Why is the sky blue?", "output": "Air.", "generator": "concise:1.0"},
        {"instruction": "Why is the sky blue?", "output": "The sky is blue because\nof air.", "generator": "base"},
    ]


@pytest.mark.parametrize(("format", "there"), [(name, name in ("jsonl", "csv")) for name in FORMATS])
def test_votes_that_do_not_count_are_in_the_whole_forms_alone(votes, format, there):
    gone = replace(votes["a"], counts=False, why="spam", id="f" * 32)
    out = io.StringIO()
    assert export([gone], format, out) == there
    assert ("spam" in out.getvalue()) is there


def test_an_unknown_format_writes_nothing(rows):
    out = io.StringIO()
    with pytest.raises(UserError, match="Unknown format 'xlsx': choose one of jsonl, csv, trl, trl-unpaired, arena"):
        export(rows, "xlsx", out)
    assert out.getvalue() == ""
