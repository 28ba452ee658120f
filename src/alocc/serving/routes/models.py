"""The models of a server: what they are, their curves and reports."""

from __future__ import annotations

import asyncio
import csv
import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from alocc.calibration import smallest_alpha
from alocc.errors import RefusedError
from alocc.serving.models import Loaded
from alocc.serving.replies import CalibrationReply, CurvesReply, HealthReply, ModelReply, ModelsReply, errors
from alocc.serving.routes.scoring import finite
from alocc.serving.station import Station, station_of

CURVES, REPORT = "history.csv", "report.html"
MOST_BYTES = 256 << 20
"""Of a report that is sent."""
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:"
)
"""A report's script may run, but has no origin: it reaches nothing of ours, and nothing outside."""

router = APIRouter(prefix="/v1/models", tags=["models"], responses=errors())
Here = Annotated[Station, Depends(station_of)]


@router.get("", summary="All models")
async def models(station: Here) -> ModelsReply:
    """All models, in the order in which they were named; the first is used where a request names none."""
    return ModelsReply(models=[await _described(station, loaded) for loaded in station.models.all()])


@router.get("/{name}", summary="One model", responses=errors(404))
async def model(station: Here, name: str) -> ModelReply:
    """One model."""
    return await _described(station, station.models.get(name))


@router.get("/{name}/curves", summary="Curves of its training", responses=errors(404))
async def curves(station: Here, name: str) -> CurvesReply:
    """Losses and watched figures of the training, column by column; an empty field is null."""
    folder = station.models.get(name).run_folder
    return CurvesReply(columns=await asyncio.to_thread(_columns, folder, name))


@router.get(
    "/{name}/report",
    summary="Report of its run folder",
    response_class=Response,
    responses={200: {"description": "A page.", "content": {"text/html": {}}}, **errors(404)},
)
async def report(station: Here, name: str) -> Response:
    """The report that `alocc report` wrote, in a sandbox."""
    folder, missing = station.models.get(name).run_folder, f"model {name} has no report; alocc report RUN writes it"
    content = await asyncio.to_thread(_read, folder, REPORT, missing)
    return Response(content, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


async def _described(station: Station, loaded: Loaded) -> ModelReply:
    number, calibration = await asyncio.to_thread(station.calibrations.current, loaded)
    date = None
    if number:
        versions = await asyncio.to_thread(station.calibrations.versions, loaded)
        date = next((row.time.isoformat() for row in versions if row.number == number), None)
    health, image_format = loaded.engine.health, loaded.engine.image_format
    return ModelReply(
        name=loaded.name,
        version=loaded.version,
        images=str(image_format),
        width=image_format.width,
        height=image_format.height,
        preset=loaded.preset,
        alpha=calibration.alpha,
        review_alpha=calibration.review_alpha,
        threshold=finite(calibration.threshold),
        smallest_alpha=smallest_alpha(calibration.n),
        health=HealthReply.model_validate(health, from_attributes=True) if health else None,
        has_maps=loaded.has_maps,
        calibration=CalibrationReply(number=number, date=date, n_images=calibration.n),
        loaded_at=loaded.loaded_at.isoformat(),
        has_curves=_has(loaded.run_folder, CURVES),
        has_report=_has(loaded.run_folder, REPORT),
        problem=station.models.problem(loaded.name),
    )


def _has(folder: Path | None, name: str) -> bool:
    return folder is not None and (folder / name).is_file()


def _columns(folder: Path | None, name: str) -> dict[str, list[float | str | None]]:
    content = _read(folder, CURVES, f"model {name} has no curves: its run folder is not here")
    text = content.decode("utf-8", "replace")
    rows = list(csv.DictReader(text.splitlines()))
    return {column: [_value(row[column]) for row in rows] for column in (rows[0] if rows else ())}


def _value(text: str | None) -> float | str | None:
    if not text:
        return None
    with suppress(ValueError):
        number = float(text)
        return number if math.isfinite(number) else None
    return text


def _read(folder: Path | None, name: str, missing: str) -> bytes:
    """A file of a run folder; a RefusedError if it is not there."""
    if folder is None:
        raise RefusedError(404, missing)
    try:
        with (folder / name).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError:
        raise RefusedError(404, missing) from None
    if len(content) > MOST_BYTES:
        raise RefusedError(404, f"{name} is too large to be sent")
    return content
