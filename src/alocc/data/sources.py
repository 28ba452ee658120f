"""What the user calls DATA → images of one format.

| DATA                                        | class of an image                | opened as     |
|---------------------------------------------|----------------------------------|---------------|
| a folder                                    | the first sub-folder on the way  | `EntrySource` |
| a folder with train/ and test/ in it        | the first sub-folder below those | `EntrySource` |
| a pattern: `parts/**/*.png`                 | the first folder below its start | `EntrySource` |
| a table: `.csv`, `.tsv`, `.parquet`         | its column `label`               | `EntrySource` |
| a `.zip` or `.tar` file                     | as for a folder                  | `EntrySource` |
| an address: `https://…`, `s3://…`, `gs://…` | as for the file or folder there  | `EntrySource` |
| one image, or a TIFF of several pages       | none                             | `EntrySource` |
| a list of such images                       | none                             | `EntrySource` |
| a video                                     | none                             | `VideoSource` |
| `.npy`, `.npz`, IDX files; an array; `mnist` | their labels, if they have any  | `ArraySource` |

Every command opens its data with :func:`open_source`, or its normal images with :func:`open_normals`, so a data
argument means the same everywhere. Files are in one order, :func:`alocc.data.entries.in_order`. A new type of source is
a class with the members of :class:`Source` and a line in :func:`open_source`.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import itertools
import os
import stat
import tempfile
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.config import LARGEST, ImagesConfig
from alocc.data import arrays, reading, remote, video
from alocc.data.decoding import SUFFIXES, Header, read_header, read_image
from alocc.data.entries import Entry, Skipped, check_classes, class_of, file_entries, find_entries, has_suffix
from alocc.data.images import ImageFormat, is_grey, prepare_batch, to_unit_range
from alocc.data.mnist import CLASSES as MNIST_CLASSES
from alocc.data.mnist import Split, load_mnist
from alocc.data.reading import check_strict, none_usable
from alocc.data.resizing import as_images, brought_to
from alocc.errors import DataError
from alocc.stages import in_stage, stage

__all__ = ["Data", "ImageSet", "Paths", "Skipped", "Source", "are_paths", "check_classes", "check_strict",
           "known_classes", "open_normals", "open_source"]  # fmt: skip

BUILT_IN = ("mnist",)
MOST_IN_MEMORY = 2 << 30  # bytes of prepared images; more lie in a temporary file that vanishes with the process
MOST_LOOKED_AT = 1_000  # files, for the size and kind of all
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Data = Paths | NDArray[np.generic]


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
    masks: Sequence[Path | None] = ()
    """Where each image's mask is; empty if the source has no masks."""
    sizes: Sequence[tuple[int, int]] = ()
    """Height and width of each image before it was brought to the format; empty if that is not known."""
    original: Callable[[int], NDArray[np.uint8]] | None = None
    """Reads the i-th image again as it was before that, (H, W) or (H, W, C); a DataError if it is no longer there."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, keep: NDArray[np.generic]) -> ImageSet:
        """A part of the images, by indices or by a mask."""
        indices, original = np.arange(len(self))[keep], self.original
        return ImageSet(
            self.images[torch.from_numpy(indices)],
            [self.names[i] for i in indices],
            self.classes[indices],
            self.skipped,
            [self.masks[i] for i in indices] if self.masks else (),
            [self.sizes[i] for i in indices] if self.sizes else (),
            (lambda i: original(int(indices[i]))) if original else None,
        )

    def reader(self, i: int) -> Callable[[], NDArray[np.uint8]]:
        """Reads the i-th image as ``original`` does; if it is no longer there, it comes in this format, (H, W, C)."""
        one = self[np.array([i])]  # no other image stays in memory for it

        def read() -> NDArray[np.uint8]:
            with suppress(DataError):
                if one.original:
                    return one.original(0)
            pixels: NDArray[np.uint8] = (255 * to_unit_range(one.images[0]).permute(1, 2, 0)).round().byte().numpy()
            return pixels

        return read


class Source(ABC):
    """Images that are not loaded yet."""

    where: str  # what people call it
    class_names: tuple[str, ...] = ()
    n_unlabelled: int = 0  # images without a class, in a source with classes
    unusable: tuple[Skipped, ...] = ()  # what cannot be used of it, as was seen without reading; it comes first

    def of_classes(self, classes: Collection[str] | None) -> Source:
        """The images of some classes, None for all; a DataError if there is no such class."""
        if classes is None:
            return self
        check_classes(classes, self.class_names, self.where)
        return self._only({class_of([name]) for name in classes})

    def _only(self, classes: Collection[str]) -> Source:
        return self

    def some(self, most: int) -> Source:
        """At most so many of the images, evenly spread; all of them where that takes reading them."""
        return self

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are, at most; 0 if that is not known before they are read."""

    @abstractmethod
    def __getitem__(self, part: slice) -> Source:
        """Images one behind the other, in the same order and with the same classes; ``unusable`` goes with the first.

        Nothing is read, and another process may be sent it, but for a video.
        """

    def after(self, n: int) -> Source:
        """What is left behind the first n, counted with those in ``unusable``."""
        return self[n - len(self.unusable) :] if n else self

    @abstractmethod
    def listed(self) -> Iterator[tuple[object, ...]]:
        """What tells the images from others without reading them: names, classes; of files, size and time too."""

    def identity(self) -> str:
        """SHA-256 of :meth:`listed`."""
        found = hashlib.sha256()
        for item in self.listed():
            found.update(f"{item!r}\n".encode("utf-8", "backslashreplace"))
        return found.hexdigest()

    @abstractmethod
    def headers(self) -> list[Header]:
        """Size and kind of each image that can be read, as far as that is known without decoding."""

    def infer_format(self, wanted: ImagesConfig) -> ImageFormat:
        """The format that suits these images, where the config leaves it open."""
        return _format(wanted, self.headers(), lambda: True)

    def original_size(self) -> tuple[int, int]:
        """Height and width of the images as they are, the medians of some."""
        return _median_size(self.headers())

    @abstractmethod
    def batches(self, to: ImageFormat) -> Iterator[ImageSet]:
        """Decode and resize, some images at a time; those that cannot be used are named in ``skipped``."""

    def load(self, to: ImageFormat, strict: bool = False) -> ImageSet:
        """All images together; a DataError if not one can be used, or, if strict, if one cannot."""
        kept, parts, n_read = _Buffer(to), [], 0
        stage("reading", 0, len(self) or None)
        for part in self.batches(to):
            check_strict(strict, part.skipped)
            kept.add(part.images)
            n_read += len(part) + len(part.skipped)
            stage("reading", n_read, len(self) or None)
            parts.append(replace(part, images=part.images[:0].clone()))  # the pixels are in the buffer, once
        skipped = tuple(itertools.chain.from_iterable(part.skipped for part in parts))
        names = list(itertools.chain.from_iterable(part.names for part in parts))
        if not names:
            raise none_usable(skipped)
        masks = list(itertools.chain.from_iterable(part.masks for part in parts))
        sizes = list(itertools.chain.from_iterable(part.sizes for part in parts))
        starts, readers = (
            [0, *itertools.accumulate(len(part.names) for part in parts)],
            [part.original for part in parts],
        )

        def original(i: int) -> NDArray[np.uint8]:
            number = bisect.bisect_right(starts, i) - 1
            read = readers[number]
            assert read
            return read(i - starts[number])

        classes = np.concatenate([part.classes for part in parts])
        return ImageSet(kept.images(), names, classes, skipped, masks, sizes, original)


