"""Small, faint faults planted in normal images at their own size, and where they are: what an inspector looks for.

They tell which parts of a score and of a map see such faults on these images, and what the smallest is that is seen.
Nothing is resampled: outside a fault, an image keeps its pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from alocc.synthesis.deformation import uniform
from alocc.synthesis.negatives import random_sign

PITS = 5
SMALLEST, LARGEST = 0.01, 0.05
"""Radius of the faintest spots, as fractions of the shorter side."""
FAINTEST, STRONGEST = 0.75, 2.0
"""Change of brightness in the faintest faults, in standard deviations of the image's pixels."""


def planted(x: Tensor, generator: torch.Generator, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Images with one fault each, and the pixels that it changed.

    A fault is a spot, a crack, some pits or a stain; in it the image is brighter, darker or coloured, or, one in four,
    shows a piece of another image from elsewhere.

    Args:
        x: normal images, (n, C, H, W), float32 in [0, 1].
        generator: a CPU stream.
        strength: how many times as large and as strong as the faintest faults they are.

    Returns:
        (n, C, H, W) in [0, 1], and (n, 1, H, W) bool.
    """
    n, channels, size = len(x), x.shape[1], (x.shape[2], x.shape[3])
    shapes = (spot, crack, pits, stain)
    shape = torch.cat([shapes[i % len(shapes)](1, size, strength, generator) for i in range(n)])  # (n, 1, H, W)
    contrast = x.flatten(1).std(1).clamp(min=0.02).view(n, 1, 1, 1)
    amount = log_uniform((n, 1, 1, 1), FAINTEST, STRONGEST, generator) * random_sign((n, 1, 1, 1), generator)
    amount = strength * contrast * amount
    if channels == 3:
        colour = torch.randn((n, channels, 1, 1), generator=generator)
        colour = colour / colour.abs().amax(1, keepdim=True) * amount.abs()
        amount = torch.where(torch.rand((n, 1, 1, 1), generator=generator) < 0.5, amount, colour)
    shift = [int(torch.randint(side // 4, 1 + 3 * side // 4, (1,), generator=generator)) for side in size]
    is_piece = (torch.randint(4, (n,), generator=generator) == 3).view(n, 1, 1, 1)
    change = torch.where(is_piece, x.roll(1, 0).roll(shift, (2, 3)) - x, amount)
    return (x + shape * change).clamp(0, 1), shape > 0.5


def with_spots(x: Tensor, diameter: float, contrast: float, generator: torch.Generator) -> Tensor:
    """Images with one round spot each, anywhere: brighter than what it covers where that is dark, else darker.

    Args:
        x: normal images, (n, C, H, W), float32 in [0, 1].
        diameter: of the spot, in pixels.
        contrast: change of brightness, in standard deviations of the image's pixels.
        generator: a CPU stream.
    """
    n, _, height, width = x.shape
    down, across = _offsets(n, (height, width), generator)
    inside = (diameter / 2 + 0.5 - (down.square() + across.square()).sqrt()).clamp(0, 1)[:, None]  # (n, 1, H, W)
    deviation = x.flatten(1).std(1).clamp(min=0.02).view(n, 1, 1, 1)
    covered = (x * inside).sum((1, 2, 3)) / (inside.sum((1, 2, 3)) * x.shape[1])
    direction = torch.where(covered < 0.5, 1.0, -1.0).view(n, 1, 1, 1)
    return (x + inside * deviation * contrast * direction).clamp(0, 1)


def spot(n: int, size: tuple[int, int], strength: float, generator: torch.Generator) -> Tensor:
    """A soft ellipse, (n, 1, H, W) in [0, 1]."""
    return _ellipse(n, size, strength * SMALLEST, strength * LARGEST, generator)


def pits(n: int, size: tuple[int, int], strength: float, generator: torch.Generator) -> Tensor:
    """Some tiny spots near each other."""
    middle = uniform((n, 2, 1, 1), 0.1, 0.9, generator)
    around = [middle + LARGEST * torch.randn((n, 2, 1, 1), generator=generator) for _ in range(PITS)]
    tiny = [_ellipse(n, size, strength * SMALLEST / 2, strength * SMALLEST, generator, each) for each in around]
    return torch.stack(tiny).amax(0)


def stain(n: int, size: tuple[int, int], strength: float, generator: torch.Generator) -> Tensor:
    """What a cloud leaves of an ellipse."""
    cloud = F.interpolate(torch.randn((n, 1, 24, 24), generator=generator), size=size, mode="bicubic")
    return torch.sigmoid(6 * cloud) * _ellipse(n, size, strength * LARGEST / 2, strength * LARGEST, generator)


def crack(n: int, size: tuple[int, int], strength: float, generator: torch.Generator) -> Tensor:
    """A wavering line; the faintest are up to a hundredth of the shorter side wide."""
    side = min(size)
    down, across = _offsets(n, size, generator)
    angle, length = uniform((n, 1, 1), 0.0, math.pi, generator), log_uniform((n, 1, 1), 0.15, 0.6, generator) * side
    along, beside = across * angle.cos() + down * angle.sin(), down * angle.cos() - across * angle.sin()
    walk = torch.randn((n, 1, 1, 12), generator=generator).cumsum(3)
    walk = walk - walk.mean(3, keepdim=True)
    at = torch.stack([(along / length).clamp(-1, 1), torch.zeros_like(along)], 3)  # (n, H, W, 2)
    bend = F.grid_sample(walk, at, padding_mode="border", align_corners=True)[:, 0] * length / 24
    width = strength * log_uniform((n, 1, 1), 0.003, 0.01, generator) * side
    line = torch.exp(-(((beside - bend) / width.clamp(min=0.7)) ** 2)) * (along.abs() < length)
    return line[:, None]


def log_uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Random numbers in [low, high), as many in each octave."""
    return uniform(shape, math.log(low), math.log(high), generator).exp()


def _ellipse(
    n: int,
    size: tuple[int, int],
    smallest: float,
    largest: float,
    generator: torch.Generator,
    middle: Tensor | None = None,
) -> Tensor:
    down, across = _offsets(n, size, generator, middle)
    radius = (log_uniform((n, 1, 1), smallest, largest, generator) * min(size)).clamp(min=0.8)
    longer = log_uniform((n, 1, 1), 1.0, 2.0, generator)
    angle = uniform((n, 1, 1), 0.0, math.pi, generator)
    along = (across * angle.cos() + down * angle.sin()) / (radius * longer)
    beside = (down * angle.cos() - across * angle.sin()) / (radius / longer).clamp(min=0.8)
    return torch.exp(-((along.square() + beside.square()) ** 2))[:, None]


def _offsets(
    n: int, size: tuple[int, int], generator: torch.Generator, middle: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distance of each pixel from the middle, or a random one, downwards and across, in pixels, (n, H, W) each."""
    middle = uniform((n, 2, 1, 1), 0.05, 0.95, generator) if middle is None else middle
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    return y - middle[:, 0] * size[0], x - middle[:, 1] * size[1]
