"""A detector → a file that scores without torch: ONNX or OpenVINO, compared with the detector before it is there."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from alocc.calibration import Calibration, default_alpha
from alocc.detector import FORMAT_VERSION, Detector, library_versions
from alocc.errors import ArtefactError, ConfigError
from alocc.export import parity
from alocc.export.scorer import Layout, Verdicts
from alocc.runtime import EXPORT_VERSION, KIND, SUFFIXES, Runtime

if TYPE_CHECKING:
    from alocc.export import int8

Size = Literal["any", "fixed"]
LIBRARIES = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("onnx", "onnxscript", "onnxruntime", "openvino")}
"""What writing each kind of file, and reading it again, needs."""


class Exported(NamedTuple):
    """What was written, and how near it is to the detector."""

    path: Path
    n_bytes: int
    parity: parity.Parity | None
    """None for int8, which is another detector."""
    shift: int8.Shift | None
    """What 8 bits changed; none without them."""


def export(
    detector: Detector,
    path: str | Path,
    *,
    layout: Layout = "nhwc",
    size: Size = "any",
    fresh: Tensor | None = None,
) -> Exported:
    """Write a detector as one graph: uint8 images in; anomaly_score, p_value and is_anomaly out.

    Args:
        detector: what is written.
        path: of the file: ``.onnx``, or ``.xml`` for OpenVINO, which has a ``.bin`` beside it.
        layout: of the images: "nhwc", as decoders give them, or "nchw".
        size: "any": the graph resizes; "fixed": images must have the detector's size.
        fresh: normal images that training never saw, uint8 (n, C, H, W) in the detector's format: then R's and D's
            convolutions compute in 8 bits, and two thirds of these images set the threshold anew.

    Raises:
        ConfigError: if the name ends otherwise, or a library is missing.
        DataError: if ``fresh`` are too few.
        ArtefactError: if the file cannot be written, or its scores are not the detector's: then there is none.
    """
    path = Path(path)
    check_target(path)
    with _draft(path) as draft:
        write = _eight_bits if fresh is not None else _exact
        compared, shift = write(detector, draft, layout, size, fresh)
        n_bytes = sum(file.stat().st_size for file in draft.parent.iterdir())
    return Exported(path, n_bytes, compared, shift)


def check_target(path: Path) -> None:
    """Refuse a file name that no format goes with, or one whose libraries are not installed.

    Raises:
        ConfigError: saying what to do.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--out {path}: the file must end in .onnx, or in .xml for OpenVINO")
    missing = [name for name in LIBRARIES[path.suffix] if importlib.util.find_spec(name) is None]
    if missing:
        extras = "export" if path.suffix == ".onnx" else "export,openvino"
        raise ConfigError(f"{path.name} needs {', '.join(missing)}; install with: pip install 'alocc[{extras}]'")


def _exact(
    detector: Detector, draft: Path, layout: Layout, size: Size, fresh: Tensor | None
) -> tuple[parity.Parity, None]:
    from alocc.export import graph

    model = graph.build(Verdicts(detector, layout, size == "any"))
    notes = _notes(detector, layout, size) | {"library_versions": library_versions(*graph.LIBRARIES)}
    graph.write(model, notes, draft)
    compared = parity.compare(detector, Runtime(draft), any_size=size == "any")
    if not compared.holds:
        raise ArtefactError(
            f"{draft.name} was not written: its scores differ from the detector's by {compared.difference:.2g} "
            f"({parity.TOLERANCE:g} is allowed); train longer if it was hardly trained, else try another engine"
        )
    graph.write(model, notes | {"parity": compared._asdict()}, draft)
    return compared, None


def _eight_bits(
    detector: Detector, draft: Path, layout: Layout, size: Size, fresh: Tensor | None
) -> tuple[None, int8.Shift]:
    from alocc.export import graph, int8

    assert fresh is not None
    ranges, thresholds = int8.split(fresh)
    zeros = np.zeros(len(thresholds))
    blank = replace(
        detector, calibration=Calibration(zeros, default_alpha(len(zeros), detector.alpha))
    )  # filled in when it can score
    model = int8.quantized(graph.build(Verdicts(blank, layout, size == "any")), ranges, layout)
    versions = library_versions(*graph.LIBRARIES)
    notes = _notes(blank, layout, size) | {"precision": "int8", "library_versions": versions}
    graph.write(model, notes, draft)
    scores = Runtime(draft).score(thresholds.permute(0, 2, 3, 1).numpy()).anomaly_score
    shift = int8.Shift.between(detector.score(thresholds).anomaly_score, scores)
    if not shift.spearman >= int8.LEAST_CORRELATION:
        raise ArtefactError(
            f"{draft.name} was not written: the rank correlation of its scores with the detector's is "
            f"{shift.spearman:.2f} ({int8.LEAST_CORRELATION:g} is asked for); leave --int8 out, or try the other format"
        )
    held_out = np.sort(scores)
    graph.set_held_out(model, held_out)
    graph.write(model, notes | {"held_out_scores": held_out.tolist(), "shift": shift._asdict()}, draft)
    return None, shift


def _notes(detector: Detector, layout: Layout, size: Size) -> dict[str, Any]:
    """What the file says of itself."""
    return {
        "kind": KIND,
        "export_version": EXPORT_VERSION,
        "format_version": FORMAT_VERSION,
        "image_format": detector.image_format._asdict(),
        "layout": layout,
        "size": size,
        "precision": "float32",
        "n_tiles": detector.scorer.frame.n_crops,
        "alpha": detector.alpha,
        "n_held_out": len(detector.held_out_scores),
        "held_out_scores": detector.held_out_scores.tolist(),
        "config": detector.config.model_dump(mode="json"),
        "training": dict(detector.training),
    }


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A path of the same name in a folder beside; what is written there comes to its place if the block ends well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            yield draft
            for file in sorted(Path(folder).iterdir()):  # the .bin before the .xml that needs it
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written ({error.strerror or error})") from None
