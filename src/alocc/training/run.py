"""From data to a detector in one call: the whole way of an image through a training, top to bottom."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.config import Config, preset, with_iterations, with_values
from alocc.data.augmentation import augmented
from alocc.data.deformation import jitter
from alocc.data.images import ImageFormat, to_unit_range
from alocc.data.negatives import NEGATIVES, make_negatives
from alocc.data.sources import BUILT_IN, Data, ImageSet, open_source
from alocc.data.splits import Split, smallest_alpha, split_normals
from alocc.data.tiles import some, tiles_in
from alocc.detector import (
    Detector,
    Fold,
    compute_parts,
    fingerprint,
    has_d,
    image_hashes,
    library_versions,
    network_format,
    trial_images,
    whole,
)
from alocc.errors import ConfigError, DataError, StoppedError
from alocc.model.localization import Localizer, map_parts
from alocc.model.networks import Networks, build_networks
from alocc.model.places import updates
from alocc.model.scoring import D_PARTS
from alocc.model.statistics import Statistics, thinned
from alocc.model.validation import auroc, useful_kinds
from alocc.seeding import generator
from alocc.training.folder import RunFolder as RunFolder  # noqa: PLC0414  (others import it from here)
from alocc.training.history import Row, joined
from alocc.training.loop import Hooks, Moment, train_networks
from alocc.training.phases import phases_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

POLARITY_IMAGES = 100
LOOKED_AT = 200
"""Held-out images that set the threshold of a look, so that looking stays cheap."""
MOST_TILES = 20_000
"""Tiles that train, where images are cut."""
PIXELS_PER_BATCH = 64 * 28 * 28
Device = Literal["auto", "cpu", "cuda", "mps"]
Watch = Callable[[Detector], Mapping[str, float]]


@dataclass(frozen=True)
class TrainingImages:
    """The normal images of a training, split."""

    normals: ImageSet
    image_format: ImageFormat
    split: Split
    """Which of them train and which calibrate."""
    summary: Mapping[str, Any]
    """What the detector will remember of them."""


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
    hooks: Hooks | None = None,
    started: Callable[[TrainingImages, bool], None] | None = None,
    open_watch: Callable[[TrainingImages], Watch] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Detector:
    """Learn normal images and return a detector of images that are not like them.

    Args:
        data: a folder, the name of a built-in data set, or an array (n, H, W[, C]), uint8 or float in [0, 1].
        normal: train on these classes; may be left out where the images have no classes.
        config: a config, or the name of a preset: "robust", "article", "paper" or "ognet".
        seed: decides every random number; the same seed gives the same bits on one machine.
        iterations: updates of R; other phases grow and shrink with it.
        epochs: the same as passes over the training images.
        alpha: false-positive rate to keep; none: 0.01, or the smallest that the images support.
        contamination: share of the training images that may be anomalies; the most unusual ones do not train then.
        device: where to train; "auto" takes a GPU if there is one.
        out: run folder to write; if it holds this very training unfinished, the training goes on there.
        overwrite: replace another training in ``out``.
        strict: stop before the training if an image cannot be used, instead of leaving it out.
        hooks: progress and stopping.
        started: told of the images before the training starts, and whether it is finished already and runs again.
        open_watch: makes a function that measures the detector as it stands now and then; the figures go into the
            history and steer nothing.
        notes: kept in the run's summary, for the report.

    Raises:
        ConfigError, DataError, ArtefactError: if an argument, the images or the run folder is wrong.
        NonFiniteLossError: if the training diverges.
    """
    config = _resolved(config, device, seed, alpha, contamination)
    folder = RunFolder(Path(out)) if out is not None else None
    fabric = make_fabric(device, config.training.precision)
    images = load_training_images(data, normal, config, strict)
    config = _with_batch_size(config, network_format(config, images.image_format))
    config = _with_length(config, iterations, epochs, _rows(config, images))
    watch = open_watch(images) if open_watch else None
    identity = {"config": config.model_dump(mode="json"), "images": images.summary["images_sha256"]}
    if folder:
        folder.claim(config, identity["images"], overwrite=overwrite)
    if started:
        started(images, folder is not None and folder.model.exists())
    pixels, image_format, parts = images.normals.images, images.image_format, images.split.parts
    judged = network_format(config, image_format)
    seen = image_hashes(pixels)
    summary = dict(images.summary)
    folds: list[Fold] = []
    histories: list[list[Row]] = []
    seconds, began = 0.0, time.perf_counter()
    told = _Told(hooks or Hooks(), config, len(parts), judged)
    for index, part in enumerate(parts):
        stream = f"fold{index + 1}/" if index else ""
        networks = build_networks(
            config.networks, judged.channels, judged.size, generator(config.seed, stream + "weights")
        )
        fit, _ = training_images(config, pixels, part.fit)
        fold = Fold(networks, fit_statistics(config, judged, fit), pixels[part.held_out])
        if not folds and (kinds := choose_kinds(config, fold)):
            summary["negatives"] = kinds
        train_fold = partial(
            train_networks, _shared(config, len(parts)), *networks, fit, fold.held_out, fabric,
            kinds=summary.get("negatives", ()),
            polarity=polarity_of(config, fold, summary.get("negatives", ())),
            identity={**identity, "fold": index},
            streams=stream,
            checkpoint=folder.checkpoint(index) if folder else None,
            hooks=told.of_fold(
                index, partial(_watch_now, watch, config, image_format, fold, seen, summary) if watch else None
            ),
        )  # fmt: skip
        before = time.perf_counter()
        try:
            state = train_fold()
        except StoppedError as stopped:
            raise StoppedError(f"{stopped}{told.where(index)}") from None
        folds.append(Fold(Networks(networks.R.cpu(), networks.D.cpu()), fold.statistics, fold.held_out))
        histories.append(state.history.rows)
        seconds += state.seconds - (time.perf_counter() - before)  # what an earlier, stopped training took
    looks = [[float(row["polarity"]) for row in rows if "polarity" in row] for rows in histories]
    if all(looks):  # a fold may have stopped earlier than another
        summary["polarity"] = [min(of_all_folds) for of_all_folds in zip(*looks, strict=False)]
    statistics, unusual = folds[0].statistics, None
    if images.split.crosses:
        fit, source = training_images(config, pixels, images.split.fit)
        statistics = fit_statistics(config, judged, fit)
        unusual = out_of_fold(config, statistics, images, fit, source)
    localizer = fit_localizer(config, judged, training_images(config, pixels, parts[0].fit)[0], told.maps)
    detector = Detector.calibrate(config, image_format, folds, statistics, localizer, seen, summary, unusual)
    seconds += time.perf_counter() - began
    if folder:
        folder.write(detector, joined(histories), _run_notes(images, seconds, fabric, notes))
    return detector


def make_fabric(device: Device, precision: Literal["auto", "32-true", "bf16-mixed"]) -> Fabric:
    """One device and one precision, through Lightning Fabric.

    Raises:
        ConfigError: if the machine has no such device.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    assert precision != "auto"  # settled with the rest of the config
    try:
        return Fabric(accelerator=device, devices=1, precision=precision)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"device {device} is not to be had on this machine ({error}); use --device auto") from None


