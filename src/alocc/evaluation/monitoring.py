"""Do incoming images still look like those that a detector was calibrated on? Asked of their scores, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.engines import Engine
from alocc.errors import DataError
from alocc.scores import Scores

FloatArray = NDArray[np.float64]
ALARM = 0.001
"""Chance of a false alarm over all windows together."""
FEWEST = 10
"""Images of a window, at least: fewer say nothing."""


@dataclass(frozen=True)
class Window:
    """Some images in a row."""

    first: str
    last: str
    n_images: int
    mean_p_value: float
    """About 0.5 while nothing has changed; lower when images get more unusual."""
    share_of_anomalies: float
    p_same: float
    """p-value of the hypothesis that these images score like the held-out ones (Kolmogorov–Smirnov, two samples)."""


@dataclass(frozen=True)
class Drift:
    """What a look at a stream of images says."""

    windows: Sequence[Window]
    alpha: float
    has_drifted: bool
    """Some window is more unlikely than the chance of a false alarm allows, all windows counted."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def monitor(detector: Engine, names: Sequence[str], scores: Scores, window: int = 100) -> Drift:
    """Compare the scores of images, in their order, with those of the held-out images, window by window.

    Args:
        detector: the detector that gave the scores.
        names: of the images, in the order in which they came.
        scores: theirs.
        window: images of a window; the last one takes what is left.

    Raises:
        DataError: if there are fewer than 10 images.
    """
    from scipy.stats import ks_2samp

    n = len(scores)
    if n < FEWEST:
        raise DataError(f"{n} images are too few to tell whether anything has changed; give at least {FEWEST}")
    starts = list(range(0, max(1, n - window // 2), window))
    windows = []
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        part = slice(start, end)
        p_same = float(ks_2samp(scores.anomaly_score[part], detector.held_out_scores).pvalue)
        windows.append(
            Window(
                names[start],
                names[end - 1],
                end - start,
                float(scores.p_value[part].mean()),
                float((scores.p_value[part] <= detector.alpha).mean()),
                p_same,
            )
        )
    has_drifted = min(one.p_same for one in windows) * len(windows) < ALARM
    return Drift(windows, detector.alpha, has_drifted)
