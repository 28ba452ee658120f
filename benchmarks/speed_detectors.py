"""The detectors that the benchmark scores with, trained through the command line, and every engine that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measuring import Bench, Run, UnavailableError, alocc
from numpy.typing import NDArray
from speed_workers import smooth_images

from alocc.config import preset, with_settings
from alocc.data.mnist import CONTENT_SHA256, _on_disk, load_mnist
from alocc.detector import Detector
from alocc.errors import InputError
from alocc.runtime import Runtime
from alocc.training.run import train as alocc_train

Images = NDArray[np.uint8]
Score = Callable[[Images], NDArray[np.floating]]
FORMATS = {"ONNX Runtime": "onnx", "OpenVINO": "openvino"}
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}
FRESH = 200
PLAIN = "PyTorch, plain forward in one batch"
PYTORCH = "PyTorch, `alocc`"


class Task(NamedTuple):
    """One digit against others, and the AUROC to reach."""

    normal: str
    anomalous: tuple[str, ...]
    mark: float


TASKS = {
    "'1' against '0'": Task("1", ("0",), 0.99),
    "'8' against the rest": Task("8", tuple("012345679"), 0.97),
}


class Trained(NamedTuple):
    """A run folder, and the command that wrote it."""

    folder: Path
    run: Run


def has_full_mnist() -> bool:
    """Whether the digits that do not come with alocc are on this machine."""
    return all(_on_disk(name) for name in CONTENT_SHA256)


def tasks() -> dict[str, Task]:
    """Those whose images are here."""
    return {name: task for name, task in TASKS.items() if task.normal == "1" or has_full_mnist()}


def train(bench: Bench, normal: str, iterations: int | None, name: str = "") -> Trained:
    """``alocc train mnist --normal …`` in a process of its own; a smoke run's is hardly trained, on few images."""
    out = bench.folder / f"run-{normal}-{iterations}-{name}"
    data: list[object] = ["mnist", "--normal", normal]
    length: list[object] = [] if iterations is None else ["--iterations", iterations]
    if bench.quick:
        data, length = [bench.folder / "few.npy"], ["--iterations", 2, "--set", "calibration.folds=0"]
        np.save(data[0], few_images())
    return Trained(out, alocc("train", *data, "--out", out, "--overwrite", "--again", *length))


@cache
def robust(bench: Bench) -> Trained:
    """``robust`` trained in full on one digit, '8' where it is here."""
    return train(bench, "8" if has_full_mnist() else "1", None)


@cache
def in_folds(bench: Bench) -> Path:
    """``robust`` with two pairs of networks, as few images get it."""
    return hardly_trained(bench.folder / "folds", few_images(), "robust")


@cache
def article(bench: Bench) -> Path:
    """``article``, trained long enough that its scores mean something: an export is compared relative to them."""
    iterations = 1 if bench.quick else 300
    return hardly_trained(bench.folder / "article", few_images(), "article", iterations=iterations)


@cache
def of_side(bench: Bench, side: int) -> Path:
    """``robust`` for images of that size, one pair of networks."""
    settings = ("calibration.folds=0", f"images.size=[{side},{side}]")
    return hardly_trained(bench.folder / f"side-{side}", smooth_images(100, side), "robust", *settings)


def hardly_trained(out: Path, images: Images, name: str, *settings: str, iterations: int = 1) -> Path:
    """A run folder of a detector whose speed is all that counts; the images lie beside it."""
    data = out.with_suffix(".npy")
    np.save(data, images)
    config = with_settings(preset(name), (*settings, "calibration.weights=fixed"))
    alocc_train(data, config=config, iterations=iterations, out=out)
    return out


def few_images() -> Images:
    """Some images of the digit 1."""
    return load_mnist("train", ["1"])[0][:100]


@cache
def exported(bench: Bench, run: Path, format_: str, int8: bool) -> Path:
    """A run's exported file; for int8, the threshold is from ``FRESH`` images that no AUROC here is measured on.

    Raises:
        UnavailableError: if this machine cannot export so.
    """
    out = bench.folder / f"{run.name}{'-int8' if int8 else ''}{SUFFIX[format_]}"
    eighth = ["--int8", "--data", fresh_images(bench, run)] if int8 else []
    alocc("export", run, "--format", format_, "--out", out, *eighth)
    return out


def fresh_images(bench: Bench, run: Path) -> Path:
    """Normal images that a run's training never saw: the first ones of the test set."""
    path = bench.folder / "fresh.npy"
    images, digits = test_images()
    np.save(path, images[digits == digit_of(run)][:FRESH])
    return path


def digit_of(run: Path) -> str:
    """Which digit a run was trained on; '1' where it was given as a file."""
    classes = Detector.load(run).training["normal_classes"]
    return str(classes[0]) if classes else "1"


def exports(bench: Bench, run: Path, wanted: Sequence[bool] = (False, True)) -> dict[str, Path | str]:
    """The exported files, by the name of the engine that runs them; or the reason why there is none.

    A smoke run has one of them, of one run.
    """
    if bench.quick and run != robust(bench).folder:
        return {}
    found: dict[str, Path | str] = {}
    for int8 in bench.pick(wanted, (False,)):
        for name, format_ in bench.pick(FORMATS, {"ONNX Runtime": "onnx"}).items():
            try:
                found[f"{name}, int8" if int8 else name] = exported(bench, run, format_, int8)
            except UnavailableError as reason:
                found[f"{name}, int8" if int8 else name] = str(reason)
    return found


def engines(bench: Bench, run: Path) -> dict[str, Score | str]:
    """Everything that scores in this process; or the reason why it does not."""
    detector = Detector.load(run)
    found: dict[str, Score | str] = {
        PLAIN: plain(detector),
        PYTORCH: lambda images: detector.score(images).anomaly_score,
    }
    for name, file in exports(bench, run).items():
        found[name] = file if isinstance(file, str) else runtime(file)
    return found


def runtime(file: Path) -> Score | str:
    """The runtime without PyTorch, on an exported file."""
    try:
        loaded = Runtime(file, torch.get_num_threads())
    except InputError as reason:
        return str(reason)
    return lambda images: loaded.score(images).anomaly_score


def plain(detector: Detector) -> Score:
    """The same definition in PyTorch as anybody would write it: one forward pass of the whole batch."""

    def score(images: Images) -> NDArray[np.floating]:
        with torch.inference_mode():
            anomaly_score, _ = detector.scorer(torch.from_numpy(images)[:, None])
            return anomaly_score.numpy()

    return score


def test_images() -> tuple[Images, NDArray[np.str_]]:
    """MNIST's 10,000 test images and their digits."""
    return load_mnist("test")
