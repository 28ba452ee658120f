"""Normal images → those that train the networks, and those held out to calibrate the threshold."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alocc.config import CalibrationConfig
from alocc.errors import ConfigError, DataError
from alocc.seeding import generator

DEFAULT_ALPHA = 0.01
MIN_IMAGES = 10


def split_normals(n_images: int, calibration: CalibrationConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Choose which normal images train (first result) and which are held out (second); both are sorted indices.

    At least ``calibration.held_out`` of the images are held out, and more where alpha needs more, up to a third;
    at least five always train.

    Raises:
        DataError: if there are fewer than 10 images.
        ConfigError: if alpha was asked for and the images cannot support it.
    """
    if n_images < MIN_IMAGES:
        raise DataError(f"too few normal images to train on: {n_images}; give at least {MIN_IMAGES}")
    needed = images_needed(calibration.alpha or DEFAULT_ALPHA)
    n_held_out = max(round(n_images * calibration.held_out), min(needed, n_images // 3))
    n_held_out = min(n_held_out, n_images - MIN_IMAGES // 2)
    if calibration.alpha and n_held_out < needed:
        raise ConfigError(
            f"alpha {calibration.alpha:g} needs {needed} held-out normal images, and of {n_images} at most "
            f"{n_held_out} are held out; ask for alpha {shown_alpha(n_held_out)} or more, or give more images"
        )
    order = torch.randperm(n_images, generator=generator(seed, "split"))
    held_out, fit = order[:n_held_out], order[n_held_out:]
    return fit.sort().values, held_out.sort().values


def images_needed(alpha: float) -> int:
    """Smallest number of held-out images n with 1 / (n + 1) ≤ alpha."""
    return math.ceil(1 / alpha - 1e-9) - 1


def shown_alpha(n_held_out: int) -> str:
    """:func:`smallest_alpha` in four decimals, rounded up, so that asking for it is granted."""
    return f"{math.ceil(smallest_alpha(n_held_out) * 10_000) / 10_000:g}"


def smallest_alpha(n_held_out: int) -> float:
    """Smallest false-positive rate that n held-out images can promise: 1 / (n + 1)."""
    return 1 / (n_held_out + 1)
