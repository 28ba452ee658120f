"""How unusual images are to a network trained on ImageNet, EfficientNet-Lite0: at each place, and as a whole."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.config import Config
from alocc.data.frame import CELL, LARGE_BATCH
from alocc.data.images import to_unit_range
from alocc.data.resizing import ImageFormat
from alocc.networks.lite0 import Lite0, check_installed
from alocc.parts.cells import Cells, Description
from alocc.parts.descriptions import GaussianPart
from alocc.parts.gaussian import Gaussian
from alocc.parts.part import Normals, Part, View

SMALLEST = 96
"""Smaller images are enlarged: the network was trained on objects of about 200 pixels."""


class Lite0Features(Description):
    """Description of places: what the network says at strides 8 and 16 there, (N, C, H, W) → (N, h, w, 152)."""

    def __init__(self, image_format: ImageFormat, is_large: bool) -> None:
        super().__init__(image_format, is_large)
        sides = [side + -side % CELL if is_large else side for side in image_format.size]  # whole cells, as maps have
        self.to_cells = (0, sides[1] - image_format.width, 0, sides[0] - image_format.height)
        scale = max(1.0, SMALLEST / min(sides))
        height, width = (round(side * scale) for side in sides)
        self.enlarged = (height, width)
        self.padding = (0, -width % 16, 0, -height % 16)
        self.seen = (-(-height // CELL), -(-width // CELL))
        self.network = Lite0(8, 16)
        self.length = self.network.length

    def forward(self, x: Tensor) -> Tensor:
        if any(self.to_cells):
            x = F.pad(x, self.to_cells, mode="replicate")
        if tuple(x.shape[2:]) != self.enlarged:
            x = F.interpolate(x, size=self.enlarged, mode="bicubic", align_corners=False)
        fine, coarse = self.network(F.pad(x, self.padding, mode="replicate"))
        coarse = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        places = torch.cat([fine, coarse], 1)[:, :, : self.seen[0], : self.seen[1]]  # without what was padded
        if self.seen != self.grid:
            places = F.interpolate(places, size=self.grid, mode="bilinear", align_corners=False)
        return places.permute(0, 2, 3, 1)


class Features(Cells):
    """Gaussians of what EfficientNet-Lite0 says of places; its weights are kept with them."""

    meaning = "its most unusual places, by a network trained on ImageNet"
    description = Lite0Features

    @classmethod
    def check_installed(cls) -> None:
        check_installed()

    def fit(self, normals: Normals) -> None:
        cast(Lite0Features, self.describe).network.load_pretrained()
        super().fit(normals)

    def fit_like(self, other: Part, normals: Normals) -> None:
        cast(Lite0Features, self.describe).network.load_pretrained()
        super().fit_like(other, normals)


class Scene(GaussianPart):
    """A Gaussian of what EfficientNet-Lite0 says of a whole image, at strides 16 and 32.

    Descriptions have length 1: their direction says what is shown, their length how clearly.
    """

    meaning = "the whole image, by a network trained on ImageNet"

    def __init__(self, image_format: ImageFormat, config: Config) -> None:
        super().__init__(image_format, config)
        self.describe = Lite0Scene(image_format)
        self.gaussian = Gaussian(self.describe.length)

    @classmethod
    def check_installed(cls) -> None:
        check_installed()

    def fit(self, normals: Normals) -> None:
        self.describe.network.load_pretrained()
        super().fit(normals)

    def described(self, view: View) -> Tensor:
        description: Tensor = self.describe(view.x)
        return description

    def all_described(self, normals: Normals) -> Tensor:
        n = max(1, LARGE_BATCH // (self.describe.size[0] * self.describe.size[1]))

        def compute() -> Tensor:
            return torch.cat([self.describe(to_unit_range(few)) for few in torch.split(normals.images, n)]).double()

        return normals.once("scene", compute)


class Lite0Scene(nn.Module):
    """Means over the image of what the network says, as one vector of length 1: (N, C, H, W) → (N, 432)."""

    def __init__(self, image_format: ImageFormat) -> None:
        super().__init__()
        scale = max(1.0, SMALLEST / min(image_format.size))
        height, width = (32 * -(-round(side * scale) // 32) for side in image_format.size)
        self.size = (height, width)
        self.network = Lite0(16, 32)
        self.length = self.network.length

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="bicubic", align_corners=False)
        said = torch.cat([each.mean((2, 3)) for each in self.network(x)], 1)
        unit: Tensor = said / said.norm(dim=1, keepdim=True)
        return unit
