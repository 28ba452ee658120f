"""Scoring an exported detector without torch: NumPy, Pillow and ONNX Runtime (or OpenVINO) are enough.

::

    scores = Runtime("model.onnx").score(images)
    scores.anomaly_score, scores.p_value, scores.is_anomaly

and, of a file that was exported with maps, ``score(images, maps=True)`` and :meth:`Runtime.regions`, which needs SciPy;
``python -m alocc.runtime model.onnx parts/ --out scores.csv``. The numbers are those of the detector that was exported
(:mod:`alocc.export` checks that before it leaves a file).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import Calibration, FloatArray, map_threshold
from alocc.data.decoding import MAX_PIXELS
from alocc.data.resizing import ImageFormat, brought_to
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.runtime.sessions import MAP, SUFFIXES, VERDICTS, Outputs, open_session
from alocc.scores import Progress, Scores
from alocc.verdict import Health, parse_health, warn_if_useless

if TYPE_CHECKING:
    from alocc.regions import Region

__all__ = ["BATCH", "EXPORT_VERSION", "KIND", "SUFFIXES", "Runtime"]

KIND = "exported detector"
EXPORT_VERSION = 1
BATCH = 64
"""Images, or crops, that are judged together."""
BATCH_PIXELS = 2**19
"""The same of large images, in pixels: a graph holds many numbers for each."""
MAX_SIDE = 32_000
"""Pixels of a side up to which the graph's resizing is exact."""


