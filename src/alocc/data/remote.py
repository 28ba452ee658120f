"""Addresses: images behind https, s3, gs or whatever else fsspec speaks."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from alocc.data import arrays, video
from alocc.data.entries import ARCHIVES, MANIFESTS, Entry, Skipped, class_of, has_suffix, is_image_name
from alocc.errors import ConfigError, DataError


def is_address(data: object) -> bool:
    """Whether a data argument is an address, not a path."""
    return isinstance(data, str) and "://" in data


def open_address(address: str) -> Path | tuple[list[Entry], list[Skipped]]:
    """A single file is fetched, and its path returned; a folder is listed, and its images are fetched as they are read.

    Raises:
        DataError: if there is nothing there, or it cannot be reached.
        ConfigError: if the library for this kind of address is not installed.
    """
    try:
        import fsspec

        files, root = fsspec.core.url_to_fs(address)
        if has_suffix(address, (*ARCHIVES, *video.SUFFIXES, *MANIFESTS)) or arrays.is_array_file(Path(address)):
            if has_suffix(address, MANIFESTS):
                raise DataError(f"{address}: a table names files beside it; copy both, or give the folder")
            return Path(fsspec.open_local(f"filecache::{address}", filecache={"same_names": True}))
        if is_image_name(posixpath.basename(address)):
            return [Entry(address, _opener(files, root))], []
        found = sorted(name for name in files.find(root) if is_image_name(posixpath.basename(name)))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{address}: {error}; for http install alocc[remote]") from None
    except Exception as error:  # every file system has errors of its own
        if isinstance(error, DataError):
            raise
        raise DataError(f"{address} cannot be read ({type(error).__name__}: {error})") from None
    return [
        Entry(files.unstrip_protocol(name), _opener(files, name), class_of(posixpath.relpath(name, root).split("/")))
        for name in found
    ], []


def _opener(files: Any, name: str) -> Callable[[], BinaryIO]:
    def read() -> BinaryIO:
        try:
            return cast(BinaryIO, files.open(name, "rb"))
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from None

    return read
