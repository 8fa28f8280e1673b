"""Which strength and which gate suit an aligner: a sweep over held-out examples, and what follows from it.

Two things are asked. Of words that are there: how likely are the held-out answers under pi, for every strength and gate
(formulas 2-7 over the whole vocabulary, so that it is a proper likelihood)? A product of distributions is sharper than
each, so that strength alone would look like a lower temperature; the final temperature here undoes that: it is the one
at which an aligner that says what the proposal says changes nothing. Of words to come: how long, how
varied and how fast are the answers when the lane decodes so? Knows the workbench; knows nothing of training or pages.
"""

import statistics
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ram_demo.decoding.decide import DecodingSettings, Lane
from ram_demo.decoding.engine import Seat
from ram_demo.decoding.trace import Trace
from ram_demo.decoding.weights import log_weights, sharpen
from ram_demo.errors import UserError
from ram_demo.evaluation.answers import distinct
from ram_demo.evaluation.likelihood import Text, read_along
from ram_demo.models.aligners import Card
from ram_demo.models.sources import Progress
from ram_demo.request import BASE, OWN_MODE, Choice, Request
from ram_demo.workbench import Workbench

BETAS = (0.5, 1.0, 1.5, 2.0, 3.0)
TAUS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, None)  # None: off
ENOUGH = 0.9  # of the likelihood that the best strength gains: the least strength with so much is recommended
FREE = 0.01  # a gate that costs less of the log-likelihood than this share costs nothing
SELDOM = 0.05  # where nothing is known of wanted answers, a gate must close at most this often
# The temperature at which Q = P gives pi = P, by formulas 2, 4 and 5.
UNSHARPENED = {"product": lambda beta: 1 + beta, "par": lambda beta: beta, "ratio": lambda beta: 1.0}
BAR = 16  # characters of a full bar
ANSWERED = 8  # examples that are answered at each point; the likelihoods use them all
ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Point:
    """One strength and gate. Shares and means are over the tokens that were generated there; log_likelihood: of the
    held-out answers, in nats a token, and gated_there the share gated along them, None without such answers; tokens:
    the median length; tokens_per_s: of this lane among all that the sweep decodes together."""

    beta: float
    tau: float | None
    log_likelihood: float | None
    gated_there: float | None
    gated_share: float
    kl: float
    tokens: float
    ended: float
    distinct_1: float
    distinct_2: float
    tokens_per_s: float


@dataclass(frozen=True)
class Calibration:
    """points: the strengths with the gate off, then the gates at the strength that was found. examples: how many."""

    beta: float
    tau: float | None
    mode: str
    examples: int
    base_log_likelihood: float | None
    points: tuple[Point, ...]

    def to_json(self) -> dict:
        return asdict(self)


def calibrate(
    bench: Workbench, name: str, examples: Sequence[Text], progress: Progress, stop: threading.Event | None = None
) -> Calibration:
    """Sweep the aligner called `name`. examples: prompts as ids, each with an answer that is wanted, or none of them.

    Raises UserError if the aligner cannot weigh here, or there is nothing to ask.
    """
    if not examples:
        raise UserError("There are no held-out examples to calibrate on.")
    stop = stop or threading.Event()
    progress("How likely the held-out answers are", 0.0)
    lane = lane_of(bench, name)
    known = all(example.answer for example in examples)
    grid = _likelihoods(bench, lane, examples) if known else {}
    beta = _strength({b: grid[b, None][0] for b in (0.0, *BETAS)}) if known else lane.weighers[0].beta
    strengths = sorted({*BETAS, beta})
    sweep = [(b, None) for b in strengths] + [(beta, tau) for tau in TAUS if tau is not None]
    answered = _answers(bench, lane, [e.prompt for e in examples[:ANSWERED]], sweep, progress, stop)
    points = tuple(_point(b, tau, grid.get((b, tau)), answered[b, tau]) for b, tau in sweep)
    return Calibration(
        beta=beta,
        tau=_gate(points, beta),
        mode=lane.mode,
        examples=len(examples),
        base_log_likelihood=grid[0.0, None][0] if known else None,
        points=points,
    )


def lane_of(bench: Workbench, name: str) -> Lane:
    """The lane that an aligner decodes in as its card recommends. Raises UserError if it cannot weigh here."""
    settings = DecodingSettings(mode=OWN_MODE, max_new_tokens=1)
    return bench.plan(Request("?", ((Choice(name),),), settings=settings)).lanes[-1]  # any plan knows it


def seats_of(bench: Workbench, lane: Lane) -> list[Seat]:
    """What P, Q and, where the mode wants it, Q0 are read from."""
    weigher = lane.weighers[0]
    return [(bench.proposal.model, None), weigher.seat, *([weigher.q0] if lane.mode == "ratio" else [])]


def log_pi(mode: str, beta: float, log_p: Tensor, log_q: Tensor, log_q0: Sequence[Tensor]) -> Tensor:
    """log pi over the vocabulary, unsharpened, float32 [V]; so are log P, log Q and, for `ratio`, log Q0."""
    mode = "product" if mode == "sis" else mode  # what sampling tends to where candidates grow many
    one = torch.ones((), dtype=torch.int64)
    return sharpen(log_weights(mode, log_p, [log_q], [beta], log_q0, one), UNSHARPENED[mode](beta))


