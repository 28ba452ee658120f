"""The table of scores: one row an image, as CSV, JSON lines or Parquet, written as the rows come. NumPy alone."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from alocc.data.entries import Skipped, visible
from alocc.errors import ArtefactError, ConfigError
from alocc.scoring.stream import Rows
from alocc.storage import replacing

COLUMNS = ("path", "anomaly_score", "p_value", "is_anomaly", "error")
ROW_GROUP = 50_000
"""Rows of Parquet that are in memory together."""

Row = dict[str, Any]


@dataclass
class Totals:
    """What a table holds, counted as it is written."""

    n_images: int = 0
    n_anomalies: int = 0
    n_seen: int = 0
    """How many of the images the detector was trained or calibrated on."""
    skipped: list[Skipped] = field(default_factory=list)

    def rows(self, parts: Iterable[Rows]) -> Iterator[Row]:
        """A dictionary for each image: path, anomaly_score, p_value, is_anomaly, error; nothing is ``None``."""
        for names, scores, skipped, n_seen in parts:
            self.n_images += len(names)
            self.n_anomalies += int(scores.is_anomaly.sum())
            self.n_seen += n_seen
            self.skipped += skipped
            columns = (column.tolist() for column in (scores.anomaly_score, scores.p_value, scores.is_anomaly))
            for row in zip(names, *columns, itertools.repeat(None, len(names)), strict=True):
                yield dict(zip(COLUMNS, row, strict=True))
            for name, reason in skipped:
                yield dict(zip(COLUMNS, (name, None, None, None, reason), strict=True))


def check_table_path(path: Path) -> None:
    """Refuse a file name that no format goes with, before any work is done.

    Raises:
        ConfigError: if the suffix is unknown, or Parquet is asked for without pyarrow.
    """
    if path.suffix not in WRITERS:
        raise ConfigError(f"--out {path}: the file must end in {', '.join(WRITERS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ConfigError("Parquet needs pyarrow; install it with: pip install pyarrow") from None


def write_table(parts: Iterable[Rows], path: Path | None) -> Totals:
    """Write rows as they come, as the file's suffix says, or CSV to standard output; no table before the last row.

    Raises:
        ConfigError: if the suffix is unknown.
        ArtefactError: if the file, or a temporary one, cannot be written.
    """
    totals, parts = Totals(), iter(parts)
    parts = itertools.chain([next(parts)], parts)  # what is wrong with the images shows before anything is there
    if path is None:
        with tempfile.SpooledTemporaryFile(1 << 24, "w+", encoding="utf-8", newline="") as file:
            try:
                rows = totals.rows(parts)
                _write_csv(file, map(_visible, rows) if sys.stdout.isatty() else rows)
            except OSError as error:
                raise ArtefactError(f"no room for temporary files ({error.strerror or error}); give --out") from None
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout)
        return totals
    check_table_path(path)
    with replacing(path) as temporary:
        WRITERS[path.suffix](temporary, totals.rows(parts))
    return totals


def _visible(row: Row) -> Row:
    """What a terminal shows of a row, and does not obey."""
    return {name: visible(value) if isinstance(value, str) else value for name, value in row.items()}


def _csv(path: Path, rows: Iterator[Row]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        _write_csv(file, rows)


def _write_csv(file: IO[str], rows: Iterator[Row]) -> None:
    # it quotes what its line ends are made of; readers take a carriage return alone for one too
    writer = csv.writer(SimpleNamespace(write=lambda line: file.write(f"{line[:-2]}\n")), lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for name, *numbers, verdict, reason in map(dict.values, rows):
        is_anomaly = None if verdict is None else str(verdict).lower()
        writer.writerow((_plain(name), *numbers, is_anomaly, reason and _plain(reason)))


def _plain(text: str) -> str:
    """The same path in a spelling that no spreadsheet takes for a formula; errors begin with one too."""
    return f"./{text}" if text.startswith(tuple("=+-@\t\r\n＝＋－＠")) else text


def _json_lines(path: Path, rows: Iterator[Row]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _parquet(path: Path, rows: Iterator[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    types = [pyarrow.string(), pyarrow.float64(), pyarrow.float64(), pyarrow.bool_(), pyarrow.string()]
    schema = pyarrow.schema(list(zip(COLUMNS, types, strict=True)))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(rows, ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
