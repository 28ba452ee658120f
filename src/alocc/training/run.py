"""From data to a detector in one call: the whole way of an image through a training, top to bottom."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from alocc.config import Config
from alocc.data.sources import Data
from alocc.detector import Detector, image_hashes
from alocc.errors import ArtefactError, ConfigError, DamagedError
from alocc.networks.architecture import build_networks
from alocc.parts.places import Places
from alocc.scorer import Scorer
from alocc.seeding import generator
from alocc.stages import in_stage
from alocc.training.batches import Batches
from alocc.training.calibrating import (
    FoldScorer,
    Kinds,
    calibrate,
    choose_kinds,
    fit_part,
    polarity_measure,
    trial_thumbnails,
    watch_measure,
)
from alocc.training.checkpoint import TrainingState
from alocc.training.folder import RunFolder
from alocc.training.history import Row, joined
from alocc.training.loop import Hooks, Measure, train_networks
from alocc.training.phases import STREAMS, Images, make_optimizers
from alocc.training.plan import Device, Plan, Settings, load_training_images

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
    progress: bool = False,
    hooks: Hooks | None = None,
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
        progress: whether to show a bar with rate and time left.
        hooks: what else looks at the training, or stops it.

    Raises:
        ConfigError, DataError, ArtefactError: if an argument, the images or the run folder is wrong.
        NonFiniteLossError: if the training diverges.
    """
    settings = Settings(
        data, normal, config, seed, iterations, epochs, alpha, contamination, device, out, overwrite, strict, again
    )
    return run(settings, hooks or Hooks(), progress=progress)


def run(settings: Settings, hooks: Hooks, *, progress: bool = False) -> Detector:
    """:func:`train`, of one object; with a bar if ``progress``."""
    if progress:
        from alocc.progress import training_progress

        with training_progress() as bar:
            return run(settings, replace(hooks, progress=bar))

    config = settings.resolved_config()
    fabric = make_fabric(settings.device, config.training.precision)
    folder = RunFolder(Path(settings.out)) if settings.out is not None else None
    with folder.locked() if folder else nullcontext():
        images = load_training_images(settings.data, settings.normal, config, settings.strict)
        plan = Plan.settle(config, images, settings.iterations, settings.epochs)
        watch = hooks.open_watch(plan) if hooks.open_watch else None
        if folder:
            folder.claim(plan.config, plan.identity["images"], overwrite=settings.overwrite)
            if folder.is_finished and not settings.again:
                return _finished(folder)
        if hooks.started:
            hooks.started(plan, folder is not None and folder.is_finished)
        return _train(plan, fabric, hooks, watch, folder, settings.notes)


def _train(
    plan: Plan, fabric: Fabric, hooks: Hooks, watch: Watch | None, folder: RunFolder | None, notes: Mapping[str, Any]
) -> Detector:
    """Fold after fold from the checkpoints on, then calibration, which is computed from them anew."""
    images = plan.images
    seen = image_hashes(images.normals.images)
    earlier, started = 0.0, time.perf_counter()
    folds: list[FoldScorer] = []
    histories: list[list[Row]] = []
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
        state = initial_state(plan, index, fold.scorer, len(normals), fabric)
        measures: dict[str, Measure] = {}
        if watch:
            measures["watch"] = watch_measure(watch, plan, fold, seen)
        if "d" in plan.config.scoring:
            measures["polarity"] = polarity_measure(plan, fold, kinds)
        trained_with = Images(normals.images, trial_thumbnails(plan, fold.held_out), kinds.met)
        before = time.perf_counter()
        checkpoint = folder.checkpoint(index) if folder else None
        train_networks(plan, index, state, trained_with, fabric, hooks, measures, checkpoint)
        earlier += state.seconds - (time.perf_counter() - before)  # what an earlier, stopped training took
        folds.append(fold)
        histories.append(state.history.rows)
    detector = calibrate(plan, folds, kinds, seen, {**images.summary, **_findings(kinds, histories)})
    if folder:
        seconds = earlier + time.perf_counter() - started
        folder.write(detector, joined(histories), _run_notes(plan, seconds, fabric, notes))
        if hooks.written:
            hooks.written(detector)
        folder.finish()
    return detector


def _finished(folder: RunFolder) -> Detector:
    try:
        return Detector.load(folder.root)
    except DamagedError as error:
        raise ArtefactError(f"{error}; --again trains it again") from None


def initial_state(plan: Plan, fold: int, scorer: Scorer, n_images: int, fabric: Fabric) -> TrainingState:
    """Fresh networks, put into the scorer, with their optimisers and random streams."""
    config, seen, prefix = plan.config, plan.frame.thumbnail_format, f"fold{fold + 1}/" if fold else ""
    streams = {name: generator(config.seed, prefix + name) for name in STREAMS}
    R, D = build_networks(config.networks, seen.channels, seen.size, generator(config.seed, prefix + "weights"))
    scorer.add_networks(R, D)
    networks: dict[str, torch.nn.Module] = {"R": R, "D": D}
    if config.training.old_is_gold:
        networks["R_old"] = copy.deepcopy(R).eval()
    if any("places" in phase.trained for phase in plan.phases[fold]):
        networks["places"] = cast(Places, scorer.parts["places"]).network
        cast(Places, scorer.parts["places"]).network.initialise(streams["places"])
    scorer.compute_on(fabric.device)
    for network in networks.values():
        network.to(fabric.device)
    batches = Batches(n_images, config.training.batch_size or 1, streams["batches"])
    optimizers = make_optimizers(plan.phases[fold], networks)
    return TrainingState(networks, optimizers, streams, batches, {**plan.identity, "fold": fold})


def make_fabric(device: Device, precision: Literal["auto", "32-true", "bf16-mixed"]) -> Fabric:
    """One device and one precision, through Lightning Fabric.

    Raises:
        ConfigError: if the machine has no such device.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        return Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]  # settled before
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"device {device} is not available on this machine ({error}); use --device auto") from None


def _findings(kinds: Kinds, histories: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """What the training found out: kinds of pseudo-anomaly, and the worst polarity of all folds at each evaluation."""
    found: dict[str, Any] = {"negatives": list(kinds.met)} if kinds.met else {}
    if kinds.looks_normal:
        found["looks_normal"] = list(kinds.looks_normal)
    polarity = [[float(row["polarity"]) for row in rows if "polarity" in row] for rows in histories]
    if all(polarity):
        found["polarity"] = [min(of_all_folds) for of_all_folds in zip(*polarity, strict=False)]
    return found


def _run_notes(plan: Plan, seconds: float, fabric: Fabric, notes: Mapping[str, Any]) -> dict[str, Any]:
    skipped = [item._asdict() for item in plan.images.normals.skipped]
    device = {"device": str(fabric.device), "threads": torch.get_num_threads()}
    return {**plan.images.summary, **device, "training_seconds": round(seconds, 2), "skipped": skipped, **notes}
