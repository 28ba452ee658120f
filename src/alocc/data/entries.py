"""Where encoded images lie → entries: one for each image, named, with its class, and opened only when it is read.

A folder, a glob, a list of files (manifest), an archive and a remote place differ only in how their images are found.
Entries can be pickled, whatever they open, so that another process can read them.
All but a manifest are in one order (:func:`in_order`); all but a manifest and a glob may have parts (:func:`arrange`).
"""

from __future__ import annotations

import bz2
import csv
import difflib
import functools
import glob
import gzip
import io
import lzma
import os
import re
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from alocc.data.decoding import SUFFIXES, Content, count_pages
from alocc.errors import AloccError, ConfigError, DataError

Opener = Callable[[], BinaryIO]
Folders = tuple[str, ...]
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
COMPRESSED: Mapping[bytes, Callable[[Path, str], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
"""How a tar file that begins like this is unpacked, whatever its name."""
MANIFESTS = (".csv", ".tsv", ".parquet")
KINDS = (
    f"a folder, an image, a pattern ('parts/**/*.png'), a table ({', '.join(MANIFESTS)}), an archive (.zip, .tar), "
    "a video, an array file (.npy, .npz, IDX), an address (https://…)"
)
"""What DATA may be, for whoever gave something else: the table in :mod:`alocc.data.sources`, in short."""
COLUMNS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img"),
    "label": ("class", "class_name", "category", "target"),
    "split": ("set", "subset", "partition", "phase"),
    "mask": ("mask_path", "ground_truth", "segmentation"),
}
"""Columns of a manifest, and what others call them: such a column is asked about, not passed over."""
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
"""How the parts of a source may be called, in any case."""
DAMAGE = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError, zlib.error,
          lzma.LZMAError)  # fmt: skip
