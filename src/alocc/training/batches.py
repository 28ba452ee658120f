"""Endless shuffled batches whose position can be saved and restored."""

from __future__ import annotations

import torch
from torch import Tensor


class Batches:
    """Indices of ``batch_size`` images at each call, epoch after epoch, shuffled anew for each.

    A batch that reaches the end of an epoch goes on with the next one, so all batches are full and no image is left
    out, whatever the number of images.
    """

    def __init__(self, n_images: int, batch_size: int, generator: torch.Generator) -> None:
        self.n_images, self.batch_size, self.generator = n_images, batch_size, generator
        self.pending = torch.empty(0, dtype=torch.int64)

    def __call__(self) -> Tensor:
        """Draw the next batch: indices, (batch_size,)."""
        while len(self.pending) < self.batch_size:
            order = torch.randperm(self.n_images, generator=self.generator)
            self.pending = torch.cat([self.pending, order])
        batch, self.pending = self.pending[: self.batch_size], self.pending[self.batch_size :]
        return batch
