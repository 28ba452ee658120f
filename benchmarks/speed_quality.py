"""How long until a detector is good, from the start of its process: alocc and its peers."""

from __future__ import annotations

import json
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from measuring import SKIPPED, Bench, UnavailableError, spread, table, worker
from speed_detectors import TASKS, Task, robust, tasks, test_images, train
from speed_figures import quality as draw

from alocc.detector import Detector
from alocc.evaluation.metrics import auroc

OURS = "alocc, `robust`"
ITERATIONS = (10, 25, 50, 100, 250, None)
DEEP = {"PyOD AutoEncoder": "pyod-ae", "PyOD VAE": "pyod-vae", "PyOD DeepSVDD": "pyod-dsvdd"}
CLASSICAL = {"scikit-learn OneClassSVM": "ocsvm", "scikit-learn IsolationForest": "iforest", "LOF on PCA": "lof-pca"}
EPOCHS = (1, 5, 20)


class Reached(NamedTuple):
    """One training of one method: how long it took, how good it is, how much memory it took."""

    length: str
    seconds: float
    auroc: float
    trained_mb: float
    scored_mb: float | None


@cache
def baseline(bench: Bench, method: str, task: str, epochs: int) -> Reached:
    """A peer in a process of its own; its clock stops when it is fitted.

    Raises:
        UnavailableError: if its library is not here.
    """
    result = worker("speed_workers.py", "baseline", method, json.dumps(TASKS[task]), epochs)
    length = f"{epochs} epochs" if epochs else "as it comes"
    seconds = result["trained_at"] - result["began"]
    return Reached(length, seconds, result["auroc"], result["trained_mb"], result["scored_mb"])


@cache
def ours(bench: Bench, task: str, iterations: int | None) -> Reached:
    """``alocc train``, from start to exit, and the AUROC of the detector that it wrote."""
    normal = TASKS[task].normal
    folder, run = (
        robust(bench) if iterations is None and task == list(tasks())[-1] else train(bench, normal, iterations)
    )
    length = "as it comes" if iterations is None else f"{iterations} iterations"
    reached = auroc_of(Detector.load(folder), TASKS[task], bench.pick(None, 300))
    return Reached(length, run.seconds, reached, run.peak_mb, None)


def auroc_of(detector: Detector, task: Task, n: int | None) -> float:
    """On the test images of the task's digits, or the first ones of them."""
    images, digits = (part[:n] for part in test_images())
    kept = np.isin(digits, [task.normal, *task.anomalous])
    return auroc(detector.score(images[kept]).anomaly_score, digits[kept] != task.normal)


def curve_of(bench: Bench, method: str, task: str) -> list[Reached]:
    """A method at all its lengths, shortest first.

    Raises:
        UnavailableError: if its library is not here.
    """
    if method == OURS:
        steps = [partial(ours, bench, task, n) for n in bench.pick(ITERATIONS, (None,))]
    elif method in DEEP:
        steps = [partial(baseline, bench, DEEP[method], task, n) for n in bench.pick(EPOCHS, (1,))]
    else:
        steps = [partial(baseline, bench, CLASSICAL[method], task, 0)]
    reached = [step() for step in steps]
    bench.say(f"{task}: {method}, AUROC {reached[-1].auroc:.4f} after {reached[-1].seconds:.1f} s")
    return reached


def methods(bench: Bench) -> list[str]:
    """All that are compared; a smoke run has one of each kind."""
    return bench.pick([OURS, *DEEP, *CLASSICAL], [OURS, "scikit-learn IsolationForest"])


def all_curves(bench: Bench, task: str) -> dict[str, list[Reached] | str]:
    """Every method's curve, or why there is none."""
    found: dict[str, list[Reached] | str] = {}
    for method in methods(bench):
        try:
            found[method] = curve_of(bench, method, task)
        except UnavailableError as reason:
            found[method] = f"{SKIPPED}: {reason}"
    return found


def quality(bench: Bench) -> str:
    """The section."""
    here = list(tasks())[bench.pick(0, -1) :]
    curves = {task: all_curves(bench, task) for task in here}
    lines = {
        task: {
            method: ([one.seconds for one in curve], [one.auroc for one in curve])
            for method, curve in of_task.items()
            if not isinstance(curve, str)
        }
        for task, of_task in curves.items()
    }
    draw(bench.pictures / "speed-quality.svg", lines, {name: TASKS[name].mark for name in here})
    tables = "\n".join(f"### {name}\n\n{_task_table(name, curves[name])}" for name in here)
    missing = "".join(
        f"\n{name} was not measured: it needs the full MNIST training set in `$ALOCC_DATA/mnist`.\n"
        for name in TASKS.keys() - tasks().keys()
    )
    return f"""\
Every training is a process of its own, and its clock runs from the start of the process until the detector is ready:
imports, reading MNIST, training and, for alocc, calibration, maps, health check and writing the run folder. All have the
same number of threads. A method's curve is made of trainings of several lengths, each from the start, measured once; the
time to the mark is that of the shortest one that reaches it. The labels are the stopwatch's: they choose nothing that a
method keeps. The PyOD models have their defaults, at most {EPOCHS[-1]} epochs; LOF has the 60 first principal components.

{tables}{missing}
![AUROC over seconds](../images/speed-quality.svg)

{_command(bench, here[-1])}
AUROC over seconds, `alocc train` of several lengths (`--iterations`):

{table(["task", "length", "seconds", "AUROC"], _our_rows(curves))}"""


def _task_table(name: str, curves: dict[str, list[Reached] | str]) -> str:
    mark = TASKS[name].mark
    head = ["method", f"seconds to AUROC {mark}", "by", "whole training, seconds", "its AUROC"]
    rows = []
    for method, curve in curves.items():
        if isinstance(curve, str):
            rows.append([method, curve, "", "", ""])
            continue
        first = min((one for one in curve if one.auroc >= mark), key=lambda one: one.seconds, default=None)
        last = curve[-1]
        to_mark = [f"{first.seconds:.1f}", first.length] if first else ["not reached", ""]
        rows.append([method, *to_mark, f"{last.seconds:.1f}", f"{last.auroc:.4f}"])
    return table(head, rows)


def _our_rows(curves: dict[str, dict[str, list[Reached] | str]]) -> list[list[str]]:
    return [
        [task, one.length, f"{one.seconds:.1f}", f"{one.auroc:.4f}"]
        for task, of_task in curves.items()
        if not isinstance(curve := of_task[OURS], str)
        for one in curve
    ]


def _command(bench: Bench, task: str) -> str:
    """The user's command, round after round."""
    normal = TASKS[task].normal
    seconds = bench.interleaved({"train": lambda: train(bench, normal, None, "again").run.seconds})["train"]
    middle, around = spread(seconds)
    return f"`alocc train mnist --normal {normal} --out run`: {middle} s ({around}), median of {bench.rounds} runs.\n"


# ---- memory


def memory_rows(bench: Bench) -> list[list[str]]:
    """Peak memory of every method on the last task: in training, and in scoring where that is the same process."""
    task = list(tasks())[-1]
    rows = []
    for method in methods(bench):
        try:
            last = curve_of(bench, method, task)[-1]
        except UnavailableError as reason:
            rows.append([method, f"{SKIPPED}: {reason}", ""])
            continue
        scored = "see below" if last.scored_mb is None else f"{last.scored_mb:,.0f}"
        rows.append([method, f"{last.trained_mb:,.0f}", scored])
    return rows
