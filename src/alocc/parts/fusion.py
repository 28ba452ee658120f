"""Evidence of several parts → one number, of an image or of each place, on a scale that normal images give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alocc.parts.part import values_to_grid

OF_GRID = ".grid"
"""Behind a part's name: its evidence of places, where evidence of images is in the same dictionary."""
OWN_PLACE_FROM = 20
"""So many images weigh as much as all places together, when a place's own mean and deviation are taken."""


class Scale(nn.Module):
    """One part's evidence → z, its distance from what it is on normal images, in standard deviations.

    Args:
        places: sides of the grid; () for evidence of images.
        floor: added before the logarithm is taken; none: no logarithm.
        own_places: whether each place has its own scale.
        dtype: evidence of images is computed with in float64.
    """

    weight: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, places: tuple[int, ...], floor: float | None, own_places: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.floor, self.own_places = floor, own_places
        self.margin = 1e-3 if places else 0.0  # what is the same at a place of all images must not count without bounds
        self.register_buffer("weight", torch.ones((), dtype=dtype))
        self.register_buffer("mean", torch.zeros(places, dtype=dtype))
        self.register_buffer("deviation", torch.ones(places, dtype=dtype))

    def fit(self, evidence: Tensor) -> None:
        """Take mean and deviation from evidence of normal images, (n,) or (n, h, w).

        A place's own mean and variance count as much as its images, beside the mean and variance over all places.
        """
        values = self.transformed(evidence.to(self.mean.dtype))
        mean, variance = values.mean(), values.var(correction=0)
        if self.own_places and values.ndim > 1:
            n = len(values)
            mean = (n * values.mean(0) + OWN_PLACE_FROM * mean) / (n + OWN_PLACE_FROM)  # (h, w)
            square = (values - mean).square()
            variance = (n * square.mean(0) + OWN_PLACE_FROM * square.mean()) / (n + OWN_PLACE_FROM)
        self.mean.copy_(mean)
        self.deviation.copy_((variance.sqrt() + self.margin).clamp(min=1e-6))

    def transformed(self, evidence: Tensor) -> Tensor:
        """Evidence on the scale on which it is compared: an error's or distance's logarithm, else itself."""
        return evidence if self.floor is None else (evidence.clamp(min=0) + self.floor).log()

    def forward(self, evidence: Tensor) -> Tensor:
        z: Tensor = (self.transformed(evidence.to(self.mean.dtype)) - self.mean) / self.deviation
        return z


class Fusion(nn.Module):
    """Evidence → signed root of the weighted mean of the signed squares of all z.

    A part that is far out counts more than several that are a little out, since an anomaly rarely shows in everything.
    The unit is about one standard deviation of normal images.

    Args:
        weights: of each part, by its name.
        parts: floor and ``own_places`` of each.
        grid: rows and columns of the places, where evidence is of places; none: of images.
    """

    def __init__(self, weights: Mapping[str, float], parts: nn.ModuleDict, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        places, dtype = ((), torch.float64) if grid is None else (grid, torch.float32)
        self.grid, self.suffix = grid, "" if grid is None else OF_GRID
        self.scales = nn.ModuleDict()
        for name in sorted(weights):
            part = parts[name]
            self.scales[name] = Scale(places, part.floor, part.own_places, dtype)  # type: ignore[arg-type]
        self.reweigh(weights)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each part."""
        return {name: float(scale.weight) for name, scale in self.scales.items()}  # type: ignore[arg-type]

    def reweigh(self, weights: Mapping[str, float]) -> None:
        """Give the parts other weights."""
        for name, scale in self.scales.items():
            scale.weight.fill_(weights[name])  # type: ignore[operator]

    def fit(self, evidence: Mapping[str, Tensor]) -> None:
        """Measure each part's scale on held-out normal images."""
        for name, scale in self.scales.items():
            scale.fit(self._placed(evidence[name + self.suffix]))  # type: ignore[operator]

    def forward(self, evidence: Mapping[str, Tensor]) -> Tensor:
        """(N,) or (N, h, w) for each part → the same of all."""
        total: Any = 0.0
        weights: Any = 0.0
        for name, scale in self.scales.items():  # one after the other: a vectorised sum rounds by position
            z = scale(self._placed(evidence[name + self.suffix]))
            total = total + scale.weight * z.abs() * z
            weights = weights + scale.weight
        mean: Tensor = total / weights
        return mean.sign() * mean.abs().sqrt()

    def _placed(self, evidence: Tensor) -> Tensor:
        """Evidence of places on the grid of all parts."""
        return evidence if self.grid in (None, tuple(evidence.shape[1:])) else values_to_grid(evidence, self.grid)
