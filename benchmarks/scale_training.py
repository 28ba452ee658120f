"""Training past one process: the same networks from two processes as from one? And how much sooner?

Trains R and D of `robust` on MNIST's '1' by one process and by two together (`--devices`); measures the rate of `article` by
two processes together, and of `robust` with its folds side by side (`--processes`); and writes docs/results/scale-training.md.
Each process has one thread. How far two processes are from one is held against how far one process is from itself with two
threads, whose sums have another order too. Rates are of the middle of a training: processes start before it and end after it.

python benchmarks/scale_training.py docs/results/scale-training.md [--iterations 300] [--seeds 3]
"""

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import IMAGES, provenance, table

from alocc.config import preset, with_settings
from alocc.data.mnist import load_mnist
from alocc.evaluation.metrics import auroc
from alocc.report.figures import lines
from alocc.storage import write_text
from alocc.training.loop import Hooks
from alocc.training.run import train

NETWORKS = ["training.precision=32-true", "training.places=none", "maps={mse=1.0}"]
FIRST, LAST = 0.3, 0.9  # shares of a training between which its rate is measured
ALONE, TOGETHER, THREADS = "one process", "two processes", "one, two threads"
SPREAD = {ALONE: (1, {}), TOGETHER: (1, {"devices": 2}), THREADS: (2, {})}
"""Threads of a process, and how the training is spread."""


def losses(folder: Path) -> dict[str, list[float | None]]:
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        name: [float(row[name]) if row[name] else None for row in rows] for name in ("iteration", "r_mse", "d_fake")
    }


def same_networks(folder: Path, iterations: int, seeds: int) -> str:
    """Curves and AUROC."""
    config = with_settings(preset("robust"), [*NETWORKS, "scoring={d=1.0, mse=1.0}", "calibration.folds=0"])
    images, digits = (values[::5] for values in load_mnist("test"))
    aurocs: dict[str, list[float]] = {name: [] for name in SPREAD}
    for seed in range(seeds):
        for name, (threads, spread) in SPREAD.items():
            torch.set_num_threads(threads)
            out = folder / f"{name} {seed}"
            detector = train(
                "mnist", normal=["1"], config=config, seed=seed, iterations=iterations, device="cpu", out=out, **spread
            )
            torch.set_num_threads(1)
            aurocs[name].append(auroc(detector.score(images).anomaly_score, digits != "1"))
            print(f"{name}, seed {seed}: {aurocs[name][-1]:.4f}", file=sys.stderr, flush=True)
    curves = {name: losses(folder / f"{name} 0") for name in SPREAD}
    at = curves[ALONE]["iteration"]
    drawn = {f"{name}: D on fakes": curve["d_fake"] for name, curve in curves.items()}
    write_text(IMAGES / "scale-training.svg", lines(at, drawn, "loss", "One process, and two"))
    rows = [
        [
            int(iteration),
            *(
                f"{value:.5f}" if (value := curve[loss][i]) is not None else ""
                for loss in ("r_mse", "d_fake")
                for curve in curves.values()
            ),
        ]
        for i, iteration in enumerate(at)
    ]
    found = [[name, *(f"{value:.4f}" for value in of), f"{np.mean(of):.4f}"] for name, of in aurocs.items()]
    head = [f"{loss}, {name}" for loss in ("R's error", "D on fakes") for name in SPREAD]
    return (
        "![losses of one process and of two](../images/scale-training.svg)\n\n"
        + table(["iteration", *head], rows[:: max(1, len(rows) // 10)])
        + "\nAUROC of a fifth of the test digits:\n\n"
        + table(["", *(f"seed {seed}" for seed in range(seeds)), "mean"], found)
    )


def rate(folder: Path, name: str, iterations: int, **spread: int) -> float:
    """Iterations a second."""
    settings = (
        [*NETWORKS, "calibration.folds=2", "calibration.enough=100000"] if name == "robust" else NETWORKS[:1]
    )  # two folds of the same phases
    moments: list[tuple[float, float]] = []
    train(
        "mnist", normal=["1"], config=with_settings(preset(name), settings), iterations=iterations, device="cpu",
        out=folder / f"{name} {spread}",
        hooks=Hooks(progress=lambda m: moments.append((m.iteration / m.planned, time.perf_counter()))),
        **spread,
    )  # fmt: skip
    middle = [moment for share, moment in moments if FIRST <= share <= LAST]
    print(f"{name} {spread}: {len(middle) / (middle[-1] - middle[0]):.1f}/s", file=sys.stderr, flush=True)
    return (len(middle) - 1) / (middle[-1] - middle[0])


def rates(folder: Path, iterations: int) -> str:
    """Iterations a second of one process and of two."""
    rows = []
    for name, option in (("article", "devices"), ("robust", "processes")):
        one, two = (rate(folder, name, iterations, **{option: n}) for n in (1, 2))
        rows.append([f"`{name} --{option}`", f"{one:.1f}", f"{two:.1f}", f"× {two / one:.2f}"])
    return table(["", "iterations a second, one process", "two", "times as fast"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--note", default="", help="A sentence about these figures.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts = provenance(["python", *sys.argv], {})
    with tempfile.TemporaryDirectory() as folder:
        same = same_networks(Path(folder), arguments.iterations, arguments.seeds)
        faster = rates(Path(folder), arguments.iterations)
    note = f"{arguments.note}\n\n" if arguments.note else ""
    write_text(
        arguments.page,
        f"# Training in several processes\n\nWritten by `benchmarks/scale_training.py`; one thread a process.\n\n{note}{facts}\n"
        f"## The same networks\n\nR and D of `robust` on MNIST's '1', scored by these two alone, {arguments.iterations} iterations, float32, seed 0. Adam moves a weight "
        "that has no gradient by the sign of what rounding leaves, so trainings drift apart where sums have another order: "
        f"those of two threads do too.\n\n{same}\n"
        f"## How much sooner\n\nTogether (`--devices`), each process takes half of every batch; side by side "
        f"(`--processes`), each takes a fold.\n\n{faster}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
