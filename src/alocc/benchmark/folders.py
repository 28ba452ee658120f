"""Folders as industrial sets have them: train/good, test/good, test/<defect>, ground_truth/<defect>.

Each method learns from the first and is compared with the others, images and pixels. Baselines of places describe them
with EfficientNet-Lite0, as the preset ``features`` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alocc.benchmark.baselines import NEED_LITE0, fit_baseline
from alocc.benchmark.cells import Cell
from alocc.benchmark.protocols import method_configs
from alocc.benchmark.running import Result
from alocc.calibration import smallest_alpha
from alocc.config import Config, ImagesConfig, preset
from alocc.data.frame import CELL, thinned
from alocc.data.images import to_unit_range
from alocc.data.resizing import ImageFormat
from alocc.data.sources import open_normals
from alocc.errors import ConfigError, DataError
from alocc.evaluation.labelled import Labelled, evaluate, load_labelled
from alocc.evaluation.metrics import auroc
from alocc.evaluation.pixels import load_masks, pixel_figures
from alocc.parts.features import Lite0Features
from alocc.parts.gaussian import gaussian
from alocc.parts.part import at_full_size
from alocc.seeding import generator
from alocc.training.run import train

NORMAL = ("good",)
ALPHAS = (0.01, 0.05)
MEMORY, MOST_FITTED = 8_000, 500
"""Places of normal images that are remembered; images that a Gaussian is fitted to, at most."""
COLUMNS = {
    "auroc": "image AUROC", "best_part": "best part alone", "pixel_auroc": "pixel AUROC", "pro": "PRO",
    "recall": "recall at .01", "false_alarms": "false alarms at .01", "recall_05": "recall at .05",
    "false_alarms_05": "false alarms at .05", "train_seconds": "training, s", "images_a_second": "images/s",
}  # fmt: skip

SHOWN = ("auroc", "pixel_auroc", "recall", "false_alarms", "train_seconds")
"""Columns for which a terminal has room."""

Judge = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Images (n, C, H, W), uint8 → a score of each, (n,), and a map of each, (n, H, W), or none."""


def run_folder(cell: Cell) -> dict[str, Any]:
    """Train one method on a folder and compare it with the labels; the result is JSON."""
    if cell.config is None:
        return _run_baseline(cell)
    began = time.perf_counter()
    detector = train(cell.data, normal=NORMAL, config=Config.model_validate(cell.config), seed=cell.seed, device="cpu")
    trained = time.perf_counter()
    labelled = load_labelled(cell.data, detector.image_format, NORMAL)
    loaded = time.perf_counter()
    scores = detector.score(labelled.images.images, maps=True)
    scored = time.perf_counter()
    evaluation = evaluate(detector, labelled, scores, resamples=0)
    figures = {
        "size": list(detector.image_format.size),
        "auroc": evaluation.figures["auroc"],
        "parts": dict(evaluation.auroc_of_parts),
        "best_part": max(evaluation.auroc_of_parts.values()),
        "weights": dict(detector.scorer.fusion.weights),
        **evaluation.pixels,
    }
    for alpha, name in zip(ALPHAS, ("", "_05"), strict=True):
        if alpha < smallest_alpha(len(detector.held_out_scores)):
            continue  # it cannot be kept, and nothing is called an anomaly
        called = scores.p_value <= alpha
        figures[f"recall{name}"] = float(called[labelled.is_anomalous].mean())
        figures[f"false_alarms{name}"] = int(called[~labelled.is_anomalous].sum())
    return figures | _counts(labelled) | _seconds(trained - began, scored - loaded, len(scores))


def _run_baseline(cell: Cell) -> dict[str, Any]:
    of_places = cell.method in PLACE_BASELINES
    source = open_normals(cell.data, "train", NORMAL)
    image_format = source.infer_format(preset("features").images if of_places else ImagesConfig())
    began = time.perf_counter()
    normals = source.load(image_format).images
    judge = PLACE_BASELINES[cell.method](normals, cell.seed) if of_places else _of_pixels(cell, normals)
    trained = time.perf_counter()
    labelled = load_labelled(cell.data, image_format, NORMAL)
    loaded = time.perf_counter()
    with torch.inference_mode():
        scores, maps = judge(labelled.images.images)
    scored = time.perf_counter()
    figures: dict[str, Any] = {
        "size": list(image_format.size),
        "auroc": auroc(scores.double().numpy(), labelled.is_anomalous),
    }
    if maps is not None and any(labelled.images.masks):
        kept = np.array([mask is not None for mask in labelled.images.masks]) | ~labelled.is_anomalous
        masks = load_masks(labelled.images[kept].masks, image_format)
        figures |= pixel_figures(maps.numpy()[kept], masks, np.inf)
        del figures["pixel_f1"]  # there is no threshold
    return figures | _counts(labelled) | _seconds(trained - began, scored - loaded, len(scores))


def _of_pixels(cell: Cell, normals: Tensor) -> Judge:
    scorer = fit_baseline(cell.method, normals.permute(0, 2, 3, 1).numpy(), cell.seed)
    return lambda images: (torch.from_numpy(np.asarray(scorer(images.permute(0, 2, 3, 1).numpy()))), None)


