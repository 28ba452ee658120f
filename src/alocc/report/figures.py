"""Arrays → pictures for the page: SVG for curves, PNG for images. Nothing here computes a figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from alocc.evaluation.metrics import Curves
from alocc.evaluation.monitoring import Drift

NORMAL, ANOMALOUS, THRESHOLD = "#2b6cb0", "#c05621", "#1a202c"
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#97266d", "#2c7a7b", "#4a5568")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "alocc",  # the same picture is the same text
}
TILE = 64

FloatArray = NDArray[np.float64]


def lines(x: Sequence[float], series: Mapping[str, Sequence[float | None]], y_label: str, title: str) -> str:
    """Curves through training, over iterations; gaps where a series has no value."""
    figure, axes = _axes(title, "iteration", y_label)
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        known = [(at, value) for at, value in zip(x, values, strict=True) if value is not None]
        marker = "o" if len(known) < 30 else None
        axes.plot(*zip(*known, strict=True), label=name, color=colour, linewidth=1.4, marker=marker, markersize=3)
    if len(series) > 1:
        axes.legend(loc="best", fontsize=9)
    return _svg(figure)


def drift_figure(drift: Drift) -> str:
    """Mean p-value and share of anomalies, window by window, with what they should be."""
    figure, axes = _axes("Do new images look like the held-out ones?", "window", "")
    x = range(1, len(drift.windows) + 1)
    axes.plot(
        x, [one.mean_p_value for one in drift.windows], color=NORMAL, marker="o", markersize=3, label="mean p-value"
    )
    axes.axhline(0.5, color=NORMAL, linestyle=":", linewidth=1)
    shares = [one.share_of_anomalies for one in drift.windows]
    axes.plot(x, shares, color=ANOMALOUS, marker="o", markersize=3, label=f"share with p ≤ {drift.alpha:g}")
    axes.axhline(drift.alpha, color=ANOMALOUS, linestyle=":", linewidth=1)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(loc="best", fontsize=9)
    return _svg(figure)


def roc_figure(curves: Curves, auroc: float, false_positive_rate: float, true_positive_rate: float) -> str:
    """ROC with the detector's operating point."""
    figure, axes = _axes(f"ROC, AUROC {auroc:.4f}", "false-positive rate", "true-positive rate", size=(4.6, 4))
    axes.plot([0, 1], [0, 1], color="#a0aec0", linestyle="--", linewidth=1)
    axes.plot(curves.false_positive_rate, curves.true_positive_rate, color=NORMAL, linewidth=1.8)
    axes.plot([false_positive_rate], [true_positive_rate], "o", color=THRESHOLD, label="the detector's threshold")
    axes.legend(loc="lower right")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    return _svg(figure)


def histogram(groups: Mapping[str, FloatArray], threshold: float) -> str:
    """Anomaly scores of groups of images, with the threshold."""
    figure, axes = _axes("Anomaly scores", "anomaly score (higher = more anomalous)", "images", size=(6.4, 4))
    values = np.concatenate(list(groups.values()))
    low, high = np.percentile(values, [0.1, 99.9]) if len(values) else (0.0, 1.0)
    n_bins = int(np.clip(2 * np.sqrt(len(values)), 15, 60))
    bins = np.linspace(min(low, threshold), max(high, threshold, low + 1e-6), n_bins)
    for (name, scores), colour in zip(groups.items(), (NORMAL, ANOMALOUS), strict=False):
        axes.hist(np.clip(scores, bins[0], bins[-1]), bins=bins.tolist(), alpha=0.65, color=colour, label=name)
    if np.isfinite(threshold):
        axes.axvline(threshold, color=THRESHOLD, linewidth=1.4, label="threshold")
    axes.legend(loc="upper right")
    return _svg(figure)


def strip(images: FloatArray) -> str:
    """Images side by side, (n, C, H, W) in [0, 1], as one PNG data address."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1.0)
    return png(np.concatenate(list(padded), axis=2))


def png(image: FloatArray) -> str:
    """One image (C, H, W) in [0, 1] as a PNG data address."""
    pixels = (image * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _axes(title: str, x_label: str, y_label: str, size: tuple[float, float] = (5.2, 3.2)) -> tuple[Figure, Axes]:
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    return figure, axes


def _svg(figure: Figure) -> str:
    data = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = data.getvalue()
    return text[text.index("<svg") :]
