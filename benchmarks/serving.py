"""The server under load from another process: no answer lost, swapped or wrong, how long answers take, and how many it gives.

    python benchmarks/serving.py [--page docs/results/serving.md] [--minutes 10] [--clients 64]

Trains a small detector of digits, exports it, serves it by the real command line, and asks it from this process: as fast as it can
answer with one image a request and with 32; then, at 70 % of the peak, with good, broken and huge bodies mixed. Each score is compared with
the engine's own. The load is bounded in time and number, and goes to this machine alone.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measuring import provenance, table
from PIL import Image

from alocc.data.mnist import load_mnist
from alocc.scoring.open import ExportedDetector
from alocc.storage import write_text

ALOCC = Path(sys.executable).with_name("alocc")
IMAGES, TOGETHER, SHARE = 1_000, 32, 0.7
BROKEN, HUGE = 0.05, 0.002
"""Shares of requests whose body is no image, or is larger than the server takes."""
PEAK_SECONDS, MANY_CLIENTS = 20.0, 6
TOLERANCE = 1e-9


class Request(NamedTuple):
    """A request as bytes, and what its answer must be."""

    content: bytes
    wanted: tuple[float, ...]
    """Scores; none: it must be refused."""
    kind: str


@dataclass
class Seen:
    """What came back."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    n_images: int = 0


def png(image: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(image).save(written, "PNG")
    return written.getvalue()


def post(body: bytes, kind: str, length: int | None = None, name: str = "") -> bytes:
    head = (
        f"POST /v1/score{f'?name={name}' if name else ''} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def one_image(images: list[bytes], scores: np.ndarray) -> list[Request]:
    return [
        Request(post(image, "image/png", name=f"{i}.png"), (float(scores[i]),), "good")
        for i, image in enumerate(images)
    ]


def several(images: list[bytes], scores: np.ndarray) -> list[Request]:
    requests = []
    for start in range(0, len(images) - TOGETHER + 1, TOGETHER):
        chosen = range(start, start + TOGETHER)
        parts = b"".join(
            b'--part\r\nContent-Disposition: form-data; name="images"; filename="%d.png"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
            % (i, images[i])
            for i in chosen
        )
        body = parts + b"--part--\r\n"
        wanted = tuple(float(scores[i]) for i in chosen)
        requests.append(Request(post(body, "multipart/form-data; boundary=part"), wanted, "good"))
    return requests


def bad(images: list[bytes]) -> list[Request]:
    """Bodies that are no images."""
    bodies = (b"no image", images[0][:60], b"\x89PNG\r\n\x1a\n" + bytes(200), b"", b"GIF89a" + bytes(50))
    return [Request(post(body, "image/png"), (), "broken") for body in bodies]


HUGE_REQUEST = Request(post(bytes(1 << 16), "image/png", length=1 << 30), (), "huge")


async def ask(
    port: int, requests: Callable[[], Request | None], seen: Seen, pause: Callable[[], Awaitable[None]]
) -> None:
    """One client: request after request on one connection, until there is none."""
    reader = writer = None
    while (request := requests()) is not None:
        await pause()
        start = time.perf_counter()
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request.content)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            body = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))
        except (ConnectionError, asyncio.IncompleteReadError):
            seen.lost += request.kind != "huge"  # what is too large may be cut off
            seen.statuses[request.kind, 0] += 1
            writer.close()
            writer = None
            continue
        seen.seconds.append(time.perf_counter() - start)
        seen.statuses[request.kind, status] += 1
        if status == 200:
            found = [one["anomaly_score"] for one in json.loads(body)["images"]]
            seen.n_images += len(found)
            same = all(abs(one - other) <= TOLERANCE for one, other in zip(found, request.wanted, strict=False))
            seen.wrong += len(found) != len(request.wanted) or not same
        elif status == 429:
            await asyncio.sleep(0.05)
        if request.kind == "huge" or b"connection: close" in head.lower():
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


async def peak(port: int, requests: list[Request], clients: int) -> tuple[float, Seen]:
    """Requests a second where every client asks again as soon as it has its answer."""
    end, seen, choice = time.perf_counter() + PEAK_SECONDS, Seen(), random.Random(0)

    async def at_once() -> None:
        pass

    def next_one() -> Request | None:
        return choice.choice(requests) if time.perf_counter() < end else None

    await asyncio.gather(*(ask(port, next_one, seen, at_once) for _ in range(clients)))
    answered = sum(n for (_, status), n in seen.statuses.items() if status == 200)
    return answered / PEAK_SECONDS, seen


async def mixed(
    port: int, good: list[Request], broken: list[Request], rate: float, minutes: float, clients: int
) -> Seen:
    """Requests at a rate, whose moments are random, of all kinds."""
    seen, choice, end = Seen(), random.Random(1), time.perf_counter() + 60 * minutes
    due = time.perf_counter()

    def next_one() -> Request | None:
        if time.perf_counter() >= end:
            return None
        kind = choice.random()
        return HUGE_REQUEST if kind < HUGE else choice.choice(broken if kind < HUGE + BROKEN else good)

    async def until_due() -> None:
        nonlocal due
        due = max(due + choice.expovariate(rate), time.perf_counter() - 1)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))

    await asyncio.gather(*(ask(port, next_one, seen, until_due) for _ in range(clients)))
    return seen


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def rate_of(score: Callable[[], int], seconds: float = 5.0) -> float:
    score()
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        n += score()
    return n / (time.perf_counter() - start)


def measure(folder: Path, minutes: float, clients: int) -> str:
    run, exported = folder / "run", folder / "run" / "model.onnx"
    for words in (["train", "mnist", "--normal", "1", "--out", str(run)], ["export", str(run)]):
        subprocess.run([ALOCC, *words], check=True, capture_output=True)
    digits = load_mnist("test")[0][:IMAGES]
    digits = digits.numpy()[:, 0] if hasattr(digits, "numpy") else np.asarray(digits)
    engine, images = ExportedDetector(exported), [png(image) for image in digits]
    scores = engine.score(digits).anomaly_score

    def score_all() -> int:
        engine.score(digits)
        return len(digits)

    def score_one() -> int:
        engine.score(digits[:1])
        return 1

    bare, bare_one = rate_of(score_all), rate_of(score_one)
    process = subprocess.Popen(
        [ALOCC, "serve", f"digits={exported}", "--port", "0", "--store", str(folder / "store")],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = []
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", line := process.stderr.readline())):
            lines.append(line)
            assert line, "".join(lines)
        port = int(found[1])
        single, many, broken = one_image(images, scores), several(images, scores), bad(images)
        one, seen_one = asyncio.run(peak(port, single, clients))
        print(
            f"one a request: {one:.0f}/s {dict(seen_one.statuses)} wrong {seen_one.wrong}", file=sys.stderr, flush=True
        )
        two, seen_many = asyncio.run(peak(port, many, MANY_CLIENTS))
        print(
            f"{TOGETHER} a request: {two:.0f}/s {dict(seen_many.statuses)} wrong {seen_many.wrong}",
            file=sys.stderr,
            flush=True,
        )
        before = resident_mb(process.pid)
        steady = asyncio.run(mixed(port, single, broken, SHARE * one, minutes, clients))
        after = resident_mb(process.pid)
    finally:
        process.terminate()
        process.wait(60)
    kept = sum(seen.n_images for seen in (seen_one, seen_many, steady))
    return page(
        {"bare": bare, "bare_one": bare_one, "one": one, "many": two, "before": before, "after": after, "kept": kept},
        seen_one, seen_many, steady, minutes, clients,
    )  # fmt: skip


def page(rates: dict[str, float], seen_one: Seen, seen_many: Seen, steady: Seen, minutes: float, clients: int) -> str:
    p50, p99, most = 1000 * np.quantile(steady.seconds, [0.5, 0.99, 1.0])
    one, many, bare, bare_one = (rates[name] for name in ("one", "many", "bare", "bare_one"))
    total = sum(steady.statuses.values())
    peaks = [
        ["one image a request", f"{one:,.0f}", f"{one:,.0f}", f"{one / bare:.0%}", f"{one / bare_one:.0%}"],
        [
            f"{TOGETHER} images a request",
            f"{many:,.0f}",
            f"{TOGETHER * many:,.0f}",
            f"{TOGETHER * many / bare:.0%}",
            "",
        ],
    ]
    statuses = [[kind, str(status or "cut off"), f"{n:,}"] for (kind, status), n in sorted(steady.statuses.items())]
    failures = sum(n for (_, status), n in steady.statuses.items() if status >= 500)
    return "\n".join([
        "# The server under load",
        "",
        f"Written by `benchmarks/serving.py` on {datetime.date.today()}: digits of 28×28 as PNG, preset `robust`, exported without maps; the server and its {clients} clients, in another process, share the "
        "same two cores, so that a client's own work counts as the server's. Every image is in the history.",
        "",
        provenance(sys.argv, {}),
        "",
        "## Peak",
        "",
        f"Every client asks again as soon as it has its answer. The engine alone, two threads, scores {bare:,.0f} images/s of an array, and {bare_one:,.0f}/s one at a time.",
        "",
        table(["", "requests/s", "images/s", "of the engine alone", "of the engine one at a time"], peaks),
        "",
        f"## {SHARE:.0%} of the peak, {minutes:g} minutes",
        "",
        f"{total:,} requests at random moments. Half were answered within {p50:.0f} ms, 99 % within {p99:.0f} ms, the slowest in {most:.0f} ms. "
        f"Answers with another score than the engine's own: {steady.wrong + seen_one.wrong + seen_many.wrong}; lost: {steady.lost + seen_one.lost + seen_many.lost}; "
        f"server errors (5xx): {failures}. Memory of the server: {rates['before']:.0f} MB before, {rates['after']:.0f} MB after.",
        "",
        table(["body", "status", "requests"], statuses),
        "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="Markdown file to write; default: standard output")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = measure(Path(folder), arguments.minutes, arguments.clients)
    if arguments.page:
        write_text(arguments.page, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