def are_paths(data: object) -> TypeGuard[Paths]:
    """Whether somebody passes a path, or a list of paths, and not the images themselves."""
    several = data if isinstance(data, list | tuple) else [data]
    return all(isinstance(one, str | os.PathLike) for one in several)


def open_source(data: Data, split: Split, classes: Collection[str] | None = None, stride: int = 1) -> Source:
    """Find out what ``data`` is (the table above), and take the part ``split`` of it where it has parts.

    Only these classes are kept, None for all; of a video, one frame in ``stride``. A DataError if there is no such
    thing, or no such class in it; a ConfigError if a library is missing that this kind of source needs.
    """
    if not isinstance(data, str | os.PathLike):
        if are_paths(data) and isinstance(data, list | tuple):
            entries = [entry for path in data for entry in file_entries(Path(path))]
            return EntrySource(entries, (), f"a list of {len(data)} paths").of_classes(classes)
        data = as_images(data)
        if not len(data):
            raise DataError("an array of no images")
        return ArraySource(data, np.full(len(data), "")).of_classes(classes)
    where = str(data)
    if where in BUILT_IN:
        images, names = load_mnist(split, classes)
        return ArraySource(images, names, _numbered(f"{where}/{split}", names).__getitem__, where)
    path = Path(data)
    if "://" in where:
        found = remote.open_address(where, split)
        if not isinstance(found, Path):
            return EntrySource(*found, where).of_classes(classes)
        path = found
    elif where:
        where = str(path)
    try:
        return _open_path(path, where, split, stride).of_classes(classes)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise DataError(f"{data} cannot be read ({error.strerror or error})") from None


