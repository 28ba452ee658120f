"""The geometry of a detector: the size that it works at, the crops of an image, and the thumbnail of a crop.

A whole image is the case of one crop. With a tile, an image is cut into overlapping square crops, each judged by
itself: an image is as anomalous as its most anomalous crop. R, D and statistics of whole images see thumbnails; what
looks at places sees all pixels. A small image is its own thumbnail.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alocc.config import ImagesConfig
from alocc.data.resizing import ImageFormat

OVERLAP = 0.25  # share of a tile's side that the next one has too, at least: what lies on a border is whole in one
MOST_CROPS = 20_000  # crops that train, and crops that calibrate the maps, at most, where images are cut
MIN_BATCH, MAX_BATCH = 4, 64  # crops that are computed with together
LARGE_BATCH = 2**17  # pixels of large images together: more overflow the caches, and buffers need new memory pages
LARGE_BATCHES = (1, 4, 8, 16)  # at other batch sizes, libraries sum the last image in another order
GRID, CELL = 16, 8  # places along a side of a map, at least; and pixels of a place, at most
CROPS_AT_ONCE = 512  # crops that are in memory at one time, about


@dataclass(frozen=True)
class Frame:
    """Working size of images, and how they are cut."""

    image_format: ImageFormat  # what every image is brought to
    tile: int | None = None  # side of the square crops; none: one crop, the whole image
    thumbnail: int | None = None  # longest side of a thumbnail; none: as large as the crop

    @classmethod
    def of(cls, images: ImagesConfig, image_format: ImageFormat) -> Frame:
        """The frame that a config asks for."""
        return cls(image_format, images.tile, images.thumbnail)

    @property
    def crop_format(self) -> ImageFormat:
        """A crop, with all its pixels."""
        return ImageFormat(self.tile, self.tile, self.image_format.channels) if self.tile else self.image_format

    @property
    def of_crops(self) -> Frame:
        """The frame in which each crop is an image of its own."""
        return Frame(self.crop_format, thumbnail=self.thumbnail)

    @property
    def thumbnail_format(self) -> ImageFormat:
        """What R, D and statistics of whole images see of a crop."""
        height, width, channels = self.crop_format
        scale = min(1.0, (self.thumbnail or max(height, width)) / max(height, width))
        if scale == 1:
            return self.crop_format
        return ImageFormat(max(16, round(height * scale)), max(16, round(width * scale)), channels)

    @property
    def has_thumbnails(self) -> bool:
        """Whether thumbnails are smaller than crops."""
        return self.thumbnail_format != self.crop_format

    @property
    def of_thumbnails(self) -> Frame:
        """The frame in which each thumbnail is an image of its own."""
        return Frame(self.thumbnail_format)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the places of a map."""
        return grid_of(self.crop_format.size)

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width that the places of a map cover: where there are thumbnails, whole cells, beyond a crop."""
        height, width, _ = self.crop_format
        return (height + -height % CELL, width + -width % CELL) if self.has_thumbnails else (height, width)

    @property
    def batch_size(self) -> int:
        """Crops that are computed with together: always so many, whatever is scored."""
        height, width, _ = self.crop_format
        if self.has_thumbnails:
            return max(n for n in LARGE_BATCHES if n == 1 or n * height * width <= LARGE_BATCH)
        return max(MIN_BATCH, min(MAX_BATCH, MAX_BATCH * 64 * 64 // (height * width)))

    def thumbnails(self, crops: Tensor) -> Tensor:
        """Crops (N, C, h, w) as thumbnails, by means over pixels: float32 in [0, 1], or whole numbers of uint8."""
        if not self.has_thumbnails:
            return crops
        height, width, _ = self.thumbnail_format
        rows, columns = averages(crops.shape[2], height), averages(crops.shape[3], width)
        if crops.dtype == torch.uint8:
            small = [rows @ few.float() @ columns.T for few in torch.split(crops, CROPS_AT_ONCE)]
            return torch.cat(small).round().to(torch.uint8)
        return rows.to(crops) @ crops @ columns.T.to(crops)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Upper left corner of each crop, row after row."""
        (height, width), (crop_height, crop_width) = self.image_format.size, self.crop_format.size
        return list(itertools.product(offsets(height, crop_height), offsets(width, crop_width)))

    @property
    def n_crops(self) -> int:
        """How many crops an image has."""
        return len(self.corners)

    def cut(self, images: Tensor) -> Tensor:
        """(n, C, H, W) → (n · crops, C, h, w), image after image."""
        if self.n_crops == 1:
            return images
        height, width, _ = self.crop_format
        crops = [images[:, :, y : y + height, x : x + width] for y, x in self.corners]
        return torch.stack(crops, 1).flatten(0, 1)

    def join(self, crops: Tensor) -> Tensor:
        """(n · crops, C, h, w) → (n, C, H, W): where crops overlap, their mean, borders counting less."""
        if self.n_crops == 1:
            return crops
        side = crops.shape[-1]
        ramp = 1 - (torch.arange(side).to(crops) - (side - 1) / 2).abs() / (side / 2 + 1)
        weight = torch.outer(ramp, ramp)
        weighted = self._laid_out(crops.reshape(-1, self.n_crops, *crops.shape[1:]) * weight)
        return weighted / self._laid_out(weight.expand(1, self.n_crops, 1, -1, -1))

    def _laid_out(self, crops: Tensor) -> Tensor:
        """(n, crops, C, h, w), each crop at its place: sums, (n, C, H, W); written so that it can be exported."""
        (height, width), side = self.image_format.size, crops.shape[-1]
        rows: dict[int, Tensor] = {}
        for i, (y, x) in enumerate(self.corners):
            placed = F.pad(crops[:, i], (x, width - x - side))
            rows[y] = rows[y] + placed if y in rows else placed
        total = crops.new_zeros(())
        for y, row in rows.items():
            total = total + F.pad(row, (0, 0, y, height - y - side))
        return total

    def worst(self, crop_scores: Tensor) -> Tensor:
        """Score of each image's most anomalous crop, (n · crops,) → (n,)."""
        return crop_scores.view(-1, self.n_crops).amax(1)

    def worst_crop(self, crop_scores: Tensor) -> Tensor:
        """Index of each image's most anomalous crop among all crops, (n,)."""
        within = crop_scores.view(-1, self.n_crops).argmax(1)
        return torch.arange(len(within)) * self.n_crops + within

    def chunks(self, images: Tensor) -> Iterator[Tensor]:
        """Some images at a time, so that not too many crops are in memory."""
        yield from torch.split(images, max(1, CROPS_AT_ONCE // self.n_crops)) if len(images) else ()

    def crops_of_each(self, n_images: int, most: int = MOST_CROPS) -> int:
        """How many crops of each image there may be, so that all together are at most about ``most``."""
        return max(1, min(self.n_crops, most // n_images))

    def draw(self, images: Tensor, generator: torch.Generator, most: int = MOST_CROPS) -> tuple[Tensor, Tensor]:
        """As many crops of each image, from anywhere in it, and the index of its image; whole images are all taken."""
        if self.n_crops == 1:
            return images, torch.arange(len(images))
        n = self.crops_of_each(len(images), most)
        crops = [self.cut(image[None])[torch.randperm(self.n_crops, generator=generator)[:n]] for image in images]
        return torch.cat(crops), torch.arange(len(images)).repeat_interleave(n)

    def draw_some(self, images: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """Crops to make pseudo-anomalies of: at most about ``most``, where images are cut; else all images."""
        return images if self.n_crops == 1 else self.draw(thinned(images, most), generator, most)[0]

    def thinned(self, images: Tensor, most: int) -> Tensor:
        """At most so many images, evenly spread; where they are cut, as many as have :data:`MOST_CROPS` crops."""
        return thinned(images, most if self.n_crops == 1 else max(1, MOST_CROPS // self.n_crops))


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the places of a map: one for 8 pixels, at least 16."""
    return max(GRID, -(-size[0] // CELL)), max(GRID, -(-size[1] // CELL))


def averages(n: int, cells: int) -> Tensor:
    """Means over cells of a side as a matrix, (cells, n); where they do not divide it, cells overlap by a pixel."""
    i, j = torch.arange(cells)[:, None], torch.arange(n)
    inside = ((j >= i * n // cells) & (j < -(-(i + 1) * n // cells))).float()
    return inside / inside.sum(1, keepdim=True)


def offsets(side: int, crop: int) -> list[int]:
    """Where crops begin along a side: evenly spread, from one end to the other.

    >>> offsets(160, 64)
    [0, 48, 96]
    """
    n = 1 + math.ceil((side - crop) / (crop * (1 - OVERLAP)))
    return [round(i * (side - crop) / max(1, n - 1)) for i in range(n)]


def thinned(images: Tensor, most: int) -> Tensor:
    """All images, or ``most`` of them, evenly spread."""
    n = len(images)
    return images if n <= most else images[torch.arange(most) * n // most]
