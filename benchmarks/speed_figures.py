"""The benchmark's figures: small, readable, one thing each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measuring import exponent

Curve = tuple[Sequence[float], Sequence[float]]
INK, BAR = "#333333", "#3b6ea5"
mpl.rcParams["svg.hashsalt"] = "alocc"  # the same figure is the same file


def bars(path: Path, rates: Mapping[str, float]) -> None:
    """Images a second of each program, from top to bottom."""
    figure = Figure(figsize=(7, 0.32 * len(rates) + 0.9), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(list(rates), list(rates.values()), color=BAR)
    axes.bar_label(drawn, [f"{rate:,.0f}" for rate in rates.values()], padding=3, fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("images a second in training, batch 128")
    _plain(axes)
    _save(figure, path)


def curves(path: Path, x_label: str, y_label: str, lines: Mapping[str, Curve]) -> None:
    """Lines on logarithmic axes."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in lines.items():
        axes.loglog(x, y, marker="o", markersize=4, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)
    _save(figure, path)


def quality(path: Path, lines: Mapping[str, Mapping[str, Curve]], marks: Mapping[str, float]) -> None:
    """AUROC over seconds, a panel for each task; the mark is dashed."""
    figure = Figure(figsize=(4.2 * len(lines), 3.4), layout="constrained")
    for axes, (title, curves_of) in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines.items(), strict=True):
        for name, (x, y) in curves_of.items():
            axes.semilogx(x, y, marker="o", markersize=4, label=name)
        axes.axhline(marks[title], color=INK, linestyle="--", linewidth=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("seconds from the start of the process")
        axes.set_ylabel("AUROC")
        axes.legend(fontsize=7, frameon=False, loc="lower right")
        _plain(axes)
    _save(figure, path)


def fits(path: Path, panels: Mapping[str, tuple[str, Mapping[str, Curve]]]) -> None:
    """Panels with logarithmic axes; each line is named with its exponent."""
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, (title, (x_label, lines)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, (x, y) in lines.items():
            axes.loglog(x, y, marker="o", markersize=4, label=f"{name} ∝ n^{exponent(x, y):.2f}")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(x_label)
        axes.legend(fontsize=7, frameon=False)
        _plain(axes)
    _save(figure, path)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    metadata: dict[str, Any] = {"Date": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=metadata)
