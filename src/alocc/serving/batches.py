"""Images that are scored in the background: a zip or a list of addresses, one batch after the other.

How far a batch is stands in the history, written in one transaction with the rows of its images. Whatever ends the
process, the next one goes on behind the last row that is there: every image is there once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from alocc.calibration import ANOMALOUS
from alocc.errors import BusyError, ConfigError, DataError, RefusedError, UnknownModelError
from alocc.scoring.table import BOX_COLUMNS, COLUMNS, VERDICT, Row
from alocc.serving.addresses import Addresses
from alocc.serving.archives import Archive
from alocc.serving.batcher import most_together
from alocc.serving.history import OPEN_STATES, BatchRow, Filter, HistoryError, ImageRow, UnknownRowError, new_id, now
from alocc.serving.images import shown_name
from alocc.serving.station import Options, Station, Upload

TOGETHER, TOGETHER_BYTES = 64, 64 << 20
"""Images between two looks at whether somebody cancelled the batch, and about how many bytes of them are in memory."""
READERS = 4
"""Images that are read, or fetched, at the same time."""
PATIENCE = 2.0
"""Seconds between two looks for work, and two tries of a database that does not answer."""
MOST_OPEN = 16
"""Batches that are not done yet, uploads included: more are not accepted."""
ZIP, LIST = ".zip", ".txt"
"""What is kept of a batch until it ends: an archive, or addresses, one a line."""
NAME = re.compile(r"([0-9a-f]{32})\.(?:zip|txt)")
"""Of such a file: nothing else in the folder is ours."""
RESULT_COLUMNS = (*COLUMNS[:-1], VERDICT, COLUMNS[-1], *BOX_COLUMNS)


class BatchImages(Protocol):
    """The images of a batch, by their position."""

    def __len__(self) -> int: ...
    def name(self, position: int) -> str: ...
    def read(self, position: int) -> bytes: ...


class Listed:
    """Images behind addresses."""

    def __init__(self, listed: Sequence[str], addresses: Addresses) -> None:
        self.listed, self.addresses = listed, addresses

    def __len__(self) -> int:
        return len(self.listed)

    def name(self, position: int) -> str:
        """The address, without a query, which may hold a key."""
        return self.listed[position].partition("?")[0]

    def read(self, position: int) -> bytes:
        """Fetch it; a DataError if that is not allowed or not possible."""
        return self.addresses.fetch(self.listed[position])


class Batches:
    """Takes batches, and works on them in a thread of its own.

    Args:
        station: what scores.

    Raises:
        ConfigError: if an allowed prefix of addresses is none.
    """

    def __init__(self, station: Station) -> None:
        settings = station.settings
        self.station, self.history, self.limits, self.log = station, station.history, settings.limits, station.log
        self.folder = settings.store / "uploads"
        self.addresses = Addresses(
            settings.addresses, private=settings.private_addresses, most_bytes=self.limits.body_bytes
        )
        self._open: set[str] = set()
        """Batches that have not ended, and uploads."""
        self._lock = threading.Lock()
        self._ending, self._something = threading.Event(), threading.Event()
        self._under_way: str | None = None
        """Id of the batch that is worked on; none: nobody wants it any more."""
        self._readers = ThreadPoolExecutor(READERS, "alocc-batch-read")
        self._thread = threading.Thread(target=self._work, name="alocc-batches", daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier process left."""
        self._look_around()
        self._thread.start()

    def close(self) -> None:
        """End after the images under way; the batch goes on when the server is started again."""
        self._ending.set()
        self._something.set()
        if self._thread.is_alive():
            self._thread.join()
        self._readers.shutdown()

    @contextmanager
    def incoming(self, suffix: str) -> Iterator[Path]:
        """A path for an upload; it is removed in the end unless a batch was made of it.

        Args:
            suffix: :data:`ZIP` or :data:`LIST`.

        Raises:
            BusyError: if enough batches wait already.
            RefusedError: 507, if the store has no room.
        """
        id = new_id()
        with self._lock:
            if len(self._open) >= MOST_OPEN:
                raise BusyError(60)
            self._open.add(id)
        try:
            with room():
                self.folder.mkdir(parents=True, exist_ok=True)
            yield self.folder / f"{id}{suffix}"
        finally:
            try:
                if not self._is_open(id):
                    self._forget(id)
            except HistoryError:  # it may have been taken: its file stays, and the next start removes it if not
                with self._lock:
                    self._open.discard(id)

    def add_archive(self, path: Path, options: Options) -> BatchRow:
        """Take a zip at a path that :meth:`incoming` gave.

        Raises:
            DataError: if it is no zip of images, or a bomb.
            UnknownModelError, ConfigError: if the model or its alphas are not possible.
        """
        with self._archive(path) as archive:
            return self._add(path, len(archive), options, n_others=archive.n_others)

    def add_addresses(self, listed: Sequence[str], options: Options) -> BatchRow:
        """Take a list of addresses.

        Raises:
            DataError: if one of them is not below an allowed prefix.
            BusyError, RefusedError: as :meth:`incoming`.
            UnknownModelError, ConfigError: as of an archive.
        """
        for address in listed:
            self.addresses.check(address)
        with self.incoming(LIST) as path:
            with room():
                path.write_text("\n".join(listed), encoding="ascii")
            return self._add(path, len(listed), options)

    def cancel(self, id: str) -> BatchRow:
        """End a batch; what was scored stays. One that has ended stays as it is.

        Raises:
            UnknownRowError: if there is none with this id.
        """
        batch = self.history.set_batch(id, state="cancelled")
        if self._under_way == batch.id:
            self._under_way = None
        self._forget(batch.id)
        return batch

    def results(self, id: str) -> tuple[tuple[str, ...], list[Row]]:
        """Columns and rows of what is scored of a batch, in its order, as :mod:`alocc.scoring.table` writes them.

        Raises:
            UnknownRowError: if there is none with this id.
            RefusedError: 410, if retention removed some of them.
        """
        done = self.history.batch(id).done
        found = [(row.position or 0, result(row)) for row in self.history.export(Filter(batch=id))]
        if gone := max(0, done - len(found)):
            rest = f"; /v1/history.csv?batch={id} has the others" if found else ""
            raise RefusedError(410, f"{gone:,} of the {done:,} results of this batch are no longer kept{rest}")
        return RESULT_COLUMNS, [row for _, row in sorted(found, key=lambda one: one[0])]

    def _add(self, path: Path, total: int, options: Options, n_others: int = 0) -> BatchRow:
        loaded = self.station.models.get(options.model)
        _, calibration = self.station.calibrations.current(loaded)
        calibration.at(options.alpha, options.review_alpha)  # refused now, not in an hour
        asked = {"alpha": options.alpha, "review_alpha": options.review_alpha, "keep": options.keep}
        source = {"source": path.suffix, "other_files": n_others}
        batch = BatchRow(path.stem, now(), loaded.name, {**asked, **source}, total=total)
        self.history.add_batch(batch)
        self._something.set()
        return batch

    def _work(self) -> None:
        while not self._ending.is_set():
            self._something.clear()
            try:
                batch = self.history.next_batch()
                if batch:
                    self._score(batch)
                else:
                    self._something.wait(PATIENCE)
            except Exception as error:  # a database that does not answer, as a rule: the batch stays where it is
                self.log.failure("the batches", error)
                self._ending.wait(PATIENCE)

    def _score(self, batch: BatchRow) -> None:
        """Work on a batch until it has ended, or the server ends."""
        try:
            with self._source(batch) as source:
                self._under_way = batch.id
                state: str = self.history.set_batch(batch.id, state="running", total=len(source)).state
                done = batch.done
                while done < len(source) and state == "running":
                    if self._ending.is_set():
                        return
                    done = self._score_some(batch, source, done)
                    state = self.history.batch(batch.id).state
            self.history.set_batch(batch.id, state="done")
        except (ConfigError, DataError, RefusedError, UnknownModelError) as error:  # others may name paths
            self.history.set_batch(batch.id, state="failed", error=str(error))
        except HistoryError:
            raise
        except Exception as error:
            self.log.failure("a batch", error, batch=batch.id)
            self.history.set_batch(batch.id, state="failed", error="something failed here; the log says more")
        self._forget(batch.id)

    def _score_some(self, batch: BatchRow, source: BatchImages, first: int) -> int:
        """Score a few images from a position on, and say how many are in the history now."""
        most = most_together(self.station.models.get(batch.model).engine.image_format)
        found = self._read_some(batch, source, first, most)
        job = batch.job
        options = Options(batch.model, job.get("alpha"), job.get("review_alpha"), keep=job.get("keep"), source="batch")
        rows = self.station.judge_batch([upload for upload, _ in found], options, batch.id, first)
        rows = [replace(row, error=reason) if reason else row for row, (_, reason) in zip(rows, found, strict=True)]
        self.history.add(rows, batch=batch.id, done=first + len(found))
        return first + len(found)

    def _read_some(
        self, batch: BatchRow, source: BatchImages, first: int, most: int
    ) -> list[tuple[Upload, str | None]]:
        """Images from a position on: at most so many, no more than are good for memory, few if it is to end."""
        found: list[tuple[Upload, str | None]] = []
        last, n_bytes = min(first + min(most, TOGETHER), len(source)), 0
        while (position := first + len(found)) < last and n_bytes < TOGETHER_BYTES:
            wave = range(position, min(position + READERS, last))
            found += self._readers.map(lambda position: _read(source, position), wave)
            n_bytes = sum(len(upload.content) for upload, _ in found)
            if self._ending.is_set() or self._under_way != batch.id:
                break
        return found

    @contextmanager
    def _source(self, batch: BatchRow) -> Iterator[BatchImages]:
        path = self.folder / f"{batch.id}{batch.job['source']}"
        if path.suffix == LIST:
            yield Listed(_lines(path), self.addresses)
        else:
            with self._archive(path) as archive:
                yield archive

    def _archive(self, path: Path) -> Archive:
        return Archive(path, self.limits.batch_bytes, self.limits.body_bytes)

    def _is_open(self, id: str) -> bool:
        try:
            return self.history.batch(id).state in OPEN_STATES
        except UnknownRowError:
            return False

    def _forget(self, id: str) -> None:
        """Remove what was kept of a batch that has ended."""
        with self._lock:
            self._open.discard(id)
        for suffix in (ZIP, LIST):
            with suppress(OSError):
                (self.folder / f"{id}{suffix}").unlink(missing_ok=True)

    def _look_around(self) -> None:
        """Find out which batches wait, and remove uploads of others: of those that ended or never began."""
        self._open = {batch.id for batch in self.history.batches(1000) if batch.state in OPEN_STATES}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if (match := NAME.fullmatch(path.name)) and match[1] not in self._open:
                self._forget(match[1])


@contextmanager
def room() -> Iterator[None]:
    """While something is written: a RefusedError, 507, where the disk does not take it."""
    try:
        yield
    except OSError:
        raise RefusedError(507, "the server has no room for it") from None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        raise DataError("the list of addresses cannot be read") from None


def _read(source: BatchImages, position: int) -> tuple[Upload, str | None]:
    """An image, or why there is none."""
    name = shown_name(source.name(position))
    try:
        return Upload(name, source.read(position)), None
    except DataError as error:
        return Upload(name, b""), f"{name} cannot be read ({error})"


def result(row: ImageRow) -> Row:
    """A row of the history as one of a table."""
    is_anomaly = None if row.verdict is None else row.verdict == ANOMALOUS
    values = (row.name, row.anomaly_score, row.p_value, is_anomaly, row.verdict, row.error)
    box: Sequence[int | None] = (None,) * 4
    if row.regions:
        region = row.regions[0]
        box = [region["box"][side] for side in ("left", "top", "right", "bottom")]
    return dict(zip(RESULT_COLUMNS, (*values, *box), strict=True))
