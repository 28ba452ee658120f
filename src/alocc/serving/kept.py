"""The bytes of images that are kept, in files named by their SHA-256, and how long they and their rows are kept."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from alocc.errors import ArtefactError, DataError
from alocc.serving.history import History, now
from alocc.storage import TEMPORARY, replacing

SHA256 = re.compile("[0-9a-f]{64}")
FOLDER = re.compile("[0-9a-f]{2}")
TOGETHER = 200
"""Files that are removed while nobody can keep one."""
ABANDONED = 3600.0
"""Seconds after which a temporary file is one that a killed process left."""


class _File(NamedTuple):
    used: float
    """When its image was last kept, seconds since 1970."""
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Freed:
    """What retention removed."""

    n_files: int = 0
    n_bytes: int = 0
    n_rows: int = 0


class Kept:
    """Files ``ab/ab…`` in a folder: the same bytes are there once, however often they came."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made before the first image comes."""
        self.folder = folder
        self._lock = threading.Lock()

    def put(self, sha256: str, content: bytes) -> None:
        """Keep an image's bytes, whose SHA-256 is given.

        Raises:
            ArtefactError: if the folder cannot be written.
        """
        path = self._path(sha256)
        with self._lock:
            with suppress(OSError):
                if self.get(sha256) is not None:
                    os.utime(path)  # it is as young as if it were new
                    return
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ArtefactError(f"{path.parent} cannot be made ({error.strerror or error})") from None
            with replacing(path) as draft:
                draft.write_bytes(content)

    def get(self, sha256: str) -> bytes | None:
        """An image's bytes; none if they are no longer here, or are other ones by now."""
        try:
            content = self._path(sha256).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None

    def prune(self, history: History, older_than: datetime, most_bytes: float) -> Freed:
        """Remove files that nobody kept since a moment, and the oldest ones beyond so many bytes, and note it.

        Only files of ours count, and only they are removed.
        """
        gone, total = [], 0
        for file in sorted(self._files(), reverse=True):
            total += file.n_bytes
            if file.used < older_than.timestamp() or total > most_bytes:
                gone.append(file)
        freed = Freed()
        for start in range(0, len(gone), TOGETHER):
            removed = self._remove(history, gone[start : start + TOGETHER])
            freed = Freed(freed.n_files + len(removed), freed.n_bytes + sum(file.n_bytes for file in removed))
        return freed

    def _remove(self, history: History, files: list[_File]) -> list[_File]:
        """Remove files, unless they were kept again meanwhile."""
        with self._lock:
            old = [file for file in files if _used(self._path(file.sha256)) == file.used]
            history.let_go([file.sha256 for file in old])  # first: a row must not promise what is gone
            removed = []
            for file in old:
                with suppress(OSError):  # what cannot be removed stays, and is tried again
                    self._path(file.sha256).unlink()
                    removed.append(file)
        return removed

    def _files(self) -> Iterator[_File]:
        """Files of ours; drafts of processes that were killed are removed on the way."""
        for folder in _entries(self.folder):
            if not (FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False)):
                continue
            for entry in _entries(folder.path):
                with suppress(OSError):
                    state = entry.stat(follow_symlinks=False)
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    if SHA256.fullmatch(entry.name) and entry.name.startswith(folder.name):
                        yield _File(state.st_mtime, state.st_size, entry.name)
                    elif _is_draft(entry.name) and state.st_mtime < time.time() - ABANDONED:
                        Path(entry.path).unlink()

    def _path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise DataError("an image is kept under 64 hexadecimal digits of its SHA-256")
        return self.folder / sha256[:2] / sha256


def retain(history: History, kept: Kept, keep_days: float, keep_gb: float) -> Freed:
    """Remove images and rows that are older than so many days, and the oldest images beyond so many gigabytes.

    Rows of images that somebody ever marked stay, and so do those of batches under way.
    """
    earliest = now() - timedelta(days=min(keep_days, 300_000))
    freed = kept.prune(history, earliest, keep_gb * 1e9)
    return Freed(freed.n_files, freed.n_bytes, history.prune(earliest))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _used(path: Path) -> float | None:
    with suppress(OSError):
        return path.stat().st_mtime
    return None


def _is_draft(name: str) -> bool:
    found = TEMPORARY.fullmatch(name)
    return bool(found and SHA256.fullmatch(found[1]))
