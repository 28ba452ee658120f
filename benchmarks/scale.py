"""Scoring by Ray's workers: what it costs beside plain processes, and what 10⁹ images would take.

    .venv/bin/python benchmarks/scale.py                    # about twenty minutes on two cores

The images are noise, 28×28 and once 96×96, in .npy files of a temporary folder, 2 GB, which is removed; the detector is
the preset `robust`. Writes docs/results/scale.md. CPU seconds are those that the kernel says of each process of a command, as
wall time depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "scale.md"
ALOCC = Path(sys.executable).with_name("alocc")
TICKS = os.sysconf("SC_CLK_TCK")
LOADED = 7
"""CPU seconds after which a worker has loaded its detector and scores, about."""
LARGER = 96
"""Pixels a side of images that take longer each, so that the start of Ray weighs less."""
ROLES = ("command", "workers", "rest of Ray")


class Run(NamedTuple):
    """One command, or several side by side, from start to exit."""

    seconds: float
    cpu: Counter[str]
    peak_mb: dict[str, float]
    """Of the largest process of each role."""

    @property
    def cpu_seconds(self) -> float:
        return sum(self.cpu.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="how many")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alocc-scale-") as folder:
        text = measure(Path(folder), options.images)
    options.out.write_text(text, encoding="utf-8")
    print(text)


def measure(folder: Path, n: int) -> str:
    """Make the images, run the commands, and say how it went, as Markdown."""
    few = n // 5
    prepare(folder, n, 28)

    def score(data: str, out: str, *words: str) -> list[str]:
        return [
            str(ALOCC),
            "score",
            str(folder / "run"),
            str(folder / f"{data}.npy"),
            "--out",
            str(folder / out),
            *words,
        ]

    def ray(data: str, out: str, workers: int) -> list[str]:
        return score(data, out, "--engine", "ray", "--workers", str(workers))

    runs = {
        "1 process, a fifth": (few, timed(score("few", "few.csv"))),
        "1 process": (n, timed(score("all", "plain.csv"))),
        "2 processes, half each": (n, timed(score("half0", "half0.csv"), score("half1", "half1.csv"))),
        "Ray, 1 worker, a fifth": (few, timed(ray("few", "few-ray.csv", 1))),
        "Ray, 1 worker": (n, timed(ray("all", "one.csv", 1))),
        "Ray, 2 workers": (n, timed(ray("all", "two.csv", 2))),
        "Ray, 2 workers, a folder of Parquet, a fifth": (few, timed(ray("few", "folder", 2))),
        "Ray, 2 workers, one killed, half of them": (n // 2, timed(ray("half0", "killed.csv", 2), kills_a_worker=True)),
    }
    plain = (folder / "plain.csv").read_bytes()
    for name, same in (("one", "plain"), ("two", "plain"), ("few-ray", "few"), ("killed", "half0")):
        assert (folder / f"{name}.csv").read_bytes() == (folder / f"{same}.csv").read_bytes(), f"{name}: other rows"
    size = (folder / "all.npy").stat().st_size
    shutil.rmtree(folder / "run")
    prepare(folder, n, LARGER)
    side = f"{LARGER}×{LARGER}"
    runs |= {
        f"2 processes, half each, {side}": (n, timed(score("half0", "half0.csv"), score("half1", "half1.csv"))),
        f"Ray, 2 workers, {side}": (n, timed(ray("all", "two.csv", 2))),
    }
    halves = [row for i in range(2) for row in without_names(folder / f"half{i}.csv")]
    assert without_names(folder / "two.csv") == halves, f"{side}: other rows"
    sizes = {
        "CSV": len(plain),
        "Parquet": sum(path.stat().st_size for path in (folder / "folder").iterdir()) * n // few,
        "images": size,
    }
    return page(n, few, runs, sizes)


def without_names(table: Path) -> list[bytes]:
    """Rows of a table, without the first column: an image of a half has another number there."""
    return [row.partition(b",")[2] for row in table.read_bytes().splitlines()[1:]]


def prepare(folder: Path, n: int, side: int) -> None:
    """Images of noise, parts of them, and a detector."""
    images = np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)
    parts = {"all": images, "few": images[: n // 5], "half0": images[: n // 2], "half1": images[n // 2 :]}
    for name, part in {**parts, "normals": images[:100]}.items():
        np.save(folder / f"{name}.npy", part)
    words = ["--iterations", "40", "--out", folder / "run"]
    subprocess.run([ALOCC, "train", folder / "normals.npy", *words], check=True, capture_output=True)


def timed(*commands: list[str], kills_a_worker: bool = False) -> Run:
    """Run commands side by side, and look at their processes ten times a second."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, env=environment) for words in commands]
    cpu: dict[int, tuple[str, float]] = {}
    peak: dict[str, float] = {}
    while any(process.poll() is None for process in processes):
        for pid, at_present in roles_of([process.pid for process in processes]).items():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            except OSError:  # it has ended
                continue
            role = "workers" if cpu.get(pid, ("", 0))[0] == "workers" else at_present  # it is called idle at its end
            cpu[pid] = role, (int(fields[11]) + int(fields[12])) / TICKS
            peak[role] = max(peak.get(role, 0), resident)
        workers = [pid for pid, (role, seconds) in cpu.items() if role == "workers" and seconds > LOADED]
        if kills_a_worker and workers:  # it has loaded, and scores
            os.kill(workers[0], signal.SIGKILL)
            kills_a_worker = False
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    assert not any(process.returncode for process in processes), processes[0].stderr.read().decode()
    assert not kills_a_worker, "no worker was killed"
    by_role: Counter[str] = Counter()
    for role, used in cpu.values():
        by_role[role] += used
    run = Run(seconds, by_role, peak)
    print(f"{' '.join(commands[0][4:])}: {seconds:.1f} s, CPU {dict(by_role)}", flush=True)
    return run


def roles_of(roots: list[int]) -> dict[int, str]:
    """The processes of some commands, theirs and all below, and what they do."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    roles = {}
    for pid in parents:
        at = pid
        while at in parents and at not in roots:
            at = parents[at]
        if at in roots:
            try:
                is_worker = b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            roles[pid] = "command" if pid in roots else "workers" if is_worker else "rest of Ray"
    return roles


def page(n: int, few: int, runs: dict[str, tuple[int, Run]], sizes: dict[str, int]) -> str:
    """The document."""
    rows = [
        f"| {name} | {count:,} | {run.seconds:.1f} | {count / run.seconds:,.0f} | {run.cpu_seconds:.1f} | "
        f"{' | '.join(f'{run.cpu[role]:.1f}' for role in ROLES)} | {max(run.peak_mb.values()):,.0f} |"
        for name, (count, run) in runs.items()
    ]

    def each(name: str) -> float:
        """Microseconds of CPU that one more image takes: start-up is in both runs."""
        return 1e6 * (runs[name][1].cpu_seconds - runs[f"{name}, a fifth"][1].cpu_seconds) / (n - few)

    def start(name: str) -> float:
        """Seconds of CPU for no image."""
        return runs[name][1].cpu_seconds - each(name) * n / 1e6

    plain, ray = each("1 process"), each("Ray, 1 worker")
    one_plain, two_plain, one, two = (
        runs[name][1] for name in ("1 process", "2 processes, half each", "Ray, 1 worker", "Ray, 2 workers")
    )
    larger_plain, larger = (
        runs[f"{name}, {LARGER}×{LARGER}"][1] for name in ("2 processes, half each", "Ray, 2 workers")
    )
    more, more_plain = two.cpu_seconds / one.cpu_seconds, two_plain.cpu_seconds / one_plain.cpu_seconds
    faster, faster_plain = one.seconds / two.seconds, one_plain.seconds / two_plain.seconds
    return "\n".join([
        "# Scoring by Ray's workers",
        "",
        f"{n:,} images of 28×28 in an .npy file (last two rows: {LARGER}×{LARGER}), preset `robust`, one thread a process. Written by `benchmarks/scale.py` on "
        f"{datetime.date.today()}: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, Ray {ray_version()}, "
        f"load average {os.getloadavg()[2]:.1f} (about 2 are these commands' own).",
        "",
        f"| what scores | images | seconds, from start to exit | images/s | CPU seconds | {' | '.join(f'of the {role}' for role in ROLES)} | "
        "MB of the largest process |",
        "|---|" + "---|" * 8,
        *rows,
        "",
        "All tables are the plain process's, byte for byte (of the larger images: without the column of their names), also that of the run in which a worker was killed (SIGKILL) "
        "while it scored. Ray's own processes are those that it starts beside the workers.",
        "",
        "| CPU | plain process | Ray, 1 worker |",
        "|---|---|---|",
        f"| µs for each further image | {plain:.0f} | {ray:.0f} |",
        f"| seconds before the first image, and after the last | {start('1 process'):.1f} | {start('Ray, 1 worker'):.1f} |",
        "",
        f"Share of the CPU time of each further image that goes to the engine: {1 - plain / ray:.0%}. One core scores "
        f"{1e6 / plain:,.0f} images/s plainly, {1e6 / ray:,.0f} under Ray. For all {n:,}, start-up included, two workers take "
        f"{more:.2f} times the CPU time of one, and two plain processes {more_plain:.2f} times that of one.",
        "",
        f"In wall time, start-up included, two workers take {two.seconds / two_plain.seconds:.2f} times as long as two plain processes; they "
        f"were {faster:.2f} times as fast as one worker, two plain processes {faster_plain:.2f} times as fast as one. "
        f"With {n:,} images of {LARGER}×{LARGER} they take {larger.seconds / larger_plain.seconds:.2f} times as long.",
        "",
        f"Bytes an image: {sizes['images'] / n:.0f} as it is read, {sizes['CSV'] / n:.0f} in the CSV table, {sizes['Parquet'] / n:.0f} "
        "in the Parquet files.",
        "",
    ])  # fmt: skip


def ray_version() -> str:
    from importlib.metadata import version

    return version("ray")


if __name__ == "__main__":
    main()
