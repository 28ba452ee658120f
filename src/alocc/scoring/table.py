"""The table of scores, one row an image, and that of regions, as CSV, JSON lines or Parquet, written as the rows come.

NumPy alone.
"""

from __future__ import annotations

import csv
import heapq
import io
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Literal

from alocc.calibration import CANT_TELL
from alocc.data.entries import Skipped, visible
from alocc.errors import ArtefactError, ConfigError
from alocc.scoring.stream import Rows, Scorer
from alocc.storage import replacing

COLUMNS = ("path", "anomaly_score", "p_value", "is_anomaly", "error")
VERDICT = "verdict"
"""The column behind is_anomaly, with a review alpha: "anomalous", "can't tell" or "normal"."""
BOX_COLUMNS = ("box_left", "box_top", "box_right", "box_bottom")
"""The box of the strongest place of an image that is not called normal, in the image's own pixels; right and bottom are
the first ones beyond it."""
CLASS = "class"
"""The last column, of images from a source with classes."""
REGION_COLUMNS = ("path", "x", "y", "width", "height", "area", "peak", "p_value", "reason")
SUSPECTS = "suspects.csv"
"""List of the images that are not called normal, beside their pictures."""
SUSPECT_COLUMNS = ("path", "anomaly_score", "p_value", "picture")
"""Of that list; :data:`VERDICT`, with a review alpha, and :data:`CLASS`, where images have classes, follow."""
ROW_GROUP = 50_000
"""Rows of Parquet that are in memory together."""

Row = dict[str, Any]
Only = Literal["anomalies", "review"]
"""Images that a list is of: those that are called anomalies, or those that are for a person."""


@dataclass
class Totals:
    """What a table holds, counted as it is written."""

    n_images: int = 0
    n_anomalies: int = 0
    n_review: int = 0
    """Images of which the detector can't tell, and which are for a person."""
    n_seen: int = 0
    """How many of the images the detector was trained or calibrated on."""
    skipped: list[Skipped] = field(default_factory=list)
    with_boxes: bool = False
    """Whether rows have :data:`BOX_COLUMNS` too."""
    with_classes: bool = False
    """Whether rows have :data:`CLASS` too; found out from the first ones."""
    with_verdicts: bool = False
    """The same of :data:`VERDICT`."""
    with_regions: bool = False
    """Whether the rows of images that are not called normal have regions and n_regions, how many there are, too."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What every row has."""
        *first, error = COLUMNS
        verdict = (VERDICT,) if self.with_verdicts else ()
        boxes, of_class = BOX_COLUMNS if self.with_boxes else (), (CLASS,) if self.with_classes else ()
        return (*first, *verdict, error, *boxes, *of_class)

    def summary(self, scorer: Scorer, fdr: float | None = None) -> str:
        """How many images are anomalies, and by which rule, and how many are for a person, in a line."""
        found = f"{self.n_anomalies:,} of {self.n_images:,} images are anomalies"
        rule = f"at a false-discovery rate of {fdr:g}" if fdr else f"at alpha {scorer.alpha:g}"
        if scorer.review_alpha is None:
            return f"{found} {rule}"
        rates = f"between alpha {scorer.alpha:g} and {scorer.review_alpha:g}"
        if fdr:
            found, rates = f"{found} {rule}", f"up to alpha {scorer.review_alpha:g}"
        return f"{found}, {self.n_review:,} more for a person (can't tell {rates})"

    def rows(self, parts: Iterable[Rows]) -> Iterator[Row]:
        """A dictionary for each image: path, anomaly_score, p_value, is_anomaly, error, …; nothing is ``None``.

        The class of an image that could not be used is not known.
        """
        for part in parts:
            self.with_classes = self.with_classes or bool(part.classes)
            self.with_verdicts = self.with_verdicts or part.scores.review_alpha is not None
            nothing: Row = dict.fromkeys(self.columns)
            names, scores, verdict = part.names, part.scores, part.scores.verdict
            self.n_images += len(names)
            self.n_anomalies += int(scores.is_anomaly.sum())
            self.n_review += scores.n_review or 0
            self.n_seen += part.n_seen
            self.skipped += part.skipped
            keys = ("path", "anomaly_score", "p_value", "is_anomaly", *((VERDICT,) if self.with_verdicts else ()))
            columns = [c.tolist() for c in (scores.anomaly_score, scores.p_value, scores.is_anomaly, verdict)]
            regions = part.regions or itertools.repeat((), len(names))
            classes = part.classes or itertools.repeat("", len(names))
            for *values, found, of in zip(names, *columns, regions, classes, strict=True):
                row = nothing | dict(zip(keys, values, strict=False))
                if self.with_classes:
                    row[CLASS] = of or None
                if found and self.with_boxes:
                    row |= _box_of(found[0])
                if found and self.with_regions:
                    row |= {"n_regions": found[0].n_regions, "regions": list(map(_columns_of, found))}
                yield row
            for name, reason in part.skipped:
                yield nothing | {"path": name, "error": reason}


