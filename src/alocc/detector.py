"""The fitted artefact, and the only thing that scores: images in, anomaly scores and p-values out, one safe file."""

from __future__ import annotations

import copy
import hashlib
import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.config import Config, with_values
from alocc.conformal import FloatArray, check_alpha, conformal_p_values, smallest_alpha, threshold_at
from alocc.data import tiles
from alocc.data.images import ImageFormat, prepare_batch, to_unit_range
from alocc.data.splits import DEFAULT_ALPHA
from alocc.errors import ArtefactError, DataError
from alocc.model.calibration import Fusion
from alocc.model.localization import Localizer, at_full_size, map_parts
from alocc.model.networks import Networks, build_networks
from alocc.model.scoring import D_PARTS, score_parts
from alocc.model.statistics import Statistics, thinned
from alocc.model.validation import MOST_IMAGES, validated_weights
from alocc.scores import Progress, Scores
from alocc.seeding import generator
from alocc.storage import load_tensors, save_tensors

__all__ = ["Detector", "Fold", "Scores"]

FORMAT_VERSION = 5
SCORING_BATCH = 64
TILED_AT_ONCE = 8
"""Images that are in memory as tiles at one time."""
MOST_MAPPED = 20_000
"""Tiles of held-out images that calibrate the maps, at most."""


class Fold(NamedTuple):
    """Networks, and normal images that they were not trained on."""

    networks: Networks
    statistics: Statistics | None
    """Of the images that the networks were trained on; none if no part of the score needs them."""
    held_out: Tensor
    """(n, C, H, W), uint8 or float32 in [0, 1]."""


