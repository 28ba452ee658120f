"""Where a part lies on plain ground, and which way: found without learning, so that every part is seen the same way up.

The ground's brightness is a quadratic surface through the image's rim, which light from one side is; what differs from
it is the part. Its centre, the direction of its longest axis and which end is heavier are moments of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.data.frame import CELL, averages
from alocc.data.images import to_unit_range
from alocc.data.resizing import ImageFormat

CELLS = 128
"""Along the longer side, of the picture in which the part is looked for."""
RIM = 1 / 16
"""Width of the rim, of each side."""
LEAST_AREA, MOST_AREA, MOST_RIM = 0.003, 0.6, 0.02
"""Shares of the image that a part covers, and of the rim at most: else it is not a part on plain ground."""
ELONGATED = 1.2
"""Ratio of the deviations along the two axes, from which a direction is known."""
LEAST_LONGER = 0.05
"""Difference of the variances along the two axes, as a share of both, below which images stay as they are."""
LEAST_SKEW = 0.1
"""Skewness along the axis from which one end is known to be heavier."""
FOUND_IN = 0.95
"""Share of the images in which a part must be found."""
ALIKE_DIRECTION, ALIKE_CENTRE = 0.995, 0.02
"""Length of the mean direction, and deviation of centres in sides of the image, of parts that lie alike anyhow."""
POWERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
"""Of x and y, in moments."""
LEVELS = 256


class Lie(NamedTuple):
    """How parts lie, rightwards and downwards."""

    centre: Tensor
    """From the middle of the image, in pixels, (N, 2)."""
    towards: Tensor
    """Which way the x axis of the turned image points, a unit vector, (N, 2)."""


class Pose(nn.Module):
    """Turns and shifts images (N, C, H, W) so that parts lie along the longer side, in the middle.

    As long as there is no ``threshold``, it has not been fitted, and images stay as they are.
    """

    threshold: Tensor | None
    ends_differ: Tensor | None
    rows: Tensor
    columns: Tensor
    surface: Tensor
    to_ground: Tensor
    monomials: Tensor
    pixels: Tensor
    longer_side: Tensor
    middle: Tensor
    extent: Tensor
    rim: Tensor

    def __init__(self, image_format: ImageFormat) -> None:
        super().__init__()
        self.size = height, width = image_format.size
        h, w = (max(1, round(CELLS * side / max(self.size))) for side in self.size)
        self.register_buffer("threshold", None)
        self.register_buffer("ends_differ", None)  # 1 if one end is heavier, which then says which way up it is
        v, u = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in (h, w)), indexing="ij")  # −1 to 1
        y, x = v * height / max(self.size) / 2, u * width / max(self.size) / 2  # from the middle, in longer sides
        rim = torch.ones(h, w, dtype=torch.bool)
        down, across = max(1, round(RIM * h)), max(1, round(RIM * w))
        rim[down:-down, across:-across] = False
        surface = torch.stack([torch.ones_like(u), u, v, u * v, u * u, v * v], -1).flatten(0, 1)  # (cells, 6)
        to_ground = torch.zeros(6, h * w)
        to_ground[:, rim.flatten()] = torch.linalg.pinv(surface[rim.flatten()])
        j, i = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        constants = {
            "rows": averages(height, h), "columns": averages(width, w).T.contiguous(), "rim": rim.float().flatten(),
            "surface": surface.T.contiguous(), "to_ground": to_ground,
            "monomials": torch.stack([x**n * y**m for n, m in POWERS]).flatten(1),  # (10, cells)
            "pixels": torch.stack([i - width / 2, j - height / 2], -1),  # (H, W, 2), from the middle
            "longer_side": torch.tensor([1.0, 0.0] if width >= height else [0.0, 1.0]),
            "middle": torch.tensor([width / 2, height / 2]),
            "extent": torch.tensor([float(side + -side % CELL) for side in (width, height)]),  # of whole places
        }  # fmt: skip
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def is_fitted(self) -> bool:
        return self.threshold is not None

    def fit(self, images: Tensor) -> bool:
        """Find out how far parts differ from their ground.

        Args:
            images: normal ones, (n, C, H, W), uint8.

        Returns:
            whether these are images of a part on plain ground that lies differently in them; if not, nothing is fitted.
        """
        self.reset()
        off = torch.cat([self._off_ground(to_unit_range(few)) for few in torch.split(images, 16)])
        threshold = otsu(off)
        part = self._part(off, threshold)  # (n, cells)
        rim = (part * self.rim).sum(1) / self.rim.sum()
        lies, ratios, skews = zip(*(self._lie(few) for few in torch.split(part, 16)), strict=True)
        centre, towards = (torch.cat([lie[i] for lie in lies]) for i in (0, 1))
        ratio, skew = torch.cat(ratios), torch.cat(skews)
        found = (part.mean(1) > LEAST_AREA) & (part.mean(1) < MOST_AREA) & (rim < MOST_RIM) & (ratio > ELONGATED)
        if found.sum() < 2 or found.float().mean() < FOUND_IN:
            return False
        ends_differ = skew[found].abs().median() > LEAST_SKEW
        if ends_differ:
            towards = torch.where(skew[:, None] < 0, -towards, towards)
        else:  # either way along the axis is the same
            towards = torch.stack([towards[:, 0] ** 2 - towards[:, 1] ** 2, 2 * towards[:, 0] * towards[:, 1]], 1)
        moved = centre[found].std(0).max() / max(self.size)
        if towards[found].mean(0).norm() > ALIKE_DIRECTION and moved < ALIKE_CENTRE:
            return False
        self.threshold, self.ends_differ = threshold, ends_differ.float()
        return True

    def reset(self) -> None:
        """Leave images as they are."""
        self.threshold = self.ends_differ = None

    def like(self, other: Pose) -> None:
        """Turn images as another one does."""
        self.threshold, self.ends_differ = other.threshold, other.ends_differ

    def forward(self, x: Tensor) -> Tensor:
        """Images as they are, or turned if fitted; beyond the edge of an image, its edge goes on."""
        return self.turned(x, self.lie(x)) if self.is_fitted else x

    def lie(self, x: Tensor) -> Lie:
        """How the parts in images lie."""
        assert self.threshold is not None and self.ends_differ is not None
        lie, _, skew = self._lie(self._part(self._off_ground(x), self.threshold))
        is_turned_round = ((skew < 0) & (self.ends_differ > 0))[:, None]
        return lie._replace(towards=torch.where(is_turned_round, -lie.towards, lie.towards))

    def turned(self, x: Tensor, lie: Lie) -> Tensor:
        """Images in which the parts lie alike."""
        return F.grid_sample(x, self._seen_from(self.pixels, lie), "bicubic", "border", align_corners=False).clamp(0, 1)

    def turned_back(self, places: Tensor, lie: Lie) -> Tensor:
        """Evidence of places of turned images, (N, h, w), at the places of the images; 0 where they were not seen."""
        grid = places.shape[1], places.shape[2]
        off = self._places(grid) - lie.centre[:, None, None]  # (N, h, w, 2)
        along, beside = ((off * axis[:, None, None]).sum(-1) for axis in (lie.towards, _quarter_turned(lie.towards)))
        at = (torch.stack([along, beside], -1) + self.middle) / self.extent * 2 - 1
        return F.grid_sample(places[:, None], at, "bilinear", "zeros", align_corners=False)[:, 0]

    def _places(self, grid: tuple[int, int]) -> Tensor:
        """Middles of places, seen from the middle of the image, (h, w, 2), in pixels."""
        y, x = (torch.arange(n).to(self.middle) + 0.5 for n in grid)
        step = self.extent / self.extent.new_tensor([grid[1], grid[0]])
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) * step - self.middle

    def _seen_from(self, points: Tensor, lie: Lie) -> Tensor:
        """Points of turned images, (h, w, 2) from the middle, in the images: (N, h, w, 2), −1 to 1 along each side."""
        along, beside = lie.towards[:, None, None], _quarter_turned(lie.towards)[:, None, None]  # (N, 1, 1, 2)
        at = lie.centre[:, None, None] + points[..., :1] * along + points[..., 1:] * beside
        return at / self.middle

    def _off_ground(self, x: Tensor) -> Tensor:
        """How far each cell is from the ground, the largest of all channels, (N, cells)."""
        cells = (self.rows @ x @ self.columns).flatten(2)  # (N, C, cells)
        ground = (_sums(cells, self.to_ground)[..., None] * self.surface).sum(2)
        return (cells - ground).abs().amax(1)

    @staticmethod
    def _part(off: Tensor, threshold: Tensor) -> Tensor:
        """How much of each cell is the part's, in [0, 1]: without a jump, so that every engine sees the same."""
        return (2 * off / threshold - 1.5).clamp(0, 1)

    def _lie(self, part: Tensor) -> tuple[Lie, Tensor, Tensor]:
        """How parts lie, by their cells (N, cells), one way or the other along their axis.

        And how elongated they are, (N,), and the skewness along the axis, which says where the heavier end is, (N,).

        Where hardly anything is found, or nothing longer than broad, a rounding would decide: the image stays as it is.
        """
        mass, x, y, xx, xy, yy, xxx, xxy, xyy, yyy = torch.split(_sums(part, self.monomials), 1, 1)  # (N, 1) each
        share, mass = mass / part.shape[1], mass.clamp(min=1e-6)
        x, y, xx, xy, yy = x / mass, y / mass, xx / mass, xy / mass, yy / mass
        across, along, both = xx - x * x, yy - y * y, xy - x * y  # around the centre
        length = ((across - along).square() + 4 * both.square()).sqrt().clamp(min=1e-9)
        cos = ((1 + (across - along) / length).clamp(min=0) / 2).sqrt()  # of half the angle that the moments have
        sin = ((1 - (across - along) / length).clamp(min=0) / 2).sqrt() * torch.where(both < 0, -1.0, 1.0)
        shift = x * cos + y * sin
        second = cos * cos * xx + 2 * cos * sin * xy + sin * sin * yy
        third = (cos**3 * xxx + 3 * cos * cos * sin * xxy + 3 * cos * sin * sin * xyy + sin**3 * yyy) / mass
        axis = torch.cat([cos, sin], 1)
        skew = (third - 3 * shift * second + 2 * shift**3) / ((across + along + length) / 2).clamp(min=1e-9) ** 1.5
        is_found = (share > LEAST_AREA / 2) & (length > LEAST_LONGER * (across + along))
        axis = torch.where(is_found, axis, self.longer_side)
        centre = torch.cat([x, y], 1) * is_found * max(self.size)
        towards = axis if self.size[1] >= self.size[0] else -_quarter_turned(axis)
        ratio = ((across + along + length) / (across + along - length).clamp(min=1e-9)).sqrt()[:, 0]
        return Lie(centre, towards), ratio, (skew * is_found)[:, 0]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("threshold", "ends_differ"):
            setattr(self, name, torch.empty(()) if f"{prefix}{name}" in state_dict else None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def otsu(values: Tensor) -> Tensor:
    """The threshold that parts values best into two kinds (Otsu 1979)."""
    counts = torch.histc(values, LEVELS).double()
    step = (values.max() - values.min()) / LEVELS
    levels = values.min() + step * (torch.arange(LEVELS) + 0.5)
    below, above = counts.cumsum(0)[:-1], counts.flip(0).cumsum(0).flip(0)[1:]
    sums = (counts * levels).cumsum(0)
    between = below * above * (sums[:-1] / below.clamp(min=1) - (sums[-1] - sums[:-1]) / above.clamp(min=1)).square()
    return levels[int(between.argmax())] + step / 2


def _sums(values: Tensor, factors: Tensor) -> Tensor:
    """(…, cells) → (…, m): sums of products with each row of (m, cells).

    A matrix product sums the rows of a batch in different orders.
    """
    return (values[..., None, :] * factors).sum(-1)


def _quarter_turned(axis: Tensor) -> Tensor:
    """(x, y) → (−y, x)."""
    return torch.stack([-axis[..., 1], axis[..., 0]], -1)
