"""Zips of images that a client sent: read member by member from where they are stored, within limits.

Nothing is ever unpacked to a disk, and a member's name is a text that is shown, never a path.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from alocc.data.entries import FREE_BYTES, MAX_RATIO, is_hidden, is_member, parts_of, shown, visible
from alocc.errors import DataError

MOST_IMAGES = 100_000
MOST_DIRECTORY = 16 << 20
"""Bytes of the list of members that a zip ends with: zipfile holds all of it in memory."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others may ask for gigabytes of memory to be unpacked."""
DAMAGE = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Archive:
    """The images of a zip, in the order in which it lists them; a context.

    Attributes:
        n_others: files in it that are no images, by their names; hidden ones do not count.
    """

    def __init__(self, path: Path, most_bytes: int, most_bytes_each: int) -> None:
        """Open.

        Args:
            path: of the stored zip.
            most_bytes: that all images may unpack to.
            most_bytes_each: that one may.

        Raises:
            DataError: if it is no zip, has no images or too many, or says that it unpacks to far more than its size.
        """
        self.most_bytes_each = most_bytes_each
        self._file = _Bounded(path)
        try:
            self._zip = zipfile.ZipFile(self._file)
            files = [info for info in self._zip.infolist() if not info.is_dir()]
            self._images = [info for info in files if is_member(info.filename)]
            self.n_others = sum(not is_hidden(info.filename) for info in files) - len(self._images)
            size = sum(info.file_size for info in self._images if info.file_size <= most_bytes_each)
            self._check(size, min(most_bytes, max(FREE_BYTES, MAX_RATIO * path.stat().st_size)))
        except DAMAGE as error:
            self._file.close()
            if isinstance(error, DataError):
                raise
            raise DataError("the archive is no zip that can be read") from None

    def _check(self, size: int, most: int) -> None:
        if not self._images:
            raise DataError("the archive has no images (.png, .jpg, .bmp, .tif, .webp)")
        if len(self._images) > MOST_IMAGES:
            raise DataError(f"the archive has {len(self._images):,} images; {MOST_IMAGES:,} are allowed")
        if size > most:
            raise DataError(f"the archive unpacks to {size:,} bytes; {most:,} are allowed for one of its size")

    def __len__(self) -> int:
        return len(self._images)

    def name(self, position: int) -> str:
        """What the image at a position is called, as one that is shown: no ``..``, drive or control character."""
        return visible(shown("/".join(parts_of(self._images[position].filename))))

    def read(self, position: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: if it is damaged, encrypted, a link, too large, or not what the archive says of it.
        """
        info = self._images[position]
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError("a link inside the archive")
        if info.flag_bits & 1:
            raise DataError("it is encrypted")
        if info.compress_type not in METHODS:
            raise DataError("it is packed in a way that is not allowed; pack it with deflate, as zip does")
        if info.file_size > self.most_bytes_each:
            raise DataError(f"{info.file_size:,} bytes; {self.most_bytes_each:,} are allowed")
        try:
            with self._zip.open(info) as member:
                content = member.read(self.most_bytes_each + 1)
        except DAMAGE:
            raise DataError("it is damaged inside the archive") from None
        if len(content) != info.file_size:
            raise DataError("it is damaged inside the archive")
        return content

    def __iter__(self) -> Iterator[str]:
        return map(self.name, range(len(self)))

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._zip.close()
        self._file.close()


class _Bounded(io.FileIO):
    """A file of which nobody reads much at once: zipfile would read any list of members, however long."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(min(MOST_DIRECTORY + 1 if size is None or size < 0 else size, MOST_DIRECTORY + 1)) or b""
        if len(content) > MOST_DIRECTORY:
            raise DataError("the archive lists too many members")
        return content
