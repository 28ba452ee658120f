"""Where an image is unusual: a grid of numbers an image, each on a scale of its own place.

| part             | what, at each place of a 16×16 grid                                              |
|------------------|----------------------------------------------------------------------------------|
| `statistics`     | how unusual the answers of random filters are there, and the grey or colours      |
| `reconstruction` | mean squared difference of x and R(x) there                                       |
| `d`              | −logit of D at the deepest feature maps' places, brought to the grid             |

Each part is standardised at each place on held-out normal images: an edge that R never draws well is no news. The map
is the signed root of the mean of the signed squares, as in :class:`alocc.model.calibration.Fusion`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.data.images import to_unit_range
from alocc.model.networks import Discriminator, Reconstructor
from alocc.model.statistics import FILTER_SIZE, FLOOR, gaussian, random_filters, scales, thinned

GRID = 16
MOST_IMAGES = 1_000
"""As many training images, evenly spread, have 256,000 places: enough."""
BATCH = 128
OWN_PLACE_FROM = 10
"""So many images weigh as much as the mean over all places, when a place's own mean is taken."""
OWN_SCALE_FROM = 20
"""The same for a place's own mean and deviation of a part."""
SMALLEST_SCALE = 1e-3


class LocalStatistics(nn.Module):
    """A Gaussian of the filters' answers at each place: a mean of its own, one covariance for all."""

    mean: Tensor
    whitening: Tensor
    filters: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filters", random_filters(channels), persistent=False)

    def fit(self, images: Tensor) -> LocalStatistics:
        """Learn what is normal at each place.

        Args:
            images: normal images, (n, C, H, W), uint8 or float32 in [0, 1].
        """
        few = thinned(images, MOST_IMAGES)
        described = torch.cat([self.describe(to_unit_range(batch)) for batch in torch.split(few, BATCH)])
        n = len(described)
        everywhere = described.mean((0, 2, 3), keepdim=True)[0]
        mean = (n * described.mean(0) + OWN_PLACE_FROM * everywhere) / (n + OWN_PLACE_FROM)
        rest = (described - mean).permute(0, 2, 3, 1).flatten(0, 2)
        _, whitening = gaussian(thinned(rest, 50_000).double())
        self.register_buffer("mean", mean)
        self.register_buffer("whitening", whitening.float())
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance at each place, divided by the length of the description, (N, 16, 16)."""
        rest = (self.describe(x) - self.mean).permute(0, 2, 3, 1)
        distance: Tensor = (rest @ self.whitening).square().mean(3)
        return distance

    def describe(self, x: Tensor) -> Tensor:
        """Strength and mean positive answer of each filter at each scale, and the mean colour, (N, p, 16, 16)."""
        described = []
        for image in scales(x):
            answer = F.conv2d(F.pad(image, (FILTER_SIZE // 2,) * 4, mode="reflect"), self.filters)
            described += [0.5 * (_on_grid(answer.square()) + FLOOR).log(), _on_grid(answer.relu())]
        return torch.cat([*described, _on_grid(x)], 1)


class MapFusion(nn.Module):
    """Parts of a map → the map, each standardised at each place on held-out normal images."""

    def __init__(self, means: Mapping[str, Tensor], deviations: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.parts = sorted(means)
        for part in self.parts:
            self.register_buffer(f"{part}_mean", means[part])
            self.register_buffer(f"{part}_deviation", deviations[part])

    @classmethod
    def fit(cls, held_out: Mapping[str, Tensor]) -> MapFusion:
        """Measure mean and deviation of each part at each place: (n, 16, 16) each, over n held-out normal images."""
        means, deviations = {}, {}
        for part, value in held_out.items():
            n = len(value)
            mean = (n * value.mean(0) + OWN_SCALE_FROM * value.mean()) / (n + OWN_SCALE_FROM)
            rest = (value - mean).square()
            variance = (n * rest.mean(0) + OWN_SCALE_FROM * rest.mean()) / (n + OWN_SCALE_FROM)
            means[part], deviations[part] = mean, variance.sqrt() + SMALLEST_SCALE
        return cls(means, deviations)

    def forward(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The map, (N, 16, 16): about standard deviations of normal images at the same place."""
        total = torch.zeros_like(parts[self.parts[0]])
        for part in self.parts:
            z = (parts[part] - getattr(self, f"{part}_mean")) / getattr(self, f"{part}_deviation")
            total = total + z * z.abs()
        mean = total / len(self.parts)
        return mean.sign() * mean.abs().sqrt()


def map_parts(R: Reconstructor, D: Discriminator | None, local: LocalStatistics, x: Tensor) -> dict[str, Tensor]:
    """Each part of the map, (N, 16, 16); R and D must be in evaluation mode.

    Args:
        R, D: the networks; no D if it has no part in the score.
        local: fitted to normal images.
        x: images, (N, C, H, W), float32 in [0, 1].
    """
    x_hat = R(x)
    error = _on_grid((x - x_hat).square().mean(1, keepdim=True))[:, 0]
    parts = {"statistics": local(x).clamp(min=FLOOR).log(), "reconstruction": (error + FLOOR).log()}
    if D is not None:
        seen = torch.cat([x, x_hat], 1) if D.input == "pair" else x_hat
        logits = D.logit_map(seen)[:, None]
        parts["d"] = -F.interpolate(logits, size=(GRID, GRID), mode="bilinear", align_corners=False)[:, 0]
    return parts


def at_full_size(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """A map on the grid → at the size of the images, (N, H, W)."""
    return F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _on_grid(x: Tensor) -> Tensor:
    """Mean around each place of the grid, over three places each way, (N, C, 16, 16)."""
    height, width = x.shape[2:]
    if min(height, width) < GRID:
        x = F.interpolate(x, size=(max(height, GRID), max(width, GRID)), mode="bilinear", align_corners=False)
    grid = F.adaptive_avg_pool2d(x, GRID)
    return F.avg_pool2d(F.pad(grid, (1,) * 4, mode="replicate"), 3, 1)
