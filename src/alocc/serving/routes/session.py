"""The page's way in: a token for a cookie."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import cookie_parser

from alocc.errors import RefusedError
from alocc.serving.replies import errors
from alocc.serving.security import COOKIE, COOKIE_SECONDS, Keys
from alocc.serving.station import Station, station_of

router = APIRouter(prefix="/v1/session", tags=["session"], responses=errors())
Here = Annotated[Station, Depends(station_of)]


class SessionRequest(BaseModel):
    """The token, once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(max_length=1000, examples=["a token of sixteen characters or more"])


class SessionReply(BaseModel):
    """Whether a token is needed, and whether this browser has shown it."""

    needed: bool
    valid: bool


@router.get("", summary="Is a token needed?")
async def session(request: Request, station: Here) -> SessionReply:
    """Whether the server asks for a token, and whether this browser's cookie is valid."""
    token = station.settings.token
    cookie = cookie_parser(request.headers.get("cookie", "")).get(COOKIE, "")
    return SessionReply(needed=token is not None, valid=token is None or Keys(token).is_cookie(cookie))


@router.post("", summary="Begin a session")
async def begin(asked: SessionRequest, request: Request, response: Response, station: Here) -> SessionReply:
    """Take the token, and give a cookie that scripts cannot read and other pages cannot send; it lasts seven days."""
    keys = Keys(station.settings.token)
    if not keys.is_token(asked.token):
        raise RefusedError(401, "this is not the token")
    if keys.token is not None:
        response.set_cookie(
            COOKIE, keys.new_cookie(), COOKIE_SECONDS, secure=_is_https(request), httponly=True, samesite="strict"
        )
    return SessionReply(needed=keys.token is not None, valid=True)


@router.delete("", summary="End a session")
async def end(request: Request, response: Response, station: Here) -> SessionReply:
    """Have the browser forget its cookie. Another token makes all cookies invalid."""
    response.delete_cookie(COOKIE, secure=_is_https(request), httponly=True, samesite="strict")
    needed = station.settings.token is not None
    return SessionReply(needed=needed, valid=not needed)


def _is_https(request: Request) -> bool:
    """Whether the page came encrypted, as its own origin says where a proxy does that."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
