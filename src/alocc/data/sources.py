"""What the user calls DATA → images of one format: a folder or file, a built-in data set, or an array.

Every command opens its data with :func:`open_source`, so a data argument means the same everywhere. A new kind of
source is a class with the members of :class:`Source` and a line in :func:`open_source`.
"""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.config import ImagesConfig
from alocc.data.images import (
    DEFAULT_MAX_SIDE,
    SUFFIXES,
    Header,
    ImageFormat,
    is_grey,
    prepare,
    prepare_batch,
    read_header,
    read_image,
)
from alocc.data.mnist import CLASSES as MNIST_CLASSES
from alocc.data.mnist import Split, load_mnist
from alocc.errors import DataError

BUILT_IN = ("mnist",)
MIN_SIDE = 16

Data = str | os.PathLike[str] | NDArray[np.generic]


class Skipped(NamedTuple):
    """An image that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageSet:
    """Images of one format, with what is known of each."""

    images: Tensor
    """(n, C, H, W), uint8, or float32 in [0, 1]."""
    names: Sequence[str]
    """Path of each image, or its index in an array."""
    classes: NDArray[np.str_]
    """Class name of each image, "" where it has none."""
    skipped: tuple[Skipped, ...] = ()
    """Images of the source that could not be used."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, keep: NDArray[np.generic]) -> ImageSet:
        """A part of the images, by indices or by a mask."""
        indices = np.arange(len(self))[keep]
        return ImageSet(
            self.images[torch.from_numpy(indices)],
            [self.names[i] for i in indices],
            self.classes[indices],
            self.skipped,
        )


class Source(Protocol):
    """Images that are not loaded yet."""

    class_names: tuple[str, ...]

    def infer_format(self, wanted: ImagesConfig) -> ImageFormat:
        """The format that suits these images, where the config leaves it open."""

    def load(self, to: ImageFormat) -> ImageSet:
        """Decode, resize and gather all images; those that cannot be used are named in ``skipped``."""


def open_source(data: Data, split: Split, classes: Collection[str] | None = None) -> Source:
    """Find out what ``data`` is.

    Args:
        data: a folder, an image file, the name of a built-in data set, or an array of images.
        split: which part of a built-in data set; other sources have no parts.
        classes: keep only images of these classes; none for all.

    Raises:
        DataError: if there is no such thing, or no such class in it.
    """
    if isinstance(data, np.ndarray):
        if data.ndim not in (3, 4) or 0 in data.shape:
            raise DataError(f"expected images of shape (n, H, W) or (n, H, W, C), got {data.shape}")
        if classes is not None:
            raise DataError("an array has no classes; leave normal out, and pass normal images alone")
        return ArraySource(data, np.full(len(data), ""), [str(i) for i in range(len(data))])
    if str(data) in BUILT_IN:
        _check_classes(classes, MNIST_CLASSES, "mnist")
        images, names = load_mnist(split, classes)
        return ArraySource(images, names, _numbered(f"mnist/{split}", names))
    path = Path(data)
    if not path.exists():
        near = difflib.get_close_matches(str(data), BUILT_IN, n=1)
        hint = (
            f'did you mean "{near[0]}"?' if near else f"give a folder, an image file or one of: {', '.join(BUILT_IN)}"
        )
        raise DataError(f"{data} does not exist; {hint}")
    return FolderSource(path, classes)


class ArraySource:
    """Images of one size in memory."""

    def __init__(self, images: NDArray[np.generic], classes: NDArray[np.str_], names: Sequence[str]) -> None:
        self.images, self.classes, self.names = images, classes, names
        self.class_names = tuple(sorted(set(classes.tolist()) - {""}))

    def infer_format(self, wanted: ImagesConfig) -> ImageFormat:
        colour = self.images.ndim == 4 and not all(is_grey(image) for image in self.images)
        height, width = self.images.shape[1:3]
        return _format(wanted, [Header(height, width, grey=not colour)], lambda: colour)

    def load(self, to: ImageFormat) -> ImageSet:
        return ImageSet(prepare_batch(self.images, to), self.names, self.classes)