def open_normals(
    data: Data, split: Split, normal: Collection[str] | None = None, default: Collection[str] = (), stride: int = 1
) -> Source:
    """:func:`open_source`, of the classes that are ``normal``, else of a training's ``default``, else all.

    The default does not count for data without classes. A DataError if it is not said which of several are normal.
    """
    source = None if str(data) in BUILT_IN else open_source(data, split, stride=stride)  # else fetched, all of it
    names, n = (MNIST_CLASSES, 0) if source is None else (source.class_names, source.n_unlabelled)
    asked = (default or None) if normal is None and names else normal
    if asked is None and (len(names) > 1 or (names and n)):
        listed = f"its classes are: {', '.join(names)}" + (f"; {n:,} images have none" if n else "")
        raise DataError(f"{data}: say which classes are normal, with --normal; {listed}")
    return open_source(data, split, asked) if source is None else source.of_classes(asked)


def known_classes(data: Data, split: Split) -> tuple[str, ...]:
    """The classes of a source."""
    return MNIST_CLASSES if str(data) in BUILT_IN else open_source(data, split).class_names


def _open_path(path: Path, where: str, split: Split, stride: int) -> Source:
    if has_suffix(path, video.SUFFIXES) and path.is_file():
        return VideoSource(path, where, stride)
    if arrays.is_array_file(path) and path.is_file():
        images, labels = arrays.read_arrays(path, where)
        return ArraySource(images, labels, partial("{}#{}".format, where), where, path=path)
    return EntrySource(*find_entries(path, where, split, BUILT_IN), where)


class ArraySource(Source):
    """Images of one size in memory, or in a file that looks like it."""

    def __init__(
        self,
        images: NDArray[np.generic] | arrays.ArrayFile,
        classes: NDArray[np.str_],
        name: Callable[[int], str] = str,
        where: str = "the array",
        numbers: NDArray[np.int64] | None = None,
        path: Path | None = None,
    ) -> None:
        known, index = np.unique(classes, return_inverse=True)
        self.images, self.name, self.where, self.path = images, name, where, path
        self.numbers = np.arange(len(images)) if numbers is None else numbers
        self.classes = np.array([class_of([name]) for name in known.tolist()], np.str_)[index]
        self.class_names = tuple(sorted(set(self.classes.tolist()) - {""}))
        self.n_unlabelled = int((self.classes == "").sum())

    def __len__(self) -> int:
        return len(self.images)

    def _only(self, classes: Collection[str]) -> ArraySource:
        kept = np.flatnonzero(np.isin(self.classes, list(classes)))
        return ArraySource(self.images[kept], self.classes[kept], self.name, self.where, self.numbers[kept], self.path)

    def __getitem__(self, part: slice) -> ArraySource:
        some = copy(self)
        some.images = self.images.part(part) if isinstance(self.images, arrays.ArrayFile) else self.images[part]
        some.classes, some.numbers = self.classes[part], self.numbers[part]
        return some

    def listed(self) -> Iterator[tuple[object, ...]]:
        yield self.where, self.images.shape, self.images.dtype, *(_size_and_time(self.path) if self.path else ())
        if self.class_names:
            yield from zip(self.numbers.tolist(), self.classes.tolist(), strict=True)

    def some(self, most: int) -> ArraySource:
        kept = spread(len(self), most)
        return ArraySource(self.images[kept], self.classes[kept], self.name, self.where, self.numbers[kept], self.path)

    def headers(self) -> list[Header]:
        parts = (self.images[start : start + reading.BATCH] for start in range(0, len(self), reading.BATCH))
        colour = self.images.ndim == 4 and not all(is_grey(image) for part in parts for image in part)
        return [Header(self.images.shape[1], self.images.shape[2], grey=not colour)] * len(self)

    def original_size(self) -> tuple[int, int]:
        return self.images.shape[1], self.images.shape[2]

    def batches(self, to: ImageFormat) -> Iterator[ImageSet]:
        size = reading.batch_size(to)
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            names = [self.name(i) for i in self.numbers[part].tolist()]
            sizes = [(int(self.images.shape[1]), int(self.images.shape[2]))] * len(names)
            images = prepare_batch(self.images[part], to)
            original = partial(self._original, start)
            yield ImageSet(images, names, self.classes[part], sizes=sizes, original=original)

    def _original(self, start: int, i: int) -> NDArray[np.uint8]:
        same = ImageFormat(self.images.shape[1], self.images.shape[2], 3 if self.images.shape[3:] == (3,) else 1)
        pixels: NDArray[np.uint8] = brought_to(self.images[start + i : start + i + 1], same)[0]
        return pixels


