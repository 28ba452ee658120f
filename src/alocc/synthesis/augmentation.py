"""Normal images → more normal images, where the user says that they are normal too: nothing is on by itself.

An upside-down part may be the anomaly, so only who knows the data can say what is safe.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alocc.config import AugmentationConfig
from alocc.data.images import to_unit_range
from alocc.synthesis.deformation import uniform, warp

BATCH = 256


def augmented(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The images, and ``config.copies`` changed copies of each behind them; the images alone if nothing is on.

    Args:
        images: (n, C, H, W), uint8 or float32 in [0, 1].
        config: what may happen to a copy, and how much.
        generator: a CPU stream.

    Returns:
        Images of the same type, (n · (1 + copies), C, H, W), and the index of the image that each is made from.
    """
    source = torch.arange(len(images))
    if not config.is_on:
        return images, source
    together = images.new_empty((len(images) * (1 + config.copies), *images.shape[1:]))
    together[: len(images)] = images
    batches = torch.split(together[len(images) :], len(images))
    for copy in batches:
        for batch, changed in zip(torch.split(images, BATCH), torch.split(copy, BATCH), strict=True):
            changed.copy_(_as(images, _changed(to_unit_range(batch), config, generator)))
    return together, source.repeat(1 + config.copies)


def _changed(x: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    n = len(x)
    for flip, axis in ((config.flip_horizontal, 3), (config.flip_vertical, 2)):
        if flip:
            chosen = (torch.rand((n, 1, 1, 1), generator=generator) < 0.5).to(x.device)
            x = torch.where(chosen, x.flip(axis), x)
    if config.rotate or config.shift:  # a resampling blurs, so it is left out where nothing moves
        angle = uniform(n, -config.rotate, config.rotate, generator)
        x = warp(x, angle, uniform((n, 2), -config.shift, config.shift, generator))
    if config.gain:
        x = x * uniform((n, 1, 1, 1), 1 - config.gain, 1 + config.gain, generator).to(x.device)
    if config.blur:
        mean = F.avg_pool2d(F.pad(x, (1,) * 4, mode="replicate"), 3, 1)
        x = torch.lerp(x, mean, uniform((n, 1, 1, 1), 0.0, config.blur, generator).to(x.device))
    x = x + uniform((n, 1, 1, 1), -config.brightness, config.brightness, generator).to(x.device)
    sigma = config.noise * torch.rand((n, 1, 1, 1), generator=generator)
    return (x + (sigma * torch.randn(x.shape, generator=generator)).to(x.device)).clamp(0, 1)


def _as(like: Tensor, x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.uint8) if like.dtype == torch.uint8 else x
