"""Every check on a trace made to show it, none on one that is well; and where a finding lies."""

import json
from dataclasses import replace

import pytest

from ram_demo.decoding.trace import Monitor, Step, Trace
from ram_demo.evaluation import health
from ram_demo.evaluation.health import Finding, findings

LEVELS = {"warning", "note"}


def step(at: int, **changes) -> Step:
    """One of an aligned lane that is well: it differs from all others, and the aligner moved it."""
    well = {
        "lane": "a", "index": at, "token": at, "text": f"w{at} ", "kl": 0.5, "gated": False, "nucleus": 30,
        "support": 0.9, "entropy": 0.8, "base_token": at, "push": 0.4, "ms": 20.0,
    }  # fmt: skip
    return Step(**{**well, **changes})


def trace(steps, done: str = "eos", weighers=(("a", 2.0, None),), **settings) -> Trace:
    values = {
        "temperature": 0.7, "temperature_p": 1.0, "top_p": 0.95, "top_k": 0, "repetition_penalty": 1.05,
        "candidates": 16, "max_new_tokens": 128, "seed": 7, "modes": {"a": "product"}, **settings,
        "lanes": {"a": [{"name": n, "beta": b, "tau": t, "revision": ""} for n, b, t in weighers]},
    }  # fmt: skip
    steps = tuple(steps)
    return Trace("a", done, "".join(s.text for s in steps), 1.0, 1.0, values, steps)


def saying(tokens, **changes) -> list[Step]:
    return [step(at, token=token, text=f"w{token} ", **changes) for at, token in enumerate(tokens)]


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    assert finding.says.endswith(".") and finding.advice.endswith(".") and finding.level in LEVELS
    return finding


def test_what_is_well_is_left_alone():
    assert findings(trace(map(step, range(60)))) == []
    assert findings(trace(map(step, range(60)), weighers=())) == []
    assert findings(trace([], done="stopped")) == []


def test_of_the_base_nothing_is_said_that_needs_an_aligner():
    bare = [step(at, kl=0.0, push=0.0, support=0.3) for at in range(60)]
    assert findings(trace(bare, weighers=())) == []
    assert [f.kind for f in findings(trace(bare))] == ["support collapse", "no effect"]


# Repetition ---------------------------------------------------------------------------------------------------------


def test_repetition_is_told_with_its_share_its_place_and_its_words():
    tokens = [*range(20), *range(5, 15), 30, 31]  # of 29 runs of four, the 7 from token 21 on were said before
    found = only(findings(trace(saying(tokens))))
    assert (found.kind, found.at, found.level) == ("repetition", (20, 10), "warning")
    assert "24%" in found.says and "from token 21 on" in found.says and "“w5 w6 w7 w8" in found.says
    assert "the strength (now 2)" in found.advice and "repetition penalty (now 1.05)" in found.advice


def test_a_little_repetition_is_no_fault():
    assert findings(trace(saying([*range(40), *range(5, 12)]))) == []
    assert findings(trace(saying([1, 2, 3, 4, 5, 1, 2, 3, 4, 5]))) == [], "two runs of seven, but only two"


def test_a_loop_is_told_once_and_more_length_is_not_advised():
    tokens = [*range(10), *[50, 51, 52, 53] * 6]
    found = only(findings(trace(saying(tokens), done="length", max_new_tokens=34)))
    assert (found.kind, found.at) == ("loop", (10, 24))
    assert "From token 11" in found.says and "“w50 w51 w52 w53” 6 times" in found.says


def test_what_ended_by_itself_did_not_loop_but_repeats():
    assert only(findings(trace(saying([*range(10), *[50, 51, 52, 53] * 6, 2])))).kind == "repetition"


def test_a_place_counts_steps_and_words_count_tokens_of_the_answer():
    forced = [replace(s, index=s.index + 7) for s in saying([*range(20), *range(5, 15)])]
    found = only(findings(trace(forced)))
    assert found.at == (20, 10) and "from token 28 on" in found.says


