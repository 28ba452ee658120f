"""The article's training in Chainer, as a plain PyTorch port, and in alocc: how fast, and whether it behaves alike.

    .venv/bin/python benchmarks/article_speed.py                # time of one iteration, about two minutes
    .venv/bin/python benchmarks/article_speed.py --behaviour    # accuracy along 2000 iterations, about half an hour

Each writes its section of docs/results/article-speed.md and leaves the other one as it is. The first run makes an
environment for Chainer in benchmarks/.chainer-venv. The images, MNIST's '1' to train on and '0' and '1' to look at,
come with alocc.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_port
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from alocc.config import preset
from alocc.data.images import to_unit_range
from alocc.data.mnist import load_mnist
from alocc.model.networks import build_networks
from alocc.seeding import generator
from alocc.training.batches import Batches
from alocc.training.checkpoint import TrainingState
from alocc.training.phases import STREAMS, begin, make_optimizers, phases_of
from alocc.training.run import make_fabric

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results" / "article-speed.md"
CHAINER_VENV = HERE / ".chainer-venv"
CHAINER_PROGRAM = HERE / "chainer" / "article.py"
REQUIREMENTS = HERE / "chainer" / "requirements.txt"

SEED = 0
WARM_UP = 2  # iterations of each round that are not timed, here as in the Chainer program
WATCH_EVERY = 500
TITLE = """# The article's training: Chainer, PyTorch, alocc

One iteration is one update of D and one of R, each on a fresh batch of 128 images of MNIST's '1' with fresh noise, with
the article's networks and settings. Written by `benchmarks/article_speed.py`.
"""


class Images(NamedTuple):
    """What is trained on and what is watched."""

    normal: NDArray[np.uint8]
    watched: NDArray[np.uint8]
    anomalous: NDArray[np.bool_]


class Training(NamedTuple):
    """alocc's training, ready to go."""

    iterate: Callable[[], object]
    R: torch.nn.Module
    D: torch.nn.Module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behaviour", action="store_true", help="compare what training does, not how long it takes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing, each program once a round (default 5)")
    parser.add_argument("--iterations", type=int, help="iterations a round (default 20), or of a behaviour run (2000)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Markdown file to write")
    options = parser.parse_args()

    python = chainer_python()
    with tempfile.TemporaryDirectory() as folder:
        images = load_images(Path(folder))
        if options.behaviour:
            section = behaviour_section(python, Path(folder), images, options.iterations or 2000)
        else:
            section = speed_section(python, Path(folder), images, options.rounds, options.iterations or 20)
    write_report(options.out, section)


def chainer_python() -> Path:
    """Python of the environment with Chainer, which is made first if it is not there or its requirements changed."""
    python, installed = CHAINER_VENV / "bin" / "python", CHAINER_VENV / "installed.txt"
    requirements = REQUIREMENTS.read_text(encoding="utf-8")
    if installed.exists() and installed.read_text(encoding="utf-8") == requirements:
        return python
    if sys.version_info[:2] != (3, 11):
        sys.exit("Chainer's environment needs Python 3.11, the last one that its NumPy runs on; run this with 3.11")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "venv", "--clear", CHAINER_VENV], check=True)
    subprocess.run([*pip, "setuptools<70", "wheel"], check=True)
    subprocess.run([*pip, "--no-build-isolation", "--requirement", REQUIREMENTS], check=True)
    installed.write_text(requirements, encoding="utf-8")
    return python


def load_images(folder: Path) -> Images:
    """MNIST's '1' and, to watch, the test set's '0' and '1'; also put into ``folder`` for the Chainer program."""
    normal, _ = load_mnist("train", ["1"])
    watched, names = load_mnist("test", ["0", "1"])
    images = Images(normal, watched, names == "0")
    np.save(folder / "normal.npy", images.normal)
    np.savez(folder / "watched.npz", images=images.watched, anomalous=images.anomalous)
    return images


