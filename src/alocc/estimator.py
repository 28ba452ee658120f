"""The scikit-learn face: ALOCC as an outlier detector for pipelines and grid searches."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from alocc.calibration import FloatArray
from alocc.config import preset as load_preset
from alocc.config import with_values
from alocc.data.splits import split_normals
from alocc.detector import Detector
from alocc.errors import ConfigError, DataError
from alocc.training.plan import Device
from alocc.training.run import train


class ALOCC(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """One-class novelty detector for images.

    ``decision_function = score_samples − offset_``; an image is an outlier (−1) if its decision is negative.
    scikit-learn knows two classes: an image of which a detector can't tell (see ``review_alpha``) is an inlier here.

    Args:
        preset: "robust", "features", "article", "paper" or "ognet".
        alpha: share of normal images that may be called outliers; none: 0.01, or the smallest that the number of
            training images supports.
        iterations: updates of R; none: the preset's.
        settings: more of the config, as ``{"section.key": value}``; none switches off what may be left out.
        device: "auto", "cpu", "cuda" or "mps".
        random_state: seed of everything random, or a NumPy ``RandomState`` to draw one from; none: the config's, which
            is 0 by default, so a fit is repeatable.

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
        random_state: int | np.random.RandomState | None = None,
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
            ConfigError, DataError: if a parameter is wrong, or the images have a wrong shape, type or value range, or
                are too few (both are ValueErrors).
        """
        seed = self.random_state
        if seed is not None and not isinstance(seed, int):  # as scikit-learn takes it
            seed = int(seed if isinstance(seed, Integral) else check_random_state(seed).randint(1 << 31))
        self.detector_: Detector = train(
            _array(X),
            config=with_values(load_preset(self.preset), _nested(self.settings or {}), source="settings"),
            seed=seed,
            iterations=self.iterations,
            alpha=self.alpha,
            device=self.device,
        )
        self.offset_ = -self.detector_.threshold
        return self

    def score_samples(self, X: ArrayLike) -> FloatArray:
        """``−anomaly_score`` of each image, (n,): higher = more normal."""
        check_is_fitted(self)
        return -self.detector_.score(_array(X)).anomaly_score

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


def _array(X: ArrayLike) -> NDArray[np.generic]:
    try:
        return np.asarray(X)
    except ValueError:
        raise DataError("images of different sizes are not an array; give images of one size") from None


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a config has them: a mapping for each section, and NumPy's values as Python's."""
    values: dict[str, Any] = {}
    for key, value in sorted(settings.items(), key=lambda item: str(item[0]).count(".")):  # a section before its keys
        *sections, last = str(key).split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"settings: {key} is in {section}, which was set to a value before")
        inner[last] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