def _resolved(
    config: Config | str, device: Device, seed: int | None, alpha: float | None, contamination: float | None
) -> Config:
    """The preset by its name, the arguments on top, and the precision settled, so that a run's config tells it."""
    config = preset(config) if isinstance(config, str) else config
    if seed is not None:
        config = with_values(config, {"seed": seed}, source="seed")
    if alpha is not None:
        config = with_values(config, {"calibration": {"alpha": alpha}}, source="alpha")
    if contamination is not None:
        config = with_values(config, {"training": {"contamination": contamination}}, source="contamination")
    if config.training.precision == "auto":
        on_cpu = device == "cpu" or not torch.accelerator.is_available()
        precision = "bf16-mixed" if on_cpu and native_bfloat16() else "32-true"
        config = with_values(config, {"training": {"precision": precision}}, source="precision")
    return config


def native_bfloat16() -> bool:
    """Whether the processor itself multiplies in bfloat16; where it does not, float32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def fit_statistics(config: Config, image_format: ImageFormat, fit: Tensor) -> Statistics | None:
    """The statistics of the images that train, if anything asks for them."""
    if not config.statistics_parts and not config.training.discrimination:
        return None
    with torch.inference_mode():
        return Statistics(image_format.channels, image_format.size).fit(fit)


def fit_localizer(
    config: Config, image_format: ImageFormat, fit: Tensor, progress: Callable[[int], None] | None = None
) -> Localizer:
    """What says where an image is unusual."""
    parts = map_parts(bool(config.statistics_parts), has_d(config), config.training.discrimination is not None)
    localizer = Localizer(image_format.channels, image_format.size, parts)
    bfloat16 = config.training.precision == "bf16-mixed"
    return localizer.fit(fit, _map_updates(config, image_format), config.seed, progress, bfloat16)


def _map_updates(config: Config, image_format: ImageFormat) -> int:
    phase = config.training.discrimination
    return updates(phase.iterations, image_format.size) if phase else 0


def _suspects(images: Tensor, image_format: ImageFormat, contamination: float) -> Tensor:
    """Which training images might be anomalies, (n,) bool, where the user says that some are.

    Twice as many as were named: the anomalies are not the most unusual ones in order.
    """
    if not contamination:
        return torch.zeros(len(images), dtype=torch.bool)
    with torch.inference_mode():
        return Statistics(image_format.channels, image_format.size).most_unusual(images, 2 * contamination)


def out_of_fold(
    config: Config, statistics: Statistics | None, images: TrainingImages, fitted: Tensor, source: Tensor
) -> dict[str, Tensor] | None:
    """The statistics' parts of all held-out images, fold after fold, where they were fitted themselves."""
    if statistics is None:
        return None
    with torch.inference_mode():
        stream = generator(config.seed, "tenths")
        unusual = statistics.out_of_fold(images.normals.images, fitted, source, stream)
    return {part: values[images.split.held_out] for part, values in unusual.items()}


def training_images(config: Config, images: Tensor, fit: Tensor) -> tuple[Tensor, Tensor]:
    """The images that train, or tiles of them, with changed copies if the config asks for any; and what each is of."""
    trained, source = images[fit], torch.arange(len(fit))
    if config.images.tile:
        trained, source = some(trained, config.images.tile, MOST_TILES, generator(config.seed, "tiles"))
    trained, copied = augmented(trained, config.training.augmentation, generator(config.seed, "augmentation"))
    return trained, fit[source[copied]]


def choose_kinds(config: Config, fold: Fold) -> list[str]:
    """The kinds of pseudo-anomaly that D meets: those of the config that do not look normal in this data."""
    discrimination = config.training.discrimination
    if discrimination is None or fold.statistics is None:
        return []
    return useful_kinds(
        fold.statistics,
        trial_images(config, fold.held_out, generator(config.seed, "trial")),
        discrimination.kinds,
        generator(config.seed, "validation"),
    )


def polarity_of(config: Config, fold: Fold, kinds: Sequence[str]) -> Callable[[], float] | None:
    """A function that measures D's AUROC on kinds of pseudo-anomaly that it does not meet; none if D scores nothing."""
    part = next((part for part in D_PARTS if part in config.scoring), None)
    if part is None:
        return None
    stream = generator(config.seed, "polarity")
    images = to_unit_range(trial_images(config, fold.held_out, generator(config.seed, "trial"))[:POLARITY_IMAGES])
    normals = jitter(images, stream)
    unseen = [kind for kind in NEGATIVES if kind not in kinds]
    pseudo = make_negatives(images[torch.randperm(len(images), generator=stream)], unseen, stream)

    alone = with_values(whole(config), {"scoring": {part: 1.0}}, source="polarity")

    def measure() -> float:
        normal, anomalous = (compute_parts(alone, [fold.networks], None, x)[part] for x in (normals, pseudo))
        return round(auroc(normal, anomalous), 4)

    return measure


def _watch_now(
    watch: Watch,
    config: Config,
    image_format: ImageFormat,
    fold: Fold,
    seen: NDArray[np.int64],
    summary: Mapping[str, Any],
) -> Mapping[str, float]:
    """Look at the networks as they stand; weighing the parts, and maps, would take longer than a look."""
    fixed = with_values(config, {"calibration": {"weights": "fixed"}}, source="watch")
    still = Networks(copy.deepcopy(fold.networks.R).cpu(), copy.deepcopy(fold.networks.D).cpu())
    now = Fold(still, fold.statistics, thinned(fold.held_out, LOOKED_AT))
    if config.calibration.alpha:  # which the images of all folds support, but perhaps not some of those of one
        alpha = max(config.calibration.alpha, smallest_alpha(len(now.held_out)))
        fixed = with_values(fixed, {"calibration": {"alpha": alpha}}, source="watch")
    return watch(Detector.calibrate(fixed, image_format, [now], fold.statistics, None, seen, summary))


def _rows(config: Config, images: TrainingImages) -> int:
    """Images, tiles and copies that one pass over all folds' training images takes."""
    n, tile, augmentation = len(images.split.fit), config.images.tile, config.training.augmentation
    of_each = tiles_in(images.image_format.size, tile, MOST_TILES, n) if tile else 1
    copies = augmentation.copies if augmentation.is_on else 0
    return sum(len(part.fit) for part in images.split.parts) * of_each * (1 + copies)


