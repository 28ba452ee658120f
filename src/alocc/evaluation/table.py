"""The file of scores: one row an image, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alocc.data.sources import ImageSet
from alocc.detector import Scores
from alocc.errors import ConfigError
from alocc.storage import replacing, write_text

FORMATS = (".csv", ".jsonl", ".parquet")


def check_table_path(path: Path) -> None:
    """Refuse a file name that no format goes with, before any work is done.

    Raises:
        ConfigError: if the suffix is unknown, or Parquet is asked for without pyarrow.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"--out {path}: the file must end in {', '.join(FORMATS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ConfigError("Parquet needs pyarrow; install it with: pip install 'alocc[parquet]'") from None


@dataclass(frozen=True)
class ScoreTable:
    """Scores beside the names of their images; images that could not be read have an error instead."""

    images: ImageSet
    scores: Scores

    def columns(self) -> dict[str, list[Any]]:
        """path, anomaly_score, p_value, is_anomaly, error; nothing is written ``None``."""
        skipped = self.images.skipped
        blank = [None] * len(skipped)
        return {
            "path": [*self.images.names, *(item.name for item in skipped)],
            "anomaly_score": [*self.scores.anomaly_score.tolist(), *blank],
            "p_value": [*self.scores.p_value.tolist(), *blank],
            "is_anomaly": [*self.scores.is_anomaly.tolist(), *blank],
            "error": [*[None] * len(self.images), *(item.reason for item in skipped)],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One object for each image."""
        columns = self.columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def as_csv(self) -> str:
        """CSV with a header."""
        columns = self.columns()
        columns["is_anomaly"] = [None if value is None else str(value).lower() for value in columns["is_anomaly"]]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue()

    def write(self, path: Path) -> None:
        """Write the format that the file's suffix names.

        Raises:
            ConfigError: if the suffix is unknown.
            ArtefactError: if the file cannot be written.
        """
        check_table_path(path)
        if path.suffix == ".csv":
            write_text(path, self.as_csv())
        elif path.suffix == ".jsonl":
            write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self.rows()))
        else:
            import pyarrow
            import pyarrow.parquet

            types = [pyarrow.string(), pyarrow.float64(), pyarrow.float64(), pyarrow.bool_(), pyarrow.string()]
            columns = self.columns()
            schema = pyarrow.schema(list(zip(columns, types, strict=True)))
            with replacing(path) as temporary:
                pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), temporary)
