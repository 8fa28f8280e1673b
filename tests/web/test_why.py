"""Why a token was drawn, in words: each case by hand, sentence by sentence."""

import numpy as np
import pytest

from tests.web.records import aligner, by_hand, record

ONE = [aligner("one")]
TWO = {
    "log_q": {"one": np.log([0.6, 0.1, 0.3]), "two": np.log([0.2, 0.4, 0.4])},
    "log_q0": {"one": np.log([0.6, 0.2, 0.2]), "two": np.log([0.2, 0.4, 0.4])},
    "kl": {"one": 0.5, "two": 2.0},
}
ALONE = {"log_q": {"base": np.log([0.3, 0.6, 0.1])}, "log_q0": {"base": np.log([0.3, 0.6, 0.1])}, "kl": {}}
BOTH = [aligner("one"), aligner("two")]
SAME = "The base would have said the same."
OTHERWISE = "The base would have said “<10>” here; the aligner's weights decided otherwise."
AS_BASE = "So this was drawn as the base draws."
FIRST = "It has the largest weight, 67%."
SECOND = "It has only the 2nd largest weight, 22%, and the shared draw fell on it."
BASE_DRAWN = {"token": 10, "base_token": 10}

CASES = {
    "the aligner decided": (by_hand(), ONE, {}, [OTHERWISE, FIRST, "one favours it 6.0 times over “<10>”."]),
    "the same": (by_hand(**BASE_DRAWN), ONE, {}, [SAME, SECOND]),
    "gated": (
        by_hand(**BASE_DRAWN),
        [aligner("one", 1.0, 0.1)],
        {},
        ["The aligner is gated: its KL of 0.5 is above the threshold 0.1.", AS_BASE, SECOND],
    ),
    "barely gated": (
        by_hand(**BASE_DRAWN, kl={"one": 0.10041}),
        [aligner("one", 1.0, 0.1)],
        {},
        ["The aligner is gated: its KL of 0.1004 is above the threshold 0.1.", AS_BASE, SECOND],
    ),
    "strength 0": (by_hand(**BASE_DRAWN), [aligner("one", 0.0)], {}, ["The aligner's strength is 0.", AS_BASE, SECOND]),
    "strength 0, above the gate": (
        by_hand(**BASE_DRAWN),
        [aligner("one", 0.0, 0.1)],
        {},
        ["The aligner's strength is 0.", AS_BASE, SECOND],
    ),
    "the base": (by_hand(**{**BASE_DRAWN, **ALONE}), [], {}, ["Drawn by the base.", SECOND]),
    "a strength": (
        by_hand(),
        [aligner("one", 2.5)],
        {},
        [OTHERWISE, FIRST, "one at strength 2.5 favours it 88 times over “<10>”."],
    ),
    "a huge strength": (
        by_hand(),
        [aligner("one", 10.0)],
        {},
        [OTHERWISE, FIRST, "one at strength 10 favours it more than 10,000 times over “<10>”."],
    ),
    "thousands": (
        by_hand(),
        [aligner("one", 5.0)],
        {},
        [OTHERWISE, FIRST, "one at strength 5 favours it 7,776 times over “<10>”."],
    ),
    "ratio": (
        by_hand(),
        ONE,
        {"mode": "ratio"},
        [OTHERWISE, FIRST, "one, against what it was tuned from, favours it 2.0 times over “<10>”."],
    ),
    "undrawn": (
        by_hand(draws=np.array([1, 0, 2])),
        ONE,
        {"mode": "sis"},
        [
            "The base would have said “<10>” here, which is not among the tokens drawn for the aligner's choice.",
            FIRST,
            "one favours it 6.0 times over “<10>”.",
        ],
    ),
    "drawn": (
        by_hand(),
        ONE,
        {"mode": "sis"},
        [OTHERWISE, FIRST, "one favours it 6.0 times over “<10>”."],
    ),
    "two": (
        by_hand(**TWO),
        BOTH,
        {},
        [
            "The base would have said “<10>” here; the aligners' weights decided otherwise.",
            FIRST,
            "one favours it 6.0 times over “<10>”.",
            "two favours “<10>” 2.0 times over it.",
        ],
    ),
    "one of two gated": (
        by_hand(**TWO),
        [aligner("one"), aligner("two", 1.0, 0.25)],
        {},
        [
            "two is gated: its KL of 2 is above the threshold 0.25.",
            "The base would have said “<10>” here; one's weights decided otherwise.",
            FIRST,
            "one favours it 6.0 times over “<10>”.",
        ],
    ),
    "none of two": (
        by_hand(**{**TWO, **BASE_DRAWN}),
        [aligner("one", 0.0), aligner("two", 1.0, 0.25)],
        {},
        ["one has strength 0.", "two is gated: its KL of 2 is above the threshold 0.25.", AS_BASE, SECOND],
    ),
    "neither": (
        by_hand(**{**TWO, "log_q": {**TWO["log_q"], "two": np.log([0.3, 0.3, 0.4])}}),
        BOTH,
        {},
        [
            "The base would have said “<10>” here; the aligners' weights decided otherwise.",
            FIRST,
            "one favours it 6.0 times over “<10>”.",
            "two favours neither it nor “<10>”.",
        ],
    ),
    "temperature 0": (
        by_hand(),
        ONE,
        {"temperature": 0.0},
        [
            OTHERWISE,
            "It has the largest weight, and at temperature 0 that one is taken.",
            "one favours it 6.0 times over “<10>”.",
        ],
    ),
    "a single candidate": (
        by_hand(inside=1, token=11, base_token=11, mass=0.3),
        ONE,
        {},
        [SAME, "It was the only candidate."],
    ),
}


def test_every_case_in_words(js):
    records = [record([step], aligners, **{"temperature": 1.0, **more}) for step, aligners, more, _ in CASES.values()]
    said = js("return records.map((record) => why(decodeTrace(record), 0))", records=records)
    assert dict(zip(CASES, said, strict=True)) == {name: case[3] for name, case in CASES.items()}


@pytest.mark.parametrize(
    ("rank", "weight", "words"),
    [
        (2, 0.25, "2nd largest weight, 25%,"),
        (3, 0.0994, "3rd largest weight, 9.9%,"),
        (4, 0.0996, "4th largest weight, 10%,"),
        (11, 0.01, "11th largest weight, 1%,"),
        (13, 0.0123, "13th largest weight, 1.2%,"),
        (21, 0.0006, "21st largest weight, 0.1%,"),
        (112, 0.0001, "112th largest weight, below 0.1%,"),
        (122, 0, "122nd largest weight, below 0.1%,"),
    ],
)
def test_places_and_shares_in_words(js, rank, weight, words):
    made = record([by_hand(weight=np.array([weight, 0.5, 0.1]))], ONE)
    made["steps"]["rank"] = [rank]
    assert words in js("return why(decodeTrace(record), 0)[1]", record=made)


def test_a_page_says_how_a_token_is_quoted(js):
    made = record([by_hand()], ONE)
    made["words"]["10"] = "<script>\u202e"
    said = js("return why(decodeTrace(record), 0, (text) => '[' + text.length + ']')", record=made)
    assert said[0] == "The base would have said [9] here; the aligner's weights decided otherwise."
