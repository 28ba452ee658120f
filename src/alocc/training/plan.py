"""What a training decides before it starts: the settled config, the images and their split, the phases of each fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from alocc.config import PHASES, PRESETS, Config, preset, with_iterations, with_values
from alocc.data.appearance import usual_appearance
from alocc.data.frame import Frame
from alocc.data.sources import Data, ImageSet, open_normals
from alocc.data.splits import Split, split_normals
from alocc.detector import fingerprint, library_versions
from alocc.errors import ConfigError
from alocc.parts import PARTS, check_installed, check_parts
from alocc.parts.descriptions import most_unusual
from alocc.parts.part import Normals
from alocc.parts.places import COARSE_FROM
from alocc.seeding import generator
from alocc.stages import stage
from alocc.synthesis.augmentation import augmented
from alocc.training.phases import Phase

PIXELS_PER_BATCH = 64 * 28 * 28
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Settings:
    """What the caller of a training asks for; the arguments of :func:`alocc.train`."""

    data: Data
    normal: Sequence[str] | None = None
    config: Config | str = "robust"
    seed: int | None = None
    iterations: int | None = None
    epochs: int | None = None
    alpha: float | None = None
    contamination: float | None = None
    device: Device = "auto"
    out: str | Path | None = None
    overwrite: bool = False
    strict: bool = False
    again: bool = False
    processes: int = 1
    """In which folds train side by side."""
    devices: int | None = None
    """Processes or GPUs on each node that train the same networks together; none: one, or as a launcher started."""
    nodes: int | None = None
    review_alpha: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Kept in the run's summary, for the report."""

    def resolved_config(self) -> Config:
        """The config with the arguments on top, and the precision settled, so that a run's config tells it.

        Raises:
            ConfigError: if an argument is wrong.
        """
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral | None):
            raise ConfigError(f"seed must be a whole number, got {self.seed!r}")
        values: dict[str, Any] = {
            "seed": None if self.seed is None else int(self.seed),
            "calibration": {"alpha": self.alpha, "review_alpha": self.review_alpha},
        }
        values["training"] = {"contamination": self.contamination}
        config = preset(self.config) if isinstance(self.config, str) else self.config
        if config.training.precision == "auto":
            on_cpu = self.device == "cpu" or not torch.accelerator.is_available()
            values["training"]["precision"] = "bf16-mixed" if on_cpu and native_bfloat16() else "32-true"
        config = with_values(config, _without_none(values), source="")
        check_parts(config)
        check_installed(config)
        return config


@dataclass(frozen=True)
class TrainingImages:
    """The normal images of a training, split."""

    normals: ImageSet
    frame: Frame
    split: Split
    """Which of them train and which calibrate."""
    summary: Mapping[str, Any]
    """What the detector will remember of them."""


