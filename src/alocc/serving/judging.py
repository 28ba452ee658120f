"""Uploaded images → verdicts: decode, score, call, and say where. Everything that scores in the server goes this way.

What takes long happens in other threads. The steps are a generator of what it waits for, so that a request on the
event loop and the worker of a batch go the same way.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import NORMAL, Calibration, map_threshold
from alocc.data.decoding import count_pixels
from alocc.errors import ConfigError, DataError
from alocc.regions import Region, regions_of_anomalies
from alocc.scores import Scores
from alocc.serving.batcher import Batcher, Found, Pixels, Work
from alocc.serving.history import ImageRow, new_id, now
from alocc.serving.images import Picture, Upload, decode, map_png, overlay_png, sha256
from alocc.serving.models import Loaded
from alocc.serving.settings import Keep

Source = Literal["api", "page", "batch"]
"""Who asked for a verdict."""
QUICK, QUICK_PIXELS = 1 << 14, 1 << 20
"""Bytes and pixels of an image that the batcher's threads decode: handing it to another one takes as long."""

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
    keep: bool | None = None
    """Whether the image itself is kept; none: as the server does."""
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
    kept_unasked: Keep = "page"
    """Which images are kept where a request does not say."""
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
        draws = options.map or options.overlay
        if draws and not self.loaded.has_maps:
            raise ConfigError(f"model {self.loaded.name} has no maps; export it again, with --maps")
        if not self.later:
            self.batcher.admit(len(uploads))
        cases = [_Case(upload) for upload in uploads]
        for part, future in [(part, self._submit(part, quick)) for quick, part in _parts(cases)]:
            found = yield future
            self._call([case for case in part if case.picture], found)
        suspects = [case for case in cases if case.picture and (draws or case.verdict != NORMAL)]
        if suspects and self.loaded.has_maps:
            found = yield self.batcher.submit(self._work(suspects, maps=True))
            yield self.threads.submit(self._describe, suspects, found, options)
        return self._judged(cases, options)

    def _submit(self, cases: Sequence[_Case], quick: bool) -> Future[Found]:
        """Have some images decoded and scored: by the batcher's threads, if that is quick, else by others before."""
        work = self._work(cases)
        if quick:
            return self.batcher.submit(work)

        def prepare() -> None:
            with suppress(Exception):  # a fault of ours comes again in its turn, and is told then
                for case in cases:
                    self._decode(case)
            self.batcher.submit(work)

        if self.later:
            prepare()  # the worker's own thread has the time
        else:
            self.threads.submit(prepare)
        return work.found

    def _work(self, cases: Sequence[_Case], *, maps: bool = False) -> Work:
        def images() -> list[Pixels]:
            for case in cases:
                self._decode(case)
            return [case.picture.pixels for case in cases if case.picture]

        return Work(self.loaded.engine, len(cases), images, maps, self.later)

    def _decode(self, case: _Case) -> None:
        """Decode an image, unless that was done; what goes wrong is the image's error."""
        if case.sha256:
            return
        try:
            case.picture = decode(case.upload, self.loaded.engine.image_format, self.most_pixels)
        except DataError as error:
            case.error = str(error)
        case.sha256 = sha256(case.upload.content)

    def _call(self, cases: Sequence[_Case], found: Found) -> None:
        p_values = self._p_values(found)
        verdicts = self.calibration.verdicts(p_values).tolist()
        of_each = zip(cases, found.anomaly_score.tolist(), p_values.tolist(), verdicts, strict=True)
        for case, anomaly_score, p_value, verdict in of_each:
            case.anomaly_score, case.p_value, case.verdict = anomaly_score, p_value, verdict

    def _p_values(self, found: Found) -> NDArray[np.float64]:
        """Those of the engine, unless another calibration took the place of its own."""
        return self.calibration.p_values(found.anomaly_score) if self.number else found.p_value

    def _describe(self, cases: Sequence[_Case], found: Found, options: Options) -> None:
        """Find the regions of images that are not called normal, and draw what is asked for."""
        maxima, maps = self.loaded.engine.map_maxima, found.anomaly_map
        assert maxima is not None
        assert maps is not None
        alpha, review_alpha = self.calibration.alpha, self.calibration.review_alpha
        threshold = map_threshold(maxima, alpha)
        said = [(case.anomaly_score, case.p_value) for case in cases if case.p_value is not None]
        anomaly_score, p_values = np.array(said, np.float64).T  # the verdict is that of the first pass
        scores = Scores(anomaly_score, p_values, p_values <= alpha, {}, None, alpha, maps, review_alpha=review_alpha)
        pictures = [case.picture for case in cases if case.picture]
        pixels = (np.divide(picture.pixels.transpose(2, 0, 1), 255, dtype=np.float32) for picture in pictures)
        sizes = [(picture.height, picture.width) for picture in pictures]
        regions = regions_of_anomalies(scores, pixels, threshold, maxima, sizes)
        for case, anomaly_map, places, size in zip(cases, maps, regions, sizes, strict=True):
            case.map, case.regions = anomaly_map, list(map(region_json, places))
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
                    kept=case.picture is not None and self._is_kept(case, options),
                ),
                threshold,
                case.map,
                case.map_png,
                case.overlay,
            )
            for i, case in enumerate(cases)
        ]

    def _is_kept(self, case: _Case, options: Options) -> bool:
        if options.keep is not None:
            return options.keep
        return (
            options.source == "page"
            or self.kept_unasked == "all"
            or (self.kept_unasked == "suspects" and case.verdict != NORMAL)
        )


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


def _parts(cases: Sequence[_Case]) -> Iterator[tuple[bool, list[_Case]]]:
    """Images in their order, and whether they are quick: neighbours that are together, each other one by itself."""
    for quick, neighbours in itertools.groupby(cases, _is_quick):
        if quick:
            yield True, list(neighbours)
        else:
            yield from ((False, [case]) for case in neighbours)


def _is_quick(case: _Case) -> bool:
    """Whether an image is small as a file and as an image: a few bytes can be millions of pixels."""
    content = case.upload.content
    return len(content) <= QUICK and (n := count_pixels(content)) is not None and n <= QUICK_PIXELS
