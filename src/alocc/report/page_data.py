"""What the page's script works with: the values of alpha, what is called at each, the histogram, the table of images.

The page repeats no scoring. It knows of every image how many of the n held-out ones are at least as anomalous, k; from
that comes ``p_value = (1 + k) / (n + 1)``, the very division that the detector makes, and ``p_value <= alpha``; and
with a review alpha, of which images the detector can't tell.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alocc.calibration import FloatArray, smallest_alpha
from alocc.detector import Detector
from alocc.report.pictures import COLUMNS, PER_SHEET, Sheets
from alocc.report.results import Results, printable
from alocc.report.views import Views

MOST_ROWS = 20_000
"""Images that the table lists; of more, the most anomalous. The counts are always of all."""


@dataclass(frozen=True)
class Histogram:
    """Histograms over one axis of anomaly scores."""

    low: float
    high: float
    panels: list[dict[str, Any]]
    """Of each group its name, n, the number of images in its highest bar, and all bars in per cent of that one."""
    ticks: list[float]

    def percent(self, anomaly_score: float) -> float:
        """Where a score is on the axis, from 0 to 100."""
        return float(np.clip(100 * (anomaly_score - self.low) / (self.high - self.low), 0, 100))


def alpha_steps(n_held_out: int, alpha: float) -> list[float]:
    """The values of the slider, ascending: even steps on a logarithmic scale, the smallest possible and ``alpha``."""
    smallest = smallest_alpha(n_held_out)
    rounded = {float(f"{step:.2g}") for step in np.geomspace(smallest, max(0.5, alpha), 160)}
    return sorted({step for step in rounded if step > smallest} | {smallest, alpha})


def page_data(detector: Detector, results: Results, sheets: Sheets, views: Views) -> dict[str, Any]:
    """What the page calculates with: see the module."""
    k = detector.calibration.count_at_least(results.scores.anomaly_score)
    groups = []
    for name, members in results.groups().items():
        values, counts = np.unique(k[members], return_counts=True)
        groups.append({"name": name, "k": values.tolist(), "counts": counts.tolist()})
    review: dict[str, Any] = {}
    if detector.review_alpha is not None:
        steps = alpha_steps(len(detector.held_out_scores), detector.review_alpha)
        review = {"review_alpha": detector.review_alpha, "review_alphas": steps}
    return {
        "alpha": detector.alpha,
        **review,
        "alphas": alpha_steps(len(detector.held_out_scores), detector.alpha),
        "held_out": detector.held_out_scores.tolist(),
        "groups": groups,
        "table": image_table(results, k, sheets) | {"view": views.places(len(results))[listed(results)].tolist()},
        "views": {"width": views.width, "height": views.height, "grows": views.grows, "items": views.items},
    }


def listed(results: Results) -> NDArray[np.int64]:
    """Indices of the images that the table lists."""
    return results.by_score[:MOST_ROWS]


def image_table(results: Results, k: NDArray[np.int64], sheets: Sheets) -> dict[str, Any]:
    """Columns of the images, the most anomalous first, and where the picture of each is."""
    rows = listed(results)
    names = [printable(results.images.names[i]) for i in rows]
    start = common_folder(names)
    class_names, of_class = np.unique(results.images.classes[rows], return_inverse=True)
    place = np.full(len(results), -1)
    place[sheets.chosen] = np.arange(len(sheets.chosen))
    is_anomalous = None if results.is_anomalous is None else results.is_anomalous[rows].astype(int).tolist()
    return {
        "folder": start,
        "path": [name.removeprefix(start) for name in names],
        "class_names": [printable(name) for name in class_names.tolist()],
        "class": of_class.tolist(),
        "anomaly_score": results.scores.anomaly_score[rows].tolist(),
        "k": k[rows].tolist(),
        "is_anomalous": is_anomalous,
        "picture": place[rows].tolist(),
        "pictures": asdict(sheets) | {"chosen": len(sheets.chosen), "per_sheet": PER_SHEET, "columns": COLUMNS},
    }


def common_folder(names: Sequence[str]) -> str:
    """What all paths begin with, up to and with a separator; "" if nothing."""
    shared = os.path.commonprefix(list(names)) if len(names) > 1 else ""  # noqa: RUF071  (names of any system)
    folder = re.match(r".*[/\\]", shared, re.DOTALL)
    return folder[0] if folder else ""


def histogram(detector: Detector, results: Results | None) -> Histogram:
    """Scores of the held-out images and of each group of the report's images, if any."""
    scores: dict[str, FloatArray] = {"held out": detector.held_out_scores}
    if results is not None:
        scores |= {name: results.scores.anomaly_score[members] for name, members in results.groups().items()}
    review_threshold = detector.calibration.review_threshold
    shown = detector.threshold, detector.threshold if review_threshold is None else review_threshold
    low, high = _range(scores, shown)
    n_bars = int(np.clip(2 * np.sqrt(max(map(len, scores.values()))), 15, 60))
    edges = np.linspace(low, high, n_bars + 1)
    ticks = [float(tick) for tick in MaxNLocator(8).tick_values(low, high) if low <= tick <= high]
    return Histogram(low, high, [_panel(name, values, edges) for name, values in scores.items()], ticks)


def _range(scores: Mapping[str, FloatArray], thresholds: Sequence[float]) -> tuple[float, float]:
    """From the lowest to the highest score, apart from one in a thousand at either end; the thresholds are inside."""
    values = np.concatenate(list(scores.values()))
    low, high = np.percentile(values, [0.1, 99.9])
    for threshold in filter(np.isfinite, thresholds):
        low, high = min(low, threshold), max(high, threshold)
    margin = 0.02 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _panel(name: str, values: FloatArray, edges: FloatArray) -> dict[str, Any]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    most = max(int(counts.max()), 1)
    heights = [round(100 * count / most, 2) for count in counts.tolist()]
    return {"name": name, "n": len(values), "most": most, "heights": heights}
