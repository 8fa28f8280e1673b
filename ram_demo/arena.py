"""Blind battles under way: the server draws two lanes and their sides, lets them talk, takes the vote, then tells all.

What is true of a battle is in the store; here is only what must be at hand while it is fought: each side's history, the
exchange that is going, and turns that the disk did not take yet. Until the vote nothing that leaves here depends on
who stands where, but for the texts. Knows nothing of gradio.
"""

import logging
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from random import Random, SystemRandom

from ram_demo import pairing, views
from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.trace import Trace
from ram_demo.errors import StorageError, UserError
from ram_demo.exchange import Exchange, News
from ram_demo.models.aligners import Registry
from ram_demo.replay import Replay, Standing, asked_of
from ram_demo.request import OWN_MODE, Choice, Request, parse_choice
from ram_demo.responses import response_of
from ram_demo.votes import SIDES, Ballot, Battle, NewBattle, Response, VoteStore, clean_text
from ram_demo.workbench import Opening, Plan, Workbench

log = logging.getLogger(__name__)

ANSWER_TOKENS = 160  # each answer's, at most
MOST_TURNS = 8
VOTES_A_MINUTE, VOTES_A_DAY = 10, 200  # of one session
KEPT = 200  # battles at hand; older ones can still be voted on, but not be continued
UNHEARD_SECONDS = 20  # an answer whose page has not asked for so long is given up
LIFETIME = timedelta(hours=6)  # a battle without a vote for so long has expired
LOOK_SECONDS = 300  # between two looks at what the store knows of pairs, and two expiries
NO_LONGER = "This battle is no longer here; start a new one."
SESSION = re.compile(r"[0-9a-f-]{16,64}")


@dataclass
class Live:
    """A battle at hand. saved: how many turns the store has; read_since: when the newest answers began to
    be seen, and seen_whole: were they to the end?"""

    id: str
    session: str
    pair: pairing.Pair
    seeds: Mapping[str, int]
    turns: list[Exchange] = field(default_factory=list)
    saved: int = 0
    read_since: float | None = None
    seen_whole: bool = False
    asked: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def label(self, side: str) -> str:
        return getattr(self.pair, side)

    def history(self, side: str) -> tuple[tuple[str, str], ...]:
        said = ((("user", turn.prompt), ("assistant", turn.text(side))) for turn in self.turns)
        return tuple(entry for turn in said for entry in turn)


