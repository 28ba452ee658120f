"""From data to a detector in one call: the whole way of an image through a training, top to bottom."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from alocc.config import Config, dump_config, preset, with_iterations, with_values
from alocc.data.deformation import jitter
from alocc.data.images import ImageFormat, to_unit_range
from alocc.data.negatives import NEGATIVES, make_negatives
from alocc.data.sources import BUILT_IN, Data, ImageSet, open_source
from alocc.data.splits import split_normals
from alocc.detector import Detector, compute_parts, fingerprint, has_d, image_hashes, library_versions
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.model.localization import Localizer, map_parts
from alocc.model.networks import Discriminator, Reconstructor, build_networks
from alocc.model.places import ITERATIONS_PER_D
from alocc.model.scoring import D_PARTS
from alocc.model.statistics import Statistics
from alocc.model.validation import auroc, useful_kinds
from alocc.seeding import generator
from alocc.storage import write_text
from alocc.training.history import history_csv
from alocc.training.loop import Hooks, train_networks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

POLARITY_IMAGES = 100
PIXELS_PER_BATCH = 64 * 28 * 28
Device = Literal["auto", "cpu", "cuda", "mps"]
Watch = Callable[[Detector], Mapping[str, float]]


@dataclass(frozen=True)
class TrainingImages:
    """The normal images of a training, split."""

    normals: ImageSet
    image_format: ImageFormat
    fit: Tensor
    """Indices of the images that train."""
    held_out: Tensor
    """Indices of the images that calibrate."""
    summary: Mapping[str, Any]
    """What the detector will remember of them."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one training."""

    root: Path

    @property
    def model(self) -> Path:
        """The detector."""
        return self.root / "model.safetensors"

    @property
    def config(self) -> Path:
        """The complete config."""
        return self.root / "config.toml"

    @property
    def history(self) -> Path:
        """Losses and watched figures through training."""
        return self.root / "history.csv"

    @property
    def checkpoint(self) -> Path:
        """The state of an unfinished training."""
        return self.root / "checkpoints" / "last.safetensors"

    @property
    def summary(self) -> Path:
        """What was trained on, how long it took, which images could not be used."""
        return self.root / "run.json"

    @property
    def health(self) -> Path:
        """The verdict of the last health check."""
        return self.root / "health.json"

    @property
    def report(self) -> Path:
        """The report, once it is asked for."""
        return self.root / "report.html"


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
        hooks: progress and stopping.
        started: told of the images before the training starts, and whether it is finished already and runs again.
        open_watch: makes a function that measures the detector as it stands now and then; the figures go into the
            history and steer nothing.
        notes: kept in the run's summary, for the report.

    Raises:
        ConfigError, DataError, ArtefactError: if an argument, the images or the run folder is wrong.
        NonFiniteLossError: if the training diverges.
    """
    config = _resolved(config, seed, alpha, contamination)
    folder = RunFolder(Path(out)) if out is not None else None
    fabric = make_fabric(device, config.training.precision)
    images = load_training_images(data, normal, config)
    config = _with_batch_size(config, images.image_format)
    config = _with_length(config, iterations, epochs, len(images.fit))
    watch = open_watch(images) if open_watch else None
    identity = {"config": config.model_dump(mode="json"), "images": images.summary["images_sha256"]}
    if folder:
        _claim(folder, config, identity, overwrite)
    if started:
        started(images, folder is not None and folder.model.exists())
    R, D = build_networks(
        config.networks, images.image_format.channels, images.image_format.size, generator(config.seed, "weights")
    )
    pixels = images.normals.images
    held_out = pixels[images.held_out]
    seen = image_hashes(pixels)
    statistics = fit_statistics(config, images.image_format, pixels[images.fit])
    kinds = choose_kinds(config, statistics, held_out)
    summary = {**images.summary, **({"negatives": kinds} if kinds else {})}

    def detector_now() -> Detector:  # weighing the parts, and maps, take longer than a look
        fixed = _with_fixed_weights(config)
        return Detector.calibrate(fixed, images.image_format, R, D, statistics, None, held_out, seen, summary)

    state = train_networks(
        config, R, D, pixels[images.fit], held_out, fabric,
        kinds=kinds,
        polarity=polarity_of(config, R, D, kinds, held_out),
        identity=identity,
        checkpoint=folder.checkpoint if folder else None,
        hooks=replace(hooks or Hooks(), watch=(lambda: watch(detector_now())) if watch else None),
    )  # fmt: skip
    looks = [row["polarity"] for row in state.history if "polarity" in row]
    if looks:
        summary["polarity"] = looks
    localizer = fit_localizer(config, images.image_format, pixels[images.fit]).to(fabric.device)
    detector = Detector.calibrate(config, images.image_format, R, D, statistics, localizer, held_out, seen, summary).to(
        "cpu"
    )
    if folder:
        detector.save(folder.model)
        write_text(folder.history, history_csv(state.history))
        write_text(folder.summary, json.dumps(_run_notes(images, state.seconds, fabric, notes), indent=2))
    return detector


def make_fabric(device: Device, precision: Literal["32-true", "bf16-mixed"]) -> Fabric:
    """One device and one precision, chosen by Lightning Fabric.

    Raises:
        ConfigError: if the machine has no such device.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        return Fabric(accelerator=device, devices=1, precision=precision)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"device {device} is not to be had on this machine ({error}); use --device auto") from None


