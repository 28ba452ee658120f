"""``/v1/history`` and ``/v1/marks``: what was scored, and what people say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from alocc.calibration import map_threshold
from alocc.errors import RefusedError
from alocc.scoring.table import BOX_COLUMNS, csv_text
from alocc.serving.history import Filter, ImageRow, MarkedRow, MarkEvent
from alocc.serving.images import Upload, decode, image_png, map_png
from alocc.serving.replies import errors
from alocc.serving.station import Station, settled, station_of

router = APIRouter(tags=["history"], dependencies=[Depends(settled)], responses=errors())
Here = Annotated[Station, Depends(station_of)]
Mark = Literal["false alarm", "missed", "confirmed"]
COLUMNS = (*(field.name for field in fields(ImageRow) if field.name != "regions"), *BOX_COLUMNS)
"""Of the CSV file; the box is that of the strongest region."""
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A picture.", "content": {"image/png": {}}},
    **errors(404, 410),
}
DOWNLOAD = {"Content-Disposition": "attachment"}


class Page(BaseModel):
    """Images of the history, the newest first."""

    rows: list[ImageRow]
    next: str | None = Field(description="`before` of the next page; null: this is the last one")
    total: int = Field(description="images that meet the conditions, as they were counted at the first page")


class Entry(BaseModel):
    """An image of the history, and everything that was done to its mark."""

    image: ImageRow
    marks: list[MarkEvent]


class MarkRequest(BaseModel):
    """What somebody says of an image."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"mark": "false alarm", "comment": "only dust"}]}
    )

    mark: Mark | None = Field(description="null takes the mark away")
    comment: str = Field("", max_length=1000)


class UndoRequest(BaseModel):
    """Which mark to take back."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"event": 1}]})

    event: int | None = Field(None, ge=1, lt=2**31, description="of the reply to the mark; null: the last of all")


class Undone(BaseModel):
    """What was taken back."""

    image: ImageRow | None = Field(description="as it is now; null: no mark is left to take back")


def _filter(
    model: str | None = None,
    version: str | None = None,
    verdict: Literal["normal", "can't tell", "anomalous", "unusable"] | None = None,
    mark: Mark | Literal["unmarked"] | None = None,
    text: Annotated[str | None, Query(max_length=200, description="a part of the name, in any case")] = None,
    since: datetime | None = None,
    until: datetime | None = None,
    batch: str | None = None,
) -> Filter:
    return Filter(model, version, verdict, mark, text, _aware(since), _aware(until), batch)


Wanted = Annotated[Filter, Depends(_filter)]


@router.get("/v1/history", summary="A page of the history")
def page(
    station: Here,
    wanted: Wanted,
    before: Annotated[str | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page:
    """Images that meet all conditions, the newest first, a page at a time."""
    rows, following, total = station.history.find(wanted, before, limit)
    return Page(rows=rows, next=following, total=total)


@router.get(
    "/v1/history.csv",
    summary="The history as CSV",
    response_class=StreamingResponse,
    responses={200: {"description": "A table.", "content": {"text/csv": {}}}},
)
def as_csv(station: Here, wanted: Wanted) -> StreamingResponse:
    """The same images as a table, without regions but with the box of the strongest one."""
    lines = csv_text(map(_flat, station.history.export(wanted)), COLUMNS)
    return StreamingResponse(_joined(lines), media_type="text/csv; charset=utf-8", headers=DOWNLOAD)


@router.get(
    "/v1/history.jsonl",
    summary="The history as JSON lines",
    response_class=StreamingResponse,
    responses={200: {"description": "An object a line.", "content": {"application/x-ndjson": {}}}},
)
def as_json_lines(station: Here, wanted: Wanted) -> StreamingResponse:
    """The same images, one JSON object a line, with their regions."""
    lines = (f"{json.dumps(_plain(row), ensure_ascii=False)}\n" for row in station.history.export(wanted))
    return StreamingResponse(_joined(lines), media_type="application/x-ndjson", headers=DOWNLOAD)


@router.get("/v1/history/{id}", summary="One image", responses=errors(404))
def entry(station: Here, id: str) -> Entry:
    """One image with the story of its mark."""
    return Entry(image=station.history.get(id), marks=station.history.marks_of(id))


@router.get("/v1/history/{id}/image", summary="Its picture", response_class=Response, responses=PICTURE)
def picture(station: Here, id: str) -> Response:
    """The image itself, upright, encoded anew; 410 if it is not kept."""
    row = station.history.get(id)
    upload, size = _kept(station, row)
    return Response(image_png(upload, size), media_type="image/png")


@router.get("/v1/history/{id}/map", summary="Its map", response_class=Response, responses=PICTURE)
def picture_of_map(station: Here, id: str) -> Response:
    """The colours of its map, transparent, to lie over it; 410 if the image or the model is no longer there."""
    row = station.history.get(id)
    upload, size = _kept(station, row)
    loaded = next((one for one in station.models.all() if (one.name, one.version) == (row.model, row.version)), None)
    if loaded is None or not loaded.has_maps:
        raise RefusedError(410, "the model that scored this image is no longer used, or makes no maps")
    engine = loaded.engine
    pixels = decode(upload, engine.image_format, station.settings.limits.pixels).pixels
    found, maxima = engine.score(pixels[None], maps=True).anomaly_map, engine.map_maxima
    assert found is not None
    assert maxima is not None
    return Response(map_png(found[0], map_threshold(maxima, row.alpha), size), media_type="image/png")


@router.put("/v1/history/{id}/mark", summary="Mark an image", responses=errors(404))
def mark(station: Here, id: str, said: MarkRequest) -> MarkedRow:
    """Say that an image was a false alarm, missed or rightly called, or take that away; `event` takes this back."""
    return station.history.mark(id, said.mark, said.comment)


@router.post("/v1/marks/undo", summary="Take back a mark", responses=errors(404, 409))
def undo(station: Here, asked: UndoRequest | None = None) -> Undone:
    """Take back a mark by its event, or without one the last of all, whoever set it; again: the one before.

    409 if the event is not the last one of its image any more.
    """
    return Undone(image=station.history.undo(asked.event if asked else None))


def _kept(station: Station, row: ImageRow) -> tuple[Upload, tuple[int, int]]:
    """A kept image, with its height and width."""
    content = station.kept.get(row.sha256) if row.kept else None
    if content is None or row.height is None or row.width is None:
        raise RefusedError(410, "this image is not kept")
    return Upload(row.name, content), (row.height, row.width)


def _plain(row: ImageRow) -> dict[str, Any]:
    return asdict(row) | {"time": row.time.isoformat()}


def _flat(row: ImageRow) -> dict[str, Any]:
    box = row.regions[0].get("box") or {} if row.regions else {}
    return _plain(row) | {column: box.get(column.removeprefix("box_")) for column in BOX_COLUMNS}


def _joined(lines: Iterator[str], size: int = 1 << 16) -> Iterator[str]:
    """The same text in larger pieces: each costs a switch between threads."""
    piece, length = [], 0
    for line in lines:
        piece.append(line)
        length += len(line)
        if length >= size:
            yield "".join(piece)
            piece, length = [], 0
    yield "".join(piece)


def _aware(moment: datetime | None) -> datetime | None:
    """A moment without a zone is meant in UTC."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
