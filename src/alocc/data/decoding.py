"""Image files → uint8 arrays: decode and check, with Pillow and NumPy alone.

Nothing here needs torch, so that the runtime (:mod:`alocc.runtime`) reads images exactly as training does.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Tag
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from alocc.data.resizing import ImageFormat, brought_to
from alocc.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 80_000_000  # below the limit at which Pillow warns
MAX_ASPECT = 50  # how many times longer than wide an image may be: more is a strip, which no resizing makes comparable
GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I", "F"})
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
Content = str | Path | Callable[[], BinaryIO]
"""Where the bytes of an image are: a file, or a function that opens something like one."""
_threads: dict[int, ThreadPoolExecutor] = {}
"""By process, as a fork copies none: the one that decodes large images, as each keeps much of what it allocated."""


class Header(NamedTuple):
    """What a file says of its image before it is decoded."""

    height: int
    width: int
    grey: bool


def read_header(content: Content, name: str | None = None, page: int = 0) -> Header:
    """Size and mode of an image, undecoded; ``page`` counts those of a TIFF that are images of their own.

    A DataError, with ``name``, if it cannot be opened as an image, or :func:`read_image` refuses its size.
    """
    with _open_image(content, name, page) as image:
        width, height = image.size
        turned = _mentions_orientation(image) and _orientation(image) in SIDEWAYS
        turned = turned and _tags(image).get(Tag.Orientation) not in SIDEWAYS  # a TIFF's tag is in the size, XMP is not
        return Header(*((width, height) if turned else (height, width)), image.mode in GREY_MODES)


def read_image(content: Content, name: str | None = None, page: int = 0) -> NDArray[np.uint8]:
    """Decode an image file, upright as its EXIF orientation says: uint8, (H, W) if grey, (H, W, 3) if colour.

    Transparency is ignored: the colour below it counts. A DataError if the file is not an image, damaged, animated, or
    beyond ``MAX_PIXELS`` or ``MAX_ASPECT``.
    """
    with _open_image(content, name, page) as image:
        return _decode(image)


def read_brought_to(
    content: Content, name: str | None, page: int, to: ImageFormat
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """:func:`read_image` in a detector's format, (H, W, C), and its height and width before that.

    Of several threads, only one decodes large images.
    """
    with _open_image(content, name, page) as image:

        def prepare() -> tuple[NDArray[np.uint8], tuple[int, int]]:
            with closing(image):  # its memory is free again before the next one begins
                decoded = _decode(image)
                return brought_to(decoded[None], to)[0], (decoded.shape[0], decoded.shape[1])

        if image.width * image.height <= 4_000_000:  # larger ones one by one, so that memory stays bounded
            return prepare()
        return _threads.setdefault(os.getpid(), ThreadPoolExecutor(1, "alocc-large-image")).submit(prepare).result()


def count_pixels(content: bytes) -> int | None:
    """Pixels that the head of a file tells of, whatever else is in it; 0 for what will be refused at once.

    None of a TIFF, whose pages may be many. Nothing is unpacked, as texts of a PNG would be if Pillow opened it.
    """
    if content[:2] in (b"II", b"MM"):
        return None
    if content.startswith(b"\x89PNG"):
        return int.from_bytes(content[16:20]) * int.from_bytes(content[20:24])
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "BMP", "WEBP")) as image:
            return image.width * image.height
    except Exception:  # no image, or far too large
        return 0


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Where a mask marks an anomaly, upright, (H, W): where it is not black, in whatever bits, and not transparent.

    Of a palette the first colour is the background, unless another one is black. What is drawn in black on transparency
    is marked too. A DataError as of :func:`read_image`, or for several pages, or 16 bits of several channels.
    """
    if (n := count_pages(path)) > 1:
        raise DataError(f"{path} has {n} pages; a mask is one image")
    with _open_image(path, None, 0) as image:
        if ";16" in str(image.tile) and not image.mode.startswith("I"):  # Pillow drops their lower 8 bits
            raise ValueError("a mask of 16 bits in several channels; save it as grey, or with 8 bits")
        image.load()
        return _turn_upright(_find_marks(image), image)


