"""The article's training as three programs: Chainer in a process of its own, a plain PyTorch port, and alocc."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from alocc.config import PHASES, Config, preset
from alocc.data.mnist import load_mnist
from alocc.networks.architecture import build_networks
from alocc.seeding import generator
from alocc.training.batches import Batches
from alocc.training.checkpoint import TrainingState
from alocc.training.phases import STREAMS, Images, Phase, begin, make_optimizers
from alocc.training.ranks import Ranks
from alocc.training.run import make_fabric

HERE = Path(__file__).parent
CHAINER_VENV = HERE / ".chainer-venv"
CHAINER_PROGRAM = HERE / "chainer" / "article.py"
REQUIREMENTS = HERE / "chainer" / "requirements.txt"
SEED = 0


class Training(NamedTuple):
    """One phase of alocc's training, ready to go."""

    iterate: Callable[[], object]
    R: torch.nn.Module
    D: torch.nn.Module


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


def run_chainer(python: Path, folder: Path, iterations: int, *more: object) -> dict[str, Any]:
    """Train with Chainer on ``folder``/normal.npy: time of an iteration, history, versions."""
    options = ["--images", folder / "normal.npy", "--iterations", iterations, "--seed", SEED, "--json", *more]
    command = [str(part) for part in (python, CHAINER_PROGRAM, *options)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def normal_images(folder: Path) -> NDArray[np.uint8]:
    """MNIST's '1', which comes with alocc; also put into ``folder`` for the Chainer program."""
    images, _ = load_mnist("train", ["1"])
    np.save(folder / "normal.npy", images)
    return images


def start_alocc(images: NDArray[np.uint8], config: Config | None = None, precision: Any = "32-true") -> Training:
    """The last phase of a preset that trains R or D, ``article`` if none, as ``alocc train`` has it."""
    config = config or preset("article")
    R, D = build_networks(config.networks, 1, images.shape[1:3], generator(SEED, "weights"))
    networks = {"R": R, "D": D}
    phases = [Phase(name, own) for name in PHASES if name != "places" and (own := getattr(config.training, name))]
    streams = {name: generator(SEED, name) for name in STREAMS}
    batches = Batches(len(images), config.training.batch_size or 64, streams["batches"])
    state = TrainingState(networks, make_optimizers(phases, networks), streams, batches, identity={})
    kinds = config.training.discrimination.kinds if config.training.discrimination else ()
    normals = torch.from_numpy(images)[:, None]
    ranks = Ranks(make_fabric("cpu", precision))
    begun = begin(phases[-1], config, state, Images(normals, normals[:0], kinds), ranks)
    return Training(begun.iterate, R, D)