def patchcore_like(normals: Tensor, seed: int) -> Judge:
    """Distance of each place from the nearest of 8,000 places of normal images; an image's is the largest.

    After Roth et al. 2022: means over 3×3 places; the memory is drawn at random, where they choose a core set.
    """
    describe, stream = _describing(normals), generator(seed, "memory")
    of_each = -(-MEMORY // len(normals))
    images = (places for batch in torch.split(normals, 8) for places in describe(batch).flatten(1, 2))
    drawn = [places[torch.randperm(len(places), generator=stream)[:of_each]] for places in images]
    memory = torch.cat(drawn)[:MEMORY]

    def distance(described: Tensor) -> Tensor:
        return torch.stack(
            [torch.cdist(image.flatten(0, 1), memory).amin(1).view(image.shape[:2]) for image in described]
        )

    return _judging(describe, distance, normals)


def padim_like(normals: Tensor, seed: int) -> Judge:
    """Mahalanobis distance of each place from a Gaussian of that place, of 500 images; an image's is the largest.

    After Defard et al. 2021, with the shrinkage of Ledoit & Wolf where they add .01 to the diagonal.
    """
    describe = _describing(normals)
    few = thinned(normals, MOST_FITTED)
    rows = torch.cat([describe(batch) for batch in torch.split(few, 8)]).flatten(1, 2)  # (n, places, p)
    fitted = [gaussian(rows[:, i].double()) for i in range(rows.shape[1])]
    mean, whitening = (torch.stack(each).float() for each in zip(*fitted, strict=True))

    def distance(described: Tensor) -> Tensor:
        rest = described.flatten(1, 2) - mean
        distances: Tensor = torch.einsum("npd,pde->npe", rest, whitening).norm(dim=2)
        return distances.view(described.shape[:3])

    return _judging(describe, distance, normals)


PLACE_BASELINES = dict(zip(NEED_LITE0, (patchcore_like, padim_like), strict=True))


def _describing(normals: Tensor) -> Callable[[Tensor], Tensor]:
    n_channels, height, width = normals.shape[1:]
    lite0 = Lite0Features(ImageFormat(height, width, n_channels), True)  # type: ignore[arg-type]
    lite0.network.load_pretrained()

    def describe(images: Tensor) -> Tensor:
        with torch.inference_mode():
            described = lite0(to_unit_range(images)).permute(0, 3, 1, 2)
            around: Tensor = F.avg_pool2d(F.pad(described, (1,) * 4, mode="replicate"), 3, 1)
            return around.permute(0, 2, 3, 1)

    return describe


def _judging(describe: Callable[[Tensor], Tensor], distance: Callable[[Tensor], Tensor], normals: Tensor) -> Judge:
    height, width = normals.shape[2:]
    covered = (height + -height % CELL, width + -width % CELL)  # by the places

    def judge(images: Tensor) -> tuple[Tensor, Tensor]:
        grid = torch.cat([distance(describe(batch)) for batch in torch.split(images, 8)])
        return grid.flatten(1).amax(1), at_full_size(grid, covered)[:, 0, :height, :width]

    return judge


def _counts(labelled: Labelled) -> dict[str, int]:
    n_anomalous = int(labelled.is_anomalous.sum())
    return {"n_anomalous": n_anomalous, "n_normal": len(labelled.is_anomalous) - n_anomalous,
            "n_skipped": len(labelled.images.skipped)}  # fmt: skip


def _seconds(training: float, scoring: float, n: int) -> dict[str, float]:
    return {"train_seconds": round(training, 1), "images_a_second": round(n / scoring, 1)}


def folder_cells(folders: Sequence[Path], methods: Mapping[str, Config | None], seeds: int) -> list[Cell]:
    """All cells: folders × methods × seeds.

    Raises:
        ConfigError, DataError: if two folders have one name, or one has no images to train with or to test with.
    """
    names = [folder.resolve().name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f'two folders are called "{name}"; their rows could not be told apart: rename one')
    for folder in folders:
        for split in ("train/good", "test/good"):
            if not (folder / split).is_dir():
                raise DataError(f"{folder} has no {split}: the layout is train/good, test/good, test/<defect>")
    return [
        Cell(
            "folders",
            str(folder),
            folder.resolve().name,
            method,
            seed,
            config.model_dump(mode="json") if config else None,
        )
        for folder in folders
        for method, config in methods.items()
        for seed in range(seeds)
    ]


def folder_rows(results: Sequence[Result], columns: Collection[str] = COLUMNS) -> list[tuple[str, ...]]:
    """A header, then one row for each folder and method: means over seeds."""
    rows: list[tuple[str, ...]] = [("set", "method", *(COLUMNS[name] for name in columns))]
    for label, method in dict.fromkeys((result.cell.label, result.cell.method) for result in results):
        runs = [result.figures for result in results if (result.cell.label, result.cell.method) == (label, method)]
        shown = []
        for name in columns:
            values = [run[name] for run in runs if name in run]
            mean = float(np.mean(values)) if values else None
            of = f" of {runs[0]['n_normal']}" if name.startswith("false_alarms") else ""
            digits = 1 if name in ("train_seconds", "images_a_second") else 0 if of else 3
            shown.append("–" if mean is None else f"{mean:.{digits}f}{of}")
        rows.append((label, method, *shown))
    return rows


def default_methods() -> list[str]:
    """All that is installed."""
    methods = ["robust", "features", *PLACE_BASELINES, "5-nn", "pyod-ae", "pyod-dsvdd"]
    return [method for method in methods if _is_installed(method)]


def _is_installed(method: str) -> bool:
    try:
        method_configs([method], (), PLACE_BASELINES)
    except ConfigError:
        return False
    return True
