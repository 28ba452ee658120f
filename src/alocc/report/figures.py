"""Arrays → SVG for the page. Nothing here computes a figure."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alocc.calibration import FloatArray
from alocc.evaluation.monitoring import Drift

NORMAL, ANOMALOUS, INK, SOFT, LINE = "#24619f", "#a8480f", "#1c2024", "#565e68", "#b9bec6"
COLOURS = (NORMAL, ANOMALOUS, "#2f7d4f", "#6b46c1")
IN_THE_PAGE = {NORMAL: "normal", ANOMALOUS: "anomaly", INK: "ink", SOFT: "soft", LINE: "axis", COLOURS[2]: "third",
               COLOURS[3]: "fourth"}  # fmt: skip
"""Colours of figures, and the page's own, which are others in the dark."""
STYLE: Any = {
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "grid.color": LINE,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "alocc",  # the same picture is the same text
}


@rc_context(STYLE)
def lines(x: Sequence[float], series: Mapping[str, Sequence[float | None]], y_label: str, title: str) -> str:
    """Curves through training, over iterations; gaps where a series has no value."""
    figure, axes = _axes(title, "iteration", y_label)
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        known = [(at, value) for at, value in zip(x, values, strict=True) if value is not None]
        marker = "o" if len(known) < 30 else None
        axes.plot(*zip(*known, strict=True), label=name, color=colour, linewidth=1.4, marker=marker, markersize=3)
    if len(series) > 1:
        axes.legend()
    return _svg(figure)


@rc_context(STYLE)
def drift_figure(drift: Drift) -> str:
    """Mean p-value and share of anomalies, window by window, with what they should be."""
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    x = list(range(1, len(drift.windows) + 1))
    means, shares = zip(*((one.mean_p_value, one.share_of_anomalies) for one in drift.windows), strict=True)
    for axes, values, expected, colour, label, top in (
        (above, means, 0.5, NORMAL, "mean p-value", 1.0),
        (below, shares, drift.alpha, ANOMALOUS, f"share with p ≤ {drift.alpha:g}", max(*shares, 2 * drift.alpha)),
    ):
        axes.plot(x, values, color=colour, marker="o", markersize=5 if len(x) < 20 else 3)
        axes.axhline(expected, color=colour, linestyle=":", linewidth=1)
        axes.annotate(f"expected {expected:g}", (1, expected), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", fontsize=7, color=SOFT)  # fmt: skip
        axes.set(ylabel=label, ylim=(0, 1.08 * top))
    above.set_title("Do new images look like the held-out ones?")
    below.set(xlabel=f"window ({drift.windows[0].n_images} images each)", xlim=(0.5, len(x) + 0.5))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure)


@rc_context(STYLE)
def roc_figure(curve: tuple[FloatArray, FloatArray], auroc: float, point: tuple[float, float]) -> str:
    """ROC with the detector's operating point; false-positive rate first."""
    figure, axes = _axes(f"ROC, AUROC {auroc:.4f}", "false-positive rate", "true-positive rate", size=(4.6, 4))
    axes.plot([0, 1], [0, 1], color=SOFT, linestyle="--", linewidth=1)
    axes.plot(*curve, color=NORMAL, linewidth=1.8)
    axes.plot(*point, "o", color=INK, label="the detector's threshold")
    axes.legend(loc="lower right")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    return _svg(figure)


def themed(svg: str, title: str) -> str:
    """A figure for the page: in the page's colours and type, named for those who do not see it."""
    for colour, name in IN_THE_PAGE.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # every figure has the same ones, and nothing refers to them
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def _axes(title: str, x_label: str, y_label: str, size: tuple[float, float] = (5.2, 3.2)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    return figure, axes


def _svg(figure: Figure) -> str:
    data = io.StringIO()
    figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = data.getvalue()
    return text[text.index("<svg") :]