def count_pages(content: Content) -> int:
    """Pages of a TIFF that are images of their own; 1 for a file that cannot be read, whose error shows when loaded."""
    try:
        with _readable(content) as file:
            return len(_image_pages(file))
    except Exception:  # no TIFF, no file
        return 1


@contextmanager
def _open_image(content: Content, name: str | None, page: int) -> Iterator[ImageFile]:
    """One image of a file for as long as it is read; whatever goes wrong becomes a DataError with its name."""
    called = name or str(content)
    try:
        # as a file: Pillow maps files that it opens by name into memory, and mixes up the sides of turned TIFFs there
        with _readable(content) as file, _identify(file) as image:
            if image.format == "TIFF":
                pages = _image_pages(file)
                image.seek(pages[page] if page < len(pages) else page)
                _check_stack(image)
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels; {MAX_PIXELS:,} are allowed")
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise ValueError(
                    f"{image.width}×{image.height} pixels are more than {MAX_ASPECT} times longer than wide"
                )
            yield image
    except Image.DecompressionBombError:
        raise DataError(f"{called} cannot be read (far more than the {MAX_PIXELS:,} pixels that are allowed)") from None
    except UnidentifiedImageError:
        raise DataError(f"{called} is not a {', '.join(FORMATS)} image") from None
    except Exception as error:  # Pillow's decoders raise all kinds on files that are not what they say
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{called} cannot be read ({reason})") from None


def _readable(content: Content) -> BinaryIO:
    """A pipe or a device would be waited for without end, so only ordinary files are opened."""
    if callable(content):
        return content()
    status = os.stat(content)  # noqa: PTH116  (a Path of each would double the time)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not an ordinary file")
    return open(content, "rb")  # noqa: PTH123  (nor here)


def _identify(file: BinaryIO) -> ImageFile:
    """Pillow's image of a file; of one that begins like an image and is none, the error that Pillow keeps to itself."""
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        if not (prefix := file.read(16)):
            raise OSError("the file is empty") from None
        for opener, accepts in map(Image.OPEN.__getitem__, FORMATS):
            if accepts and accepts(prefix):
                if prefix[:2] in (b"II", b"MM"):
                    _check_range(next(_directories(file), {}))
                file.seek(0)
                opener(file, "")
        raise


def _directories(file: BinaryIO) -> Iterator[ImageFileDirectory_v2]:
    """The tags of each page of a TIFF, one after the other, whether or not Pillow can decode the page."""
    file.seek(0)
    head = file.read(8)
    tags = ImageFileDirectory_v2(head + file.read(8) if head[2:3] == b"+" else head)
    visited: set[int] = set()
    while tags.next and tags.next not in visited:
        visited.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        yield tags


def _image_pages(file: BinaryIO) -> list[int]:
    """Numbers of the pages of a TIFF that are no reduced version (thumbnail, pyramid) and no mask of another one."""
    images, n = [], 0
    try:
        for n, tags in enumerate(_directories(file), start=1):
            kind = tags.get(Tag.NewSubfileType, 0)
            is_reduced = (isinstance(kind, int) and kind & 5) or tags.get(Tag.SubfileType) == 2
            if not is_reduced and tags.get(Tag.PhotometricInterpretation) != 4:
                images.append(n - 1)
    except SyntaxError:  # no TIFF
        raise
    except Exception:  # a page whose tags are damaged is named when it is read
        images.append(n)
    return images or [0]


def _tags(image: Image.Image) -> Any:
    """Tags of a TIFF, by number; of another image none."""
    return getattr(image, "tag_v2", {})


def _check_stack(image: ImageFile) -> None:
    """Refuse a TIFF with several images of which its only page shows the first: as ImageJ writes large stacks."""
    tags, file_size = _tags(image), cast(BinaryIO, image.fp).seek(0, os.SEEK_END)
    described = re.search(r'^images=([2-9]|\d\d+)$|"truncated": true', str(tags.get(Tag.ImageDescription, "")), re.M)
    n_bytes = image.width * image.height * sum(tags.get(Tag.BitsPerSample, (1,))) // 8
    is_there = file_size - min(tags.get(Tag.StripOffsets, (file_size,))) >= 2 * n_bytes
    n_slices = tags.get(32997, 1)  # ImageDepth
    if n_slices > 1 or (described and is_there and image.tell() == tags.next == 0):
        raise ValueError("a stack of images on one page; save it as a TIFF of several pages, or as .npy")


