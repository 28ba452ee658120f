"""Scores of held-out normal images → p-values, thresholds and verdicts: the one place of the alpha rule. NumPy alone.

An image is an anomaly if and only if ``p_value <= alpha``, ties included, and that is the same as
``anomaly_score > threshold``. With a second, larger alpha there is a third verdict: an image that is no anomaly, but
whose ``p_value <= review_alpha``, is for a person to look at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alocc.errors import ConfigError

FloatArray = NDArray[np.float64]
DEFAULT_ALPHA = 0.01
NORMAL, CANT_TELL, ANOMALOUS = "normal", "can't tell", "anomalous"
"""The verdicts."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What n held-out normal images say of a score, at a false-positive rate."""

    held_out_scores: FloatArray
    """Anomaly scores of the held-out normal images, (n,), sorted ascending."""
    alpha: float
    """The false-positive rate that is kept."""
    review_alpha: float | None = None
    """The rate up to which an image that is no anomaly is for a person; none: every image is normal or anomalous."""

    @classmethod
    def of(cls, scores: ArrayLike, alpha: float | None = None, review_alpha: float | None = None) -> Calibration:
        """Calibrate on held-out scores in any order: at alpha if it is asked for, else .01, else the smallest possible.

        Raises:
            ConfigError: if so many images cannot support the alpha that is asked for, or ``review_alpha`` is below it.
        """
        held_out = np.sort(np.asarray(scores, np.float64))
        kept = cls(held_out, default_alpha(len(held_out)) if alpha is None else 1.0)
        return (kept if alpha is None else kept.with_alpha(alpha)).with_review_alpha(review_alpha)

    @property
    def n(self) -> int:
        """How many held-out images there are."""
        return len(self.held_out_scores)

    @cached_property
    def rank(self) -> int:
        """An image is an anomaly if fewer than this many held-out scores are at least as large as its own."""
        p_if_k_are_larger = (1 + np.arange(self.n + 1)) / (self.n + 1)  # the very numbers that p_values gives
        return int((p_if_k_are_larger <= self.alpha).sum())

    @property
    def threshold(self) -> float:
        """The score above which an image is an anomaly: a held-out score, or infinite if no image can be one."""
        if self.rank == 0:
            return float("inf")
        return float(self.held_out_scores[self.n - self.rank]) if self.rank <= self.n else float("-inf")

    @property
    def review_threshold(self) -> float | None:
        """The score above which an image is not called normal, at most ``threshold``; none without a review alpha."""
        return None if self.review_alpha is None else replace(self, alpha=self.review_alpha).threshold

    def verdicts(self, p_values: ArrayLike) -> NDArray[np.str_]:
        """Of m images, (m,): "anomalous" if p ≤ alpha, "can't tell" if alpha < p ≤ review_alpha, else "normal"."""
        p_value = np.asarray(p_values, np.float64)
        return verdicts(p_value, p_value <= self.alpha, self.review_alpha)

    def p_values(self, anomaly_score: NDArray[np.floating]) -> FloatArray:
        """``(1 + #{s_i ≥ s}) / (n + 1)``, (m,): the chance that a normal image looks at least this anomalous.

        For normal images like the held-out ones, ``P(p_value <= alpha) <= alpha`` (Vovk et al. 2005).
        """
        return (1 + self.count_at_least(anomaly_score)) / (self.n + 1)

    def count_at_least(self, anomaly_score: NDArray[np.floating]) -> NDArray[np.int64]:
        """How many held-out images are at least as anomalous as each of m images, (m,)."""
        return self.n - np.searchsorted(self.held_out_scores, anomaly_score, side="left")

    def exact(self, p_value: NDArray[np.floating]) -> FloatArray:
        """The quotients of whole numbers that p-values of 32 bits stand for, (m,)."""
        return np.rint(p_value.astype(np.float64) * (self.n + 1)) / (self.n + 1)

    def at(self, alpha: float | None, review_alpha: float | None) -> Calibration:
        """The same held-out images at other rates; none: at its own. A review alpha of 0: without the third verdict.

        See the two methods below.
        """
        calibration = self if alpha is None else self.with_alpha(alpha)
        return calibration if review_alpha is None else calibration.with_review_alpha(review_alpha)

    def with_alpha(self, alpha: float) -> Calibration:
        """The same held-out images at another false-positive rate; a review alpha below it is raised to it.

        Raises:
            ConfigError: if they cannot support it, with the smallest that they can.
        """
        if not 0 < alpha < 1:
            raise ConfigError(f"alpha must be above 0 and below 1, got {alpha:g}")
        if alpha < smallest_alpha(self.n):
            raise ConfigError(
                f"alpha must be at least {smallest_alpha_text(self.n)} with {self.n} held-out images, got {alpha:g}, "
                f"which needs {images_needed(alpha)} held-out images"
            )
        return replace(self, alpha=alpha, review_alpha=self.review_alpha and max(self.review_alpha, alpha))

    def with_review_alpha(self, review_alpha: float | None) -> Calibration:
        """The same with another rate up to which images are for a person; none or 0: no third verdict.

        Raises:
            ConfigError: if it is not from alpha on and below 1.
        """
        if review_alpha and not self.alpha <= review_alpha < 1:
            raise ConfigError(
                f"the review alpha must be at least alpha, {self.alpha:g}, and below 1, got {review_alpha:g}"
            )
        return replace(self, review_alpha=review_alpha or None)


def verdicts(p_value: FloatArray, is_anomaly: NDArray[np.bool_], review_alpha: float | None) -> NDArray[np.str_]:
    """The verdict on each of m images, (m,), whatever rule called the anomalies: see :meth:`Calibration.verdicts`."""
    others = NORMAL if review_alpha is None else np.where(p_value <= review_alpha, CANT_TELL, NORMAL)
    return np.where(is_anomaly, ANOMALOUS, others)


def map_threshold(map_maxima: FloatArray, alpha: float) -> float:
    """The value that a normal image's map exceeds anywhere with probability alpha, about.

    Where the maps of fewer than 1 / alpha − 1 images calibrated it, the probability is that of the highest of them.

    Args:
        map_maxima: highest values of the maps of n held-out normal images, (n,).
        alpha: see above.
    """
    return Calibration.of(map_maxima, default_alpha(len(map_maxima), alpha)).threshold


def default_alpha(n: int, wanted: float | None = None) -> float:
    """The alpha that is wanted, or .01; or the smallest that n held-out images support, if that is larger."""
    return max(DEFAULT_ALPHA if wanted is None else wanted, smallest_alpha(n))


def smallest_alpha(n: int) -> float:
    """Smallest false-positive rate that n held-out images can promise: 1 / (n + 1)."""
    return 1 / (n + 1)


def smallest_alpha_text(n: int) -> str:
    """:func:`smallest_alpha` in four decimals, rounded up, so that asking for it is granted."""
    return f"{math.ceil(smallest_alpha(n) * 10_000) / 10_000:g}"


def images_needed(alpha: float | None) -> int:
    """Smallest number of held-out images n with 1 / (n + 1) ≤ alpha, or .01 if none is asked for; at most 10^18."""
    return math.ceil(1 / max(DEFAULT_ALPHA if alpha is None else alpha, 1e-18) - 1e-9) - 1
