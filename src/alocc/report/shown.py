"""The images that a report shows: loaded, scored and, where classes are known, compared with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alocc.data.sources import ImageSet, Skipped, open_source
from alocc.detector import Detector, Scores
from alocc.errors import DataError
from alocc.evaluation.labelled import Labelled, evaluate
from alocc.evaluation.metrics import Evaluation


@dataclass(frozen=True)
class Shown:
    """Images with their scores and, where classes are known, their labels."""

    all_classes: ImageSet
    """For the grid: every class of the data."""
    images: ImageSet
    """For everything else: the classes that were asked for."""
    is_anomalous: NDArray[np.bool_] | None
    scores: Scores
    evaluation: Evaluation | None

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


def look(
    detector: Detector, data: str, normal: Sequence[str] | None = None, anomalous: Sequence[str] | None = None
) -> Shown:
    """Load images and score them.

    Args:
        detector: scores.
        data: what to open.
        normal: names of the normal classes; none: those of the training, where the data have them.
        anomalous: names of the anomalous ones; none: all others.

    Raises:
        DataError: if the images or a class cannot be found, or not one image can be used.
    """
    everything = open_source(data, "test").load(detector.image_format)
    names = set(everything.classes.tolist()) - {""}
    _check_classes(data, [*(normal or ()), *(anomalous or ())], names)
    normal = normal or detector.training["normal_classes"] or ()
    others = anomalous or names - set(normal)
    images, is_anomalous = everything, None
    if normal and others and set(normal) <= names:
        asked_for = np.isin(everything.classes, [*normal, *others])
        images = everything if asked_for.all() else everything[asked_for]
        is_anomalous = ~np.isin(images.classes, list(normal))
    scores = detector.score(images.images)
    evaluation = None
    if is_anomalous is not None:
        evaluation = evaluate(detector, Labelled(images, is_anomalous), scores)
    return Shown(everything, images, is_anomalous, scores, evaluation)


def _check_classes(data: str, asked_for: Sequence[str], names: set[str]) -> None:
    for name in asked_for:
        if name not in names:
            raise DataError(f'{data} has no class "{name}"; its classes: {", ".join(sorted(names)) or "none"}')


def printable(name: str) -> str:
    """A name that UTF-8 can write: file systems allow names that are no text."""
    return os.fspath(name).encode("utf-8", "backslashreplace").decode("utf-8")


def printable_reasons(skipped: Sequence[Skipped]) -> list[str]:
    """One line for each image that could not be used: which, and why."""
    lines = (item.reason if item.name in item.reason else f"{item.name}: {item.reason}" for item in skipped)
    return [printable(line) for line in lines]
