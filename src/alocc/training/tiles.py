"""Whole images or tiles: which of the two finds small spots better, measured in seconds, as advice.

Spots are planted in some normal images as large as tiles would show them; the main part of the score that sees all
pixels learns from the other half of these images, once whole and once cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alocc.config import Config, with_values
from alocc.data.frame import Frame
from alocc.data.images import ImageFormat, prepare_batch, to_unit_range
from alocc.data.inspection import SHRUNK_FROM
from alocc.data.sources import ArraySource, ImageSet, spread
from alocc.errors import DataError
from alocc.parts import PARTS, build_part
from alocc.parts.part import Normals, Part, View
from alocc.parts.validation import auroc
from alocc.seeding import generator
from alocc.stages import in_stage
from alocc.synthesis.faults import with_spots

SIDE = 256
"""Of the tiles that are tried, the largest that there can be: smaller ones know less of what is around a fault."""
IMAGES, CROPS = 32, 250
"""Images that are measured with, half of them to learn from; tiles that are learned from, at most."""
FEWEST = 16
"""Images, below which nothing is measured: chance would decide."""
SPOTS, CONTRAST = (2, 3, 4, 6, 8), 4.0
"""Diameters in pixels of the image that is cut; change of brightness, in its standard deviations, as a check has it."""
GAIN, LOSS = 0.1, 0.05
"""AUROC that tiles must gain at one diameter, and may lose at others: less is chance, and tiles are slower to score."""


@dataclass(frozen=True)
class Comparison:
    """What was measured."""

    spots: tuple[int, ...]
    """Diameters of the spots, in pixels of the original images."""
    whole: tuple[float, ...]
    """AUROC of spots of each diameter in whole images."""
    tiles: tuple[float, ...]
    """The same in tiles."""
    n_tiles: int
    """Of an image."""
    longer: float
    """How many times as many pixels all tiles have as the whole image."""

    @property
    def tiles_help(self) -> bool:
        """Whether tiles find clearly more."""
        gains = np.subtract(self.tiles, self.whole)
        return bool(gains.max() > GAIN and gains.min() > -LOSS)

    def __str__(self) -> str:
        """One line of advice."""
        gains = np.subtract(self.tiles, self.whole)
        best, worst = int(gains.argmax()), int(gains.argmin())
        measured = f"spots planted in normal images, whole and in tiles of {SIDE}: {self._at(best)}"
        if self.tiles_help:
            cost = f"{self.n_tiles} tiles an image, about {self.longer:.0f} times as long to score"
            return f"{measured}; --set images.tile={SIDE} may find smaller faults ({cost})"
        loss = f", but {self._at(worst)}" if gains[worst] < -LOSS else ""
        return f"{measured}{loss}: tiles are not clearly better"

    def _at(self, i: int) -> str:
        return f"AUROC {self.whole[i]:.2f} and {self.tiles[i]:.2f} with spots of {self.spots[i]} pixels"


def compare(images: ImageSet, config: Config, original_size: tuple[int, int]) -> Comparison | None:
    """Compare whole images with tiles on some of these normal images.

    None where images are hardly larger than the working size, too few, or no longer there. The config is a preset's
    with a part that sees all pixels in its score.
    """
    wanted = config.images
    judges = {name: weight for name, weight in config.scoring.items() if PARTS[name].sees_all_pixels}
    height, width, channels = images.images.shape[2], images.images.shape[3], images.images.shape[1]
    if max(original_size) <= SHRUNK_FROM * max(height, width):
        return None
    cut = with_values(config, {"images": {"tile": SIDE, "channels": channels}}, source="tiles")
    large = ArraySource(np.empty((1, *original_size), np.uint8), np.array([""])).infer_format(cut.images)
    tiles, whole = Frame.of(cut.images, large), Frame.of(wanted, ImageFormat(height, width, large.channels))
    some = _some(images, large, config.seed)
    if len(some) < FEWEST:
        return None
    main = max(judges, key=lambda name: judges[name])
    frames = in_stage("comparing whole images with tiles", [whole, tiles])
    by_whole, by_tiles = (_found(some, frame, build_part(main, config, frame), config.seed) for frame in frames)
    scale = max(original_size) / max(large.size)
    pixels = [frame.n_crops * frame.crop_format.height * frame.crop_format.width for frame in (whole, tiles)]
    spots = tuple(round(diameter * scale) for diameter in SPOTS)
    return Comparison(spots, by_whole, by_tiles, tiles.n_crops, pixels[1] / pixels[0])


def _some(images: ImageSet, to: ImageFormat, seed: int) -> Tensor:
    """Some images again, evenly spread, in any order, at a larger size, (n, C, H, W), uint8; none that are gone."""
    read = []
    for i in spread(len(images), IMAGES).tolist() if images.original else ():
        try:
            read.append(prepare_batch(images.original(i)[None], to))  # type: ignore[misc]  # not none
        except DataError:
            continue
    order = torch.randperm(len(read), generator=generator(seed, "tiles"))
    return torch.cat([read[i] for i in order]) if read else torch.empty(0)


def _found(images: Tensor, frame: Frame, part: Part, seed: int) -> tuple[float, ...]:
    """AUROC of spots of each diameter, planted in half of the images, by what was learned from the others."""
    learned, tried = images[::2], images[1::2]
    crops, source = frame.draw(_brought_to(learned, frame), generator(seed, "tiles"), CROPS)
    part.fit(Normals(frame.thumbnails(crops), source, crops))
    normal = _crops(tried, frame)
    evidence, stream = _evidence(part, frame, normal), generator(seed, "spots")
    aurocs = []
    for diameter in SPOTS:
        spotted = torch.cat([_with_spots(few, diameter, stream) for few in torch.split(tried, 4)])
        faulty = _crops(spotted, frame)
        changed = (faulty != normal).flatten(1).any(1)
        of_crops = evidence.clone()
        of_crops[changed] = _evidence(part, frame, faulty[changed])
        aurocs.append(auroc(frame.worst(evidence), frame.worst(of_crops)))
    return tuple(aurocs)


def _with_spots(images: Tensor, diameter: int, stream: torch.Generator) -> Tensor:
    """Images (n, C, H, W), uint8, with one spot each."""
    return (with_spots(to_unit_range(images), diameter, CONTRAST, stream) * 255).round().to(torch.uint8)


def _brought_to(images: Tensor, frame: Frame) -> Tensor:
    """Images (n, C, H, W), uint8, at the size of a frame."""
    return prepare_batch(images.permute(0, 2, 3, 1).numpy(), frame.image_format)


def _crops(images: Tensor, frame: Frame) -> Tensor:
    """All crops of images, image after image."""
    return torch.cat([frame.cut(_brought_to(few, frame)) for few in torch.split(images, 4)])


def _evidence(part: Part, frame: Frame, crops: Tensor) -> Tensor:
    """What a part says of each crop, (n,)."""
    said = [torch.empty(0)]
    with torch.inference_mode():
        for batch in torch.split(crops, frame.batch_size):
            x = to_unit_range(batch)
            evidence = part(View(frame.thumbnails(x), x, (), x)).image
            assert evidence is not None
            said.append(evidence)
    return torch.cat(said)
