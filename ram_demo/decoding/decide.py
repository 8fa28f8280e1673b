"""One lane's next token: propose, watch, weigh, draw (formulas 1-9). Pure but for what it computes only once.

It knows the pure rooms beside it, and `Seat`s only as keys: what each says comes in as logits. It knows no models,
caches or text.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ram_demo.decoding import monitor, sampling
from ram_demo.decoding.candidates import draws, nucleus
from ram_demo.decoding.trace import Monitor
from ram_demo.decoding.weights import compose, log_weights, sharpen

Seat = Hashable
"""Who speaks: for the engine, a model seen through one of its adapters or bare."""


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
    """One choice, in tensors over the candidates: ids [n], log_pt [n], log_pi [n], the noise of each [n], and how often
    `sis` drew each [n] (of the base's lane, which draws none, 0); chosen: its place among them.

    log_p [V], log_q and log_q0 [V] an aligner, are over the whole vocabulary (see `Slate`), compose is what the product
    of several Q_i sums to, its log. See Step for the rest.
    """

    ids: Tensor
    log_pt: Tensor
    log_pi: Tensor
    noise: Tensor
    draws: Tensor
    log_p: Tensor
    log_q: tuple[Tensor, ...]
    log_q0: tuple[Tensor | None, ...]
    compose: float
    chosen: int
    token: int
    base_token: int
    push: float
    monitors: tuple[Monitor, ...]
    gated: bool
    support: float


class Voices:
    """What everyone says in one context, for all the lanes that stand there: each thing is computed once, when asked.

    speak: raw logits float32 [V] of a seat; seen: int64 ids of the context; noise: the position's.
    """

    def __init__(
        self,
        speak: Callable[[Seat], Tensor],
        proposal: Seat,
        seen: Tensor,
        noise: sampling.SharedNoise,
        settings: DecodingSettings,
    ):
        self.speak, self.proposal, self.seen, self.noise, self.settings = speak, proposal, seen, noise, settings
        self._raw: dict[Seat, Tensor] = {}
        self._q: dict[Seat, Tensor] = {}

    def log_raw(self, seat: Seat) -> Tensor:
        """log softmax of the raw logits, [V]: what the gate looks at."""
        if seat not in self._raw:
            self._raw[seat] = torch.log_softmax(self.speak(seat), -1)
        return self._raw[seat]

    def penalised(self, seat: Seat) -> Tensor:
        return sampling.penalise(self.speak(seat), self.seen, self.settings.repetition_penalty)

    def log_q(self, seat: Seat) -> Tensor:
        """log Q of formula 1 over the whole vocabulary, [V]."""
        if seat not in self._q:
            self._q[seat] = torch.log_softmax(self.penalised(seat) / self.settings.temperature_q, -1)
        return self._q[seat]

    @cached_property
    def log_p(self) -> Tensor:
        """log softmax(l_P / T_P) over the whole vocabulary, [V]."""
        if self.settings.temperature_p == self.settings.temperature_q:
            return self.log_q(self.proposal)
        return torch.log_softmax(self.penalised(self.proposal) / self.settings.temperature_p, -1)

    @cached_property
    def proposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates: ids [n], log Pt [n], and the noise of each [n]."""
        ids, log_pt = nucleus(self.log_p, self.settings.top_p, self.settings.top_k)
        return ids, log_pt, self.noise.gumbel(ids)

    @cached_property
    def drawn(self) -> Tensor:
        """How often `sis` draws each candidate, int64 [n]. A single draw takes the shared noise itself, so that n = 1
        is the base token for token (at T = 1); more draws have noise of their own, as the choice among them must be
        independent of them."""
        _, log_pt, gumbel = self.proposed
        counts = torch.zeros(len(log_pt), dtype=torch.int64, device=log_pt.device)
        if self.settings.candidates == 1:
            counts[sampling.draw(log_pt, gumbel)] = 1
        else:
            seed, n = self.settings.seed, self.settings.candidates
            uniform = sampling.uniforms(seed, self.noise.position, sampling.DRAWS, n)
            which, often = draws(log_pt, torch.from_numpy(uniform))
            counts[which] = often
        return counts

    @cached_property
    def base(self) -> tuple[Tensor, int]:
        """What the base does here: log of Pt^(1/T) [n], and which candidate it draws."""
        _, log_pt, gumbel = self.proposed
        base = sharpen(log_pt, self.settings.temperature)
        return base, sampling.draw(base, gumbel)

    def divergence(self, seat: Seat) -> float:
        """KL(P_M || Q) (formula 7)."""
        return monitor.kl(self.log_raw(self.proposal), self.log_raw(seat))


def decide(lane: Lane, voices: Voices) -> Decision:
    """Choose one lane's next token.

    An aligner that is gated, or whose strength is 0, does not weigh; where nothing weighs, the step is the base's,
    Pt^(1/T).
    """
    settings = lane.settings(voices.settings)
    ids, log_pt, gumbel = voices.proposed
    base, base_at = voices.base
    full_q = [voices.log_q(weigher.seat) for weigher in lane.weighers] or [voices.log_q(voices.proposal)]
    monitors = []
    for weigher, log_q in zip(lane.weighers, full_q, strict=False):
        divergence = voices.divergence(weigher.seat)
        gate = monitor.is_gated(divergence, weigher.tau)
        monitors.append(Monitor(weigher.name, divergence, gate, monitor.support(log_q[ids])))
    weighing = [i for i, (w, m) in enumerate(zip(lane.weighers, monitors, strict=True)) if w.beta and not m.gated]
    # An aligner's own base is heard only where `ratio` asks for it, or where it is the proposal.
    q0s = [w.q0 if settings.mode == "ratio" or w.q0 == voices.proposal else None for w in lane.weighers]
    full_q0 = tuple(None if q0 is None else voices.log_q(q0) for q0 in q0s or [None])
    together = compose(full_q)[ids]
    drawn = voices.drawn if lane.weighers else torch.zeros_like(ids)

    log_pi, chosen, push = base, base_at, 0.0
    if weighing:
        is_sis = settings.mode == "sis"
        kept = drawn.nonzero()[:, 0] if is_sis else torch.arange(len(ids), device=ids.device)
        on, counts = ids[kept], drawn[kept]
        q0 = [full_q0[i][on] for i in weighing] if settings.mode == "ratio" else []
        beta = [lane.weighers[i].beta for i in weighing]
        weight = log_weights(settings.mode, log_pt[kept], [full_q[i][on] for i in weighing], beta, q0, counts)
        log_pi = torch.full_like(log_pt, -torch.inf)
        log_pi[kept] = sharpen(weight, settings.temperature)
        chosen = sampling.draw(log_pi, gumbel)
        # Of `sis`, against how often each was drawn: what chance drew is not the aligner's doing.
        unpushed = torch.log(counts / counts.sum()) if is_sis else log_pt[kept]
        push = float((sharpen(weight, 1.0) - unpushed)[kept == chosen])
    return Decision(
        ids=ids,
        log_pt=log_pt,
        log_pi=log_pi,
        noise=gumbel,
        draws=drawn,
        log_p=voices.log_p,
        log_q=tuple(full_q),
        log_q0=full_q0,
        compose=float(sum(log_q[ids[:1]] for log_q in full_q) - together[:1]) if len(full_q) > 1 else 0.0,
        chosen=chosen,
        token=int(ids[chosen]),
        base_token=int(ids[base_at]),
        push=push,
        monitors=tuple(monitors),
        gated=bool(monitors) and all(m.gated for m in monitors),
        support=monitor.support(together),
    )