def run_chainer(python: Path, folder: Path, iterations: int, *more: object) -> dict[str, Any]:
    """Train with Chainer, in a process of its own: time of an iteration, history, versions."""
    options = ["--images", folder / "normal.npy", "--iterations", iterations, "--seed", SEED, "--json", *more]
    command = [str(part) for part in (python, CHAINER_PROGRAM, *options)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def start_alocc(images: NDArray[np.uint8], precision: str) -> Training:
    """The preset ``article``, with the networks, the optimisers and the step that ``alocc train`` has."""
    config = preset("article")
    R, D = build_networks(config.networks, 1, (28, 28), generator(SEED, "weights"))
    phases, networks = phases_of(config), {"R": R, "D": D}
    streams = {name: generator(SEED, name) for name in STREAMS}
    batches = Batches(len(images), config.training.batch_size, streams["batches"])
    state = TrainingState(networks, make_optimizers(phases, networks), streams, batches, identity={})
    normals = torch.from_numpy(images)[:, None]
    return Training(begin(phases[0], config, state, normals, (), make_fabric("cpu", precision)), R, D)


# ---- speed


def speed_section(python: Path, folder: Path, images: Images, rounds: int, iterations: int) -> str:
    """Time all programs in turn, round after round, so that a disturbance of the machine meets all of them."""
    chainer = run_chainer(python, folder, 1)["versions"]
    port = pytorch_port.make_iteration(torch.from_numpy(images.normal)[:, None], generator(SEED, "port"))
    programs: dict[str, Callable[[], float]] = {
        f"Chainer {chainer['Chainer']}": lambda: run_chainer(python, folder, iterations)["ms_per_iteration"],
        f"PyTorch {torch.__version__}, line-by-line port": lambda: time_iteration(port, iterations),
    }
    for name, precision in (("float32", "32-true"), ("bfloat16 (`bf16-mixed`)", "bf16-mixed")):
        iterate = start_alocc(images.normal, precision).iterate
        programs[f"alocc, {name}"] = lambda iterate=iterate: time_iteration(iterate, iterations)

    times: dict[str, list[float]] = {name: [] for name in programs}
    for done in range(1, rounds + 1):
        for name, measure in programs.items():
            times[name].append(measure())
        latest = ", ".join(f"{name} {values[-1]:.1f} ms" for name, values in times.items())
        print(f"round {done} of {rounds}: {latest}", file=sys.stderr)

    head = ["", "ms an iteration", "min – max", "times as fast as Chainer", "min – max"]
    table = show("Speed", [head, *speed_rows(times)])
    note = (
        f"Medians of {rounds} rounds, with the lowest and the highest. A round is {iterations} iterations of each "
        f"program in turn, and its figure the median of all but the first {WARM_UP} of them."
    )
    return f"## Speed\n\n{provenance(chainer)}\n{textwrap.fill(note, 120)}\n\n{table}"


def time_iteration(iterate: Callable[[], object], iterations: int) -> float:
    """Milliseconds of one iteration: the median of so many, without the first ones."""
    seconds = []
    for _ in range(iterations):
        started = time.perf_counter()
        iterate()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[WARM_UP:] or seconds)


