"""Everything that one server holds."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from starlette.requests import Request

from alocc.errors import AloccError, BusyError
from alocc.serving.batcher import Batcher
from alocc.serving.feed import Feed
from alocc.serving.history import History, ImageRow
from alocc.serving.images import Upload
from alocc.serving.judging import Judge, Judged, Options, Source, finish, finished
from alocc.serving.kept import Kept, retain
from alocc.serving.logs import Log
from alocc.serving.metrics import Metrics
from alocc.serving.models import Models
from alocc.serving.readiness import Readiness, can_write
from alocc.serving.recalibration import Calibrations
from alocc.serving.settings import Settings
from alocc.serving.writer import Writer

__all__ = ["Judged", "Options", "Source", "Station", "Upload", "station_of"]

DECODERS = 2
"""Threads that decode and draw."""
LOOK, RETAIN = 2.0, 600.0
"""Seconds between two looks at the models' files, and between two times that old images and rows are removed."""


class Station:
    """What one server holds; its parts live as long as it does.

    Args:
        settings: what whoever starts it decided.
        models, history, kept, log: ready to use; :meth:`close` closes the history and the log.
        note: told what whoever started the server should know.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        history: History,
        kept: Kept,
        log: Log,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.models = models
        self.history = history
        self.kept = kept
        self.calibrations = Calibrations(history)
        for loaded in models.all():
            self.calibrations.read(loaded)  # here, where it may wait: requests find it read
        self.log, self._note = log, note
        self.metrics = Metrics()
        self.feed = Feed()
        self.writer = Writer(history, kept, log)
        self.readiness = Readiness(self._problems)
        self._threads = ThreadPoolExecutor(DECODERS, "alocc-decode")
        self._batchers = {loaded.name: self._batcher(loaded.name) for loaded in models.all()}
        self._ending = threading.Event()
        self._tending = threading.Thread(target=self._tend, name="alocc-tend", daemon=True)
        self.metrics.watch_history(lambda: self.writer.unwritten)
        self._tending.start()

    async def judge(self, uploads: Sequence[Upload], options: Options) -> list[Judged]:
        """Verdicts on images, in their order; those that cannot be used say why in ``row.error``.

        Their rows will be in the history: :attr:`writer` has them when this returns.

        Raises:
            BusyError: if they would have to wait too long.
            UnknownModelError: if there is no such model.
            ConfigError: if the model does not support the alphas, or has no maps where they are asked for.
        """
        try:
            self.writer.admit()
            judged = await finished(self._judge(options).steps(uploads, options))
        except BusyError:
            self.metrics.refused("busy")
            raise
        rows = [one.row for one in judged]
        self.writer.put(rows, [upload.content if row.kept else None for row, upload in zip(rows, uploads, strict=True)])
        self._tell(rows)
        return judged

    def judge_batch(
        self, uploads: Sequence[Upload], options: Options, batch_id: str, first_position: int
    ) -> list[ImageRow]:
        """The same for a worker in another thread, after everybody who waits for an answer.

        The rows are not written to the history: the worker does that, together with how far it is. Images that are to
        be kept are, if the disk takes them.

        Raises:
            UnknownModelError, ConfigError: as :meth:`judge`.
        """
        judge = self._judge(options, later=True, place=(batch_id, first_position))
        rows = [one.row for one in finish(judge.steps(uploads, options))]
        rows = [
            replace(row, kept=row.kept and self.writer.keep(row.sha256, upload.content))
            for row, upload in zip(rows, uploads, strict=True)
        ]
        self._tell(rows)
        return rows

    def close(self) -> None:
        """Finish what was accepted, write it, and let everything go."""
        self.feed.close()
        self._ending.set()
        self._tending.join()
        self._threads.shutdown()
        for batcher in self._batchers.values():
            batcher.close()
        self.writer.close()
        self.history.close()
        self.log.close()

    def _judge(self, options: Options, *, later: bool = False, place: tuple[str, int] | None = None) -> Judge:
        loaded = self.models.get(options.model)
        number, calibration = self.calibrations.current(loaded)
        if options.alpha is not None or options.review_alpha is not None:
            calibration = calibration.at(options.alpha, options.review_alpha)
        batcher = self._batchers[loaded.name]
        most_pixels, keep = self.settings.limits.pixels, self.settings.keep
        return Judge(loaded, batcher, number, calibration, self._threads, most_pixels, keep, later=later, place=place)

    def _batcher(self, name: str) -> Batcher:
        batcher = Batcher(
            self.models.get(name).engine,
            self.settings.limits,
            lambda n, seconds: self.metrics.computed(name, n, seconds),
        )
        self.metrics.watch(name, lambda: batcher.waiting)
        return batcher

    def _problems(self) -> list[str]:
        """What keeps the server from working."""
        problems = [] if self.models.all() else ["no model is loaded"]
        try:
            self.history.ping()
        except AloccError as error:
            problems.append(str(error))
        if self.writer.problem and self.writer.problem not in problems:
            problems.append(self.writer.problem)
        if not can_write(self.settings.store):
            problems.append("the store cannot be written; is the disk full?")
        return problems

    def _tell(self, rows: Sequence[ImageRow]) -> None:
        for row in rows:
            if row.verdict is None or row.anomaly_score is None:
                self.metrics.unusable(row.model)
            else:
                self.metrics.judged(row.model, row.verdict, row.anomaly_score)
        self.feed.publish(rows)

    def _tend(self) -> None:
        """Now and then, look at the models' files, and let go what is no longer kept."""
        retained = -math.inf
        while not self._ending.wait(LOOK):
            try:
                lines = self.models.reload(self.calibrations.read, lambda error: self.log.failure("reload", error))
                for line in lines:
                    self.log.note("reload", message=line)
                    self._note(line)
                if time.monotonic() - retained > RETAIN:
                    retained = time.monotonic()
                    freed = retain(self.history, self.kept, self.settings.keep_days, self.settings.keep_gb)
                    self.log.note("retention", **vars(freed))
            except Exception as error:  # the next time may go better
                self.log.failure("tending", error)


def station_of(request: Request) -> Station:
    """The station that answers a request; routes depend on it."""
    station: Station = request.app.state.station
    return station


async def settled(request: Request) -> None:
    """Wait, a little, until what was scored before is in the history: routes that read it depend on this."""
    flushed = station_of(request).writer.flushed()
    if not flushed.done():
        with suppress(TimeoutError):  # the database does not answer then; the route will say so
            await asyncio.wait_for(asyncio.wrap_future(flushed), 2.0)
