"""Batches of images in, rows of scores out, so that memory does not depend on their number. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import Calibration, FloatArray
from alocc.data.entries import Skipped
from alocc.data.reading import check_strict, none_usable
from alocc.data.resizing import ImageFormat
from alocc.scores import Progress, Scores
from alocc.verdict import Health


class Batch(Protocol):
    """Some images, as the engine takes them, with their names and classes, and some that could not be used."""

    @property
    def images(self) -> Any: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def classes(self) -> Iterable[str]: ...
    @property
    def skipped(self) -> Sequence[Skipped]: ...


class Scorer(Protocol):
    """What gives scores to images."""

    @property
    def alpha(self) -> float: ...
    @property
    def review_alpha(self) -> float | None: ...
    def score(self, images: Any, progress: Progress | None = None) -> Scores: ...
    def was_seen(self, images: Any) -> NDArray[np.bool_]: ...


class Engine(Scorer, Protocol):
    """What scores: a :class:`~alocc.detector.Detector`, which says what each of these is, or an exported file."""

    @property
    def image_format(self) -> ImageFormat: ...
    @property
    def calibration(self) -> Calibration: ...
    @property
    def threshold(self) -> float: ...
    @property
    def map_maxima(self) -> FloatArray | None: ...
    @property
    def map_threshold(self) -> float: ...
    @property
    def training(self) -> Mapping[str, Any]: ...
    @property
    def held_out_scores(self) -> FloatArray: ...
    @property
    def health(self) -> Health | None: ...
    def score(self, images: Any, progress: Progress | None = None, *, maps: bool = False) -> Scores: ...
    def regions(
        self, images: Any, scores: Scores | None = None, *, sizes: Sequence[tuple[int, int]] = ()
    ) -> list[list[Any]]: ...


@dataclass(frozen=True)
class WithMaps:
    """An engine that computes maps too, and calls anomalies what a calibration does."""

    engine: Engine
    calibration: Calibration

    @property
    def alpha(self) -> float:
        """False-positive rate of the engine."""
        return self.engine.alpha

    @property
    def review_alpha(self) -> float | None:
        """Rate up to which its images are for a person, if there is a third verdict."""
        return self.engine.review_alpha

    def score(self, images: Any, progress: Progress | None = None) -> Scores:
        """Scores with maps."""
        found = self.engine.score(images, progress, maps=True)
        return replace(found, is_anomaly=found.p_value <= self.calibration.alpha)

    def was_seen(self, images: Any) -> NDArray[np.bool_]:
        """Which images the detector was trained or calibrated on."""
        return self.engine.was_seen(images)


BatchT = TypeVar("BatchT", bound=Batch)


class Rows(NamedTuple):
    """Some images with their scores, and some that could not be used."""

    names: Sequence[str]
    scores: Scores
    """Without the parts of the score and the maps."""
    skipped: Sequence[Skipped]
    n_seen: int
    """How many of the images the detector was trained or calibrated on: their scores flatter it."""
    regions: Sequence[Sequence[Any]] = ()
    """Those of each image (:class:`~alocc.regions.Region`), if they were asked for."""
    classes: Sequence[str] = ()
    """That of each image, "" where it has none; empty if the source has no classes."""

    @classmethod
    def joined(cls, several: Sequence[Rows]) -> Rows:
        """One behind the other."""
        return cls(
            [name for rows in several for name in rows.names],
            Scores.joined([rows.scores for rows in several]),
            [item for rows in several for item in rows.skipped],
            sum(rows.n_seen for rows in several),
            [regions for rows in several for regions in rows.regions],
            [name for rows in several for name in rows.classes],
        )


def score_batches(
    scorer: Scorer,
    batches: Iterable[BatchT],
    *,
    strict: bool = False,
    progress: Progress | None = None,
    with_classes: bool = False,
    going_on: bool = False,
    regions: Callable[[BatchT, Scores], Sequence[Sequence[Any]]] | None = None,
    each: Callable[[BatchT, Scores, Sequence[Sequence[Any]]], None] | None = None,
) -> Iterator[Rows]:
    """Score batch after batch of images in the engine's format. At least one image is scored before the first rows.

    But for batches with which a job goes on: images before them were scored.

    ``progress`` is told of every few images that are done. ``with_classes`` says that the source has classes.
    ``regions`` finds those of each image. ``each`` is given every batch, its scores and regions, before the images are
    let go.

    Raises:
        DataError: if not one image can be used, or, if strict, if one cannot.
    """

    def rows_of(batch: BatchT) -> Rows:
        check_strict(strict, batch.skipped)
        if not batch.names:
            return _unusable(batch.skipped, scorer)
        scores = scorer.score(batch.images, progress)
        found = regions(batch, scores) if regions else ()
        if each:
            each(batch, scores, found)
        n_seen = int(scorer.was_seen(batch.images).sum())
        lean = replace(scores, parts={}, p_real=None, anomaly_map=None)
        classes = list(map(str, batch.classes)) if with_classes else ()
        return Rows(batch.names, lean, batch.skipped, n_seen, found, classes)

    return with_usable(map(rows_of, batches), scorer, going_on=going_on)


def with_usable(parts: Iterable[Rows], scorer: Scorer, *, going_on: bool = False) -> Iterator[Rows]:
    """The same rows, but that those of images that cannot be used come together with the next ones that can.

    Raises:
        DataError: if there are none that can, unless there were some before, with which the job is ``going_on``.
    """
    waiting: list[Skipped] = []
    some = going_on
    for rows in parts:
        waiting += rows.skipped
        if rows.names:
            yield rows._replace(skipped=waiting)
            waiting, some = [], True
    if not some:
        raise none_usable(waiting)
    if waiting:
        yield _unusable(waiting, scorer)


def _unusable(skipped: Sequence[Skipped], scorer: Scorer) -> Rows:
    none = np.empty(0)
    scores = Scores(none, none, none > 0, {}, None, scorer.alpha, review_alpha=scorer.review_alpha)
    return Rows((), scores, skipped, 0)
