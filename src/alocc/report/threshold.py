"""What the page needs to follow alpha: which values it may take, what is called at each, and the histogram.

The page repeats no scoring. It knows of every image how many of the n held-out ones are at least as anomalous, k; from
that comes ``p_value = (1 + k) / (n + 1)``, the very division that the detector makes, and ``p_value <= alpha``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alocc.data.splits import smallest_alpha
from alocc.detector import Detector
from alocc.report.shown import Shown

FloatArray = NDArray[np.float64]

STEPS = 160
HIGHEST_ALPHA = 0.5
MOST_BARS = 60


@dataclass(frozen=True)
class Panel:
    """The histogram of one group of images."""

    name: str
    n: int
    most: int
    """Images in the highest bar."""
    heights: list[float]
    """Each bar in per cent of the highest, from left to right."""


@dataclass(frozen=True)
class Histogram:
    """Histograms over one axis of anomaly scores."""

    low: float
    high: float
    panels: list[Panel]
    ticks: list[float]

    def percent(self, anomaly_score: float) -> float:
        """Where a score is on the axis, from 0 to 100."""
        return float(np.clip(100 * (anomaly_score - self.low) / (self.high - self.low), 0, 100))


def alpha_steps(n_held_out: int, alpha: float) -> list[float]:
    """The values of the slider, ascending: even steps on a logarithmic scale, the smallest possible and ``alpha``."""
    smallest = smallest_alpha(n_held_out)
    even = np.geomspace(smallest, max(HIGHEST_ALPHA, alpha), STEPS)
    rounded = {float(f"{step:.2g}") for step in even}
    return sorted({step for step in rounded if step > smallest} | {smallest, alpha})


def held_out_above(p_value: FloatArray, n_held_out: int) -> NDArray[np.int64]:
    """How many held-out images are at least as anomalous as each image: k of ``(1 + k) / (n + 1)``."""
    return np.rint(p_value * (n_held_out + 1)).astype(np.int64) - 1


def follow_alpha(detector: Detector, shown: Shown) -> dict[str, object]:
    """What the page calculates with: see the module."""
    n = len(detector.held_out_scores)
    k = held_out_above(shown.scores.p_value, n)
    groups = []
    for name, members in shown.groups().items():
        values, counts = np.unique(k[members], return_counts=True)
        groups.append({"name": name, "k": values.tolist(), "counts": counts.tolist()})
    return {
        "alpha": detector.alpha,
        "alphas": alpha_steps(n, detector.alpha),
        "held_out": detector.held_out_scores.tolist(),
        "groups": groups,
    }


def histogram(detector: Detector, shown: Shown | None) -> Histogram:
    """Scores of the held-out images and of each group of the images shown, if any."""
    scores: dict[str, FloatArray] = {"held out": detector.held_out_scores}
    if shown is not None:
        scores |= {name: shown.scores.anomaly_score[members] for name, members in shown.groups().items()}
    low, high = _range(scores, detector.threshold)
    n_bars = int(np.clip(2 * np.sqrt(max(map(len, scores.values()))), 15, MOST_BARS))
    edges = np.linspace(low, high, n_bars + 1)
    return Histogram(low, high, [_panel(name, values, edges) for name, values in scores.items()], _ticks(low, high))


def _range(scores: Mapping[str, FloatArray], threshold: float) -> tuple[float, float]:
    """From the lowest to the highest score, apart from one in a thousand at either end; the threshold is inside."""
    values = np.concatenate(list(scores.values()))
    low, high = np.percentile(values, [0.1, 99.9])
    if np.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    margin = 0.02 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _panel(name: str, values: FloatArray, edges: FloatArray) -> Panel:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    most = max(int(counts.max()), 1)
    return Panel(name, len(values), most, [round(100 * count / most, 2) for count in counts.tolist()])


def _ticks(low: float, high: float) -> list[float]:
    """Five to ten round numbers of the axis."""
    step = 10.0 ** np.floor(np.log10((high - low) / 2))
    step = next(step * factor for factor in (0.5, 1, 2, 5) if (high - low) / (step * factor) <= 8)
    return [float(step * i) for i in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]
