"""Addresses: images behind https, s3, gs or whatever else fsspec speaks."""

from __future__ import annotations

import functools
import os
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from alocc.data import arrays, entries, video
from alocc.data.decoding import SUFFIXES
from alocc.data.entries import Entry, Skipped, has_suffix
from alocc.errors import AloccError, ConfigError, DataError

REDIRECT_HOSTS = "ALOCC_REDIRECT_HOSTS"  # variable: hosts, between commas, that an address may lead on to; * for any


def open_address(address: str, split: str) -> Path | tuple[list[Entry], list[Skipped]]:
    """Path of a single file, which is fetched; or images of a folder, which are fetched as they are read.

    A DataError if there is nothing there, or it cannot be reached, or lies at another host; a ConfigError if the
    library for this kind of address is not installed.
    """
    if has_suffix(address, entries.MANIFESTS):
        raise DataError(f"{address}: a table names files beside it; copy both, or give the folder")
    is_web = _is_web(address)
    try:
        files, root, options = _file_system(address)
        if has_suffix(address, (*entries.ARCHIVES, *video.SUFFIXES)) or arrays.is_array_file(Path(address)):
            import fsspec

            each = {"filecache": {"same_names": True}, address.partition("://")[0]: options}
            return Path(fsspec.open_local(f"filecache::{address}", **each))
        if has_suffix(address, tuple(SUFFIXES)):
            return entries.image_entries(address, partial(_open, address, root)), []
        top = root.rstrip("/") + "/"
        below = {name: name.removeprefix(top) for name in files.find(root) if name.startswith(top)}
    except Exception as error:  # every file system has errors of its own
        if isinstance(error, AloccError):
            raise
        raise DataError(f"{address} cannot be read ({_reason(error)})") from None
    parts = {
        name: entries.parts_of(unquote(path) if is_web else path)
        for name, path in below.items()
        if entries.is_member(path)
    }
    names = sorted(parts, key=lambda name: entries.in_order(parts[name]))
    found = [(parts[name][:-1], files.unstrip_protocol(name), partial(_open, address, name)) for name in names]
    return entries.arrange(found, address, split)


def _is_web(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _file_system(address: str) -> tuple[Any, str, dict[str, Any]]:
    """Fsspec's file system behind an address, the place in it, and its options."""
    try:
        import fsspec

        options = {"client_kwargs": {"trace_configs": [_one_host()]}} if _is_web(address) else {}
        return *fsspec.core.url_to_fs(address, **options), options
    except (ImportError, ValueError) as error:  # the latter: no such protocol
        raise ConfigError(f"{address}: {error}; for http, in the clone: pip install '.[remote]'") from None


@functools.cache
def _one_host() -> Any:
    """What makes aiohttp refuse to be sent to another host: who trusts an address need not trust all that it names."""
    import aiohttp
    import yarl

    async def check(session: Any, context: Any, params: Any) -> None:
        headers = params.response.headers
        to = params.url.join(yarl.URL(headers.get("Location") or headers.get("URI", ""))).host
        allowed = [host.strip() for host in os.environ.get(REDIRECT_HOSTS, "").split(",")]
        if to != params.url.host and to not in allowed and "*" not in allowed:
            params.response.close()
            raise DataError(f"{params.url} leads to another host, {to}; to allow that, set {REDIRECT_HOSTS}={to}")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    return trace


def _reason(error: Exception) -> str:
    """Our own words where there are any, be they hidden behind "not found"."""
    ours = next((one for one in (error, error.__cause__) if isinstance(one, AloccError)), None)
    return str(ours or f"{type(error).__name__}: {error}")


def _open(address: str, name: str) -> BinaryIO:
    """A file of the file system behind an address, in any process; fsspec keeps one of each system."""
    try:
        files, _, _ = _file_system(address)
        return cast(BinaryIO, files.open(name, "rb"))
    except Exception as error:
        raise OSError(_reason(error)) from None
