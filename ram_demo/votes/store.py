"""Battles and votes, kept in a database. Knows nothing of pages, models or what a vote is later used for.

Who may vote, and how often, is decided here and by the tables' constraints; a page that forgets to disable its buttons
changes nothing. Text goes in through `schema.clean_text`, so no prompt and no model output can break the store.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, func, insert, make_url, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, selectinload

from ram_demo import __version__
from ram_demo.errors import StorageError, UserError
from ram_demo.votes.schema import CHOICES, SIDES, BattleRecord, Record, ResponseRecord, VoteRecord, clean_text, new_id


@dataclass(frozen=True)
class Response:
    """One lane as it was shown on one side of a battle. The lane has ended: done is eos, length or stopped."""

    lane: str
    aligners: str  # names and strengths, as in "concise:1.0"; empty for the base
    aligner_revision: str
    text: str
    done: str
    tokens: int
    tokens_per_s: float
    first_token_ms: float
    gated_share: float | None  # None where no aligner was there to be gated
    mean_kl: float | None  # nats; None where no aligner was there to be measured
    trace: dict[str, Any]


@dataclass(frozen=True)
class Battle:
    """One prompt and the two responses shown to one browser session, with all that replays them."""

    prompt: str
    session: str
    seed: int
    mode: str
    settings: dict[str, Any]
    proposal: str
    proposal_revision: str
    a: Response
    b: Response


@dataclass(frozen=True)
class VoteRow:
    """One vote with its battle. Moments are aware and in UTC."""

    id: str
    created_at: datetime
    choice: str
    battle_id: str
    battle_created_at: datetime
    app_version: str
    battle: Battle


class VoteStore:
    """The votes behind `url`, an SQLAlchemy URL such as `sqlite:////data/votes.sqlite3`. Threads may share one store.

    The folder and the tables are made where missing. `network_volume` is for a disk that is reached over a network:
    there the store locks the file for itself until it is closed, so that no second process can open it, and its threads
    take turns.

    Raises StorageError where the folder cannot be written.
    """

    def __init__(self, url: str, network_volume: bool = False):
        parsed = make_url(url)
        self._folder = _folder(parsed)
        with self._storage_errors("Votes cannot be saved"):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._engine = _sqlite_engine(parsed, network_volume)
            Record.metadata.create_all(self._engine)

    def record_battle(self, battle: Battle) -> str:
        """Keep a battle and its two responses, and return its id once they are committed. Raises StorageError."""
        battle_id = new_id()
        shared = {name: value for name, value in vars(battle).items() if name not in SIDES}
        sides = [{"battle_id": battle_id, "side": side, **vars(getattr(battle, side))} for side in SIDES]
        with self._storage_errors("The vote was NOT saved"), self._engine.begin() as db:
            db.execute(insert(BattleRecord).values(id=battle_id, app_version=__version__, **shared))
            db.execute(insert(ResponseRecord), sides)
        return battle_id

    def vote(self, battle_id: str, choice: str, session: str) -> None:
        """Count one vote. Returns only once it is committed; whatever is raised, nothing was counted.

        Raises UserError for an unknown choice or battle, another session than the battle's, or a second vote, and
        StorageError where the disk refuses.
        """
        if choice not in CHOICES:
            raise UserError(f"Unknown choice {choice!r}: choose one of {', '.join(CHOICES)}.")
        try:
            with self._storage_errors("The vote was NOT saved"), self._engine.begin() as db:
                owner = db.scalar(select(BattleRecord.session).where(BattleRecord.id == battle_id))
                if owner is None:
                    raise UserError(f"Unknown battle {battle_id!r}: there is nothing to vote on.")
                if owner != clean_text(session):
                    raise UserError("This battle is not yours: only the session that ran it may vote.")
                db.execute(insert(VoteRecord).values(battle_id=battle_id, choice=choice, session=session))
        except IntegrityError as error:
            # All else that the constraints ask was just checked, so this can only be the unique battle.
            raise UserError("This battle has its vote already: a battle is voted on once.") from error

    def count(self) -> int:
        """The number of votes."""
        with self._engine.connect() as db:
            return db.scalar(select(func.count()).select_from(VoteRecord))

    def rows(self) -> Iterator[VoteRow]:
        """Every vote with its battle, oldest first (then by id), read from the disk as they are asked for.

        Holds a connection until the last row or until it is closed. On a network volume that is the only one, so there
        votes wait for the reader.
        """
        # Loaded apart from the votes, batch by batch: a join would sort every trace before the first row is out.
        battles = selectinload(VoteRecord.battle).selectinload(BattleRecord.responses)
        query = select(VoteRecord).options(battles).order_by(VoteRecord.created_at, VoteRecord.id)
        with Session(self._engine) as db:
            for vote in db.scalars(query.execution_options(yield_per=20)):
                yield _vote_row(vote)

    def close(self) -> None:
        """Close every connection, and so let go of the file."""
        self._engine.dispose()

    @contextmanager
    def _storage_errors(self, failed: str) -> Iterator[None]:
        try:
            yield
        except (OSError, OperationalError) as error:
            reason = _refusal(error)
            if reason is None:
                raise
            raise StorageError(f"{failed}: the folder {self._folder} cannot be written ({reason}).") from error


def _vote_row(vote: VoteRecord) -> VoteRow:
    battle = vote.battle
    shared = {field.name: getattr(battle, field.name) for field in fields(Battle) if field.name not in SIDES}
    return VoteRow(
        id=vote.id,
        created_at=vote.created_at,
        choice=vote.choice,
        battle_id=battle.id,
        battle_created_at=battle.created_at,
        app_version=battle.app_version,
        battle=Battle(**shared, **{record.side: _response(record) for record in battle.responses}),
    )


def _response(record: ResponseRecord) -> Response:
    return Response(**{field.name: getattr(record, field.name) for field in fields(Response)})


# What is SQLite's own stands from here to the end, and nowhere else.


def _folder(url: URL) -> Path:
    return Path(url.database.removeprefix("file:")).parent


def _sqlite_engine(url: URL, network_volume: bool) -> Engine:
    """An engine on a file that takes a real write, whose commits are on the disk when they return."""
    # An exclusive lock belongs to one connection, so there must be one only.
    engine = create_engine(url, **({"pool_size": 1, "max_overflow": 0} if network_volume else {}))
    # A write-ahead log needs memory shared between processes, which a network volume does not give.
    journal = ("locking_mode = EXCLUSIVE", "journal_mode = DELETE") if network_volume else ("journal_mode = WAL",)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection, _record):
        for pragma in ("busy_timeout = 10000", "foreign_keys = ON", "synchronous = FULL", *journal):
            connection.execute(f"PRAGMA {pragma}")

    with engine.connect() as db:
        # The number of this schema. Writing it finds a read-only folder now, and not at the first vote.
        db.exec_driver_sql("PRAGMA user_version = 1")
    return engine


def _refusal(error: OSError | OperationalError) -> str | None:
    """Why the disk refused, or None if `error` is about something else."""
    if isinstance(error, OSError):
        return error.strerror
    words = str(error.orig)
    refusals = ("readonly", "unable to open", "disk is full", "disk I/O error", "database is locked")
    return words if any(refusal in words for refusal in refusals) else None
