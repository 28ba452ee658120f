"""Scores of held-out normal images → p-values, thresholds, and the alphas that they support. NumPy alone.

One rule, everywhere, ties included: an image is an anomaly if and only if ``p_value <= alpha``, and that is the same
as ``anomaly_score > threshold``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from alocc.errors import ConfigError

FloatArray = NDArray[np.float64]


def conformal_p_values(anomaly_score: FloatArray, held_out: FloatArray) -> FloatArray:
    """``(1 + #{s_i ≥ s}) / (n + 1)``: the chance that a normal image looks at least this anomalous.

    For normal images like the held-out ones, ``P(p_value <= alpha) <= alpha`` (Vovk et al. 2005).

    Args:
        anomaly_score: scores to judge, (m,).
        held_out: scores of the n held-out normal images, sorted ascending.
    """
    at_least = len(held_out) - np.searchsorted(held_out, anomaly_score, side="left")
    return (1 + at_least) / (len(held_out) + 1)


def threshold_at(alpha: float, held_out: FloatArray) -> float:
    """The score above which ``p_value <= alpha``: the k-th largest held-out score; infinite if no score can be.

    Args:
        alpha: false-positive rate, in (0, 1).
        held_out: scores of the n held-out normal images, sorted ascending.
    """
    n = len(held_out)
    k = rank_at(alpha, n)
    if k == 0:
        return float("inf")
    return float(held_out[n - k]) if k <= n else float("-inf")


def rank_at(alpha: float, n: int) -> int:
    """An image is an anomaly if fewer than this many of n held-out scores are at least as large as its own."""
    p_if_k_are_larger = (1 + np.arange(n + 1)) / (n + 1)  # the very numbers that conformal_p_values gives
    return int((p_if_k_are_larger <= alpha).sum())


def check_alpha(alpha: float, n_held_out: int) -> None:
    """Refuse a false-positive rate that so many held-out images cannot promise.

    Raises:
        ConfigError: with the smallest that they can.
    """
    if not smallest_alpha(n_held_out) <= alpha < 1:
        raise ConfigError(
            f"alpha must be at least {shown_alpha(n_held_out)} with {n_held_out} held-out images, and below 1, got "
            f"{alpha:g} (alpha {alpha:g} needs {images_needed(alpha) if 0 < alpha < 1 else 'no number of'} held-out "
            "images)"
        )


def images_needed(alpha: float) -> int:
    """Smallest number of held-out images n with 1 / (n + 1) ≤ alpha."""
    return math.ceil(1 / alpha - 1e-9) - 1


def shown_alpha(n_held_out: int) -> str:
    """:func:`smallest_alpha` in four decimals, rounded up, so that asking for it is granted."""
    return f"{math.ceil(smallest_alpha(n_held_out) * 10_000) / 10_000:g}"


def smallest_alpha(n_held_out: int) -> float:
    """Smallest false-positive rate that n held-out images can promise: 1 / (n + 1)."""
    return 1 / (n_held_out + 1)
