"""The fitted artefact, and the only thing that scores: images in, anomaly scores and p-values out, one safe file."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.calibration import Calibration, FloatArray, default_alpha, map_threshold
from alocc.config import Config
from alocc.data.appearance import usual_appearance
from alocc.data.entries import Skipped, visible
from alocc.data.frame import Frame
from alocc.data.images import ImageFormat, prepare_batch, to_unit_range
from alocc.data.reading import none_usable
from alocc.data.resizing import as_images
from alocc.data.sources import Paths, are_paths, open_source
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.networks.architecture import ENCODERS, build_networks, feature_sizes
from alocc.notebook import html_table
from alocc.parts import check_parts
from alocc.parts.discriminator import p_real
from alocc.parts.part import View, enlarged
from alocc.regions import Region, regions_of_anomalies
from alocc.scorer import Scorer
from alocc.scores import Progress, Scores
from alocc.seeding import generator
from alocc.stages import counted
from alocc.storage import load_tensors, save_tensors
from alocc.verdict import Health, read_health, warn_if_useless

if TYPE_CHECKING:
    from alocc.drawing import Picture

__all__ = ["Detector", "Scores"]

FORMAT_VERSION = 9
READABLE = (8, FORMAT_VERSION)
"""Format 8 has no parts that are turned."""
MOST_MAPPED = 1_000
"""Held-out images, evenly spread, that calibrate the map, at most."""
MAX_SIDE = 4096
MAX_NETWORKS = 10


@dataclass(frozen=True, eq=False, repr=False)
class Detector:
    """A scorer, what held-out normal images say of its scores, and notes. Immutable: methods make another."""

    config: Config
    scorer: Scorer
    calibration: Calibration
    map_maxima: FloatArray
    """Highest value in the map of each held-out normal image, or of some of them."""
    seen: NDArray[np.int64]
    """Hash of each image that it was trained or calibrated on."""
    training: Mapping[str, Any]
    """What it was trained on and how that went: data, classes, counts, fingerprint, library versions."""
    held_out_in_order: FloatArray | None = None
    """Scores of the held-out images in their order, fold after fold; none once it was saved and loaded."""
    health: Health | None = None
    """The verdict of the last check, kept in the run folder; none if this very file was not checked."""

    def __repr__(self) -> str:
        return f"Detector({self.config.preset}, {self.image_format}, alpha {self.alpha:g})"

    def _repr_html_(self) -> str:
        notes, weights = self.training, self.scorer.fusion.weights
        facts = {
            "images": str(self.image_format),
            "trained on": str(notes.get("data", "")),
            "normal classes": ", ".join(notes.get("normal_classes", ())),
            "held-out images": f"{len(self.held_out_scores):,}",
            "alpha": f"{self.alpha:.3g}",
            "review alpha": "" if self.review_alpha is None else f"{self.review_alpha:.3g}",
            "threshold": f"{self.threshold:.3f}",
            "score": ", ".join(f"{part} × {weight:.2f}" for part, weight in weights.items() if weight >= 0.005),
        }
        return html_table(f"Detector, preset {self.config.preset}", [pair for pair in facts.items() if pair[1]])

    @property
    def image_format(self) -> ImageFormat:
        """What every image is brought to."""
        return self.scorer.frame.image_format

    @property
    def alpha(self) -> float:
        """False-positive rate that ``is_anomaly`` keeps."""
        return self.calibration.alpha

    @property
    def review_alpha(self) -> float | None:
        """Rate up to which an image that is no anomaly is for a person; none: there is no third verdict."""
        return self.calibration.review_alpha

    @property
    def threshold(self) -> float:
        """An image is an anomaly if and only if its anomaly score is above this."""
        return self.calibration.threshold

    @property
    def held_out_scores(self) -> FloatArray:
        """Anomaly scores of the held-out normal images, sorted ascending."""
        return self.calibration.held_out_scores

    @property
    def map_threshold(self) -> float:
        """The value that a normal image's map hardly ever exceeds: see :func:`~alocc.calibration.map_threshold`."""
        return map_threshold(self.map_maxima, self.alpha)

    def with_alpha(self, alpha: float) -> Detector:
        """The same detector at another false-positive rate; a review alpha below it is raised to it.

        Raises:
            ConfigError: if the held-out images cannot support so small an alpha.
        """
        return self.at(alpha, None)

    def with_review_alpha(self, review_alpha: float | None) -> Detector:
        """The same detector with a third verdict, "can't tell", above alpha and up to this rate; none or 0: without.

        Raises:
            ConfigError: if it is not from alpha on and below 1.
        """
        return replace(self, calibration=self.calibration.with_review_alpha(review_alpha))

    def at(self, alpha: float | None, review_alpha: float | None) -> Detector:
        """The same detector at other rates, as the two methods above; none: at its own. 0: no third verdict."""
        return replace(self, calibration=self.calibration.at(alpha, review_alpha))

    def recalibrated(
        self, images: Tensor, alpha: float | None = None, data: str = "arrays", review_alpha: float | None = None
    ) -> Detector:
        """The same detector with another threshold: from newer normal images, without training.

        What the score measures stays as it is; only what counts as normal changes.

        Args:
            images: normal images that training never saw, (n, C, H, W), in the detector's format.
            alpha: false-positive rate to keep; none: what the training asked for, else 0.01, or the smallest that the
                images support.
            data: where they are from, for the notes.
            review_alpha: rate up to which images are for a person; none: what it is now, but at least alpha; 0: no
                third verdict.

        Raises:
            ConfigError: if the images cannot support so small an alpha, or ``review_alpha`` is below it.
            DataError: if there are none, or they have a wrong shape, type or value range.
        """
        x = self._accepted(images)
        if not len(x):
            raise DataError("no normal images to calibrate with")
        scores, asked = self.score(x, counted("scoring", len(x))).anomaly_score, self.config.calibration.alpha
        calibration = Calibration.of(scores, default_alpha(len(x), asked) if alpha is None else alpha)
        if review_alpha is None and self.review_alpha is not None:
            review_alpha = max(self.review_alpha, calibration.alpha)
        frame, scorer = self.scorer.frame, self.scorer
        peaks = scorer.map_fusion(scorer.over(frame.thinned(x, MOST_MAPPED), scorer.grid_evidence)).flatten(1).amax(1)
        return replace(
            self,
            calibration=calibration.with_review_alpha(review_alpha),
            map_maxima=frame.worst(peaks).double().numpy(),
            seen=np.union1d(self.seen, image_hashes(x)),
            training={
                **self.training,
                "n_held_out": len(x),
                "recalibrated_on": data,
                "appearance": usual_appearance(x),
            },
            held_out_in_order=None,
            health=None,
        )

    def score(
        self, images: NDArray[np.generic] | Tensor | Paths, progress: Progress | None = None, *, maps: bool = False
    ) -> Scores:
        """Score images.

        An image's numbers do not depend on the others it is scored with.

        Args:
            images: an array (n, H, W) or (n, H, W, C), uint8 or float in [0, 1], of any size; or a tensor
                (n, C, H, W) already in the detector's format; or a path: a folder, a file or whatever else
                ``alocc score`` takes; or a list of image files. The scores of files know their paths; files that
                cannot be used are in ``skipped``, and a warning says how many there are.
            progress: called with the number of images that are done.
            maps: whether to say where they are unusual too, in the same pass.

        Raises:
            DataError: if the images have a wrong shape, type or value range, or not one file can be used.
        """
        if are_paths(images):
            return self._score_files(images, progress, maps)
        warn_if_useless(self.health)
        scorer, frame = self.scorer, self.scorer.frame

        def compute(view: View) -> dict[str, Tensor]:
            return scorer.image_evidence(view) | (scorer.grid_evidence(view) if maps else {})

        none = torch.empty(0, dtype=torch.float64)
        found = {name: [none] for name in scorer.fusion.scales}
        scores, full_maps = [none], [torch.empty((0, *frame.image_format.size))]
        for chunk in frame.chunks(self._accepted(images)):
            evidence = scorer.over(chunk, compute)
            if maps:
                full_maps.append(frame.join(scorer.anomaly_map(evidence))[:, 0])
            of_crops = scorer.fusion(evidence)
            worst = frame.worst_crop(of_crops)  # an image is as anomalous as its worst crop
            scores.append(of_crops[worst])
            for name, values in found.items():
                values.append(evidence[name][worst].double())
            if progress:
                progress(len(chunk))
        parts = {name: torch.cat(values) for name, values in found.items()}
        anomaly_score = torch.cat(scores).numpy()
        p_value = self.calibration.p_values(anomaly_score)
        return Scores(
            anomaly_score,
            p_value,
            p_value <= self.alpha,
            {name: part.numpy() for name, part in parts.items()},
            p_real(parts["d"]).numpy() if "d" in parts else None,
            self.alpha,
            torch.cat(full_maps).numpy() if maps else None,
            review_alpha=self.review_alpha,
        )

    def _score_files(self, paths: Paths, progress: Progress | None, maps: bool) -> Scores:
        scores: list[Scores] = []
        skipped: list[Skipped] = []
        for batch in open_source(paths, "test").batches(self.image_format):
            skipped += batch.skipped
            if batch.names:
                scores.append(replace(self.score(batch.images, progress, maps=maps), paths=batch.names))
        if not scores:
            raise none_usable(skipped)
        joined = replace(Scores.joined(scores), skipped=skipped)
        if skipped:
            warnings.warn(
                f"{len(skipped):,} of {len(joined) + len(skipped):,} images could not be used; the first: "
                f"{skipped[0].reason}; scores.skipped has all of them",
                stacklevel=3,
            )
        return joined

    def anomaly_map(
        self,
        images: NDArray[np.generic] | Tensor | Paths,
        progress: Progress | None = None,
        *,
        size: Literal["working", "original"] = "working",
    ) -> NDArray[np.float32]:
        """Where images are unusual: (n, H, W), in about standard deviations of normal images.

        0 is as usual as normal images are at that place; a value means the same in every image and at every place.

        Args:
            images: as for :meth:`score`.
            progress: called with the number of images that are done.
            size: of the maps: the detector's, or that of the images before they were resized, all of one size.

        Raises:
            DataError: if the images have a wrong shape, type or value range, a file cannot be used, or maps of original
                size are asked for of images of several sizes.
            ConfigError: if the size is called otherwise.
        """
        if size not in ("working", "original"):
            raise ConfigError(f'size must be "working" or "original", got {size!r}')
        x, sizes = self._with_sizes(images)
        if size == "working":
            sizes = {self.image_format.size}
        if len(sizes) > 1:
            raise DataError(f"images of {len(sizes)} sizes have no maps of one size; ask for one image at a time")
        height, width = sizes.pop()
        maps, frame = [torch.empty((0, height, width))], self.scorer.frame
        for chunk in frame.chunks(x):
            evidence = self.scorer.over(chunk, self.scorer.grid_evidence)
            maps.append(enlarged(frame.join(self.scorer.anomaly_map(evidence)), (height, width))[:, 0])
            if progress:
                progress(len(chunk))
        return torch.cat(maps).numpy()

    def show(self, image: NDArray[np.generic] | str | os.PathLike[str]) -> Picture:
        """Draw one image, and its map and regions over it, with score and verdict, in the image's own pixels.

        A notebook shows what comes back; elsewhere, save it: ``detector.show("part.png").savefig("shown.png")``.

        Args:
            image: the path of an image, or an array (H, W) or (H, W, 3), uint8 or float in [0, 1].

        Raises:
            DataError: if it is not one image, or cannot be used.
        """
        from alocc.drawing import draw

        source = open_source(image if are_paths(image) else _one_image(image), "test")
        if len(source) != 1:
            raise DataError(f"{source.where} is not one image; give the path of one")
        found = source.load(self.image_format)
        scores = self.score(found.images, maps=True)
        [regions] = self.regions(found.images, scores, sizes=found.sizes)
        pixels = source.load(ImageFormat(*found.sizes[0], 3)).images[0].permute(1, 2, 0).numpy()
        title = f"{scores.verdict[0]}: score {scores.anomaly_score[0]:.2f}, p-value {scores.p_value[0]:.3g}"
        if are_paths(image):
            title = f"{visible(found.names[0])}\n{title}"
        assert scores.anomaly_map is not None
        return draw(pixels, scores.anomaly_map[0], self.map_threshold, regions, title)

    def regions(
        self,
        images: NDArray[np.generic] | Tensor,
        scores: Scores | None = None,
        *,
        sizes: Sequence[tuple[int, int]] = (),
    ) -> list[list[Region]]:
        """Where each image is unusual, and what is to be seen there: its regions, the highest peak first, at most 20.

        An image that is not called normal has at least one, its strongest place: what is around the map's peak and at
        least 3/4 of it. Its others are where the map is above ``map_threshold``. A normal image has none.
        Boxes are in pixels of the detector's size, if no ``sizes`` are given.

        Args:
            images: as for :meth:`score`.
            scores: theirs, with maps, if they are there; else they are computed.
            sizes: height and width of each image before it was resized; boxes and areas are in its pixels then.

        Raises:
            DataError: if the images have a wrong shape, type or value range, or the scores have no maps.
        """
        x = self._accepted(images)
        scores = scores or self.score(x, maps=True)
        pixels = (to_unit_range(image).numpy() for image in x)
        return regions_of_anomalies(scores, pixels, self.map_threshold, self.map_maxima, sizes)

    def reconstruct(self, images: NDArray[np.generic] | Tensor) -> tuple[Tensor, Tensor]:
        """What R is given when it scores, and what it makes of it (the mean, of several): (n, C, H, W), in [0, 1].

        R sees thumbnails of large images; both are brought to the images' size.

        Args:
            images: as for :meth:`score`.

        Raises:
            DataError: if the images have a wrong shape, type or value range.
        """
        frame = self.scorer.frame
        none = torch.empty((0, self.image_format.channels, *self.image_format.size))
        noisy, hats = [none], [none]
        for chunk in frame.chunks(self._accepted(images)):
            found = self.scorer.over(
                chunk, lambda view: {"x_noisy": view.x_noisy, "x_hat": torch.stack(view.x_hats).mean(0)}
            )
            for kept, images_of in ((noisy, found["x_noisy"]), (hats, found["x_hat"])):
                kept.append(frame.join(enlarged(images_of, frame.crop_format.size)))
        return torch.cat(noisy), torch.cat(hats)

    def _accepted(self, images: object) -> Tensor:
        """Images in the detector's format, (n, C, H, W), uint8 or float32 in [0, 1]."""
        if not isinstance(images, Tensor):
            return prepare_batch(as_images(images), self.image_format)
        expected = (self.image_format.channels, *self.image_format.size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise DataError(f"a tensor must have the detector's format, (n, {', '.join(map(str, expected))}), got "
                            f"{tuple(images.shape)}; an array may have any size")  # fmt: skip
        if images.dtype == torch.uint8:
            return images
        if not images.is_floating_point() or (len(images) and not (images.min() >= 0 and images.max() <= 1)):
            raise DataError(
                f"a tensor must hold uint8, or floats in [0, 1], got {images.dtype}; divide by the largest value"
            )
        return images.float()

    def _with_sizes(self, images: NDArray[np.generic] | Tensor | Paths) -> tuple[Tensor, set[tuple[int, int]]]:
        """Images in the detector's format, all that were given, and the heights and widths that they had before."""
        if are_paths(images):
            found = open_source(images, "test").load(self.image_format)
            if found.skipped:
                raise DataError(f"{found.skipped[0].reason}; only score() goes on without such images")
            return found.images, set(found.sizes)
        if isinstance(images, Tensor):
            return self._accepted(images), {self.image_format.size}
        array = as_images(images)
        return self._accepted(array), {(array.shape[1], array.shape[2])}

    def was_seen(self, images: Tensor) -> NDArray[np.bool_]:
        """Which images, in the detector's format, it was trained or calibrated on: their scores flatter it."""
        return np.isin(image_hashes(images), self.seen)

    @property
    def of_crops(self) -> Detector:
        """The detector of single crops; of whole images, itself. Its p-values mean nothing where images are cut."""
        return replace(self, scorer=self.scorer.of_crops())

    def to(self, device: str | torch.device) -> Detector:
        """The same detector, computing on another device; scores come back as arrays all the same."""
        return replace(self, scorer=copy.deepcopy(self.scorer).compute_on(device))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: weights, and everything else as JSON. It is the same file for the same detector.

        Raises:
            ArtefactError: if the file cannot be written.
        """
        tensors = {f"scorer.{name}": value for name, value in self.scorer.state_dict().items()}
        arrays = {"held_out_scores": self.held_out_scores, "map_maxima": self.map_maxima, "seen": self.seen}
        metadata = {
            "kind": "detector",
            "format_version": FORMAT_VERSION,
            "config": self.config.model_dump(mode="json"),
            "image_format": self.image_format._asdict(),
            "n_networks": len(self.scorer.R),
            "alpha": self.alpha,
            "training": self.training,
        }
        if self.review_alpha is not None:  # a file of format 9 without it has none
            metadata["review_alpha"] = self.review_alpha
        save_tensors(Path(path), tensors | {name: torch.from_numpy(array) for name, array in arrays.items()}, metadata)

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
        version = metadata.get("format_version")
        if version not in READABLE:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            remedy, formats = "upgrade alocc" if newer else "train it again", " and ".join(map(str, READABLE))
            raise ArtefactError(f"{path} is of format {version}; this alocc reads formats {formats}: {remedy}")
        try:
            return replace(cls._restored(tensors, metadata), health=read_health(path))
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise ArtefactError(f"{path} is damaged ({type(error).__name__}: {reason})") from None

    @classmethod
    def _restored(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Detector:
        config = Config.model_validate(metadata["config"])
        check_parts(config)
        image_format, n_networks = ImageFormat(**metadata["image_format"]), metadata["n_networks"]
        if not (all(0 < side <= MAX_SIDE for side in image_format.size) and image_format.channels in (1, 3)):
            raise ValueError(f"image_format {image_format}")
        if not 0 < n_networks <= MAX_NETWORKS:
            raise ValueError(f"n_networks {n_networks}")
        state = {name.removeprefix("scorer."): value for name, value in tensors.items() if name.startswith("scorer.")}
        frame = Frame.of(config.images, image_format)
        _check_state(config, frame, state)
        scorer = Scorer(config, frame)
        for _ in range(n_networks):
            small = scorer.frame.thumbnail_format
            scorer.add_networks(*build_networks(config.networks, small.channels, small.size, generator(0, "weights")))
        scorer.load_state_dict(state)
        held_out, maxima = (_finite(tensors[name].numpy(), name) for name in ("held_out_scores", "map_maxima"))
        if (np.diff(held_out) < 0).any():
            raise ValueError("held_out_scores are not sorted")
        review_alpha = metadata.get("review_alpha")
        calibration = Calibration.of(
            held_out, float(metadata["alpha"]), None if review_alpha is None else float(review_alpha)
        )
        seen = tensors["seen"].numpy()
        if seen.dtype != np.int64 or seen.ndim != 1:
            raise ValueError("seen is no list of hashes")
        return cls(config, scorer.eval(), calibration, maxima, seen, dict(metadata["training"]))


def _one_image(image: object) -> NDArray[np.generic]:
    """An image (H, W) or (H, W, C) as an array of one image."""
    array = np.asarray(image)
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (1, 3)):
        raise DataError(f"an array of shape {array.shape} is not one image, (H, W) or (H, W, 3); give images[0]")
    return as_images(array[None])


def _check_state(config: Config, frame: Frame, state: Mapping[str, Tensor]) -> None:
    """Refuse what would cost memory to find out, or would score without a word: networks of another size, NaN."""
    first = state["R.0.encoder.blocks.0.0.weight"]
    if len(first) != config.networks.width:
        raise ValueError(f"networks of width {len(first)}, not {config.networks.width}")
    latent = state.get("R.0.bottleneck.to_latent.weight")
    if (0 if latent is None else len(latent)) != config.networks.latent_dim:
        raise ValueError(f"a bottleneck other than networks.latent_dim {config.networks.latent_dim}")
    specs = ENCODERS[config.networks.architecture]
    deepest = math.prod(feature_sizes(specs, frame.thumbnail_format.size)[-1])
    if latent is not None and latent.shape[1] != specs[-1].width_multiple * config.networks.width * deepest:
        raise ValueError(f"a bottleneck for images of another size than {frame.thumbnail_format}")
    for name, value in state.items():
        if not value.numel():
            raise ValueError(f"{name} is empty")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} is not finite")


def _finite(values: NDArray[Any], name: str) -> FloatArray:
    if values.ndim != 1 or not len(values) or values.dtype != np.float64 or not np.isfinite(values).all():
        raise ValueError(f"{name} are no finite numbers")
    return values


def artefact_path(path: str | Path) -> Path:
    """The detector's file that ``path`` means: itself, or ``model.safetensors`` in a run folder.

    Raises:
        ArtefactError: if there is none.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.exists():
            raise ArtefactError(
                f"{path.parent} holds no finished detector (no model.safetensors); train it first, and give the run "
                "before the images"
            )
    elif not path.exists():
        raise ArtefactError(f"{path} does not exist; give a run folder, or a detector's file")
    return path


def is_artefact(path: str | Path) -> bool:
    """Whether a path is a detector's file or a run folder that holds one."""
    path = Path(path)
    with suppress(OSError):  # a name that no file can have
        return path.suffix == ".safetensors" or (path / "model.safetensors").exists()
    return False


def fingerprint(images: Tensor) -> str:
    """SHA-256 of the images' shape, type and pixels."""
    digest = hashlib.sha256(f"{tuple(images.shape)} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images.numpy()).data)
    return digest.hexdigest()


def image_hashes(images: Tensor) -> NDArray[np.int64]:
    """A 64-bit hash of each image's pixels, (n,)."""
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images.numpy())
    return np.array([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=np.int64)


def library_versions(*more: str) -> dict[str, str]:
    """Versions of Python, of what decides a detector's numbers, and of more packages, where they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("alocc", "torch", "numpy", "pillow", *more):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
