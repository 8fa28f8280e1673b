"""What the Leaderboard tab writes: every name escaped, numbers as people read them, a mark for each aligner."""

import math

import plotly.graph_objects as go
import pytest

from ram_demo.errors import UserError
from ram_demo.ranking import INTERVALS, Share
from ram_demo.standings import CONTROLS, Curve, Place, Standings
from ram_demo.ui import figures, leaderboard, tables
from ram_demo.votes import FORMATS, KINDS

EVIL = "<img src=x onerror=alert(1)>"
KNOWN, UNKNOWN = Share(0.62, 0.5, 0.73, 40), Share(math.nan, 0.0, 1.0, 0)


@pytest.fixture
def standings():
    places = (
        Place(f"{EVIL}:2", EVIL, 2.0, 120.4, -3.2, 244.0, 1234, KNOWN, 17, None),
        Place("base", "base", None, 0.0, 0.0, 0.0, 99, UNKNOWN, 123456, None),
        Place("x:1", "x", 1.0, -0.3, -90.0, 90.0, 7, KNOWN, None, None),
    )
    curves = (Curve(EVIL, ((2.0, KNOWN),)), Curve("x", ((1.0, KNOWN),)))
    matrix = ((UNKNOWN, KNOWN, UNKNOWN),) * 3
    return Standings(900, {EVIL: 3}, places, matrix, curves, curves, KNOWN, None, KNOWN, 0.2)


def test_no_name_is_ever_markup(standings):
    html = tables.summary(standings) + tables.ratings(standings) + tables.matrix(standings) + tables.facts(standings)
    html += tables.curves(standings.by_kl, "KL")
    assert EVIL not in html and "&lt;img" in html
    for figure in (figures.ratings(standings), figures.against_base(standings.by_kl, standings, "KL")):
        assert "<img" not in figure.to_json().replace("\\u003c", "<")


def test_numbers_are_written_as_people_read_them(standings):
    html = tables.ratings(standings)
    for words in ("+120", "−3 to +244", "1,234", "62% <small>50% to 73% of 40</small>", ">17<", "over 9,999", "fixed"):
        assert words in html
    assert "−0" not in html and "+0" not in html, "nothing is neither above nor below"
    assert "nan" not in html + tables.matrix(standings) + tables.facts(standings)


def test_a_figure_has_every_lane_with_its_interval_and_a_mark_of_its_own(standings):
    figure = figures.ratings(standings)
    assert isinstance(figure, go.Figure)
    ends = {trace.y[0]: (trace.x[0] - trace.error_x.arrayminus[0], trace.x[0] + trace.error_x.array[0])
            for trace in figure.data}  # fmt: skip
    assert ends["x:1"] == pytest.approx((-90, 90)) and ends["base"] == (0, 0)
    assert len({(trace.marker.symbol, trace.marker.color) for trace in figure.data}) == 3
    assert figure.layout.yaxis.categoryarray[-1].startswith("&lt;img"), "the best stands on top"


def test_every_form_control_and_kind_that_there_is_is_offered():
    assert set(leaderboard.FORMAT_WORDS) == set(FORMATS)
    assert tuple(leaderboard.CONTROL_WORDS) == CONTROLS and tuple(leaderboard.INTERVAL_WORDS) == INTERVALS
    assert {*leaderboard.KIND_WORDS, "placebo"} == set(KINDS), "placebos are not rated"


@pytest.mark.parametrize("place", range(7))
def test_a_client_that_sends_anything_at_all_gets_a_sentence_or_a_filter(place):
    values = ["all", "all", next(iter(leaderboard.CAPS)), "", "sandwich", False, False]
    assert leaderboard._filters(*values).most == 0
    values[place] = {"a": [None]}
    if place < 3:
        with pytest.raises(UserError):
            leaderboard._filters(*values)
    else:
        hash(leaderboard._filters(*values))
