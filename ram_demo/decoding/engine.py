"""Lanes in lockstep: one batched forward a step, a stream of decided steps, and a stop that acts within a step.

It knows `LanguageModel` and the pure rooms beside it. It knows nothing of files, tokenizers beyond `decode`, or people.

Lanes that have said the same so far share one *branch*, and a branch costs each model one row for the bare model and
one for each adapter that weighs there. When lanes part or end, `select` copies or drops rows: one mechanism for all.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ram_demo.decoding import monitor, sampling
from ram_demo.decoding.candidates import draws, nucleus
from ram_demo.decoding.detokenize import Detokenizer
from ram_demo.decoding.trace import Candidate, Monitor, Step, Trace
from ram_demo.decoding.weights import compose, log_weights, sharpen
from ram_demo.models.language_model import LanguageModel

Seat = tuple[LanguageModel, str | None]
"""Who speaks: a model, seen through one of its adapters or bare."""


@dataclass(frozen=True)
class DecodingSettings:
    """How tokens are drawn; the starting values are design's measured ones. candidates: n of `sis`, nothing else."""

    mode: str = "product"
    candidates: int = 16
    temperature: float = 0.7
    temperature_p: float = 1.0
    temperature_q: float = 1.0
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.05
    seed: int = 7
    max_new_tokens: int = 128


@dataclass(frozen=True)
class Weigher:
    """An aligner as decoding sees it. tau: its gate, None for off. q0: its own untuned base, asked for by `ratio`."""

    name: str
    seat: Seat
    beta: float
    tau: float | None
    q0: Seat | None = None


@dataclass(frozen=True)
class Lane:
    """mode: this lane's own, None for the settings'."""

    name: str
    weighers: tuple[Weigher, ...] = ()
    mode: str | None = None

    def settings(self, shared: DecodingSettings) -> DecodingSettings:
        return shared if self.mode is None else replace(shared, mode=self.mode)


@dataclass(frozen=True)
class Decision:
    """One choice, in tensors over the candidates: ids [n], log_pt [n], log_q [n], log_pi [n]; see Step for the rest."""

    ids: Tensor
    log_pt: Tensor
    log_q: Tensor
    log_pi: Tensor
    token: int
    base_token: int
    push: float
    monitors: tuple[Monitor, ...]
    gated: bool
    support: float


class Batch:
    """The rows of one model: which (branch, adapter) stands in which row, and the newest logits of each, [R, V]."""

    def __init__(self, model: LanguageModel, ids: Sequence[int], adapters: Sequence[str | None], room: int):
        self.model = model
        self.keys = [(0, adapter) for adapter in adapters]
        self.logits, self.rows = model.prefill(ids, adapters, room)

    def row(self, branch: int, adapter: str | None) -> Tensor:
        return self.logits[self.keys.index((branch, adapter))]

    def advance(self, keys: list[tuple[int, str | None]], parents: dict[int, int], tokens: dict[int, int]) -> None:
        """Make `keys` the rows, each continued from its parent branch's row by its branch's token."""
        index = [self.keys.index((parents[branch], adapter)) for branch, adapter in keys]
        self.rows = self.model.select(self.rows, index)
        self.keys = keys
        step = torch.tensor([tokens[branch] for branch, _ in keys], device=self.model.device)
        self.logits = self.model.step(step, self.rows)


def seats(lane: Lane, proposal: LanguageModel, settings: DecodingSettings) -> list[Seat]:
    """Everyone who must speak for this lane."""
    needed: list[Seat] = [(proposal, None)]
    for weigher in lane.weighers:
        needed.append(weigher.seat)
        if lane.settings(settings).mode == "ratio":
            needed.append(weigher.q0)
    return list(dict.fromkeys(needed))


