"""A database that is ours, at the newest version of its tables: SQLite in a file, or PostgreSQL by URL."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from alocc.errors import ArtefactError, ConfigError
from alocc.serving.tables import VERSION_TABLE
from alocc.storage import lock

WAIT = 30.0
"""Seconds that a connection waits for another one's writing, or for PostgreSQL to answer at first."""
LOCK = 0x616C6F6363
"""Number of PostgreSQL's advisory lock behind which one process changes the tables."""
SERVER_LOCK = LOCK + 1
"""Number of the one that a server holds as long as it runs."""
MIGRATIONS = Path(__file__).parent / "migrations"


def connect(address: str | Path) -> Engine:
    """An engine for a URL of SQLAlchemy's, or for the path of a SQLite file. Nothing is opened yet.

    Raises:
        ConfigError: if the URL is none, or is of another kind of database, or what talks to it is not installed.
    """
    url = _url(address)
    try:
        if url.get_backend_name() == "sqlite":
            engine = create_engine(url, pool_size=8, max_overflow=32, connect_args={"timeout": WAIT})
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        options = {"connect_timeout": int(WAIT)}
        return create_engine(url, pool_size=8, max_overflow=32, pool_pre_ping=True, connect_args=options)
    except ImportError:
        advice = "install with, in the clone: pip install '.[postgres]'"
        raise ConfigError(f"--database with PostgreSQL needs psycopg; {advice}") from None


def _url(address: str | Path) -> URL:
    if isinstance(address, Path):
        return URL.create("sqlite", database=str(address))
    try:
        url = make_url(address.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):
        raise ConfigError("--database takes a URL, such as postgresql://user@host/name") from None
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database and url.database != ":memory:" and not url.query:
        return url
    raise ConfigError(f"--database takes postgresql://… or sqlite:///FILE, not {url.drivername}://")


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin below, not where the driver guesses
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")  # whole after a power cut; only its last moments may be missing


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def migrate(engine: Engine) -> None:
    """Bring the tables to the version that this alocc knows; make them in an empty database.

    Raises:
        ArtefactError: if the database is of a newer alocc, or somebody else's, or cannot be opened or written; it is
            as it was then.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    with _one_line(engine.url):
        if is_sqlite:
            _make_folder(engine.url)
        with engine.connect() as connection:
            _check_owner(connection)
        if is_sqlite:
            _write_ahead(engine)
        with engine.execution_options(writes=True).begin() as connection:
            if not is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            _check_owner(connection)
            _upgrade(connection)


def claim(engine: Engine) -> Callable[[], None]:
    """Keep other servers out of a database, and give what ends that; it ends with the process too.

    In PostgreSQL it is a lock of a connection: a database that is restarted has forgotten it. Beside a SQLite file, a
    file ``….lock`` is locked, as SQLite has locks of its own in the file itself.

    Raises:
        ConfigError: if another server has it.
        ArtefactError: if the database cannot be opened.
    """
    taken = ConfigError(f"the history {name_of(engine.url)} is used by another server; give another --database")
    if engine.dialect.name == "sqlite":
        return partial(os.close, _locked_beside(engine.url, taken))
    with _one_line(engine.url):
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")  # no transaction stays open
        is_ours = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": SERVER_LOCK}).scalar_one()
    if not is_ours:
        connection.close()
        raise taken
    connection.detach()  # closed in the end, not given back to the pool with its lock
    return connection.close


def _locked_beside(url: URL, taken: ConfigError) -> int:
    """Descriptor of a locked file beside a SQLite file."""
    _make_folder(url)
    path = Path(f"{url.database}.lock")
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be made ({error.strerror or error})") from None
    try:
        lock(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        raise taken from None
    return descriptor


def name_of(url: URL) -> str:
    """What a database is called in messages: the path of a file, or the URL without its password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


@contextmanager
def _one_line(url: URL) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise ArtefactError(f"the history {name_of(url)} cannot be opened ({reason})") from None


def _make_folder(url: URL) -> None:
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(f"{folder} cannot be made ({error.strerror or error})") from None


def _check_owner(connection: Connection) -> None:
    """Refuse what is somebody else's, before anything in it is touched."""
    tables, name = set(inspect(connection).get_table_names()), name_of(connection.engine.url)
    if VERSION_TABLE in tables:
        known = {script.revision for script in _scripts().walk_revisions()}
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()
        if newer := set(found) - known:
            message = f"the history {name} has tables of a newer alocc ({', '.join(sorted(newer))})"
            raise ArtefactError(f"{message}; install that one, or give another --store or --database")
    elif tables:
        raise ArtefactError(
            f"{name} holds tables that are not alocc's, such as {min(tables)}; give an empty database"
        )  # even where none of them has a name of ours: whoever looks after it does not expect us there


def _write_ahead(engine: Engine) -> None:
    """Readers and a writer side by side; the file keeps that.

    SQLite does not wait for another process that is changing the same, as it does for its writing: this does.
    """
    end = time.monotonic() + WAIT
    while True:
        try:
            with closing(sqlite3.connect(str(engine.url.database), timeout=0)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.Error as error:
            is_busy = getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if not is_busy or time.monotonic() > end:
                raise ArtefactError(f"the history {name_of(engine.url)} cannot be written ({error})") from None
        time.sleep(0.01)


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _scripts() -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _upgrade(connection: Connection) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
