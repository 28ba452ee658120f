"""Held-out normal images → one anomaly score on a known scale, and what a batch of p-values says.

p-values and thresholds themselves are in :mod:`alocc.conformal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.conformal import FloatArray, conformal_p_values, threshold_at
from alocc.model.scoring import transformed

__all__ = ["Fusion", "conformal_p_values", "discoveries", "threshold_at"]


@dataclass(frozen=True)
class Fusion:
    """Parts → anomaly score, each part standardised on held-out normal images: z.

    The score is the weighted mean of the squares of all z, signs kept, and the root of that: a part that is far out
    counts more than several that are a little out, since an anomaly rarely shows in everything. The score's unit is
    about one standard deviation of normal images.
    """

    weights: Mapping[str, float]
    means: Mapping[str, float]
    scales: Mapping[str, float]

    @classmethod
    def fit(cls, weights: Mapping[str, float], parts: Mapping[str, Tensor]) -> Fusion:
        """Measure mean and standard deviation of each part over held-out normal images."""
        values = {part: transformed(part, parts[part]) for part in weights}
        means = {part: float(value.mean()) for part, value in values.items()}
        # a part that is the same for all normal images must not divide by zero
        scales = {part: max(float(value.std(correction=0)), 1e-6) for part, value in values.items()}
        return cls(dict(weights), means, scales)

    def __call__(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Anomaly score of each image, (N,), of the parts' type."""
        total = torch.zeros_like(next(iter(parts.values())))
        for part, weight in self.weights.items():  # one after the other: a vectorised sum rounds by position
            z = (transformed(part, parts[part]) - self.means[part]) / self.scales[part]
            total += weight * z.abs() * z
        mean = total / sum(self.weights.values())
        return mean.sign() * mean.abs().sqrt()


def discoveries(p_values: FloatArray, false_discovery_rate: float) -> NDArray[np.bool_]:
    """Which of a batch of images to call anomalies so that at most this share of them is normal, on average.

    Benjamini & Hochberg 1995; with conformal p-values of one held-out set it holds too (Bates et al. 2023).

    Args:
        p_values: of all images of the batch, (n,).
        false_discovery_rate: the share, in (0, 1).
    """
    order = np.argsort(p_values)
    ranks = np.arange(1, len(p_values) + 1)
    below = np.flatnonzero(p_values[order] <= false_discovery_rate * ranks / len(p_values))
    called = np.zeros(len(p_values), dtype=bool)
    called[order[: below[-1] + 1 if len(below) else 0]] = True
    return called
