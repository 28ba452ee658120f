"""Uploaded images → verdicts: decode, score, call, and say where. Everything that scores in the server goes this way.

What takes long happens in other threads. The steps are a generator of what it waits for, so that a request on the
event loop and the worker of a batch go the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import NORMAL, Calibration, map_threshold
from alocc.errors import ConfigError, DataError
from alocc.regions import Region, regions_of_anomalies
from alocc.scores import Scores
from alocc.serving.batcher import Batcher, Pixels
from alocc.serving.history import ImageRow, new_id, now
from alocc.serving.images import Picture, Upload, decode, map_png, overlay_png, sha256
from alocc.serving.models import Loaded

Source = Literal["api", "page", "batch"]
"""Who asked for a verdict."""
SMALL = 1 << 18
"""Bytes of images that one thread decodes, one after the other; larger ones are decoded side by side."""

ResultT = TypeVar("ResultT")
Steps = Generator[Future[Any], Any, ResultT]
"""A computation that yields what it waits for, and is sent its result."""


@dataclass(frozen=True)
class Options:
    """What a client asks for."""

    model: str | None = None
    """None: the first one."""
    alpha: float | None = None
    review_alpha: float | None = None
    """None: the model's."""
    map: bool = False
    overlay: bool = False
    """Whether a picture of the map, or of the image with the map over it, is wanted too."""
    keep: bool = False
    """Whether the image itself is kept."""
    source: Source = "api"


@dataclass(frozen=True)
class Judged:
    """A verdict on one image, or in ``row.error`` why there is none."""

    row: ImageRow
    threshold: float
    """The score above which its image is called an anomaly."""
    map: NDArray[np.float32] | None = None
    """(H, W), at the detector's size, if it was asked for or regions were computed from it."""
    map_png: bytes | None = None
    overlay: bytes | None = None
    """PNG pictures, if they were asked for."""


@dataclass(eq=False)
class _Case:
    """One image, and what is known of it so far."""

    upload: Upload
    sha256: str = ""
    picture: Picture | None = None
    error: str | None = None
    anomaly_score: float | None = None
    p_value: float | None = None
    verdict: str | None = None
    regions: Sequence[dict[str, Any]] = ()
    map: NDArray[np.float32] | None = None
    map_png: bytes | None = None
    overlay: bytes | None = None


