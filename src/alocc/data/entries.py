"""Where encoded images lie → entries: one for each image, named, with its class, and opened only when it is read.

A folder, a glob, a list of files (manifest), an archive and a remote place differ in nothing but how their entries are
found; :class:`alocc.data.sources.EntrySource` does the rest.
"""

from __future__ import annotations

import csv
import difflib
import glob
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from alocc.data.decoding import SUFFIXES, count_pages
from alocc.errors import DataError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MANIFESTS = (".csv", ".tsv", ".parquet")
MULTIPAGE = (".tif", ".tiff")
DAMAGE = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError, zlib.error,
          lzma.LZMAError)  # fmt: skip
"""What damaged archives raise."""
MAX_BYTES = 500_000_000
"""A member of an archive that says it is larger is not unpacked."""
MASKS = "ground_truth"
"""Folder of the masks in the layout of industrial sets: train/good, test/good, test/<defect>, ground_truth/<defect>."""


class Skipped(NamedTuple):
    """An image that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One encoded image."""

    name: str
    """What people know it by: its path, with the archive's path or the page number where it has one."""
    content: str | Callable[[], BinaryIO]
    """Where its bytes are."""
    class_name: str = ""
    page: int = 0
    split: str = ""
    """"train" or "test" where the source says so."""
    mask: Path | None = None
    """An image that is not black where the anomaly is."""

    @property
    def is_anomalous(self) -> bool | None:
        """Known only where there is a mask."""
        return True if self.mask else None


def folder_entries(root: Path) -> tuple[list[Entry], list[Skipped]]:
    """Image files below a folder, sorted; the class is the first sub-folder on the way.

    Links are followed, but no folder is entered twice. Hidden files and folders are passed over.
    """
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    visited = {root.resolve()}

    def refuse(error: OSError) -> None:
        name = shown(error.filename)
        skipped.append(Skipped(name, f"{name} cannot be read ({error.strerror})"))

    for folder, sub_folders, files in os.walk(root, onerror=refuse, followlinks=True):
        inside = [Path(folder, name) for name in sorted(sub_folders) if not name.startswith(".")]
        fresh = [path for path in inside if path.resolve() not in visited]
        visited.update(path.resolve() for path in fresh)
        sub_folders[:] = [path.name for path in fresh]
        class_name = class_of((*Path(folder).relative_to(root).parts, ""))  # one string for all images of a folder
        for name in sorted(files):
            if is_image_name(name):
                entries.extend(file_entries(Path(folder, name), class_name))
    return entries, skipped


def file_entries(path: Path, class_name: str = "") -> list[Entry]:
    """One image file; a TIFF with several pages is one entry a page."""
    pages = count_pages(path) if path.suffix.lower() in MULTIPAGE else 1
    content = str(path)
    name = shown(content)
    if pages == 1:
        return [Entry(name, content, class_name)]
    return [Entry(f"{name}#page={page}", content, class_name, page) for page in range(pages)]


