"""The file of scores: one row an image, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alocc.data.sources import ImageSet, Skipped, Source
from alocc.detector import Detector, Scores
from alocc.errors import ConfigError, DataError
from alocc.model.calibration import discoveries
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


def score_source(
    detector: Detector,
    source: Source,
    *,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
    each: Callable[[ImageSet, Scores], None] | None = None,
) -> ScoreTable:
    """Score all images of a source in bounded memory: a batch is decoded while the one before it is scored.

    Args:
        detector: what scores.
        source: where the images are.
        strict: stop at the first image that cannot be used.
        progress: told of every few images that are done.
        each: given every batch and its scores, before the images are let go.

    Raises:
        DataError: if not one image can be used, or, if strict, if one cannot.
    """
    names: list[str] = []
    skipped: list[Skipped] = []
    parts: list[Scores] = []
    for batch in source.batches(detector.image_format):
        skipped += batch.skipped
        if strict and skipped:
            raise DataError(skipped[0].reason)
        if len(batch):
            scores = detector.score(batch.images, progress)
            names += batch.names
            parts.append(scores)
            if each:
                each(batch, scores)
    if not parts:
        first = f"; the first: {skipped[0].reason}" if skipped else ""
        raise DataError(f"none of the {len(skipped)} images can be used{first}")
    return ScoreTable(names, Scores.joined(parts), skipped)


@dataclass(frozen=True)
class ScoreTable:
    """Scores beside the names of their images; images that could not be read have an error instead."""

    names: Sequence[str]
    scores: Scores
    skipped: Sequence[Skipped] = ()

    def with_false_discovery_rate(self, rate: float) -> ScoreTable:
        """The same scores, with as many images called anomalies as the rate allows in this batch."""
        called = discoveries(self.scores.p_value, rate)
        return replace(self, scores=replace(self.scores, is_anomaly=called))

    def columns(self) -> dict[str, list[Any]]:
        """path, anomaly_score, p_value, is_anomaly, error; nothing is written ``None``."""
        skipped = self.skipped
        blank = [None] * len(skipped)
        return {
            "path": [*self.names, *(item.name for item in skipped)],
            "anomaly_score": [*self.scores.anomaly_score.tolist(), *blank],
            "p_value": [*self.scores.p_value.tolist(), *blank],
            "is_anomaly": [*self.scores.is_anomaly.tolist(), *blank],
            "error": [*[None] * len(self.names), *(item.reason for item in skipped)],
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
