"""Battles have states, kinds and turns; votes have reasons, a comment and a span; reviews say what counts.

The tables are made anew and filled from the old ones: SQLite cannot change a constraint of a table that is there.
"""

import secrets

import sqlalchemy as sa
from alembic import op

from ram_demo.votes.counting import prompt_key

revision, down_revision = "0002", "0001"

TABLES = ("battle", "response", "vote")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    for name in TABLES:
        op.rename_table(name, f"old_{name}")
    _create()
    for statement in COPY:
        op.execute(statement)
    _set_prompt_keys(op.get_bind())
    for name in reversed(TABLES):
        op.drop_table(f"old_{name}")
    salt = sa.table("salt", sa.column("value"))
    op.bulk_insert(salt, [{"value": secrets.token_hex(32)}])


COPY = (
    # What had a vote has been voted on; what had none may still be.
    """INSERT INTO battle (id, created_at, state, ended_at, voted_at, kind, blind, imported, session, prompt,
           prompt_key, category, seed, mode, proposal, proposal_revision, app_version, settings)
       SELECT b.id, b.created_at, CASE WHEN v.id IS NULL THEN 'ended' ELSE 'voted' END, b.created_at, v.created_at,
           'compare', false, false, b.session, b.prompt, '', '', b.seed, b.mode, b.proposal, b.proposal_revision,
           b.app_version, b.settings
       FROM old_battle b LEFT JOIN old_vote v ON v.battle_id = b.id""",
    """INSERT INTO response (id, battle_id, side, turn, lane, aligners, aligner_revision, done, tokens, tokens_per_s,
           first_token_ms, gated_share, mean_kl, prompt, text, trace)
       SELECT r.id, r.battle_id, r.side, 0, r.lane, r.aligners, r.aligner_revision, r.done, r.tokens, r.tokens_per_s,
           r.first_token_ms, r.gated_share, r.mean_kl, b.prompt, r.text, r.trace
       FROM old_response r JOIN old_battle b ON b.id = r.battle_id""",
    """INSERT INTO vote (id, battle_id, created_at, choice, session, reasons, comment)
       SELECT id, battle_id, created_at, choice, session, '[]', '' FROM old_vote""",
)


def _set_prompt_keys(db: sa.Connection) -> None:
    battle = sa.table("battle", sa.column("id"), sa.column("prompt"), sa.column("prompt_key"))
    change = battle.update().where(battle.c.id == sa.bindparam("this")).values(prompt_key=sa.bindparam("key"))
    keys = [
        {"this": row.id, "key": prompt_key(row.prompt)} for row in db.execute(sa.select(battle.c.id, battle.c.prompt))
    ]
    if keys:
        db.execute(change, keys)


def _text(name: str, **options) -> sa.Column:
    return sa.Column(name, sa.Text, **{"nullable": False, **options})


def _one_of(name: str, *values: str, nullable: bool = False) -> sa.Column:
    kind = sa.Enum(*values, name=name, native_enum=False, create_constraint=True)
    return sa.Column(name, kind, nullable=nullable)


def _key(table: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint("id", name=f"pk_{table}")


def _reference(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}")


def _create() -> None:
    op.create_table(
        "battle",
        _text("id"),
        sa.Column("created_at", MOMENT, nullable=False),
        _one_of("state", "created", "running", "ended", "voted", "revealed", "expired"),
        sa.Column("ended_at", MOMENT),
        sa.Column("voted_at", MOMENT),
        sa.Column("revealed_at", MOMENT),
        _one_of("kind", "compare", "pair", "strength", "placebo"),
        sa.Column("blind", sa.Boolean, nullable=False),
        sa.Column("imported", sa.Boolean, nullable=False),
        _text("session"),
        _text("prompt"),
        _text("prompt_key"),
        _text("category"),
        sa.Column("seed", sa.BigInteger),
        _text("mode"),
        _text("proposal"),
        _text("proposal_revision"),
        _text("app_version"),
        _text("settings"),
        _key("battle"),
    )
    op.create_table(
        "response",
        _text("id"),
        _text("battle_id"),
        _one_of("side", "a", "b"),
        sa.Column("turn", sa.Integer, nullable=False),
        _text("lane"),
        _text("aligners"),
        _text("aligner_revision"),
        _one_of("done", "eos", "length", "stopped", nullable=True),
        sa.Column("tokens", sa.Integer),
        sa.Column("tokens_per_s", sa.Float),
        sa.Column("first_token_ms", sa.Float),
        sa.Column("gated_share", sa.Float),
        sa.Column("mean_kl", sa.Float),
        _text("prompt"),
        _text("text"),
        _text("trace"),
        _key("response"),
        _reference("response", "battle_id", "battle"),
        sa.UniqueConstraint("battle_id", "side", "turn", name="uq_response_battle_id_side_turn"),
    )
    op.create_table(
        "vote",
        _text("id"),
        _text("battle_id"),
        sa.Column("created_at", MOMENT, nullable=False),
        _one_of("choice", "a", "b", "tie", "both_bad"),
        _text("session"),
        _text("reasons"),
        _text("comment"),
        _one_of("span_side", "a", "b", nullable=True),
        sa.Column("span_start", sa.Integer),
        sa.Column("span_end", sa.Integer),
        sa.Column("reading_seconds", sa.Float),
        _key("vote"),
        _reference("vote", "battle_id", "battle"),
        sa.UniqueConstraint("battle_id", name="uq_vote_battle_id"),
    )
    op.create_table(
        "review",
        sa.Column("id", sa.Integer, nullable=False),
        _text("vote_id"),
        sa.Column("created_at", MOMENT, nullable=False),
        _one_of("by", "rule", "owner"),
        sa.Column("counts", sa.Boolean, nullable=False),
        _text("why"),
        _key("review"),
        _reference("review", "vote_id", "vote"),
    )
    op.create_table("salt", _text("value"), sa.PrimaryKeyConstraint("value", name="pk_salt"))
    op.create_index("ix_battle_prompt_key", "battle", ["prompt_key"])
    op.create_index("ix_battle_state_created_at", "battle", ["state", "created_at"])
    summary = ["battle_id", "side", "turn", "aligners", "tokens", "mean_kl", "gated_share"]
    op.create_index("ix_response_summary", "response", summary)
    op.create_index("ix_vote_created_at_id", "vote", ["created_at", "id"])
    op.create_index("ix_vote_session_created_at", "vote", ["session", "created_at"])
    op.create_index("ix_review_vote_id", "review", ["vote_id"])
