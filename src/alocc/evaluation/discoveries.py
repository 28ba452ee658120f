"""Anomalies of a batch of images, called at a false-discovery rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import FloatArray


def discoveries(p_values: FloatArray, false_discovery_rate: float) -> NDArray[np.bool_]:
    """Which of a batch of images, by their p-values, (n,), to call anomalies so that at most this share is normal.

    On average: Benjamini & Hochberg 1995; with conformal p-values of one held-out set too (Bates et al. 2023).
    """
    from scipy.stats import false_discovery_control

    called: NDArray[np.bool_] = false_discovery_control(p_values) <= false_discovery_rate
    return called
