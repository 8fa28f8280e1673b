"""What a label says, in whatever form it comes; and that no number depends on the order of the rows."""

from dataclasses import fields

import numpy as np
import pytest

from ram_demo.standings import votes
from ram_demo.standings.numbers import aligner_of, canonical
from ram_demo.votes import Columns


@pytest.mark.parametrize(
    ("label", "lane", "aligner", "strength"),
    [
        ("base", "base", "base", None),
        ("concise:1.0", "concise:1", "concise", 1.0),
        ("concise:0.50", "concise:0.5", "concise", 0.5),
        ("a:1,b:2.0", "a:1,b:2", "a+b", None),
        ("a:2,b:2", "a:2,b:2", "a+b", 2.0),
        ("gpt-4", "gpt-4", "gpt-4", None),
        ("org/model:free", "org/model:free", "org/model:free", None),
        ("a:b:3", "a:b:3", "a:b", 3.0),
        ("x:nan", "x:nan", "x:nan", None),
        (":1", ":1", ":1", None),
    ],
)
def test_a_label_is_an_aligner_and_a_strength_where_it_can_be(label, lane, aligner, strength):
    assert canonical(label) == lane
    assert aligner_of(lane) == (aligner, strength)


def columns(order: list[int]) -> Columns:
    known = {
        "choice": ("a", "b", "tie", "both_bad"),
        "voter": ("zoe", "adam", "zoe", "mia"),
        "kind": ("pair", "compare", "pair", "placebo"),
        "category": ("", "science", "cooking", "science"),
        "a_label": ("base", "b:1.0", "a:1", "b:1"),
        "b_label": ("b:1", "a:1", "base", "b:1"),
        "a_tokens": (10, None, 3, 4),
        "b_mean_kl": (0.5, 0.25, None, 1.0),
        "why": ("", "too fast: 0.1 s", "too fast: 0.3 s", ""),
        "counts": (True, False, False, True),
    }
    found = {field.name: known.get(field.name, (None,) * 4) for field in fields(Columns)}
    return Columns(**{name: tuple(values[i] for i in order) for name, values in found.items()})


def test_columns_become_numbers_that_do_not_depend_on_the_order_of_rows():
    one, other = votes(columns([0, 1, 2, 3])), votes(columns([2, 0, 3, 1]))
    assert one.ballots.names == ("base", "a:1", "b:1") == other.ballots.names
    for name in ("a", "b", "result", "voter"):
        assert getattr(one.ballots, name)[[2, 0, 3, 1]].tolist() == getattr(other.ballots, name).tolist()
    assert one.ballots.a.tolist() == [0, 2, 1, 2] and one.ballots.b.tolist() == [2, 1, 0, 2]
    assert one.ballots.voter.tolist() == [2, 0, 2, 1]
    assert one.category.rows("science").tolist() == [False, True, False, True]
    assert not one.kind.rows("strength").any()
    assert one.why.texts == ("", "too fast")
    np.testing.assert_equal(one.tokens[:, 0], [10, np.nan, 3, 4])
    np.testing.assert_equal(one.kl[:, 1], [0.5, 0.25, np.nan, 1.0])