class FolderSource:
    """Image files below a folder; the class of an image is the first sub-folder on its way, if there is any."""

    def __init__(self, root: Path, classes: Collection[str] | None = None) -> None:
        found = [root] if root.is_file() else list(_image_files(root))
        if not found:
            raise DataError(f"{root} holds no image files ({', '.join(sorted(SUFFIXES))})")
        self.root = root
        self.class_names = tuple(sorted({self._class_of(path) for path in found} - {""}))
        _check_classes(classes, self.class_names, str(root))
        self.paths = [path for path in found if classes is None or self._class_of(path) in classes]

    def infer_format(self, wanted: ImagesConfig) -> ImageFormat:
        headers = [header for header in map(self._header, self.paths) if header]
        if not headers:
            raise DataError(f"none of the {len(self.paths)} files of {self.root} can be read as an image")
        return _format(wanted, headers, self._any_colour)

    def load(self, to: ImageFormat) -> ImageSet:
        def load_one(path: Path) -> Tensor | Skipped:
            try:
                return prepare(read_image(path), to)
            except DataError as error:
                return Skipped(str(path), str(error))

        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
            loaded = list(pool.map(load_one, self.paths))
        good = [(path, image) for path, image in zip(self.paths, loaded, strict=True) if isinstance(image, Tensor)]
        skipped = tuple(item for item in loaded if isinstance(item, Skipped))
        if not good:
            raise DataError(f"none of the {len(skipped)} images can be used; the first: {skipped[0].reason}")
        classes = np.array([self._class_of(path) for path, _ in good])
        return ImageSet(torch.stack([image for _, image in good]), [str(path) for path, _ in good], classes, skipped)

    def _class_of(self, path: Path) -> str:
        inside = path.relative_to(self.root).parts
        return inside[0] if len(inside) > 1 else ""

    def _header(self, path: Path) -> Header | None:
        try:
            return read_header(path)
        except DataError:
            return None  # named when it is loaded

    def _any_colour(self) -> bool:
        for path in self.paths:
            try:
                if not is_grey(read_image(path)):
                    return True
            except DataError:
                continue
        return False


def _numbered(prefix: str, classes: NDArray[np.str_]) -> list[str]:
    """prefix/class/number, counted within each class, so that a choice of classes renames no image."""
    counters = {name: itertools.count() for name in set(classes.tolist())}
    return [f"{prefix}/{name}/{next(counters[name])}" for name in classes.tolist()]


def _image_files(root: Path) -> Iterator[Path]:
    """Image files below ``root`` by suffix, sorted; hidden files and folders are passed over."""
    for folder, sub_folders, files in os.walk(root):
        sub_folders[:] = sorted(name for name in sub_folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path


def _check_classes(asked: Collection[str] | None, known: Sequence[str], where: str) -> None:
    for name in asked or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'did you mean "{near[0]}"? ' if near else ""
            listed = f"its classes are: {', '.join(known)}" if known else "it has no sub-folders, so no classes"
            raise DataError(f'{where} has no class "{name}"; {hint}{listed}')


def _format(wanted: ImagesConfig, headers: Sequence[Header], any_colour: Callable[[], bool]) -> ImageFormat:
    height, width = wanted.size or _typical_size(headers)
    channels = wanted.channels
    if channels is None:
        all_grey = all(header.grey for header in headers)
        channels = 1 if all_grey or not any_colour() else 3
    return ImageFormat(height, width, channels)


def _typical_size(headers: Sequence[Header]) -> tuple[int, int]:
    """The median size, shrunk so that the longer side is at most 64, or enlarged to at least 16 for the shorter."""
    height = float(np.median([header.height for header in headers]))
    width = float(np.median([header.width for header in headers]))
    scale = min(1.0, DEFAULT_MAX_SIDE / max(height, width))
    scale = max(scale, MIN_SIDE / min(height, width))
    return round(height * scale), round(width * scale)
