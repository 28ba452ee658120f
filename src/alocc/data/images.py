"""One image, or many of one size: decode, check, resize. The only place that knows the value range.

An image is an array (H, W) or (H, W, C), uint8 or float in [0, 1], until :func:`prepare` makes it a tensor (C, H, W).
uint8 stays uint8 until a network sees it (:func:`to_unit_range`), which is four times smaller and loses nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
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
LARGE = 4_000_000
"""Pixels from which on images are decoded one at a time and resized in strips, so that memory stays bounded."""
MANY_PICTURES = ("TIFF", "MPO")
"""Formats of several pictures that are no animation: pages, and a camera's JPEG with a preview behind it."""
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


Content = str | Path | Callable[[], BinaryIO]
"""Where the bytes of an image are: a file, or a function that opens something like one."""
_one_by_one = ThreadPoolExecutor(1, "alocc-large-image")  # a thread keeps much of what it allocated: one, not all


def read_header(content: Content, name: str | None = None, page: int = 0) -> Header:
    """Size and mode of an image file, without decoding its pixels.

    Args:
        content: where the bytes are.
        name: what to call it in errors, where it is no file.
        page: of a TIFF.

    Raises:
        DataError: if the file cannot be opened as an image, or is one that :func:`read_image` refuses for its size.
    """
    with _opened(content, name, page) as image:
        width, height = image.size
        # EXIF orientations 5 to 8 swap height and width. A PNG without one would be decoded in search of it, and the
        # size that Pillow gives of a TIFF is upright already
        may_turn = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
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
    with _opened(content, name, page) as image:
        return _decoded(image)


def read_prepared(content: Content, name: str | None, page: int, to: ImageFormat) -> Tensor:
    """:func:`read_image`, then :func:`prepare`; of several threads, only one decodes large images.

    Raises:
        DataError: as :func:`read_image`.
    """
    with _opened(content, name, page) as image:

        def prepared() -> Tensor:
            with closing(image):  # its memory is free again before the next one begins
                return prepare(_decoded(image), to)

        if image.width * image.height <= LARGE:
            return prepared()
        return _one_by_one.submit(prepared).result()


def count_pages(path: Path) -> int:
    """Pages of a TIFF; 1 for one that cannot be read, whose error shows when it is loaded."""
    try:
        with _opened(path, None, 0) as image:
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
    if images.ndim in (3, 4) and images.shape[1] * images.shape[2] > LARGE and images.shape[1:3] != to.size:
        x = _in_strips(images, to)
    else:
        x = _checked(images)
        if x.shape[1:] == (to.channels, *to.size):
            return x
    x = _resized(_recoloured(to_unit_range(x), to.channels), to.size)
    return (x * 255).round().to(torch.uint8) if images.dtype == np.uint8 else x


def _in_strips(images: NDArray[np.generic], to: ImageFormat) -> Tensor:
    """Large images, narrowed strip by strip: the same numbers, for the filter goes along rows first anyway."""
    n_strips = -(-images.shape[1] * images.shape[2] // LARGE) * 4
    strips = np.array_split(images, min(n_strips, images.shape[1]), axis=1)
    narrow = [
        _resized(_recoloured(to_unit_range(_checked(strip)), to.channels), (strip.shape[1], to.width))
        for strip in strips
    ]
    return torch.cat(narrow, 2)


def to_unit_range(x: Tensor) -> Tensor:
    """uint8 0…255 → float32 0…1; a float tensor is in that range already and comes back as it is."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


def is_grey(image: NDArray[np.generic]) -> bool:
    """Whether an image has one channel, or three that say the same."""
    return image.ndim == 2 or image.shape[2] == 1 or bool((image == image[..., :1]).all())


@contextmanager
def _opened(content: Content, name: str | None, page: int) -> Iterator[Image.Image]:
    """One image of a file for as long as it is read; whatever goes wrong becomes a DataError with its name."""
    called = name or str(content)
    try:
        with Image.open(_readable(content), formats=FORMATS) as image:
            if page:
                image.seek(page)
            _check_size(image)
            yield image
    except Image.DecompressionBombError:
        raise DataError(f"{called} cannot be read (far more than the {MAX_PIXELS:,} pixels that are allowed)") from None
    except UnidentifiedImageError:
        raise DataError(f"{called} is not a {', '.join(FORMATS)} image") from None
    except Exception as error:  # Pillow's decoders raise all kinds on files that are not what they say
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{called} cannot be read ({reason})") from None


def _readable(content: Content) -> str | Path | BinaryIO:
    """A pipe or a device would be waited for without end, so only ordinary files are opened."""
    if callable(content):
        return content()
    if not stat.S_ISREG(os.stat(content).st_mode):  # noqa: PTH116  (a Path of each would double the time)
        raise OSError("not an ordinary file")
    return content


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}×{height} pixels; {MAX_PIXELS:,} are allowed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width}×{height} pixels are more than {MAX_ASPECT} times longer than wide")


def _decoded(image: Image.Image) -> NDArray[np.uint8]:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in MANY_PICTURES:
        raise ValueError(f"an animation of {frames} frames; save the frames that matter as images of their own")
    ImageOps.exif_transpose(image, in_place=True)  # in place: no copy of an image that is upright already
    return _as_uint8(image)


def _as_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit grey
        return np.asarray(np.asarray(image).clip(0, 65535) // 257, dtype=np.uint8)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # as Pillow advises; straight to RGB it warns
    mode = "L" if image.mode in GREY_MODES else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))


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
