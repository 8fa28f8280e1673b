"""Battles and votes, kept in a database. Knows nothing of pages, models or what a vote is later used for.

Who may vote, and how often, is decided here: a battle is a state machine, and each step is one conditional UPDATE whose
row count says whether it was taken. So it holds for threads and for processes, and a page that forgets to disable its
buttons changes nothing.

    created -> running <-> ended -> voted -> revealed
    ended -> revealed (the vote is given up);   created, running, ended -> expired (nobody came back)

Text goes in through `columns.clean_text`, so no prompt and no model output can break the store.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, func, literal, select, update

from ram_demo.errors import UserError
from ram_demo.votes import adding, engines, reading, styles
from ram_demo.votes.battles import Ballot, Battle, NewBattle, Response, Turn, VoteRow, check_choice, checked
from ram_demo.votes.columns import UtcDateTime, clean_text
from ram_demo.votes.counting import Verdict, names_itself, verdict
from ram_demo.votes.migrating import bring_up_to_date
from ram_demo.votes.schema import BattleRecord, ResponseRecord, ReviewRecord, SaltRecord, VoteRecord, new_id, now

_REFUSED = {
    "created": "Both answers must have ended before they are voted on.",
    "running": "Both answers must have ended before they are voted on.",
    "ended": "This battle has ended already.",
    "voted": "This battle has its vote already: a battle is voted on once.",
    "revealed": "This battle has been revealed, and nothing can be changed any more.",
    "expired": "This battle was left alone for too long and has expired: start another one.",
}


class VoteStore:
    """The votes behind `url`: `sqlite:////data/votes.sqlite3`, or `postgresql+psycopg://...` for several processes.

    Threads may share one store. A SQLite file's folder and the tables are made where missing. `network_volume` is for
    a disk that is reached over a network: there the store locks the file for itself until it is closed, so that no
    second process can open it, and its threads take turns.

    Raises UserError for an address that is none, and StorageError where nothing can be written.
    """

    def __init__(self, url: str, network_volume: bool = False):
        self._url = engines.parse_url(url)
        with engines.storage_errors(self._url, "Votes cannot be saved"):
            self._engine = engines.connect(self._url, network_volume)
            bring_up_to_date(self._engine)

    # A battle, step by step. Every method returns once it is committed. All raise UserError for a step that cannot be
    # taken now, or by whom, and StorageError where the database refuses. Where one raises, nothing was changed; only of
    # a server that goes while it commits nobody knows, and the error says so.

    def create_battle(self, new: NewBattle) -> str:
        """Keep a battle that nothing was answered in yet, and return its id."""
        battle_id = new_id()
        with self._write("The battle was NOT saved") as db:
            adding.insert_battle(db, battle_id, new, state="created")
        return battle_id

    def begin_turn(self, battle_id: str, session: str) -> None:
        """The session has asked something, and both sides are about to answer."""
        with self._write("The battle was NOT saved") as db:
            _step(db, battle_id, ("created", "ended"), "running", session)

    def abandon_turn(self, battle_id: str) -> None:
        """The turn failed or was given up: the battle stands where it stood before it began."""
        with self._write("The battle was NOT saved") as db:
            answered = select(ResponseRecord.id).where(ResponseRecord.battle_id == battle_id).exists()
            before = "ended" if db.scalar(select(answered)) else "created"
            _step(db, battle_id, ("running",), before)

    def end_turn(self, battle_id: str, turn: int, prompt: str, a: Response, b: Response) -> None:
        """Both sides have answered turn number `turn`, the first being 0."""
        with self._write("The battle was NOT saved") as db:
            _step(db, battle_id, ("running",), "ended", ended_at=now())
            adding.insert_turn(db, battle_id, turn, Turn(prompt, a, b))

    def record_battle(self, battle: Battle) -> str:
        """Keep a battle that has ended, and return its id: it may be voted on."""
        battle_id = new_id()
        with self._write("The vote was NOT saved") as db:
            adding.insert_battle(db, battle_id, battle, state="ended", ended_at=now())
            for number, turn in enumerate(battle.turns):
                adding.insert_turn(db, battle_id, number, turn)
        return battle_id

    def vote(self, battle_id: str, choice: str, session: str, ballot: Ballot = Ballot()) -> None:  # noqa: B008 frozen
        """Take the one vote of a battle that has ended and is not revealed, from the session that it was shown to.

        What the rules say of it (`counting.verdict`) is kept beside it.
        """
        check_choice(choice)
        ballot = checked(ballot)
        with self._write("The vote was NOT saved") as db:
            _step(db, battle_id, ("ended",), "voted", session, voted_at=now())
            texts = _last_texts(db, battle_id)
            if ballot.span and ballot.span[2] > len(texts[ballot.span[0]]):
                raise UserError("The span that decided must lie in the last answer of its side.")
            said = [
                verdict(tuple(texts.values()), ballot.reading_seconds, _prompt_was_voted_on(db, battle_id)),
                names_itself(_blind(db, battle_id)),
            ]
            vote_id = new_id()
            adding.insert_vote(db, vote_id, battle_id, choice, session, ballot)
            for rule in filter(None, said):  # where both speak, the latter decides
                adding.insert_review(db, vote_id, "rule", rule)

    def reveal(self, battle_id: str, session: str) -> Battle:
        """The whole battle, for the session that it was shown to; from now on it takes no vote. May be asked again."""
        first = func.coalesce(BattleRecord.revealed_at, literal(now(), UtcDateTime()))
        with self._write("The battle was NOT revealed") as db:
            _step(db, battle_id, ("voted", "ended", "revealed"), "revealed", session, revealed_at=first)
            return reading.battle(db, battle_id)

    def expire(self, before: datetime) -> int:
        """Close the battles that were left without a vote since before that moment; returns how many."""
        waiting = BattleRecord.state.in_(("created", "running", "ended"))
        last = func.coalesce(BattleRecord.ended_at, BattleRecord.created_at)
        with self._write("The battles were NOT expired") as db:
            return db.execute(update(BattleRecord).where(waiting, last < before).values(state="expired")).rowcount

    def review(self, vote_id: str, counts: bool, why: str) -> None:
        """The owner's word on whether a vote counts. Adds to what was said before; the vote stays as it is."""
        with self._write("The review was NOT saved") as db:
            if db.scalar(select(VoteRecord.id).where(VoteRecord.id == vote_id)) is None:
                raise UserError(f"Unknown vote {vote_id!r}: there is nothing to review.")
            adding.insert_review(db, vote_id, "owner", Verdict(counts, why))

    def add(self, rows: Iterable[VoteRow]) -> int:
        """Keep votes that were given elsewhere, marked as imported, and return how many were new.

        A vote or a battle that is here already is left as it is. Kept a few hundred at a time, so that votes given here
        meanwhile need not wait for the last.
        """
        count, waiting = 0, iter(rows)
        while batch := list(islice(waiting, 500)):
            with self._write("The votes were NOT imported") as db:
                count += adding.add(db, batch)
        return count

    # What was kept. All raise StorageError where it cannot be read.

    def count(self) -> int:
        """The number of votes."""
        with self._read() as db:
            return db.scalar(select(func.count()).select_from(VoteRecord))

    def battle(self, battle_id: str) -> Battle:
        """A battle that has answers, whoever fought it. Raises UserError for one that is not here."""
        with self._read() as db:
            return reading.battle(db, battle_id)

    def version(self) -> tuple[int, int]:
        """The numbers of votes and of reviews: as neither is ever changed, while these stand so does what was read."""
        with self._read() as db:
            tables = (VoteRecord, ReviewRecord)
            return tuple(db.scalar(select(func.count()).select_from(table)) for table in tables)

    def votes_of(self, session: str, since: datetime) -> int:
        """How many votes a session gave from that moment on."""
        with self._read() as db:
            mine = (VoteRecord.session == session, VoteRecord.created_at >= since)
            return db.scalar(select(func.count()).select_from(VoteRecord).where(*mine))

    def choice_of(self, battle_id: str, session: str) -> str | None:
        """What that session voted on that battle; None where it did not."""
        with self._read() as db:
            mine = (VoteRecord.battle_id == battle_id, VoteRecord.session == session)
            return db.scalar(select(VoteRecord.choice).where(*mine))

    def pair_counts(self) -> dict[tuple[str, str], int]:
        """Votes by pair of labels, as `reading.pair_counts` gives them."""
        with self._read() as db:
            return reading.pair_counts(db)

    def newest(self, count: int, skip: int = 0) -> list[VoteRow]:
        """The newest votes, as `reading.newest` gives them."""
        with self._read() as db:
            return reading.newest(db, count, skip)

    def rows(self, only_counting: bool = False) -> Iterator[VoteRow]:
        """Votes with their battles, oldest first, as `reading.rows` gives them, read as they are asked for.

        No connection is held from one page of them to the next, so nobody who votes waits for a slow reader.
        """
        last = None
        while True:
            with self._read() as db:
                page = reading.rows(db, only_counting, after=last)
            yield from page
            if not page:
                return
            last = page[-1]

    def ballots(self, **filters: Any) -> reading.Columns:
        """Votes as columns for ratings, as `reading.ballots` gives them."""
        with self._read() as db:
            return reading.ballots(db, **filters)

    def styles(self) -> dict[str, tuple[int, ...]]:
        """How the answers of each vote look, as `styles.styles` counts it. Reads every answer; not for every moment."""
        with self._read() as db:
            return styles.styles(db)

    def salt(self) -> str:
        """What hides who voted in an export: random, and the database's own."""
        with self._read() as db:
            return db.scalar(select(SaltRecord.value))

    def close(self) -> None:
        """Close every connection, and so let go of the file."""
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with engines.storage_errors(self._url, "The votes cannot be read"), self._engine.connect() as db:
            yield db

    @contextmanager
    def _write(self, failed: str) -> Iterator[Connection]:
        with engines.storage_errors(self._url, failed), self._engine.connect() as db:
            yield db
            # A server that goes now may or may not have committed. To ask again is safe: a step is taken once.
            unsure = failed if self._url.drivername == engines.SQLITE else "It is not known whether that was saved"
            with engines.storage_errors(self._url, unsure):
                db.commit()


