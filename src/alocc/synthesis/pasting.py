"""Local pseudo-anomalies: a spot or streak of something else, pasted into normal images, and where it is.

Unlike :mod:`alocc.synthesis.negatives`, whose images differ anywhere, here the place is known, so that places can be
learned. What is pasted is another normal image, turned; the image itself, brighter, darker, coloured or blurred; one
plain grey or colour; or clouds, which are noise of a random fineness.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alocc.synthesis.deformation import jitter, uniform, warp
from alocc.synthesis.negatives import gaussian_blur, soft_spot, tint

UNTOUCHED = 0.3
"""Share of the images into which nothing is pasted."""
SMALLEST_OPACITY = 0.6


def pasted(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images with something pasted in, and which pixels it took.

    Args:
        x: normal images, (N, C, H, W) in [0, 1].
        generator: a CPU stream.

    Returns:
        (N, C, H, W) in [0, 1], and (N, 1, H, W) bool.
    """
    n = len(x)
    x = jitter(x, generator)
    wide, thin = soft_spot(x, 0.05, 0.25, 2.5, generator), soft_spot(x, 0.03, 0.12, 6.0, generator)
    spot = torch.where(_chance(n, 0.5, generator), wide, thin) * ~_chance(n, UNTOUCHED, generator)
    share = spot * uniform((n, 1, 1, 1), SMALLEST_OPACITY, 1.0, generator)
    return (x * (1 - share) + _something_else(x, generator) * share).clamp(0, 1), spot > 0.5


def _something_else(x: Tensor, generator: torch.Generator) -> Tensor:
    n, channels = x.shape[:2]
    turned = warp(x.roll(1, 0), uniform(n, -180.0, 180.0, generator), uniform((n, 2), -0.4, 0.4, generator))
    blurred = gaussian_blur(x, uniform(n, 0.02, 0.06, generator) * min(x.shape[2:]))
    plain = uniform((n, channels, 1, 1), 0.0, 1.0, generator).expand_as(x)
    several = torch.stack([turned, x + tint(x, 0.2, 0.75, generator), blurred, plain, clouds(x, generator)])
    return several[torch.randint(len(several), (n,), generator=generator), torch.arange(n)]


def clouds(x: Tensor, generator: torch.Generator) -> Tensor:
    """Noise as large as ``x`` whose amplitude falls with frequency f as f^−e, e from 0 (white) to 2 (soft)."""
    n, channels, height, width = x.shape
    frequency = (torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()).sqrt()
    frequency[0, 0] = torch.inf  # no mean
    white = torch.fft.rfft2(torch.randn(x.shape, generator=generator))
    noise = torch.fft.irfft2(
        white * frequency.clamp(min=1e-6) ** -uniform((n, 1, 1, 1), 0.01, 2.0, generator), s=(height, width)
    )
    contrast = uniform((n, 1, 1, 1), 0.02, 0.25, generator)
    mean = uniform((n, channels, 1, 1), 0.1, 0.9, generator)
    drawn: Tensor = mean + contrast * noise / noise.std((2, 3), keepdim=True)
    return drawn.clamp(0, 1)


def _chance(n: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand((n, 1, 1, 1), generator=generator) < probability
