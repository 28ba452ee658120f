"""One cell of a table: train one method on one set of normal images, score its test images, keep the figures.

A cell is described by plain values, so that any process can run it and its file tells what it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alocc.benchmark.baselines import fit_baseline
from alocc.calibration import FloatArray
from alocc.config import Config, ImagesConfig
from alocc.data.images import prepare_batch, to_unit_range
from alocc.data.mnist import load_mnist
from alocc.data.sources import BUILT_IN, open_source
from alocc.detector import Detector
from alocc.errors import DataError
from alocc.evaluation.health import measure
from alocc.evaluation.metrics import at_threshold, auroc
from alocc.parts.validation import MOST_IMAGES
from alocc.seeding import generator
from alocc.training.loop import Hooks
from alocc.training.run import train

BoolArray = NDArray[np.bool_]
Images = NDArray[np.uint8]
Classified = tuple[Images, NDArray[np.str_]]

OUTLIER_PERCENTS = (10, 20, 30, 40, 50)


class UnavailableError(Exception):
    """Images that are not on this machine."""


@dataclass(frozen=True)
class Cell:
    """What to run. ``data`` and ``label`` name the images: a source and its normal class, or what a loader knows."""

    protocol: str
    data: str
    label: str
    method: str
    seed: int
    config: Mapping[str, Any] | None = None
    """Complete config where the method is ours; none for a baseline."""
    normals: int | None = None
    """Train on so many normal images; none: all."""
    contamination: float = 0.0
    """Share of the training images that are anomalies in truth, without anybody knowing."""
    watch: bool = False
    """Whether D's AUROC through training is kept."""

    @property
    def name(self) -> str:
        """Distinct for distinct cells of one folder, and fit for a file."""
        return f"{self.label}-{self.method}-seed{self.seed}".replace("/", "_")


@dataclass(frozen=True)
class Task:
    """Images of a cell; anomalies among the training images are not marked."""

    train: Images
    test: Images
    is_anomalous: BoolArray
    in_test: BoolArray | None = None
    """Of the outliers protocol: which images are the test fold, the others being the validation fold."""
    n_skipped: int = 0
    """Images of the data that could not be used."""


def run_cell(cell: Cell, load: Callable[[Cell], Task] | None = None) -> dict[str, Any]:
    """Train, score, measure; the result is JSON. ``load`` reads or makes the images; none: :func:`load_task`."""
    if cell.protocol == "folders":
        from alocc.benchmark.folders import run_folder

        return run_folder(cell)
    task = (load or load_task)(cell)
    began = time.perf_counter()
    if cell.config is None:
        scorer = fit_baseline(cell.method, task.train, cell.seed)
        trained = time.perf_counter()
        score, p_value = scorer(task.test), None
        scored = time.perf_counter()
        figures: dict[str, Any] = {}
    else:
        detector, watched = _train_watched(cell, task)
        trained = time.perf_counter()
        scores = detector.score(task.test)
        scored = time.perf_counter()
        score, p_value = scores.anomaly_score, scores.p_value
        normals = prepare_batch(task.test[~task.is_anomalous], detector.image_format)
        normal_p = p_value[~task.is_anomalous]
        figures = {
            "parts": {name: auroc(part, task.is_anomalous) for name, part in scores.parts.items()},
            "weights": dict(detector.scorer.fusion.weights),
            "health": asdict(measure(detector, normals[:MOST_IMAGES], fresh=True)),
            "n_held_out": len(detector.held_out_scores),
            "false_positives": {str(alpha): int((normal_p <= alpha).sum()) for alpha in (0.01, 0.05, 0.1)},
            "watch": watched,
        }
    figures |= {
        "auroc": auroc(score, task.is_anomalous),
        "n_train": len(task.train),
        "n_normal": int((~task.is_anomalous).sum()),
        "n_anomalous": int(task.is_anomalous.sum()),
        "n_skipped": task.n_skipped,
        "train_seconds": round(trained - began, 2),
        "score_seconds": round(scored - trained, 2),
    }
    if task.in_test is not None:
        figures["f1"] = _f1_by_outliers(score, p_value, task.is_anomalous, task.in_test)
    return figures


def load_task(cell: Cell) -> Task:
    """Read the images of a cell.

    Raises:
        DataError: if there is no such data, or it has too few images.
    """
    if cell.protocol == "outliers":
        return _outliers_task(cell)
    (train, train_classes), (test, test_classes), n_skipped = _splits(cell.data)
    return limited(
        cell,
        Task(train[train_classes == cell.label], test, test_classes != cell.label, n_skipped=n_skipped),
        spoil=train[train_classes != cell.label],
    )


def _splits(data: str) -> tuple[Classified, Classified, int]:
    """Training and test images, with their classes, and how many could not be used; a fifth of a folder's tests."""
    if data in BUILT_IN:
        return load_mnist("train"), load_mnist("test"), 0
    source = open_source(data, "test")
    images = source.load(source.infer_format(ImagesConfig()))
    x = images.images if images.images.dtype == torch.uint8 else (to_unit_range(images.images) * 255).round().byte()
    pixels = x[:, 0].numpy() if x.shape[1] == 1 else x.permute(0, 2, 3, 1).contiguous().numpy()
    in_test = np.zeros(len(pixels), dtype=bool)
    for name in source.class_names:
        members = np.flatnonzero(images.classes == name)
        order = torch.randperm(len(members), generator=generator(0, f"benchmark/{name}")).numpy()
        in_test[members[order[: max(1, round(len(members) / 5))]]] = True
    train, test = ((pixels[part], images.classes[part]) for part in (~in_test, in_test))
    return train, test, len(images.skipped)


