"""Arrays of images → one height, width and number of channels, in whole numbers. NumPy alone.

All is computed without rounding errors, so that every engine that follows the formula has the same pixels,
to the last bit: the graph that :mod:`alocc.export` writes does.

For output pixel i and input pixel j along a side, with s = max(n_in, n_out), the triangle filter is::

    a_ij = max(0, 2·s − |(2j + 1)·n_out − (2i + 1)·n_in|)
    w_ij = (2^15·a_ij + ⌊Σ_j a_ij / 2⌋) div Σ_j a_ij,   and what lacks to Σ_j w_ij = 2^15 is added to the middle one
    y_i  = ⌊(Σ_j w_ij·x_j + 2^14) / 2^15⌋

first along the width, then along the height. All sums are below 2^24, so float32 holds them exactly in any order.
Colour becomes grey before, by ITU-R 601: ⌊(299·R + 587·G + 114·B + 500) / 1000⌋.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alocc.errors import DataError

ONE = 1 << 15  # what the weights of an output pixel add up to
STRIP = 1_000_000  # pixels of a large image that are computed with at one time


class ImageFormat(NamedTuple):
    """What every image of one detector is brought to."""

    height: int
    width: int
    channels: Literal[1, 3]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def __str__(self) -> str:
        """Width × height, as people write it."""
        return f"{self.width}×{self.height} {'grey' if self.channels == 1 else 'colour'}"


class _Block(NamedTuple):
    """Some output pixels of a side, the input pixels that they depend on, and the weights (n_out, n_in)."""

    out: slice
    source: slice
    weights: NDArray[np.int64]


def brought_to(images: NDArray[np.generic], to: ImageFormat) -> NDArray[np.uint8]:
    """Images of one size in another format: (n, height, width, channels), uint8.

    They come as (n, H, W) or (n, H, W, C), uint8, or float in [0, 1], rounded to 255ths before anything else, so that
    floats and files give the same pixels. A DataError if the array holds no images, or has other values.
    """
    images = images[..., None] if images.ndim == 3 else images
    check_images(images.shape, images.dtype)
    pixels: NDArray[np.uint8] = _to_uint8(images) if images.dtype != np.uint8 else images  # type: ignore[assignment]
    if pixels.shape[1:] == (*to.size, to.channels):
        return pixels
    resized = [_resize(image, to) for image in pixels]
    return np.stack(resized) if resized else np.empty((0, *to.size, to.channels), np.uint8)


def as_images(images: object) -> NDArray[np.generic]:
    """What somebody passes as images, as an array (n, H, W[, C]); a DataError if it is no images of one size."""
    try:
        array = np.asarray(images)
    except ValueError:
        raise DataError("images of different sizes are no array; score them one by one, or from files") from None
    check_images(array.shape, array.dtype)
    return array


def check_images(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse, with a DataError, an array that is not many images by its shape and type."""
    if len(shape) == 2 or (len(shape) == 3 and 0 < shape[2] <= 4 < shape[1]):
        raise DataError(f"an array of shape {shape} looks like one image; give image[None], an array of one")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape[1:]:
        hint = "; channels come last" if len(shape) == 4 and shape[1] in (1, 3) else ""
        raise DataError(
            f"an array of shape {shape} holds no images; images are (n, H, W), (n, H, W, 1) or (n, H, W, 3){hint}"
        )
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        raise DataError(f"expected uint8 images or floats in [0, 1], got {dtype}")


def _to_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Floats in [0, 1] as uint8."""
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # false for NaN too
        raise DataError(
            f"float images must be in [0, 1], without NaN, got {images.min():.4g} to {images.max():.4g}; "
            "divide by the largest value there can be, or pass uint8"
        )
    return np.rint(images.astype(np.float32, copy=False) * 255).astype(np.uint8)


def _resize(image: NDArray[np.uint8], to: ImageFormat) -> NDArray[np.uint8]:
    """One image (H, W, C) → (height, width, channels), strip by strip along its rows, so that memory stays bounded."""
    height, width, channels = image.shape
    strips = np.array_split(image, min(height, -(-height * width // STRIP)))
    narrow = [_along(_recolour(strip, min(channels, to.channels)).transpose(2, 0, 1), to.width) for strip in strips]
    across = np.concatenate(narrow, 1).transpose(0, 2, 1)  # (C, width, H)
    resized = _along(across, to.height).transpose(2, 1, 0)  # (height, width, C)
    return np.repeat(resized, to.channels, 2) if resized.shape[2] < to.channels else np.ascontiguousarray(resized)


def _recolour(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Colour → grey where grey is wanted."""
    if image.shape[2] == channels:
        return image
    R, G, B = np.moveaxis(image.astype(np.int32), 2, 0)
    grey: NDArray[np.int32] = (299 * R + 587 * G + 114 * B + 500) // 1000
    return grey.astype(np.uint8)[..., None]


def _along(x: NDArray[np.uint8], n_out: int) -> NDArray[np.uint8]:
    """The last axis, resized to ``n_out``."""
    n_in = x.shape[-1]
    if n_in == n_out:
        return x
    y = np.empty((*x.shape[:-1], n_out), np.uint8)
    for block in _filter(n_in, n_out):
        part = np.ascontiguousarray(x[..., block.source]).astype(np.float32)
        sums = part @ block.weights.T.astype(np.float32)
        y[..., block.out] = np.floor((sums + ONE / 2) / ONE).clip(0, 255)
    return y


@lru_cache(maxsize=32)
def _filter(n_in: int, n_out: int) -> Sequence[_Block]:
    """The triangle filter, as blocks of output pixels."""
    blocks = []
    s = max(n_in, n_out)
    for start in range(0, n_out, 32):  # each from the part of the side that it depends on
        i = np.arange(start, min(start + 32, n_out))[:, None]
        centre = (2 * i + 1) * n_in // (2 * n_out)  # the input pixel in which an output pixel's middle lies
        reach = 1 + s // n_out
        low, high = max(0, int(centre[0, 0]) - reach), min(n_in, int(centre[-1, 0]) + reach + 1)
        j = np.arange(low, high)
        a = np.maximum(0, 2 * s - np.abs((2 * j + 1) * n_out - (2 * i + 1) * n_in))
        total = a.sum(1, keepdims=True)
        weights = (a * ONE + total // 2) // total
        weights += (ONE - weights.sum(1, keepdims=True)) * (j == centre)
        blocks.append(_Block(slice(start, start + len(i)), slice(low, high), weights))
    return blocks
