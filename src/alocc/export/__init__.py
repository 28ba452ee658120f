"""A detector → a file that scores without torch: ONNX or OpenVINO, compared with the detector before it is there."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alocc.calibration import FloatArray, default_alpha
from alocc.detector import FORMAT_VERSION, Detector, library_versions
from alocc.errors import ArtefactError, ConfigError
from alocc.export import parity
from alocc.export.scorer import Layout, Verdicts
from alocc.runtime import EXPORT_VERSION, KIND, SUFFIXES, Runtime
from alocc.stages import stage
from alocc.storage import replacing

if TYPE_CHECKING:
    import onnx

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
    made_from: str | None = None,
    real: Tensor | None = None,
    maps: bool = False,
) -> Exported:
    """Write a detector as one graph: uint8 images in; anomaly_score, p_value, is_anomaly and any map out.

    Args:
        detector: what is written.
        path: of the file: ``.onnx``, or ``.xml`` for OpenVINO, which has a ``.bin`` beside it.
        layout: of the images: "nhwc", as decoders give them, or "nchw".
        size: "any": the graph resizes; "fixed": images must have the detector's size.
        fresh: normal images that training never saw, uint8 (n, C, H, W) in the detector's format: then R's and D's
            convolutions compute in 8 bits, and two thirds of these images set the threshold anew.
        made_from: SHA-256 of the detector's file, which the notes then tell.
        real: images like those of the training, uint8 (n, C, H, W) in the detector's format: the file's scores of them
            are compared with the detector's too.
        maps: whether the graph gives anomaly_map too, which is compared as scores are; not with ``fresh``, as nothing
            calibrates the maps of 8 bits.

    Raises:
        ConfigError: if the name ends otherwise, a library is missing, or maps of 8 bits are asked for.
        DataError: if ``fresh`` are too few.
        ArtefactError: if the file cannot be written, or its scores or maps are not the detector's: then there is none.
    """
    path = Path(path)
    check_target(path, maps=maps, int8=fresh is not None)
    stage("exporting")
    detector = detector.to("cpu")
    notes = _notes(detector, layout, size, made_from)
    if maps:
        notes["map_maxima"] = detector.map_maxima.tolist()
    with _draft(path) as draft:
        compared: parity.Parity | None = None
        shift: int8.Shift | None = None
        if fresh is None:
            compared = _exact(detector, draft, notes, real)
        else:
            shift = _eight_bits(detector, draft, notes, fresh)
        n_bytes = sum(file.stat().st_size for file in draft.parent.iterdir())
    return Exported(path, n_bytes, compared, shift)


def check_target(path: Path, *, maps: bool = False, int8: bool = False) -> None:
    """Refuse a file name that no format goes with, or one whose libraries are not installed; or maps of 8 bits.

    Raises:
        ConfigError: saying what to do.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--out {path}: the file must end in .onnx, or in .xml for OpenVINO")
    if maps and int8:
        raise ConfigError("--maps cannot go with --int8: nothing calibrates the maps of 8 bits; leave one of them out")
    missing = [name for name in LIBRARIES[path.suffix] if importlib.util.find_spec(name) is None]
    if missing:
        extras = "export" if path.suffix == ".onnx" else "export,openvino"
        advice = f"install with, in the clone: pip install '.[{extras}]'"
        raise ConfigError(f"{path.name} needs {', '.join(missing)}; {advice}")


def _exact(detector: Detector, draft: Path, notes: Mapping[str, Any], real: Tensor | None) -> parity.Parity:
    from alocc.export import graph

    any_size = notes["size"] == "any"
    model = graph.build(Verdicts(detector, notes["layout"], any_size, maps="map_maxima" in notes))
    graph.write(model, notes, draft)
    compared = parity.compare(detector, Runtime(draft), any_size, real)
    if not compared.holds:
        raise ArtefactError(
            f"{draft.name} was not written: {compared.fault}; train longer if it was hardly trained, else try another "
            "engine"
        )
    images = parity.trial_images(detector, parity.PROBED, detector.image_format.size)
    probe = parity.held_out_among(Runtime(draft).outputs(images)[0], len(detector.held_out_scores))
    _write_with(model, probe, notes, draft)
    _check_verdicts(draft, images)
    _write_with(model, detector.held_out_scores, {**notes, "parity": compared._asdict()}, draft)
    return compared


