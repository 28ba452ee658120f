"""Small faults on a large part that turns: drawn screws, 1,024×1,024, lit unevenly, from folders and the command line.

python benchmarks/screws.py [docs/results/screws.md] [--keep FOLDER]

A screw lies in any direction near the middle; the light falls off to one side, differently in each image. A fault is
15 pixels across: a pit, a dent in the outline, or a scratch of that length.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alocc.storage import write_text

SIDE, FAULT = 1024, 15
COUNTS = {"train/good": 120, "test/good": 60, "test/pit": 20, "test/dent": 20, "test/scratch": 20}
OPTIONS = ((), ("--preset", "features"))
WHY = (
    "Each screw is turned the same way up first: [decision 25](../decisions/0025-parts-are-turned-the-same-way-up.md)."
)
Drawn = NDArray[np.float64]


def screw(rng: np.random.Generator, fault: str | None) -> tuple[Drawn, NDArray[np.bool_]]:
    """An image in [0, 1], and the pixels that a fault changed."""
    angle, middle = rng.uniform(0, 2 * np.pi), SIDE / 2 + rng.normal(0, 15, 2)
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    down, across = y - middle[0], x - middle[1]
    along, beside = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    phase = rng.uniform(0, 2 * np.pi)
    thread = np.sin(2 * np.pi * along / 40 + phase)
    is_shaft, is_head = (along > -220) & (along < 330), (along >= -330) & (along <= -220)
    radius = np.where(is_shaft, 55 + 8 * thread, np.where(is_head, 115.0, 0.0))
    radius = np.where(along > 290, radius * np.clip((330 - along) / 40, 0, 1), radius)  # the tip
    place = _place(rng, fault, phase)
    away = np.hypot(along - place[0], beside - place[1])
    clean = _metal(radius, along, beside, is_shaft, phase)
    image = clean.copy()
    if fault == "dent":
        dented = np.where(away < FAULT, np.minimum(radius, np.abs(place[1]) - FAULT / 2), radius)
        image = _metal(dented, along, beside, is_shaft, phase)
    elif fault == "pit":
        image -= 0.25 * np.clip(FAULT / 2 - away + 0.5, 0, 1)
    elif fault == "scratch":
        turn = rng.uniform(0, np.pi)
        run = (along - place[0]) * np.cos(turn) + (beside - place[1]) * np.sin(turn)
        off = (beside - place[1]) * np.cos(turn) - (along - place[0]) * np.sin(turn)
        image += 0.25 * np.clip(1.5 - np.abs(off) + 0.5, 0, 1) * (np.abs(run) < FAULT / 2)
    changed = np.abs(image - clean) > 0.02
    light, towards = rng.uniform(0.0, 0.35), rng.uniform(0, 2 * np.pi)
    falloff = 1 - light * (0.5 + ((x - SIDE / 2) * np.cos(towards) + (y - SIDE / 2) * np.sin(towards)) / SIDE)
    image = image * falloff * rng.uniform(0.92, 1.05) + rng.normal(0, 0.015, image.shape)
    return image.clip(0, 1), changed


def _metal(radius: Drawn, along: Drawn, beside: Drawn, is_shaft: NDArray[np.bool_], phase: float) -> Drawn:
    """A round body on bright ground."""
    inside = np.clip(radius - np.abs(beside) + 0.5, 0, 1) * (radius > 0)
    round_light = np.sqrt(np.clip(1 - (beside / np.maximum(radius, 1)) ** 2, 0, 1))
    metal = 0.25 + 0.4 * round_light + np.where(is_shaft, 0.06 * np.cos(2 * np.pi * along / 40 + phase), 0)
    return 0.82 * (1 - inside) + metal * inside


def _place(rng: np.random.Generator, fault: str | None, phase: float) -> tuple[float, float]:
    """Along and beside the axis: on the shaft, for a dent on a crest of its outline."""
    if fault != "dent":
        return rng.uniform(-200, 270), rng.uniform(-35, 35)
    crest = rng.integers(-4, 6) * 40 + (np.pi / 2 - phase) / (2 * np.pi) * 40
    return crest, rng.choice([-1, 1]) * 63.0


def draw(folder: Path) -> None:
    """Write the set in the layout of industrial sets."""
    for seed, (name, n) in enumerate(COUNTS.items()):
        rng, kind = np.random.default_rng(seed), name.split("/")[1]
        for i in range(n):
            image, changed = screw(rng, None if kind == "good" else kind)
            targets = [(folder / name / f"{i:03}.png", image * 255)]
            if kind != "good":
                targets.append((folder / "ground_truth" / kind / f"{i:03}_mask.png", changed * 255))
            for path, pixels in targets:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.round().astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--keep", type=Path, help="folder to draw into, and to keep")
    arguments = parser.parse_args()
    columns = ("options", "image AUROC", "pixel AUROC", "alpha", "recall", "false alarms", "health", "training, s")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    alocc = [sys.executable, "-c", "import sys; from alocc.cli import main; sys.exit(main())"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch) / "screws"
        if not folder.exists():
            draw(folder)
        for i, options in enumerate(OPTIONS):
            run, began = Path(scratch) / f"run{i}", time.perf_counter()
            subprocess.run([*alocc, "train", str(folder), "--out", str(run), *options], check=True)
            seconds = time.perf_counter() - began
            command = [*alocc, "evaluate", str(run), str(folder), "--json", "--bootstrap", "0"]
            said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            scores = subprocess.run(
                [*alocc, "score", str(run), str(folder / "test/good"), "--json"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            good = json.loads(scores.stdout)
            verdict = json.loads((run / "health.json").read_text())["verdict"]
            shown = (f"`{' '.join(options)}`" if options else "none", f"{said['auroc']:.3f}", f"{said['pixel_auroc']:.3f}",
                     f"{good['alpha']:.3g}", f"{said['recall']:.2f}", f"{good['n_anomalies']} of {COUNTS['test/good']}", verdict, f"{seconds:.0f}")  # fmt: skip
            lines.append(f"| {' | '.join(shown)} |")
            print(lines[-1], flush=True)
    if arguments.page:
        facts = f"`benchmarks/screws.py`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores"
        text = (
            f"# Small faults on a part that turns\n\nDrawn screws of {SIDE}×{SIDE} pixels in any direction, lit unevenly; {COUNTS['train/good']} train, "
            f"{COUNTS['test/good']} normal ones and 60 with a fault of {FAULT} pixels test. `alocc train FOLDER --out run`, with these options. Written by {facts}.\n\n"
        )
        write_text(arguments.page, text + "\n".join(lines) + f"\n\n{WHY}\n")


if __name__ == "__main__":
    main()
