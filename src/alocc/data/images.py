"""One image, or many of one size: decode, check, resize. The only place that knows the value range.

An image is an array (H, W) or (H, W, C), uint8 or float in [0, 1], until :func:`prepare` makes it a tensor (C, H, W).
uint8 stays uint8 until a network sees it (:func:`to_unit_range`), which is four times smaller and loses nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from alocc.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 80_000_000  # below the limit at which Pillow warns
MAX_ASPECT = 50
"""How many times longer than wide an image may be: more is a strip, which no resizing makes comparable."""
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError, MemoryError,
          struct.error, zlib.error, *BOMBS)  # fmt: skip
"""All that Pillow's decoders are known to raise on files that are not what they say."""
DEFAULT_MAX_SIDE = 64
GREY_MODES = frozenset({"1", "L", "LA", "I;16", "I;16B", "I;16L", "I", "F"})


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
        return f"{self.height}×{self.width} {'grey' if self.channels == 1 else 'colour'}"


class Header(NamedTuple):
    """What a file says of its image before it is decoded."""

    height: int
    width: int
    grey: bool


Content = Path | Callable[[], BinaryIO]
"""Where the bytes of an image are: a file, or a function that opens something like one."""


def read_header(content: Content, name: str | None = None) -> Header:
    """Size and mode of an image file, without decoding its pixels.

    Args:
        content: where the bytes are.
        name: what to call it in errors, where it is no file.

    Raises:
        DataError: if the file cannot be opened as an image.
    """
    with _opened(content, name) as image:
        width, height = image.size
        # EXIF orientations 5 to 8 swap height and width. A PNG without one would be decoded in search of it
        may_turn = image.format != "PNG" or "exif" in image.info
        if may_turn and image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
        return Header(height, width, image.mode in GREY_MODES)


def read_image(content: Content, name: str | None = None, page: int = 0) -> NDArray[np.uint8]:
    """Decode an image file, upright as its EXIF orientation says: uint8, (H, W) if grey, (H, W, 3) if colour.

    Transparency is ignored: the colour below it counts.

    Raises:
        DataError: if the file is not an image, damaged, animated, more than 50 times longer than wide, or has more than
            ``MAX_PIXELS`` pixels.
    """
    with _opened(content, name) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "TIFF":
            raise ValueError(f"an animation of {frames} frames; save the frames that matter as images of their own")
        if page:
            image.seek(page)
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise ValueError(f"{image.width}×{image.height} pixels are more than {MAX_ASPECT} times longer than wide")
        return _as_uint8(ImageOps.exif_transpose(image))


def count_pages(path: Path) -> int:
    """Pages of a TIFF; 1 for one that cannot be read, whose error shows when it is loaded."""
    try:
        with _opened(path, None) as image:
            return int(getattr(image, "n_frames", 1))
    except DataError:
        return 1


def prepare(image: NDArray[np.generic] | Tensor, to: ImageFormat) -> Tensor:
    """Bring an image to a detector's format: (C, H, W), uint8 if it was uint8, else float32 in [0, 1].

    Grey becomes colour by repetition, colour becomes grey by ITU-R 601 luma, and the size changes by bilinear
    interpolation with an antialiasing filter.

    Raises:
        DataError: if the array is no image, or its values are outside [0, 1] (float) or not 8-bit (integer).
    """
    return prepare_batch(np.asarray(image)[None], to)[0]


def prepare_batch(images: NDArray[np.generic], to: ImageFormat) -> Tensor:
    """:func:`prepare` for many images of one size, (n, H, W) or (n, H, W, C)."""
    x = _checked(images)
    if x.shape[1:] == (to.channels, to.height, to.width):
        return x
    was_uint8 = x.dtype == torch.uint8
    x = _resized(_recoloured(to_unit_range(x), to.channels), (to.height, to.width))
    return (x * 255).round().to(torch.uint8) if was_uint8 else x


def to_unit_range(x: Tensor) -> Tensor:
    """uint8 0…255 → float32 0…1; a float tensor is in that range already and comes back as it is."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


def is_grey(image: NDArray[np.generic]) -> bool:
    """Whether an image has one channel, or three that say the same."""
    return image.ndim == 2 or image.shape[2] == 1 or bool((image == image[..., :1]).all())


@contextmanager
def _opened(content: Content, name: str | None) -> Iterator[Image.Image]:
    """An image file for as long as it is read; whatever goes wrong meanwhile becomes a DataError with its name."""
    called = name or str(content)
    try:
        with Image.open(content if isinstance(content, Path) else content(), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}×{image.height} pixels; {MAX_PIXELS:,} are allowed")
            yield image
    except UnidentifiedImageError:
        raise DataError(f"{called} is not a {', '.join(FORMATS)} image") from None
    except DAMAGE as error:
        raise DataError(f"{called} cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _as_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit grey
        return np.asarray(np.asarray(image).clip(0, 65535) // 257, dtype=np.uint8)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # as Pillow advises; straight to RGB it warns
    return np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))


def _checked(images: NDArray[np.generic]) -> Tensor:
    """(n, H, W[, C]) array → (n, C, H, W) tensor, uint8 or float32."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(f"expected images of shape (n, H, W), (n, H, W, 1) or (n, H, W, 3), got {images.shape}")
    if images.dtype == np.uint8:
        # from_numpy of a read-only array warns, so those are copied
        array = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"expected uint8 images or floats in [0, 1], got {images.dtype}")
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # false for NaN too
        raise DataError(
            f"float images must be in [0, 1], got {images.min():.4g} to {images.max():.4g}; divide by their maximum, "
            "or pass uint8"
        )
    return torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32)


def _recoloured(x: Tensor, channels: int) -> Tensor:
    if x.shape[1] == channels:
        return x
    if channels == 3:
        return x.expand(-1, 3, -1, -1)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * luma).sum(1, keepdim=True)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", antialias=True).clamp(0, 1)