def glob_entries(pattern: str) -> list[Entry]:
    """Files that a pattern matches (``**`` goes down folders); the class is the first folder below the fixed part."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    matches = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
    found = sorted(path for path in matches if not path.is_dir())
    entries = []
    for path in found:
        if is_image_name(path.name):
            entries.extend(file_entries(path, class_of(path.relative_to(fixed).parts)))
    return entries


def industrial_entries(root: Path, split: str) -> tuple[list[Entry], list[Skipped]] | None:
    """One part of the layout of industrial sets, or none if ``root`` is not laid out like that.

    Masks lie in ground_truth/<defect>/ and are named like their image, with or without ``_mask``.
    """
    if not ((root / "train").is_dir() and (root / "test").is_dir()):
        return None
    entries, skipped = folder_entries(root / split)
    masks = root / MASKS

    def mask_of(entry: Entry) -> Path | None:
        path = Path(str(entry.content))
        candidates = (f"{path.stem}{tail}{suffix}" for tail in ("_mask", "") for suffix in (".png", path.suffix))
        found = (masks / entry.class_name / name for name in candidates)
        return next((mask for mask in found if mask.is_file()), None)

    return [replace(entry, split=split, mask=mask_of(entry)) for entry in entries], skipped


def manifest_entries(manifest: Path) -> tuple[list[Entry], list[Skipped]]:
    """Images that a table names: columns path, and optionally label, split and mask; paths are relative to the table.

    Raises:
        DataError: if the table cannot be read or has no column ``path``.
    """
    rows = _rows(manifest)
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for number, row in enumerate(rows, start=2):
        if "path" not in row:
            raise DataError(f"{manifest} has no column path; its columns: {', '.join(map(str, row))}")
        name, label, split, mask = (str(row.get(key) or "").strip() for key in ("path", "label", "split", "mask"))
        path = manifest.parent / name
        if not name or not _exists(path):
            skipped.append(Skipped(name or f"{manifest}:{number}", f"{manifest} line {number}: no file {name!r}"))
            continue
        mask_path = manifest.parent / mask if mask else None
        entries.extend(replace(entry, split=split, mask=mask_path) for entry in file_entries(path, label))
    return entries, skipped


def archive_entries(archive: Path) -> list[Entry]:
    """Images in a zip or tar file, read from there one by one; a single folder around everything does not count.

    Raises:
        DataError: if the archive cannot be read.
    """
    try:
        found = _zip_members(archive) if archive.suffix.lower() == ".zip" else _tar_members(archive)
        members = sorted(found, key=lambda member: member[0])
    except DAMAGE as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{archive} cannot be read as an archive ({reason})") from None
    paths = [PurePosixPath(name).parts for name, _ in members]
    around = {parts[0] for parts in paths} if paths and min(map(len, paths)) > 2 else set()
    depth = 1 if len(around) == 1 else 0
    return [
        Entry(shown(f"{archive}/{name}"), content, class_of(parts[depth:]))
        for (name, content), parts in zip(members, paths, strict=True)
    ]


def find_entries(path: Path, where: str, split: str, built_in: Sequence[str] = ()) -> tuple[list[Entry], list[Skipped]]:
    """Images of a folder, a pattern, a table, an archive or a file.

    Args:
        path: where they are.
        where: what to call that in errors.
        split: which part of a source that has parts.
        built_in: names of data sets, one of which may have been meant.

    Raises:
        DataError: if there is no such thing, or it cannot be read.
    """
    if not path.exists():
        if glob.has_magic(str(path)):
            return glob_entries(str(path)), []
        near = difflib.get_close_matches(where, built_in, n=1)
        choices = (
            f"give a folder, an image file or one of: {', '.join(built_in)}" if built_in else "give a folder or a file"
        )
        hint = f'did you mean "{near[0]}"?' if near else choices
        raise DataError(f"{where} does not exist; {hint}")
    if path.is_dir():
        return industrial_entries(path, split) or folder_entries(path)
    if not path.is_file():  # a pipe or a device, which would be waited for without end
        raise DataError(f"{where} is neither an ordinary file nor a folder")
    if has_suffix(path, ARCHIVES):
        return archive_entries(path), []
    if has_suffix(path, MANIFESTS):
        entries, skipped = manifest_entries(path)
        return [entry for entry in entries if entry.split in (split, "")], skipped
    return file_entries(path), []


def class_of(parts: Sequence[str]) -> str:
    """Class of an image from its path below the source."""
    return shown(parts[0]) if len(parts) > 1 else ""


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as text that any file can hold: bytes of a name that are no UTF-8 are written ``\xff``."""
    plain = os.fsencode(path).decode("utf-8", "backslashreplace")
    return path if path == plain and isinstance(path, str) else plain  # the same string: there may be millions


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its suffix; hidden files are none."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def has_suffix(path: str | Path, suffixes: Sequence[str]) -> bool:
    """Whether a name ends in one of several suffixes, some of which have two dots."""
    return str(path).lower().endswith(tuple(suffixes))


def _rows(manifest: Path) -> list[Mapping[str, object]]:
    try:
        if manifest.suffix.lower() == ".parquet":
            try:
                import pyarrow.parquet
            except ImportError:
                raise DataError(f"{manifest} needs pyarrow; install it with: pip install 'alocc[parquet]'") from None
            rows: list[Mapping[str, object]] = pyarrow.parquet.read_table(manifest).to_pylist()
            return rows
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t" if manifest.suffix.lower() == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{manifest} cannot be read as a table of images ({error})") from None


def _zip_members(archive: Path) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    file = zipfile.ZipFile(archive)  # open as long as an entry is; its reads may come from several threads

    def opener(info: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
        def read() -> BinaryIO:
            if info.file_size > MAX_BYTES:
                raise _too_large(info.file_size)
            try:
                return io.BytesIO(file.read(info))
            except (*DAMAGE, RuntimeError) as error:  # the last: encrypted
                raise OSError(str(error)) from None

        return read

    for info in file.infolist():
        if not info.is_dir() and is_image_name(PurePosixPath(info.filename).name):
            yield info.filename, opener(info)


def _tar_members(archive: Path) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    """Members with their offsets: an uncompressed tar is read in place, a compressed one is unpacked into memory."""
    plain = archive.suffix.lower() == ".tar"

    def refused(error: OSError) -> Callable[[], BinaryIO]:
        def read() -> BinaryIO:
            raise error

        return read

    def from_place(offset: int, size: int) -> Callable[[], BinaryIO]:
        def read() -> BinaryIO:
            with archive.open("rb") as file:
                file.seek(offset)
                return io.BytesIO(file.read(size))

        return read

    def from_memory(content: bytes) -> Callable[[], BinaryIO]:
        return lambda: io.BytesIO(content)

    with tarfile.open(archive) as file:
        for member in file:
            if member.isdir() or not is_image_name(PurePosixPath(member.name).name):
                continue
            if not member.isfile():
                yield member.name, refused(OSError("a link inside an archive"))
            elif member.size > MAX_BYTES:
                yield member.name, refused(_too_large(member.size))
            elif plain:
                yield member.name, from_place(member.offset_data, member.size)
            else:
                stream = file.extractfile(member)
                assert stream is not None  # of a file there is one
                yield member.name, from_memory(stream.read())


def _too_large(size: int) -> OSError:
    return OSError(f"{size:,} bytes; {MAX_BYTES:,} are allowed")


def _exists(path: Path) -> bool:
    """Whether there is anything at a path; no path that the system refuses to look at."""
    try:
        return path.exists() or path.is_symlink()
    except OSError:
        return False
