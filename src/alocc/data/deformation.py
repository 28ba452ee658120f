"""Smooth deformations of images: the pseudo-anomalies that D learns from, and the small jitter that is still normal.

Every one is a single bilinear resampling, so that normal and deformed images carry the same interpolation blur and
differ in shape alone. Lengths are fractions of the image's side, angles are in degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

JITTER_DEGREES = 4.0
JITTER_SHIFT = 0.025
FIXED_JITTERS = ((3.0, 0.018, 0.018), (-3.0, -0.018, -0.018), (3.0, -0.018, 0.018), (-3.0, 0.018, -0.018))


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to ±4° and shift by up to ±2.5 % of the side: still normal."""
    angle = _uniform(len(x), -JITTER_DEGREES, JITTER_DEGREES, generator)
    shift = _uniform((len(x), 2), -JITTER_SHIFT, JITTER_SHIFT, generator)
    return warp(x, angle, shift=shift)


def deform(x: Tensor, generator: torch.Generator) -> Tensor:
    """Make pseudo-anomalies: a third strongly elastic, a third mildly elastic, a third turned by 40° to 320°."""
    strong, mild, turned = x.tensor_split(3)
    kinds: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = [
        (strong, lambda images: elastic(images, 0.125, 20.0, generator)),
        (mild, lambda images: elastic(images, 0.0714, 0.0, generator)),
        (turned, lambda images: turn(images, generator)),
    ]
    return torch.cat([make(images) for images, make in kinds if len(images)])


def elastic(x: Tensor, amplitude: float, max_degrees: float, generator: torch.Generator) -> Tensor:
    """Displace a 4×4 grid of points by Gaussian noise of SD ``amplitude``, smoothly in between, and rotate a little."""
    grid = torch.randn((len(x), 2, 4, 4), generator=generator) * amplitude
    displacement = F.interpolate(grid, size=x.shape[2:], mode="bicubic", align_corners=True)
    angle = _uniform(len(x), -max_degrees, max_degrees, generator)
    return warp(x, angle, displacement=displacement.permute(0, 2, 3, 1))


def turn(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by 40° to 320°, and mirror half of the images."""
    angle = _uniform(len(x), 40.0, 320.0, generator)
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return warp(x, angle, mirrored=mirrored)


def fixed_jitters(x: Tensor) -> list[Tensor]:
    """Four slightly rotated and shifted copies of each image, always the same four."""
    return [
        warp(x, torch.full((len(x),), angle), shift=torch.tensor([[dx, dy]]).expand(len(x), 2))
        for angle, dx, dy in FIXED_JITTERS
    ]


def warp(
    x: Tensor,
    angle: Tensor,
    *,
    shift: Tensor | None = None,
    mirrored: Tensor | None = None,
    displacement: Tensor | None = None,
) -> Tensor:
    """Resample images once, bilinear; what comes from outside an image is its reflection.

    Args:
        x: images, (N, C, H, W).
        angle: rotation of each, in degrees, (N,).
        shift: horizontal and vertical shift, as fractions of the sides, (N, 2).
        mirrored: which images are mirrored left to right, (N,), bool.
        displacement: where each pixel is taken from, relative to its place, as fractions of the sides, (N, H, W, 2).
    """
    height, width = x.shape[2:]
    radians = angle * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    aspect = width / height  # grid_sample's coordinates run from −1 to 1 along both sides, whatever their lengths
    flip = torch.ones_like(cos) if mirrored is None else 1.0 - 2.0 * mirrored.to(cos.dtype)
    dx, dy = (torch.zeros_like(cos), torch.zeros_like(cos)) if shift is None else (2 * shift[:, 0], 2 * shift[:, 1])
    theta = torch.stack([flip * cos, -sin / aspect, dx, flip * sin * aspect, cos, dy], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(x), 1, height, width], align_corners=False)
    if displacement is not None:
        grid = grid + 2 * displacement
    return F.grid_sample(x, grid.to(x.device), mode="bilinear", padding_mode="reflection", align_corners=False)


def _uniform(shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
