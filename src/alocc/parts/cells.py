"""How unusual images are at each place, by a description of it: Gaussians of normal images' places.

The part ``cells`` describes a place by the answers of random filters around it, and the grey or colours there; other
descriptions are other parts (:mod:`alocc.parts.features`).

Evidence of a place is the logarithm of a Mahalanobis distance, in standard deviations of what it is there on normal
images; evidence of an image is a mean over its most unusual places.

Parts that always lie the same way differ from place to place; surfaces and turned parts are alike everywhere. Which of
the two these images are, normal images say themselves (:meth:`Cells.fit`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.config import Config
from alocc.data.frame import CELL, LARGE_BATCH, grid_of, thinned
from alocc.data.images import to_unit_range
from alocc.data.resizing import ImageFormat
from alocc.parts.descriptions import FILTER_SIZE, FLOOR, random_filters, scales
from alocc.parts.moments import FIFTHS, Moments
from alocc.parts.part import Evidence, Normals, Part, View, mean_around, pixels_to_grid
from alocc.parts.pose import Pose
from alocc.parts.validation import auroc
from alocc.seeding import generator
from alocc.synthesis.faults import planted

MOST_IMAGES, MOST_PLACES = 1_000, 400_000
"""Training images, evenly spread, and places in them, that are described at most: enough."""
SCALE_FROM = 20
"""So many images weigh as much as all places together, when a place's scale is taken."""
ZONE = 3
"""Places along a side of a zone, which share a covariance; it is made of these and of the places around them."""
MOST_UNUSUAL = 0.03
"""Share of the places, the most unusual ones, that are the evidence of an image."""
DISTANCE_FLOOR = 1e-5
WORTH = 0.1
"""This share of what the simpler way misses, 1 − AUROC, the other must find: less is chance."""
TRIED, TRIED_STRENGTH = 100, 2.0
"""Images in which faults are planted for the choice between zones and one Gaussian, at most, and how strong."""


class Description(nn.Module):
    """Description of places: images (N, C, H, W) in [0, 1] → (N, h, w, p), on the grid of a map.

    Args:
        image_format: of the images.
        is_large: whether they have thumbnails.
    """

    length: int
    """p."""

    def __init__(self, image_format: ImageFormat, is_large: bool) -> None:
        super().__init__()
        self.grid, self.is_large = grid_of(image_format.size), is_large


