"""Labelled images, and what a detector makes of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alocc.calibration import CANT_TELL
from alocc.data.images import ImageFormat
from alocc.data.sources import Data, ImageSet, Skipped, check_classes, check_strict, open_source
from alocc.detector import Detector
from alocc.errors import DataError
from alocc.evaluation.metrics import RESAMPLES, Evaluation, at_threshold, auroc, evaluate_scores
from alocc.evaluation.pixels import load_masks, pixel_figures
from alocc.scores import Scores
from alocc.scoring.stream import Engine
from alocc.stages import counted, stage


@dataclass(frozen=True)
class Labelled:
    """Images of which it is known whether they are normal."""

    images: ImageSet
    is_anomalous: NDArray[np.bool_]

    def class_counts(self, anomalous: bool) -> dict[str, int]:
        """Class of the normal or of the anomalous images → how many there are."""
        names, counts = np.unique(self.images.classes[self.is_anomalous == anomalous], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


def load_labelled(
    data: Data,
    image_format: ImageFormat,
    normal: Sequence[str],
    anomalous: Sequence[str] | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> Labelled:
    """Load test images of the normal classes and of the anomalous ones; those without a class are named as skipped.

    Args:
        data: what :func:`alocc.data.sources.open_source` opens, with classes.
        image_format: the detector's format.
        normal, anomalous: names of classes; no anomalous ones: all others.
        limit: keep at most so many images of either side, spread evenly.
        strict: stop at the first image that cannot be used.

    Raises:
        DataError: if a class does not exist, is named on both sides, or one side is empty; if strict, if an image
            cannot be used.
    """
    both = sorted(set(normal) & set(anomalous or ()))
    if both:
        raise DataError(f'class "{both[0]}" is named both normal and anomalous')
    if not normal:
        raise DataError("say which classes are normal, with --normal: the detector was trained without class names")
    source = open_source(data, "test", None if anomalous is None else [*normal, *anomalous])
    if not source.class_names:
        raise DataError(
            f"{source.where} has no classes (sub-folders, or labels), and normal images are compared with anomalous "
            "ones; give the folder above"
        )
    check_classes(normal, source.class_names, source.where)
    images = source.load(image_format, strict)
    if (images.classes == "").any():
        names = images[images.classes == ""].names
        unlabelled = [Skipped(name, f"{name} has no class") for name in names]
        check_strict(strict, unlabelled)
        images = replace(images[images.classes != ""], skipped=(*images.skipped, *unlabelled))
    is_anomalous = ~np.isin(images.classes, [unicodedata.normalize("NFC", name) for name in normal])
    for side, option in ((False, "normal"), (True, "anomalous")):
        if not (is_anomalous == side).any():
            raise DataError(f"{data} has no {option} images to evaluate with; see --normal and --anomalous")
    if limit is not None:
        sides = [np.flatnonzero(is_anomalous == side) for side in (True, False)]
        evenly = [side[np.linspace(0, len(side) - 1, min(limit, len(side))).astype(np.int64)] for side in sides]
        kept = np.sort(np.concatenate(evenly))
        images, is_anomalous = images[kept], is_anomalous[kept]
    return Labelled(images, is_anomalous)


def evaluate(
    detector: Engine, labelled: Labelled, scores: Scores | None = None, resamples: int = RESAMPLES
) -> Evaluation:
    """Score labelled images, unless that is done, and compare with the labels, and maps with masks if there are any."""
    scores = scores or detector.score(labelled.images.images)
    evaluation = evaluate_scores(
        scores.anomaly_score,
        labelled.is_anomalous,
        threshold=detector.threshold,
        alpha=detector.alpha,
        parts=scores.parts,
        classes=labelled.images.classes,
        resamples=resamples,
    )
    evaluation = _with_review(evaluation, labelled, scores)
    if not any(labelled.images.masks) or detector.map_maxima is None:  # an exported file may have no maps
        return evaluation
    has_mask = np.array([mask is not None for mask in labelled.images.masks])
    is_known = has_mask | ~labelled.is_anomalous  # an anomaly without a mask may be anywhere
    known, is_normal = labelled.images[is_known], ~labelled.is_anomalous[is_known]
    masks = load_masks(known.masks, detector.image_format)
    maps = _maps(detector, known.images)
    stage("comparing maps with masks")
    pixels = pixel_figures(maps, masks, detector.map_threshold)

    def of_class(name: str) -> Mapping[str, float]:
        chosen = is_normal | (known.classes == name)
        if chosen.all():
            return pixels
        if not masks[chosen & ~is_normal].any() or masks[chosen].all():
            return {}
        return pixel_figures(maps[chosen], masks[chosen], detector.map_threshold)

    classes = [replace(one, pixels=of_class(one.name)) if one.is_anomalous else one for one in evaluation.classes]
    return replace(evaluation, pixels=pixels, classes=classes)


def _with_review(evaluation: Evaluation, labelled: Labelled, scores: Scores) -> Evaluation:
    """The same, with how many images of each class are for a person, if there is a third verdict."""
    if scores.review_alpha is None:
        return evaluation
    cannot_tell = scores.verdict == CANT_TELL
    counts = {one.name: int(cannot_tell[labelled.images.classes == one.name].sum()) for one in evaluation.classes}
    classes = [replace(one, n_review=counts[one.name]) for one in evaluation.classes]
    return replace(evaluation, classes=classes, review_alpha=scores.review_alpha)


def _maps(detector: Engine, images: Tensor) -> NDArray[np.float32]:
    progress = counted("computing maps", len(images))
    if isinstance(detector, Detector):
        return detector.anomaly_map(images, progress)
    maps = detector.score(images, progress, maps=True).anomaly_map
    assert maps is not None
    return maps


def watch_on(labelled: Labelled) -> Callable[[Detector], Mapping[str, float]]:
    """Evaluation on labelled images through training, for a curve: it never steers anything.

    Beside the detector's own verdict it notes both ways to read D's class 1. ``real`` is how D is trained: an image is
    an anomaly if ``p_real < 0.5``. ``flipped`` is the article's evaluation: class 1 is the anomaly.
    """
    anomalous = labelled.is_anomalous

    def watch(detector: Detector) -> Mapping[str, float]:
        scores = detector.score(labelled.images.images)
        own = at_threshold(scores.is_anomaly, anomalous)
        figures = {"accuracy": own["accuracy"], "f1": own["f1"], "auroc": auroc(scores.anomaly_score, anomalous)}
        if scores.p_real is not None:
            for reading, called in (("real", scores.p_real < 0.5), ("flipped", scores.p_real >= 0.5)):
                read = at_threshold(called, anomalous)
                figures |= {f"accuracy_{reading}": read["accuracy"], f"f1_{reading}": read["f1"]}
            figures["p_real_normal"] = float(scores.p_real[~anomalous].mean())
            figures["p_real_anomalous"] = float(scores.p_real[anomalous].mean())
        return figures

    return watch