class Arena:
    """Every battle that can be continued, and the store that decides what may be done with any."""

    def __init__(self, opening: Opening, registry: Registry, store: VoteStore, chance: Random | None = None):
        self.opening, self.registry, self.store = opening, registry, store
        self._chance = chance or SystemRandom()
        self._live: OrderedDict[str, Live] = OrderedDict()
        self._replays: OrderedDict[tuple[str, str], Replay] = OrderedDict()
        self._unfit: set[str] = set()  # aligners that cannot weigh this proposal's tokens
        self._counts: dict[tuple[str, str], int] = {}
        self._looked = -LOOK_SECONDS
        self._lock = threading.Lock()

    def start(self, prompt: str, session: str, category: str = "") -> str:
        """Draw two lanes and begin. Returns the battle's id. An answer still going for this session is stopped.

        Raises UserError for a prompt that cannot be answered or a cap that is met, StorageError if it cannot be kept.
        """
        self._check(session)
        self.stop(session)
        prompt = clean_text(prompt)  # what is asked is what is kept, or no replay would be exact
        bench = self.opening.wait()
        pair, seeds = self._draw(bench)
        live = Live("", session, pair, seeds)
        plans = _plans(bench, live, prompt)
        records = {side: plan.record for side, plan in plans.items()}
        modes = {record["modes"][lane] for record in records.values() for lane in record["lanes"]}
        live.id = self.store.create_battle(
            NewBattle(
                prompt=prompt,
                session=session,
                seed=seeds["a"],
                mode=modes.pop() if len(modes) == 1 else OWN_MODE,
                settings=records,
                proposal=bench.proposal.source.name,
                proposal_revision=bench.proposal.source.revision,
                kind=pair.kind,
                blind=True,
                category=category,
            )
        )
        self._begin(bench, live, prompt, plans)
        with self._lock:
            self._live[live.id] = live
            over = [key for key, other in self._live.items() if other.turns[-1].over]
            for key in over[: max(0, len(self._live) - KEPT)]:
                del self._live[key]
        return live.id

    def go_on(self, battle_id: str, session: str, prompt: str) -> int:
        """Ask both sides something more, each after its own history. Returns the turn's number, from 0.

        Raises UserError unless it is this session's and both have ended, StorageError if it cannot be kept.
        """
        live = self._mine(battle_id, session)
        with live.lock:
            if not live.turns[-1].whole:
                raise UserError("Both answers must have ended before you go on.")
            if len(live.turns) == MOST_TURNS:
                raise UserError(f"A battle has {MOST_TURNS} turns at most: vote on this one.")
            if not all(live.turns[-1].text(side).strip() for side in SIDES):
                raise UserError("One of the answers is empty, so there is nothing to go on from: vote on this one.")
            bench, prompt = self.opening.wait(), clean_text(prompt)
            self._save(live)
            self._begin(bench, live, prompt, _plans(bench, live, prompt))
            return len(live.turns) - 1

    def news(self, battle_id: str, session: str, heard: int) -> News:
        """What may be seen of the turn that is going, beyond its first `heard` tokens. Once all of it was seen it is
        kept; if the disk refuses, that is tried again with the vote. Raises UserError unless it is this session's."""
        live = self._mine(battle_id, session)
        live.asked = time.monotonic()
        with live.lock:
            news = live.turns[-1].news(heard)
            if news.heard and live.read_since is None:
                live.read_since = time.monotonic()
            if news.state == "ended" and not live.seen_whole:
                live.seen_whole = True
                try:
                    self._save(live)
                except StorageError as error:
                    log.warning("a battle was not kept yet: %s", error)
        return news

    def give_up_turn(self, battle_id: str, session: str) -> str:
        """Take back a turn that failed, so that those before it can be voted on. Returns why, in words that name no
        lane. Raises UserError unless it is this session's."""
        live = self._mine(battle_id, session)
        with live.lock:
            error = live.turns[-1].error
            if len(live.turns) > 1:
                self.store.abandon_turn(live.id)
                live.turns.pop()
                live.read_since, live.seen_whole = live.read_since or time.monotonic(), True
        if isinstance(error, UserError):
            return _blind(error, live.pair)
        if error is not None:
            log.error("battle %s failed", battle_id, exc_info=error)
            return "Something went wrong here; it is in the log. Start a new battle."
        return "It was stopped before both had said something; start a new battle."

    def stop(self, session: str) -> None:
        """Stop what this session has going."""
        with self._lock:
            mine = [live for live in self._live.values() if live.session == session]
        for live in mine:
            live.turns[-1].stop()

    def vote(self, battle_id: str, session: str, choice: str, ballot: Ballot, retried: bool = False) -> None:
        """Keep the vote, and before it what the disk has not taken yet. Returns only once it is safe.

        The reading time is the server's own. retried: an earlier try may have been saved without the page hearing of
        it, so that the same vote is no mistake. Raises UserError where the store forbids it or a cap is met,
        StorageError where nothing was saved and trying again makes sense.
        """
        if retried and self.store.choice_of(battle_id, session) == choice:
            return
        self._check(session)
        with self._lock:
            live = self._live.get(battle_id)
        seconds = None
        if live is not None and live.session == session:
            with live.lock:
                if live.seen_whole:
                    self._save(live)
                    seconds = time.monotonic() - live.read_since
        ballot = Ballot(ballot.reasons, ballot.comment, ballot.span, seconds)
        self.store.vote(battle_id, choice, session, ballot)
        if live is not None:
            self._count(live.pair)

    def reveal(self, battle_id: str, session: str) -> Battle:
        """The whole battle, to the session that fought it: after its vote, or instead of one. Raises UserError."""
        self._check(session, caps=False)
        with self._lock:
            live = self._live.get(battle_id)
        if live is not None and live.session == session and live.seen_whole:
            with live.lock:
                self._save(live)
        battle = self.store.reveal(battle_id, session)
        with self._lock:
            self._live.pop(battle_id, None)
        return battle

    def replay(self, battle_id: str, session: str) -> Standing:
        """Run a revealed battle again, at the first asking, and say how far that is. Raises UserError."""
        with self._lock:
            replay = self._replays.get((battle_id, session))
        if replay is None:
            battle = self.reveal(battle_id, session)
            replay = Replay(self.opening.wait(), asked_of(views.of_battle(battle, {})))
            with self._lock:
                self._replays[battle_id, session] = replay
                while len(self._replays) > KEPT:
                    self._replays.popitem(last=False)
        return replay.standing()

    # Inside ----------------------------------------------------------------------------------------------------------

    def _check(self, session: str, caps: bool = True) -> None:
        """Raises UserError for what is no session, or one that has voted enough for now."""
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise UserError("The page sent something that is not a session; reload it.")
        now = datetime.now(timezone.utc)
        if caps and self.store.votes_of(session, now - timedelta(minutes=1)) >= VOTES_A_MINUTE:
            raise UserError(f"{VOTES_A_MINUTE} votes within a minute are the most: go on in a moment.")
        if caps and self.store.votes_of(session, now - timedelta(days=1)) >= VOTES_A_DAY:
            raise UserError(f"{VOTES_A_DAY} votes a day are the most: thank you, and come back tomorrow.")

    def _mine(self, battle_id: str, session: str) -> Live:
        with self._lock:
            live = self._live.get(battle_id)
        if live is None:
            raise UserError(NO_LONGER)
        if live.session != session:
            raise UserError("This battle is not yours: only the session that started it may go on with it.")
        return live

    def _draw(self, bench: Workbench) -> tuple[pairing.Pair, dict[str, int]]:
        """The next pair, by the votes kept and what is being fought here, and both sides' seeds. What does not fit
        this proposal is found out when it is first drawn, and never drawn again."""
        while True:
            pair, seeds = self._lot()
            for name in filter(None, map(pairing.aligner_of, (pair.a, pair.b))):
                try:
                    bench.aligners.get(name)
                except UserError as error:
                    log.warning("the Arena goes on without %s: %s", name, error)
                    self._unfit.add(name)
            if not self._unfit & {pairing.aligner_of(pair.a), pairing.aligner_of(pair.b)}:
                return pair, seeds

    def _lot(self) -> tuple[pairing.Pair, dict[str, int]]:
        packages = [p for p in self.registry.packages() if p.problem is None and p.name not in self._unfit]
        usable = {package.name: package.card.beta for package in packages}
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self.store.expire(datetime.now(timezone.utc) - LIFETIME)
            self._counts = self.store.pair_counts()  # nobody waits for it but who starts this battle
        with self._lock:
            known = Counter(self._counts)
            known.update((o.pair.a, o.pair.b) for o in self._live.values() if now - o.asked < LOOK_SECONDS)
            pair = pairing.draw(pairing.lanes_of(usable), known, self._chance)
            seed, other = (self._chance.randrange(2**31) for _ in SIDES)
        return pair, {"a": seed, "b": other if pair.kind == "placebo" else seed}

    def _count(self, pair: pairing.Pair) -> None:
        with self._lock:
            key = (pair.a, pair.b)
            self._counts[key] = self._counts.get(key, 0) + 1

    def _begin(self, bench: Workbench, live: Live, prompt: str, plans: dict[str, Plan]) -> None:
        live.asked = time.monotonic()
        turn = Exchange(bench, prompt, plans, lambda: time.monotonic() - live.asked > UNHEARD_SECONDS)
        try:
            self.store.begin_turn(live.id, live.session)
        except Exception:
            turn.stop()
            raise
        live.turns.append(turn)
        live.read_since, live.seen_whole = None, False

    def _save(self, live: Live) -> None:
        """Give the store the turns that it lacks. Under the battle's lock. Raises StorageError."""
        for number, turn in enumerate(live.turns):
            if number == live.saved and turn.whole:
                self.store.end_turn(live.id, number, turn.prompt, *(_response(turn, side) for side in SIDES))
                live.saved += 1


