"""Who may ask, and how much: pure ASGI, before and around everything that answers.

In this order: the path, the name that the server is called by (DNS rebinding), the page that asks (cross-site
requests), how often, the token, how many at once; then the size and time of the body while it is read, and headers of
the answer. docs/security.md lists what is refused, with the test of each.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alocc.data.entries import visible
from alocc.errors import ConfigError
from alocc.serving.logs import Log
from alocc.serving.settings import Limits, Settings

SHORTEST_TOKEN = 16
COOKIE, COOKIE_SECONDS = "alocc_session", 7 * 24 * 3600
HEALTH = frozenset({"/healthz", "/readyz"})
SESSION, SESSION_BYTES = "/v1/session", 4096
PAGE = "/page/"
OPEN = frozenset({"/", SESSION, *HEALTH})
"""Paths that need no token, besides those below :data:`PAGE`."""
ARCHIVES = "/v1/batches"
"""Where bodies may be as large as an archive."""
EVENTS = "/v1/events"
"""Answers that last as long as a page is open; they are counted apart."""
SAFE = frozenset({"GET", "HEAD"})
METHODS = "GET, HEAD, POST, PUT, DELETE"
SECRET_PARAMETERS = re.compile(rb"(?:^|[&;])(?:access_|api_|auth_)?(?:token|key)=", re.IGNORECASE)
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]/@]+)(?::\d{1,5})?", re.IGNORECASE)
ODD_PATH = re.compile(r"//|\\|[\x00-\x1f\x7f]|/\.\.?(?:/|$)")
LINGER_SECONDS = 2.0
"""In which the rest of a refused body is thrown away: a client that is still sending would not read the answer."""
SEND_SECONDS = 60.0
"""In which a client takes a piece of an answer."""
MOST_CLIENTS = 10_000
"""Whose requests are counted at once."""

Pairs = list[tuple[bytes, bytes]]


def _encoded(headers: Mapping[str, str]) -> Pairs:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; frame-src 'self'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=(), payment=(), usb=()",
}
"""Of every answer that has not its own."""
OF_ALL = _encoded(HEADERS)


class Refusal(Exception):  # noqa: N818  (an answer, not an error of ours)
    """A request that is not passed on, and what it is told."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def check_exposure(settings: Settings, *, without_token: bool = False) -> None:
    """Refuse to be reached from other machines by whoever likes, and settings that would let in more than they say.

    Args:
        settings: of the server.
        without_token: whether the operator said so in words (``--no-token``).

    Raises:
        ConfigError: if another machine could use the server without a token, the token is short or cannot be sent in a
            header, or an allowed host or origin is none.
    """
    token = settings.token
    if token is not None and (len(token) < SHORTEST_TOKEN or not re.fullmatch(r"[!-~]+", token)):
        raise ConfigError(
            f"the token must have at least {SHORTEST_TOKEN} characters, letters, digits and signs without spaces; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    if token is None and not without_token and not _is_loopback(settings.host):
        raise ConfigError(
            f"--host {settings.host} is reached from other machines: give --token-file FILE, "
            "or --no-token if whoever reaches it may use it"
        )
    for name in settings.hosts:
        if not (match := HOST.fullmatch(name)) or match[1] != name:
            raise ConfigError(f"--allow-host {name} is no host; give a name or an address, without scheme and port")
    for origin in settings.origins:
        if not re.fullmatch(r"https?://[^/?#@\s*]+", origin):
            raise ConfigError(f"--allow-origin {origin} is no origin; give one like https://example.org:8443")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Keys:
    """The token, and the cookie that a page gets for it: when it ends, signed with the token. Nothing is stored.

    Another token makes all cookies of the one before invalid.
    """

    def __init__(self, token: str | None) -> None:
        self.token = token

    def is_token(self, text: str) -> bool:
        """Whether it is the token, in a time that does not depend on where it differs."""
        return self.token is None or hmac.compare_digest(_digest(text), _digest(self.token))

    def new_cookie(self) -> str:
        """The value of a cookie for who knows the token."""
        expires = str(int(time.time()) + COOKIE_SECONDS)
        return f"{expires}.{self._signature(expires)}"

    def is_cookie(self, text: str) -> bool:
        """Whether a cookie was made for this token and is not too old."""
        expires, _, signature = text.partition(".")
        if not hmac.compare_digest(_digest(signature), _digest(self._signature(expires))):
            return False
        return expires.isdecimal() and time.time() < int(expires)

    def _signature(self, expires: str) -> str:
        return hmac.new((self.token or "").encode(), f"alocc session {expires}".encode(), "sha256").hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()  # of one length, which says nothing


class Rates:
    """Requests a second of each client: a bucket of tokens that fills again, and holds those of two seconds."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.clock = per_second, clock
        self.most = max(1.0, 2 * per_second)
        self._buckets: dict[str, tuple[float, float]] = {}
        """Client → tokens, and when that was; the one that came longest ago first."""

    def wait(self, client: str) -> float:
        """Seconds after which the client may come again; 0: it may now, and did."""
        if not self.per_second:
            return 0.0
        now = self.clock()
        left, then = self._buckets.pop(client, (self.most, now))
        left = min(self.most, left + (now - then) * self.per_second)
        wait = 0.0 if left >= 1 else (1 - left) / self.per_second
        self._buckets[client] = (left if wait else left - 1, now)
        if len(self._buckets) > MOST_CLIENTS:
            del self._buckets[next(iter(self._buckets))]
        return wait


class Slots:
    """Requests under way; of one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one for as long as the block lasts; a :class:`Refusal` if there are enough."""
        if self.taken >= self.most:
            raise Refusal(429, f"{self.most} requests are under way; come again", retry_after="1")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Guard:
    """The application as others may use it."""

    def __init__(self, app: ASGIApp, settings: Settings, log: Log) -> None:
        self.app, self.log, self.limits = app, log, settings.limits
        self.keys = Keys(settings.token)
        self.origins = frozenset(origin.lower() for origin in settings.origins)
        self.is_local = _is_loopback(settings.host)
        self.hosts = {"localhost", "127.0.0.1", "[::1]", *map(str.lower, (settings.host, *settings.hosts))}
        if not self.is_local:
            self.hosts.add(socket.gethostname().lower())
        self.rates = Rates(settings.limits.per_second)
        self.requests, self.events, self.guests = (Slots(settings.limits.requests) for _ in range(3))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse; a line in the log."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        exchange = Exchange(scope, receive, send, self.limits)
        exchange.extra = _encoded(self._cross_origin(exchange.headers))  # of refusals too: their page may read why
        try:
            self.check(scope, exchange.headers)
            if exchange.refusal:  # by its length, before a byte is read
                raise exchange.refusal
            if self._is_preflight(scope, exchange.headers):
                await exchange.answer(204, b"", {})
            else:
                with self._slot(scope["path"]):
                    await self.app(scope, exchange.receive, exchange.send)
                if exchange.refusal:
                    raise exchange.refusal
        except _GoneError:
            pass
        except Exception as error:
            refusal = error if isinstance(error, Refusal) else exchange.refusal
            if not refusal and not exchange.is_gone:
                self.log.failure("failure", error, id=exchange.id, path=visible(scope["path"]))
            await exchange.refuse(
                refusal or Refusal(500, f"something failed here; the log says more, at {exchange.id}")
            )
        finally:
            self.log.note("request", **exchange.summary())
        return None

    def _slot(self, path: str) -> AbstractContextManager[None]:
        """What a request takes up: whoever has no token takes nothing from those who have."""
        if path in HEALTH:
            return nullcontext()
        slots = self.events if path == EVENTS else self.guests if _is_open(path) else self.requests
        return slots.one()

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raise a :class:`Refusal` unless this request may be answered."""
        if sum(len(name) + len(value) for name, value in headers.raw) > 64 << 10:
            raise Refusal(431, "the head of this request is too long")
        if ODD_PATH.search(scope["path"]):
            raise Refusal(400, "this path is not valid")
        self._check_host(headers)
        self._check_site(scope, headers)
        client = scope["client"][0] if scope.get("client") else ""  # what X-Forwarded-For says is anybody's
        if wait := self.rates.wait(_network(client)):
            raise Refusal(429, "too many requests; come again", retry_after=str(int(wait) + 1))
        if SECRET_PARAMETERS.search(scope["query_string"]):
            raise Refusal(400, "a token in an address ends in logs; send it as Authorization: Bearer TOKEN")
        if self.keys.token is not None and not self._is_preflight(scope, headers):
            self._check_token(scope, headers)

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding: a page of another name, which leads here, has that name in its requests."""
        given = headers.getlist("host")
        match = HOST.fullmatch(given[0]) if len(given) == 1 else None
        if not match:
            raise Refusal(400, "a request must have one Host header")
        name = match[1].lower()
        if name not in self.hosts and (self.is_local or not _is_address(name)):
            raise Refusal(421, "this server is not known by this name; whoever started it may add --allow-host NAME")

    def _check_site(self, scope: Scope, headers: Headers) -> None:
        """Against pages of others that send requests in their reader's name: browsers say where they come from."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin.lower() in self.origins:
            return
        is_ours = origin is None or origin.lower() in {
            f"{way}://{headers['host'].lower()}" for way in ("http", "https")
        }
        is_visit = scope["method"] in SAFE and headers.get("sec-fetch-mode") == "navigate"
        is_near = site in (None, "same-origin", "none") or (is_visit and not scope["path"].startswith("/v1/"))
        if not (is_near and (is_ours or scope["method"] in SAFE)):
            raise Refusal(403, "a page of another server sent this; whoever started this one may add --allow-origin")

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        if _is_open(scope["path"]):
            return
        given = headers.getlist("authorization")
        if given:
            scheme, _, token = given[0].partition(" ")
            if len(given) == 1 and scheme.lower() == "bearer" and self.keys.is_token(token.strip()):
                return
        elif self.keys.is_cookie(cookie_parser(headers.get("cookie", "")).get(COOKIE, "")):
            if scope["method"] in SAFE or "origin" in headers or headers.get("sec-fetch-site") == "same-origin":
                return
            raise Refusal(403, "a request with the page's cookie must say where it comes from (Origin)")
        raise Refusal(401, "a token is needed: Authorization: Bearer TOKEN", www_authenticate="Bearer")

    def _is_preflight(self, scope: Scope, headers: Headers) -> bool:
        """Whether a browser asks if a page of an allowed origin may send what it wants to."""
        asks = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        return asks and headers.get("origin", "").lower() in self.origins

    def _cross_origin(self, headers: Headers) -> dict[str, str]:
        """What lets a page of an allowed origin read the answer; cookies are not for them."""
        if not self.origins:
            return {}
        if (origin := headers.get("origin", "")).lower() not in self.origins:
            return {"vary": "Origin"}
        return {
            "vary": "Origin",
            "access-control-allow-origin": origin,
            "access-control-allow-methods": METHODS,
            "access-control-allow-headers": "Authorization, Content-Type",
            "access-control-expose-headers": "X-Batch-State, X-Request-Id, Retry-After",
            "access-control-max-age": "600",
        }


def _is_open(path: str) -> bool:
    """Whether it needs no token."""
    return path in OPEN or path.startswith(PAGE)


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False


def _network(client: str) -> str:
    """Whose requests are counted together: an address; of IPv6 the network, all of which one client has."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4 or address.ipv4_mapped:
        return client
    return str(ipaddress.ip_network((address, 64), strict=False))


class _GoneError(Exception):
    """The client does not take its answer."""


class Exchange:
    """One request and its answer: what is read within limits, what is sent with headers."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.id = secrets.token_hex(8)
        self.headers = Headers(scope=scope)
        self.extra: Pairs = []
        """Further headers of the answer."""
        self.refusal: Refusal | None = None
        """Of the body, while it was read: whatever the application answers, it is this."""
        self.is_gone = False
        """Whether the client went away before its body was there: nobody is left to be answered."""
        self.status: int | None = None
        self.n_received, self.n_sent = 0, 0
        self.began = time.monotonic()
        is_archive = scope["path"] == ARCHIVES
        own = {ARCHIVES: limits.batch_bytes, SESSION: SESSION_BYTES}
        self.most_bytes = own.get(scope["path"], limits.body_bytes)
        rate = limits.body_bytes / limits.body_seconds
        self.deadline = self.began + max(limits.body_seconds, self.most_bytes / rate if is_archive else 0)
        length = self.headers.get("content-length", "0")
        self.is_read = length == "0" and "transfer-encoding" not in self.headers
        """Whether nothing more of the body is to come."""
        if length.isdecimal() and int(length) > self.most_bytes:
            self.refusal = self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body of this request is larger than {self.most_bytes:,} bytes")

    async def receive(self) -> Message:
        """The next piece of the body; a starlette HTTPException, which every handler passes on, if it is refused."""
        if self.is_read:  # whoever waits now waits for the client to go
            return await self._receive()
        if not self.refusal:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self.deadline - time.monotonic()):
                    message = await self._receive()
            except TimeoutError:
                self.refusal = Refusal(408, "the body of this request took too long")
            else:
                self.is_gone = message["type"] == "http.disconnect"
                self.n_received += len(message.get("body", b""))
                self.is_read = not message.get("more_body", False)
                if self.n_received > self.most_bytes:
                    self.refusal = self._too_large()
        if self.refusal:
            raise HTTPException(self.refusal.status, self.refusal.message)
        return message

    async def send(self, message: Message) -> None:
        """A piece of the answer, with the headers of every answer; nothing if the body was refused."""
        if self.is_gone or (self.refusal and self.status is None):
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = [*message.get("headers", [])]
            more = [*OF_ALL, *self.extra, (b"x-request-id", self.id.encode())]
            if self.scope["path"].startswith("/v1/"):
                more.append((b"cache-control", b"no-store"))
            if not self.is_read:
                more.append((b"connection", b"close"))
            named = {name.lower() for name, _ in given}
            message = {**message, "headers": given + [pair for pair in more if pair[0] not in named]}
        elif not (message.get("more_body") or self.is_read):
            await self._pass_on({**message, "more_body": True})
            await self._linger()
            message = {**message, "body": b""}
        await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        self.n_sent += len(message.get("body", b""))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._send(message)
        except TimeoutError:
            raise _GoneError from None

    async def _linger(self) -> None:
        """Throw away the rest of the body for a moment, before the connection is closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.is_read:
                    self.is_read = not (await self._receive()).get("more_body", False)

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """A whole answer."""
        lines = _encoded(headers)
        if status != 204:
            lines.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": lines})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, unless an answer is under way."""
        if self.status is None:
            self.refusal = None
            body = json.dumps({"error": refusal.message}).encode()
            with suppress(_GoneError):
                await self.answer(refusal.status, body, {"content-type": "application/json", **refusal.headers})

    def summary(self) -> dict[str, object]:
        """What a log may say of it."""
        return {
            "id": self.id,
            "client": self.scope["client"][0] if self.scope.get("client") else None,
            "method": self.scope["method"],
            "path": visible(self.scope["path"]),
            "status": self.status,
            "seconds": round(time.monotonic() - self.began, 4),
            "bytes_in": self.n_received,
            "bytes_out": self.n_sent,
        }
