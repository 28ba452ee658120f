"""What scores: the detector itself, by torch, or what was exported from it, by ONNX Runtime or OpenVINO.

All give the same numbers, to the tolerance that an export is checked with (:mod:`alocc.export`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.calibration import FloatArray
from alocc.data.resizing import ImageFormat
from alocc.detector import Detector, artefact_path, image_hashes
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.runtime import SUFFIXES, Runtime
from alocc.scores import Progress, Scores

EngineName = Literal["torch", "onnx", "openvino"]
SUFFIX_OF = {"onnx": ".onnx", "openvino": ".xml"}


class Engine(Protocol):
    """What can score images of a source: a :class:`~alocc.detector.Detector`, or an :class:`Exported` one."""

    @property
    def image_format(self) -> ImageFormat:
        """What images are brought to before they are scored."""

    @property
    def alpha(self) -> float:
        """False-positive rate that ``is_anomaly`` keeps."""

    @property
    def threshold(self) -> float:
        """An image is an anomaly if and only if its anomaly score is above this."""

    @property
    def training(self) -> Mapping[str, Any]:
        """What it was trained on."""

    @property
    def held_out_scores(self) -> FloatArray:
        """Anomaly scores of the held-out normal images, sorted ascending."""

    def score(self, images: Tensor, progress: Progress | None = None) -> Scores:
        """Score images (n, C, H, W) in the detector's format."""

    def was_seen(self, images: Tensor) -> NDArray[np.bool_]:
        """Which images it was trained or calibrated on, as far as that is known."""


class Exported:
    """An exported detector that takes tensors, as a :class:`~alocc.detector.Detector` does.

    Args:
        runtime: the file.
        seen: hashes of the images that it was trained or calibrated on; a file alone does not know them.
    """

    def __init__(self, runtime: Runtime, seen: NDArray[np.int64] | None = None) -> None:
        self.runtime, self.seen = runtime, seen
        self.image_format, self.alpha, self.threshold = runtime.image_format, runtime.alpha, runtime.threshold
        self.held_out_scores = runtime.held_out_scores
        self.training: Mapping[str, Any] = runtime.metadata["training"]

    def score(self, images: Tensor, progress: Progress | None = None) -> Scores:
        """Score images (n, C, H, W), uint8, in the detector's format.

        Raises:
            DataError: if they are floats.
        """
        if images.dtype != torch.uint8:
            raise DataError("an exported detector takes images of whole numbers, 0 to 255; floats need --engine torch")
        return self.runtime.score(images.permute(0, 2, 3, 1).numpy(), progress)

    def was_seen(self, images: Tensor) -> NDArray[np.bool_]:
        """Which images it was trained or calibrated on; none, if that is not known."""
        if self.seen is None:
            return np.zeros(len(images), np.bool_)
        return np.isin(image_hashes(images), self.seen)


def is_exported(path: Path) -> bool:
    """Whether a path is an exported file by its name."""
    return path.suffix in SUFFIXES


def open_exported(
    path: Path,
    engine: EngineName | None,
    alpha: float | None = None,
    threads: int = 2,
    note: Callable[[str], None] = lambda _: None,
) -> Exported:
    """An exported file; or that of a run folder, which is written if it is missing or older than the detector.

    Args:
        path: the file, or a run folder.
        engine: which of a run folder's; of a file, what its name says.
        alpha: false-positive rate; none: the detector's own.
        threads: that a batch is computed with.
        note: told if an export is written.

    Raises:
        ArtefactError, ConfigError: if there is no such file, or it cannot be written or read.
    """
    if is_exported(path):
        if engine is not None and SUFFIX_OF.get(engine) != path.suffix:
            raise ConfigError(f"{path} is not for --engine {engine}; leave the option out, or give the run folder")
        return Exported(Runtime(path, threads, alpha))
    if not path.is_dir():
        raise ArtefactError(f"--engine {engine} needs a run folder or an exported file, not {path}; see alocc export")
    from alocc.export import export

    assert engine is not None
    source, target = artefact_path(path), (path / "model").with_suffix(SUFFIX_OF[engine])
    detector = Detector.load(source)
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        note(f"exporting the detector to {target}, once")
        export(detector, target)
    return Exported(Runtime(target, threads, alpha), detector.seen)
