"""An image, its map and its regions → a picture of them. Only here and in the report is matplotlib used."""

from __future__ import annotations

import io
from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from alocc.overlays import COLDEST, OTHER, RIM, STRONGEST, heat
from alocc.regions import Region

LONGER = 5.0
"""Inches of an image's longer side."""
LINE, LETTERS = 0.18, 13
"""Inches of a line of the legend; its letters in an inch."""


class Picture(Figure):
    """A figure that a notebook shows by itself: pyplot, which keeps figures and needs a screen, takes no part."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def draw(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    threshold: float,
    regions: Sequence[Region],
    title: str,
) -> Picture:
    """Draw an image, and beside it the same with its map and the boxes of its regions, each with its peak and p-value.

    Args:
        image: (H, W, 3).
        anomaly_map: of the same image, of any size.
        threshold: value that a normal image's map hardly ever exceeds.
        regions: in the image's pixels, the strongest first.
        title: above both.
    """
    height, width, _ = image.shape
    inches = LONGER / max(height, width)
    wide = 2 * max(2.5, width * inches)
    legend = [(mark, fill(words, int(LETTERS * wide))) for mark, words in _legend(threshold, regions)]
    n_lines = sum(words.count("\n") + 1 for _, words in legend)
    tall = max(1.5, height * inches) + 0.6 + LINE * (n_lines + 1)
    figure = Picture(figsize=(wide, tall), layout="constrained")
    plain, marked = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes in (plain, marked):
        axes.imshow(image)
    colour, opacity = heat(anomaly_map, threshold)
    whole = (-0.5, width - 0.5, height - 0.5, -0.5)
    marked.imshow(np.dstack([colour / 255, opacity]), extent=whole, interpolation="bilinear")
    for number, region in enumerate(regions):
        corner, colour_of = (region.x - 0.5, region.y - 0.5), OTHER if number else STRONGEST
        marked.add_patch(_outline(corner, region.width, region.height, colour_of))
        words = f"{region.peak:.3g}, p {region.p_value:.2g}"
        rim = [withStroke(linewidth=1.5, foreground=_hex(RIM))]
        marked.annotate(words, corner, va="bottom", fontsize=8, color=_hex(colour_of), path_effects=rim)
    figure.suptitle(title, parse_math=False)  # a $ in a file's name is no formula
    handles, words_of = zip(*legend, strict=True)
    figure.legend(handles, words_of, loc="outside lower left", fontsize=8, frameon=False)
    return figure


def _legend(threshold: float, regions: Sequence[Region]) -> list[tuple[Rectangle, str]]:
    """What outlines and colours mean, as below the pictures of ``alocc score --maps``."""
    lines = []
    if regions:
        lines.append((_outline((0, 0), 1, 1, STRONGEST), f"strongest place: {regions[0].reason}"))
    if len(regions) > 1:
        lines.append((_outline((0, 0), 1, 1, OTHER), "other places above the map's threshold"))
    scale = f"{threshold / 2:.3g} (yellow) to {2 * threshold:.3g} and above (red)"
    colours = f"how unusual a place is, {scale}; normal images hardly ever have {threshold:.3g}"
    return [*lines, (Rectangle((0, 0), 1, 1, facecolor=_hex(COLDEST)), colours)]


def _outline(corner: tuple[float, float], width: float, height: float, colour: tuple[int, int, int]) -> Rectangle:
    """A box that is seen on any ground."""
    rim = [withStroke(linewidth=3.5, foreground=_hex(RIM))]
    return Rectangle(corner, width, height, fill=False, edgecolor=_hex(colour), linewidth=1.5, path_effects=rim)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