def _shared(config: Config, n_folds: int) -> Config:
    """The length of the training divided among the folds, so that it takes the same time as without them."""
    if n_folds == 1:
        return config
    training = config.training
    main = training.reconstruction or training.adversarial
    assert main is not None
    return with_iterations(config, max(1, round(main.iterations / n_folds)))


@dataclass(frozen=True)
class _Told:
    """The caller's hooks, told of all folds and of the maps as of one training."""

    hooks: Hooks
    config: Config
    n_folds: int
    judged: ImageFormat

    @property
    def fold_length(self) -> int:
        return sum(phase.config.iterations for phase in phases_of(_shared(self.config, self.n_folds)))

    def of_fold(self, index: int, watch: Callable[[], Mapping[str, float]] | None) -> Hooks:
        before = index * self.fold_length

        def resumed(done: int) -> None:
            finished = done == self.fold_length and index + 1 < self.n_folds  # then the next fold says where it goes on
            if self.hooks.resumed and not finished:
                self.hooks.resumed(before + done)

        return replace(
            self.hooks,
            progress=lambda moment: self._show(moment.phase, before + moment.iteration, moment.losses),
            resumed=resumed,
            watch=watch,
        )

    def where(self, index: int) -> str:
        return f", in fold {index + 1} of {self.n_folds}" if self.n_folds > 1 else ""

    def maps(self, done: int) -> None:
        """Raise StoppedError if the caller wants to stop."""
        self._show("maps", self.n_folds * self.fold_length + done, {})
        if self.hooks.stop_requested and self.hooks.stop_requested():
            raise StoppedError("stopped while it learned where images are unusual; R and D are trained")

    def _show(self, phase: str, done: int, losses: Mapping[str, float]) -> None:
        if self.hooks.progress:
            planned = self.n_folds * self.fold_length + _map_updates(self.config, self.judged)
            self.hooks.progress(Moment(phase, done, planned, losses))


def _with_batch_size(config: Config, image_format: ImageFormat) -> Config:
    """Settle a batch size that was left open: about 50,000 pixels, but 16 to 64 images."""
    if config.training.batch_size is not None:
        return config
    images = round(PIXELS_PER_BATCH / (image_format.height * image_format.width))
    return with_values(config, {"training": {"batch_size": min(64, max(16, images))}}, source="batch size")


def _with_length(config: Config, iterations: int | None, epochs: int | None, n_images: int) -> Config:
    if iterations is not None and epochs is not None:
        raise ConfigError("give iterations or epochs, not both")
    if epochs is not None:
        assert config.training.batch_size is not None  # settled by the size of the images
        iterations = max(1, round(epochs * n_images / config.training.batch_size))
    return config if iterations is None else with_iterations(config, iterations)


def load_training_images(
    data: Data, normal: Sequence[str] | None, config: Config, strict: bool = False
) -> TrainingImages:
    """Read, bring to one format and split the normal images of a training.

    Raises:
        ConfigError, DataError: if there are no such images or too few, or it is not said which are normal.
    """
    if normal is None and str(data) in BUILT_IN:
        raise DataError(f"say which classes of {data} are normal (--normal 1)")
    source = open_source(data, "train", normal)
    if normal is None and len(source.class_names) > 1:
        raise DataError(f"say which classes are normal (--normal); the classes are: {', '.join(source.class_names)}")
    image_format = source.infer_format(config.images)
    normals = source.load(image_format, strict)
    # tiles are many even of few images, and one pair of networks judges them in half the time
    may_cross = config.images.tile is None
    split = split_normals(len(normals), config.calibration, config.seed, may_cross=may_cross)
    left_out = split.fit[_suspects(normals.images[split.fit], image_format, config.training.contamination)]
    split = split.without(left_out)
    summary = {
        "data": str(data) if isinstance(data, str | Path) else "arrays",
        "normal_classes": list(normal or source.class_names),
        "n_fit": len(split.fit),
        "n_held_out": len(split.held_out),
        "n_folds": len(split.parts) if split.crosses else 0,
        "n_left_out": len(left_out),
        "n_skipped": len(normals.skipped),
        "images_sha256": fingerprint(normals.images),
        "versions": library_versions(),
    }  # nothing that differs from one run of a training to the next: the same training is the same file
    return TrainingImages(normals, image_format, split, summary)


def _run_notes(
    images: TrainingImages, seconds: float, fabric: Fabric, notes: Mapping[str, Any] | None
) -> dict[str, Any]:
    skipped = [item._asdict() for item in images.normals.skipped]
    device = {"device": str(fabric.device), "threads": torch.get_num_threads()}
    return {**images.summary, **device, "training_seconds": round(seconds, 2), "skipped": skipped, **(notes or {})}
