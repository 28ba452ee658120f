"""Entries → arrays of one format, decoded by threads a batch ahead of whoever takes them. NumPy and Pillow alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alocc.data.decoding import read_brought_to, read_image
from alocc.data.entries import Entry, Skipped
from alocc.data.resizing import ImageFormat
from alocc.errors import DataError

BATCH = 256  # images that are decoded, and then wait, together; a second batch is decoded meanwhile


class Batch(NamedTuple):
    """Some images of one format, and some that could not be used."""

    entries: Sequence[Entry]  # those that could be read
    images: NDArray[np.uint8]  # theirs: (n, H, W, C)
    skipped: Sequence[Skipped]
    sizes: Sequence[tuple[int, int]] = ()  # height and width of each image before it was resized

    @property
    def names(self) -> list[str]:
        """Of the images that could be read."""
        return [entry.name for entry in self.entries]

    @property
    def classes(self) -> list[str]:
        """Of the same; "" where there is none."""
        return [entry.class_name for entry in self.entries]

    def reader(self, i: int) -> Callable[[], NDArray[np.uint8]]:
        """Reads the i-th image as it was before it was resized; if it is no longer there, it comes as it is here."""
        entry = self.entries[i]
        resized: NDArray[np.uint8] = self.images[i].copy()  # no other image stays in memory for it

        def read() -> NDArray[np.uint8]:
            try:
                return read_image(entry.content, entry.name, entry.page)
            except DataError:
                return resized

        return read


def read_batches(entries: Sequence[Entry], to: ImageFormat, unusable: Sequence[Skipped] = ()) -> Iterator[Batch]:
    """Decode and resize in order, the next batch meanwhile; first come images known to be unusable."""
    nothing = np.empty((0, *to.size, to.channels), np.uint8)
    if unusable:
        yield Batch((), nothing, unusable)

    def read(entry: Entry) -> tuple[NDArray[np.uint8], tuple[int, int]] | Skipped:
        try:
            return read_brought_to(entry.content, entry.name, entry.page, to)
        except DataError as error:
            return Skipped(entry.name, str(error))

    size = batch_size(to)
    pool = ThreadPoolExecutor()  # Pillow decodes outside the interpreter's lock
    try:
        ahead = pool.map(read, entries[:size])
        for start in range(0, len(entries), size):
            results, ahead = list(ahead), pool.map(read, entries[start + size : start + 2 * size])
            pairs = list(zip(entries[start : start + size], results, strict=True))
            good = [(entry, *read_as) for entry, read_as in pairs if not isinstance(read_as, Skipped)]
            images = np.stack([image for _, image, _ in good]) if good else nothing
            skipped = [one for one in results if isinstance(one, Skipped)]
            yield Batch([entry for entry, _, _ in good], images, skipped, [size for *_, size in good])
    finally:
        pool.shutdown(cancel_futures=True)


def batch_size(to: ImageFormat) -> int:
    """``BATCH`` images, or fewer large ones, so that a batch has about 32 MiB."""
    return min(BATCH, max(8, (32 << 20) // (to.channels * to.height * to.width)))


def check_strict(strict: bool, skipped: Sequence[Skipped]) -> None:
    """Where the user asked for that, refuse images that cannot be used: a DataError with the first one's reason."""
    if strict and skipped:
        raise DataError(f"{skipped[0].reason}; leave --strict out to go on without such images")


def none_usable(skipped: Sequence[Skipped]) -> DataError:
    """The error of a source of which not one image can be used."""
    first = f"; the first: {skipped[0].reason}" if skipped else ""
    return DataError(f"none of the {len(skipped)} images can be used{first}")
