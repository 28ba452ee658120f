"""Does alocc's training behave as the article's does in Chainer? Accuracy and AUROC along 2,000 iterations of both.

    .venv/bin/python benchmarks/article_behaviour.py    # about half an hour; writes docs/results/article-behaviour.md

The first run makes an environment for Chainer in benchmarks/.chainer-venv. The images, MNIST's '1' to train on and '0'
and '1' to look at, come with alocc. How fast the programs are is in ``speed.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from article_programs import SEED, Training, chainer_python, normal_images, run_chainer, start_alocc
from measuring import provenance, table
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from alocc.config import preset
from alocc.data.images import to_unit_range
from alocc.data.mnist import load_mnist

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "article-behaviour.md"
WATCH_EVERY = 500
TITLE = "# The article's training: does alocc behave as Chainer does?"


class Images(NamedTuple):
    """What is trained on and what is watched."""

    normal: NDArray[np.uint8]
    watched: NDArray[np.uint8]
    anomalous: NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000, help="iterations of each program (default 2000)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Markdown file to write")
    options = parser.parse_args()
    python = chainer_python()
    with tempfile.TemporaryDirectory() as folder:
        page = behaviour(python, Path(folder), load_images(Path(folder)), options.iterations)
    options.out.write_text(page, encoding="utf-8")
    print(page)


def load_images(folder: Path) -> Images:
    """MNIST's '1' and, to watch, the test set's '0' and '1'; also put into ``folder`` for the Chainer program."""
    watched, names = load_mnist("test", ["0", "1"])
    images = Images(normal_images(folder), watched, names == "0")
    np.savez(folder / "watched.npz", images=images.watched, anomalous=images.anomalous)
    return images


def behaviour(python: Path, folder: Path, images: Images, iterations: int) -> str:
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
    versions = {"Chainer": chainer["versions"]["Chainer"]}
    facts = provenance([".venv/bin/python", "benchmarks/article_behaviour.py", *sys.argv[1:]], versions)
    return f"{TITLE}\n\n{facts}\n{textwrap.fill(note, 120)}\n\n{table(head, rows)}"


def train_and_watch(images: Images, iterations: int) -> list[dict[str, float]]:
    """alocc's history, with a row at the same iterations as the Chainer program's."""
    training = start_alocc(images.normal)
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


if __name__ == "__main__":
    main()
