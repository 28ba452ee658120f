"""Rows → the history, and bytes of images → the disk, by a thread of its own, many at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from alocc.errors import AloccError, BusyError
from alocc.serving.history import History, ImageRow
from alocc.serving.kept import Kept
from alocc.serving.logs import Log

MOST_ROWS, MOST_BYTES = 4096, 256 << 20
"""Rows, and bytes of images, that wait to be written; while there are more, nothing new is scored."""
GATHERING, AGAIN = 0.02, 1.0
"""Seconds: rows of so long are written in one transaction; after so long a database that failed is asked again."""
LAST_TRIES = 5
"""How often a database that fails is asked while the server ends."""


class Writer:
    """What was scored and is not in the history yet. Any thread may put rows; one writes."""

    def __init__(self, history: History, kept: Kept, log: Log) -> None:
        self._history, self._kept, self._log = history, kept, log
        self._rows: list[ImageRow] = []
        self._contents: dict[str, bytes] = {}
        self._n_bytes = 0
        self._n_writing = 0
        self._flushed: list[Future[None]] = []
        self._closing = threading.Event()
        self._something = threading.Condition()
        self.problem: str | None = None
        """Why rows cannot be written now; none if they can."""
        self._thread = threading.Thread(target=self._work, name="alocc-writer", daemon=True)
        self._thread.start()

    @property
    def unwritten(self) -> int:
        """Rows that are not in the history yet."""
        return len(self._rows) + self._n_writing

    def admit(self) -> None:
        """Raise a BusyError if so much waits to be written that nothing more should be scored."""
        if self.unwritten > MOST_ROWS or self._n_bytes > MOST_BYTES:
            raise BusyError(1)

    def put(self, rows: Sequence[ImageRow], contents: Sequence[bytes | None]) -> None:
        """Have rows written, and the bytes of those images that are kept."""
        with self._something:
            self._rows += rows
            for row, content in zip(rows, contents, strict=True):
                if content is not None and row.sha256 not in self._contents:
                    self._contents[row.sha256] = content
                    self._n_bytes += len(content)
            self._something.notify()

    def keep(self, sha256: str, content: bytes) -> bool:
        """Keep an image's bytes now, and say whether that went well; if not, the log says why."""
        try:
            self._kept.put(sha256, content)
        except (AloccError, OSError) as error:
            self._log.failure("keep", error)
            return False
        return True

    def flushed(self) -> Future[None]:
        """Done once everything is in the history that was put until now."""
        done: Future[None] = Future()
        with self._something:
            if self.unwritten:
                self._flushed.append(done)
            else:
                done.set_result(None)
        return done

    def close(self) -> None:
        """Write everything, and end."""
        self._closing.set()
        with self._something:
            self._something.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._something:
                while not self._rows and not self._closing.is_set():
                    self._something.wait()
                if not self._rows:
                    return
            self._closing.wait(GATHERING)
            with self._something:
                rows, self._rows = self._rows, []
                contents, self._contents = self._contents, {}
                flushed, self._flushed = self._flushed, []
                self._n_writing = len(rows)
            self._write(rows, contents)
            with self._something:
                self._n_writing = 0
                self._n_bytes -= sum(map(len, contents.values()))
            for done in flushed:
                if done.set_running_or_notify_cancel():  # else whoever waited has gone
                    done.set_result(None)

    def _write(self, rows: list[ImageRow], contents: dict[str, bytes]) -> None:
        lost = {sha256 for sha256, content in contents.items() if not self.keep(sha256, content)}
        if lost:
            rows = [replace(row, kept=False) if row.sha256 in lost else row for row in rows]
        tries = LAST_TRIES
        while tries:
            try:
                self._history.add(rows)
            except Exception as error:  # whatever it is, neither rows nor this thread may be lost by it
                if self.problem is None:
                    self._log.failure("history", error)
                self.problem = str(error) if isinstance(error, AloccError) else "the history cannot be written"
                tries -= self._closing.is_set()
                time.sleep(AGAIN)
            else:
                self.problem = None
                return
        self._log.failure("history", RuntimeError(f"{len(rows)} rows are lost: the history could not be written"))
