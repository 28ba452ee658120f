"""Maps over their images: what stands out in colour, on the detector's one scale, and the places that are marked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from alocc.data.images import to_unit_range
from alocc.data.sources import ImageSet
from alocc.drawing import OTHER, RIM, STRONGEST, heat
from alocc.errors import DataError
from alocc.regions import TOUCHING, marked_places, strongest_place

LINE = 120
"""An outline is as wide as this part of the picture's shorter side; its rims half as wide, none in tiny pictures."""
GAP = 64
"""Part of the map's shorter side that is between a place and its outline, so that the fault stays visible."""

Pixels = NDArray[np.uint8]


def overlay(picture: Pixels, anomaly_map: NDArray[np.float32], threshold: float, is_anomaly: bool) -> Pixels:
    """Lay a map (h, w) over the picture of its image, (H, W, 3) of any size, and outline the places that are marked.

    An image that is not called an anomaly stays as it is: nothing of it is marked, whatever its map.

    Args:
        picture, anomaly_map: see above.
        threshold: value that a normal image's map hardly ever exceeds; where the scale of the colours is red.
        is_anomaly: whether the image is called one.
    """
    if not is_anomaly:
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


def rgb(image: NDArray[np.float32]) -> Pixels:
    """(C, H, W) in [0, 1] → (H, W, 3), uint8."""
    colours = np.repeat(image, 3, 0) if len(image) == 1 else image
    return (colours.transpose(1, 2, 0) * 255).round().astype(np.uint8)


def original(images: ImageSet, i: int) -> Pixels:
    """One image at its own resolution, (H, W, 3); if its file has vanished meanwhile, at the detector's size."""
    try:
        if images.original:
            pixels = images.original(i)
            grey = pixels[..., None] if pixels.ndim == 2 else pixels
            return np.repeat(grey, 3 // grey.shape[2], 2)
    except DataError:
        pass
    return rgb(to_unit_range(images.images[i]).numpy())


def _outline(drawn: Pixels, places: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Draw a closed line around places (h, w) into a picture (H, W, 3); at the picture's border it is inside."""
    if not places.any():
        return
    gap = max(1, min(places.shape) // GAP)
    grown = ndimage.maximum_filter(places, 2 * gap + 1, mode="constant")
    size = drawn.shape[1], drawn.shape[0]
    large = np.asarray(Image.fromarray(255 * grown.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)) > 127
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