class EntrySource(Source):
    """Encoded images, wherever they are; decoded by several threads, a batch ahead of whoever takes them."""

    def __init__(self, entries: Sequence[Entry], skipped: Sequence[Skipped], where: str) -> None:
        if not entries:
            reason = f"; {skipped[0].reason}" if skipped else ""
            raise DataError(f"{where} holds no image files ({', '.join(sorted(SUFFIXES))}){reason}")
        self.entries, self.unusable, self.where = list(entries), tuple(skipped), where
        self.class_names = tuple(sorted({entry.class_name for entry in entries} - {""}))
        self.n_unlabelled = sum(not entry.class_name for entry in entries)

    def _only(self, classes: Collection[str]) -> EntrySource:
        return EntrySource([entry for entry in self.entries if entry.class_name in classes], self.unusable, self.where)

    def __getitem__(self, part: slice) -> EntrySource:
        some = copy(self)
        some.entries = self.entries[part]
        some.unusable = () if part.start else self.unusable
        return some

    def listed(self) -> Iterator[tuple[object, ...]]:
        yield from self.unusable
        yield _size_and_time(Path(self.where))  # of an archive; a folder's or a table's is no matter
        for entry in self.entries:
            file = _size_and_time(entry.content) if isinstance(entry.content, str | Path) else ()
            yield entry.name, entry.class_name, entry.page, *file

    def __len__(self) -> int:
        return len(self.entries)

    def some(self, most: int) -> EntrySource:
        return EntrySource([self.entries[i] for i in spread(len(self), most)], (), self.where)

    def headers(self) -> list[Header]:
        return _headers(self.entries)

    def infer_format(self, wanted: ImagesConfig) -> ImageFormat:
        headers = _headers(looked_at := self.some(MOST_LOOKED_AT).entries)
        if not headers:
            raise _unreadable(looked_at, self.where)
        return _format(wanted, headers, lambda: any(map(_has_colour, looked_at)))

    def original_size(self) -> tuple[int, int]:
        return _median_size(_headers(self.some(MOST_LOOKED_AT).entries))

    def batches(self, to: ImageFormat) -> Iterator[ImageSet]:
        has_masks = any(entry.mask for entry in self.entries)
        for batch in reading.read_batches(self.entries, to, self.unusable):
            classes = np.array([entry.class_name for entry in batch.entries], dtype=np.str_)
            masks = [entry.mask for entry in batch.entries] if has_masks else ()
            images = prepare_batch(batch.images, to)
            original = partial(_read_entry, batch.entries)
            yield ImageSet(images, batch.names, classes, tuple(batch.skipped), masks, batch.sizes, original)


class VideoSource(Source):
    """Frames of a video, named by their time."""

    def __init__(self, path: Path, where: str, stride: int) -> None:
        self.where, self.path, self.stride, self.first = where, path, stride, 0
        self.frames = partial(video.frames, path, stride, where)

    def __getitem__(self, part: slice) -> VideoSource:
        """From a frame on: those before it are decoded again."""
        some = copy(self)
        some.first = self.first + (part.start or 0)
        return some

    def listed(self) -> Iterator[tuple[object, ...]]:
        yield self.where, self.stride, *_size_and_time(self.path)

    def __len__(self) -> int:
        return 0

    def headers(self) -> list[Header]:
        first = next((image for _, image in self.frames()), None)
        if first is None:
            raise DataError(f"{self.where} has no frames")
        return [Header(first.shape[0], first.shape[1], is_grey(first))]

    def batches(self, to: ImageFormat) -> Iterator[ImageSet]:
        frames, start = self.frames(), self.first
        again = _FramesAgain(self.frames)
        damage: tuple[Skipped, ...] = ()
        try:
            deque(itertools.islice(frames, start), maxlen=0)
        except DataError:
            return  # the damage was one of those before
        while not damage:
            images, names, sizes = [torch.empty((0, to.channels, *to.size), dtype=torch.uint8)], [], []
            try:
                for seconds, frame in itertools.islice(frames, reading.batch_size(to)):
                    images.append(prepare_batch(frame[None], to))
                    names.append(f"{self.where}#t={video.time_stamp(seconds)}")
                    sizes.append((int(frame.shape[0]), int(frame.shape[1])))
            except DataError as error:
                damage = (Skipped(self.where, str(error)),)
            if names or damage:
                classes = np.full(len(names), "")
                original = partial(again.frame, start)
                yield ImageSet(torch.cat(images), names, classes, damage, sizes=sizes, original=original)
            if not names:
                return
            start += len(names)


