"""100,000 PNG files, made, trained on, scored: how fast, in how much memory, and which stage takes the time.

    .venv/bin/python benchmarks/many_images.py                    # about fifteen minutes on two cores

The images are grey, 28×28 to 64×64, a disc on noise each; they lie in a temporary folder, which is removed. Writes
docs/results/many-images.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "many-images.md"
SHARD = 1_000
ITERATIONS = 30


class Run(NamedTuple):
    """One command, from start to exit."""

    command: str
    seconds: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="how many, in thousands that ten divides")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of scoring; the fastest counts")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Markdown file to write")
    parser.add_argument("--stages", nargs=2, metavar=("RUN", "DATA"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stages:
        print(json.dumps(measure_stages(*options.stages)))
        return
    with tempfile.TemporaryDirectory(prefix="alocc-many-") as folder:
        options.out.write_text(measure(Path(folder), options.images, options.rounds), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


def measure(folder: Path, n: int, rounds: int) -> str:
    """Make the images, run the commands, and say how it went, as Markdown."""
    began = time.perf_counter()
    with ProcessPoolExecutor() as pool:
        list(pool.map(make_shard, [(folder / "images" / "all", shard) for shard in range(n // SHARD)]))
    print(f"{n:,} images made in {time.perf_counter() - began:.0f} s", flush=True)
    everything, tenth = folder / "images", f"{folder}/images/all/*0/*.png"
    run = folder / "run"
    trained = timed("train", everything, "--out", run, "--again", "--iterations", ITERATIONS)
    small = timed("score", run, tenth, "--out", folder / "tenth.csv")
    large = [timed("score", run, everything, "--out", folder / "all.csv") for _ in range(rounds)]
    with (folder / "all.csv").open() as file:
        assert sum(1 for _ in file) == n + 1, "a row for each image"
    stages = [stages_of(run, tenth) for _ in range(rounds)]
    best = min(large, key=lambda one: one.seconds)
    return page(n, trained, small, best, min(stages, key=lambda one: sum(one.values())), rounds, folder)


def make_shard(job: tuple[Path, int]) -> None:
    """A thousand images in a folder of their own."""
    root, number = job
    rng = np.random.default_rng(number)
    (root / f"{number:03}").mkdir(parents=True)
    for i in range(SHARD):
        side = int(rng.integers(28, 65))
        rows, columns = np.ogrid[:side, :side]
        centre = side / 2 + rng.uniform(-3, 3, 2)
        inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (side / 3) ** 2
        pixels = (inside * 170 + rng.integers(0, 60, (side, side))).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number:03}" / f"{i:03}.png", compress_level=1)


def timed(*words: object) -> Run:
    """Run ``alocc`` and wait for it; its peak of resident memory is what the kernel says of this one process."""
    alocc = Path(sys.executable).with_name("alocc")
    began = time.perf_counter()
    process = subprocess.Popen([alocc, *map(str, words)], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, words
    print(f"alocc {words[0]}: {seconds:.1f} s, {usage.ru_maxrss / 1024:.0f} MB", flush=True)
    return Run(shlex.join(["alocc", *map(str, words)]), seconds, usage.ru_maxrss / 1024)


def stages_of(run: Path, data: str) -> dict[str, float]:
    """Seconds of each stage, in a process of its own."""
    words = [sys.executable, __file__, "--stages", str(run), data]
    environment = {**os.environ, "GOMP_SPINCOUNT": "10000"}  # as the command line sets it
    stages: dict[str, float] = json.loads(
        subprocess.run(words, capture_output=True, check=True, text=True, env=environment).stdout
    )
    print(stages, flush=True)
    return stages


def measure_stages(run: str, data: str) -> dict[str, float]:
    """Seconds of each stage alone, and of all together as ``alocc score`` runs them."""
    from alocc import Detector
    from alocc.data.sources import open_source
    from alocc.scoring.stream import score_batches
    from alocc.scoring.table import write_table

    seconds = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = round(time.perf_counter() - began, 2)
        began = time.perf_counter()

    detector = Detector.load(run)
    detector.score(np.zeros((256, *detector.image_format.size), np.uint8))  # the first batch pays for memory
    lap("load")
    source = open_source(data, "test")
    lap("list")
    batches = [batch.images for batch in source.batches(detector.image_format)]
    lap("decode")
    for images in batches:
        detector.score(images)
    lap("model")
    del batches
    parts = list(score_batches(detector, source.batches(detector.image_format)))
    lap("together")
    with tempfile.TemporaryDirectory() as folder:
        write_table(parts, Path(folder) / "scores.csv")
    lap("output")
    return seconds


def page(n: int, trained: Run, small: Run, large: Run, stages: dict[str, float], rounds: int, folder: Path) -> str:
    """The document."""
    alone = {name: stages[name] for name in ("list", "decode", "model", "output")}
    total = sum(alone.values())
    labels = {
        "list": "list the files",
        "decode": "decode and resize, alone",
        "model": "model, alone",
        "output": "write the CSV",
    }
    rows = [
        f"| {labels[name]} | {s:.1f} | {s / total:.0%} | {n / 10 / max(s, 0.01):,.0f} |" for name, s in alone.items()
    ]
    together = stages["together"]
    serial = alone["decode"] + alone["model"]
    runs: Sequence[tuple[str, int, Run]] = [
        (f"`alocc train`, {ITERATIONS} iterations", n, trained),
        ("`alocc score`", n // 10, small),
        ("`alocc score`", n, large),
    ]
    table = [
        f"| {name} | {count:,} | {run.seconds:.1f} | {count / run.seconds:,.0f} | {run.peak_mb:,.0f} |"
        for name, count, run in runs
    ]
    command = large.command.replace(str(folder), "TMP")
    return "\n".join([
        f"# {n:,} image files",
        "",
        f"Grey PNG files, 28×28 to 64×64, through the command line. Written by `benchmarks/many_images.py` on "
        f"{datetime.date.today()}: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load average "
        f"{os.getloadavg()[2]:.0f}.",
        "",
        "| command | images | seconds, from start to exit | images/s | peak memory, MB |",
        "|---|---|---|---|---|",
        *table,
        "",
        f"`{command}`, best of {rounds}. Memory that ten times as many images add: "
        f"{large.peak_mb - small.peak_mb:+,.0f} MB, {(large.peak_mb - small.peak_mb) * 1024 / (n - n // 10):.2f} kB an "
        "image, of which its name is kept until the end.",
        "",
        f"Scoring {n // 10:,} of them, stage by stage:",
            "",
            "| stage | seconds | share | images/s |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Decoding runs in threads beside the model: both together take {together:.1f} s, one after the other "
        f"{serial:.1f} s.",
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
