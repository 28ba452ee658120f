"""A memory of small copies of normal images: how far an image is from the nearest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alocc.config import Config
from alocc.data.frame import averages, thinned
from alocc.data.images import to_unit_range
from alocc.data.resizing import ImageFormat
from alocc.parts.part import Evidence, Normals, Part, View

NEIGHBOURS = 5
SIDE = 14
MOST_REMEMBERED = 3_000


class Neighbours(Part):
    """Mean Euclidean distance to the five nearest normal images, all at 14×14 pixels."""

    meaning = "distance to the most similar normal images, at 14×14 pixels"
    floor = 1e-4
    memory: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, image_format: ImageFormat, config: Config) -> None:
        super().__init__(image_format, config)
        for name, side in (("rows", image_format.height), ("columns", image_format.width)):
            self.register_buffer(name, averages(side, SIDE), persistent=False)
        self.register_buffer("memory", torch.zeros((NEIGHBOURS, image_format.channels * SIDE**2)))

    def fit(self, normals: Normals) -> None:
        self.memory = self._small(to_unit_range(thinned(normals.images, MOST_REMEMBERED)))

    def forward(self, view: View) -> Evidence:
        # the nearest are found by products, which is quick, then measured by differences
        small = self._small(view.x)  # (N, C · 14 · 14)
        nearness = small @ self.memory.T - self.memory.square().sum(1) / 2  # (N, memory)
        nearest = nearness.topk(min(NEIGHBOURS, len(self.memory))).indices
        distances = (small[:, None] - self.memory[nearest]).square().sum(2).sqrt()  # (N, 5)
        return Evidence(image=distances.mean(1))

    def cross_fitted(self, fitted: Normals, images: Normals, tenth: Tensor) -> Tensor:
        source = thinned(fitted.source, MOST_REMEMBERED)
        small = self._small(to_unit_range(images.images))
        distances = torch.cdist(small, self._small(to_unit_range(thinned(fitted.images, MOST_REMEMBERED))))
        distances[torch.arange(len(images))[:, None] == source] = torch.inf
        nearest = distances.topk(min(NEIGHBOURS, len(set(source.tolist())) - 1), largest=False).values
        return nearest.mean(1).double()

    def remembered(self) -> Tensor:
        """Small copies of normal images, (m, C, 14, 14), in [0, 1]."""
        return self.memory.view(len(self.memory), self.image_format.channels, SIDE, SIDE)

    def _small(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C · 14 · 14), means of as many cells."""
        return (self.rows @ x @ self.columns.T).flatten(1)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        memory = state_dict.get(f"{prefix}memory")
        if memory is not None and memory.ndim == 2:  # as many as there are
            self.memory = self.memory.new_empty((len(memory), self.memory.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *rest)
