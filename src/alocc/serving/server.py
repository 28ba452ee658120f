"""Settings → a server that runs until it is told to stop, and then finishes what it accepted."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from alocc.errors import ConfigError
from alocc.serving.app import Shortcut, create_app
from alocc.serving.connections import Connection
from alocc.serving.history import History
from alocc.serving.kept import Kept
from alocc.serving.logs import Log
from alocc.serving.models import Models
from alocc.serving.security import Guard
from alocc.serving.settings import Settings
from alocc.serving.station import Station
from alocc.storage import lock

DATABASE, IMAGES = "history.sqlite", "images"
"""In the store."""
LEAVE = 60
"""Seconds after which replies that nobody fetches no longer hold up the end."""


def run(
    settings: Settings,
    note: Callable[[str], None],
    warn: Callable[[str], None] = lambda _: None,
    json_log: Path | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; what was accepted is answered and in the history when this returns.

    The signal is raised again in the end, for whoever called.

    Args:
        settings: what is served, where, to whom.
        note, warn: told what is done, and at last the address; of what a health check said of a detector.
        json_log: file for a line of each request.

    Raises:
        ConfigError: if the address is taken, the store or the database is another server's, or the models do not
            support the alphas.
        ArtefactError: if a model, the store or the history cannot be opened.
    """
    with _private_files(), _listening(settings.host, settings.port) as listener, _owning(settings.store):
        station = open_station(settings, Log(json_log), note)
        for loaded in station.models.all():
            if loaded.engine.health and loaded.engine.health.warning:
                warn(f"{loaded.name}: {loaded.engine.health.warning}")
        config = uvicorn.Config(
            Guard(Shortcut(create_app(station)), settings, station.log),
            http=Connection,
            log_config=None,
            log_level="error",  # what is no HTTP is answered, and no matter for whoever runs this
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=LEAVE,
            ws="none",
        )
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; uvicorn takes it all the same
            signal.signal(signal.SIGINT, signal.default_int_handler)
        ready = f"serving {', '.join(settings.models)} at {_address(settings.host, listener)}; Ctrl-C ends it"
        _Server(config, station, lambda: note(ready)).run([listener])


def open_station(settings: Settings, log: Log, note: Callable[[str], None] = lambda _: None) -> Station:
    """Load the models and open the history, which is this server's then: everything but the network.

    Raises:
        ArtefactError, ConfigError: as :func:`run`.
    """
    models = Models(settings, note)
    store = _made(settings.store)
    history = History(settings.database or store / DATABASE)
    history.claim()
    history.migrate()
    return Station(settings, models, history, Kept(store / IMAGES), log, note)


class _Server(uvicorn.Server):
    """Uvicorn, which says when it is ready, and lets those go who watch before it waits for the others."""

    def __init__(self, config: uvicorn.Config, station: Station, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._station, self._ready = station, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._station.feed.close()
        await super().shutdown(sockets)


@contextmanager
def _private_files() -> Iterator[None]:
    """Files and folders that are made meanwhile are for this user alone; those that are there keep their modes."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _owning(store: Path) -> Iterator[None]:
    """Keep other servers out of a store, which is made if it is not there; where there are no locks, do not."""
    try:
        descriptor = os.open(_made(store), os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"--store {store} cannot be opened ({error.strerror or error})") from None
    try:
        try:
            lock(descriptor)
        except BlockingIOError:
            raise ConfigError(f"--store {store} is used by another server; give another --store") from None
        yield
    finally:
        os.close(descriptor)


def _listening(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family = found[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, ValueError) as error:  # a ValueError: of a name that no machine can have
        number = None if isinstance(error, socket.gaierror) else getattr(error, "errno", None)
        reason = os.strerror(number) if number else getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen at {host}, port {port} ({reason}); try another --port or --host") from None


def _address(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--store {folder} cannot be made ({error.strerror or error}); give another folder") from None
    return folder
