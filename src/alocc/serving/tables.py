"""The tables of the history, as they are now; how they came to be is in ``migrations``.

Moments are whole microseconds since 1970 (UTC), and JSON is text: every database keeps and compares these alike.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()
VERSION_TABLE = "alocc_schema"
"""Holds the version of the tables, and says that a database is ours."""

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up in columns that are INTEGER and nothing else

batches = Table(
    "batches",
    METADATA,
    Column("number", _NUMBER, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("time", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("done", Integer, nullable=False),
    Column("total", Integer),
    Column("error", Text),
    Column("finished", BigInteger),
    sqlite_autoincrement=True,
)

images = Table(
    "images",
    METADATA,
    Column("number", _NUMBER, primary_key=True),  # in the order of arrival, by which pages go
    Column("id", String(32), nullable=False, unique=True),
    Column("time", BigInteger, nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("version", String(64), nullable=False),
    Column("calibration", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("folded", Text, nullable=False),  # the name without upper case, which is searched
    Column("sha256", String(64), nullable=False, index=True),
    Column("source", String(16), nullable=False),
    Column("batch", String(32), ForeignKey("batches.id")),
    Column("position", Integer),
    Column("width", Integer),
    Column("height", Integer),
    Column("anomaly_score", Float(53)),
    Column("p_value", Float(53)),
    Column("verdict", String(16)),
    Column("alpha", Float(53), nullable=False),
    Column("review_alpha", Float(53)),
    Column("regions", Text, nullable=False),
    Column("error", Text),
    Column("kept", Boolean, nullable=False),
    Column("mark", String(16)),
    UniqueConstraint("batch", "position"),
    Index("ix_images_model", "model", "number"),
    Index("ix_images_model_verdict", "model", "verdict", "number"),
    Index("ix_images_verdict", "verdict", "number"),
    Index("ix_images_mark", "mark", "number"),
    sqlite_autoincrement=True,
)
_OF_BATCH = images.c.batch.is_not(None)
Index("ix_images_batch", images.c.batch, images.c.number, sqlite_where=_OF_BATCH, postgresql_where=_OF_BATCH)

marks = Table(
    "marks",
    METADATA,
    Column("number", _NUMBER, primary_key=True),
    Column("image", _NUMBER, ForeignKey("images.number"), nullable=False, index=True),
    Column("time", BigInteger, nullable=False),
    Column("mark", String(16)),
    Column("before", String(16)),  # the mark that it took the place of
    Column("comment", Text, nullable=False),
    Column("undone", BigInteger),  # when it was taken back
    sqlite_autoincrement=True,
)

calibrations = Table(
    "calibrations",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("alpha", Float(53), nullable=False),
    Column("review_alpha", Float(53)),
    Column("basis", String(16), nullable=False),
    Column("n_images", Integer, nullable=False),
    Column("held_out_scores", LargeBinary, nullable=False),  # float64, little-endian, ascending
    Column("active", Boolean, nullable=False),
)