"""What damaged archives raise."""
MAX_BYTES = 500_000_000  # a member of an archive that says it is larger is not unpacked
MAX_RATIO, FREE_BYTES = 100, 100_000_000  # an archive may unpack to so many times its own size, and to so much anyway
MASKS = "ground_truth"
"""Folder of the masks in the layout of industrial sets: train/good, test/good, test/<defect>, ground_truth/<defect>."""
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line ends among them, and those that turn the direction of writing."""


class Skipped(NamedTuple):
    """An image that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One encoded image."""

    name: str  # what people know it by: its path, with the archive's path or the page number where it has one
    content: Content  # where its bytes are
    class_name: str = ""
    page: int = 0
    mask: Path | None = None  # an image that is not black where the anomaly is


Images = tuple[list[Entry], list[Skipped]]  # those of a source, and what cannot be used of it


def in_order(parts: Sequence[str]) -> list[tuple[bool, str, str]]:
    """Sort key of a path: files before folders; numbers in names by their value, or as text where equally wide."""

    def by_value(number: re.Match[str]) -> str:
        digits = number[0].lstrip("0")
        return f"0{chr(len(digits))}{digits}"  # a digit, as before; then the longer number is the larger one

    return [(depth < len(parts), re.sub("[0-9]+", by_value, name), name) for depth, name in enumerate(parts, start=1)]


def arrange(found: Sequence[tuple[Folders, str, Content]], where: str, split: str) -> Images:
    """Entries of the folders, name and content of each file; its class is the first folder, or the first in its part.

    A source has parts if it has folders called train and test, spelled as in ``SPLITS``, or no other than one of them.
    Training images that stand alone are used whatever is asked for; files in no part are skipped, masks passed over.
    A DataError if there are test images alone, and those to train on are asked for.
    """
    tops = {(*folders, "")[0] for folders, _, _ in found}
    part_of = {top: MASKS if top.lower() == MASKS else SPLITS.get(top.lower(), "") for top in tops}
    parts = {"train", "test"} & set(part_of.values())
    has_parts = len(parts) == 2 or (len(parts) == 1 and "" not in part_of.values())
    if has_parts and split == "train" and parts == {"test"}:
        raise DataError(f"{where} has a folder of test images and none of training images; give that folder itself")
    asked = split if split in parts else "train"
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for folders, name, content in found:
        part = part_of[(*folders, "")[0]]
        if not has_parts or part == asked:
            entries += image_entries(name, content, class_of(folders[1:] if has_parts else folders))
        elif not part:
            skipped.append(Skipped(name, f"{name} lies beside the folders of training and test images"))
    return entries, skipped


def folder_entries(root: Path, split: str) -> Images:
    """Image files below a folder, in order, but for hidden ones; links are followed, but no folder entered twice."""
    found: list[tuple[Folders, str, Content]] = []
    skipped: list[Skipped] = []
    visited = {root.resolve()}

    def refuse(error: OSError) -> None:
        name = shown(error.filename)
        skipped.append(Skipped(name, f"{name} cannot be read ({error.strerror})"))

    for folder, sub_folders, files in os.walk(root, onerror=refuse, followlinks=True):
        names = sorted((name for name in sub_folders if not name.startswith(".")), key=lambda name: in_order([name]))
        fresh = [path for name in names if (path := Path(folder, name)).resolve() not in visited]
        visited.update(path.resolve() for path in fresh)
        sub_folders[:] = [path.name for path in fresh]
        folders = Path(folder).relative_to(root).parts
        for name in sorted(filter(is_image_name, files), key=lambda name: in_order([name])):
            content = str(Path(folder, name))  # a string: there may be millions
            found.append((folders, shown(content), content))
    entries, beside = arrange(found, shown(root), split)
    masks = next((folders[0] for folders, _, _ in found if folders and folders[0].lower() == MASKS), None)
    if masks and len({entry.content for entry in entries}) < len(found):  # else it is a class
        entries = [replace(entry, mask=_mask_of(entry, root, masks)) for entry in entries]
    return entries, skipped + beside


def _mask_of(entry: Entry, root: Path, masks: str) -> Path | None:
    """A mask is ground_truth/<defect>/<name of its image>, with or without ``_mask``."""
    path = Path(str(entry.content))
    names = (f"{path.stem}{tail}{suffix}" for tail in ("_mask", "") for suffix in (".png", path.suffix))
    folder = root.joinpath(masks, *path.relative_to(root).parts[1:-1][:1])
    return next((mask for name in names if (mask := _spelled(folder, name))), None)


def image_entries(name: str, content: Content, class_name: str = "") -> list[Entry]:
    """The entry of one encoded image; of a TIFF of several pages, one a page."""
    pages = count_pages(content) if has_suffix(name, (".tif", ".tiff")) else 1
    if pages == 1:
        return [Entry(name, content, class_name)]
    return [Entry(f"{name}#page={page}", content, class_name, page) for page in range(pages)]


def file_entries(path: Path, class_name: str = "") -> list[Entry]:
    """:func:`image_entries` of a file."""
    return image_entries(shown(str(path)), str(path), class_name)


def glob_entries(pattern: str) -> list[Entry]:
    """Files that a pattern matches (``**`` goes down folders); the class is the first folder below the fixed part."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    matches = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
    found = {path.relative_to(fixed).parts: path for path in matches if is_image_name(path.name) and not path.is_dir()}
    return [
        entry for parts in sorted(found, key=in_order) for entry in file_entries(found[parts], class_of(parts[:-1]))
    ]


