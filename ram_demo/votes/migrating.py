"""Brings a database's tables to what `schema` says, step by step (Alembic), once, with a backup of a file before it.

Knows nothing of votes. Of several processes that open a database at once one migrates; the others wait for it.
"""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect

from ram_demo.errors import UserError
from ram_demo.votes import engines

log = logging.getLogger(__name__)

FIRST = "0001"  # what tables without a number are
_SCRIPTS = Path(__file__).parent / "migrations"


def bring_up_to_date(engine: Engine) -> None:
    """Take every step that the tables still need, all of them in one transaction or none.

    Raises UserError where the tables were made by a newer version of the app.
    """
    script = ScriptDirectory(str(_SCRIPTS))
    head = script.get_current_head()
    with engine.connect() as db:
        before = _revision(db)
        if before == head:
            return
        if before not in (None, *(step.revision for step in script.walk_revisions())):
            raise UserError(f"The votes were written by a newer version of the app (tables {before}): use that one.")
        db.rollback()
        kept = engines.back_up(db) if before else None
        engines.lock_for_migration(db)
        if _revision(db) == head:  # another process was here first
            if kept:
                kept.unlink()
            return
        config = _config(db)
        if before and _numbered(db) is None:
            command.stamp(config, before)
        command.upgrade(config, "head")
        db.commit()
    if before:
        log.warning("The votes' tables went from %s to %s%s.", before, head, f"; as they were: {kept}" if kept else "")


def _config(db: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = db
    return config


def _revision(db: Connection) -> str | None:
    """Which step the tables have come to; None where there are none."""
    return _numbered(db) or (FIRST if inspect(db).has_table("vote") else None)


def _numbered(db: Connection) -> str | None:
    return MigrationContext.configure(db).get_current_revision()