def _strength(likely: dict[float, float]) -> float:
    """The least strength that gains nearly all that any does; the least of all where none gains."""
    gains = {beta: likely[beta] - likely[0.0] for beta in BETAS}
    best = max(gains.values())
    return min((beta for beta in BETAS if best > 0 and gains[beta] >= ENOUGH * best), default=BETAS[0])


def _gate(points: Sequence[Point], beta: float) -> float | None:
    """The tightest gate that costs nothing: it falls back where the aligner errs, and nowhere that matters."""
    off = next(p for p in points if p.beta == beta and p.tau is None)
    for point in sorted((p for p in points if p.tau is not None), key=lambda p: p.tau):
        if point.log_likelihood is None:
            if point.gated_share <= SELDOM:
                return point.tau
        elif point.log_likelihood >= off.log_likelihood - FREE * abs(off.log_likelihood):
            return point.tau
    return None


def _likelihoods(
    bench: Workbench, lane: Lane, examples: Sequence[Text]
) -> dict[tuple[float, float | None], tuple[float, float]]:
    """(mean log pi of the held-out answers' tokens, share gated) for each strength and gate; strength 0 is the base."""
    kl, likely = [], {beta: [] for beta in (0.0, *BETAS)}
    with bench.loop.between():
        for _, token, (log_p, log_q, *log_q0) in read_along(seats_of(bench, lane), examples):
            kl.append(float((log_p.exp() * (log_p - log_q)).sum()))
            likely[0.0].append(float(log_p[token]))
            for beta in BETAS:
                likely[beta].append(float(log_pi(lane.mode, beta, log_p, log_q, log_q0)[token]))
    divergence, base = torch.tensor(kl), torch.tensor(likely[0.0])
    found = {(0.0, None): (float(base.mean()), 0.0)}
    for beta in BETAS:
        aligned = torch.tensor(likely[beta])
        for tau in TAUS:
            gated = divergence > (torch.inf if tau is None else tau)
            found[beta, tau] = float(torch.where(gated, base, aligned).mean()), float(gated.float().mean())
    return found


def _answers(
    bench: Workbench,
    lane: Lane,
    prompts: Sequence[Sequence[int]],
    sweep: Sequence[tuple[float, float | None]],
    progress: Progress,
    stop: threading.Event,
) -> dict[tuple[float, float | None], list[Trace]]:
    """Every prompt's answer at every point of the sweep, all points of a prompt decoded together."""
    settings = DecodingSettings(mode=lane.mode, max_new_tokens=ANSWER_TOKENS)
    names = {f"{beta:g} {tau}": (beta, tau) for beta, tau in sweep}
    lanes = tuple(
        Lane(label, (replace(lane.weighers[0], beta=beta, tau=tau),), lane.mode) for label, (beta, tau) in names.items()
    )
    found = {point: [] for point in sweep}
    for number, prompt in enumerate(prompts):
        progress(f"Answering held-out prompt {number + 1} of {len(prompts)}", number / len(prompts))
        plan = bench.plan(Request("?", settings=settings))
        plan = replace(plan, prompt_ids=tuple(prompt), lanes=(Lane(BASE, mode=lane.mode), *lanes))
        for event in bench.run(plan, stop, 1):
            if isinstance(event, Trace) and event.lane != BASE:
                found[names[event.lane]].append(event)
        if stop.is_set():
            raise UserError("The calibration was stopped.")
    return found


def _point(beta: float, tau: float | None, likely: tuple[float, float] | None, traces: Sequence[Trace]) -> Point:
    steps = [step for trace in traces for step in trace.steps]
    tokens = [[step.token for step in trace.steps] for trace in traces]
    return Point(
        beta=beta,
        tau=tau,
        log_likelihood=None if likely is None else round(likely[0], 4),
        gated_there=None if likely is None else round(likely[1], 3),
        gated_share=round(statistics.fmean(step.gated for step in steps), 3),
        kl=round(statistics.fmean(step.kl for step in steps), 3),
        tokens=statistics.median(map(len, tokens)),
        ended=round(statistics.fmean(trace.done == "eos" for trace in traces), 3),
        distinct_1=round(distinct(tokens, 1), 3),
        distinct_2=round(distinct(tokens, 2), 3),
        tokens_per_s=round(statistics.fmean(trace.tokens_per_s for trace in traces), 1),
    )


def in_card(card: Card, found: Calibration) -> Card:
    """The card that recommends what was found, with the sweep that it rests on."""
    return replace(card, beta=found.beta, tau=found.tau, calibration=found.to_json())


def as_text(found: Calibration) -> str:
    """The sweep as a table, with the share gated as bars, and what it recommends."""
    head = "strength  gate  gated                 likely     KL  tokens  ended  distinct-2  tokens/s"
    lines = [head]
    for p in found.points:
        share = p.gated_share if p.gated_there is None else p.gated_there
        bar = "█" * round(BAR * share) + "·" * (BAR - round(BAR * share))
        likely = "     -" if p.log_likelihood is None else f"{p.log_likelihood:6.3f}"
        gate = "off" if p.tau is None else f"{p.tau:g}"
        lines.append(
            f"{p.beta:8g}  {gate:>4}  {share:4.0%} {bar}  {likely}  {p.kl:5.2f}  {p.tokens:6g}  {p.ended:5.0%}"
            f"  {p.distinct_2:10.2f}  {p.tokens_per_s:8.1f}"
        )
    gate = "off" if found.tau is None else f"{found.tau:g}"
    lines.append(f"recommended: strength {found.beta:g}, gate {gate} (mode {found.mode}, {found.examples} examples)")
    return "\n".join(lines)
