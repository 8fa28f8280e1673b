"""What is open while the app runs: one proposal, the aligners beside it, and the loop that answers everybody.

Turns a checked `Request` into lanes for the engine. Knows nothing of pages, command lines or votes.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ram_demo.decoding import engine
from ram_demo.decoding.decide import DecodingSettings, Lane, Weigher
from ram_demo.decoding.detokenize import plain_decode
from ram_demo.decoding.loop import Loop, Told
from ram_demo.decoding.weights import MODES
from ram_demo.errors import UserError
from ram_demo.models import memory, sources
from ram_demo.models import proposal as proposals
from ram_demo.models.aligners import Aligners, Loaded, Registry
from ram_demo.models.importing import import_package
from ram_demo.models.proposal import Proposal
from ram_demo.request import OWN_MODE, Choice, Request, lane_name
from ram_demo.settings import SHIPPED_ALIGNERS, Settings

DEFAULT_MODE = DecodingSettings().mode


@dataclass(frozen=True)
class Plan:
    """A request made ready: ids of the prompt, lanes with their models, and the settings as they will be recorded.

    `record` is every setting by name, with each lane's aligners, strengths, gates and revisions: what replays it."""

    request: Request
    prompt_ids: tuple[int, ...]
    lanes: tuple[Lane, ...]
    record: dict


class Workbench:
    """One proposal, its aligners, and the loop. What is loaded changes only between two of its steps, and an aligner
    that somebody is using stays."""

    def __init__(self, settings: Settings, proposal: Proposal):
        self.settings, self.proposal = settings, proposal
        self.registry = Registry(SHIPPED_ALIGNERS, settings.own_aligners)
        self.loop = Loop(memory.for_caches(proposal.model.device, settings.memory))
        self.aligners = Aligners(self.registry, proposal, settings.cache, self.loop.between)

    def plan(self, request: Request, progress: sources.Progress = sources.silent) -> Plan:
        """Load what the request needs and lay out its lanes. Raises UserError for what cannot be done."""
        settings = request.settings
        ids = self.proposal.encode_conversation((*request.history, ("user", request.prompt)))
        room = self.proposal.model.context - len(ids)
        if room < 1:
            raise UserError(
                f"The prompt is {1 - room:,} tokens too long: with its template it has {len(ids):,}, and "
                f"{self.proposal.source.name} reads at most {self.proposal.model.context:,}, an answer included."
            )
        if settings.max_new_tokens > room:
            raise UserError(
                f"After this prompt there is room for {room:,} tokens, {settings.max_new_tokens - room:,} fewer than "
                f"the length asked for ({settings.max_new_tokens:,})."
            )
        end = self.proposal.end_ids
        if any(not 0 <= token < self.proposal.model.vocab_size or token in end for token in request.forced):
            raise UserError(
                "The answer is made to begin with a token that ends it, or that the proposal does not know."
            )
        lanes, described = [], {}
        for choices in request.all_lanes:
            name = lane_name(choices)
            loaded = [self.aligners.get(choice.name, progress) for choice in choices]
            mode = settings.mode if choices and settings.mode != OWN_MODE else _own_mode(loaded)
            weighers = tuple(_weigher(*both, request.tau, mode) for both in zip(choices, loaded, strict=True))
            lanes.append(Lane(name, weighers, mode))
            described[name] = [
                {"name": w.name, "beta": w.beta, "tau": w.tau, "revision": self.aligners.loaded[w.name].revision}
                for w in weighers
            ]
        for lane in lanes:
            context = min(model.context for model, _ in engine.seats(lane, self.proposal.model, settings))
            if context < len(ids) + settings.max_new_tokens:
                raise UserError(f"{lane.name} reads at most {context:,} tokens, fewer than prompt and answer need.")
        record = {
            **asdict(settings),
            "tau": request.tau,
            "forced": list(request.forced),
            "lanes": described,
            "modes": {lane.name: lane.mode for lane in lanes},
            "proposal": self.proposal.source.name,
            "proposal_revision": self.proposal.source.revision,
            "engine": self.proposal.model.engine,
            "precision": self.proposal.model.precision,
        }
        return Plan(request, tuple(ids), tuple(lanes), record)

    def run(self, plan: Plan, stop: threading.Event, keep: int = engine.KEPT) -> Iterator[Told]:
        """Decode the plan's lanes among everybody's, as an iterator over what is told (see `Loop.run`)."""
        return self.loop.run(*self._ask(plan, stop, keep), stop)

    def submit(self, plan: Plan, stop: threading.Event, tell: Callable[[Told | Exception | None], None]) -> None:
        """The same, telling it to a function (see `Loop.submit`)."""
        self.loop.submit(*self._ask(plan, stop), stop, tell)

    def _ask(self, plan: Plan, stop: threading.Event, keep: int = engine.KEPT) -> tuple:
        """The comparison as a coroutine, its caches' bytes and rows and its steps at most, and what it uses."""
        proposal, settings = self.proposal, plan.request.settings
        growing = engine.compare(
            proposal.model,
            plan.prompt_ids,
            plan.lanes,
            settings,
            plan.record,
            proposal.end_ids,
            plain_decode(proposal.tokenizer),
            keep,
            stop,
            plan.request.forced,
        )
        rows = [seat for lane in plan.lanes for seat in engine.seats(lane, proposal.model, settings)]
        length = len(plan.prompt_ids) + settings.max_new_tokens
        size = sum(model.bytes_per_token for model, _ in rows) * length
        return growing, size, len(rows), settings.max_new_tokens, rows

    def import_aligner(self, source: Path) -> str:
        """Take in an aligner from a folder or a zip, loading it once to see that it fits. Returns its name."""
        taken = {package.name for package in self.registry.packages()}
        return import_package(source, self.settings.own_aligners, taken, self.aligners.try_out)

    def unload(self, name: str) -> None:
        """Forget a loaded aligner, once nobody is using it."""
        loaded = self.aligners.loaded.get(name)
        if loaded is not None:
            with self.loop.between(lambda: not self.loop.is_used((loaded.model, loaded.adapter))):
                self.aligners.unload(name)


