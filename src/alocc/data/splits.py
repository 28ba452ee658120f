"""Normal images → those that train the networks, and those held out to calibrate the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alocc.config import CalibrationConfig
from alocc.conformal import images_needed, shown_alpha, smallest_alpha
from alocc.errors import ConfigError, DataError
from alocc.seeding import generator

__all__ = ["DEFAULT_ALPHA", "Part", "Split", "images_needed", "shown_alpha", "smallest_alpha", "split_normals"]

DEFAULT_ALPHA = 0.01
MIN_IMAGES = 10


class Part(NamedTuple):
    """What one pair of networks is trained on, and what it is held against: sorted indices."""

    fit: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class Split:
    """Which normal images train and which calibrate."""

    parts: tuple[Part, ...]
    """One, or, where every image does both in turn, one for each fold."""

    @property
    def crosses(self) -> bool:
        """Whether every image trains some networks and calibrates the others."""
        return len(self.parts) > 1

    @property
    def fit(self) -> Tensor:
        """Images that train something, sorted."""
        trained = torch.cat([part.fit for part in self.parts])
        return torch.nonzero(torch.bincount(trained))[:, 0]

    @property
    def held_out(self) -> Tensor:
        """Images that calibrate, part after part."""
        return torch.cat([part.held_out for part in self.parts])

    def without(self, left_out: Tensor) -> Split:
        """The same, but these images do not train."""
        parts = (Part(part.fit[~torch.isin(part.fit, left_out)], part.held_out) for part in self.parts)
        return Split(tuple(parts))


def split_normals(n_images: int, calibration: CalibrationConfig, seed: int, *, may_cross: bool = True) -> Split:
    """Choose which normal images train and which are held out.

    At least ``calibration.held_out`` of the images are held out, and more where alpha needs more, up to a third; at
    least five always train. Where that is less than ``calibration.enough`` and there may be folds, all are held out,
    each from the networks of its own fold.

    Args:
        n_images: all normal images.
        calibration: shares and alpha.
        seed: decides the order.
        may_cross: whether there may be folds.

    Raises:
        DataError: if there are fewer than 10 images.
        ConfigError: if alpha was asked for and the images cannot support it.
    """
    if n_images < MIN_IMAGES:
        raise DataError(f"too few normal images to train on: {n_images}; give at least {MIN_IMAGES}")
    order = torch.randperm(n_images, generator=generator(seed, "split"))
    folds = calibration.folds if round(n_images * calibration.held_out) < calibration.enough and may_cross else 0
    needed = images_needed(calibration.alpha or DEFAULT_ALPHA)
    n_held_out = n_images
    if not folds:
        n_held_out = max(round(n_images * calibration.held_out), min(needed, n_images // 3))
        n_held_out = min(n_held_out, n_images - MIN_IMAGES // 2)
    if calibration.alpha and n_held_out < needed:
        raise ConfigError(
            f"alpha {calibration.alpha:g} needs {needed} held-out normal images, and of {n_images} at most "
            f"{n_held_out} are held out; ask for alpha {shown_alpha(n_held_out)} or more, or give more images"
        )
    if not folds:
        return Split((Part(order[n_held_out:].sort().values, order[:n_held_out].sort().values),))
    fold = torch.empty_like(order)
    fold[order] = torch.arange(n_images) % folds
    return Split(tuple(Part(torch.nonzero(fold != k)[:, 0], torch.nonzero(fold == k)[:, 0]) for k in range(folds)))
