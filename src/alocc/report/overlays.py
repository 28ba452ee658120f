"""Pictures of where images are unusual: the image, and the same with what stands out in colour."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from alocc.data.images import to_unit_range
from alocc.data.sources import ImageSet
from alocc.detector import Detector, Scores
from alocc.errors import ConfigError
from alocc.storage import replacing

LONGEST = 200
"""Bytes of a picture's file name, before its suffix; file systems take 255."""


def overlay(
    image: NDArray[np.float32], anomaly_map: NDArray[np.float32], threshold: float, side: int = 256
) -> NDArray[np.uint8]:
    """Lay a map (H, W) over its image (C, H, W) in [0, 1]: colour begins at half of the threshold; above, a dark edge.

    Args:
        image, anomaly_map: see above.
        threshold: value that a normal image's map hardly ever exceeds.
        side: shorter side of the picture, at least, in pixels.

    Returns:
        (H', W', 3), uint8; H' and W' are the same whole multiple of H and W.
    """
    height, width = anomaly_map.shape
    scale = -(-side // min(height, width))
    size = (width * scale, height * scale)
    base = np.asarray(Image.fromarray(rgb(image)).resize(size, Image.Resampling.NEAREST), dtype=np.float32)
    large = np.asarray(Image.fromarray(anomaly_map).resize(size, Image.Resampling.BILINEAR))
    colour, opacity = heat(large, threshold)
    blended = base * (1 - opacity) + colour * opacity
    above = large > threshold
    interior = binary_erosion(above, iterations=max(1, side // 128), border_value=1)  # the picture's border is no edge
    blended[above & ~interior] = (40, 0, 0)
    drawn: NDArray[np.uint8] = blended.round().astype(np.uint8)
    return drawn


def heat(anomaly_map: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours of a map (H, W), (H, W, 3) from 0 to 255, and how much they cover, (H, W, 1), from 0 to 0.6.

    They begin at half of the threshold, in yellow, and are red from twice the threshold on.
    """
    relative = (anomaly_map / threshold)[..., None]
    how_hot = np.clip(relative - 1, 0, 1)
    colour = np.array([255, 220, 40]) * (1 - how_hot) + np.array([235, 70, 20]) * how_hot
    return colour, 0.6 * np.clip(2 * relative - 1, 0, 1)


def rgb(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(C, H, W) in [0, 1] → (H, W, 3), uint8."""
    colours = np.repeat(image, 3, 0) if len(image) == 1 else image
    return (colours.transpose(1, 2, 0) * 255).round().astype(np.uint8)


def overlay_writer(detector: Detector, folder: Path) -> Callable[[ImageSet, Scores], list[str]]:
    """A function that writes, for each image it is given, image and overlay side by side into ``folder``.

    It returns the name of each file.

    Raises:
        ConfigError: if the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--maps {folder}: that is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    threshold = detector.map_threshold
    taken: Counter[str] = Counter()

    def write(images: ImageSet, scores: Scores) -> list[str]:
        names = []
        maps = detector.anomaly_map(images.images) if scores.anomaly_map is None else scores.anomaly_map
        pixels = to_unit_range(images.images).numpy()
        for name, image, anomaly_map in zip(images.names, pixels, maps, strict=True):
            plain = overlay(image, np.zeros_like(anomaly_map), threshold)
            picture = Image.fromarray(np.concatenate([plain, overlay(image, anomaly_map, threshold)], 1))
            written = picture_name(name)
            taken[written] += 1
            if taken[written] > 1:  # another image whose last parts are the same
                written = f"{written.removesuffix('.png')}-{taken[written]}.png"
            with replacing(folder / written) as temporary:
                picture.save(temporary, "PNG")
            names.append(written)
        return names

    return write


def picture_name(name: str) -> str:
    """A file name for an image: its last three parts, what file systems refuse replaced, not too long."""
    last = "_".join(part for part in re.split(r"[/\\]", os.fspath(name))[-3:] if part)
    allowed = re.sub(r'[<>:"|?*#\x00-\x1f]', "_", last)
    while len(os.fsencode(allowed)) > LONGEST:
        allowed = allowed[1:]
    return allowed + ".png"
