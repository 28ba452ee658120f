"""A path and an engine → what scores: the detector itself, by torch, or what was exported from it.

All give the same numbers, to the tolerance that an export is checked with (:mod:`alocc.export.parity`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alocc.detector import Detector, artefact_path, image_hashes
from alocc.errors import ArtefactError, ConfigError, InputError
from alocc.regions import Region
from alocc.runtime import SUFFIXES, Runtime
from alocc.scores import Progress, Scores
from alocc.storage import digest

EngineName = Literal["torch", "onnx", "openvino"]
SUFFIX_OF = {"onnx": ".onnx", "openvino": ".xml"}


class ExportedDetector(Runtime):
    """An exported detector that takes tensors too, as a :class:`~alocc.detector.Detector` does."""

    seen: NDArray[np.int64] | None = None
    """Hashes of the images that it was trained or calibrated on; a file alone does not know them."""

    def score(
        self, images: NDArray[np.generic] | Tensor, progress: Progress | None = None, *, maps: bool = False
    ) -> Scores:
        """Score a tensor (n, C, H, W), uint8, in the detector's format, or an array, as :class:`Runtime` does."""
        return super().score(_as_array(images), progress, maps=maps)

    def regions(
        self,
        images: NDArray[np.generic] | Tensor,
        scores: Scores | None = None,
        *,
        sizes: Sequence[tuple[int, int]] = (),
    ) -> list[list[Region]]:
        """Where images that :meth:`score` takes are unusual, as :class:`Runtime` says."""
        return super().regions(_as_array(images), scores, sizes=sizes)

    def was_seen(self, images: NDArray[np.generic] | Tensor) -> NDArray[np.bool_]:
        """Which images it was trained or calibrated on; none, if that is not known."""
        if self.seen is None or not isinstance(images, Tensor):
            return np.zeros(len(images), np.bool_)
        return np.isin(image_hashes(images), self.seen)


def _as_array(images: NDArray[np.generic] | Tensor) -> NDArray[np.generic]:
    return images.permute(0, 2, 3, 1).numpy() if isinstance(images, Tensor) else images


def is_exported(path: Path) -> bool:
    """Whether a path is an exported file by its name."""
    return path.suffix in SUFFIXES


def open_engine(
    path: Path,
    engine: EngineName | None,
    alpha: float | None = None,
    note: Callable[[str], None] = lambda _: None,
    *,
    maps: bool = False,
    review_alpha: float | None = None,
) -> Detector | ExportedDetector:
    """What scores, on the CPU: a detector, or an exported file, by its name or as the engine says.

    Args:
        path, engine, alpha, note, maps, review_alpha: as for :func:`open_exported`.

    Raises:
        ArtefactError, ConfigError: if there is no such file, or it cannot be read, or does not support the rates.
    """
    if engine == "torch" and is_exported(path):
        raise ConfigError(f"{path} is an exported file; --engine torch needs a run folder or a .safetensors file")
    if engine in ("onnx", "openvino") or is_exported(path):
        return open_exported(path, engine, alpha, note=note, maps=maps, review_alpha=review_alpha)
    return Detector.load(path).at(alpha, review_alpha)


def open_exported(
    path: Path,
    engine: EngineName | None,
    alpha: float | None = None,
    threads: int = 2,
    note: Callable[[str], None] = lambda _: None,
    *,
    maps: bool = False,
    review_alpha: float | None = None,
) -> ExportedDetector:
    """An exported file; or a run folder's for ``engine``, which is written if there is none of this very detector.

    Args:
        path, engine: the file, or a run folder and which of its files.
        alpha: false-positive rate; none: the detector's own.
        threads: batches that are computed at the same time.
        note: told if an export is written.
        maps: whether the run folder's file must have maps; one without is written again.
        review_alpha: rate up to which an image that is no anomaly is for a person; none: the detector's own, if any.

    Raises:
        ArtefactError, ConfigError: if there is no such file, or it cannot be written or read.
    """
    if is_exported(path):
        if engine is not None and SUFFIX_OF.get(engine) != path.suffix:
            raise ConfigError(f"{path} is not for --engine {engine}; leave the option out, or give the run folder")
        return ExportedDetector(path, threads, alpha, review_alpha)
    if not path.is_dir():
        raise ArtefactError(f"--engine {engine} needs a run folder or an exported file, not {path}; see alocc export")
    from alocc.export import export

    assert engine is not None
    source, target = artefact_path(path), (path / "model").with_suffix(SUFFIX_OF[engine])
    made_from = digest(source)
    detector = Detector.load(source)
    detector.calibration.at(alpha, review_alpha)  # refused before anything is exported
    opened = None
    with suppress(InputError):  # missing, damaged, or of another version
        opened = ExportedDetector(target, threads, alpha, review_alpha)
        maps = maps or opened.map_maxima is not None  # somebody asked for them
    if opened is None or opened.metadata.get("made_from") != made_from or (maps and opened.map_maxima is None):
        note(f"exporting the detector to {target}, once")
        export(detector, target, made_from=made_from, maps=maps)
        opened = ExportedDetector(target, threads, alpha, review_alpha)
    opened.seen, opened.health = detector.seen, detector.health  # of the last check, which may be newer
    return opened
