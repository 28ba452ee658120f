"""The images of a report: loaded, scored and, where classes are known, compared with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alocc.data.sources import ImageSet, Skipped, check_classes, open_source
from alocc.detector import Detector, Scores
from alocc.errors import DataError
from alocc.evaluation.labelled import Labelled, evaluate
from alocc.evaluation.metrics import Evaluation
from alocc.stages import counted


@dataclass(frozen=True)
class Results:
    """Images with their scores and, where classes are known, their labels."""

    all_classes: ImageSet
    """For the grid: every class of the data."""
    images: ImageSet
    """For everything else: the classes that were asked for."""
    is_anomalous: NDArray[np.bool_] | None
    scores: Scores
    evaluation: Evaluation | None
    n_seen: int
    """How many of ``images`` the detector was trained or calibrated on: their scores flatter it."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def by_score(self) -> NDArray[np.int64]:
        """Indices of the images, the most anomalous first; images of one score stay as they came."""
        return np.argsort(-self.scores.anomaly_score, kind="stable")

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Which images each histogram and each row of counts is about."""
        if self.is_anomalous is None:
            return {"images": np.ones(len(self), dtype=bool)}
        return {"normal": ~self.is_anomalous, "anomalous": self.is_anomalous}


def score_images(
    detector: Detector, data: str, normal: Sequence[str] | None = None, anomalous: Sequence[str] | None = None
) -> Results:
    """Load images and score them.

    Args:
        detector: scores.
        data: what :func:`alocc.data.sources.open_source` opens.
        normal, anomalous: names of classes; none: those of the training, where the data have them, and all others.

    Raises:
        DataError: if the images or a class cannot be found, or not one image, of either side if sides are named, can be
            used.
    """
    source = open_source(data, "test")
    check_classes([*(normal or ()), *(anomalous or ())] or None, source.class_names, data)
    everything = source.load(detector.image_format)
    sides = [list(normal or detector.training["normal_classes"]), list(anomalous or ())]
    sides[1] = sides[1] or sorted(set(everything.classes.tolist()) - {"", *sides[0]})
    is_normal, is_other = (np.isin(everything.classes, side) for side in sides)
    if (is_normal & is_other).any():
        raise DataError(f'class "{everything.classes[is_normal & is_other][0]}" is named both normal and anomalous')
    images, is_anomalous = everything, None
    if is_normal.any() and is_other.any():
        kept = is_normal | is_other
        images = everything if kept.all() else everything[kept]
        is_anomalous = is_other[kept]
    elif normal or anomalous:
        missing = "anomalous" if is_normal.any() else "normal"
        raise DataError(f"{data} has no {missing} images that can be used; see --normal and --anomalous")
    scores = detector.score(images.images, counted("scoring", len(images)))
    evaluation = None if is_anomalous is None else evaluate(detector, Labelled(images, is_anomalous), scores)
    return Results(everything, images, is_anomalous, scores, evaluation, int(detector.was_seen(images.images).sum()))


def printable(name: str) -> str:
    """A name that UTF-8 can write: file systems allow names that are no text."""
    return os.fspath(name).encode("utf-8", "backslashreplace").decode("utf-8")


def printable_reasons(skipped: Sequence[Skipped]) -> list[str]:
    """One line for each image that could not be used: which, and why."""
    lines = (item.reason if item.name in item.reason else f"{item.name}: {item.reason}" for item in skipped)
    return [printable(line) for line in lines]
