"""What the page is told: small, complete for the token drawn, and harmless on its way."""

import json

from ram_demo.decoding.trace import Step
from ram_demo.ui.tokens import SHOWN, as_text, step_for_page
from tests import traces


def step(token: int, base: int, candidates: int, text: str = "x") -> Step:
    listed = traces.slate(*((i, 0.1, 0.2, 0.3) for i in range(candidates)))
    return traces.step(token=token, base_token=base, text=text, slate=listed)


def test_the_token_drawn_and_the_bases_are_always_among_those_shown():
    told = step_for_page(step(token=15, base=17, candidates=20))
    assert len(told["candidates"]) == SHOWN + 2
    assert told["candidates"][told["chosen"]][0] == "<15>"
    assert told["candidates"][told["base"]][0] == "<17>"
    assert told["other"]


def test_where_base_and_lane_agree_it_is_said_once():
    told = step_for_page(step(token=2, base=2, candidates=20))
    assert len(told["candidates"]) == SHOWN
    assert told["chosen"] == told["base"] == 2
    assert not told["other"]


def test_the_text_of_an_update_holds_no_markup_and_reads_back_whole():
    value = {"text": "</script><img onerror=x> \u2028 \u202e 👩‍👩‍👧"}
    assert "<" not in as_text(value)
    assert json.loads(as_text(value)) == value
