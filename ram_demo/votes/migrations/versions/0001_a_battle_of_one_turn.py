"""The first tables: a battle of one turn, its two responses, its one vote."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "battle",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("proposal", sa.Text, nullable=False),
        sa.Column("proposal_revision", sa.Text, nullable=False),
        sa.Column("app_version", sa.Text, nullable=False),
    )
    op.create_table(
        "response",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("battle_id", sa.Text, sa.ForeignKey("battle.id"), nullable=False),
        sa.Column("side", sa.String(1), sa.CheckConstraint("side IN ('a', 'b')", name="side"), nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("aligners", sa.Text, nullable=False),
        sa.Column("aligner_revision", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column(
            "done",
            sa.String(7),
            sa.CheckConstraint("done IN ('eos', 'length', 'stopped')", name="done"),
            nullable=False,
        ),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("tokens_per_s", sa.Float, nullable=False),
        sa.Column("first_token_ms", sa.Float, nullable=False),
        sa.Column("gated_share", sa.Float),
        sa.Column("mean_kl", sa.Float),
        sa.Column("trace", sa.Text, nullable=False),
        sa.UniqueConstraint("battle_id", "side"),
    )
    op.create_table(
        "vote",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("battle_id", sa.Text, sa.ForeignKey("battle.id"), nullable=False, unique=True),
        sa.Column(
            "choice",
            sa.String(8),
            sa.CheckConstraint("choice IN ('a', 'b', 'tie', 'both_bad')", name="choice"),
            nullable=False,
        ),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )
