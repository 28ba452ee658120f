"""The longest time for which each command says nothing, on a folder of large photographs.

    python benchmarks/silence.py FOLDER [--page docs/results/silence.md]

FOLDER has train/good, test/good and test/<defect>. Output is taken from a pipe, as a log keeps it; on a terminal, bars move.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ALOCC = Path(sys.executable).with_name("alocc")
ALLOWED = 5.0
"""Seconds without output that a person should not have to bear."""


class Watched(NamedTuple):
    """One command, as it was seen from outside."""

    command: str
    seconds: float
    longest_gap: float
    """Seconds between two pieces of output, or before the first or after the last one."""
    said_before: str
    """The last line before the longest gap."""
    exit_code: int


def watch(arguments: list[str], folder: Path) -> Watched:
    """Run a command of alocc in a folder above the images, and listen to what it writes to either stream."""
    began = last = time.perf_counter()
    command = [str(ALOCC), *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        gap, said, before = 0.0, "(its start)", ""
        while True:
            piece = os.read(process.stdout.fileno(), 1 << 16)
            now = time.perf_counter()
            if now - last > gap:
                gap, before = now - last, said
            last = now
            if not piece:
                break
            said = (piece.decode(errors="replace").strip().splitlines() or [said])[-1]
    return Watched(" ".join(arguments), now - began, gap, before, process.returncode)


def commands(data: Path, to: Path) -> list[list[str]]:
    """Every command of a detector's life, in its order, with its files in a folder."""
    train, test, good = str(data / "train"), str(data), str(data / "test" / "good")
    run, other, exported = str(to / "run"), str(to / "run2"), str(to / "run" / "model.onnx")
    maps = ["--maps", str(to / "maps"), "--regions", str(to / "regions.csv")]
    return [
        ["inspect", train, "--sheet", str(to / "sheet.png")],
        ["train", train, "--out", run],
        ["info", run],
        ["score", run, test, "--out", str(to / "scores.csv"), *maps],
        ["evaluate", run, test],
        ["report", run, test],
        ["check", run, good],
        ["monitor", run, good, "--window", "10", "--chart", str(to / "drift.svg")],
        ["export", run, "--maps"],
        ["score", exported, test, "--out", str(to / "exported.csv")],
        ["train", train, "--out", other, "--preset", "features"],
        ["compare", run, other, test],
        ["calibrate", run, good],
        ["benchmark", "real", test, "--methods", "robust", "--out", str(to / "table")],
    ]


def page(data: Path, watched: list[Watched]) -> str:
    """The table, in Markdown."""
    images = [path for path in (data / "train").rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    sizes = Counter(Image.open(path).size for path in images)
    (width, height), _ = sizes.most_common(1)[0]
    rows = [
        f"| `alocc {one.command}` | {one.seconds:.0f} | {one.longest_gap:.1f} | "
        f"{one.said_before.replace('|', '/')[:60]} |"
        for one in watched
    ]
    worst = max(one.longest_gap for one in watched)
    return "\n".join([
        "# How long a command says nothing",
        "",
        f"Every command on {len(images)} training photographs of {width}×{height}, from its start to its end, standard output and error taken from a pipe. "
        f"The longest silence is {worst:.1f} s; {ALLOWED:g} s is what a person should have to bear. "
        f"Written by `python benchmarks/silence.py FOLDER`, {datetime.date.today()}, {os.cpu_count()} cores.",
        "",
        "| command | seconds | longest silence, s | what it had said before |",
        "|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--page", type=Path, help="Markdown file to write; default: standard output")
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    watched = []
    with tempfile.TemporaryDirectory() as folder:
        for command in commands(data, Path(folder)):
            seen = watch(command, data.parent)
            watched.append(seen._replace(command=seen.command.replace(str(data), "DATA").replace(f"{folder}/", "")))
            print(*watched[-1], sep="  ", file=sys.stderr, flush=True)
    text = page(data, watched)
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    else:
        print(text)
    failed = [one.command for one in watched if one.exit_code not in (0, 3)]  # 3: drift, or a useless detector
    for command in failed:
        print(f"failed: alocc {command}", file=sys.stderr)
    return 1 if failed or max(one.longest_gap for one in watched) > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