def test_quotes_are_short_and_of_one_line():
    tokens = [*range(20), *range(20)]
    found = only(findings(trace([step(at, token=token, text="a\n\tlong") for at, token in enumerate(tokens)])))
    quoted = found.says.partition("“")[2].partition("”")[0]
    assert quoted.startswith("a longa long") and quoted.endswith("…") and len(quoted) == health.QUOTED


@pytest.mark.parametrize(("temperature", "named"), [(0.0, True), (0.7, False)])
def test_a_cold_choice_is_named_among_the_reasons_to_repeat(temperature, named):
    found = only(findings(trace(saying([*range(20), *range(20)]), weighers=(), temperature=temperature)))
    assert ("raise T (now 0)" in found.advice) is named and "strength" not in found.advice


# Entropy ------------------------------------------------------------------------------------------------------------


def sure(count: int, **changes) -> list[Step]:
    """An answer with so many sure tokens in a row, from its sixth on."""
    return [step(at, **({"entropy": 0.01, **changes} if 5 <= at < 5 + count else {})) for at in range(count + 10)]


def test_a_long_stretch_without_a_choice_is_a_collapse():
    found = only(findings(trace(sure(health.STUCK))))
    assert (found.kind, found.at) == ("entropy collapse", (5, health.STUCK))
    assert "From token 6 on, 32 tokens" in found.says and "raise T (now 0.7)" in found.advice


def test_a_short_one_is_fluent_text():
    assert findings(trace(sure(health.STUCK - 1))) == []


def test_at_a_cold_final_temperature_sure_tokens_say_nothing():
    assert findings(trace(sure(100), temperature=0.0)) == []


def test_a_net_of_one_token_is_the_nets_doing():
    assert "top-p (now 0.1)" in only(findings(trace(sure(40, nucleus=1), top_p=0.1))).advice


# The gate -----------------------------------------------------------------------------------------------------------


def test_a_gate_that_hides_the_aligner_is_told_with_one_that_would_not():
    steps = [step(at, kl=(at + 1) / 100, gated=at >= 40, push=0.0 if at >= 40 else 0.4) for at in range(100)]
    found = only(findings(trace(steps, weighers=(("a", 2.0, 0.4),))))
    assert (found.kind, found.at) == ("gated", (40, 60))
    assert "KL 0.4" in found.says and "60%" in found.says and "at 0.75 about 75%" in found.advice


def test_a_gate_on_half_of_the_steps_is_at_work():
    steps = [step(at, gated=at % 2 == 0) for at in range(100)]
    assert findings(trace(steps, weighers=(("a", 2.0, 0.4),))) == []


def test_where_everything_is_gated_only_the_gate_is_named():
    steps = [step(at, gated=True, push=0.0) for at in range(30)]
    assert only(findings(trace(steps, weighers=(("a", 2.0, 0.0),)))).kind == "gated"


def test_of_several_aligners_the_hidden_one_is_named():
    monitors = (Monitor("a", 0.9, True, 0.9), Monitor("b", 0.2, False, 0.9))
    steps = [step(at, kl=0.9, monitors=monitors) for at in range(30)]
    found = only(findings(trace(steps, weighers=(("a", 1.0, 0.5), ("b", 2.0, 0.5)))))
    assert found.kind == "gated" and "hides a: 100%" in found.says and "at 0.9 about" in found.advice


def test_an_aligner_of_no_strength_is_hidden_by_no_gate():
    monitors = (Monitor("a", 0.9, True, 0.9), Monitor("b", 0.2, False, 0.9))
    steps = [step(at, kl=0.9, monitors=monitors) for at in range(30)]
    assert findings(trace(steps, weighers=(("a", 0.0, 0.5), ("b", 2.0, 0.5)))) == []


# Support ------------------------------------------------------------------------------------------------------------


def test_a_net_that_leaves_out_what_the_aligner_wants_is_a_collapse():
    steps = [step(at, support=0.1 if 10 <= at < 30 else 0.6) for at in range(40)]
    found = only(findings(trace(steps, top_p=0.6, temperature_p=0.7, top_k=9)))
    assert found.kind == "support collapse" and "35%" in found.says and found.level == "warning"
    assert found.advice == "Lift top-k (now 9), raise top-p (now 0.6) or raise T_P (now 0.7)."
    begin, count = found.at
    assert begin <= 10 and begin + count >= 30, "the span lies about the low steps"


