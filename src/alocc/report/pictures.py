"""Small pictures of images for the page: input, reconstruction and anomaly map side by side, many to a sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alocc.calibration import NORMAL
from alocc.data.images import ImageFormat, to_unit_range
from alocc.detector import Detector
from alocc.overlays import overlay, rgb
from alocc.report.results import Results
from alocc.stages import stage

PER_SHEET = 100
COLUMNS = 10
LARGEST = 64
"""Pixels of the longer side of a picture, at most."""
ON_PAGE = 7_200_000
"""Bytes of the page that all sheets and enlarged views take together, at most: it stays below 10 MB."""
FIRST = 500
"""Images from each end, and on either side of the threshold, that get pictures before all others do."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sheets:
    """Pictures of some images, PER_SHEET to a sheet: input, reconstruction, map, and then the next image's."""

    width: int
    height: int
    sheets: list[str]
    """Base64 of WebP files."""
    chosen: list[int]
    """Indices of the images that have pictures, in the order of the sheets."""


def picture_size(image_format: ImageFormat) -> tuple[int, int]:
    """Width and height of one picture: small images a whole number of times larger, large ones at most 64 pixels."""
    longer = max(image_format.size)
    scale = max(1, 56 // longer) if longer <= LARGEST else LARGEST / longer
    return max(1, round(image_format.width * scale)), max(1, round(image_format.height * scale))


def make_sheets(detector: Detector, results: Results, budget: int = ON_PAGE * 3 // 4) -> Sheets:
    """Draw as many images as the budget allows, the interesting ones first: see :func:`by_interest`.

    The budget is in bytes of all sheets together, before base64 makes them a third larger.
    """
    width, height = picture_size(detector.image_format)
    order = by_interest(results, detector.threshold)
    sheets: list[str] = []
    chosen: list[int] = []
    for start in range(0, len(order), PER_SHEET):
        stage("drawing small pictures", start)
        indices = order[start : start + PER_SHEET]
        data = encoded(_sheet(list(triples(detector, results, indices, (width, height)))))
        budget -= len(data)
        if budget < 0:
            break
        sheets.append(base64.b64encode(data).decode())
        chosen += indices.tolist()
    return Sheets(width, height, sheets, chosen)


def by_interest(results: Results, threshold: float, first: int | None = None) -> NDArray[np.int64]:
    """Mistakes, the most anomalous images, those nearest to the threshold, the most normal ones; then all others.

    Of each kind, ``first`` images; none: :data:`FIRST`.
    """
    order, first = results.by_score, first or FIRST
    n_above = int((results.scores.anomaly_score > threshold).sum())
    near = order[max(0, n_above - first) : n_above + first]
    mistakes = np.zeros(len(results), dtype=bool)
    if results.is_anomalous is not None:
        mistakes = results.scores.is_anomaly != results.is_anomalous
    together = np.concatenate([order[mistakes[order]][:first], order[:first], near, order[::-1][:first], order])
    _, at = np.unique(together, return_index=True)
    return together[np.sort(at)]


def triples(
    detector: Detector, results: Results, indices: NDArray[np.int64], size: tuple[int, int]
) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """Input, reconstruction and map over the input of some images, (height, width, 3) each; a size is width, height."""
    chosen = results.images[indices].images
    x, (_, x_hat) = to_unit_range(chosen).numpy(), detector.reconstruct(chosen)
    maps = detector.anomaly_map(chosen)
    suspect = (results.scores.verdict[indices] != NORMAL).tolist()
    for image, reconstruction, anomaly_map, is_suspect in zip(x, x_hat.numpy(), maps, suspect, strict=True):
        small = _resized(rgb(image), size)
        marked = overlay(small, anomaly_map, detector.map_threshold, is_suspect)
        yield small, _resized(rgb(reconstruction), size), marked


def strip(images: NDArray[np.float32], size: tuple[int, int]) -> str:
    """Images side by side, (n, C, H, W) in [0, 1], as the address of one PNG; a transparent line is after each."""
    pictures = [np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]) for pixels in map(rgb, images)]
    padded = [np.pad(_resized(picture, size), ((0, 0), (0, 1), (0, 0))) for picture in pictures]
    return address(np.hstack(padded), "png")


def address(pixels: Pixels, kind: str = "webp") -> str:
    """A picture that is its own address."""
    return f"data:image/{kind};base64,{base64.b64encode(encoded(pixels, kind)).decode()}"


def encoded(pixels: Pixels, kind: str = "webp", *, lossless: bool = False) -> bytes:
    """A picture's file."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, quality=82, optimize=True, lossless=lossless)
    return data.getvalue()


def _sheet(drawn: list[tuple[Pixels, Pixels, Pixels]]) -> Pixels:
    wide = [np.concatenate(triple, axis=1) for triple in drawn]
    rows = [wide[at : at + COLUMNS] for at in range(0, len(wide), COLUMNS)]
    blank = np.full_like(rows[0][0], 255)
    rows[-1] += [blank] * (len(rows[0]) - len(rows[-1]))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    grows = size[0] >= pixels.shape[1]
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BOX
    return np.asarray(Image.fromarray(pixels).resize(size, how))