Choice = Callable[[Iterator[Row]], Iterator[Row]]
"""Which rows a table gets, and in which order."""


def most_anomalous(rows: Iterable[Row], top: int | None = None, *, only: Only | None = None) -> Iterator[Row]:
    """Rows of images that could be used, the most anomalous first; equal ones stay as they came.

    At most ``top`` rows, or ``only`` those of anomalies, or of images for a person; no others are in memory.
    """

    def is_wanted(row: Row) -> bool:
        if only is None:
            return row["is_anomaly"] is not None
        return bool(row["is_anomaly"]) if only == "anomalies" else row.get(VERDICT) == CANT_TELL

    wanted = filter(is_wanted, rows)
    score = itemgetter("anomaly_score")
    yield from sorted(wanted, key=score, reverse=True) if top is None else heapq.nlargest(top, wanted, score)


@dataclass
class RegionTable:
    """Writes the regions of images that are not called normal while their rows pass by."""

    path: Path
    n_regions: int = 0
    """How many were written."""
    n_shortened: int = 0
    """Images that have more regions than those that were written."""

    def beside(self, parts: Iterable[Rows]) -> Generator[Rows, None, None]:
        """The same rows; there is no table before the last of them was taken.

        Raises:
            ArtefactError: if the file cannot be written.
        """
        parts = iter(parts)
        parts = itertools.chain([next(parts)], parts)  # what is wrong with the images shows before anything is there
        with replacing(self.path) as temporary, _opened(temporary) as file:
            write = REGION_WRITERS[self.path.suffix](file)
            for part in parts:
                for name, regions in zip(part.names, part.regions, strict=True):
                    self.n_regions += len(regions)
                    self.n_shortened += bool(regions) and regions[0].n_regions > len(regions)
                    for region in regions:
                        write({"path": name} | _columns_of(region))
                yield part


def _columns_of(region: Any) -> Row:
    return {column: getattr(region, column) for column in REGION_COLUMNS[1:]}


def _box_of(region: Any) -> Row:
    sides = (region.x, region.y, region.x + region.width, region.y + region.height)
    return dict(zip(BOX_COLUMNS, sides, strict=True))


def write_suspects(path: Path, rows: Iterable[Row]) -> None:
    """Write a table of images that are not called normal and of their pictures, the most anomalous first.

    Args:
        path: of the CSV file.
        rows: with :data:`SUSPECT_COLUMNS` and what may follow these, in any order.

    Raises:
        ArtefactError: if the file cannot be written.
    """
    rows = list(rows)
    columns = (*SUSPECT_COLUMNS, *(name for name in (VERDICT, CLASS) if any(row.get(name) for row in rows)))
    rows = [{column: row.get(column) for column in columns} for row in rows]
    with replacing(path) as temporary, _opened(temporary) as file:
        _write_csv(file, iter(sorted(rows, key=itemgetter("anomaly_score"), reverse=True)), columns)