def speed_rows(times: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Median and range over the rounds, and the same of each round's ratio to Chainer, which comes first."""
    baseline = next(iter(times.values()))
    rows = []
    for name, values in times.items():
        ratios = [slow / fast for slow, fast in zip(baseline, values, strict=True)]
        rows.append([name, *median_and_range(values), *median_and_range(ratios)])
    return rows


def median_and_range(values: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(values):.1f}", f"{min(values):.1f} – {max(values):.1f}"


# ---- behaviour


def behaviour_section(python: Path, folder: Path, images: Images, iterations: int) -> str:
    """Train with Chainer and with alocc, in float32, and look at both now and then."""
    watch_options = ("--watch", folder / "watched.npz", "--watch-every", WATCH_EVERY)
    chainer = run_chainer(python, folder, iterations, *watch_options)
    ours = train_and_watch(images, iterations)

    figures = {"accuracy_article": "accuracy, article's reading", "accuracy_paper": "paper's", "auroc": "AUROC"}
    head = ["iteration", *(f"{who}: {what}" for who in ("Chainer", "alocc") for what in figures.values())]
    rows = [
        [str(theirs["iteration"]), *(f"{row[figure]:.3f}" for row in (theirs, own) for figure in figures)]
        for theirs, own in zip(chainer["history"], ours, strict=True)
    ]
    note = (
        "Test images of MNIST's '0' (anomalous) and '1' (normal), with noise, batch normalisation in test mode, "
        f"float32, seed {SEED}. Accuracy of the argmax of D(R(x)), if D's class 1 is read as anomalous (the article's "
        "reading) and as normal (the paper's); AUROC of 1 − p_real. The two programs draw different random numbers: "
        "it is the range and the flips that compare, not a row."
    )
    table = show("Behaviour", [head, *rows])
    return f"## Behaviour\n\n{provenance(chainer['versions'])}\n{textwrap.fill(note, 120)}\n\n{table}"


def train_and_watch(images: Images, iterations: int) -> list[dict[str, float]]:
    """alocc's history, with a row at the same iterations as the Chainer program's."""
    training = start_alocc(images.normal, "32-true")
    history = []
    for iteration in range(1, iterations + 1):
        training.iterate()
        if iteration % WATCH_EVERY == 0 or iteration == iterations:
            history.append(watch(training, images))
            row = ", ".join(f"{name} {value:.4g}" for name, value in history[-1].items())
            print(f"alocc: iteration {iteration}, {row}", file=sys.stderr)
    return history


def watch(training: Training, images: Images) -> dict[str, float]:
    """The Chainer program's figures, on the same images with the same noise."""
    x = to_unit_range(torch.from_numpy(images.watched)[:, None])
    noise = torch.from_numpy(np.random.default_rng(SEED).standard_normal(x.shape, dtype=np.float32))
    x_noisy = (x + preset("article").corruption.sigma * noise).clamp(0, 1)
    training.R.eval(), training.D.eval()
    with torch.inference_mode():
        logit = torch.cat([training.D(training.R(batch)) for batch in x_noisy.split(500)]).numpy()
    training.R.train(), training.D.train()
    real = logit > 0
    return {
        "accuracy_article": float(np.mean(real == images.anomalous)),
        "accuracy_paper": float(np.mean(real != images.anomalous)),
        "auroc": float(roc_auc_score(images.anomalous, -logit)),
    }


# ---- report


def provenance(chainer: Mapping[str, str]) -> str:
    """When, where and with what: figures without it cannot be checked."""
    versions = f"PyTorch {torch.__version__}, alocc {importlib.metadata.version('alocc')}"
    command = shlex.join([".venv/bin/python", "benchmarks/article_speed.py", *sys.argv[1:]])
    return f"""| | |
|---|---|
| date | {datetime.date.today()} |
| machine | {cpu_model()}, {os.cpu_count()} cores, {platform.system()} |
| versions | Python {platform.python_version()}; {versions}; Chainer {chainer["Chainer"]} on NumPy {chainer["NumPy"]} |
| command | `{command}` |
"""


def cpu_model() -> str:
    """Name of the processor; Python itself does not know it on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def show(title: str, rows: list[list[str]]) -> str:
    """Print the rows, the first of which is the head, and return them as Markdown."""
    head, *body = rows
    table = Table(title=title)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in body:
        table.add_row(*row)
    Console().print(table)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *body))


def write_report(path: Path, section: str) -> None:
    """Put the section into the file in place of its older self; the other section stays, with its own date."""
    old = path.read_text(encoding="utf-8").split("\n## ")[1:] if path.exists() else []
    sections = {text.partition("\n")[0]: text.strip() for text in [*old, section.removeprefix("## ")]}
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"\n## {sections[name]}\n" for name in ("Speed", "Behaviour") if name in sections]
    path.write_text(TITLE + "".join(parts), encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