def _step(
    db: Connection, battle_id: str, before: tuple[str, ...], after: str, session: str | None = None, **more: Any
) -> None:
    """Take a battle from one of the states `before` to `after`, or raise UserError and say why it cannot be.

    The one UPDATE both asks and answers, so of any number of attempts at once one finds the state that it asks for.
    """
    this = [BattleRecord.id == battle_id, BattleRecord.state.in_(before)]
    if session is not None:
        this.append(BattleRecord.session == session)
    if db.execute(update(BattleRecord).where(*this).values(state=after, **more)).rowcount:
        return
    found = db.execute(select(BattleRecord.session, BattleRecord.state).where(BattleRecord.id == battle_id)).first()
    if found is None:
        raise UserError(f"Unknown battle {battle_id!r}: there is nothing to vote on.")
    if session is not None and found.session != clean_text(session):
        raise UserError("This battle is not yours: only the session that ran it may vote.")
    raise UserError(_REFUSED[found.state])


def _last_texts(db: Connection, battle_id: str) -> dict[str, str]:
    """{side: its last answer}"""
    mine = ResponseRecord.battle_id == battle_id
    last = select(func.max(ResponseRecord.turn)).where(mine).scalar_subquery()
    query = select(ResponseRecord.side, ResponseRecord.text).where(mine, ResponseRecord.turn == last)
    return dict(db.execute(query).tuples().all())


def _blind(db: Connection, battle_id: str) -> list[tuple[str, str, str]]:
    """(side, aligners, text) of every answer, if nobody was to know who gave it."""
    r = ResponseRecord
    query = select(r.side, r.aligners, r.text).join(BattleRecord, BattleRecord.id == r.battle_id)
    return db.execute(query.where(r.battle_id == battle_id, BattleRecord.blind)).tuples().all()


def _prompt_was_voted_on(db: Connection, battle_id: str) -> bool:
    """Is there a vote on this battle's prompt already, by anybody?"""
    key = select(BattleRecord.prompt_key).where(BattleRecord.id == battle_id).scalar_subquery()
    return db.scalar(select(select(VoteRecord.id).join(BattleRecord).where(BattleRecord.prompt_key == key).exists()))
