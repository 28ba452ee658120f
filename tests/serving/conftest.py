"""A PostgreSQL server for the tests, and rows of the history."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed; pip install 'alocc[serve]'")

from alocc.serving.history import History, ImageRow, new_id

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


def _binaries():
    """Folder of PostgreSQL's programs, of which only a few are on Debian's path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else Path(on_path).parent if (on_path := shutil.which("initdb")) else None


@pytest.fixture(scope="session")
def postgres():
    """A function that makes an empty database in a server of its own, and gives its URL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed; pip install 'alocc[postgres]'")
    if (binaries := _binaries()) is None:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="alocc-pg-"))  # not below pytest's, which only its owner may enter
    somebody = {"cwd": folder}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres, and PostgreSQL does not run as root")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        somebody |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    make = [binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", "alocc", "-E", "UTF8", "--no-locale", "-N"]
    subprocess.run(make, check=True, capture_output=True, **somebody)
    options = ["-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([binaries / "postgres", *options], stdout=log, stderr=log, **somebody)
    try:
        yield _database_maker(folder)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder)


def _database_maker(folder):
    import psycopg

    address = f"postgresql://alocc@/postgres?host={folder}"
    for _ in range(300):
        try:
            psycopg.connect(address).close()
            break
        except psycopg.OperationalError:
            time.sleep(0.1)
    numbers = itertools.count()

    def make():
        name = f"trial{next(numbers)}"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://alocc@/{name}?host={folder}"

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    """Of an empty database."""
    return tmp_path / "history.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres")()


@pytest.fixture
def history(address):
    opened = History(address)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def image_row():
    """A function that makes the i-th row, a second after the one before it."""

    def make(i=0, **values):
        usual = {
            "id": new_id(),
            "time": START + timedelta(seconds=i),
            "model": "bolts",
            "version": "0123456789ab",
            "calibration": 0,
            "name": f"part {i:05}.png",
            "sha256": f"{i:064x}",
            "source": "api",
            "alpha": 0.01,
            "width": 64,
            "height": 48,
            "anomaly_score": float(i),
            "p_value": 0.5,
            "verdict": "normal",
        }
        return ImageRow(**usual | values)

    return make