def test_a_low_span_in_an_answer_that_is_well_is_a_note():
    steps = [step(at, support=0.2 if at in (*range(10, 22), *range(60, 70)) else 0.9) for at in range(90)]
    found = only(findings(trace(steps)))
    assert (found.kind, found.level) == ("low support", "note") and "the longest of 2 such spans" in found.says
    begin, count = found.at
    assert begin <= 10 and 22 <= begin + count < 30


def test_a_few_low_steps_are_ordinary():
    assert findings(trace([step(at, support=0.05 if at % 20 < 3 else 0.9) for at in range(60)])) == []


# Length -------------------------------------------------------------------------------------------------------------


def test_an_answer_that_was_cut_is_a_note():
    found = only(findings(trace(map(step, range(40)), done="length", max_new_tokens=40)))
    assert (found.kind, found.level, found.at) == ("length", "note", None)
    assert "40 tokens" in found.says and found.advice == "Raise the length (now 40)."


@pytest.mark.parametrize(("tokens", "kinds"), [(3, ["ended at once"]), (4, [])])
def test_an_answer_that_ends_at_once_is_a_note(tokens, kinds):
    found = findings(trace(map(step, range(tokens))))
    assert [(f.kind, f.level) for f in found] == [(kind, "note") for kind in kinds]


def test_a_forced_beginning_counts_as_said():
    assert findings(trace([step(30), step(31)])) == []


def test_an_answer_without_words_is_empty():
    found = only(findings(trace([step(0, text="")])))
    assert (found.kind, found.says) == ("empty", "It says nothing, in one token.")
    assert only(findings(trace([step(at, text="\n") for at in range(9)], weighers=()))).advice == "Take another seed."


def test_who_stopped_it_knows_why_it_is_short():
    assert findings(trace([step(0), step(1)], done="stopped")) == []


# No effect ----------------------------------------------------------------------------------------------------------


def test_an_aligner_that_says_what_the_proposal_says_has_no_effect():
    found = only(findings(trace([step(at, kl=0.004) for at in range(40)])))
    assert (found.kind, found.level) == ("no effect", "warning") and "0.004" in found.says


def test_weights_that_move_nothing_have_no_effect():
    steps = [step(at, push=0.01 * (-1) ** at, base_token=at if at else 99) for at in range(40)]
    found = only(findings(trace(steps, weighers=(("a", 0.01, None),))))
    assert found.kind == "no effect" and "0.010 nats; 1 of 40" in found.says
    assert found.advice == "Raise the strength (now 0.01)."


def test_one_draw_of_sis_and_a_net_of_one_token_are_named_as_reasons():
    still = [step(at, push=0.0) for at in range(40)]
    found = only(findings(trace(still, candidates=1, modes={"a": "sis"})))
    assert "the draws of sis (now 1)" in found.advice
    alone = [step(at, push=0.0, nucleus=1) for at in range(40)]
    assert only(findings(trace(alone, top_k=1))).advice.startswith("Lift top-k (now 1)")


def test_strength_zero_may_be_meant():
    found = only(
        findings(trace([step(at, push=0.0, support=0.1, gated=True) for at in range(40)], weighers=(("a", 0.0, 0.1),)))
    )
    assert (found.kind, found.level) == ("no effect", "note") and "strength 0" in found.says


# The form -----------------------------------------------------------------------------------------------------------


def test_a_finding_is_json_and_warnings_come_first():
    steps = saying([*range(20), *range(20)])
    found = findings(trace(steps, done="length"))
    assert [f.level for f in found] == ["warning", "note"]
    first, second = json.loads(json.dumps([f.to_json() for f in found]))
    assert set(first) == {"kind", "says", "advice", "at", "level"} and first["at"] == [20, 20]
    assert second["at"] is None