def _own_mode(loaded: list[Loaded]) -> str:
    """The mode that a lane's aligners recommend, if they agree and it exists; else the default one."""
    modes = {aligner.package.card.mode for aligner in loaded}
    return modes.pop() if len(modes) == 1 and modes <= set(MODES) else DEFAULT_MODE


def _weigher(choice: Choice, loaded: Loaded, tau: str | float, mode: str) -> Weigher:
    """The aligner at the strength and gate asked for. Raises UserError where `ratio` lacks the aligner's own base."""
    card, gate = loaded.package.card, tau if choice.tau is None else choice.tau
    if mode == "ratio" and loaded.q0 is None:
        raise UserError(
            f"The mode ratio needs what {choice.name} was tuned from, and its card names no base; use another mode."
        )
    return Weigher(
        name=choice.name,
        seat=(loaded.model, loaded.adapter),
        beta=Choice(choice.name, card.beta).beta if choice.beta is None else choice.beta,
        tau={"auto": card.tau, "off": None}.get(gate, gate),
        q0=None if loaded.q0 is None else (loaded.q0, None),
    )


def open_workbench(settings: Settings, progress: sources.Progress = sources.silent) -> Workbench:
    """Find and load the proposal that the settings name."""
    source = sources.resolve(settings.model, settings.cache, progress)
    progress(f"Loading {source.name} ({source.origin})", 0.9)
    return Workbench(settings, proposals.load(source, settings.device, settings.dtype))


class Opening:
    """A workbench that is being opened in a thread of its own, so that a page can show how far it is."""

    def __init__(self, settings: Settings):
        self.what, self.share = "Starting", 0.0
        self.workbench: Workbench | None = None
        self.error: UserError | None = None
        self._thread = threading.Thread(target=self._open, args=(settings,), name="opening", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(
        self, progress: sources.Progress = sources.silent, given_up: Callable[[], bool] = lambda: False
    ) -> Workbench | None:
        """The workbench once it is open, or None if given up before. Raises UserError if it could not be opened."""
        while not self.done and not given_up():
            progress(self.what, self.share)
            self._thread.join(timeout=0.2)
        if self.error:
            raise self.error
        return self.workbench

    def _open(self, settings: Settings) -> None:
        try:
            self.workbench = open_workbench(settings, self._progress)
        except UserError as error:
            self.error = error
        except Exception:
            self.error = UserError("The model could not be loaded; the reason is in the log.")
            raise

    def _progress(self, what: str, share: float) -> None:
        self.what, self.share = what, share