def _outliers_task(cell: Cell) -> Task:
    """The papers' split: all images pooled, 60 % of the inlier class train, 20 % validate, 20 % test.

    As many outliers as inliers validate, and test: the tables take as many of them as the percentage asks for.
    """
    (train, train_classes), (test, test_classes), n_skipped = _splits(cell.data)
    images, classes = np.concatenate([train, test]), np.concatenate([train_classes, test_classes])
    stream = generator(cell.seed, "outliers")
    inliers = np.flatnonzero(classes == cell.label)
    inliers = inliers[torch.randperm(len(inliers), generator=stream).numpy()]
    n = len(inliers) // 5
    others = np.flatnonzero(classes != cell.label)
    if n == 0 or len(others) < 2 * n:
        raise DataError(
            f"{cell.label} has {len(inliers)} images and the other classes {len(others)}; "
            f"the protocol needs at least 5 and {max(2, 2 * n)}"
        )
    others = others[torch.randperm(len(others), generator=stream).numpy()][: 2 * n]
    chosen = np.concatenate([inliers[: 2 * n], others])
    is_anomalous = np.arange(len(chosen)) >= 2 * n
    in_test = np.arange(len(chosen)) % (2 * n) >= n
    return Task(images[inliers[2 * n :]], images[chosen], is_anomalous, in_test, n_skipped)


def limited(cell: Cell, task: Task, spoil: Images | None = None) -> Task:
    """Fewer training images, or some of them anomalies, as the cell asks."""
    train, stream = task.train, generator(cell.seed, "limit")
    if cell.normals is not None:
        if cell.normals > len(train):
            raise DataError(f"{cell.label} has {len(train)} normal images to train on, fewer than {cell.normals}")
        train = train[torch.randperm(len(train), generator=stream)[: cell.normals].numpy()]
    if cell.contamination:
        if spoil is None:
            raise DataError("only one-vs-rest has images to spoil the training set with")
        n = round(len(train) * cell.contamination / (1 - cell.contamination))
        train = np.concatenate([train, spoil[torch.randperm(len(spoil), generator=stream)[:n].numpy()]])
    return replace(task, train=train)


def _train_watched(cell: Cell, task: Task) -> tuple[Detector, list[dict[str, float]]]:
    """Train, and evaluate on 400 test images of each side now and then if asked to; they steer nothing."""
    evaluations: list[dict[str, float]] = []
    rng = np.random.default_rng(0)
    sides = [rng.permutation(np.flatnonzero(task.is_anomalous == side))[:400] for side in (False, True)]
    chosen = np.concatenate(sides)

    def watch(detector: Detector) -> Mapping[str, float]:
        scores = detector.score(task.test[chosen])
        evaluations.append({name: auroc(part, task.is_anomalous[chosen]) for name, part in scores.parts.items()})
        return evaluations[-1]

    hooks, config = Hooks(open_watch=(lambda _: watch) if cell.watch else None), Config.model_validate(cell.config)
    detector = train(task.train, config=config, seed=cell.seed, device="cpu", hooks=hooks)
    return detector, evaluations


def _f1_by_outliers(
    score: FloatArray, p_value: FloatArray | None, is_anomalous: BoolArray, in_test: BoolArray
) -> dict[str, dict[str, float]]:
    """F1 with the inlier as positive, at 10 % to 50 % outliers: three thresholds.

    ``validation`` is the papers': the best on the validation fold, labels and all. ``alpha 0.01`` and ``alpha 0.05``
    are ours, from normal images alone.
    """
    result = {}
    for percent in OUTLIER_PERCENTS:
        folds = []
        for fold in (~in_test, in_test):
            inliers, outliers = (np.flatnonzero(fold & (is_anomalous == side)) for side in (False, True))
            n = round(len(inliers) * percent / (100 - percent))
            folds.append(np.concatenate([inliers, outliers[:n]]))
        validation, test = folds
        threshold = _best_threshold(score[validation], ~is_anomalous[validation])
        figures = {"validation": _f1(score[test] <= threshold, ~is_anomalous[test])}
        if p_value is not None:
            for alpha in (0.01, 0.05):
                figures[f"alpha {alpha:g}"] = _f1(p_value[test] > alpha, ~is_anomalous[test])
        result[str(percent)] = figures
    return result


def _f1(called: BoolArray, positive: BoolArray) -> float:
    return at_threshold(called, positive)["f1"]


def _best_threshold(score: FloatArray, is_inlier: BoolArray) -> float:
    """The score up to which calling images inliers gives the best F1."""
    best: float = max(np.unique(score).tolist(), key=lambda value: _f1(score <= value, is_inlier))
    return best
