"""Everything that one server holds."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request

from alocc.errors import BusyError, ConfigError
from alocc.serving.batcher import Batcher
from alocc.serving.feed import Feed
from alocc.serving.history import History, ImageRow
from alocc.serving.images import Upload
from alocc.serving.judging import Judge, Judged, Options, Source, finish, finished
from alocc.serving.kept import Kept
from alocc.serving.metrics import Metrics
from alocc.serving.models import Models
from alocc.serving.recalibration import Calibrations
from alocc.serving.settings import Settings
from alocc.serving.writer import Writer

__all__ = ["Judged", "Options", "Source", "Station", "Upload", "station_of"]

DECODERS = 2
"""Threads that decode and draw."""
LOOK = 2.0
"""Seconds between two looks at the models' files."""

log = logging.getLogger(__name__)


class Station:
    """What one server holds; its parts live as long as it does.

    Args:
        settings: what whoever starts it decided.
        models, history, kept, calibrations: ready to use; :meth:`close` closes the history.
    """

    def __init__(
        self, settings: Settings, models: Models, history: History, kept: Kept, calibrations: Calibrations
    ) -> None:
        self.settings = settings
        self.models = models
        self.history = history
        self.kept = kept
        self.calibrations = calibrations
        self.metrics = Metrics()
        self.feed = Feed()
        self.writer = Writer(history, kept)
        self._threads = ThreadPoolExecutor(DECODERS, "alocc-decode")
        self._batchers = {loaded.name: self._batcher(loaded.name) for loaded in models.all()}
        self._ending = threading.Event()
        self._looking = threading.Thread(target=self._look_at_files, name="alocc-reload", daemon=True)
        self.metrics.watch_history(lambda: self.writer.unwritten)
        self._looking.start()

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
        be kept are.

        Raises:
            UnknownModelError, ConfigError: as :meth:`judge`.
        """
        judge = self._judge(options, later=True, place=(batch_id, first_position))
        rows = [one.row for one in finish(judge.steps(uploads, options))]
        for row, upload in zip(rows, uploads, strict=True):
            if row.kept:
                self.kept.put(row.sha256, upload.content)
        self._tell(rows)
        return rows

    def close(self) -> None:
        """Finish what was accepted, write it, and let everything go."""
        self.feed.close()
        self._ending.set()
        self._looking.join()
        self._threads.shutdown()
        for batcher in self._batchers.values():
            batcher.close()
        self.writer.close()
        self.history.close()

    def _judge(self, options: Options, *, later: bool = False, place: tuple[str, int] | None = None) -> Judge:
        loaded = self.models.get(options.model)
        number, calibration = self.calibrations.current(loaded)
        if options.alpha is not None or options.review_alpha is not None:
            calibration = calibration.at(options.alpha, options.review_alpha)
        batcher = self._batchers[loaded.name]
        return Judge(
            loaded, batcher, number, calibration, self._threads, self.settings.limits.pixels, later=later, place=place
        )

    def _batcher(self, name: str) -> Batcher:
        batcher = Batcher(
            self.models.get(name).engine,
            self.settings.limits,
            lambda n, seconds: self.metrics.computed(name, n, seconds),
        )
        self.metrics.watch(name, lambda: batcher.waiting)
        return batcher

    def _tell(self, rows: Sequence[ImageRow]) -> None:
        for row in rows:
            if row.verdict is None or row.anomaly_score is None:
                self.metrics.unusable(row.model)
            else:
                self.metrics.judged(row.model, row.verdict, row.anomaly_score)
        self.feed.publish(rows)

    def _look_at_files(self) -> None:
        while not self._ending.wait(LOOK):
            try:
                for line in self.models.reload():
                    log.warning(line)
            except Exception:  # the next look may go better
                log.exception("a model's file cannot be looked at")


def station_of(request: Request) -> Station:
    """The station that answers a request; routes depend on it."""
    station: Station = request.app.state.station
    return station


async def settled(request: Request) -> None:
    """Wait, a little, until what was scored before is in the history: routes that read it depend on this."""
    flushed = station_of(request).writer.flushed()
    if not flushed.done():
        try:
            await asyncio.wait_for(asyncio.wrap_future(flushed), 2.0)
        except TimeoutError:  # the database does not answer; the route will say so
            pass