def may_hold_suspects(path: Path) -> bool:
    """Whether there is no such file yet, or an earlier list of ours, which may be replaced."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return False
    with suppress(FileNotFoundError), path.open("rb") as file:
        names = file.readline(200).strip().removesuffix(f",{CLASS}".encode()).removesuffix(f",{VERDICT}".encode())
        return names == ",".join(SUSPECT_COLUMNS).encode()
    return True


def check_table_path(path: Path, option: str = "--out", *, maps: Path | None = None) -> None:
    """Refuse a file name that no format goes with, before any work is done; ``option`` is --out or --regions.

    Raises:
        ConfigError: if the suffix is unknown, or Parquet is asked for without pyarrow; or if the file is the list of
            suspects in ``maps``, the folder of pictures.
    """
    if maps and path.resolve() == (maps / SUSPECTS).resolve():
        raise ConfigError(f"{option} {path}: that is the list of suspects of --maps; give another file")
    suffixes = WRITERS if option == "--out" else REGION_WRITERS
    if path.suffix not in suffixes:
        raise ConfigError(f"{option} {path}: the file must end in {', '.join(suffixes)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ConfigError("Parquet needs pyarrow; install it with: pip install pyarrow") from None


def write_table(parts: Iterable[Rows], path: Path | None, choose: Choice = iter, *, with_boxes: bool = False) -> Totals:
    """Write rows as they come, as the file's suffix says, or CSV to standard output; no table before the last row.

    ``choose`` picks and sorts the rows that are written; the totals count all. With boxes, images that are not called
    normal have that of their strongest place.

    Raises:
        ConfigError: if the suffix is unknown.
        ArtefactError: if the file, or a temporary one, cannot be written.
    """
    parts = iter(parts)
    first = next(parts)  # what is wrong with the images shows before anything is there
    with_verdicts = first.scores.review_alpha is not None
    totals = Totals(with_boxes=with_boxes, with_classes=bool(first.classes), with_verdicts=with_verdicts)
    rows = choose(totals.rows(itertools.chain([first], parts)))
    if path is None:
        with tempfile.SpooledTemporaryFile(1 << 24, "w+", encoding="utf-8", newline="") as file:
            try:
                _write_csv(file, map(_visible, rows) if sys.stdout.isatty() else rows, totals.columns)
            except OSError as error:
                raise ArtefactError(f"no room for temporary files ({error.strerror or error}); give --out") from None
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout)
        return totals
    check_table_path(path)
    with replacing(path) as temporary:
        WRITERS[path.suffix](temporary, rows, totals.columns)
    return totals


def _visible(row: Row) -> Row:
    """What a terminal shows of a row, and does not obey."""
    return {name: visible(value) if isinstance(value, str) else value for name, value in row.items()}


def _opened(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def _csv(path: Path, rows: Iterator[Row], columns: Sequence[str]) -> None:
    with _opened(path) as file:
        _write_csv(file, rows, columns)


def _csv_lines(file: IO[str], columns: Sequence[str]) -> Callable[[Iterable[Any]], object]:
    """Write the names of the columns, and give a function that writes a line."""
    # it quotes what its line ends are made of; readers take a carriage return alone for one too
    writer = csv.writer(SimpleNamespace(write=lambda line: file.write(f"{line[:-2]}\n")), lineterminator="\r\n")
    writer.writerow(columns)
    return writer.writerow


def _write_csv(file: IO[str], rows: Iterator[Row], columns: Sequence[str]) -> None:
    write = _csv_lines(file, columns)
    for row in rows:
        write(map(_plain_cell, row.values()))


def csv_text(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """The lines of a CSV table, its header first, as they come, written like every other one."""
    buffer = io.StringIO()
    write = _csv_lines(buffer, columns)
    for row in rows:
        write(_plain_cell(row[column]) for column in columns)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _csv_of_regions(file: IO[str]) -> Callable[[Row], object]:
    write = _csv_lines(file, REGION_COLUMNS)
    return lambda row: write(map(_plain_cell, row.values()))


def _plain_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return _plain(value) if isinstance(value, str) else value


def _plain(text: str) -> str:
    """The same path in a spelling that no spreadsheet takes for a formula; errors begin with one too."""
    return f"./{text}" if text.startswith(tuple("=+-@\t\r\n＝＋－＠")) else text


def _json_line(row: Row) -> str:
    return f"{json.dumps(row, ensure_ascii=False)}\n"


def _json_lines(path: Path, rows: Iterator[Row], columns: Sequence[str]) -> None:
    with _opened(path) as file:
        file.writelines(map(_json_line, rows))


def _json_lines_of_regions(file: IO[str]) -> Callable[[Row], object]:
    return lambda row: file.write(_json_line(row))


def _parquet(path: Path, rows: Iterator[Row], columns: Sequence[str]) -> None:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(path, as_arrow((), columns).schema) as writer:
        while group := list(itertools.islice(rows, ROW_GROUP)):
            writer.write_table(as_arrow(group, columns))


def as_arrow(rows: Sequence[Row], columns: Sequence[str]) -> Any:
    """A table of Arrow; columns of other names hold whole numbers."""
    import pyarrow

    types = [pyarrow.string(), pyarrow.float64(), pyarrow.float64(), pyarrow.bool_(), pyarrow.string()]
    of_column = dict(zip(COLUMNS, types, strict=True)) | dict.fromkeys((VERDICT, CLASS), pyarrow.string())
    schema = pyarrow.schema([(name, of_column.get(name, pyarrow.int64())) for name in columns])
    return pyarrow.Table.from_pylist(list(rows), schema=schema)


WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
REGION_WRITERS = {".csv": _csv_of_regions, ".jsonl": _json_lines_of_regions}
