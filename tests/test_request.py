"""What may be asked for, and the sentence for what may not."""

from dataclasses import fields, replace

import pytest

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.errors import UserError
from ram_demo.request import MAX_PROMPT_CHARACTERS, RANGES, Choice, Request, lane_name, parse_choice, parse_tau

DEFAULTS = DecodingSettings()


def refusal(make) -> str:
    with pytest.raises(UserError) as caught:
        make()
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 600
    return sentence


def test_the_starting_values_may_be_asked_for():
    asked = Request("Why?")
    assert asked.settings == DEFAULTS and asked.lanes == () and asked.tau == "auto"


def test_every_number_among_the_settings_has_a_range():
    assert set(RANGES) == {field.name for field in fields(DecodingSettings)} - {"mode"}


@pytest.mark.parametrize("prompt", ["", " ", "\n\t \u2003"])
def test_an_empty_prompt_is_refused(prompt):
    assert refusal(lambda: Request(prompt)) == "The prompt is empty."


def test_a_prompt_without_end_is_refused_before_it_is_read():
    Request("x" * MAX_PROMPT_CHARACTERS)
    assert "200,001" in refusal(lambda: Request("x" * (MAX_PROMPT_CHARACTERS + 1)))


@pytest.mark.parametrize("prompt", ["<script>", "${alert(1)}", "{{x}}", "\ud800", "\u202eevil", "👩‍👩‍👧", "\x00"])
def test_any_other_text_is_a_prompt(prompt):
    assert Request(prompt).prompt == prompt


@pytest.mark.parametrize(
    ("name", "low", "high", "beyond"),
    [
        ("candidates", 1, 1000, [0, -1, 10**9, 2.5]),
        ("temperature", 0, 2.0, [-0.01, float("nan"), float("inf"), 1e9]),
        ("temperature_p", 0.1, 2.0, [0, -1, float("nan"), float("inf"), float("-inf")]),
        ("temperature_q", 0.1, 2.0, [0, -1, float("nan"), float("inf")]),
        ("top_p", 0.05, 1.0, [0, -0.5, 1.0001, float("nan")]),
        ("top_k", 0, 1000, [-1, 0.5, float("nan")]),
        ("repetition_penalty", 1.0, 2.0, [0, -1, float("nan"), float("inf")]),
        ("seed", 0, 2**53 - 1, [-1, 2**53, 10**400, 0.5, float("nan")]),
        ("max_new_tokens", 1, 1024, [0, -1, 10**9, 10**400, 1.5]),
    ],
)
def test_a_number_is_within_its_range(name, low, high, beyond):
    for value in (low, high):
        Request("Why?", settings=replace(DEFAULTS, **{name: value}))
    for value in beyond:
        assert str(value)[:3] in refusal(lambda v=value: Request("Why?", settings=replace(DEFAULTS, **{name: v})))


@pytest.mark.parametrize("mode", ["", "Product", "sum", "product "])
def test_an_unknown_mode_is_told_which_there_are(mode):
    sentence = refusal(lambda: Request("Why?", settings=replace(DEFAULTS, mode=mode)))
    assert repr(mode) in sentence and all(known in sentence for known in ("product", "par", "sis", "ratio"))


@pytest.mark.parametrize("beta", [-0.1, 10.01, 11, float("nan"), float("inf"), float("-inf")])
def test_a_strength_out_of_its_range_is_refused(beta):
    assert "strength of concise" in refusal(lambda: Choice("concise", beta))


def test_strengths_within_the_range_are_taken():
    assert [Choice("x", beta).beta for beta in (0, 0.5, 10, None)] == [0, 0.5, 10, None]


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("concise", Choice("concise")),
        ("concise:0.5", Choice("concise", 0.5)),
        (" concise : 2 ", Choice("concise", 2.0)),
        ("concise:0", Choice("concise", 0.0)),
        ("concise:1e1", Choice("concise", 10.0)),
    ],
)
def test_a_choice_is_a_name_and_perhaps_a_strength(text, choice):
    assert parse_choice(text) == choice


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        " : ",
        "concise:",
        "concise:much",
        "concise:nan",
        "concise:-1",
        "concise:11",
        "concise:inf",
        "concise:1:2",
    ],
)
def test_what_is_no_choice_is_refused(text):
    refusal(lambda: parse_choice(text))


def test_a_gate_is_a_word_or_a_threshold():
    assert [parse_tau(text) for text in ("auto", " OFF ", "0", "0.1", "1e-3", "50")] == [
        "auto",
        "off",
        0,
        0.1,
        1e-3,
        50,
    ]


@pytest.mark.parametrize("text", ["", "none", "nan", "inf", "-inf", "-0.1", "0,1", "auto off"])
def test_what_is_no_gate_is_refused(text):
    assert "gate" in refusal(lambda: parse_tau(text))


def test_lanes_are_named_after_what_composes_them():
    assert lane_name((Choice("a"), Choice("b", 2.0))) == "a+b"


@pytest.mark.parametrize(
    "lanes",
    [
        ((Choice("a"), Choice("b"), Choice("a", 2.0)),),
        ((Choice("a"),), (Choice("a", 2.0),)),
        ((Choice("a"), Choice("b")), (Choice("a"), Choice("b"))),
        ((Choice("base"),),),
    ],
    ids=["twice in a lane", "two lanes of a name", "two composed lanes of a name", "the base's own name"],
)
def test_lanes_that_could_not_be_told_apart_are_refused(lanes):
    refusal(lambda: Request("Why?", lanes))


def test_lanes_alone_or_beside_the_base():
    one = ((Choice("a"),),)
    assert Request("Why?", one).all_lanes == ((), *one)
    assert Request("Why?", one, with_base=False).all_lanes == one
    assert Request("Why?", ((),), with_base=False).all_lanes == ((),)
    assert "base is asked for twice" in refusal(lambda: Request("Why?", ((),)))
