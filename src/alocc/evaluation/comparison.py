"""Several detectors side by side: what each is, and what each says of the same images, with labels or without."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.data.entries import class_of
from alocc.data.sources import Skipped, open_source
from alocc.detector import Detector, artefact_path
from alocc.errors import ConfigError
from alocc.evaluation.labelled import Labelled, evaluate, load_labelled
from alocc.evaluation.metrics import auroc_interval, share_interval
from alocc.scores import Progress, Scores
from alocc.storage import digest


@dataclass(frozen=True)
class Compared:
    """One detector, and what it says; none where that was not asked, or cannot be known."""

    detector: str
    preset: str
    images: str
    alpha: float
    health: str | None = None
    """Verdict of its last health check, if that was of this very detector."""
    n_images: int | None = None
    n_anomalies: int | None = None
    n_review: int | None = None
    """Images of which it can't tell; none without a review alpha."""
    n_seen: int | None = None
    """Images that it was trained or calibrated on, which flatter it."""
    same_verdicts: float | None = None
    """Share of the images of which it says the same as the first detector."""
    auroc: float | None = None
    recall: tuple[int, int] | None = None
    """Anomalous images called, of how many."""
    false_alarms: tuple[int, int] | None = None
    """Normal images called, of how many."""
    pixel_auroc: float | None = None
    pro: float | None = None
    images_per_second: float | None = None
    skipped: Sequence[Skipped] = ()


def compare_detectors(
    paths: Sequence[Path],
    data: str | None,
    normal: Sequence[str] | None,
    anomalous: Sequence[str] | None,
    *,
    alpha: float | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> list[Compared]:
    """Let each detector score the same images, each at its own working size.

    Args:
        paths: run folders or detectors' files.
        data: images; none: only what the detectors are.
        normal: classes that are normal; none: those that the first detector was trained on.
        anomalous: classes that are not; none: all others. Without classes of both sides, images have no labels.
        alpha: false-positive rate of all of them; none: of each its own.
        strict: stop at the first image that cannot be used.
        progress: told of the number of images of each finished batch.

    Raises:
        DataError, ArtefactError: if the images or a detector cannot be used.
        ConfigError: if a detector is given twice.
    """
    of_digest: dict[str, Path] = {}
    for path in paths:
        if (other := of_digest.setdefault(digest(artefact_path(path)), path)) is not path:
            raise ConfigError(f"{other} and {path} are the same detector, which says the same of all images; leave one")
    detectors = [Detector.load(path) for path in paths]
    if alpha is not None:
        detectors = [detector.with_alpha(alpha) for detector in detectors]
    if data is None:
        return [_described(path, detector) for path, detector in zip(paths, detectors, strict=True)]
    is_labelled = bool(normal or anomalous) or _has_both(data, detectors[0].training["normal_classes"])
    normal = list(normal or detectors[0].training["normal_classes"])
    compared: list[Compared] = []
    verdicts: list[NDArray[np.bool_]] = []
    for path, detector in zip(paths, detectors, strict=True):
        labelled = load_labelled(data, detector.image_format, normal, anomalous, strict=strict) if is_labelled else None
        images = labelled.images if labelled else open_source(data, "test").load(detector.image_format, strict)
        began = time.perf_counter()
        scores = detector.score(images.images, progress)
        seconds = time.perf_counter() - began
        verdicts.append(scores.is_anomaly)
        figures = _figures(detector, labelled, scores) if labelled else {}
        said = {
            "n_images": len(images),
            "n_anomalies": int(scores.is_anomaly.sum()),
            "n_review": scores.n_review,
            "n_seen": int(detector.was_seen(images.images).sum()),
            "same_verdicts": float((verdicts[0] == verdicts[-1]).mean()) if len(verdicts) > 1 else None,
            "images_per_second": len(images) / seconds,
            "skipped": images.skipped,
        }
        compared.append(_described(path, detector, **said, **figures))
    return compared


def comparison_rows(compared: Sequence[Compared]) -> list[tuple[str, ...]]:
    """For a table: what was found in rows, with 95 % intervals, detectors in columns."""
    columns = {
        "preset": [one.preset for one in compared],
        "working size (width × height)": [one.images for one in compared],
        "alpha": [f"{one.alpha:.3g}" for one in compared],
        "health": [one.health or "not known" for one in compared],
        "called anomalous": [_counted(one.n_anomalies, one.n_images) for one in compared],
        "can't tell": [_counted(one.n_review, one.n_images) for one in compared],
        "same verdicts as the first": [_shown(one.same_verdicts, "{:.1%}") for one in compared],
        "AUROC": [_auroc(one) for one in compared],
        "recall": [_counted(*(one.recall or (None, None))) for one in compared],
        "of these images, seen in training": [str(one.n_seen) if one.n_seen else "" for one in compared],
        "false alarms": [_counted(*(one.false_alarms or (None, None))) for one in compared],
        "pixel AUROC": [_shown(one.pixel_auroc, "{:.3f}") for one in compared],
        "per-region overlap": [_shown(one.pro, "{:.3f}") for one in compared],
        "images/s": [_shown(one.images_per_second, "{:,.0f}") for one in compared],
    }
    rows = [(name, *values) for name, values in columns.items() if any(values)]
    return [("", *(one.detector for one in compared)), *rows]


def comparison_json(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [{name: value for name, value in asdict(one).items() if value is not None} for one in compared]


def _described(path: Path, detector: Detector, **found: Any) -> Compared:
    verdict = detector.health.verdict if detector.health else None
    return Compared(str(path), detector.config.preset, str(detector.image_format), detector.alpha, verdict, **found)


def _figures(detector: Detector, labelled: Labelled, scores: Scores) -> dict[str, Any]:
    """What labels and masks say."""
    evaluation = evaluate(detector, labelled, scores, resamples=0)
    called, anomalies = scores.is_anomaly, labelled.is_anomalous
    return {
        "auroc": evaluation.figures["auroc"],
        "recall": (int((called & anomalies).sum()), int(anomalies.sum())),
        "false_alarms": (int((called & ~anomalies).sum()), int((~anomalies).sum())),
        "pixel_auroc": evaluation.pixels.get("pixel_auroc"),
        "pro": evaluation.pixels.get("pro"),
    }


def _has_both(data: str, normal: Sequence[str]) -> bool:
    """Whether images have classes, some of them normal and some not."""
    classes, known = set(open_source(data, "test").class_names), {class_of([name]) for name in normal}
    return bool(classes & known) and bool(classes - known)


def _auroc(one: Compared) -> str:
    if one.auroc is None or one.recall is None or one.false_alarms is None:
        return ""
    low, high = auroc_interval(one.auroc, one.recall[1], one.false_alarms[1])
    return f"{one.auroc:.3f} ({low:.3f} to {high:.3f})"


def _counted(count: int | None, n: int | None) -> str:
    if count is None or n is None:
        return ""
    low, high = share_interval(count, n)
    return f"{count:,} of {n:,} ({low:.0%} to {high:.0%})"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
