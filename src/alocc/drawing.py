"""An image, its map and its regions → a picture of them. Only here and in the report is matplotlib used."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from alocc.overlays import heat
from alocc.regions import Region

LONGER = 5.0
"""Inches of an image's longer side."""
BOX = "#1f5fbf"


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
    """Draw an image, and beside it the same with its map and the boxes of its regions.

    Args:
        image: (H, W, 3).
        anomaly_map: of the same image, of any size.
        threshold: value that a normal image's map hardly ever exceeds.
        regions: in the image's pixels.
        title: above both.
    """
    height, width, _ = image.shape
    inches = LONGER / max(height, width)
    figure = Picture(figsize=(2 * max(2.5, width * inches), max(1.5, height * inches) + 0.6), layout="constrained")
    plain, marked = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes in (plain, marked):
        axes.imshow(image)
    colour, opacity = heat(anomaly_map, threshold)
    whole = (-0.5, width - 0.5, height - 0.5, -0.5)
    marked.imshow(np.dstack([colour / 255, opacity]), extent=whole, interpolation="bilinear")
    for region in regions:
        corner = (region.x - 0.5, region.y - 0.5)
        marked.add_patch(Rectangle(corner, region.width, region.height, fill=False, edgecolor=BOX, linewidth=1.5))
    figure.suptitle(title, parse_math=False)  # a $ in a file's name is no formula
    return figure
