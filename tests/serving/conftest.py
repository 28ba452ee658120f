"""A PostgreSQL server for the tests, rows of the history, and servers of a detector."""

import io
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed; pip install '.[serve]'")

import httpx
import numpy as np
from PIL import Image

from alocc.config import preset, with_settings
from alocc.detector import Detector
from alocc.serving.history import History, ImageRow, new_id
from alocc.training.run import train

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


def _binaries():
    """Folder of PostgreSQL's programs, of which only a few are on Debian's path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else Path(on_path).parent if (on_path := shutil.which("initdb")) else None


@pytest.fixture(scope="session")
def postgres():
    """A function that makes an empty database in a server of its own, and gives its URL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed; pip install '.[postgres]'")
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


# servers


PARTS = (40, 52)


def draw_parts(n, seed):
    """Images of noise on a plate with a slot, uint8, (n, 40, 52)."""
    rng = np.random.default_rng(seed)
    part = np.full(PARTS, 120.0)
    part[10:20, 12:34] = 190
    return (part + rng.normal(0, 8, (n, *PARTS))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def parts():
    """A function that gives n images of parts, the fourth of every four with a dark pit; and PNG files of them."""

    def draw(n, seed=1):
        images = draw_parts(n, seed)
        images[3::4, 24:30, 30:36] = 10
        return images

    return draw


@pytest.fixture(scope="session")
def as_png():
    """A function that gives the bytes of an image as a file."""

    def encode(image, kind="PNG"):
        written = io.BytesIO()
        Image.fromarray(image).save(written, kind)
        return written.getvalue()

    return encode


@pytest.fixture(scope="session")
def part_run(tmp_path_factory):
    """A run folder of a detector of parts, hardly trained."""
    folder = tmp_path_factory.mktemp("run") / "parts"
    tiny = with_settings(preset("robust"), ["networks.width=4", "training.batch_size=16"])
    train(draw_parts(120, 0), config=tiny, iterations=20, out=folder)
    return folder


@pytest.fixture(scope="session")
def usual_part(part_run, as_png):
    """A PNG file of a part that looks as normal as can be."""
    images = draw_parts(20, 2)
    return as_png(images[Detector.load(part_run).score(images).anomaly_score.argmin()])


class Server:
    """``alocc serve`` in a process of its own."""

    def __init__(self, *words, env=None):
        command = [sys.executable, "-m", "alocc", "serve", *map(str, words), "--port", "0"]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", **(env or {})}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
        self.lines, self.address = [], None
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._ready.wait(60), "".join(self.lines)
        assert self.address, "".join(self.lines)
        self.http = httpx.Client(base_url=self.address, timeout=60)

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r" at (http://\S+);", line):
                self.address = found[1]
                self._ready.set()
        self._ready.set()

    def stop(self, how=signal.SIGTERM):
        """End it, and give its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(60)
        self._reader.join()
        self.process.stderr.close()
        return code


@pytest.fixture(scope="session")
def start_server():
    """A function that starts a server with these words of a command line, and a free port."""
    started = []

    def start(*words, **variables):
        started.append(Server(*words, **variables))
        return started[-1]

    yield start
    for server in started:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def server(start_server, part_run, tmp_path_factory):
    """A server of the detector of parts, for tests that leave it as it is."""
    return start_server(part_run, "--store", tmp_path_factory.mktemp("store"))
