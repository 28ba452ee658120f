"""Bytes of a client ↔ arrays: what is decoded, under which limits, and the pictures that go back."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alocc.data.decoding import MAX_PIXELS, read_brought_to, read_header
from alocc.data.resizing import ImageFormat
from alocc.errors import DataError
from alocc.overlays import heat, overlay

LONGEST_NAME = 200
"""Characters of a client's name of an image: its end is kept."""
LONGEST_SIDE = 2048
"""Pixels of a picture that goes back."""
QUICK = 1
"""How hard zlib tries with pictures: they are sent once."""


@dataclass(frozen=True)
class Upload:
    """An image as a client gave it."""

    name: str
    """The client's; never a path of ours."""
    content: bytes


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that was decoded."""

    pixels: NDArray[np.uint8]
    """(H, W, C), in a detector's format."""
    height: int
    width: int
    """Before it was resized."""


def decode(upload: Upload, to: ImageFormat, most_pixels: int = MAX_PIXELS) -> Picture:
    """An image in a detector's format, exactly as ``alocc score`` reads it from a file.

    Raises:
        DataError: if it is no image, damaged, or beyond the limits.
    """

    def content() -> io.BytesIO:
        return io.BytesIO(upload.content)

    if most_pixels < MAX_PIXELS:
        header = read_header(content, upload.name)
        if header.width * header.height > most_pixels:
            raise DataError(
                f"{upload.name} cannot be read ({header.width}×{header.height} pixels; {most_pixels:,} are allowed)"
            )
    pixels, (height, width) = read_brought_to(content, upload.name, 0, to)
    return Picture(pixels, height, width)


def sha256(content: bytes) -> str:
    """By which an image is known again, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def shown_name(name: str | None) -> str:
    """A client's name of an image, as it is kept and shown: printable, in one line, not long, never empty."""
    if name and len(name) <= LONGEST_NAME and name.isprintable():
        return name
    printable = "".join(letter if letter.isprintable() else "_" for letter in (name or "image"))
    return printable if len(printable) <= LONGEST_NAME else "…" + printable[1 - LONGEST_NAME :]


def map_png(anomaly_map: NDArray[np.float32], threshold: float, size: tuple[int, int] | None = None) -> bytes:
    """The colours of a map as a transparent PNG, to be laid over its image.

    Args:
        anomaly_map: (H, W).
        threshold: value that a normal image's map hardly ever exceeds.
        size: height and width of the PNG; none: the map's.
    """
    colour, opacity = heat(anomaly_map, threshold)
    picture = Image.fromarray(np.dstack([colour, 255 * opacity]).round().astype(np.uint8))
    if size is not None:
        height, width = shown_size(*size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return _png(picture)


def overlay_png(
    upload: Upload, size: tuple[int, int], anomaly_map: NDArray[np.float32], threshold: float, is_suspect: bool
) -> bytes:
    """An image with its map over it and outlines around the places that are marked, as a PNG.

    Args:
        upload, size: the image, and its height and width; beyond :data:`LONGEST_SIDE` the picture is smaller.
        anomaly_map, threshold: as for :func:`map_png`.
        is_suspect: whether it is not called normal; over an image that is, nothing is drawn.
    """
    return _png(Image.fromarray(overlay(_in_colour(upload, size), anomaly_map, threshold, is_suspect)))


def image_png(upload: Upload, size: tuple[int, int]) -> bytes:
    """An image encoded anew, upright, as a PNG: what a client sent is never sent back as it came.

    Args:
        upload, size: as for :func:`overlay_png`.
    """
    return _png(Image.fromarray(_in_colour(upload, size)))


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of an image's picture."""
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))


def _in_colour(upload: Upload, size: tuple[int, int]) -> NDArray[np.uint8]:
    return decode(upload, ImageFormat(*shown_size(*size), 3)).pixels


def _png(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG", compress_level=QUICK)
    return written.getvalue()
