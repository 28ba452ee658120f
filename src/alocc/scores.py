"""The scores, p-values and verdicts that a detector gives images. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import FloatArray

Progress = Callable[[int], None]
"""Told of the number of images of each finished batch."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a detector says of n images; every array has n entries."""

    anomaly_score: FloatArray
    """Higher = more anomalous; unbounded, in about standard deviations of normal images."""
    p_value: FloatArray
    """Share of held-out normal images at least as anomalous, in (0, 1]; small = anomalous."""
    is_anomaly: NDArray[np.bool_]
    """``p_value <= alpha``."""
    parts: Mapping[str, FloatArray]
    """Each part of the anomaly score, before it is standardised; higher = more anomalous."""
    p_real: FloatArray | None
    """D's probability that its input is a real normal image, in [0, 1]; none if D has no part in the score."""
    alpha: float
    """The false-positive rate behind ``is_anomaly``."""
    anomaly_map: NDArray[np.float32] | None = None
    """Where images are unusual, (n, H, W), if that was asked for."""

    def __len__(self) -> int:
        return len(self.anomaly_score)

    @classmethod
    def joined(cls, several: Sequence[Scores]) -> Scores:
        """Scores of one detector, one behind the other."""
        first = several[0]
        return cls(
            np.concatenate([scores.anomaly_score for scores in several]),
            np.concatenate([scores.p_value for scores in several]),
            np.concatenate([scores.is_anomaly for scores in several]),
            {name: np.concatenate([scores.parts[name] for scores in several]) for name in first.parts},
            None if first.p_real is None else np.concatenate([cast(FloatArray, one.p_real) for one in several]),
            first.alpha,
        )
