"""Training past one process: the same networks from two processes as from one? And how much sooner?

Trains the preset `article` on MNIST's '1' with `--devices 1` and `--devices 2`, and `robust` with `--processes 1` and
`--processes 2`, each process with one thread, and writes a section of docs/results/scale-training.md. Rates are of
iterations alone: the difference between a long training and a short one.

python benchmarks/scale_training.py docs/results/scale-training.md [--iterations 300]
"""

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import IMAGES, provenance, run, table

from alocc.data.mnist import load_mnist
from alocc.detector import Detector
from alocc.evaluation.metrics import auroc
from alocc.report.figures import lines
from alocc.storage import write_text

SEEDS = 3
LONGER = 4  # times as many iterations in a long training as in a short one
NAMES = {1: "one process", 2: "two processes"}


def train(out: Path, preset: str, iterations: int, *words: object) -> float:
    """Seconds of a training."""
    command = ["train", "mnist", "--normal", "1", "--preset", preset, "--iterations", iterations, "--device", "cpu"]
    command += ["--set", "training.precision=32-true", "--out", out]
    seconds = run(sys.executable, "-m", "alocc", *command, *words).seconds
    print(f"{out.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return seconds


def losses(folder: Path) -> dict[str, list[float]]:
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in ("iteration", "r_mse", "d_real", "d_fake")}


def same_networks(folder: Path, iterations: int) -> str:
    """Curves and AUROC of one and of two processes."""
    images, digits = (values[::5] for values in load_mnist("test"))
    aurocs: dict[int, list[float]] = {1: [], 2: []}
    for seed in range(SEEDS):
        for n, found in aurocs.items():
            train(folder / f"{n}-{seed}", "article", iterations, "--seed", seed, "--devices", n)
            scores = Detector.load(folder / f"{n}-{seed}").score(images).anomaly_score
            found.append(auroc(scores, digits != "1"))
    one, two = (losses(folder / f"{n}-0") for n in (1, 2))
    curves = {"one: D on fakes": one["d_fake"], "two: D on fakes": two["d_fake"],
              "one: R's error × 10": [10 * v for v in one["r_mse"]], "two: R's error × 10": [10 * v for v in two["r_mse"]]}  # fmt: skip
    write_text(IMAGES / "scale-training.svg", lines(one["iteration"], curves, "loss", "One process, and two"))
    rows = [
        [f"{int(at)}", *(f"{history[name][i]:.5f}" for name in ("r_mse", "d_fake") for history in (one, two))]
        for i, at in enumerate(one["iteration"])
    ]
    spread = [[NAMES[n], *(f"{value:.4f}" for value in found), f"{np.mean(found):.4f}"] for n, found in aurocs.items()]
    return (
        "![losses of one process and of two](../images/scale-training.svg)\n\n"
        + table(["iteration", "R's error, one", "two", "D on fakes, one", "two"], rows[:: max(1, len(rows) // 8)])
        + "\nAUROC of a fifth of the test digits:\n\n"
        + table(["", *(f"seed {seed}" for seed in range(SEEDS)), "mean"], spread)
    )


def rates(folder: Path, iterations: int) -> str:
    """Iterations a second of one process and of two."""
    rows = []
    for preset, option in (("article", "--devices"), ("robust", "--processes")):
        extra = ["--set", "training.places=none", "--set", "maps={mse=1.0}"] if preset == "robust" else []
        extra += ["--set", "calibration.folds=2"] if preset == "robust" else []
        seconds = {}
        for n in (1, 2):
            short, long = (
                train(folder / f"{preset}{n}-{k}", preset, k, option, n, *extra)
                for k in (iterations, LONGER * iterations)
            )
            seconds[n] = (long - short) / (LONGER - 1) / iterations
        cells = (f"{1000 * seconds[n]:.1f}" for n in (1, 2))
        rows.append([f"`{preset} {option}`", *cells, f"× {seconds[1] / seconds[2]:.2f}"])
    return table(["", "ms an iteration, one process", "two", "times as fast"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    facts = provenance(["python", *sys.argv], {})
    with tempfile.TemporaryDirectory() as folder:
        same = same_networks(Path(folder), arguments.iterations)
        rate = rates(Path(folder), max(10, arguments.iterations // 5))
    write_text(
        arguments.page,
        f"# Training in several processes\n\nWritten by `benchmarks/scale_training.py`; one thread a process.\n\n{facts}\n"
        f"## The same networks\n\n`article` on MNIST's '1', {arguments.iterations} iterations, float32, seed 0.\n\n{same}\n"
        f"## How much sooner\n\nTogether (`--devices`), each process takes half of every batch; side by side "
        f"(`--processes`), each takes a fold.\n\n{rate}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
