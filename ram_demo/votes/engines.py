"""What is each database's own: connecting safely, locking while tables change, copying a file, saying why it refused.

Knows nothing of tables or votes. SQLite is for one machine; PostgreSQL takes any number of app processes.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ram_demo.errors import StorageError, UserError

SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
# "RAMD": what programs that look at a file's header are told of it.
APPLICATION_ID = 0x52414D44
_SQLITE_REFUSES = (
    "readonly", "unable to open", "disk is full", "disk I/O error", "database is locked", "not a database", "malformed",
)  # fmt: skip
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
    # A connection that died while it lay idle is replaced before it is used, and nobody waits for ever.
    limits = {"connect_timeout": 10, "tcp_user_timeout": 10_000, "options": "-c lock_timeout=10s"}
    return create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=limits)


def _sqlite(url: URL, network_volume: bool) -> Engine:
    file = _file(url)
    file.parent.mkdir(parents=True, exist_ok=True)
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
    _stay_with(engine, file)
    return engine


def _stay_with(engine: Engine, file: Path) -> None:
    """See to it that the file at this path is the one that is written.

    SQLite goes on writing to a file that was deleted, or makes an empty one in its place: votes would be taken that
    nobody finds again.
    """

    @event.listens_for(engine, "checkout")
    def leave_what_is_gone(_connection, record, _proxy):
        if record.info.setdefault("file", _identity(file)) != _identity(file):
            raise DisconnectionError("the file is another one, or gone")

    @event.listens_for(engine, "do_connect")
    def make_no_other(_dialect, _record, _arguments, _options):
        if not file.exists():
            raise sqlite3.OperationalError("unable to open database file: it is gone")

    engine.dispose()  # so that every connection is looked at from its beginning


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _file(url: URL) -> Path:
    return Path(url.database.removeprefix("file:"))


def lock_for_migration(db: Connection) -> None:
    """Wait until nobody else changes the tables, and keep everybody else waiting until the transaction ends."""
    if db.dialect.name == "sqlite":
        db.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        db.execute(select(func.pg_advisory_xact_lock(APPLICATION_ID)))


def back_up(db: Connection) -> Path | None:
    """Copy a SQLite file beside itself, whole and at one moment, named by date. PostgreSQL has backups of its own."""
    if db.dialect.name != "sqlite":
        return None
    file = Path(db.exec_driver_sql("PRAGMA database_list").first().file)
    copy = file.with_name(f"{file.name}.{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S.%fZ}.backup")
    try:
        with closing(sqlite3.connect(copy)) as target:
            db.connection.driver_connection.backup(target)
    except sqlite3.Error:
        copy.unlink(missing_ok=True)  # half a backup is none
        raise
    return copy


@contextmanager
def storage_errors(url: URL, failed: str) -> Iterator[None]:
    """Turn what a database or its disk refused into a StorageError; every other fault passes as it is."""
    try:
        yield
    except (OSError, DBAPIError, PoolTimeout, sqlite3.Error) as error:
        reason = _refusal(error)
        if reason is None:
            raise
        place = f"the folder {_file(url).parent} cannot be written"
        if url.drivername == POSTGRESQL:
            place = f"the database {url.database} at {url.host} cannot be reached or written"
        raise StorageError(f"{failed}: {place} ({reason}).") from error


def _refusal(error: Exception) -> str | None:
    """Why the database or its disk refused, or None if `error` is about something else."""
    if isinstance(error, PoolTimeout):
        return "too many are writing at once"
    if isinstance(error, OSError):
        return error.strerror
    error = getattr(error, "orig", error)
    words = " ".join(str(error).split())
    if isinstance(error, sqlite3.Error):
        refused = any(refusal in words for refusal in _SQLITE_REFUSES)
    elif error.sqlstate is None:  # no server was there to give a code
        refused = isinstance(error, psycopg.OperationalError)
    else:
        refused = error.sqlstate.startswith(_POSTGRESQL_REFUSES)
    return words if refused else None
