"""What is wrong with one answer, seen from its trace alone, and what to try. Pure functions, one for each check.

The thresholds were measured on answers of the embedded model and the shipped aligners; the README's "Health" says what
was seen. Reads only numbers and text of the steps, never their candidates. Knows nothing of models, files or pages.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from ram_demo.decoding.trace import Step, Trace
from ram_demo.evaluation import stretches
from ram_demo.evaluation.answers import GRAM, repetition, said_before

REPEATED = 0.15  # of the runs of four tokens were said before: ordinary answers reach 0.10, what is above reads like it
REPEATED_RUNS = 4  # at least so many of them, as "Ahoy, matey! Ahoy, matey!" is no fault
LOOP_TIMES, LOOP_TOKENS = 3, 16  # at its end it says the same at least so often, over at least so many tokens
SURE = 0.05  # nats of entropy: one candidate has about 99% of the weight
STUCK = 32  # sure tokens in a row: ordinary answers have up to 4, sound ones at strength 5 up to 27
COLD = 0.2  # a final temperature below it makes tokens sure, whatever the answer
GATED = 0.5  # of the steps left to the proposal: with more, at most 3% of the tokens were other than the base's
LET_THROUGH = 0.75  # of the steps would be weighed at the gate that is suggested
LOW_SUPPORT = 0.5  # mean mass of Q inside the nucleus: with the default net 0.63 to 0.98, with a tight one 0.33 to 0.62
SPAN, SPAN_SUPPORT = 8, 0.35  # so many steps whose mean support is less: none with the default net
UNMOVED = 0.01  # nats of mean KL: the aligner says what the proposal says; the shipped ones have 0.2 and more
UNPUSHED = 0.02  # nats that the weights move a token by; the shipped aligners at strength 0.25 have 0.1 and more
AT_ONCE = 3  # tokens, the ending's own among them
CUT = "length"  # the kind of the note on an answer that was cut off, which is often meant
QUOTED = 60  # characters of an answer that a finding quotes


@dataclass(frozen=True)
class Finding:
    """kind: what it is called; says: what was seen, with its number; advice: what to try; at: where, as a place in the
    trace's steps and how many, None for the whole answer; level: a warning, or a note on what may well be meant."""

    kind: str
    says: str
    advice: str
    at: tuple[int, int] | None = None
    level: str = "warning"

    def to_json(self) -> dict:
        return {**asdict(self), "at": self.at and list(self.at)}


def findings(trace: Trace) -> list[Finding]:
    """Everything that is wrong with an answer, warnings first. Of the base's lane only what needs no aligner."""
    if not trace.steps:
        return []
    checks = [_length, _repetition, _entropy]
    if _weighers(trace):
        checks += [_gates, _support, _effect] if _has_strength(trace) else [_no_strength]
    found = [finding for check in checks for finding in check(trace)]
    return sorted(found, key=lambda finding: finding.level != "warning")


def _length(trace: Trace) -> Iterator[Finding]:
    tokens = trace.steps[-1].index + 1
    again = [*_weaker(trace), "take another seed"]
    if not trace.text.strip():
        yield Finding("empty", f"It says nothing, in {_count(tokens)}.", _try(again))
    elif trace.done == "eos" and tokens <= AT_ONCE:
        says = f"It ended after {_count(tokens)}."
        yield Finding("ended at once", says, _try(again, "If that is too little"), level="note")
    elif trace.done == "length" and not _loop(trace):
        says = f"It was cut off after {_count(tokens)}, before it ended."
        yield Finding(CUT, says, _try([_now(trace, "raise the length", "max_new_tokens")]), level="note")


def _repetition(trace: Trace) -> Iterator[Finding]:
    """That it ends in a loop, or else that it says again what it said before, wherever that is."""
    tokens = [step.token for step in trace.steps]
    levers = [*_weaker(trace), _now(trace, "raise the repetition penalty", "repetition_penalty")]
    if trace.settings["temperature"] < COLD:
        levers.append(_now(trace, "raise T", "temperature"))
    loop, said, share = _loop(trace), said_before(tokens), repetition(tokens)
    if loop:
        begin, count, period = loop
        again = f"{_quote(trace, begin, period)} {count // period} times"
        says = f"From token {_number(trace, begin)} to its end it says {again}."
        yield Finding("loop", says, _try(levers), (begin, count))
    elif share > REPEATED and sum(said) >= REPEATED_RUNS:
        begin, runs = stretches.longest(said)
        count = runs + GRAM - 1
        says = (
            f"{share:.0%} of its runs of four tokens were said before, the longest stretch from token "
            f"{_number(trace, begin)} on: {_quote(trace, begin, count)}."
        )
        yield Finding("repetition", says, _try(levers), (begin, count))


def _entropy(trace: Trace) -> Iterator[Finding]:
    begin, count = stretches.longest([step.entropy < SURE for step in trace.steps])
    if count < STUCK or trace.settings["temperature"] < COLD:
        return
    levers = [*_weaker(trace), _now(trace, "raise T", "temperature")]
    if _is_alone(trace.steps[begin : begin + count]):
        levers = _wider(trace)
    says = f"From token {_number(trace, begin)} on, {count} tokens in a row had no choice: entropy below {SURE} nats."
    yield Finding("entropy collapse", says, _try(levers, "Unless it counts or recites"), (begin, count))