def decide(
    lane: Lane, speak: Callable[[Seat], Tensor], proposal: Seat, seen: Tensor, position: int, settings: DecodingSettings
) -> Decision:
    """Choose one lane's next token (formulas 1-9).

    speak: raw logits float32 [V] of a seat in this lane's context; seen: int64 ids of the context. An aligner that is
    gated, or whose strength is 0, does not weigh; where nothing weighs, the step is the base's, Pt^(1/T).
    """
    settings = lane.settings(settings)
    l_p = speak(proposal)
    log_p_raw = torch.log_softmax(l_p, -1)

    def penalised(seat: Seat) -> Tensor:
        return sampling.penalise(speak(seat), seen, settings.repetition_penalty)

    def log_q_of(seat: Seat) -> Tensor:
        return torch.log_softmax(penalised(seat) / settings.temperature_q, -1)

    ids, log_pt = nucleus(penalised(proposal), settings.temperature_p, settings.top_p, settings.top_k)
    gumbel = sampling.SharedNoise(settings.seed, position, l_p.shape[-1]).gumbel(ids)
    base = sharpen(log_pt, settings.temperature)
    base_at = sampling.draw(base, gumbel)

    full_q = [log_q_of(weigher.seat) for weigher in lane.weighers] or [log_q_of(proposal)]
    monitors = []
    for weigher, log_q in zip(lane.weighers, full_q, strict=False):
        divergence = monitor.kl(log_p_raw, torch.log_softmax(speak(weigher.seat), -1))
        gate = monitor.is_gated(divergence, weigher.tau)
        monitors.append(Monitor(weigher.name, divergence, gate, monitor.support(log_q[ids])))
    weighing = [i for i, (w, m) in enumerate(zip(lane.weighers, monitors, strict=True)) if w.beta and not m.gated]
    together = compose(full_q)[ids]

    log_pi, chosen, push = base, base_at, 0.0
    if weighing:
        kept, counts = torch.arange(len(ids), device=ids.device), torch.ones_like(ids)
        if settings.mode == "sis":
            kept, counts = _draw_candidates(log_pt, gumbel, position, settings)
        on = ids[kept]
        q0 = [log_q_of(lane.weighers[i].q0)[on] for i in weighing] if settings.mode == "ratio" else []
        beta = [lane.weighers[i].beta for i in weighing]
        weight = log_weights(settings.mode, log_pt[kept], [full_q[i][on] for i in weighing], beta, q0, counts)
        log_pi = torch.full_like(log_pt, -torch.inf)
        log_pi[kept] = sharpen(weight, settings.temperature)
        chosen = sampling.draw(log_pi, gumbel)
        # Of `sis`, against how often each was drawn: what chance drew is not the aligner's doing.
        unpushed = torch.log(counts / counts.sum()) if settings.mode == "sis" else log_pt[kept]
        push = float((sharpen(weight, 1.0) - unpushed)[kept == chosen])
    return Decision(
        ids=ids,
        log_pt=log_pt,
        log_q=together,
        log_pi=log_pi,
        token=int(ids[chosen]),
        base_token=int(ids[base_at]),
        push=push,
        monitors=tuple(monitors),
        gated=bool(monitors) and all(m.gated for m in monitors),
        support=monitor.support(together),
    )


def _draw_candidates(
    log_pt: Tensor, gumbel: Tensor, position: int, settings: DecodingSettings
) -> tuple[Tensor, Tensor]:
    """The distinct draws of `sis` as positions in N, and their counts. A single draw takes the shared noise itself, so
    that n = 1 is the base token for token (at T = 1); more draws have noise of their own, as the choice among them
    must be independent of them."""
    if settings.candidates == 1:
        only = sampling.draw(log_pt, gumbel)
        return torch.tensor([only], device=log_pt.device), torch.ones(1, dtype=torch.int64, device=log_pt.device)
    uniform = sampling.uniforms(settings.seed, position, sampling.DRAWS, settings.candidates)
    return draws(log_pt, torch.from_numpy(uniform))


class _LaneState:
    """One lane while it grows."""

    def __init__(self, lane: Lane, decode: Callable[[Sequence[int]], str]):
        self.lane = lane
        self.text = Detokenizer(decode)
        self.steps: list[Step] = []
        self.branch = 0
        self.done = ""
        self.first_at = self.last_at = 0.0