class _FramesAgain:
    """Frames of a video, decoded again: in order where they are asked for in order, from the start where not."""

    def __init__(self, frames: Callable[[], Iterator[tuple[float, NDArray[np.uint8]]]]) -> None:
        self.frames, self.left, self.next = frames, frames(), 0

    def frame(self, start: int, i: int) -> NDArray[np.uint8]:
        if start + i < self.next:
            self.left, self.next = self.frames(), 0
        found = next(itertools.islice(self.left, start + i - self.next, None), None)
        if found is None:
            raise DataError(f"the video has no frame {start + i} any more")
        self.next = start + i + 1
        return found[1]


class _Buffer:
    """Images put one behind the other; in memory, or in a nameless file where they are too many."""

    def __init__(self, to: ImageFormat) -> None:
        self.shape = (-1, to.channels, *to.size)
        self.file: BinaryIO = io.BytesIO()

    def add(self, images: Tensor) -> None:
        if isinstance(self.file, io.BytesIO) and self.file.tell() + images.nbytes > MOST_IN_MEMORY:
            in_memory = self.file.getbuffer()
            self.file = tempfile.TemporaryFile(prefix="alocc-")  # noqa: SIM115  (lives as long as its mapping)
            self.file.write(in_memory)
        self.file.write(np.ascontiguousarray(images.numpy()).data)

    def images(self) -> Tensor:
        if isinstance(self.file, io.BytesIO):
            pixels = np.frombuffer(self.file.getbuffer(), np.uint8)
        else:
            with self.file as file:  # closed, the pages stay as long as they are mapped
                file.flush()
                pixels = np.memmap(file, np.uint8, "r+")
        return torch.from_numpy(pixels.reshape(self.shape))


def spread(n: int, most: int) -> NDArray[np.int64]:
    """At most so many of n indices, evenly spread."""
    few = min(n, most)
    return np.arange(few) * n // max(1, few)


def _size_and_time(path: str | Path) -> tuple[int, ...]:
    """Bytes and nanoseconds of a file's last change; nothing of what is no file."""
    with suppress(OSError):
        if stat.S_ISREG((found := os.stat(path)).st_mode):  # noqa: PTH116  (a string: there may be millions)
            return found.st_size, found.st_mtime_ns
    return ()


def _read_entry(entries: Sequence[Entry], i: int) -> NDArray[np.uint8]:
    return read_image(entries[i].content, entries[i].name, entries[i].page)


def _unreadable(entries: Sequence[Entry], where: str) -> DataError:
    """That not one of these files can be read, and why the first one cannot."""
    try:
        read_header(entries[0].content, entries[0].name, entries[0].page)
    except DataError as error:
        if len(entries) == 1:
            return error
        return DataError(f"none of the {len(entries):,} files of {where} can be read as an image; the first: {error}")
    return DataError(f"none of the {len(entries):,} files of {where} can be read as an image")


def _headers(entries: Sequence[Entry]) -> list[Header]:
    headers = []
    for entry in in_stage("reading sizes", entries):
        with suppress(DataError):  # named when it is loaded
            headers.append(read_header(entry.content, entry.name, entry.page))
    return headers


def _median_size(headers: Sequence[Header]) -> tuple[int, int]:
    height, width = (round(float(np.median(sides))) for sides in list(zip(*headers, strict=True))[:2])
    return height, width


def _has_colour(entry: Entry) -> bool:
    try:
        return not is_grey(read_image(entry.content, entry.name, entry.page))
    except DataError:
        return False


def _numbered(prefix: str, classes: NDArray[np.str_]) -> list[str]:
    """prefix/class/number, counted within each class, so that a choice of classes renames no image."""
    counters = {name: itertools.count() for name in set(classes.tolist())}
    return [f"{prefix}/{name}/{next(counters[name])}" for name in classes.tolist()]


def _format(wanted: ImagesConfig, headers: Sequence[Header], any_colour: Callable[[], bool]) -> ImageFormat:
    """What is wanted; else colour if a file says so and an image has it, and the median size.

    That is brought below what the config says, or, where images are cut, 1,024; the shorter side at least to 16, or a
    crop's.
    """
    size = wanted.size
    if size is None:
        height, width = (float(np.median(sides)) for sides in list(zip(*headers, strict=True))[:2])
        longest, shortest = (LARGEST, wanted.tile) if wanted.tile else (wanted.longest, 16)
        scale = max(min(1.0, longest / max(height, width)), shortest / min(height, width))
        size = round(height * scale), round(width * scale)
    channels = wanted.channels or (1 if all(header.grey for header in headers) or not any_colour() else 3)
    return ImageFormat(*size, channels)
