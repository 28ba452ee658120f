"""Scoring an exported detector without torch: NumPy, Pillow and ONNX Runtime (or OpenVINO) are enough.

::

    scores = Runtime("model.onnx").score(images)
    scores.anomaly_score, scores.p_value, scores.is_anomaly

and ``python -m alocc.runtime model.onnx parts/ --out scores.csv``. The numbers are those of the detector that was
exported (:mod:`alocc.export` checks that before it leaves a file).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import Calibration, FloatArray
from alocc.data.resizing import ImageFormat, brought_to
from alocc.errors import ArtefactError, DataError
from alocc.runtime.sessions import SUFFIXES, Outputs, open_session
from alocc.scores import Progress, Scores

__all__ = ["BATCH", "EXPORT_VERSION", "KIND", "SUFFIXES", "Runtime"]

KIND = "exported detector"
EXPORT_VERSION = 1
BATCH = 64
"""Images, or tiles, that are judged together."""


class Runtime:
    """An exported detector.

    Args:
        path: an ``.onnx`` file, or the ``.xml`` of an OpenVINO model with its ``.bin`` beside it.
        threads: batches that are computed at the same time, by a thread each.
        alpha: false-positive rate of ``is_anomaly``; none: the detector's.

    Raises:
        ArtefactError: if the file is missing, damaged, or was not written by ``alocc export``.
        ConfigError: if the held-out images cannot support alpha, or the engine is not installed.
    """

    def __init__(self, path: str | Path, threads: int = 2, alpha: float | None = None) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, threads)
        self._workers = ThreadPoolExecutor(self._session.at_once, "alocc-runtime")
        metadata = _checked(self._session.metadata, self.path)
        try:
            self._read(metadata)
            self._judged(np.zeros((1, *self.image_format.size, self.image_format.channels), np.uint8))
        except Exception as error:  # notes that are not whole, or those of another graph
            reason = str(error).strip().partition("\n")[0][:200]
            raise ArtefactError(f"{path} is damaged: its notes do not go with its graph ({reason})") from None
        if alpha is not None:
            self.alpha = Calibration.of(self.held_out_scores, alpha).alpha

    def _read(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.image_format = ImageFormat(**metadata["image_format"])
        self.alpha = float(metadata["alpha"])
        self.held_out_scores: FloatArray = np.array(metadata["held_out_scores"], np.float64)
        self._channels_first = metadata["layout"] == "nchw"
        most = max(1, BATCH // int(metadata["n_tiles"]))
        self._batch = min(most, self._session.only_batch or most)

    @property
    def threshold(self) -> float:
        """An image is an anomaly if and only if its anomaly score is above this."""
        return Calibration(self.held_out_scores, self.alpha).threshold

    def score(self, images: NDArray[np.generic], progress: Progress | None = None) -> Scores:
        """Score images; an image's numbers do not depend on the others it is scored with.

        Args:
            images: (n, H, W) or (n, H, W, C), uint8, of any size.
            progress: told of the number of images of each finished batch.

        Raises:
            DataError: if the images have a wrong shape or type.
        """
        images = self._accepted(images)
        batches = [_nothing()]
        n = self._batch
        if not self._session.only_batch:  # few images are shared out among the threads
            n = max(1, min(n, -(-len(images) // self._session.at_once)))
        chunks = [images[start : start + n] for start in range(0, len(images), n)]
        for judged in self._each(lambda chunk: self._judged(brought_to(chunk, self.image_format)), chunks):
            batches.append(judged)
            if progress:
                progress(len(judged[0]))
        return self._scores(batches)

    def _each(
        self, judge: Callable[[NDArray[np.uint8]], Outputs], chunks: Sequence[NDArray[np.uint8]]
    ) -> Iterable[Outputs]:
        return map(judge, chunks) if len(chunks) == 1 else self._workers.map(judge, chunks)

    def score_in_one(self, images: NDArray[np.generic]) -> Scores:
        """:func:`score` by one call of the graph, which resizes the images itself if it can."""
        return self._scores([self._judged(self._accepted(images))])

    def _accepted(self, images: NDArray[np.generic]) -> NDArray[np.uint8]:
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise DataError(
                f"an exported detector takes uint8 images, got {images.dtype}; the torch engine takes floats"
            )
        if images.ndim == 3 and images.shape[2] == 3 and self.image_format.channels == 3:
            raise DataError(f"{images.shape} looks like one colour image; give image[None], (1, H, W, 3)")
        return images.astype(np.uint8, copy=False)

    def _scores(self, batches: Sequence[Outputs]) -> Scores:
        anomaly_score, p_value = (np.concatenate([batch[i] for batch in batches]).astype(np.float64) for i in (0, 1))
        n = len(self.held_out_scores)
        p_value = np.rint(p_value * (n + 1)) / (n + 1)  # the quotient of two whole numbers, in full precision again
        return Scores(anomaly_score, p_value, p_value <= self.alpha, {}, None, self.alpha)

    def _judged(self, images: NDArray[np.uint8]) -> Outputs:
        n = len(images)
        if self._session.only_batch and n < self._batch:
            images = np.concatenate([images, np.repeat(images[-1:], self._batch - n, 0)])
        if self._channels_first:
            images = images.transpose(0, 3, 1, 2)
        anomaly_score, p_value, is_anomaly = self._session.run(np.ascontiguousarray(images))
        return anomaly_score[:n], p_value[:n], is_anomaly[:n]


def _nothing() -> Outputs:
    return np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.bool_)


def _checked(metadata: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    if not isinstance(metadata, Mapping) or metadata.get("kind") != KIND:
        raise ArtefactError(f"{path} was not written by alocc export")
    if metadata.get("export_version") != EXPORT_VERSION:
        raise ArtefactError(f"{path} was written by another version of alocc; export the detector again")
    return metadata
