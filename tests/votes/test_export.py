import csv
import io
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ram_demo.errors import UserError
from ram_demo.votes import FORMATS, export


@pytest.fixture
def rows(store, battle):
    """Two votes; every text of the second is hostile to the reader of a line or of a sheet."""
    hostile = replace(
        battle, prompt="=1+1\r\n", mode='"a,b"', a=replace(battle.a, text="a\u2028b\x85c\rd\n", lane="-x")
    )
    for one, choice in ((battle, "b"), (hostile, "tie")):
        store.vote(store.record_battle(one), choice, "browser-1")
    return list(store.rows())


def written(rows, format, **options):
    out = io.StringIO(newline="")
    assert export(rows, format, out, **options) == len(rows)
    return out.getvalue()


def sheet(text):
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_jsonl_is_one_object_a_vote(rows, battle):
    lines = written(rows, "jsonl").splitlines()  # splitlines also breaks at what is no newline to JSON
    first, second = map(json.loads, lines)
    assert first == {
        "id": rows[0].id,
        "created_at": rows[0].created_at.isoformat(),
        "choice": "b",
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
    }
    assert first["created_at"].endswith("+00:00")
    assert (second["prompt"], second["a"]["text"]) == ("=1+1\r\n", "a\u2028b\x85c\rd\n")


def test_jsonl_without_traces(rows):
    for line in written(rows, "jsonl", include_traces=False).splitlines():
        vote = json.loads(line)
        assert "trace" not in vote["a"] | vote["b"]
        assert vote["b"]["text"] == "The sky is blue because\nof air."


@pytest.mark.parametrize("format", FORMATS)
def test_the_session_stays_behind_unless_asked_for(rows, format):
    assert "browser-1" not in written(rows, format)
    assert written(rows, format, include_session=True).count("browser-1") == len(rows)


def test_csv_is_flat(rows):
    first, second = sheet(written(rows, "csv"))
    vote = ["id", "created_at", "choice", "counts", "why", "battle_id", "battle_created_at", "app_version"]
    battle = ["prompt", "seed", "mode", "settings", "proposal", "proposal_revision", "kind", "blind", "category"]
    response = ["lane", "aligners", "aligner_revision", "text", "done"]
    numbers = ["tokens", "tokens_per_s", "first_token_ms", "gated_share", "mean_kl"]
    assert list(first) == vote + battle + [f"{side}_{name}" for side in "ab" for name in response + numbers]
    assert first["choice"] == "b"
    assert json.loads(first["settings"]) == rows[0].battle.settings
    assert (first["a_aligners"], first["a_tokens"], first["a_gated_share"]) == ("concise:1.0", "3", "0.25")
    assert (first["b_aligners"], first["b_tokens"], first["b_gated_share"]) == ("", "96", "")
    assert (second["mode"], second["a_text"]) == ('"a,b"', "a\u2028b\x85c\rd\n")
    assert sheet(written(rows, "csv", include_session=True))[0]["session"] == "browser-1"


def test_csv_columns_stand_even_without_votes():
    assert written([], "csv").startswith("id,created_at,choice,")
    assert written([], "jsonl") == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_becomes_text_and_a_negative_number_stays_a_number(rows, text):
    battle = replace(rows[0].battle, prompt=text, b=replace(rows[0].battle.b, text=text, mean_kl=-0.5), seed=-3)
    (vote,) = sheet(written([replace(rows[0], battle=battle)], "csv"))
    assert vote["prompt"] == vote["b_text"] == f"'{text}"
    assert (vote["b_mean_kl"], vote["seed"]) == ("-0.5", "-3")


@pytest.mark.parametrize("text", ["a=1", " =1", "", "'", "“=1", "ﬁ"])
def test_harmless_text_is_left_alone(rows, text):
    battle = replace(rows[0].battle, prompt=text)
    assert sheet(written([replace(rows[0], battle=battle)], "csv"))[0]["prompt"] == text


HOSTILE = st.text(st.sampled_from("=+-@\t\r\n\"',;\\a é\u2028"), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the rows are frozen
@given(prompt=HOSTILE, text=HOSTILE)
def test_any_text_can_be_read_back_from_csv(rows, prompt, text):
    battle = replace(rows[0].battle, prompt=prompt, b=replace(rows[0].battle.b, text=text))
    (vote,) = sheet(written([replace(rows[0], battle=battle)], "csv"))
    for cell, wanted in ((vote["prompt"], prompt), (vote["b_text"], text)):
        assert cell == ("'" + wanted if wanted[:1] in set("=+-@\t\r") else wanted)


def test_an_unknown_format_writes_nothing(rows):
    out = io.StringIO()
    with pytest.raises(UserError, match="Unknown format 'xlsx': choose one of jsonl, csv"):
        export(rows, "xlsx", out)
    assert out.getvalue() == ""