def decode(
    proposal: LanguageModel,
    prompt_ids: Sequence[int],
    lanes: Sequence[Lane],
    settings: DecodingSettings,
    record: dict,
    end_ids: frozenset[int],
    to_text: Callable[[Sequence[int]], str],
    keep: int = 20,
    stop: threading.Event | None = None,
) -> Iterator[tuple[Step, ...] | Trace]:
    """Generate all lanes together.

    Yields, for each position, the steps of the lanes still running; and the Trace of a lane as it ends (done: eos,
    length, or stopped when `stop` was set). record: the settings as each Trace keeps them. keep: how many candidates a
    step retains (0: all). Closing the generator frees the caches. Several `Lane`s may name the same seats; a seat's row
    is computed once a branch.
    """
    started = time.perf_counter()
    states = [_LaneState(lane, to_text) for lane in lanes]
    everyone = dict.fromkeys(seat for lane in lanes for seat in seats(lane, proposal, settings))
    batches = {
        model: Batch(model, prompt_ids, [a for m, a in everyone if m is model], settings.max_new_tokens)
        for model in dict.fromkeys(model for model, _ in everyone)
    }
    # Models of one family pad their vocabulary differently; what all of them know is what can be said.
    vocab = min(model.vocab_size for model in batches)
    context = {0: list(prompt_ids)}
    running = states
    before = started
    for position in range(settings.max_new_tokens):
        if stop is not None and stop.is_set():
            break
        seen = {branch: torch.tensor(ids, device=proposal.device).unique() for branch, ids in context.items()}
        choices: list[Decision] = []
        for state in running:

            def speak(seat: Seat, branch: int = state.branch) -> Tensor:
                return batches[seat[0]].row(branch, seat[1])[:vocab]

            choices.append(decide(state.lane, speak, (proposal, None), seen[state.branch], position, settings))
        now = time.perf_counter()
        last = position + 1 == settings.max_new_tokens
        steps = []
        for state, choice in zip(running, choices, strict=True):
            state.done = "eos" if choice.token in end_ids else "length" if last else ""
            text = state.text.add(choice.token) + (state.text.flush() if state.done else "")
            step = _step(state, choice, text, position, 1000 * (now - before), keep, to_text)
            state.steps.append(step)
            state.first_at = state.first_at or now
            state.last_at = now
            steps.append(step)
        before = now
        yield tuple(steps)
        for state in running:
            if state.done:
                yield _trace(state, started, record)
        alive = [(state, choice.token) for state, choice in zip(running, choices, strict=True) if not state.done]
        running = [state for state, _ in alive]
        if not running:
            return
        parents, tokens = _branch(alive)
        context = {branch: [*context[parent], tokens[branch]] for branch, parent in parents.items()}
        wanted = dict.fromkeys(
            (state.branch, seat) for state in running for seat in seats(state.lane, proposal, settings)
        )
        for model in list(batches):
            keys = [(branch, seat[1]) for branch, seat in wanted if seat[0] is model]
            if keys:
                batches[model].advance(keys, parents, tokens)
            else:
                del batches[model]
    for state in running:
        state.done = "stopped"
        yield _trace(state, started, record)


def _branch(alive: list[tuple[_LaneState, int]]) -> tuple[dict[int, int], dict[int, int]]:
    """Put lanes that shared a branch and chose the same token on one new branch. Returns its parent and its token."""
    numbers: dict[tuple[int, int], int] = {}
    for state, token in alive:
        state.branch = numbers.setdefault((state.branch, token), len(numbers))
    parents = {number: parent for (parent, _), number in numbers.items()}
    return parents, {number: token for (_, token), number in numbers.items()}


def _step(state: _LaneState, choice: Decision, text: str, index: int, ms: float, keep: int, to_text: Callable) -> Step:
    p, q, pi = (t.exp() for t in (choice.log_pt, choice.log_q, choice.log_pi))
    top = torch.maximum(p, pi).topk(min(keep or len(p), len(p))).indices.tolist()
    named = [i for i, token in enumerate(choice.ids.tolist()) if token in (choice.token, choice.base_token)]
    shown = sorted({*top, *named}, key=lambda i: (-float(pi[i]), -float(p[i])))
    ids, p, q, pi = (t[shown].tolist() for t in (choice.ids, p, q, pi))
    return Step(
        lane=state.lane.name,
        index=index,
        token=choice.token,
        text=text,
        kl=max((m.kl for m in choice.monitors), default=0.0),
        gated=choice.gated,
        nucleus=len(choice.ids),
        support=choice.support,
        entropy=monitor.entropy(choice.log_pi),
        base_token=choice.base_token,
        push=choice.push,
        ms=ms,
        candidates=tuple(Candidate(i, to_text([i]), a, b, c) for i, a, b, c in zip(ids, p, q, pi, strict=True)),
        monitors=choice.monitors if len(choice.monitors) > 1 else (),
    )


def _trace(state: _LaneState, started: float, settings: dict) -> Trace:
    took = state.last_at - state.first_at
    return Trace(
        lane=state.lane.name,
        done=state.done,
        text=state.text.decode(state.text.ids),
        tokens_per_s=(len(state.steps) - 1) / took if took else 0.0,
        first_token_ms=1000 * (state.first_at - started) if state.steps else 0.0,
        settings=settings,
        steps=tuple(state.steps),
    )
