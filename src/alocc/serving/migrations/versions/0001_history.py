"""Batches, images, marks and calibrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Into an empty database."""
    _batches()
    _images()
    op.create_table(
        "marks",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("image", NUMBER, sa.ForeignKey("images.number"), nullable=False, index=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("mark", sa.String(16)),
        sa.Column("before", sa.String(16)),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("undone", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "calibrations",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("alpha", sa.Float(53), nullable=False),
        sa.Column("review_alpha", sa.Float(53)),
        sa.Column("basis", sa.String(16), nullable=False),
        sa.Column("n_images", sa.Integer, nullable=False),
        sa.Column("held_out_scores", sa.LargeBinary, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
    )


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("finished", sa.BigInteger),
        sqlite_autoincrement=True,
    )


def _images() -> None:
    op.create_table(
        "images",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("time", sa.BigInteger, nullable=False, index=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("calibration", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("folded", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, index=True),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("batch", sa.String(32), sa.ForeignKey("batches.id")),
        sa.Column("position", sa.Integer),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("anomaly_score", sa.Float(53)),
        sa.Column("p_value", sa.Float(53)),
        sa.Column("verdict", sa.String(16)),
        sa.Column("alpha", sa.Float(53), nullable=False),
        sa.Column("review_alpha", sa.Float(53)),
        sa.Column("regions", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.Column("mark", sa.String(16)),
        sa.UniqueConstraint("batch", "position"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_images_model", "images", ["model", "number"])
    op.create_index("ix_images_model_verdict", "images", ["model", "verdict", "number"])
    op.create_index("ix_images_verdict", "images", ["verdict", "number"])
    op.create_index("ix_images_mark", "images", ["mark", "number"])
    of_batch = sa.text("batch IS NOT NULL")
    op.create_index("ix_images_batch", "images", ["batch", "number"], sqlite_where=of_batch, postgresql_where=of_batch)
