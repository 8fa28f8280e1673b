"""Lanes in lockstep, as a coroutine: it asks for forwards, hears logits, and tells what it decided.

It knows `LanguageModel` and the pure rooms beside it. It knows nothing of files, tokenizers beyond `decode`, or people,
nor of who else is being answered: whoever drives it (`loop.py`) may put its forwards together with others'.

Lanes that have said the same so far share one *branch*, and a branch costs each model one row for the bare model and
one for each adapter that weighs there. When lanes part or end, `select` copies or drops rows: one mechanism for all.
"""

import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ram_demo.decoding import monitor, sampling
from ram_demo.decoding.decide import Decision, DecodingSettings, Lane, Voices, decide
from ram_demo.decoding.detokenize import Detokenizer
from ram_demo.decoding.slate import lay_out
from ram_demo.decoding.trace import Step, Trace
from ram_demo.models.language_model import LanguageModel, Rows

Seat = tuple[LanguageModel, str | None]
"""Who speaks: a model, seen through one of its adapters or bare."""

KEPT = 14  # of the weightiest candidates a step keeps; with what else a recut needs that is about twenty


@dataclass(frozen=True)
class Forward:
    """What a comparison asks for: one token more, int64 [R], for its rows of each model. The answer is logits by model,
    float32 [R, V]."""

    asks: dict[LanguageModel, tuple[Tensor, Rows]]


Asked = Forward | tuple[Step, ...] | Trace | None
"""What a comparison yields: None after a piece of its prompt, a Forward, or what it has to tell."""


def seats(lane: Lane, proposal: LanguageModel, settings: DecodingSettings) -> list[Seat]:
    """Everyone who must speak for this lane: a row for each once it stands on a branch of its own."""
    needed: list[Seat] = [(proposal, None)]
    for weigher in lane.weighers:
        needed.append(weigher.seat)
        if lane.settings(settings).mode == "ratio":
            needed.append(weigher.q0)
    return list(dict.fromkeys(needed))


class Batch:
    """The rows of one model: which (branch, adapter) stands in which row, and the newest logits of each, [R, V]."""

    def __init__(self, keys: list[tuple[int, str | None]], logits: Tensor, rows: Rows):
        self.keys, self.logits, self.rows = keys, logits, rows

    def row(self, branch: int, adapter: str | None) -> Tensor:
        return self.logits[self.keys.index((branch, adapter))]

    def turn_into(self, model: LanguageModel, keys: list[tuple[int, str | None]], parents: dict[int, int]) -> None:
        """Make `keys` the rows, each continued from its parent branch's row. Rows of one adapter stand together."""
        keys = sorted(keys, key=lambda key: (key[1] or "", key[0]))
        index = [self.keys.index((parents[branch], adapter)) for branch, adapter in keys]
        self.rows, self.keys = model.select(self.rows, index), keys


class _LaneState:
    """One lane while it grows."""

    def __init__(self, lane: Lane, decode: Callable[[Sequence[int]], str], forced: Sequence[int]):
        self.lane = lane
        self.text = Detokenizer(decode)
        for token in forced:
            self.text.add(token)
        self.steps: list[Step] = []
        self.branch = 0
        self.done = ""
        self.first_at = self.last_at = 0.0


def compare(
    proposal: LanguageModel,
    prompt_ids: Sequence[int],
    lanes: Sequence[Lane],
    settings: DecodingSettings,
    record: dict,
    end_ids: frozenset[int],
    to_text: Callable[[Sequence[int]], str],
    keep: int = KEPT,
    stop: threading.Event | None = None,
    forced: Sequence[int] = (),
) -> Generator[Asked, dict[LanguageModel, Tensor] | None, None]:
    """Generate all lanes together.

    Tells, for each position, the steps of the lanes still running; and the Trace of a lane as it ends (done: eos,
    length, or stopped when `stop` was set). record: the settings as each Trace keeps them. keep: how many of the
    weightiest candidates a step retains (see `slate.lay_out`; 0: all). forced: the answer's first tokens, which every
    lane is made to have said; the first one drawn takes the noise of the position after them. Closing the generator
    frees the caches. Several `Lane`s may name the same seats; a seat's row is computed once a branch.
    """
    started = time.perf_counter()
    running = [_LaneState(lane, to_text, forced) for lane in lanes]
    word = cache(lambda token: to_text([token]))
    said = [*prompt_ids, *forced]
    batches = yield from _read(proposal, said, bool(forced), lanes, settings, stop)
    # Models of one family pad their vocabulary differently; what all of them know is what can be said.
    vocab = min((model.vocab_size for model in batches), default=0)
    context = {0: said}
    before = started
    for position in range(len(forced), settings.max_new_tokens):
        if stop is not None and stop.is_set():
            break
        noise = sampling.SharedNoise(settings.seed, position, vocab)
        voices = {}
        for branch, ids in context.items():

            def speak(seat: Seat, branch: int = branch) -> Tensor:
                return batches[seat[0]].row(branch, seat[1])[:vocab]

            seen = torch.tensor(ids, device=proposal.device).unique()
            voices[branch] = Voices(speak, (proposal, None), seen, noise, settings)
        choices = [decide(state.lane, voices[state.branch]) for state in running]
        now = time.perf_counter()
        last = position + 1 == settings.max_new_tokens
        steps = []
        for state, choice in zip(running, choices, strict=True):
            state.done = "eos" if choice.token in end_ids else "length" if last else ""
            text = state.text.add(choice.token) + (state.text.flush() if state.done else "")
            step = _step(state, choice, text, position, 1000 * (now - before), settings.temperature, keep, word)
            state.steps.append(step)
            state.first_at = state.first_at or now
            state.last_at = now
            steps.append(step)
        before = now
        yield tuple(steps)
        for state in running:
            if state.done:
                _keep(state, batches, context[state.branch], proposal, settings)
                yield _trace(state, started, record)
        alive = [(state, choice.token) for state, choice in zip(running, choices, strict=True) if not state.done]
        running = [state for state, _ in alive]
        if not running:
            return
        parents, tokens = _branch(alive)
        context = {branch: [*context[parent], tokens[branch]] for branch, parent in parents.items()}
        del voices  # and the logits it holds on to
        wanted = dict.fromkeys(
            (state.branch, seat) for state in running for seat in seats(state.lane, proposal, settings)
        )
        asks = {}
        for model in list(batches):
            keys = [(branch, seat[1]) for branch, seat in wanted if seat[0] is model]
            if not keys:
                del batches[model]
                continue
            batches[model].turn_into(model, keys, parents)
            step = torch.tensor([tokens[branch] for branch, _ in batches[model].keys], device=model.device)
            asks[model] = (step, batches[model].rows)
        for model, logits in (yield Forward(asks)).items():
            batches[model].logits = logits
    for state in running:
        state.done = "stopped"
        if batches:
            _keep(state, batches, context[state.branch], proposal, settings)
        yield _trace(state, started, record)


def _read(
    proposal: LanguageModel,
    said: Sequence[int],
    is_branch: bool,
    lanes: Sequence[Lane],
    settings: DecodingSettings,
    stop: threading.Event | None,
) -> Generator[None, None, dict[LanguageModel, Batch]]:
    """Read what was said through every model, pausing after each piece. Stopped meanwhile, it returns nothing."""
    everyone = dict.fromkeys(seat for lane in lanes for seat in seats(lane, proposal, settings))
    batches = {}
    for model in dict.fromkeys(model for model, _ in everyone):
        adapters = [adapter for m, adapter in everyone if m is model]
        reading = model.prefill(said, adapters, settings.max_new_tokens, is_branch)
        while True:
            if stop is not None and stop.is_set():
                return {}
            try:
                next(reading)
            except StopIteration as end:
                batches[model] = Batch([(0, adapter) for adapter in adapters], *end.value)
                break
            yield
    return batches


def _branch(alive: list[tuple[_LaneState, int]]) -> tuple[dict[int, int], dict[int, int]]:
    """Put lanes that shared a branch and chose the same token on one new branch. Returns its parent and its token."""
    numbers: dict[tuple[int, int], int] = {}
    for state, token in alive:
        state.branch = numbers.setdefault((state.branch, token), len(numbers))
    parents = {number: parent for (parent, _), number in numbers.items()}
    return parents, {number: token for (_, token), number in numbers.items()}


def _keep(
    state: _LaneState,
    batches: dict[LanguageModel, Batch],
    said: Sequence[int],
    proposal: LanguageModel,
    settings: DecodingSettings,
) -> None:
    """Let every model keep what it holds of an answer that ends here, for branches from any of its tokens. said: the
    context of the last step, so without the token that it drew."""
    for model, adapter in seats(state.lane, proposal, settings):
        batch = batches[model]
        model.keep(batch.rows, batch.keys.index((state.branch, adapter)), said, batch.row(state.branch, adapter))


def _step(
    state: _LaneState,
    choice: Decision,
    text: str,
    index: int,
    ms: float,
    temperature: float,
    keep: int,
    word: Callable[[int], str],
) -> Step:
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
        rank_p=_rank(choice.log_pt, choice.chosen),
        rank=_rank(choice.log_pi, choice.chosen),
        mass=math.exp(choice.log_p[choice.ids[0]] - choice.log_pt[0]),
        compose=choice.compose,
        slate=lay_out(choice, temperature, keep, word),
        monitors=choice.monitors if len(choice.monitors) > 1 else (),
    )


def _rank(log_p: Tensor, at: int) -> int:
    """The place of one candidate among all of N, from 1."""
    return 1 + int((log_p > log_p[at]).sum())


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
