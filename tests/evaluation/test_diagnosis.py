"""Every signature on curves and answers made to show it, and none on a run that goes well."""

import pytest

from ram_demo.evaluation import health
from ram_demo.evaluation.diagnosis import diagnose


def run(losses, looks=(), **more) -> list[dict]:
    events = [{"kind": "step", "step": n + 1, "loss": loss} for n, loss in enumerate(losses)]
    events += [{"kind": "held_out", "step": step, "loss": loss} for step, loss in looks]
    return [*events, *({"kind": kind, **values} for kind, values in more.items())]


def sample(**changes) -> list[dict]:
    good = {"repetition": 0.02, "base_repetition": 0.02, "support": 0.9, "kl": 0.8}
    return [{"step": 1, "answers": [{**good, **changes}] * 3}]


def kinds(events, samples=()) -> list[str]:
    return [finding.kind for finding in diagnose(events, list(samples))]


FALLING = [10 - n * 0.4 for n in range(20)]


def test_a_run_that_goes_well_is_left_alone():
    events = run(FALLING, [(0, 10), (10, 6), (20, 3)], coverage={"distinct_2": 0.7, "self_bleu": 15})
    assert kinds(events, sample()) == []
    assert kinds([]) == []


@pytest.mark.parametrize(
    ("events", "samples", "kind"),
    [
        (run([1 + n * 0.1 for n in range(20)]), [], "divergence"),
        (run([*FALLING, float("nan")]), [], "divergence"),
        (run([], ended={"how": "failed", "note": "The loss is nan at step 3: it diverged. Lower"}), [], "divergence"),
        (run(FALLING, [(0, 10), (6, 5), (12, 6), (20, 7)]), [], "over-fit"),
        (run(FALLING, coverage={"distinct_2": 0.2, "self_bleu": 15}), [], "thin coverage"),
        (run(FALLING, coverage={"distinct_2": 0.7, "self_bleu": 70}), [], "thin coverage"),
        (run(FALLING), sample(repetition=0.4), "repetition"),
        (run(FALLING), sample(support=0.2), "support collapse"),
        (run(FALLING), sample(kl=0.001), "no effect yet"),
    ],
)
def test_each_signature_says_what_to_try(events, samples, kind):
    (finding,) = diagnose(events, samples)
    assert finding.kind == kind
    assert finding.says and finding.advice


def test_a_base_that_repeats_itself_excuses_the_aligner():
    assert kinds(run(FALLING), sample(repetition=0.4, base_repetition=0.4)) == []


@pytest.mark.parametrize(
    ("name", "fault", "sound"),
    [
        ("repetition", health.REPEATED + 0.03, health.REPEATED + 0.01),  # the base's own is 0.02
        ("support", health.LOW_SUPPORT - 0.01, health.LOW_SUPPORT),
        ("kl", health.UNMOVED / 2, health.UNMOVED),
    ],
)
def test_answers_are_held_to_the_thresholds_that_a_single_one_is_held_to(name, fault, sound):
    assert len(kinds(run(FALLING), sample(**{name: fault}))) == 1
    assert kinds(run(FALLING), sample(**{name: sound})) == []


def test_only_the_newest_answers_count():
    assert kinds(run(FALLING), [*sample(support=0.1), *sample()]) == []
