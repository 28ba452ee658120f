"""The scikit-learn face: ALOCC as an outlier detector for pipelines and grid searches."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from alocc.config import preset as load_preset
from alocc.config import with_settings
from alocc.data.splits import split_normals
from alocc.detector import Detector
from alocc.training.run import Device, train

FloatArray = NDArray[np.float64]


class ALOCC(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """One-class novelty detector for images.

    ``decision_function = score_samples − offset_``; an image is an outlier (−1) if its decision is negative.

    Args:
        preset: "robust", "article", "paper" or "ognet".
        alpha: share of normal images that may be called outliers; none: 0.01, or the smallest that the number of
            training images supports.
        iterations: updates of R; none: the preset's.
        settings: more of the config, as ``{"section.key": value}``.
        device: "auto", "cpu", "cuda" or "mps".
        random_state: seed of everything random; none is 0, so a fit is always repeatable.

    Attributes:
        detector_: the fitted :class:`alocc.Detector`.
        offset_: minus the detector's threshold.
    """

    def __init__(
        self,
        preset: str = "robust",
        alpha: float | None = None,
        iterations: int | None = None,
        settings: dict[str, Any] | None = None,
        device: Device = "auto",
        random_state: int | None = None,
    ) -> None:
        self.preset = preset
        self.alpha = alpha
        self.iterations = iterations
        self.settings = settings
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn normal images.

        Args:
            X: normal images, (n, H, W) or (n, H, W, C), uint8 or float in [0, 1].
            y: not used.

        Raises:
            DataError: if the images have a wrong shape, type or value range, or are too few (a ValueError).
        """
        settings = [f"{key}={_toml(value)}" for key, value in (self.settings or {}).items()]
        self.detector_: Detector = train(
            np.asarray(X),
            config=with_settings(load_preset(self.preset), settings),
            seed=self.random_state or 0,
            iterations=self.iterations,
            alpha=self.alpha,
            device=self.device,
        )
        self.offset_ = -self.detector_.threshold
        return self

    def score_samples(self, X: ArrayLike) -> FloatArray:
        """``−anomaly_score`` of each image, (n,): higher = more normal."""
        check_is_fitted(self)
        return -self.detector_.score(np.asarray(X)).anomaly_score

    def decision_function(self, X: ArrayLike) -> FloatArray:
        """``score_samples − offset_``, (n,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """+1 for normal images and −1 for outliers, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def fit_predict(self, X: ArrayLike, y: object = None) -> NDArray[np.int64]:
        """Fit, and +1 or −1 for the same images, (n,): each judged by networks that it did not train, if they are few.

        Of 2,000 images or more all but a tenth trained the networks that judge them, and look a little too normal.
        """
        detector = self.fit(X).detector_
        if not detector.training["n_folds"] or detector.held_out_in_order is None:
            return self.predict(X)
        split = split_normals(detector.training["n_held_out"], detector.config.calibration, detector.config.seed)
        score_samples = np.empty(len(split.held_out))
        score_samples[split.held_out.numpy()] = -detector.held_out_in_order
        return np.where(score_samples - self.offset_ < 0, -1, 1)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "detector_")


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(list(value) if isinstance(value, tuple) else value)