def manifest_entries(manifest: Path, split: str) -> Images:
    """Images that a table names: columns path, and optionally label, split and mask; paths are relative to the table.

    A label may be a number, a truth value or a date: its text is the class. A line without a split is in each.
    A DataError if the table cannot be read, has no column ``path``, calls one of the four otherwise, as far as can be
    guessed, or names no images of the split; a ConfigError if the library that reads Parquet is missing.
    """
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    others: Counter[str] = Counter()
    for number, row in _rows(manifest):
        name, label, part, mask = (_text(row.get(column)) for column in COLUMNS)
        line, part = f"{manifest} line {number}", part.strip()
        if part and SPLITS.get(part.lower()) != split:
            others[part] += 1
            if part.lower() not in SPLITS:
                skipped.append(Skipped(name, f'{line}: {name!r} is of the split "{part}", neither train nor test'))
        elif None in row:
            skipped.append(Skipped(name, f"{line}: it has more cells than the table has columns"))
        elif not (path := _spelled(manifest.parent, name)):
            skipped.append(Skipped(name.strip() or f"{manifest}:{number}", f"{line}: no file {name.strip()!r}"))
        else:
            mask_path = (_spelled(manifest.parent, mask) or manifest.parent / mask) if mask.strip() else None
            found = file_entries(path, class_of([label.strip()]))
            entries.extend(replace(entry, mask=mask_path) for entry in found)
    if others and not entries:
        listed = ", ".join(f"{part} ({n:,})" for part, n in others.items())
        raise DataError(f"{manifest} names no {split} images that can be used; its splits: {listed}")
    if not entries and not skipped:
        raise DataError(f"{manifest} names no images; a table has a column path, and a line for each image")
    return entries, skipped


def archive_entries(archive: Path, where: str, split: str) -> Images:
    """Images in a zip or tar file, read from there one by one; a single folder around everything does not count.

    A DataError if the archive cannot be read, or would unpack to far more than its own size.
    """
    try:
        most = max(FREE_BYTES, MAX_RATIO * archive.stat().st_size)
        found = (_zip_members if archive.suffix.lower() == ".zip" else _tar_members)(archive, most)
        members = sorted(((parts_of(name), name, content) for name, content in found), key=lambda one: in_order(one[0]))
    except _TooMuchError:
        raise DataError(
            f"{where} unpacks to more than the {most:,} bytes that are allowed for its size; "
            "if you trust it, unpack it and give the folder"
        ) from None
    except DAMAGE as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{where} cannot be read as an archive ({reason})") from None
    around = {parts[0] for parts, _, _ in members if len(parts) > 2}
    depth = 1 if len(around) == 1 and all(len(parts) > 2 for parts, _, _ in members) else 0
    images = [(parts[depth:-1], shown(f"{where}/{name}"), content) for parts, name, content in members]
    return arrange(images, where, split)


def find_entries(path: Path, where: str, split: str, built_in: Sequence[str] = ()) -> Images:
    """Images of a folder, pattern, table, archive or file at ``path``, called ``where`` in names and errors.

    A DataError if there is none, or it cannot be read; it asks whether one of the data sets ``built_in`` was meant.
    """
    if not where:
        raise DataError("DATA is empty; is a variable not set? Give . for the working directory")
    if not path.exists():
        if glob.has_magic(str(path)):
            if not (entries := glob_entries(str(path))):
                raise DataError(f"{where} matches no image files ({', '.join(sorted(SUFFIXES))})")
            return entries, []
        near = difflib.get_close_matches(where, built_in, n=1)
        kinds = f"{KINDS} or {', '.join(built_in)}" if built_in else "a folder or a file"
        hint = f'did you mean "{near[0]}"?' if near else f"give {kinds}"
        raise DataError(f"{where} does not exist; {hint}")
    if path.is_dir():
        return folder_entries(path, split)
    if not path.is_file():  # a pipe or a device, which would be waited for without end
        raise DataError(f"{where} is neither an ordinary file nor a folder")
    if has_suffix(path, ARCHIVES):
        return archive_entries(path, where, split)
    if has_suffix(path, MANIFESTS):
        return manifest_entries(path, split)
    return file_entries(path), []


def class_of(folders: Sequence[str]) -> str:
    """The first of the folders on the way to an image; an é is one letter, however Unicode spells it."""
    return unicodedata.normalize("NFC", shown(folders[0])) if folders else ""


