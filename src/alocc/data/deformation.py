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
FIXED_JITTERS = ((3.0, 0.018, 0.018), (-3.0, -0.018, -0.018), (3.0, -0.018, 0.018), (-3.0, 0.018, -0.018))


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to ±4° and shift by up to ±2.5 % of the side: still normal."""
    return warp(x, *jitter_parameters(len(x), generator))


def fixed_jitters(x: Tensor) -> Tensor:
    """Four slightly rotated and shifted copies of each image, always the same four: (N, C, H, W) → (4, N, C, H, W)."""
    angle, dx, dy = torch.tensor(FIXED_JITTERS).unbind(1)
    grid = _grid(angle, torch.stack([dx, dy], 1), (x.shape[2], x.shape[3])).flatten(0, 1)  # (4 · H, W, 2)
    copies = _sampled(x.flatten(0, 1)[None], grid[None])  # (1, N · C, 4 · H, W): all at once, by one grid
    return copies.view(*x.shape[:2], len(FIXED_JITTERS), *x.shape[2:]).permute(2, 0, 1, 3, 4)


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
    grid = _grid(angle, shift, (x.shape[2], x.shape[3]), scale, mirrored)
    return _sampled(x, grid if displacement is None else grid + 2 * displacement)


def _grid(
    angle: Tensor,
    shift: Tensor | None,
    size: tuple[int, int],
    scale: Tensor | None = None,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Where each pixel comes from, in grid_sample's coordinates, (N, H, W, 2); the arguments are those of `warp`."""
    height, width = size
    radians = angle * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    aspect = width / height  # grid_sample's coordinates run from −1 to 1 along both sides, whatever their lengths
    flip = torch.ones_like(cos) if mirrored is None else 1.0 - 2.0 * mirrored.to(cos.dtype)
    offset = torch.zeros((len(angle), 2)) if shift is None else 2 * shift
    wide, high = (1.0, 1.0) if scale is None else (scale[:, 0], scale[:, 1])
    rows = [flip * cos * wide, -sin / aspect * high, offset[:, 0], flip * sin * aspect * wide, cos * high, offset[:, 1]]
    matrix = torch.stack(rows, dim=1).view(-1, 2, 3)
    return F.affine_grid(matrix, [len(angle), 1, height, width], align_corners=False)


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid.to(x.device), mode="bilinear", padding_mode="reflection", align_corners=False)


def uniform(shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Random numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator)
