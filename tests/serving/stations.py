"""Servers in processes of their own, for tests: `alocc serve` as anybody starts it."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image

import alocc
from alocc.config import preset, with_settings

TOKEN = "correct-horse-battery-staple"


def blobs(n, seed, size=(16, 16)):
    """Soft blobs of different brightness near the middle, uint8, (n, H, W)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = rng.uniform(-2, 2, (n, 2)) + np.array(size) / 2
    distance = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    return (rng.uniform(120, 250, (n, 1, 1)) * np.exp(-distance / 20)).astype(np.uint8)


def encoded(pixels, kind="PNG"):
    """An image file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def small_detector(path):
    """A detector of 16×16 images, trained in a second."""
    config = with_settings(preset("robust"), ["networks.width=4", "training.batch_size=16"])
    alocc.train(blobs(80, 0), config=config, iterations=8).save(path)
    return path


class Station:
    """A server that runs, and a client of it."""

    def __init__(self, process, address):
        self.process, self.address = process, address
        self.port = int(address.rpartition(":")[2])
        self.http = httpx.Client(base_url=address, timeout=30)

    def send(self, content, wait=20.0, pieces=1, pause=0.0):
        """Send bytes as they are, and give the bytes that come back until the server closes or answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            step = -(-len(content) // pieces)
            received = b""
            try:
                for start in range(0, len(content), step):
                    connection.sendall(content[start : start + step])
                    time.sleep(pause)
                while piece := connection.recv(1 << 16):
                    received += piece
                    head, _, body = received.partition(b"\r\n\r\n")
                    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    if lengths and len(body) >= int(lengths[0].split(b":")[1]):
                        break
            except (ConnectionError, TimeoutError):
                pass
            return received

    def status(self, content, **options):
        """The status of the answer to bytes as they are; none if there is no answer."""
        answer = self.send(content, **options)
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None

    def finished(self, batch, seconds=60.0):
        """A batch once it has ended."""
        end = time.monotonic() + seconds
        while (found := self.http.get(f"/v1/batches/{batch}").json())["state"] in ("queued", "running"):
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found


@contextmanager
def serving(*arguments, environment=(), script=None):
    """`alocc serve` with these arguments, or a script with them; it is told to stop in the end, and must."""
    command = [sys.executable, "-c", script] if script else [sys.executable, "-m", "alocc", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **dict(environment)},
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if " at http" in line:
                break
        else:
            raise AssertionError("the server did not start: " + "".join(lines))
        rest = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
        rest.start()
        station = Station(process, line.split(" at ")[1].partition(";")[0])
        station.lines = lines
        with station.http:
            yield station
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.stdout.close()


def multipart(files, boundary="xyz"):
    """Body and headers of a form with files: (field, name, content), the name as it is."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for field, name, content in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }


def logged(path):
    """Lines of a server's log."""
    return [json.loads(line) for line in path.read_text().splitlines()]