def check_classes(asked: Collection[str] | None, known: Sequence[str], where: str) -> None:
    """Refuse classes that are not there: a DataError with the name that comes nearest, and all that there are."""
    if asked is not None and not asked:
        raise DataError("no class is named; leave the classes out to take all")
    for name in asked or ():
        if class_of([name]) not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'did you mean "{near[0]}"? ' if near else ""
            listed = f"its classes are: {', '.join(known)}" if known else "it has no classes (sub-folders, or labels)"
            raise DataError(f'{where} has no class "{name}"; {hint}{listed}')


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as text that any file can hold: bytes of a name that are no UTF-8 are written ``\xff``."""
    plain = os.fsencode(path).decode("utf-8", "backslashreplace")
    return path if path == plain and isinstance(path, str) else plain  # the same string: there may be millions


def visible(text: str) -> str:
    r"""Text that a terminal shows and does not obey: control characters are written ``\x1b``."""
    return UNPRINTABLE.sub(lambda control: control[0].encode("unicode_escape").decode(), text)


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its suffix; hidden files are none."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def parts_of(name: str) -> Folders:
    """Folders and name of an archive's member; some programs write backslashes, ./ or a drive."""
    parts = name.replace("\\", "/").split("/")
    return tuple(part for part in parts if part not in ("", ".", "..") and not part.endswith(":")) or ("",)


def is_member(name: str) -> bool:
    """Whether a member is an image, and neither it nor a folder on its way is hidden."""
    return is_image_name(parts_of(name)[-1]) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a member, or a folder on its way, has a name that begins with a dot."""
    return any(part.startswith(".") for part in parts_of(name))


def has_suffix(path: str | Path, suffixes: Sequence[str]) -> bool:
    """Whether a name ends in one of several suffixes, some of which have two dots."""
    return str(path).lower().endswith(tuple(suffixes))


def _rows(manifest: Path) -> Iterator[tuple[int, Mapping[str | None, object]]]:
    """Lines and their numbers; cells have the names in ``COLUMNS``, and those beyond the last column the name None."""
    try:
        if has_suffix(manifest, (".parquet",)):
            with _open_parquet(manifest) as file:
                columns = _columns(manifest, file.schema_arrow.names)
                rows = file.read(list(columns)).rename_columns(list(columns.values())).to_pylist()
            yield from enumerate(rows, start=2)
            return
        with manifest.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.DictReader(text, delimiter="\t" if has_suffix(manifest, (".tsv",)) else ",")
            columns = _columns(manifest, lines.fieldnames or ())
            for row in lines:
                yield lines.line_num, {columns.get(name, name): cell for name, cell in row.items()}
    except AloccError:
        raise
    except (*DAMAGE, csv.Error) as error:
        raise DataError(f"{manifest} cannot be read as a table of images ({error})") from None


def _open_parquet(manifest: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ConfigError(f"{manifest} needs pyarrow; install it with: pip install pyarrow") from None
    return ParquetFile(manifest)


def _columns(manifest: Path, names: Sequence[str]) -> dict[str, str]:
    """What the table calls a column → its name in ``COLUMNS``."""
    plain = [(name, name.strip("\ufeff \t").lower()) for name in names]
    found: dict[str, str] = {}
    for column, others in COLUMNS.items():
        own = [name for name, word in plain if word == column]
        if len(own) > 1:
            raise DataError(f"{manifest} has {len(own)} columns called {column}; leave one")
        meant = (n for n, word in plain if word in others or difflib.get_close_matches(word, [column], cutoff=0.8))
        if own:
            found[own[0]] = column
        elif other := next(meant, None):
            raise DataError(f'{manifest} has a column "{other}" and none called {column}; rename it, or leave it out')
        elif column == "path" and names:
            raise DataError(f"{manifest} has no column path; its columns: {', '.join(names)}")
    return found


def _text(cell: object) -> str:
    """What a cell of a table says; nothing where it is empty or not a number."""
    if cell is None or cell != cell:  # noqa: PLR0124
        return ""
    return cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else str(cell)


def _spelled(folder: Path, name: str) -> Path | None:
    """What a name stands for in a folder, but for blanks around it, the kind of slash and Unicode's form; else none."""
    spellings = [name, name.strip(), name.strip().replace("\\", "/")] if name.strip() else []
    forms = (unicodedata.normalize(form, one) for form in ("NFC", "NFD") for one in spellings)
    return next((path for one in (*spellings[:1], *forms) if os.path.lexists(path := folder / one)), None)


