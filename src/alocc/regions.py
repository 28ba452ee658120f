"""An anomaly map and its image → regions that an inspector reads: a box, how unusual it is, and one sentence why.

The sentence compares the pixels inside a region with those of a ring around it. It says what is seen there, not what
the detector's parts found; the verdict is of the whole image, by its anomaly score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alocc.calibration import NORMAL, Calibration, FloatArray
from alocc.errors import DataError
from alocc.scores import Scores

MOST = 20
"""Regions of an image that are described, at most: those with the highest peaks."""
SHARE = 0.75
"""Of a map's peak: what the strongest place holds, however low the peak is; about as large as the fault, by masks."""
DIFFERS = 1.0
"""Standard deviations of the ring's pixels from which a region's mean differs."""
ROUGHER = 1.5
"""How many times the ring's standard deviation a region's is, at least, where it is rougher."""
FAINTEST = 2 / 255
"""Standard deviation that a ring has at least: fainter differences are not seen."""
FEWEST = 16
"""Pixels inside and in the ring from which their standard deviations are compared."""
RING, PART = 3, 32
"""Width of the ring: this many pixels, or this part of the image's shorter side if that is more."""
LUMINANCE = (0.299, 0.587, 0.114)
TOUCHING = np.ones((3, 3), dtype=bool)
"""Pixels that touch at a corner are connected: a thin slanting scratch is one region."""

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """A connected place of an image that is unusual. Rows and columns count from 0, from the upper left."""

    x: int
    """First column of its box."""
    y: int
    """First row of its box."""
    width: int
    height: int
    area: int
    """Pixels that belong to it."""
    peak: float
    """Highest value of the map in it."""
    p_value: float
    """Chance that the map of a normal image has a value as high anywhere, in (0, 1]."""
    reason: str
    """What is to be seen there, where, and how large it is."""
    n_regions: int
    """How many regions its image has, :data:`MOST` or fewer of which are given."""


def find_regions(
    anomaly_map: Pixels,
    image: Pixels,
    threshold: float,
    map_maxima: FloatArray,
    *,
    size: tuple[int, int] | None = None,
) -> list[Region]:
    """Regions of an image that is not called normal: its marked places, the highest peak first, at most :data:`MOST`.

    Args:
        anomaly_map: (H, W), higher = more unusual.
        image: (C, H, W), in [0, 1].
        threshold: value that a normal image's map hardly ever exceeds.
        map_maxima: highest values of the maps of n held-out normal images, (n,).
        size: height and width of the image before it was resized, in whose pixels boxes are told; none: as it is here.
    """
    above = marked_places(anomaly_map, threshold)
    labels, n = ndimage.label(above, TOUCHING)
    peaks = ndimage.maximum(anomaly_map, labels, np.arange(1, n + 1))
    boxes = ndimage.find_objects(labels)
    calibration, scale = Calibration.of(map_maxima), _scale(anomaly_map.shape, size)
    found = []
    for i in np.argsort(-peaks, kind="stable")[:MOST].tolist():  # of equal peaks, the one that begins further up
        inside = labels[boxes[i]] == i + 1
        x, y, width, height = _box(boxes[i], scale)
        area = max(1, round(int(inside.sum()) * scale[0] * scale[1]))
        place = f"at row {y + height // 2}, column {x + width // 2}; {width} × {height} pixels"
        reason = f"{_difference(image, above, labels == i + 1, boxes[i])} {place}"
        p_value = float(calibration.p_values(peaks[i : i + 1])[0])
        found.append(Region(x, y, width, height, area, float(peaks[i]), p_value, reason, n))
    return found


def regions_of_anomalies(
    scores: Scores,
    images: Iterable[Pixels],
    threshold: float,
    map_maxima: FloatArray,
    sizes: Sequence[tuple[int, int]] = (),
) -> list[list[Region]]:
    """Regions of each image that is not called normal; none of the others.

    Args:
        scores: of n images, with maps.
        images, threshold, map_maxima: see :func:`find_regions`; the images one after the other.
        sizes: height and width of each image before it was resized; empty: they are as large as their maps.

    Raises:
        DataError: if the scores have no maps.
    """
    if scores.anomaly_map is None:
        raise DataError("regions need the maps of these scores; get them with score(images, maps=True)")
    known = sizes or [scores.anomaly_map.shape[1:]] * len(scores)
    of_each = zip(scores.anomaly_map, images, scores.verdict != NORMAL, known, strict=True)
    return [
        find_regions(anomaly_map, image, threshold, map_maxima, size=size) if is_suspect else []
        for anomaly_map, image, is_suspect, size in of_each
    ]


def marked_places(anomaly_map: Pixels, threshold: float) -> Mask:
    """Where a map (H, W) is above its threshold, and its strongest place, whether that is above it or not."""
    marked: Mask = (anomaly_map > threshold) | strongest_place(anomaly_map)
    return marked


def strongest_place(anomaly_map: Pixels) -> Mask:
    """The connected pixels around a map's peak that have at least :data:`SHARE` of it; its pixel, if not positive."""
    at = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    peak = anomaly_map[at]
    if peak > 0:
        labels, _ = ndimage.label(anomaly_map >= SHARE * peak, TOUCHING)
        around: Mask = labels == labels[at]
        return around
    alone = np.zeros(anomaly_map.shape, dtype=bool)
    alone[at] = True
    return alone


def _scale(shape: tuple[int, ...], size: tuple[int, int] | None) -> tuple[float, float]:
    """How many pixels of the image as it came are one of the map's, down and across."""
    return (size[0] / shape[0], size[1] / shape[1]) if size else (1.0, 1.0)


def _box(box: tuple[slice, slice], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """x, y, width and height of the smallest box of whole pixels that has all of it."""
    (top, bottom), (left, right) = (
        (int(side.start * factor), int(np.ceil(round(side.stop * factor, 6))))
        for side, factor in zip(box, scale, strict=True)
    )
    return left, top, right - left, bottom - top


def _difference(image: Pixels, above: Mask, inside: Mask, box: tuple[slice, slice]) -> str:
    """In what the pixels inside differ from those of a ring around them that belong to no region."""
    reach = max(RING, min(inside.shape) // PART)
    near: Any = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
    inside = inside[near]
    wide = ndimage.maximum_filter(inside, 2 * reach + 1, mode="constant")
    ring = wide & ~above[near]
    if not ring.any():
        return "unlike normal images"
    pixels = image[(slice(None), *near)].astype(np.float64)
    brightness = np.tensordot(LUMINANCE, pixels, 1) if len(pixels) == 3 else pixels.mean(0)
    contrast = _contrast(brightness, inside, ring)
    if abs(contrast) > DIFFERS:
        return f"{'darker' if contrast < 0 else 'brighter'} than its surroundings"
    if len(pixels) > 1 and any(abs(_contrast(channel, inside, ring)) > DIFFERS for channel in pixels):
        return "of another colour than its surroundings"
    if min(inside.sum(), ring.sum()) >= FEWEST:
        ratio = max(brightness[inside].std(), FAINTEST) / max(brightness[ring].std(), FAINTEST)
        if ratio > ROUGHER or ratio < 1 / ROUGHER:
            return f"{'rougher' if ratio > 1 else 'smoother'} than its surroundings"
    return "unlike normal images"


def _contrast(values: FloatArray, inside: Mask, ring: Mask) -> float:
    """Mean inside minus mean of the ring, in standard deviations of the ring."""
    return float((values[inside].mean() - values[ring].mean()) / max(values[ring].std(), FAINTEST))
