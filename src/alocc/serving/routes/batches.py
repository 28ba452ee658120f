"""Batches of images in the background: start one, watch it, fetch its results."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import Response

from alocc.errors import RefusedError
from alocc.scoring.table import WRITERS
from alocc.serving.batches import ZIP, Batches, room
from alocc.serving.history import BatchRow, Filter, State
from alocc.serving.replies import ID, errors
from alocc.serving.station import Options
from alocc.serving.uploads import problems_in_words

FIELD = "archive"
"""Of a form."""
ZIPS = ("application/zip", "application/x-zip-compressed", "application/octet-stream")
MOST_ADDRESSES = 10_000


@asynccontextmanager
async def working(app: FastAPI) -> AsyncIterator[None]:
    """The worker lives as long as the application, and ends before the station does."""
    batches = Batches(app.state.station)
    await asyncio.to_thread(batches.start)
    app.state.batches = batches
    yield
    await asyncio.to_thread(batches.close)


def batches_of(request: Request) -> Batches:
    """What works on batches; routes depend on it."""
    batches: Batches = request.app.state.batches
    return batches


router = APIRouter(prefix="/v1/batches", tags=["batches"], responses=errors(), lifespan=working)
Here = Annotated[Batches, Depends(batches_of)]


class BatchOptions(BaseModel):
    """What is wanted of a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, max_length=200, description="Name of a model; the first one if left out.")
    alpha: float | None = Field(
        None, gt=0, lt=1, allow_inf_nan=False, description="False-positive rate; the model's if left out."
    )
    review_alpha: float | None = Field(
        None,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Up to here an image is for a person; 0: none is.",
    )
    keep: bool | None = Field(None, description="Whether the images are kept; if left out, as the server does.")


class AddressesRequest(BatchOptions):
    """Images behind addresses, all below a prefix that the operator allowed."""

    addresses: list[str] = Field(
        min_length=1, max_length=MOST_ADDRESSES, examples=[["https://example.org/parts/17.png"]]
    )


class BatchStarted(BaseModel):
    """A batch that was accepted."""

    id: str = Field(examples=[ID])


class BatchReply(BaseModel):
    """A batch, and how far it is."""

    id: str = Field(examples=[ID])
    time: str = Field(description="When it was accepted, UTC.")
    model: str = Field(examples=["run"])
    state: State
    done: int = Field(description="Images that are in the history, unusable ones included.")
    total: int | None
    other_files: int = Field(
        description="Files in the archive that are no images by their names and not hidden; 0 of older batches."
    )
    error: str | None = Field(description="Why it failed.")
    finished: str | None = Field(description="When it ended, UTC.")


class BatchWithVerdicts(BatchReply):
    """A batch with what came out so far."""

    verdicts: dict[str, int] = Field(description="Images of each verdict, and unusable ones.")


class BatchesReply(BaseModel):
    """The newest batches, the newest first."""

    batches: list[BatchReply]


_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "required": [FIELD], "properties": {FIELD: _FILE}}


