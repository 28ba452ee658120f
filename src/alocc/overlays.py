"""Maps over their images: what stands out in colour, on the detector's one scale, and the places that are marked.

NumPy, Pillow and SciPy alone: the light runtime draws by this too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from alocc.regions import TOUCHING, marked_places, strongest_place

STRONGEST, OTHER, RIM = (0, 225, 255), (255, 255, 255), (0, 0, 0)
"""Colours of outlines: of the strongest place, of others, and of the rim that shows them on any ground."""
COLDEST, HOTTEST = (255, 220, 40), (235, 70, 20)
"""Colours of a map where they begin, and from twice its threshold on."""
LINE = 120
"""An outline is as wide as this part of the picture's shorter side; its rims half as wide, none in tiny pictures."""
GAP = 64
"""Part of the map's shorter side that is between a place and its outline, so that the fault stays visible."""

Pixels = NDArray[np.uint8]


def overlay(picture: Pixels, anomaly_map: NDArray[np.float32], threshold: float, is_suspect: bool) -> Pixels:
    """Lay a map (h, w) over the picture of its image, (H, W, 3) of any size, and outline the places that are marked.

    An image that is called normal stays as it is: nothing of it is marked, whatever its map.

    Args:
        picture, anomaly_map: see above.
        threshold: value that a normal image's map hardly ever exceeds; where the scale of the colours is red.
        is_suspect: whether the image is not called normal.
    """
    if not is_suspect:
        return picture
    size = picture.shape[1], picture.shape[0]
    colour, opacity = heat(anomaly_map, threshold)
    layer = Image.fromarray(np.dstack([colour, 255 * opacity]).round().astype(np.uint8))
    large = layer.resize(size, Image.Resampling.BILINEAR)
    drawn = np.array(Image.composite(large.convert("RGB"), Image.fromarray(picture), large.getchannel("A")))
    strongest = strongest_place(anomaly_map)
    labels, _ = ndimage.label(marked_places(anomaly_map, threshold), TOUCHING)
    others = (labels > 0) & (labels != labels[strongest][0])
    _outline(drawn, others, OTHER)
    _outline(drawn, labels == labels[strongest][0], STRONGEST)
    return drawn


def heat(anomaly_map: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours of a map (H, W), (H, W, 3) from 0 to 255, and how much they cover, (H, W, 1), from 0 to 0.6.

    They begin at half of the threshold, in yellow, and are red from twice the threshold on.
    """
    relative = (anomaly_map / threshold)[..., None]
    how_hot = np.clip(relative - 1, 0, 1)
    colour = np.array(COLDEST) * (1 - how_hot) + np.array(HOTTEST) * how_hot
    return colour, 0.6 * np.clip(2 * relative - 1, 0, 1)


def rgb(image: NDArray[np.float32]) -> Pixels:
    """(C, H, W) in [0, 1] → (H, W, 3), uint8."""
    return in_colour((image.transpose(1, 2, 0) * 255).round().astype(np.uint8))


def in_colour(pixels: Pixels) -> Pixels:
    """(H, W) or (H, W, C), grey or colour, → (H, W, 3)."""
    with_channels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.repeat(with_channels, 3 // with_channels.shape[2], 2)


def _outline(drawn: Pixels, places: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Draw a closed line around places (h, w) into a picture (H, W, 3); at the picture's border it is inside."""
    if not places.any():
        return
    gap = max(1, min(places.shape) // GAP)
    grown = ndimage.maximum_filter(places, 2 * gap + 1, mode="constant")
    size = drawn.shape[1], drawn.shape[0]
    resized = np.asarray(Image.fromarray(255 * grown.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
    large = resized > min(127, int(resized.max()) // 2)  # in a small picture, a place may be less than half a pixel
    if not large.any():
        return
    rows, columns = ndimage.find_objects(large.astype(np.uint8))[0]
    inside, target = large[rows, columns], drawn[rows, columns]
    width = max(1, round(min(drawn.shape[:2]) / LINE))
    rim = -(-width // 2) if min(drawn.shape[:2]) >= LINE else 0
    depths = ((0, rim, RIM), (rim, rim + width, colour), (rim + width, 2 * rim + width, RIM))
    for start, end, painted in depths:
        target[_eroded(inside, start) & ~_eroded(inside, end)] = painted


def _eroded(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """A mask without what is so near to its edge, or the border."""
    eroded: NDArray[np.bool_] = ndimage.minimum_filter(mask, 2 * pixels + 1, mode="constant") if pixels else mask
    return eroded
