"""A station → the application that answers its requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from alocc import __version__
from alocc.errors import AloccError, BusyError, InputError, RefusedError, UnknownModelError
from alocc.serving.history import HistoryError, UnknownRowError
from alocc.serving.routes import batches, health, history, models, page, recalibration, scoring, session
from alocc.serving.station import Station
from alocc.serving.uploads import problems_in_words

STATUS: Mapping[type[AloccError], int] = {
    UnknownModelError: 404,
    UnknownRowError: 404,
    BusyError: 429,
    HistoryError: 503,
    InputError: 422,
}
"""The first that an error is one of; all others are 500."""
WENT_WRONG = "something went wrong in the server; its log says what"


def create_app(station: Station) -> FastAPI:
    """All routes, with errors in one line of JSON each. The station is closed when the application ends."""
    app = FastAPI(
        title="alocc",
        summary="Verdicts on images, their history, and recalibration from marks.",
        version=__version__,
        docs_url=None,  # they would fetch scripts from outside
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.station = station
    app.add_exception_handler(AloccError, _own_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _wrong_request)
    app.add_exception_handler(Exception, _unforeseen)
    app.include_router(scoring.router)
    app.include_router(models.router)
    app.include_router(history.router)
    app.include_router(recalibration.router)
    app.include_router(batches.router)
    app.include_router(session.router)
    app.include_router(health.router)
    app.include_router(page.router)
    return app


class Shortcut:
    """The application, in which requests to score go to their function at once.

    FastAPI's layers take about as long as an engine does with a small image. All else goes through them, and its
    OpenAPI describes this route too.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http" or scope["path"] != "/v1/score" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        scope["app"] = self._app
        request = Request(scope, receive, send)
        try:
            response: Response = await scoring.score(request)
        except AloccError as error:
            response = await _own_error(request, error)
        except HTTPException as error:
            response = await _http_error(request, error)
        return await response(scope, receive, send)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await asyncio.to_thread(app.state.station.close)


def error_reply(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as every route gives it."""
    return JSONResponse({"error": message}, status, headers)


async def _own_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RefusedError):
        return error_reply(error.status, str(error))
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, BusyError) else None
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return error_reply(status, WENT_WRONG if status == 500 else str(error), headers)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    words = {404: "there is nothing at this address", 405: "nothing here answers this method"}
    return error_reply(error.status_code, words.get(error.status_code, str(error.detail)), error.headers)


async def _wrong_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_reply(422, problems_in_words(list(error.errors())))


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    return error_reply(500, WENT_WRONG)