def _plans(bench: Workbench, live: Live, prompt: str) -> dict[str, Plan]:
    """Each side's next answer, laid out. Every turn has a seed of its own. Raises UserError, naming no lane."""
    try:
        return {side: bench.plan(_request(live, side, prompt)) for side in SIDES}
    except UserError as error:
        raise UserError(_blind(error, live.pair)) from error


def _request(live: Live, side: str, prompt: str) -> Request:
    label = live.label(side)
    choices: tuple[Choice, ...] = () if label == pairing.BASE else (parse_choice(label),)
    seed = live.seeds[side] + len(live.turns)
    settings = DecodingSettings(mode=OWN_MODE, seed=seed, max_new_tokens=ANSWER_TOKENS)
    return Request(prompt, (choices,), settings=settings, with_base=False, history=live.history(side))


def _blind(error: UserError, pair: pairing.Pair) -> str:
    """The error's sentence, unless it names who stands on a side."""
    words = str(error)
    names = {pairing.aligner_of(label) or label for label in (pair.a, pair.b)}
    if any(re.search(rf"\b{re.escape(name)}\b", words) for name in names):
        log.warning("a battle could not go on: %s", words)
        return "One of the two could not answer this; start a new battle."
    return words


def _response(turn: Exchange, side: str) -> Response:
    trace: Trace = turn.traces[side]
    aligners = turn.plans[side].record["lanes"][trace.lane]
    return response_of(trace, aligners)