def _eight_bits(detector: Detector, draft: Path, notes: Mapping[str, Any], fresh: Tensor) -> int8.Shift:
    from alocc.export import graph, int8

    ranges, thresholds = int8.split(fresh)
    n, layout = len(thresholds), notes["layout"]
    blank = replace(detector, calibration=replace(detector.calibration, held_out_scores=np.zeros(n)))
    blank = blank.with_alpha(default_alpha(n, detector.alpha))  # its scores are filled in when it can score
    model = int8.quantized(graph.build(Verdicts(blank, layout, notes["size"] == "any")), ranges, layout)
    rates = {"alpha": blank.alpha, "review_alpha": blank.review_alpha}
    notes = {**notes, "precision": "int8", **rates, "n_held_out": n, "health": None}
    _write_with(model, blank.held_out_scores, notes, draft)
    images = thresholds.permute(0, 2, 3, 1).numpy()
    scores = Runtime(draft).score(images).anomaly_score
    shift = int8.Shift.between(detector.score(thresholds).anomaly_score, scores)
    if not shift.spearman >= int8.LEAST_CORRELATION:
        raise ArtefactError(
            f"{draft.name} was not written: the rank correlation of its scores with the detector's is "
            f"{shift.spearman:.2f} ({int8.LEAST_CORRELATION:g} is asked for); leave --int8 out, or try the other format"
        )
    _write_with(model, np.sort(scores), {**notes, "shift": shift._asdict()}, draft)
    at = n - blank.calibration.rank  # of the sorted scores, the threshold
    _check_verdicts(draft, images[np.argsort(scores)[max(0, at - 3) :][: parity.PROBED]])
    return shift


def _write_with(model: onnx.ModelProto, held_out: FloatArray, notes: Mapping[str, Any], draft: Path) -> None:
    """Write the graph and its notes with these held-out scores, sorted, in both."""
    from alocc.export import graph

    graph.set_held_out(model, held_out)
    graph.write(model, {**notes, "held_out_scores": held_out.tolist()}, draft)


def _check_verdicts(draft: Path, images: NDArray[np.uint8]) -> None:
    """Ask for the graph's own verdicts on images whose scores are those of held-out images, and the threshold."""
    if not parity.verdicts_hold(Runtime(draft), images):
        raise ArtefactError(f"{draft.name} was not written: its verdicts do not match its scores; try another engine")


def _notes(detector: Detector, layout: Layout, size: Size, made_from: str | None) -> dict[str, Any]:
    """What the file says of itself."""
    from alocc.export import graph

    return {
        "kind": KIND,
        "export_version": EXPORT_VERSION,
        "format_version": FORMAT_VERSION,
        "made_from": made_from,
        "image_format": detector.image_format._asdict(),
        "layout": layout,
        "size": size,
        "precision": "float32",
        "n_tiles": detector.scorer.frame.n_crops,
        "alpha": detector.alpha,
        "review_alpha": detector.review_alpha,
        "n_held_out": len(detector.held_out_scores),
        "held_out_scores": detector.held_out_scores.tolist(),
        "health": asdict(detector.health) if detector.health else None,
        "config": detector.config.model_dump(mode="json"),
        "training": dict(detector.training),
        "library_versions": library_versions(*graph.LIBRARIES),
    }


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder; what is there comes to its place if the block ends well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="alocc-export-") as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir()):  # the .bin before the .xml that needs it
                with replacing(path.with_name(file.name)) as temporary:
                    shutil.copyfile(file, temporary)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written ({error.strerror or error})") from None
