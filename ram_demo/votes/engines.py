"""What is each database's own: connecting safely, locking while tables change, copying a file, saying why it refused.

Knows nothing of tables or votes. SQLite is for one machine; PostgreSQL takes any number of app processes.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from ram_demo.errors import StorageError, UserError

SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
# "RAMD": what programs that look at a file's header are told of it.
APPLICATION_ID = 0x52414D44
_SQLITE_REFUSES = ("readonly", "unable to open", "disk is full", "disk I/O error", "database is locked")
# Connection, read only, not let in, no such database, no room or memory, locked, shut down, disk.
_POSTGRESQL_REFUSES = ("08", "25006", "28", "3D000", "53", "55P03", "57", "58")


def parse_url(text: str) -> URL:
    """The address of a database. Raises UserError, which never repeats it: it may hold a password."""
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in (SQLITE, POSTGRESQL) or not url.database:
        raise UserError(f"The database's address must be {SQLITE}:///FILE or {POSTGRESQL}://USER:PASSWORD@HOST/NAME.")
    return url


def connect(url: URL, network_volume: bool) -> Engine:
    """An engine whose commits are on the disk when they return. `network_volume` matters to a SQLite file alone."""
    # Statements in errors and logs come without their values: those are prompts, comments and sessions.
    if url.drivername == SQLITE:
        return _sqlite(url, network_volume)
    # A connection that died while it lay idle is replaced before it is used.
    return create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args={"connect_timeout": 10})


def _sqlite(url: URL, network_volume: bool) -> Engine:
    folder(url).mkdir(parents=True, exist_ok=True)
    # An exclusive lock belongs to one connection, so there must be one only.
    pool = {"pool_size": 1, "max_overflow": 0} if network_volume else {}
    engine = create_engine(url, hide_parameters=True, **pool)
    # A write-ahead log needs memory shared between processes, which a network volume does not give.
    journal = ("locking_mode = EXCLUSIVE", "journal_mode = DELETE") if network_volume else ("journal_mode = WAL",)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection, _record):
        for pragma in ("busy_timeout = 10000", "foreign_keys = ON", "synchronous = FULL", *journal):
            connection.execute(f"PRAGMA {pragma}")

    with engine.connect() as db:
        # Writing this finds a read-only folder now, and not at the first vote.
        db.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    return engine


def folder(url: URL) -> Path:
    """Where a SQLite database's file lies."""
    return Path(url.database.removeprefix("file:")).parent


@contextmanager
def storage_errors(url: URL, failed: str) -> Iterator[None]:
    """Turn what a database or its disk refused into a StorageError; every other fault passes as it is."""
    try:
        yield
    except (OSError, DBAPIError) as error:
        reason = _refusal(error)
        if reason is None:
            raise
        place = f"the folder {folder(url)} cannot be written"
        if url.drivername == POSTGRESQL:
            place = f"the database {url.database} at {url.host} cannot be reached or written"
        raise StorageError(f"{failed}: {place} ({reason}).") from error


def _refusal(error: OSError | DBAPIError) -> str | None:
    """Why the database refused, or None if `error` is about something else."""
    if isinstance(error, OSError):
        return error.strerror
    words = " ".join(str(error.orig).split())
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        refused = state.startswith(_POSTGRESQL_REFUSES)
    elif isinstance(error.orig, sqlite3.Error):
        refused = isinstance(error, OperationalError) and any(refusal in words for refusal in _SQLITE_REFUSES)
    else:  # no server was there to give a code
        refused = isinstance(error, OperationalError)
    return words if refused else None