def _resolved(config: Config | str, seed: int | None, alpha: float | None, contamination: float | None) -> Config:
    config = preset(config) if isinstance(config, str) else config
    if seed is not None:
        config = with_values(config, {"seed": seed}, source="seed")
    if alpha is not None:
        config = with_values(config, {"calibration": {"alpha": alpha}}, source="alpha")
    if contamination is not None:
        config = with_values(config, {"training": {"contamination": contamination}}, source="contamination")
    return config


def fit_statistics(config: Config, image_format: ImageFormat, fit: Tensor) -> Statistics | None:
    """The statistics of the images that train, if anything asks for them."""
    if not config.statistics_parts and not config.training.discrimination:
        return None
    with torch.inference_mode():
        return Statistics(image_format.channels, image_format.size).fit(fit)


def fit_localizer(config: Config, image_format: ImageFormat, fit: Tensor) -> Localizer:
    """What says where an image is unusual."""
    phase = config.training.discrimination
    parts = map_parts(bool(config.statistics_parts), has_d(config), phase is not None)
    iterations = ITERATIONS_PER_D * phase.iterations if phase else 0
    return Localizer(image_format.channels, image_format.size, parts).fit(fit, iterations, config.seed)


def _suspects(images: Tensor, image_format: ImageFormat, contamination: float) -> Tensor:
    """Which training images might be anomalies, (n,) bool, where the user says that some are.

    Twice as many as were named: the anomalies are not the most unusual ones in order.
    """
    if not contamination:
        return torch.zeros(len(images), dtype=torch.bool)
    with torch.inference_mode():
        return Statistics(image_format.channels, image_format.size).most_unusual(images, 2 * contamination)


def choose_kinds(config: Config, statistics: Statistics | None, held_out: Tensor) -> list[str]:
    """The kinds of pseudo-anomaly that D meets: those of the config that do not look normal in this data."""
    discrimination = config.training.discrimination
    if discrimination is None or statistics is None:
        return []
    return useful_kinds(statistics, held_out, discrimination.kinds, generator(config.seed, "validation"))


def polarity_of(
    config: Config, R: Reconstructor, D: Discriminator, kinds: Sequence[str], held_out: Tensor
) -> Callable[[], float] | None:
    """A function that measures D's AUROC on kinds of pseudo-anomaly that it does not meet; none if D scores nothing."""
    part = next((part for part in D_PARTS if part in config.scoring), None)
    if part is None:
        return None
    stream = generator(config.seed, "polarity")
    images = to_unit_range(held_out[:POLARITY_IMAGES])
    normals = jitter(images, stream)
    unseen = [kind for kind in NEGATIVES if kind not in kinds]
    pseudo = make_negatives(images[torch.randperm(len(images), generator=stream)], unseen, stream)

    alone = with_values(config, {"scoring": {part: 1.0}}, source="polarity")

    def measure() -> float:
        normal, anomalous = (compute_parts(alone, R, D, None, x)[part] for x in (normals, pseudo))
        return round(auroc(normal, anomalous), 4)

    return measure


def _with_fixed_weights(config: Config) -> Config:
    return with_values(config, {"calibration": {"weights": "fixed"}}, source="watch")


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


def _claim(folder: RunFolder, config: Config, identity: Mapping[str, Any], overwrite: bool) -> None:
    """Make the run folder this training's: go on with it, start it, or refuse to destroy another one."""
    if overwrite and folder.root.is_dir() and folder.config.exists():
        shutil.rmtree(folder.root)
    claim = dump_config(config) + f"# images {identity['images']}\n"
    if folder.config.exists():
        if folder.config.read_text(encoding="utf-8") != claim:
            raise ArtefactError(
                f"{folder.root} holds a training with another config or other images; "
                "choose another --out, or replace it with --overwrite"
            )
    elif folder.root.exists() and (not folder.root.is_dir() or any(folder.root.iterdir())):
        raise ArtefactError(f"{folder.root} is there already and holds no run; choose another --out")
    if folder.model.exists():  # finished: the same training again, from the start
        folder.checkpoint.unlink(missing_ok=True)
    write_text(folder.config, claim)


def load_training_images(data: Data, normal: Sequence[str] | None, config: Config) -> TrainingImages:
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
    normals = source.load(image_format)
    fit, held_out = split_normals(len(normals), config.calibration, config.seed)
    left_out = _suspects(normals.images[fit], image_format, config.training.contamination)
    fit = fit[~left_out]
    summary = {
        "data": str(data) if isinstance(data, str | Path) else "arrays",
        "normal_classes": list(normal or source.class_names),
        "n_fit": len(fit),
        "n_held_out": len(held_out),
        "n_left_out": int(left_out.sum()),
        "n_skipped": len(normals.skipped),
        "images_sha256": fingerprint(normals.images),
        "versions": library_versions(),
    }  # nothing that differs from one run of a training to the next: the same training is the same file
    return TrainingImages(normals, image_format, fit, held_out, summary)


def _run_notes(
    images: TrainingImages, seconds: float, fabric: Fabric, notes: Mapping[str, Any] | None
) -> dict[str, Any]:
    skipped = [item._asdict() for item in images.normals.skipped]
    device = {"device": str(fabric.device), "threads": torch.get_num_threads()}
    return {**images.summary, **device, "training_seconds": round(seconds, 2), "skipped": skipped, **(notes or {})}
