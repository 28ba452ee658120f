"""Rows of a scoring job under way, in a hidden file beside its table: the same command goes on from there.

The first line says which job it is; every further one holds the rows of some images, in order. A line that a process
left half-written when it was killed does not count.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import BufferedReader, FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from alocc.data.entries import Skipped
from alocc.errors import ArtefactError, ConfigError
from alocc.scores import Scores
from alocc.scoring.stream import Rows
from alocc.storage import lock, remove_drafts

EVERY = 2.0
"""Seconds after which rows are written: a shorter job leaves no trace, a longer one loses no more if it is killed."""
FORMAT = {"alocc_unfinished": 1}
"""Begins the first line: what the file is, and how its lines are to be read."""
MARK = b'{"alocc_unfinished":'
END = b"null\n"
"""Line behind the last rows of a pass over the images."""


class Journal:
    """Keeps rows that pass by, and gives those first that were kept before; a context in which the job runs.

    The file is removed if the context ends well.
    """

    def __init__(
        self,
        table: Path | None,
        job: Mapping[str, Any],
        others: Sequence[Path] = (),
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin.

        Args:
            table: file of the job, beside which rows are kept; none, or what is no ordinary file: none are.
            job: all that the rows depend on, as plain values: rows that are kept of another job do not count.
            others: further files that the job writes.
            note: told of a job that goes on, and of rows that do not count.
        """
        target = Path(os.path.realpath(table)) if table else None
        self.path = None
        if target and (target.is_file() or not target.exists()):
            self.path = target.with_name(f".{target.name}.unfinished")
        self.written = (target, *others) if target else others
        self.note = note
        self.n_kept = 0
        """Images of this pass that need not be scored again, those that could not be used included."""
        self._job = _line({**FORMAT, **job})
        self._pending: list[bytes] = []
        self._last_write = time.monotonic()
        self._end = 0  # bytes of the lines that count
        self._kept: BufferedReader | None = None  # what is left to be read
        self._file: FileIO | None = None

    def keep(
        self, score_from: Callable[[int], Iterable[Rows]], scored_before: Callable[[Rows, int], None] = lambda *_: None
    ) -> Generator[Rows, None, None]:
        """Rows of one pass over the images, those first that were kept; a job with several passes calls it again.

        Args:
            score_from: gives the rows of all but the first so many images, counted with those that cannot be used.
            scored_before: is given rows that were kept, and how many images came before them, before they come out.
        """
        self.n_kept = 0
        while (line := self._next_line()) is not None:
            if line == END:
                return
            rows = from_line(line)
            scored_before(rows, self.n_kept)
            self._count(rows)
            yield rows
        if self.n_kept:
            self.note(f"going on from image {self.n_kept + 1:,}: those before it were scored when the job was stopped")
        for rows in score_from(self.n_kept):
            self._add(to_line(rows))
            self._count(rows)
            yield rows
        self._add(END)

    def __enter__(self) -> Journal:
        """Find out what is kept.

        Raises:
            ConfigError: if another process writes the same table, or another file has the name that is needed.
            ArtefactError: if the file is there and cannot be written.
        """
        if self.path and os.path.lexists(self.path):
            try:
                self._read_job(self._open())
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind and not issubclass(kind, Exception):  # somebody stopped it
            with suppress(ArtefactError):
                self._write()
        if self.path and self._file and kind is None:
            self.path.unlink(missing_ok=True)
        if self._file:
            self._file.close()

    def _count(self, rows: Rows) -> None:
        self.n_kept += len(rows.names) + len(rows.skipped)

    def _open(self) -> FileIO:
        """Open the file for this process alone; it is made if it is not there."""
        assert self.path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
            lock(self._file.fileno())
        except BlockingIOError:
            message = f"another process writes the same table, and holds {self.path}; give another --out"
            raise ConfigError(message) from None
        except OSError as error:
            raise ArtefactError(f"{self.path} cannot be written ({error.strerror or error})") from None
        return self._file

    def _read_job(self, file: FileIO) -> None:
        """Find out whether the file is of the same job."""
        self._kept = BufferedReader(FileIO(file.fileno(), closefd=False))
        if (line := self._kept.readline()) == self._job:
            self._end = len(line)
            for path in self.written:
                remove_drafts(path)
            return
        self._kept = None
        if not (line.startswith(MARK) or MARK.startswith(line)):
            raise ConfigError(f"{self.path} is no file of alocc's, and alocc needs its name; move it")
        known, wanted = _parsed(line), json.loads(self._job)
        if known:
            others = ", ".join(key for key in wanted if known.get(key) != wanted[key])
            self.note(f"{self.path} is of a stopped job with other values of: {others}; this one begins anew")

    def _next_line(self) -> bytes | None:
        """The next line that was kept; none behind the last, from where on lines are written."""
        line = self._kept.readline() if self._kept else b""
        if line.endswith(b"\n") and (line == END or isinstance(_parsed(line), dict)):
            self._end += len(line)
            return line
        self._kept = None
        return None

    def _add(self, line: bytes) -> None:
        if self.path:
            self._pending.append(line)
            if time.monotonic() - self._last_write >= EVERY:
                self._write()

    def _write(self) -> None:
        """Write the lines that wait, behind the last that counts."""
        if not self._pending:
            return
        lines = b"".join(self._pending if self._end else [self._job, *self._pending])
        file, left = self._file or self._open(), memoryview(lines)
        try:
            file.seek(self._end)
            file.truncate()
            while left:
                left = left[file.write(left) or 0 :]
        except OSError as error:
            raise ArtefactError(f"{self.path} cannot be written ({error.strerror or error})") from None
        self._end += len(lines)
        self._pending, self._last_write = [], time.monotonic()


def _line(value: Any) -> bytes:
    return f"{json.dumps(value, separators=(',', ':'))}\n".encode()


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def to_line(rows: Rows) -> bytes:
    """Rows as a line of JSON, in which no bit is lost."""
    scores = rows.scores
    plain = {
        "names": list(rows.names),
        "anomaly_score": scores.anomaly_score.tolist(),
        "p_value": scores.p_value.tolist(),
        "is_anomaly": scores.is_anomaly.tolist(),
        "alpha": scores.alpha,
        "review_alpha": scores.review_alpha,
        "skipped": list(map(list, rows.skipped)),
        "n_seen": rows.n_seen,
        "regions": [list(map(asdict, regions)) for regions in rows.regions],
        "classes": list(rows.classes),
    }
    return _line(plain)


def from_line(line: bytes) -> Rows:
    """The rows of :func:`to_line`."""
    plain = json.loads(line)
    anomaly_score, p_value = np.array(plain["anomaly_score"]), np.array(plain["p_value"])
    is_anomaly = np.array(plain["is_anomaly"], np.bool_)
    regions = plain["regions"]
    if any(regions):
        from alocc.regions import Region

        regions = [[Region(**region) for region in of_image] for of_image in regions]
    skipped = [Skipped(*item) for item in plain["skipped"]]
    rates = {name: plain.get(name) for name in ("alpha", "review_alpha")}
    scores = Scores(anomaly_score, p_value, is_anomaly, {}, None, **rates)
    return Rows(plain["names"], scores, skipped, plain["n_seen"], regions, plain["classes"])