class _TooMuchError(Exception):
    """An archive unpacks to more than it may."""


def _zip_members(archive: Path, most: int) -> Iterator[tuple[str, Opener]]:
    file = _ZipFile(archive)  # open as long as an entry is; its reads may come from several threads
    members = [info for info in file.infolist() if not info.is_dir() and is_member(info.filename)]
    if sum(info.file_size for info in members if info.file_size <= MAX_BYTES) > most:
        raise _TooMuchError
    for info in members:
        yield info.filename, partial(_open_member, partial(file.read, info), info.file_size)


def _tar_members(archive: Path, most: int) -> Iterator[tuple[str, Opener]]:
    """Members with their offsets: an uncompressed tar is read in place, a compressed one is unpacked into memory."""
    with archive.open("rb") as file:
        is_packed = file.read(2) in COMPRESSED
    unpacked = _unpack(archive, most) if is_packed else None
    read = partial(_read_unpacked, unpacked) if unpacked else partial(_read_file, archive.absolute())
    with tarfile.open(None if unpacked else archive, "r:", unpacked) as members:
        for member in members:
            if not member.isdir() and is_member(member.name):
                is_whole = member.isreg() and not member.issparse()  # a sparse one unpacks to more than there is of it
                content = partial(read, member.offset_data, member.size)
                yield member.name, partial(_open_member, content, member.size, is_whole)


def _unpack(archive: Path, most: int) -> _Unpacked:
    unpacked = _Unpacked()
    with archive.open("rb") as file:
        unpack = COMPRESSED[file.read(2)]
    with unpack(archive, "rb") as stream:
        while unpacked.write(stream.read(1 << 20)):
            if unpacked.tell() > most:
                raise _TooMuchError
    unpacked.seek(0)
    unpacked.again = (archive.absolute(), most, archive.stat().st_mtime_ns)
    return unpacked


def _read_unpacked(unpacked: io.BytesIO, start: int, size: int) -> memoryview:
    return unpacked.getbuffer()[start : start + size]


def _read_file(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


class _ZipFile(zipfile.ZipFile):
    """Another process opens it again, once for all entries that it is sent."""

    def __reduce__(self) -> tuple[Any, ...]:
        path = Path(str(self.filename)).absolute()
        return _zip_file_again, (path, path.stat().st_mtime_ns)


class _Unpacked(io.BytesIO):
    """An archive that was unpacked into memory; another process does it again, once."""

    again: tuple[Path, int, int]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack_again, self.again


@functools.lru_cache(maxsize=2)
def _zip_file_again(path: Path, _written: int) -> _ZipFile:
    return _ZipFile(path)


@functools.lru_cache(maxsize=1)
def _unpack_again(path: Path, most: int, _written: int) -> _Unpacked:
    return _unpack(path, most)


def _open_member(read: Callable[[], bytes | memoryview], size: int, is_whole: bool = True) -> BinaryIO:
    """A member of an archive in memory."""
    if not is_whole:
        raise OSError("a link or a hole inside an archive")
    if size > MAX_BYTES:
        raise OSError(f"{size:,} bytes; {MAX_BYTES:,} are allowed")
    return io.BytesIO(read())