def _gates(trace: Trace) -> Iterator[Finding]:
    """Several aligners have a gate each."""
    weighers = _weighers(trace)
    for weigher in weighers:
        if weigher["tau"] is None or not weigher["beta"]:
            continue
        seen = [_watched(step, weigher["name"]) for step in trace.steps]
        gated, kl = [gate for gate, _ in seen], sorted(kl for _, kl in seen)
        share = statistics.fmean(gated)
        if share > GATED:
            whom = weigher["name"] if len(weighers) > 1 else "the aligner"
            says = (
                f"The gate at KL {weigher['tau']:g} hides {whom}: {share:.0%} of the steps were left to the proposal."
            )
            higher = f"at {kl[int(LET_THROUGH * (len(kl) - 1))]:.2g} about {LET_THROUGH:.0%} of these steps are weighed"
            yield Finding("gated", says, f"Switch the gate off, or raise it: {higher}.", stretches.longest(gated))


def _support(trace: Trace) -> Iterator[Finding]:
    support = [step.support for step in trace.steps]
    spans = stretches.low(support, SPAN, SPAN_SUPPORT)
    where = max(spans, key=lambda span: span[1], default=None)
    mean = statistics.fmean(support)
    if mean < LOW_SUPPORT:
        says = f"The proposal offers what the aligner wants with only {mean:.0%} of the aligner's mass."
        yield Finding("support collapse", says, _try(_wider(trace)), where)
    elif where:
        begin, count = where
        more = f", the longest of {len(spans)} such spans" if len(spans) > 1 else ""
        inside = statistics.fmean(support[begin : begin + count])
        says = f"From token {_number(trace, begin)} on, support is {inside:.0%} for {count} tokens{more}."
        yield Finding("low support", says, _try(_wider(trace)), where, "note")


def _no_strength(_trace: Trace) -> Iterator[Finding]:
    says = "At strength 0 it is the base, token for token."
    yield Finding("no effect", says, "Raise the strength.", level="note")


def _effect(trace: Trace) -> Iterator[Finding]:
    if trace.mean_kl < UNMOVED:
        says = f"The aligner says almost what the proposal says: mean KL {trace.mean_kl:.3f}."
        yield Finding("no effect", says, "Take another aligner, or train this one longer or at a higher learning rate.")
    elif trace.gated_share <= GATED:  # else the gate is why, and that is said
        weighed = [step for step in trace.steps if not step.gated]
        push = statistics.fmean(abs(step.push) for step in weighed)
        if push >= UNPUSHED:
            return
        levers = [f"raise {_strength(trace)}"]
        if trace.settings["modes"][trace.lane] == "sis":
            levers.append(_now(trace, "raise n, the draws of sis", "candidates"))
        if _is_alone(weighed):
            levers = _wider(trace)
        other = sum(step.token != step.base_token for step in trace.steps)
        says = f"The weights move a token by {push:.3f} nats; {other} of {len(trace.steps)} are not the base's."
        yield Finding("no effect", says, _try(levers))


# What the checks share ----------------------------------------------------------------------------------------------


def _weighers(trace: Trace) -> list[dict]:
    """The lane's aligners, with their strengths and gates; none in the base's."""
    return trace.settings["lanes"][trace.lane]


def _has_strength(trace: Trace) -> bool:
    return any(weigher["beta"] for weigher in _weighers(trace))


def _loop(trace: Trace) -> tuple[int, int, int] | None:
    """The loop that an answer was cut in; who ended it did not loop."""
    tokens = [step.token for step in trace.steps]
    return None if trace.done == "eos" else stretches.loop(tokens, LOOP_TIMES, LOOP_TOKENS)


def _watched(step: Step, aligner: str) -> tuple[bool, float]:
    """What an aligner's own monitor saw: was it gated, and its KL."""
    own = next((monitor for monitor in step.monitors if monitor.aligner == aligner), step)
    return own.gated, own.kl


def _is_alone(steps: Sequence[Step]) -> bool:
    """Did the net hold one token each time? Then no weight and no temperature chooses."""
    return all(step.nucleus == 1 for step in steps)


def _number(trace: Trace, at: int) -> int:
    """Which token of the answer, from 1 as the pages count them; the steps may begin after a forced beginning."""
    return trace.steps[at].index + 1


def _count(tokens: int) -> str:
    return "one token" if tokens == 1 else f"{tokens} tokens"


def _quote(trace: Trace, begin: int, count: int) -> str:
    words = " ".join("".join(step.text for step in trace.steps[begin : begin + count]).split())
    return f"“{words if len(words) <= QUOTED else words[: QUOTED - 1] + '…'}”"


# Levers: what a person can change, with the value that it has now


def _now(trace: Trace, lever: str, setting: str) -> str:
    return f"{lever} (now {trace.settings[setting]:g})"


def _strength(trace: Trace) -> str:
    betas = [f"{weigher['beta']:g}" for weigher in _weighers(trace)]
    return f"the strength{'s' if len(betas) > 1 else ''} (now {' and '.join(betas)})"


def _weaker(trace: Trace) -> list[str]:
    return [f"lower {_strength(trace)}"] if _has_strength(trace) else []


def _wider(trace: Trace) -> list[str]:
    """What casts a wider net."""
    return [
        *([_now(trace, "lift top-k", "top_k")] if trace.settings["top_k"] else []),
        *([_now(trace, "raise top-p", "top_p")] if trace.settings["top_p"] < 1 else []),
        _now(trace, "raise T_P", "temperature_p"),
    ]


def _try(levers: list[str], unless: str = "") -> str:
    words = " or ".join(filter(None, [", ".join(levers[:-1]), levers[-1]]))
    return f"{unless}: {words}." if unless else f"{words[0].upper()}{words[1:]}."
