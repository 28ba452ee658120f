"""Image files → uint8 arrays: decode and check, with Pillow and NumPy alone.

Nothing here needs torch, so that the runtime (:mod:`alocc.runtime`) reads images exactly as training does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from alocc.data.resizing import ImageFormat, brought_to
from alocc.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 80_000_000  # below the limit at which Pillow warns
MAX_ASPECT = 50
"""How many times longer than wide an image may be: more is a strip, which no resizing makes comparable."""
LARGE = 4_000_000
"""Pixels from which on images are decoded one at a time, so that memory stays bounded."""
MANY_PICTURES = ("TIFF", "MPO")
"""Formats of several pictures that are no animation: pages, and a camera's JPEG with a preview behind it."""
GREY_MODES = frozenset({"1", "L", "LA", "I;16", "I;16B", "I;16L", "I", "F"})


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


def read_brought_to(content: Content, name: str | None, page: int, to: ImageFormat) -> NDArray[np.uint8]:
    """:func:`read_image` in a detector's format, (H, W, C); of several threads, only one decodes large images.

    Raises:
        DataError: as :func:`read_image`.
    """
    with _opened(content, name, page) as image:

        def prepared() -> NDArray[np.uint8]:
            with closing(image):  # its memory is free again before the next one begins
                whole: NDArray[np.uint8] = brought_to(_decoded(image)[None], to)[0]
                return whole

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
