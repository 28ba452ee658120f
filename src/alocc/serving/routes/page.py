"""The page's files: read once from the package, sent whole, or not at all where the browser has them already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from alocc.errors import RefusedError

TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Suffixes of the page's files; nothing else is sent."""
START = "index.html"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str
    """Its quoted SHA-256, shortened: another file has another one."""


@router.get("/")
@router.head("/")
def start(request: Request) -> Response:
    """The page."""
    return _answer(request, START)


@router.get("/page/{name:path}")
@router.head("/page/{name:path}")
def part(request: Request, name: str) -> Response:
    """A script, the style or a picture of the page."""
    return _answer(request, name)


@cache
def page_files() -> Mapping[str, PageFile]:
    """Every file of the page by its name, ``views/inspect.js``. A client's name is looked up here, never opened."""
    return dict(_walk(files("alocc.serving").joinpath("page"), ""))


def _walk(folder: Traversable, before: str) -> Iterator[tuple[str, PageFile]]:
    for entry in folder.iterdir():
        name = before + entry.name
        suffix = name[name.rfind(".") :]
        if entry.is_dir():
            yield from _walk(entry, f"{name}/")
        elif suffix in TYPES:
            content = entry.read_bytes()
            yield name, PageFile(content, TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _answer(request: Request, name: str) -> Response:
    found = page_files().get(name)
    if found is None:
        raise RefusedError(404, "the page has no such file")
    headers = {"ETag": found.etag, "Cache-Control": "no-cache"}  # kept, but asked for at each visit: 304 while it holds
    known = (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(","))
    if found.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
