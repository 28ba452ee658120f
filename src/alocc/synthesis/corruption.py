"""x → x_noisy: the noise that R learns to remove."""

from __future__ import annotations

import torch
from torch import Tensor


def corrupt(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise and clip: ``x_noisy = clip(x + η, 0, 1)`` with ``η ~ N(0, sigma²)``.

    Args:
        x: images, (N, C, H, W), in [0, 1].
        sigma: standard deviation of the noise, in units of the value range.
        generator: a CPU stream; fresh noise is drawn from it at each call.
    """
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    return (x + sigma * noise).clamp(0.0, 1.0)


def corrupt_each(x: Tensor, sigma_max: float, noisy: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of another strength to each image, ``σ ~ U(0, sigma_max)``, and clip to [0, 1].

    Args:
        x: images, (N, C, H, W), in [0, 1].
        sigma_max: largest σ.
        noisy: chance of an image to get noise at all.
        generator: a CPU stream.
    """
    sigma = sigma_max * torch.rand((len(x), 1, 1, 1), generator=generator)
    sigma = sigma * (torch.rand(sigma.shape, generator=generator) < noisy)
    noise = torch.randn(x.shape, generator=generator)
    return (x + (sigma * noise).to(x.device)).clamp(0.0, 1.0)
