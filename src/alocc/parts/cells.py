"""How unusual the answers of random filters are around each place, and the grey or colours there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alocc.config import Config
from alocc.data.frame import thinned
from alocc.data.images import to_unit_range
from alocc.data.resizing import ImageFormat
from alocc.parts.descriptions import FILTER_SIZE, FLOOR, random_filters, scales
from alocc.parts.gaussian import Gaussian, gaussian
from alocc.parts.part import GRID, Evidence, Normals, Part, View, pixels_to_grid

MOST_IMAGES = 1_000
"""As many training images, evenly spread, have 256,000 places: enough."""
MOST_PLACES = 50_000
"""As many places are enough for a covariance."""
BATCH = 128
OWN_PLACE_FROM = 10
"""So many images weigh as much as the mean over all places, when a place's own mean is taken."""


class Cells(Part):
    """Squared Mahalanobis distance of each place: a mean of each place's own, one covariance for all places."""

    floor = 1e-5
    of_images, of_places = False, True
    filters: Tensor

    def __init__(self, image_format: ImageFormat, config: Config) -> None:
        super().__init__(image_format, config)
        self.register_buffer("filters", random_filters(image_format.channels), persistent=False)
        length = self.describe(torch.zeros((1, image_format.channels, *image_format.size))).shape[3]
        self.gaussian = Gaussian(GRID, GRID, length)

    def fit(self, normals: Normals) -> None:
        batches = torch.split(thinned(normals.images, MOST_IMAGES), BATCH)
        described = torch.cat([self.describe(to_unit_range(batch)) for batch in batches])  # (n, 16, 16, p)
        n, everywhere = len(described), described.mean((0, 1, 2))
        self.gaussian.mean.copy_((n * described.mean(0) + OWN_PLACE_FROM * everywhere) / (n + OWN_PLACE_FROM))
        rest = (described - self.gaussian.mean).flatten(0, 2)  # (n · 256, p)
        self.gaussian.whitening.copy_(gaussian(thinned(rest, MOST_PLACES).double())[1])

    def forward(self, view: View) -> Evidence:
        return Evidence(grid=self.gaussian(self.describe(view.x)))

    def describe(self, x: Tensor) -> Tensor:
        """Strength and mean positive answer of each filter at each scale, and the mean colour, (N, 16, 16, p)."""
        described = []
        for image in scales(x):
            answer = F.conv2d(F.pad(image, (FILTER_SIZE // 2,) * 4, mode="reflect"), self.filters)
            described += [0.5 * (pixels_to_grid(answer.square()) + FLOOR).log(), pixels_to_grid(answer.relu())]
        return torch.cat([*described, pixels_to_grid(x)], 1).permute(0, 2, 3, 1)