@dataclass(frozen=True)
class Plan:
    """All decisions of a training, made once; nothing changes them afterwards."""

    config: Config
    """Complete: batch size, precision and lengths are settled."""
    images: TrainingImages
    phases: tuple[tuple[Phase, ...], ...]
    """Of each fold."""

    @classmethod
    def settle(cls, config: Config, images: TrainingImages, iterations: int | None, epochs: int | None) -> Plan:
        """Decide what a config leaves open.

        Args:
            config: of the training.
            images: what it trains on.
            iterations: updates of R; other phases in proportion; none: the config's.
            epochs: the same as passes over the training images, or what is made of them.

        Raises:
            ConfigError: if both are given, or one is less than 1.
        """
        if iterations is not None and epochs is not None:
            raise ConfigError("give iterations or epochs, not both")
        seen = images.frame.thumbnail_format  # by R and D
        scoring, maps = config.scoring, config.maps
        own = PRESETS.get(config.preset, config)  # parts that the caller names stay
        if images.frame.has_thumbnails and maps == own.maps:  # thumbnails say badly where something is
            maps = {name: weight for name, weight in maps.items() if PARTS[name].sees_all_pixels} or maps
        if not images.frame.has_thumbnails and scoring == own.scoring:  # small images are judged as a whole
            scoring = {name: weight for name, weight in scoring.items() if not PARTS[name].sees_all_pixels} or scoring
        config = with_values(config, {"scoring": scoring, "maps": maps}, source="parts")
        if config.training.batch_size is None:  # about 50,000 pixels
            n = round(PIXELS_PER_BATCH / (seen.height * seen.width))
            config = with_values(config, {"training": {"batch_size": min(64, max(16, n))}}, source="batch size")
        if epochs is not None:
            iterations = max(1, round(epochs * _training_rows(config, images) / (config.training.batch_size or 1)))
        if iterations is not None:
            config = with_iterations(config, iterations)
        d, places = config.training.discrimination, config.training.places
        if places and places.iterations is None and d:
            n = d.iterations * (2 if min(seen.size) >= COARSE_FROM else 1)
            config = with_values(config, {"training": {"places": {"iterations": n}}}, source="places")
        return cls(config, images, _phases(config, len(images.split.folds)))

    @property
    def frame(self) -> Frame:
        """Working size, and how images are cut."""
        return self.images.frame

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this training this one; the checkpoint of another is refused."""
        return {"config": self.config.model_dump(mode="json"), "images": self.images.summary["images_sha256"]}

    @property
    def length(self) -> int:
        """Iterations of all phases of all folds."""
        return self.length_before(len(self.phases))

    def length_before(self, fold: int) -> int:
        """Iterations of all folds before this one."""
        return sum(phase.iterations for phases in self.phases[:fold] for phase in phases)

    def normals(self, fit: Tensor) -> Normals:
        """What is learned from: crops of the images with these indices, and changed copies if any are asked for."""
        config, pixels = self.config, self.images.normals.images
        crops, source = self.frame.draw(pixels[fit], generator(config.seed, "tiles"))
        crops, copied = augmented(crops, config.training.augmentation, generator(config.seed, "augmentation"))
        return Normals(self.frame.thumbnails(crops), fit[source[copied]], crops)


def load_training_images(
    data: Data, normal: Sequence[str] | None, config: Config, strict: bool = False
) -> TrainingImages:
    """Read, bring to one format and split the normal images of a training.

    Raises:
        ConfigError, DataError: if there are no such images or too few, or it is not said which are normal.
    """
    stage("looking for images")
    source = open_normals(data, "train", normal)
    frame = Frame.of(config.images, source.infer_format(config.images))
    normals = source.load(frame.image_format, strict)
    # crops are many even of few images, and one pair of networks judges them in half the time
    split = split_normals(len(normals), config.calibration, config.seed, may_cross=frame.n_crops == 1)
    left_out = split.fit[:0]
    if config.training.contamination:
        # twice as many as were named: the anomalies are not the most unusual ones in order
        fit = frame.thumbnails(normals.images[split.fit])
        unusual = most_unusual(fit, frame.thumbnail_format, 2 * config.training.contamination)
        left_out = split.fit[unusual]
    split = split.without(left_out)
    summary = {
        "data": str(data) if isinstance(data, str | Path) else "arrays",
        "normal_classes": list(normal or source.class_names),
        "original_size": list(source.original_size()),
        "n_fit": len(split.fit),
        "n_held_out": len(split.held_out),
        "n_folds": len(split.folds) if split.crosses else 0,
        "n_left_out": len(left_out),
        "n_skipped": len(normals.skipped),
        "images_sha256": fingerprint(normals.images),
        "appearance": usual_appearance(normals.images),
        "versions": library_versions(),
    }  # nothing that differs from one run of a training to the next: the same training is the same file
    return TrainingImages(normals, frame, split, summary)


def native_bfloat16() -> bool:
    """Whether the processor itself multiplies in bfloat16; where it does not, float32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _phases(config: Config, n_folds: int) -> tuple[tuple[Phase, ...], ...]:
    """Folds share the length of a training, so that it takes the time of one; places are learned with the first."""
    training = config.training
    main = training.reconstruction or training.adversarial
    share = (
        config if n_folds == 1 or main is None else with_iterations(config, max(1, round(main.iterations / n_folds)))
    )
    used = {*config.scoring, *config.maps}
    young_r_after = share.training.old_is_gold.old_after if share.training.old_is_gold else None
    phases = tuple(
        Phase(name, phase, young_r_after if name == "adversarial" else None)
        for name in PHASES
        if name != "places" and (name != "discrimination" or "d" in used) and (phase := getattr(share.training, name))
    )
    places = (Phase("places", training.places),) if training.places and "places" in used else ()
    return (phases + places, *[phases] * (n_folds - 1))


def _training_rows(config: Config, images: TrainingImages) -> int:
    """Crops and copies that one pass over all folds' training images takes."""
    augmentation = config.training.augmentation
    of_each = images.frame.crops_of_each(len(images.split.fit)) * (1 + augmentation.copies * augmentation.is_on)
    return sum(len(fold.fit) for fold in images.split.folds) * of_each


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
