"""Whether the server lives and can work, and its figures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from alocc.serving.replies import AliveReply, ReadyReply, errors
from alocc.serving.station import Station, station_of

router = APIRouter(tags=["health"])
Here = Annotated[Station, Depends(station_of)]


@router.get("/healthz", summary="Does the process answer?", responses=errors())
async def healthz() -> AliveReply:
    """The process lives."""
    return AliveReply(status="ok")


@router.get(
    "/readyz",
    summary="Can work be done?",
    responses={**errors(), 503: {"model": ReadyReply, "description": "What is wrong."}},
)
async def readyz(station: Here, response: Response) -> ReadyReply:
    """Models are loaded, the history answers, the disk can be written; looked at once a second at most."""
    problems = await station.readiness.problems()
    response.status_code = 503 if problems else 200
    return ReadyReply(status="failing" if problems else "ok", problems=problems)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}, **errors()},
)
async def metrics(station: Here) -> Response:
    """Latency, queue, scores, verdicts, refused requests and the share that is called, of each model."""
    return Response(station.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