def _check_range(tags: Any) -> None:
    """Refuse pixels of a TIFF that Pillow reads wrongly, or whose range nobody knows."""
    bits, kinds = max(tags.get(Tag.BitsPerSample, (1,))), set(tags.get(Tag.SampleFormat, (1,)))
    kind = "floating-point" if 3 in kinds else "signed" if 2 in kinds else f"{bits}-bit" if bits > 16 else ""
    if kind:
        raise ValueError(f"{kind} pixels have no known range; save it with 8 or 16 bits, unsigned")
    if bits > 8 and tags.get(Tag.PlanarConfiguration) == 2 and tags.get(Tag.Compression, 1) == 1:
        raise ValueError(f"{bits}-bit pixels in separate planes; save it with 8 bits, or with interleaved channels")


def _mentions_orientation(image: ImageFile) -> bool:
    """False for a PNG without EXIF or XMP: Pillow would decode it in search of them, as they may lie at its end."""
    if image.format != "PNG":
        return True
    file = cast(BinaryIO, image.fp)
    place = file.tell()
    file.seek(8)
    found = False
    while not found and len(chunk := file.read(32)) >= 12:
        found = chunk[4:8] == b"eXIf" or chunk[8:].startswith((b"XML:com.adobe.xmp", b"Raw profile type exif"))
        file.seek(int.from_bytes(chunk[:4], "big") + 12 - len(chunk), os.SEEK_CUR)
    file.seek(place)
    return found


def _orientation(image: ImageFile) -> object:
    """What EXIF says, whatever that is."""
    try:
        return image.getexif().get(Tag.Orientation)
    except Exception:  # damaged EXIF turns nothing
        return None


def _turn_upright(pixels: NDArray[Any], image: ImageFile) -> NDArray[Any]:
    """Pixels of an image that is loaded: Pillow turns a TIFF while it loads it, and takes its orientation away."""
    orientation = _orientation(image)
    rows, columns = -1 if orientation in (3, 4, 6, 7) else 1, -1 if orientation in (2, 3, 7, 8) else 1
    flipped = pixels[::rows, ::columns]
    return flipped.swapaxes(0, 1) if orientation in SIDEWAYS else flipped


def _decode(image: ImageFile) -> NDArray[np.uint8]:
    if image.format == "TIFF":
        _check_range(_tags(image))
    elif image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:  # MPO: a photograph and its preview
        raise ValueError(f"an animation of {frames} frames; save the frames that matter as images of their own")
    image.load()
    return _turn_upright(_as_uint8(image), image)


def _as_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        return (_of_16_bits(image) // 257).astype(np.uint8)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # as Pillow advises; straight to RGB it warns
    if image.mode == "La":
        image = image.convert("LA")
    mode = "L" if image.mode in GREY_MODES else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _of_16_bits(image: Image.Image) -> NDArray[np.uint16]:
    """Grey of more than 8 bits, from 0, black, to 65535: Pillow gives it as stored."""
    tags = _tags(image)
    pixels: NDArray[np.uint16] = np.asarray(image).astype(np.uint16, copy=False)
    if tags.get(Tag.BitsPerSample) == (12,):
        pixels = np.bitwise_or(pixels << 4, pixels >> 8)
    return np.subtract(65535, pixels) if tags and tags.get(Tag.PhotometricInterpretation, 0) == 0 else pixels


def _find_marks(image: Image.Image) -> NDArray[np.bool_]:
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        return np.not_equal(_of_16_bits(image) if image.mode.startswith("I;16") else np.asarray(image), 0)
    rgba = np.asarray((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
    black: NDArray[np.bool_] = rgba[..., :3].max(2) == 0
    visible: NDArray[np.bool_] = rgba[..., 3] > 0
    if image.mode == "P" and not (black.any() and any((image.getpalette() or [0])[:3])):
        black[:] = np.asarray(image) == 0
    marked = np.logical_and(visible, ~black)
    return marked if marked.any() or visible.all() else visible