class Answers(Description):
    """Strength and mean positive answer of each random filter at each scale, and the mean colour.

    Of large images, in the place alone, so that a fault of a few pixels is not averaged away; at a quarter of the size,
    and everywhere in small ones, around it too.
    """

    filters: Tensor

    def __init__(self, image_format: ImageFormat, is_large: bool) -> None:
        super().__init__(image_format, is_large)
        self.register_buffer("filters", random_filters(image_format.channels), persistent=False)
        self.padding = (0, -image_format.width % CELL, 0, -image_format.height % CELL) if is_large else (0, 0, 0, 0)
        n_scales = len(scales(F.pad(torch.zeros((1, 1, *image_format.size)), self.padding)))
        self.length = 2 * n_scales * len(self.filters) + image_format.channels

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):  # cells of whole pixels at each scale
            x = F.pad(x, self.padding, mode="replicate")
        described = []
        for i, image in enumerate(scales(x)):
            answer = F.conv2d(F.pad(image, (FILTER_SIZE // 2,) * 4, mode="reflect"), self.filters)
            strength, positive = (
                pixels_to_grid(values, self.grid, around=not self.is_large or i == 2)
                for values in (answer.square(), answer.relu())
            )
            described += [0.5 * (strength + FLOOR).log(), positive]
        return torch.cat([*described, pixels_to_grid(x, self.grid, not self.is_large)], 1).permute(0, 2, 3, 1)


class Cells(Part):
    """How far each place is from normal ones, and a mean over the most unusual places of an image.

    Of large images, either each place has a mean of its own and each zone a covariance, or all places are alike. Of
    images that are their own thumbnails, places have their own means, and one covariance.
    """

    meaning = "its most unusual places, by fixed random filters"
    of_places = True
    sees_all_pixels = True
    description: ClassVar[type[Description]] = Answers
    mean: Tensor
    whitening: Tensor
    usual: Tensor
    spread: Tensor

    def __init__(self, image_format: ImageFormat, config: Config) -> None:
        super().__init__(image_format, config)
        self.grid = grid_of(image_format.size)
        self.is_large = max(image_format.size) > (config.images.thumbnail or max(image_format.size))
        self.seed = config.seed
        self.describe = self.description(image_format, self.is_large)
        self.pose = Pose(image_format)
        p = self.describe.length
        self.register_buffer("mean", torch.zeros((*self.grid, p)))
        self.register_buffer("whitening", torch.eye(p).expand(1, 1, -1, -1).clone())  # (zones, zones, p, p)
        self.register_buffer("usual", torch.zeros(self.grid))  # mean of the logarithm of distances
        self.register_buffer("spread", torch.ones(self.grid))

    def fit(self, normals: Normals) -> None:
        """Learn from places; of large images, in whichever of three ways finds most planted faults.

        One Gaussian; zones; or zones of parts that are turned the same way up, where parts on plain ground lie
        differently. Each fifth is measured by the others: that also gives places their scale.
        """
        self.pose.reset()
        self._fit(normals, by_place=self._choose(normals) if self.is_large else True)

    def fit_like(self, other: Part, normals: Normals) -> None:
        assert isinstance(other, Cells)
        self.pose.like(other.pose)
        self._fit(normals, other.by_place)

    def _fit(self, normals: Normals, by_place: bool) -> None:
        self._set_scale(self._by_others(normals, by_place))
        self._learn(self._moments(normals, by_place), by_place)

    def _choose(self, normals: Normals) -> bool:
        """Whether places differ, so that zones are taken; and whether parts are turned first."""
        tried = thinned(torch.arange(len(self._fifths(normals))), TRIED)
        images = thinned(normals.full, self.most_images)
        faulty, _ = planted(to_unit_range(images[tried]), generator(self.seed, "cells"), TRIED_STRENGTH)
        described = self._described(faulty)
        one, zones = (self._found(normals, tried, described, choice) for choice in (False, True))
        by_place, kept = misses_less(zones, one), self._name
        if self.pose.fit(images):
            turned = self._name
            if misses_less(self._found(normals, tried, self._described(faulty), True), max(one, zones)):
                normals.forget(kept)
                return True
            self.pose.reset()
            normals.forget(turned)
        return by_place

    def _found(self, normals: Normals, tried: Tensor, faulty: Tensor, by_place: bool) -> float:
        """AUROC of faulty copies of some images, by their descriptions, against these images."""
        distances, moments = self._by_others(normals, by_place), self._moments(normals, by_place)
        self._set_scale(distances)
        fifth, evidence = self._fifths(normals)[tried], torch.empty(len(tried))
        for k in range(FIFTHS):
            self._learn(moments, by_place, k)
            evidence[fifth == k] = self._of_images(faulty[fifth == k])
        return auroc(self._most_unusual((distances[tried] - self.usual) / self.spread), evidence)

    def forward(self, view: View) -> Evidence:
        if not self.pose.is_fitted:
            grid = self._evidence(self.describe(view.full))  # (N, h, w)
            if not self.is_large:
                return Evidence(self._most_unusual(grid), grid)
            # a fault is seen from the places around it too: they agree where it is, and noise does not
            return Evidence(self._most_unusual(grid), mean_around(grid[:, None])[:, 0])
        lie = self.pose.lie(view.full)
        grid = self._evidence(self.describe(self.pose.turned(view.full, lie)))
        return Evidence(self._most_unusual(grid), self.pose.turned_back(mean_around(grid[:, None])[:, 0], lie))

    @property
    def most_images(self) -> int:
        """As many training images are enough."""
        return min(MOST_IMAGES, MOST_PLACES // (self.grid[0] * self.grid[1]))

    def cross_fitted(self, fitted: Normals, images: Normals, tenth: Tensor) -> Tensor:
        kept = {name: value.clone() for name, value in self.state_dict().items()}
        described, by_place, learned = self._described_once(fitted), self.by_place, self._fifths(fitted)
        moments, distances = self._moments(fitted, by_place), self._by_others(fitted, by_place)
        all_described = described if fitted is images and len(described) == len(images) else None
        fifth = torch.arange(len(images)) % FIFTHS  # of images that it did not learn from, any
        fifth[thinned(fitted.source, self.most_images)] = learned
        evidence = torch.empty(len(images)).double()
        for k in range(FIFTHS):
            self._learn(moments, by_place, k)
            self._set_scale(distances[learned != k])  # nor does an image set its own scale
            for indices in torch.split(torch.nonzero(fifth == k)[:, 0], 16):
                few = self._described(images.full[indices]) if all_described is None else all_described[indices]
                evidence[indices] = self._of_images(few).double()
        self.load_state_dict(kept)
        return evidence

    def _described(self, images: Tensor) -> Tensor:
        """Descriptions of images of any number, uint8 or float32 in [0, 1], (n, h, w, p)."""
        n = max(1, LARGE_BATCH // (images.shape[2] * images.shape[3]))
        return torch.cat([self.describe(self.pose(to_unit_range(batch))) for batch in torch.split(images, n)])

    def _described_once(self, normals: Normals) -> Tensor:
        """Descriptions of what is learned from, for whoever asks again."""
        return normals.once(f"{self._name} described", lambda: self._described(thinned(normals.full, self.most_images)))

    @property
    def _name(self) -> str:
        """What this part's entries in ``Normals.once`` begin with."""
        return f"{type(self).__name__}, {'turned' if self.pose.is_fitted else 'as they are'}:"

    @property
    def by_place(self) -> bool:
        """Whether places differ: each has a mean of its own."""
        return not self.is_large or len(self.whitening) > 1

    def _fifths(self, normals: Normals) -> Tensor:
        """Number of the fifth of each image that is learned from, the same for all changed copies of one, (n,)."""
        rank = torch.unique(thinned(normals.source, self.most_images), return_inverse=True)[1]
        order = torch.randperm(int(rank.max()) + 1, generator=generator(self.seed, "fifths"))
        return order[rank] % FIFTHS

    def _moments(self, normals: Normals, by_place: bool) -> Moments:
        """For a covariance of each zone, where places of large images differ, or one for all."""
        zone = ZONE if by_place and self.is_large else None
        name = f"{self._name} moments {zone}"
        return normals.once(name, lambda: Moments(self._described_once(normals), self._fifths(normals), zone))

    def _by_others(self, normals: Normals, by_place: bool) -> Tensor:
        """Distances of each image that is learned from, by the Gaussians of the other fifths, (n, h, w).

        When they are first computed, the Gaussians of four fifths stay behind.
        """

        def compute() -> Tensor:
            described, fifth = self._described_once(normals), self._fifths(normals)
            moments = self._moments(normals, by_place)
            distances = torch.empty(described.shape[:3])
            for k in range(FIFTHS):
                self._learn(moments, by_place, k)
                distances[fifth == k] = self._distances(described[fifth == k])
            return distances

        return normals.once(f"{self._name} distances {by_place}", compute)

    def _learn(self, moments: Moments, by_place: bool, without: int | None = None) -> None:
        """Take Gaussians of all fifths of the images, or of all but one."""
        self.mean, self.whitening = moments.gaussians(by_place, without)

    def _set_scale(self, distances: Tensor) -> None:
        """Mean and deviation at each place, (n, h, w): its own count as much as its images, beside those of all."""
        n = len(distances)
        self.usual = (n * distances.mean(0) + SCALE_FROM * distances.mean()) / (n + SCALE_FROM)
        square = (distances - self.usual).square()
        self.spread = ((n * square.mean(0) + SCALE_FROM * square.mean()) / (n + SCALE_FROM)).sqrt().clamp(min=1e-3)

    def _distance(self, described: Tensor) -> Tensor:
        """Squared Mahalanobis distance over p of each place, (N, h, w, p) → (N, h, w)."""
        rest = described - self.mean
        down, across, p = self.whitening.shape[:3]
        if down * across == 1:
            return (rest @ self.whitening[0, 0]).square().mean(-1)
        n, (height, width) = rest.shape[0], self.grid
        rest = F.pad(rest, (0, 0, 0, across * ZONE - width, 0, down * ZONE - height))
        by_zone = rest.view(n, down, ZONE, across, ZONE, p).permute(1, 3, 0, 2, 4, 5).reshape(down * across, -1, p)
        distance = (by_zone @ self.whitening.flatten(0, 1)).square().mean(-1)  # (zones, n · places)
        placed = distance.view(down, across, n, ZONE, ZONE).permute(2, 0, 3, 1, 4)
        return placed.reshape(n, down * ZONE, across * ZONE)[:, :height, :width]

    def _distances(self, described: Tensor) -> Tensor:
        """Logarithms of the distances of many images' places, (n, h, w)."""
        return torch.cat([(self._distance(few) + DISTANCE_FLOOR).log() for few in torch.split(described, 16)])

    def _evidence(self, described: Tensor) -> Tensor:
        return ((self._distance(described) + DISTANCE_FLOOR).log() - self.usual) / self.spread

    def _of_images(self, described: Tensor) -> Tensor:
        """Evidence of images, of their descriptions, (n,)."""
        return torch.cat([self._most_unusual(self._evidence(few)) for few in torch.split(described, 16)])

    def _most_unusual(self, grid: Tensor) -> Tensor:
        """Mean over the most unusual places, the k-th counting 1/k: a small fault is one of them, a large one many."""
        n = max(1, round(MOST_UNUSUAL * grid.shape[1] * grid.shape[2]))
        weight = 1 / torch.arange(1, n + 1).to(grid)
        return (grid.flatten(1).topk(n).values * weight).sum(1) / weight.sum()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        whitening = state_dict.get(f"{prefix}whitening")
        if whitening is not None and whitening.ndim == 4:  # as many zones as there are
            zones = tuple(-(-side // ZONE) for side in self.grid)
            shape = (1, 1) if tuple(whitening.shape[:2]) == (1, 1) else zones
            self.whitening = self.whitening.new_empty((*shape, *self.whitening.shape[2:]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def misses_less(auroc_of: float, than: float) -> bool:
    """Whether an AUROC misses so much less than another that it is not by chance."""
    return 1 - auroc_of < (1 - WORTH) * (1 - than)
