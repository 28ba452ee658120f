"""The file of scores: one row an image, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import bisect
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO, overload

from alocc.calibration import discoveries
from alocc.data.sources import ImageSet, Skipped, Source, check_strict
from alocc.engines import Engine
from alocc.errors import ConfigError, DataError
from alocc.scores import Scores
from alocc.storage import replacing

FORMATS = (".csv", ".jsonl", ".parquet")
COLUMNS = ("path", "anomaly_score", "p_value", "is_anomaly", "error")


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
    detector: Engine,
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
    names: list[Sequence[str]] = []
    skipped: list[Skipped] = []
    parts: list[Scores] = []
    n_seen = 0
    for batch in source.batches(detector.image_format):
        skipped += batch.skipped
        check_strict(strict, batch.skipped)
        if len(batch):
            scores = detector.score(batch.images, progress)
            if each:
                each(batch, scores)
            names.append(batch.names)
            n_seen += int(detector.was_seen(batch.images).sum())
            parts.append(replace(scores, parts={}, p_real=None))  # the table needs no more, of millions of images
    if not parts:
        first = f"; the first: {skipped[0].reason}" if skipped else ""
        raise DataError(f"none of the {len(skipped)} images can be used{first}")
    return ScoreTable(Joined(names), Scores.joined(parts), skipped, n_seen)


class Joined(Sequence[str]):
    """Names, batch after batch, as the batches keep them."""

    def __init__(self, batches: Sequence[Sequence[str]]) -> None:
        self.batches, self.ends = batches, list(itertools.accumulate(map(len, batches)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self.batches)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        number = range(len(self))[index]
        batch = bisect.bisect_right(self.ends, number)
        return self.batches[batch][number - self.ends[batch]]


@dataclass(frozen=True)
class ScoreTable:
    """Scores beside the names of their images; images that could not be read have an error instead."""

    names: Sequence[str]
    scores: Scores
    skipped: Sequence[Skipped] = ()
    n_seen: int = 0
    """How many of the images the detector was trained or calibrated on: their scores flatter it."""

    def with_false_discovery_rate(self, rate: float) -> ScoreTable:
        """The same scores, with as many images called anomalies as the rate allows in this batch."""
        called = discoveries(self.scores.p_value, rate)
        return replace(self, scores=replace(self.scores, is_anomaly=called))

    def rows(self) -> Iterator[dict[str, Any]]:
        """An object for each image: path, anomaly_score, p_value, is_anomaly, error; nothing is written ``None``."""
        columns = (self.scores.anomaly_score, self.scores.p_value, self.scores.is_anomaly)
        for name, anomaly_score, p_value, is_anomaly in zip(self.names, *columns, strict=True):
            yield dict(zip(COLUMNS, (name, float(anomaly_score), float(p_value), bool(is_anomaly), None), strict=True))
        for item in self.skipped:
            yield dict(zip(COLUMNS, (item.name, None, None, None, item.reason), strict=True))

    def write_csv(self, file: TextIO) -> None:
        """CSV with a header, row by row."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows():
            verdict = row["is_anomaly"]
            writer.writerow((row | {"is_anomaly": None if verdict is None else str(verdict).lower()}).values())

    def as_csv(self) -> str:
        """CSV with a header."""
        text = io.StringIO()
        self.write_csv(text)
        return text.getvalue()

    def write(self, path: Path) -> None:
        """Write the format that the file's suffix names.

        Raises:
            ConfigError: if the suffix is unknown.
            ArtefactError: if the file cannot be written.
        """
        check_table_path(path)
        with replacing(path) as temporary:
            if path.suffix == ".parquet":
                self._write_parquet(temporary)
                return
            with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                if path.suffix == ".csv":
                    self.write_csv(file)
                else:
                    file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self.rows())

    def _write_parquet(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        types = [pyarrow.string(), pyarrow.float64(), pyarrow.float64(), pyarrow.bool_(), pyarrow.string()]
        schema = pyarrow.schema(list(zip(COLUMNS, types, strict=True)))
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(self.rows()), schema=schema), path)