@router.post(
    "",
    status_code=202,
    summary="Judge many images in the background",
    responses=errors(404, 415, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _FORM},
                "application/zip": {"schema": _FILE},
                "application/json": {"schema": AddressesRequest.model_json_schema()},
            },
        }
    },
)
async def add(request: Request, batches: Here, options: Annotated[BatchOptions, Query()]) -> BatchStarted:
    """Take a zip, in a form or as the whole body, with options in the address; or JSON with addresses and options."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        batch = await _add_addresses(request, batches)
    elif kind == "multipart/form-data":
        batch = await _add_form(request, batches, _as_options(options))
    elif kind in ZIPS:
        batch = await _add_body(request, batches, _as_options(options))
    else:
        raise RefusedError(415, "the body must be multipart/form-data, application/zip or application/json")
    return BatchStarted(id=batch.id)


@router.get("", summary="The newest batches")
async def listed(batches: Here) -> BatchesReply:
    """The newest batches, the newest first."""
    rows = await asyncio.to_thread(batches.history.batches)
    return BatchesReply(batches=[BatchReply(**_described(row)) for row in rows])


@router.get("/{id}", summary="One batch", responses=errors(404))
async def one(batches: Here, id: str) -> BatchWithVerdicts:
    """One batch, how far it is, and how many images have which verdict so far."""
    row = await asyncio.to_thread(batches.history.batch, id)
    counts: dict[str, int] = {}
    for (verdict, _), n in (await asyncio.to_thread(batches.history.counts, Filter(batch=row.id))).items():
        counts[verdict or "unusable"] = counts.get(verdict or "unusable", 0) + n
    return BatchWithVerdicts(**_described(row), verdicts=counts)


@router.post("/{id}/cancel", summary="End a batch", responses=errors(404))
async def cancel(batches: Here, id: str) -> BatchReply:
    """End a batch; what is scored stays in the history. One that has ended stays as it is."""
    return BatchReply(**_described(await asyncio.to_thread(batches.cancel, id)))


@router.get(
    "/{id}/results.csv",
    summary="Its results, as CSV",
    response_class=Response,
    responses={200: {"description": "A table.", "content": {"text/csv": {}}}, **errors(404, 410)},
)
async def results_csv(batches: Here, id: str) -> Response:
    """What is scored so far, in the order of the batch, in the columns of `alocc score`.

    The header X-Batch-State says whether that is all: done. Else the file's name ends in -partial.
    """
    return await _table(batches, id, ".csv", "text/csv; charset=utf-8")


@router.get(
    "/{id}/results.parquet",
    summary="Its results, as Parquet",
    response_class=Response,
    responses={
        200: {"description": "A table.", "content": {"application/vnd.apache.parquet": {}}},
        **errors(404, 410, 501),
    },
)
async def results_parquet(batches: Here, id: str) -> Response:
    """The same as Parquet; the server needs pyarrow for it."""
    return await _table(batches, id, ".parquet", "application/vnd.apache.parquet")


async def _table(batches: Batches, id: str, suffix: str, media_type: str) -> Response:
    state = (await asyncio.to_thread(batches.history.batch, id)).state  # before: what is done then still is
    content = await asyncio.to_thread(_written, batches, id, suffix)
    name = f"batch-{id[:12]}{'' if state == 'done' else '-partial'}{suffix}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Batch-State": state}
    return Response(content, media_type=media_type, headers=headers)


def _written(batches: Batches, id: str, suffix: str) -> bytes:
    columns, rows = batches.results(id)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"results{suffix}"
        try:
            WRITERS[suffix](path, iter(rows), columns)
        except ImportError:
            raise RefusedError(501, "Parquet needs pyarrow where the server runs; fetch results.csv") from None
        return path.read_bytes()


async def _add_addresses(request: Request, batches: Batches) -> BatchRow:
    if request.query_params:
        raise RefusedError(422, "with JSON, options go into the body beside the addresses")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > batches.limits.body_bytes:
            raise RefusedError(413, f"the body of this request is larger than {batches.limits.body_bytes:,} bytes")
    try:
        asked = AddressesRequest.model_validate_json(bytes(body))
    except ValidationError as error:
        raise RefusedError(422, problems_in_words(error.errors())) from None
    return await asyncio.to_thread(batches.add_addresses, asked.addresses, _as_options(asked))


async def _add_form(request: Request, batches: Batches, options: Options) -> BatchRow:
    async with _incoming(batches) as path:  # first: of whoever has to wait, nothing is stored
        with room():
            form = await request.form(max_files=1, max_fields=1)
        try:
            file = form.get(FIELD)
            if set(form) != {FIELD} or not isinstance(file, UploadFile):
                raise RefusedError(422, f'a form has one file, named "{FIELD}"; options go into the address')
            with room():
                await asyncio.to_thread(_copy, file, path)
        finally:
            await form.close()
        return await asyncio.to_thread(batches.add_archive, path, options)


async def _add_body(request: Request, batches: Batches, options: Options) -> BatchRow:
    async with _incoming(batches) as path:
        with room(), path.open("xb") as stored:
            async for piece in request.stream():
                await asyncio.to_thread(stored.write, piece)
        return await asyncio.to_thread(batches.add_archive, path, options)


@asynccontextmanager
async def _incoming(batches: Batches) -> AsyncIterator[Path]:
    """Where an archive may be stored; it counts as a batch from now on."""
    incoming = batches.incoming(ZIP)
    path = await asyncio.to_thread(incoming.__enter__)
    try:
        yield path
    finally:
        await asyncio.to_thread(incoming.__exit__, None, None, None)


def _copy(file: UploadFile, path: Path) -> None:
    with path.open("xb") as stored:
        shutil.copyfileobj(file.file, stored, 1 << 20)


def _as_options(asked: BatchOptions) -> Options:
    return Options(asked.model, asked.alpha, asked.review_alpha, keep=asked.keep, source="batch")


def _described(row: BatchRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "time": row.time.isoformat(),
        "model": row.model,
        "state": row.state,
        "done": row.done,
        "total": row.total,
        "other_files": row.job.get("other_files", 0),  # batches of an older alocc do not say
        "error": row.error,
        "finished": row.finished.isoformat() if row.finished else None,
    }