class Runtime:
    """An exported detector.

    Args:
        path: an ``.onnx`` file, or the ``.xml`` of an OpenVINO model with its ``.bin`` beside it.
        threads: batches that are computed at the same time, by a thread each.
        alpha: false-positive rate of ``is_anomaly``; none: the detector's.
        review_alpha: rate up to which an image that is no anomaly is for a person; none: the detector's, if it has one;
            0: no third verdict.

    Raises:
        ArtefactError: if the file is missing, damaged, or was not written by ``alocc export``.
        ConfigError: if the held-out images cannot support alpha, ``review_alpha`` is below it, or the engine is not
            installed.
    """

    def __init__(
        self, path: str | Path, threads: int = 2, alpha: float | None = None, review_alpha: float | None = None
    ) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, threads)
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self.metadata = _checked(self._session.metadata, self.path)
        self._channels_first = self.metadata["layout"] == "nchw"
        self.image_format = ImageFormat(**self.metadata["image_format"])
        self.held_out_scores: FloatArray = np.array(self.metadata["held_out_scores"], np.float64)
        own = Calibration(self.held_out_scores, float(self.metadata["alpha"]), self.metadata.get("review_alpha"))
        maxima = self.metadata.get("map_maxima")
        self.map_maxima: FloatArray | None = None if maxima is None else np.array(maxima, np.float64)
        """Highest value in the map of each held-out normal image, or of some of them; none if the file has no maps."""
        self.training: Mapping[str, Any] = self.metadata["training"]
        health = self.metadata.get("health")
        self.health: Health | None = parse_health(health) if health else None
        of_pixels = BATCH_PIXELS // (self.image_format.height * self.image_format.width)
        most = max(1, min(BATCH // self.metadata["n_tiles"], of_pixels))
        self._batch = min(most, self._session.only_batch or most)
        size = (2, 2) if self.metadata["size"] == "any" else self.image_format.size
        try:
            image = np.zeros((1, *size, self.image_format.channels), np.uint8)
            self.outputs(image)
            if self.map_maxima is not None and (shape := self.outputs_and_maps(image)[-1].shape) != (
                1,
                *self.image_format.size,
            ):
                raise ValueError(f"a map of shape {shape}")
        except Exception as error:  # engines raise all kinds
            reason = str(error).strip().partition("\n")[0][:200]
            raise ArtefactError(f"{path} is damaged: its notes do not match its graph ({reason})") from None
        self.calibration = own.at(alpha, review_alpha)
        """What held-out normal images say of its scores, at the rates that were asked for."""

    @property
    def alpha(self) -> float:
        """False-positive rate that ``is_anomaly`` keeps."""
        return self.calibration.alpha

    @property
    def review_alpha(self) -> float | None:
        """Rate up to which an image that is no anomaly is for a person; none: there is no third verdict."""
        return self.calibration.review_alpha

    @property
    def threshold(self) -> float:
        """An image is an anomaly if and only if its anomaly score is above this."""
        return self.calibration.threshold

    @property
    def map_threshold(self) -> float:
        """The value that a normal image's map hardly ever exceeds: see :func:`~alocc.calibration.map_threshold`.

        Raises:
            ConfigError: if the file has no maps.
        """
        return map_threshold(self._maxima(), self.alpha)

    def score(self, images: NDArray[np.generic], progress: Progress | None = None, *, maps: bool = False) -> Scores:
        """Score images; an image's numbers do not depend on the others it is scored with.

        Args:
            images: (n, H, W) or (n, H, W, C), uint8, of any size.
            progress: told of the number of images of each finished batch.
            maps: whether to say where they are unusual too, at the detector's size.

        Raises:
            DataError: if the images have a wrong shape or type.
            ConfigError: if maps are asked for, and the file has none.
        """
        warn_if_useless(self.health)
        if maps:
            self._maxima()
        images = self._checked(images)
        n = self._batch
        if not self._session.only_batch:  # few images are shared out among the threads
            n = max(1, min(n, -(-len(images) // self._session.at_once)))
        chunks = [images[start : start + n] for start in range(0, len(images), n)]
        batches: list[tuple[NDArray[Any], ...]] = [
            (np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.bool_),
             np.empty((0, *self.image_format.size), np.float32))
        ]  # fmt: skip
        for outputs in self._each(chunks, self.outputs_and_maps if maps else self.outputs):
            batches.append(outputs)
            if progress:
                progress(len(outputs[0]))
        anomaly_score, p_value, _, *full_maps = map(np.concatenate, zip(*batches, strict=False))
        p_value = self.calibration.exact(p_value)
        anomaly_map = full_maps[0] if maps else None
        return Scores(
            anomaly_score.astype(np.float64), p_value, p_value <= self.alpha, {}, None, self.alpha, anomaly_map,
            review_alpha=self.review_alpha,
        )  # fmt: skip

    def regions(
        self,
        images: NDArray[np.generic],
        scores: Scores | None = None,
        *,
        sizes: Sequence[tuple[int, int]] = (),
    ) -> list[list[Region]]:
        """Where each image is unusual, and what is to be seen there, as :meth:`alocc.detector.Detector.regions`.

        Args:
            images: as for :meth:`score`.
            scores: theirs, with maps, if they are there; else they are computed.
            sizes: height and width of each image before it was resized; boxes and areas are in its pixels then.

        Raises:
            DataError: if the images have a wrong shape or type, or the scores have no maps.
            ConfigError: if the file has no maps.
        """
        from alocc.regions import regions_of_anomalies

        images = self._checked(images)
        scores = scores or self.score(images, maps=True)
        if len(scores) != len(images):
            raise DataError(f"{len(scores):,} scores do not belong to {len(images):,} images")
        resized = (brought_to(image[None], self.image_format)[0] for image in images)
        pixels = (image.transpose(2, 0, 1).astype(np.float32) / 255 for image in resized)
        return regions_of_anomalies(scores, pixels, self.map_threshold, self._maxima(), sizes)

    def was_seen(self, images: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Which images it was trained or calibrated on: a file does not know of any."""
        return np.zeros(len(images), np.bool_)

    def outputs(self, images: NDArray[np.uint8]) -> Outputs:
        """The graph's own anomaly_score, p_value and is_anomaly, by one call; (n, H, W, C) as the graph takes them."""
        anomaly_score, p_value, is_anomaly = self._outputs(images, VERDICTS)
        return anomaly_score, p_value, is_anomaly.astype(np.bool_)

    def outputs_and_maps(self, images: NDArray[np.uint8]) -> tuple[*Outputs, NDArray[np.float32]]:
        """The same, and anomaly_map, (n, H, W), of a file that has maps."""
        anomaly_score, p_value, is_anomaly, anomaly_map = self._outputs(images, (*VERDICTS, MAP))
        return anomaly_score, p_value, is_anomaly.astype(np.bool_), anomaly_map

    def _outputs(self, images: NDArray[np.uint8], names: Sequence[str]) -> list[NDArray[Any]]:
        n = len(images)
        if self._session.only_batch and n < self._batch:
            images = np.concatenate([images, np.repeat(images[-1:], self._batch - n, 0)])
        if self._channels_first:
            images = images.transpose(0, 3, 1, 2)
        return [output[:n] for output in self._session.run(np.ascontiguousarray(images), names)]

    def _checked(self, images: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Images as an array; a DataError if they are not uint8, or one image instead of several."""
        array: NDArray[Any] = np.asarray(images)
        if array.dtype != np.uint8:
            raise DataError(f"an exported detector takes uint8 images, got {array.dtype}; floats need --engine torch")
        if array.ndim == 3 and array.shape[2] == 3 and self.image_format.channels == 3:
            raise DataError(f"{array.shape} looks like one colour image; give image[None], (1, H, W, 3)")
        return array

    def _maxima(self) -> FloatArray:
        """``map_maxima``; a ConfigError if the file has no maps."""
        if self.map_maxima is None:
            to = " --format openvino" if self.path.suffix == ".xml" else ""
            raise ConfigError(
                f"{self.path} has no maps; export it again, with: alocc export RUN --maps{to} (not with --int8)"
            )
        return self.map_maxima

    def _each(
        self, chunks: Sequence[NDArray[Any]], outputs: Callable[[NDArray[np.uint8]], tuple[NDArray[Any], ...]]
    ) -> Iterable[tuple[NDArray[Any], ...]]:
        def compute(chunk: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            return outputs(brought_to(chunk, self.image_format))

        if len(chunks) == 1:
            return map(compute, chunks)
        process = os.getpid()  # threads do not survive a fork: each process has its own
        if process not in self._pools:
            self._pools[process] = ThreadPoolExecutor(self._session.at_once, "alocc-runtime")
        return self._pools[process].map(compute, chunks)


def _checked(notes: Any, path: Path) -> Mapping[str, Any]:
    """The notes of an exported file, if nothing in them can mislead or take memory."""
    if not isinstance(notes, Mapping) or notes.get("kind") != KIND:
        raise ArtefactError(f"{path} was not written by alocc export")
    if notes.get("export_version") != EXPORT_VERSION:
        raise ArtefactError(f"{path} was written by another version of alocc; export the detector again")
    fault = next((fault for fault, holds in _rules(notes) if not holds), None)
    if fault:
        raise ArtefactError(f"{path} is damaged: in its notes, {fault}; export the detector again")
    return notes


def _rules(notes: Mapping[str, Any]) -> Iterable[tuple[str, bool]]:
    """What must hold, each after what it relies on."""
    wanted = ("image_format", "layout", "size", "n_tiles", "alpha", "held_out_scores", "n_held_out", "training")
    yield from ((f"{name} is missing", name in notes) for name in wanted)
    to, scores, alpha, n_tiles = (notes[name] for name in ("image_format", "held_out_scores", "alpha", "n_tiles"))
    yield "training is no table", isinstance(notes["training"], Mapping)
    fields = {*ImageFormat._fields}
    yield "image_format must have height, width and channels", isinstance(to, Mapping) and {*to} == fields
    sides = (to["height"], to["width"])
    is_allowed = all(_is_whole(side) and 1 <= side <= MAX_SIDE for side in sides) and sides[0] * sides[1] <= MAX_PIXELS
    yield f"image_format has an invalid size, {MAX_PIXELS:,} pixels are allowed", is_allowed
    yield "image_format must have 1 or 3 channels", _is_whole(to["channels"]) and to["channels"] in (1, 3)
    yield "layout must be nhwc or nchw", notes["layout"] in ("nhwc", "nchw")
    yield "size must be any or fixed", notes["size"] in ("any", "fixed")
    yield "n_tiles is invalid", _is_whole(n_tiles) and 1 <= n_tiles <= sides[0] * sides[1]
    yield "alpha must be above 0 and below 1", _is_number(alpha) and 0 < alpha < 1
    review_alpha = notes.get("review_alpha")
    is_review_alpha = review_alpha is None or (_is_number(review_alpha) and alpha <= review_alpha < 1)
    yield "review_alpha must be at least alpha and below 1", is_review_alpha
    yield "held_out_scores must be numbers", isinstance(scores, list) and bool(scores) and all(map(_is_number, scores))
    yield "held_out_scores must be finite", all(map(math.isfinite, scores))
    yield "held_out_scores must be sorted", all(one <= other for one, other in itertools.pairwise(scores))
    yield "n_held_out must be the number of held_out_scores", notes["n_held_out"] == len(scores)
    maxima = notes.get("map_maxima")
    yield "map_maxima must be finite numbers", maxima is None or _are_finite(maxima)
    yield "health must be a verdict with its findings", _is_health(notes.get("health"))


def _are_finite(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(_is_number(one) and math.isfinite(one) for one in values)


def _is_health(value: Any) -> bool:
    """Whether it is a verdict, or none."""
    try:
        return value is None or bool(parse_health(value))
    except ValueError:
        return False


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and _is_whole(value) and abs(value) < 1 << 53)