@dataclass(frozen=True, eq=False, repr=False)
class Detector:
    """R and D with all that turns their outputs into a verdict. Immutable: make another with :meth:`with_alpha`."""

    config: Config
    image_format: ImageFormat
    networks: Sequence[Networks]
    """One R and D; or several, each trained without a fold of the images, whose judgements are averaged."""
    statistics: Statistics | None
    """Of the images that trained; none if no part of the score needs them."""
    localizer: Localizer | None
    """Says where an image is unusual; none while a training is only looked at."""
    fusion: Fusion
    held_out_scores: FloatArray
    """Anomaly scores of the held-out normal images, sorted ascending."""
    alpha: float
    """False-positive rate that ``is_anomaly`` keeps."""
    seen: NDArray[np.int64]
    """Hash of each image that it was trained or calibrated on."""
    training: Mapping[str, Any]
    """What it was trained on and how that went: data, classes, counts, fingerprint, library versions."""
    held_out_in_order: FloatArray | None = None
    """``held_out_scores`` in the order of the held-out images, fold after fold; none once it was saved and loaded."""

    @classmethod
    def calibrate(
        cls,
        config: Config,
        image_format: ImageFormat,
        folds: Sequence[Fold],
        statistics: Statistics | None,
        localizer: Localizer | None,
        seen: NDArray[np.int64],
        training: Mapping[str, Any],
        unusual: Mapping[str, Tensor] | None = None,
    ) -> Detector:
        """Turn trained networks into a detector with the help of normal images that they were not trained on.

        Args:
            folds: all networks, each with its own held-out images.
            statistics: fitted to all images that trained.
            localizer: fitted to the images that trained the first fold's networks; none: no maps.
            seen: :func:`image_hashes` of all images used.
            training: notes to keep.
            unusual: the statistics' parts of all held-out images, fold after fold, where ``statistics`` was fitted to
                them; none: it was not.
        """
        for network in (network for fold in folds for network in fold.networks):
            network.eval()  # running statistics: a score must not depend on its batch
        if not config.statistics_parts:
            statistics = None
        weights, first = config.weights, folds[0]
        if config.calibration.weights == "validated":
            weights = validated_weights(
                weights,
                lambda x: compute_parts(whole(config), [first.networks], first.statistics, x),
                trial_images(config, first.held_out, generator(config.seed, "trial")),
                training.get("negatives", ()),
                generator(config.seed, "validation"),
            )
        by_fold = [compute_parts(config, [fold.networks], fold.statistics, fold.held_out) for fold in folds]
        n_tiles = tiles_of(config, image_format)
        parts = {name: torch.cat([one[name] for one in by_fold]) for name in weights}
        parts |= {name: values for name, values in (unusual or {}).items() if name in weights}
        fusion = Fusion.fit(weights, parts)
        in_order = fusion(parts).view(-1, n_tiles).amax(1).numpy()
        scores = np.sort(in_order)
        alpha = config.calibration.alpha or max(DEFAULT_ALPHA, smallest_alpha(len(scores)))
        if localizer is not None:
            with torch.inference_mode():
                localizer.calibrate([first.networks], mapped(config, first.held_out), n_tiles)
        networks = [fold.networks for fold in folds]
        return cls(
            config, image_format, networks, statistics, localizer, fusion, scores, alpha, seen, training, in_order
        )

    def __repr__(self) -> str:
        return f"Detector({self.config.preset}, {self.image_format}, alpha {self.alpha:g})"

    @property
    def threshold(self) -> float:
        """An image is an anomaly if and only if its anomaly score is above this."""
        return threshold_at(self.alpha, self.held_out_scores)

    def with_alpha(self, alpha: float) -> Detector:
        """The same detector at another false-positive rate.

        Raises:
            ConfigError: if the held-out images cannot support so small an alpha.
        """
        check_alpha(alpha, len(self.held_out_scores))
        return replace(self, alpha=alpha)

    def recalibrated(self, images: Tensor, alpha: float | None = None, data: str = "arrays") -> Detector:
        """The same detector with another threshold: from newer normal images, without training.

        What the score measures stays as it is; only what counts as normal changes.

        Args:
            images: normal images that training never saw, (n, C, H, W), in the detector's format.
            alpha: false-positive rate to keep; none: what the training asked for, else 0.01, or the smallest that the
                images support.
            data: where they are from, for the notes.

        Raises:
            ConfigError: if the images cannot support so small an alpha.
            DataError: if there are none.
        """
        if not len(images):
            raise DataError("no normal images to calibrate with")
        scores = np.sort(self.score(images).anomaly_score)
        seen = np.union1d(self.seen, image_hashes(images))
        notes = {**self.training, "n_held_out": len(images), "recalibrated_on": data}
        localizer = copy.deepcopy(self.localizer)
        if localizer is not None:
            with torch.inference_mode():
                localizer.recalibrate(self.networks, mapped(self.config, images), self.n_tiles)
        again = replace(
            self, localizer=localizer, held_out_scores=scores, seen=seen, training=notes, held_out_in_order=None
        )
        wanted = self.config.calibration.alpha or DEFAULT_ALPHA
        return again.with_alpha(alpha or max(wanted, smallest_alpha(len(images))))

    def score(self, images: NDArray[np.generic] | Tensor, progress: Progress | None = None) -> Scores:
        """Score images.

        An image's numbers do not depend on the others it is scored with.

        Args:
            images: an array (n, H, W) or (n, H, W, C), uint8 or float in [0, 1], of any size; or a tensor
                (n, C, H, W) already in the detector's format.
            progress: called with the number of images of each finished batch.

        Raises:
            DataError: if the images have a wrong shape, type or value range.
        """
        x = images if isinstance(images, Tensor) else self._prepared(images)
        parts = compute_parts(self.config, self.networks, self.statistics, x, progress)
        fused = self.fusion(parts).view(-1, self.n_tiles)
        worst = torch.arange(len(x)) * self.n_tiles + fused.argmax(1)  # an image is as anomalous as its worst tile
        parts = {name: part[worst] for name, part in parts.items()}
        anomaly_score = fused.amax(1).numpy()
        p_value = conformal_p_values(anomaly_score, self.held_out_scores)
        logits = next((-parts[name] for name in D_PARTS if name in parts), None)
        return Scores(
            anomaly_score,
            p_value,
            p_value <= self.alpha,
            {name: part.numpy() for name, part in parts.items()},
            None if logits is None else torch.sigmoid(logits).numpy(),
            self.alpha,
        )

    def _prepared(self, images: NDArray[np.generic]) -> Tensor:
        try:
            array = np.asarray(images)
        except ValueError:
            raise DataError("images of different sizes are no array; score them one by one, or from files") from None
        if array.ndim == 3 and array.shape[2] == 3 and self.image_format.channels == 3:
            raise DataError(f"{array.shape} looks like one colour image; give image[None], (1, H, W, 3)")
        return prepare_batch(array, self.image_format)

    @property
    def map_threshold(self) -> float:
        """The value that a normal image's map exceeds anywhere with probability alpha, about.

        Where the maps of fewer than 1 / alpha − 1 images calibrated it, the probability is that of the highest of them.
        """
        maxima = self._localizer().held_out_maxima.cpu().double().numpy()
        return threshold_at(max(self.alpha, smallest_alpha(len(maxima))), maxima)

    def anomaly_map(
        self, images: NDArray[np.generic] | Tensor, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Where images are unusual: (n, H, W) at the detector's size, in about standard deviations of normal images.

        0 is as usual as normal images are at that place; a value means the same in every image and at every place.

        Args:
            images: as for :meth:`score`.
            progress: called with the number of images of each finished batch.

        Raises:
            DataError: if the images have a wrong shape, type or value range.
        """
        localizer = self._localizer()
        x = images if isinstance(images, Tensor) else self._prepared(images)

        size = network_format(self.config, self.image_format).size

        def compute(batch: Tensor) -> dict[str, Tensor]:
            return {"map": at_full_size(localizer(self.networks, batch), size)}

        maps = [torch.empty((0, *self.image_format.size))]
        for chunk, told in _chunks(self.config, x, progress):
            judged = in_batches(compute, chunk, self._device, told)
            maps += [self._whole(judged["map"][:, None])[:, 0]] if judged else []
        return torch.cat(maps).numpy()

    def _whole(self, images: Tensor) -> Tensor:
        """Tiles put together again, if they are tiles: (n, C, H, W)."""
        return tiles.stitched(images, self.image_format.size) if self.config.images.tile else images

    @property
    def n_tiles(self) -> int:
        """How many tiles an image is cut into; 1 for whole images."""
        return tiles_of(self.config, self.image_format)

    def of_tiles(self) -> Detector:
        """This detector as one that judges single tiles; unchanged without tiles.

        Such a detector knows no threshold of its own: its p-values mean nothing.
        """
        one = network_format(self.config, self.image_format)
        return replace(self, config=whole(self.config), image_format=one) if self.config.images.tile else self

    def _localizer(self) -> Localizer:
        if self.localizer is None:
            raise ArtefactError("this detector makes no maps; train it again")
        return self.localizer

    def was_seen(self, images: Tensor) -> NDArray[np.bool_]:
        """Which images, in the detector's format, it was trained or calibrated on: their scores flatter it."""
        return np.isin(image_hashes(images), self.seen)

    def to(self, device: str | torch.device) -> Detector:
        """Move the networks, in place, to where scoring shall run; scores come back as arrays all the same."""
        for part in (*itertools.chain(*self.networks), self.statistics, self.localizer):
            if part is not None:
                part.to(device)
        return self

    @property
    def _device(self) -> torch.device:
        return next(self.networks[0].R.parameters()).device

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What R is given and makes of it (the mean, of several), for pictures: (n, C, H, W) each, float32 in [0, 1].

        The input carries the noise of the preset, whether or not the preset adds it when it scores.
        """
        chunks = [in_batches(self._reconstructed, x, self._device) for x, _ in _chunks(self.config, images, None)]
        x_noisy, x_hat = (
            torch.cat([self._whole(chunk[name]) for chunk in chunks if chunk]) for name in ("x_noisy", "x_hat")
        )
        return x_noisy, x_hat

    def _reconstructed(self, x: Tensor) -> dict[str, Tensor]:
        x_noisy = _with_noise(x, self.config)
        return {"x_noisy": x_noisy, "x_hat": torch.stack([R(x_noisy) for R, _ in self.networks]).mean(0)}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: weights, and everything else as JSON. It is the same file for the same detector.

        Raises:
            ArtefactError: if the file cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        for index, (R, D) in enumerate(self.networks):
            tensors |= {f"{index}.R.{name}": value for name, value in R.state_dict().items()}
            tensors |= {f"{index}.D.{name}": value for name, value in D.state_dict().items()}
        if self.statistics is not None:
            tensors |= {f"statistics.{name}": value for name, value in self.statistics.state_dict().items()}
        if self.localizer is not None:
            tensors |= {f"localizer.{name}": value for name, value in self.localizer.state_dict().items()}
        tensors["held_out_scores"] = torch.from_numpy(self.held_out_scores)
        tensors["seen"] = torch.from_numpy(self.seen)
        metadata = {
            "kind": "detector",
            "format_version": FORMAT_VERSION,
            "config": self.config.model_dump(mode="json"),
            "image_format": self.image_format._asdict(),
            "n_networks": len(self.networks),
            "fusion": {"weights": self.fusion.weights, "means": self.fusion.means, "scales": self.fusion.scales},
            "alpha": self.alpha,
            "training": self.training,
        }
        save_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Detector:
        """Read a detector's file, or the one in a run folder. Loading runs no code from the file.

        Raises:
            ArtefactError: if there is no detector, or it is damaged or from a newer version.
        """
        path = artefact_path(path)
        if path.suffix in (".onnx", ".xml"):
            raise ArtefactError(f"{path} is an exported file, which only scores; give the run folder it was made from")
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != "detector":
            raise ArtefactError(f"{path} is not a detector; a run's detector is its model.safetensors")
        if metadata["format_version"] > FORMAT_VERSION:
            raise ArtefactError(f"{path} was written by a newer alocc; upgrade alocc to read it")
        if metadata["format_version"] < FORMAT_VERSION:
            raise ArtefactError(f"{path} was written by an older alocc, with another score; train it again")
        try:
            return cls._restored(tensors, metadata)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ArtefactError(f"{path} is damaged ({type(error).__name__}: {error})") from None

    @classmethod
    def _restored(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Detector:
        config = Config.model_validate(metadata["config"])
        image_format = ImageFormat(**metadata["image_format"])
        networks = []
        judged = network_format(config, image_format)
        for index in range(metadata["n_networks"]):
            blank = generator(config.seed, "weights")
            R, D = build_networks(config.networks, judged.channels, judged.size, blank)
            R.load_state_dict(_below(f"{index}.R.", tensors))
            D.load_state_dict(_below(f"{index}.D.", tensors))
            networks.append(Networks(R.eval(), D.eval()))
        statistics = None
        if config.statistics_parts:
            n_memory = len(tensors["statistics.memory"])
            statistics = Statistics(judged.channels, judged.size, n_memory)
            statistics.load_state_dict(_below("statistics.", tensors))
        parts = map_parts(bool(config.statistics_parts), has_d(config), config.training.discrimination is not None)
        n_held_out = len(tensors["localizer.held_out_maxima"])
        localizer = Localizer(judged.channels, judged.size, parts, n_held_out)
        localizer.load_state_dict(_below("localizer.", tensors))
        return cls(
            config,
            image_format,
            networks,
            statistics,
            localizer,
            Fusion(**metadata["fusion"]),
            tensors["held_out_scores"].numpy(),
            metadata["alpha"],
            tensors["seen"].numpy(),
            metadata["training"],
        )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def artefact_path(path: str | Path) -> Path:
    """The detector's file that ``path`` means: itself, or ``model.safetensors`` in a run folder.

    Raises:
        ArtefactError: if there is none.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.exists():
            raise ArtefactError(f"{path.parent} holds no finished detector (no model.safetensors); train it first")
    return path


def fingerprint(images: Tensor) -> str:
    """SHA-256 of the images' shape, type and pixels."""
    digest = hashlib.sha256(f"{tuple(images.shape)} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images.numpy()).data)
    return digest.hexdigest()


def image_hashes(images: Tensor) -> NDArray[np.int64]:
    """A 64-bit hash of each image's pixels, (n,)."""
    return np.array([_hash64(image) for image in images.numpy()], dtype=np.int64)


def _hash64(array: NDArray[np.generic]) -> int:
    return int.from_bytes(hashlib.blake2b(array.tobytes(), digest_size=8).digest(), "big", signed=True)


def library_versions() -> dict[str, str]:
    """Versions that decide a detector's numbers."""
    from importlib.metadata import version

    names = ("alocc", "torch", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def compute_parts(
    config: Config,
    networks: Sequence[Networks],
    statistics: Statistics | None,
    images: Tensor,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """All parts of the score for images of any number, (n,) float64 each; of tiles, (n · tiles,), image after image."""
    names = list(config.weights)

    def compute(x: Tensor) -> dict[str, Tensor]:
        x_input = _with_noise(x, config) if config.corruption.at_scoring else x
        return {name: part.double() for name, part in score_parts(networks, statistics, x, x_input, names).items()}

    device = next(networks[0].R.parameters()).device
    chunks = [in_batches(compute, chunk, device, told) for chunk, told in _chunks(config, images, progress)]
    none = torch.empty(0, dtype=torch.float64)
    return {name: torch.cat([none, *(chunk[name] for chunk in chunks if chunk)]) for name in names}


def in_batches(
    compute: Callable[[Tensor], Mapping[str, Tensor]],
    images: Tensor,
    device: torch.device,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """What ``compute`` makes of images of any number, in constant memory, on the CPU; nothing of no images.

    Batches are filled up to one fixed size, so that the same arithmetic meets an image whatever it is scored with:
    numerical libraries pick another order of summation for another batch size.
    """
    batches: list[dict[str, Tensor]] = []
    with torch.inference_mode():
        for chunk in torch.split(images, SCORING_BATCH) if len(images) else ():
            x = to_unit_range(chunk).to(device)
            filler = x[-1:].expand(SCORING_BATCH - len(x), -1, -1, -1)
            x = torch.cat([x, filler]).contiguous(memory_format=torch.channels_last)
            batches.append({name: value[: len(chunk)].cpu() for name, value in compute(x).items()})
            if progress:
                progress(len(chunk))
    return {name: torch.cat([batch[name] for batch in batches]) for name in (batches[0] if batches else ())}


def network_format(config: Config, image_format: ImageFormat) -> ImageFormat:
    """What R, D and the statistics are given: a whole image, or a tile."""
    tile = config.images.tile
    return ImageFormat(tile, tile, image_format.channels) if tile else image_format


def tiles_of(config: Config, image_format: ImageFormat) -> int:
    """How many tiles an image is cut into; 1 for whole images."""
    return len(tiles.places(image_format.size, config.images.tile)) if config.images.tile else 1


def whole(config: Config) -> Config:
    """The same config for images that are not cut, or are tiles already."""
    return with_values(config, {"images": {"tile": None}}, source="tile") if config.images.tile else config


def trial_images(config: Config, held_out: Tensor, stream: torch.Generator) -> Tensor:
    """What pseudo-anomalies are made of: held-out images, or tiles of some of them, from anywhere."""
    if not config.images.tile:
        return held_out
    chosen, _ = tiles.some(thinned(held_out, MOST_IMAGES), config.images.tile, MOST_IMAGES, stream)
    return chosen


def mapped(config: Config, held_out: Tensor) -> Tensor:
    """What calibrates the maps: held-out images, or all tiles of some of them."""
    if not config.images.tile:
        return held_out
    n_tiles = len(tiles.places((held_out.shape[2], held_out.shape[3]), config.images.tile))
    return _cut(config, thinned(held_out, max(1, MOST_MAPPED // n_tiles)))


def _chunks(config: Config, images: Tensor, progress: Progress | None) -> Iterator[tuple[Tensor, Progress | None]]:
    """All images at once; or, where they are cut, tiles of a few images at a time, so that memory stays small."""
    if not config.images.tile:
        yield images, progress
        return
    for chunk in torch.split(images, TILED_AT_ONCE) if len(images) else ():
        yield _cut(config, chunk), None
        if progress:
            progress(len(chunk))


def _cut(config: Config, images: Tensor) -> Tensor:
    return tiles.cut(images, config.images.tile) if config.images.tile else images


def has_d(config: Config) -> bool:
    """Whether D has a part in the score."""
    return any(part in config.scoring for part in D_PARTS)


def scoring_noise(config: Config, image_format: ImageFormat) -> Tensor:
    """What a preset adds before it scores: one pattern for all images, so that a score is a function of the image."""
    shape = (1, image_format.channels, *image_format.size)
    return config.corruption.sigma * torch.randn(shape, generator=generator(config.seed, "scoring_noise"))


def _with_noise(x: Tensor, config: Config) -> Tensor:
    pattern = scoring_noise(config, ImageFormat(x.shape[2], x.shape[3], x.shape[1]))  # type: ignore[arg-type]  # 1 or 3
    return (x + pattern.to(x.device)).clamp(0, 1)
