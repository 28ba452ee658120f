"""Images in, verdicts out; and the verdicts of everybody, as they come."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response, StreamingResponse

from alocc.errors import RefusedError
from alocc.serving.history import ImageRow
from alocc.serving.judging import Judged
from alocc.serving.replies import ScoreReply, errors
from alocc.serving.station import Station, station_of
from alocc.serving.uploads import openapi_of_score, read_uploads

PATIENCE = 15.0
"""Seconds of silence after which a watcher is told that the server is still there."""

router = APIRouter(tags=["scoring"])


@router.post(
    "/v1/score",
    summary="Judge images",
    response_class=Response,
    responses={200: {"model": ScoreReply, "description": "Verdicts."}, **errors(404, 415)},
    openapi_extra=openapi_of_score(),
)
async def score(request: Request) -> Response:
    """Judge one image, the whole body, or several, in a form or in JSON.

    Of several images, those that cannot be used say why in `error`; if not one can be used, the reply is an error.
    """
    started = time.perf_counter()
    station = station_of(request)
    uploads, options = await read_uploads(request, station.settings.limits)
    judged = await station.judge(uploads, options)
    if not any(one.row.error is None for one in judged):
        first = judged[0].row.error
        several = f"not one of {len(judged)} images can be used; the first: " if len(judged) > 1 else ""
        raise RefusedError(422, f"{several}{first}")
    body = json.dumps(_reply(judged), ensure_ascii=False, separators=(",", ":")).encode()
    station.metrics.took(time.perf_counter() - started)
    return Response(body, media_type="application/json")


@router.get(
    "/v1/events",
    summary="Watch verdicts as they come",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Server-sent events, a row of the history each.", "content": {"text/event-stream": {}}},
        **errors(),
    },
)
async def events(station: Annotated[Station, Depends(station_of)]) -> StreamingResponse:
    """Rows of the history from now on, each as an event with JSON: id, name, model, time, verdict, score, p-value."""

    async def lines() -> AsyncIterator[str]:
        yield ": watching\n\n"
        async for row in station.feed.watch(PATIENCE):
            yield f"data: {json.dumps(_event(row))}\n\n" if row else ": still here\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _reply(judged: Sequence[Judged]) -> dict[str, Any]:
    first = judged[0].row
    return {
        "model": {"name": first.model, "version": first.version, "calibration": first.calibration},
        "alpha": first.alpha,
        "review_alpha": first.review_alpha,
        "threshold": finite(judged[0].threshold),
        "images": [_image(one) for one in judged],
    }


def _image(judged: Judged) -> dict[str, Any]:
    row = judged.row
    return {
        "id": row.id,
        "name": row.name,
        "verdict": row.verdict,
        "anomaly_score": row.anomaly_score,
        "p_value": row.p_value,
        "width": row.width,
        "height": row.height,
        "box": row.regions[0]["box"] if row.regions else None,
        "regions": row.regions,
        "map": _base64(judged.map_png),
        "overlay": _base64(judged.overlay),
        "error": row.error,
    }


def _event(row: ImageRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "model": row.model,
        "time": row.time.isoformat(),
        "source": row.source,
        "verdict": row.verdict,
        "anomaly_score": row.anomaly_score,
        "p_value": row.p_value,
        "alpha": row.alpha,
        "error": row.error,
    }


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
