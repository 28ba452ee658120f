"""A station → the application that answers its requests."""

from __future__ import annotations

from fastapi import FastAPI

from alocc.serving.station import Station


def create_app(station: Station) -> FastAPI:
    """All routes, with errors in one line of JSON each."""
    app = FastAPI(title="alocc", docs_url=None, redoc_url=None)
    app.state.station = station
    return app
