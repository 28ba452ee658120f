"""From data to a detector in one call: the whole way of an image through a training, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alocc.config import Config
from alocc.data.sources import Data
from alocc.detector import Detector, image_hashes
from alocc.errors import ArtefactError, ConfigError, DamagedError
from alocc.parts.part import Normals
from alocc.scorer import Scorer
from alocc.stages import in_stage
from alocc.training.calibrating import (
    FoldScorer,
    Kinds,
    calibrate,
    choose_kinds,
    fit_part,
    trial_thumbnails,
    watch_measure,
)
from alocc.training.checkpoint import TrainingState
from alocc.training.folder import RunFolder
from alocc.training.folds import FoldTask, make_fabric, train_fold
from alocc.training.history import Row, joined
from alocc.training.loop import Hooks
from alocc.training.phases import Images
from alocc.training.plan import Device, Plan, Settings, load_training_images
from alocc.training.processes import lead, leading, n_ranks, train_apart, train_together
from alocc.training.ranks import Ranks, check_shares, launched_number

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    Watch = Callable[[Detector], Mapping[str, float]]

AS_FITTING = {False: 1.5, True: 4.5}
"""How many times as long as the first fit of the parts all takes that follows the iterations, without folds and with:
weights, calibration, maps and the health check. Measured on five sets: 1.2, and 3.0 to 5.5, of tiny images 8."""


def train(
    data: Data,
    *,
    normal: Sequence[str] | None = None,
    config: Config | str = "robust",
    seed: int | None = None,
    iterations: int | None = None,
    epochs: int | None = None,
    alpha: float | None = None,
    contamination: float | None = None,
    device: Device = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    strict: bool = False,
    again: bool = False,
    processes: int = 1,
    devices: int | None = None,
    progress: bool = False,
    hooks: Hooks | None = None,
    review_alpha: float | None = None,
) -> Detector:
    """Learn normal images and return a detector of images that are not like them.

    Args:
        data: a folder, a list of image files, the name of a built-in data set, or an array (n, H, W[, C]), uint8 or
            float in [0, 1].
        normal: train on these classes; may be left out where the images have no classes.
        config: a config, or the name of a preset: "robust", "features", "article", "paper" or "ognet".
        seed: decides every random number; the same seed gives the same bits on one machine, with as many threads.
        iterations: updates of R; other phases grow and shrink with it.
        epochs: the same as passes over the training images.
        alpha: false-positive rate to keep; none: 0.01, or the smallest that the images support.
        contamination: share of the training images that may be anomalies; the most unusual ones do not train then.
        device: where to train; "auto" takes a GPU if there is one.
        out: run folder to write; if it holds this very training unfinished, the training goes on there, and if it
            holds it finished, its detector is returned.
        overwrite: replace another training in ``out``.
        strict: stop before the training if an image cannot be used, instead of leaving it out.
        again: train again what is finished in ``out``; the detector there stays as an earlier version.
        processes: in which folds train side by side, each with its share of the threads; needs ``out``. They import
            the program that asks: what it does stands below ``if __name__ == "__main__"``.
        devices: GPUs, or processes without any, that train the same networks together; needs ``out``, as above.
        progress: whether to show a bar with rate and time left.
        hooks: what else looks at the training, or stops it.
        review_alpha: rate up to which an image that is no anomaly is for a person; none: no third verdict.

    Raises:
        ConfigError, DataError, ArtefactError: if an argument, the images or the run folder is wrong.
        NonFiniteLossError: if the training diverges.
    """
    settings = Settings(
        data, normal, config, seed, iterations, epochs, alpha, contamination, device, out, overwrite, strict, again,
        processes, devices, review_alpha=review_alpha,
    )  # fmt: skip
    return run(settings, hooks or Hooks(), progress=progress)


def run(settings: Settings, hooks: Hooks, *, progress: bool = False) -> Detector:
    """:func:`train`, of one object; with a bar if ``progress``."""
    if progress:
        from alocc.progress import training_progress

        with training_progress() as bar:
            return run(settings, replace(hooks, progress=bar))

    config = settings.resolved_config()
    size = n_ranks(settings)
    if hooks.open_watch and max(size, settings.processes) > 1:
        raise ConfigError("a training is watched in one process: leave --watch out, or --processes and --devices")
    fabric = make_fabric(settings.device, config.training.precision, launched_number())
    folder = RunFolder(Path(settings.out)) if settings.out is not None else None
    with folder.locked() if folder else nullcontext(), leading(settings.device, fabric) as ranks:
        images = load_training_images(settings.data, settings.normal, config, settings.strict)
        plan = Plan.settle(config, images, settings.iterations, settings.epochs)
        check_shares(plan, size)
        watch = hooks.open_watch(plan) if hooks.open_watch else None
        if folder:
            folder.claim(plan.config, plan.identity["images"], overwrite=settings.overwrite)
            if folder.is_finished and not settings.again:
                return _finished(folder)
        if hooks.started:
            hooks.started(plan, folder is not None and folder.is_finished)
        return _train(plan, ranks, hooks, watch, folder, settings)


def _train(
    plan: Plan, ranks: Ranks, hooks: Hooks, watch: Watch | None, folder: RunFolder | None, settings: Settings
) -> Detector:
    """Fold after fold from the checkpoints on, then calibration, which is computed from them anew."""
    images = plan.images
    seen = image_hashes(images.normals.images)
    trained, started = 0.0, time.perf_counter()
    folds: list[FoldScorer] = []
    states: list[TrainingState] = []
    kinds = Kinds((), ())
    for index, split in enumerate(images.split.folds):
        normals = plan.normals(split.fit)
        fold = FoldScorer(Scorer(plan.config, plan.frame), images.normals.images[split.held_out])
        if index == 0 or watch:  # later folds' parts are fitted to all images in the end; watched, each to its own
            few, fitting = normals.some(), time.perf_counter()
            for part in in_stage("fitting parts", list(fold.scorer.parts.values())):
                fit_part(part, few)
            kinds = choose_kinds(plan, fold.scorer, few, fold.held_out) if index == 0 else kinds
            hooks = replace(hooks, later=AS_FITTING[images.split.crosses] * (time.perf_counter() - fitting))
        before, task = time.perf_counter(), _task(plan, index, normals, kinds, folder)
        if index == 0 and _train_elsewhere(task, ranks, hooks, folder, settings):
            hooks = replace(hooks, resumed=None)  # which was said there
        measures = {"watch": watch_measure(watch, plan, fold, seen)} if watch else {}
        states.append(train_fold(task, Ranks(ranks.fabric), hooks, fold.scorer, measures))
        trained += time.perf_counter() - before
        folds.append(fold)
    histories = [state.history.rows for state in states]
    detector = calibrate(plan, folds, seen, {**images.summary, **_findings(kinds, histories)})
    if folder:
        of_folds = [state.seconds for state in states]  # side by side, or one after the other
        earlier = max(0.0, max(*of_folds, sum(of_folds) / settings.processes) - trained)  # until it was stopped
        seconds = earlier + time.perf_counter() - started
        folder.write(detector, joined(histories), _run_notes(plan, seconds, ranks.fabric, settings))
        if hooks.written:
            hooks.written(detector)
        folder.finish()
    return detector


def _task(plan: Plan, fold: int, normals: Normals, kinds: Kinds, folder: RunFolder | None) -> FoldTask:
    held_out = plan.images.normals.images[plan.images.split.folds[fold].held_out]
    images = Images(normals.images, trial_thumbnails(plan, held_out), kinds.met)
    return FoldTask(plan, fold, images, kinds, folder.checkpoint(fold) if folder else None)


def _train_elsewhere(first: FoldTask, ranks: Ranks, hooks: Hooks, folder: RunFolder | None, settings: Settings) -> bool:
    """Train all folds to their last checkpoints in other processes, if that is asked for; whether it is."""
    plan, splits = first.plan, first.plan.images.split.folds
    processes, size = min(settings.processes, len(splits)), max(ranks.size, settings.devices or 1)
    if processes < settings.processes:
        hooks.warned(f"--processes {settings.processes}: this training has {len(splits)} fold{'s'[: len(splits) > 1]}")
    if max(processes, size) == 1:
        return False
    others = [
        _task(plan, fold, plan.normals(split.fit), first.kinds, folder) for fold, split in enumerate(splits) if fold
    ]
    if ranks.size > 1:
        lead([first, *others], ranks, hooks)
    elif size > 1:
        train_together([first, *others], settings.device, size, hooks)
    else:
        train_apart([first, *others], settings.device, processes, hooks)
    return True


def _finished(folder: RunFolder) -> Detector:
    try:
        return Detector.load(folder.root)
    except DamagedError as error:
        raise ArtefactError(f"{error}; --again trains it again") from None


def _findings(kinds: Kinds, histories: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """What the training found out: kinds of pseudo-anomaly, and the worst polarity of all folds at each evaluation."""
    found: dict[str, Any] = {"negatives": list(kinds.met)} if kinds.met else {}
    if kinds.looks_normal:
        found["looks_normal"] = list(kinds.looks_normal)
    polarity = [[float(row["polarity"]) for row in rows if "polarity" in row] for rows in histories]
    if all(polarity):
        found["polarity"] = [min(of_all_folds) for of_all_folds in zip(*polarity, strict=False)]
    return found


def _run_notes(plan: Plan, seconds: float, fabric: Fabric, settings: Settings) -> dict[str, Any]:
    skipped = [item._asdict() for item in plan.images.normals.skipped]
    device = {"device": str(fabric.device), "threads": torch.get_num_threads()}
    spread = {"processes": settings.processes, "ranks": n_ranks(settings)}
    several = {name: n for name, n in spread.items() if n > 1}
    took = {"training_seconds": round(seconds, 2), "skipped": skipped}
    return {**plan.images.summary, **device, **several, **took, **settings.notes}
