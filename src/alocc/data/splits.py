"""Normal images → those that train the networks, and those held out to calibrate the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alocc.calibration import default_alpha, images_needed, smallest_alpha_text
from alocc.config import CalibrationConfig
from alocc.errors import ConfigError, DataError
from alocc.seeding import generator

MIN_IMAGES = 10
MIN_FIT = 5


class Fold(NamedTuple):
    """What one pair of networks is trained on, and what it is held against: sorted indices."""

    fit: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class Split:
    """Which normal images train and which calibrate."""

    folds: tuple[Fold, ...]  # one; or several, where every image trains some networks and calibrates the others

    @property
    def crosses(self) -> bool:
        """Whether every image trains some networks and calibrates the others."""
        return len(self.folds) > 1

    @property
    def fit(self) -> Tensor:
        """Images that train something, sorted."""
        trained = torch.cat([fold.fit for fold in self.folds])
        return torch.nonzero(torch.bincount(trained))[:, 0]

    @property
    def held_out(self) -> Tensor:
        """Images that calibrate, fold after fold."""
        return torch.cat([fold.held_out for fold in self.folds])

    def without(self, left_out: Tensor) -> Split:
        """The same, but these images do not train.

        Raises:
            DataError: if fewer than 5 are left.
        """
        folds = tuple(Fold(fold.fit[~torch.isin(fold.fit, left_out)], fold.held_out) for fold in self.folds)
        if any(len(fold.fit) < MIN_FIT for fold in folds):
            raise DataError(f"fewer than {MIN_FIT} images are left to train on; give more, or less contamination")
        return Split(folds)


def split_normals(n_images: int, calibration: CalibrationConfig, seed: int, *, may_cross: bool = True) -> Split:
    """Choose, by the seed, which normal images train and which are held out.

    At least ``calibration.held_out`` of the images are held out, and more where alpha needs more, up to a third; at
    least five always train. Where that is less than ``calibration.enough`` and there may be folds, all are held out,
    each from the networks of its own fold. A DataError if there are fewer than 10 images; a ConfigError if alpha was
    asked for and they cannot support it, or the review alpha is below what they can.
    """
    if n_images < MIN_IMAGES:
        raise DataError(f"too few normal images to train on: {n_images}; give at least {MIN_IMAGES}")
    order = torch.randperm(n_images, generator=generator(seed, "split"))
    folds = calibration.folds if round(n_images * calibration.held_out) < calibration.enough and may_cross else 0
    needed = images_needed(calibration.alpha)
    n_held_out = n_images
    if not folds:
        n_held_out = max(round(n_images * calibration.held_out), min(needed, n_images // 3))
        n_held_out = min(n_held_out, n_images - MIN_FIT)
    if calibration.alpha and n_held_out < needed:
        raise ConfigError(
            f"alpha {calibration.alpha:g} needs {needed} held-out normal images, and of {n_images} at most "
            f"{n_held_out} are held out; ask for alpha {smallest_alpha_text(n_held_out)} or more, or give more images"
        )
    if calibration.review_alpha and calibration.review_alpha < default_alpha(n_held_out, calibration.alpha):
        raise ConfigError(
            f"review_alpha {calibration.review_alpha:g} is below alpha, which is "
            f"{default_alpha(n_held_out, calibration.alpha):.4g} with {n_held_out} held-out normal images; "
            "ask for a larger one, or for a smaller alpha if that many images support it"
        )
    if not folds:
        return Split((Fold(order[n_held_out:].sort().values, order[:n_held_out].sort().values),))
    fold = torch.empty_like(order)
    fold[order] = torch.arange(n_images) % folds
    return Split(tuple(Fold(torch.nonzero(fold != k)[:, 0], torch.nonzero(fold == k)[:, 0]) for k in range(folds)))
