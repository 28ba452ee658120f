"""Resampling of images: the small jitter that is still normal, and warps that make something else of an image.

Every one is a single bilinear resampling, so that jittered and deformed images carry the same interpolation blur and
differ in shape alone. Lengths are fractions of the image's side, angles are in degrees.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

JITTER_DEGREES = 4.0
JITTER_SHIFT = 0.025


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to ±4° and shift by up to ±2.5 % of the side: still normal."""
    return warp(x, *jitter_parameters(len(x), generator))


def jitter_parameters(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Angles (n,) and shifts (n, 2) of a jitter."""
    angle = uniform(n, -JITTER_DEGREES, JITTER_DEGREES, generator)
    return angle, uniform((n, 2), -JITTER_SHIFT, JITTER_SHIFT, generator)


def warp(
    x: Tensor,
    angle: Tensor,
    shift: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    mirrored: Tensor | None = None,
    displacement: Tensor | None = None,
) -> Tensor:
    """Resample images once, bilinear; what comes from outside an image is its reflection.

    Args:
        x: images, (N, C, H, W).
        angle: rotation of each, in degrees, (N,).
        shift: horizontal and vertical shift, as fractions of the sides, (N, 2).
        scale: how much of the width and of the height is shown, (N, 2); below 1 enlarges.
        mirrored: which images are mirrored left to right, (N,), bool.
        displacement: where each pixel is taken from, relative to its place, as fractions of the sides, (N, H, W, 2).
    """
    height, width = x.shape[2:]
    radians = angle * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    aspect = width / height  # grid_sample's coordinates run from −1 to 1 along both sides, whatever their lengths
    flip = torch.ones_like(cos) if mirrored is None else 1.0 - 2.0 * mirrored.to(cos.dtype)
    offset = torch.zeros((len(x), 2)) if shift is None else 2 * shift
    wide, high = (1.0, 1.0) if scale is None else (scale[:, 0], scale[:, 1])
    rows = [flip * cos * wide, -sin / aspect * high, offset[:, 0], flip * sin * aspect * wide, cos * high, offset[:, 1]]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), [len(x), 1, height, width], align_corners=False)
    if displacement is not None:
        grid = grid + 2 * displacement
    return F.grid_sample(x, grid.to(x.device), mode="bilinear", padding_mode="reflection", align_corners=False)


def uniform(shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Random numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator)