@dataclass(frozen=True)
class Judge:
    """One model, as some images are judged by it."""

    loaded: Loaded
    batcher: Batcher
    number: int
    """Of the calibration."""
    calibration: Calibration
    """With the alphas of the request."""
    threads: Executor
    """Where images are decoded and drawn."""
    most_pixels: int
    later: bool = False
    """Whether everybody else comes first."""
    place: tuple[str, int] | None = None
    """The batch that the images are of, and the position of the first one in it."""

    def steps(self, uploads: Sequence[Upload], options: Options) -> Steps[list[Judged]]:
        """All of the way.

        Raises:
            BusyError: if the images would have to wait too long.
            ConfigError: if maps are asked for of a model that has none.
        """
        if (options.map or options.overlay) and not self.loaded.has_maps:
            raise ConfigError(f"model {self.loaded.name} has no maps; export it again, with --maps")
        if not self.later:
            self.batcher.admit(len(uploads))
        cases = list(map(_Case, uploads))
        yield from [self._scored(part) for part in _parts(cases)]
        suspects = [
            case
            for case in cases
            if case.picture and (case.verdict != NORMAL or options.map or options.overlay) and self.loaded.has_maps
        ]
        if suspects:
            scores = yield self._submit_for_maps([_pixels(case) for case in suspects])
            yield self.threads.submit(self._describe, suspects, scores, options)
        return self._judged(cases, options)

    def _scored(self, cases: Sequence[_Case]) -> Future[None]:
        """Decode some images, score those that can be used, and call them; done when all of that is."""
        done: Future[None] = Future()

        def begin() -> None:
            n_waiting = 0 if self.later else len(cases)
            try:
                for case in cases:
                    self._decode(case)
                usable = [case for case in cases if case.picture]
                if n_waiting > len(usable):
                    self.batcher.release(n_waiting - len(usable))
                n_waiting = 0 if self.later else len(usable)
                if not usable:
                    done.set_result(None)
                    return
                submit = self.batcher.submit_later if self.later else self.batcher.submit
                scores = submit(self.loaded.engine, [_pixels(case) for case in usable])
                n_waiting = 0
                scores.add_done_callback(lambda scores: _settle(done, lambda: self._call(usable, scores.result())))
            except BaseException as error:
                self.batcher.release(n_waiting)
                done.set_exception(error)

        self.threads.submit(begin)
        return done

    def _decode(self, case: _Case) -> None:
        case.sha256 = sha256(case.upload.content)
        try:
            case.picture = decode(case.upload, self.loaded.engine.image_format, self.most_pixels)
        except DataError as error:
            case.error = str(error)

    def _call(self, cases: Sequence[_Case], scores: Scores) -> None:
        p_values = self._p_values(scores)
        verdicts = self.calibration.verdicts(p_values)
        of_each = zip(cases, scores.anomaly_score.tolist(), p_values.tolist(), verdicts.tolist(), strict=True)
        for case, anomaly_score, p_value, verdict in of_each:
            case.anomaly_score, case.p_value, case.verdict = anomaly_score, p_value, verdict

    def _p_values(self, scores: Scores) -> NDArray[np.float64]:
        """Those of the engine, unless another calibration took the place of its own."""
        return self.calibration.p_values(scores.anomaly_score) if self.number else scores.p_value

    def _submit_for_maps(self, images: Sequence[Pixels]) -> Future[Scores]:
        if self.later:
            return self.batcher.submit_later(self.loaded.engine, images, maps=True)
        return self.batcher.submit_for_maps(self.loaded.engine, images)

    def _describe(self, cases: Sequence[_Case], scores: Scores, options: Options) -> None:
        """Find the regions of images that are not called normal, and draw what is asked for."""
        maxima, p_values = self.loaded.engine.map_maxima, self._p_values(scores)
        assert maxima is not None
        assert scores.anomaly_map is not None
        alpha, review_alpha = self.calibration.alpha, self.calibration.review_alpha
        threshold = map_threshold(maxima, alpha)
        called = replace(scores, p_value=p_values, is_anomaly=p_values <= alpha, review_alpha=review_alpha)
        pixels = (np.divide(_pixels(case).transpose(2, 0, 1), 255, dtype=np.float32) for case in cases)
        sizes = [(case.picture.height, case.picture.width) for case in cases if case.picture]
        regions = regions_of_anomalies(called, pixels, threshold, maxima, sizes)
        for case, anomaly_map, found, size in zip(cases, scores.anomaly_map, regions, sizes, strict=True):
            case.map, case.regions = anomaly_map, list(map(region_json, found))
            if options.map:
                case.map_png = map_png(anomaly_map, threshold)
            if options.overlay:
                case.overlay = overlay_png(case.upload, size, anomaly_map, threshold, case.verdict != NORMAL)

    def _judged(self, cases: Sequence[_Case], options: Options) -> list[Judged]:
        threshold, time = self.calibration.threshold, now()
        batch, first = self.place or (None, None)
        return [
            Judged(
                ImageRow(
                    id=new_id(),
                    time=time,
                    model=self.loaded.name,
                    version=self.loaded.version,
                    calibration=self.number,
                    name=case.upload.name,
                    sha256=case.sha256,
                    source=options.source,
                    alpha=self.calibration.alpha,
                    batch=batch,
                    position=None if first is None else first + i,
                    width=case.picture.width if case.picture else None,
                    height=case.picture.height if case.picture else None,
                    anomaly_score=case.anomaly_score,
                    p_value=case.p_value,
                    verdict=case.verdict,
                    review_alpha=self.calibration.review_alpha,
                    regions=case.regions,
                    error=case.error,
                    kept=options.keep and case.picture is not None,
                ),
                threshold,
                case.map,
                case.map_png,
                case.overlay,
            )
            for i, case in enumerate(cases)
        ]


def region_json(region: Region) -> dict[str, Any]:
    """A region as the history and replies have it: its box in pixels of the image, right and bottom beyond it."""
    box = {"left": region.x, "top": region.y, "right": region.x + region.width, "bottom": region.y + region.height}
    return {
        "box": box,
        "area": region.area,
        "peak": region.peak,
        "p_value": region.p_value,
        "reason": region.reason,
    }


def finish(steps: Steps[ResultT]) -> ResultT:
    """The result of some steps, waiting for each in this thread."""
    future = next(steps)
    while True:
        try:
            result = future.result()
        except Exception as error:
            future = steps.throw(error)
            continue
        try:
            future = steps.send(result)
        except StopIteration as stop:
            found: ResultT = stop.value
            return found


async def finished(steps: Steps[ResultT]) -> ResultT:
    """The result of some steps, waiting for each on the event loop."""
    future = next(steps)
    while True:
        try:
            result = await asyncio.wrap_future(future)
        except Exception as error:
            future = steps.throw(error)
            continue
        try:
            future = steps.send(result)
        except StopIteration as stop:
            found: ResultT = stop.value
            return found


def _pixels(case: _Case) -> Pixels:
    assert case.picture
    return case.picture.pixels


def _parts(cases: Sequence[_Case]) -> Iterator[list[_Case]]:
    """Images in their order, small ones together."""
    part: list[_Case] = []
    size = 0
    for case in cases:
        if part and size + len(case.upload.content) > SMALL:
            yield part
            part, size = [], 0
        part.append(case)
        size += len(case.upload.content)
    if part:
        yield part


def _settle(done: Future[None], compute: Callable[[], None]) -> None:
    try:
        compute()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(None)
