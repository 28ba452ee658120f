"""Pseudo-anomalies: images made from normal ones that differ from them in one way, without a single real anomaly.

Each kind carries the same interpolation blur as jittered normal images and has no hard edge of its own making, so that
D cannot tell it by how it was made. Some kinds train D (``discrimination.kinds`` in the config), and the others, which
D never sees, tell how much each part of the score is worth (:mod:`alocc.parts.validation`).

Every function takes normal images (N, C, H, W) in [0, 1] and a CPU stream, and returns as many changed ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from alocc.synthesis.deformation import jitter, jitter_parameters, uniform, warp

Negative = Callable[[Tensor, torch.Generator], Tensor]


def elastic(x: Tensor, generator: torch.Generator) -> Tensor:
    """Displace a 4×4 grid by Gaussian noise of SD 12.5 % of the side, and rotate by up to ±20°."""
    angle = uniform(len(x), -20.0, 20.0, generator)
    return warp(x, angle, displacement=0.125 * _displacement(x, 4, generator))


def elastic_mild(x: Tensor, generator: torch.Generator) -> Tensor:
    """The same with an SD of 7 % and no rotation."""
    return warp(x, torch.zeros(len(x)), displacement=0.0714 * _displacement(x, 4, generator))


def turned(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by 40° to 320°."""
    return warp(x, uniform(len(x), 40.0, 320.0, generator))


def swirled(x: Tensor, generator: torch.Generator) -> Tensor:
    """Displace what lies in one spot of the image, strongly, and nothing else."""
    spot = soft_spot(x, 0.15, 0.3, 2.5, generator).permute(0, 2, 3, 1)
    angle, shift = jitter_parameters(len(x), generator)
    return warp(x, angle, shift, displacement=0.15 * spot * _displacement(x, 5, generator))


def patched(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blend a spot of another image, turned and shifted, into the image."""
    spot = soft_spot(x, 0.08, 0.22, 2.5, generator)
    angle, shift = uniform(len(x), -180.0, 180.0, generator), uniform((len(x), 2), -0.4, 0.4, generator)
    return jitter(x, generator) * (1 - spot) + warp(x.roll(1, 0), angle, shift) * spot


def tinted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Brighten, darken or colour a spot or a streak."""
    amount = tint(x, 0.25, 0.75, generator)
    return (jitter(x, generator) + (amount * soft_spot(x, 0.04, 0.2, 4.0, generator)).to(x)).clamp(0, 1)


def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror left to right or top to bottom."""
    angle, shift = jitter_parameters(len(x), generator)
    upside_down = torch.rand(len(x), generator=generator) < 0.5
    return warp(x, angle + 180.0 * upside_down, shift, mirrored=torch.ones(len(x), dtype=torch.bool))


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by 12 % to 30 % of the side."""
    direction = uniform(len(x), 0.0, 2 * math.pi, generator)
    length = uniform(len(x), 0.12, 0.3, generator)
    angle, _ = jitter_parameters(len(x), generator)
    return warp(x, angle, length[:, None] * torch.stack([direction.cos(), direction.sin()], 1))


def zoomed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Stretch or shrink each side by a factor of 1.3 to 1.65."""
    scale = torch.exp(uniform((len(x), 2), 0.25, 0.5, generator) * random_sign((len(x), 2), generator))
    return warp(x, torch.zeros(len(x)), jitter_parameters(len(x), generator)[1], scale=scale)


def mixed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Put two images together along smooth borders."""
    x = jitter(x, generator)
    mask = torch.sigmoid(8 * _field(x, 1, 3, generator))
    return mask * x + (1 - mask) * x.roll(1, 0)


def relit(x: Tensor, generator: torch.Generator) -> Tensor:
    """Change contrast, or brightness of each channel, or invert."""
    n, channels = x.shape[:2]
    x = jitter(x, generator)
    mean = x.mean((2, 3), keepdim=True)
    contrast = torch.exp(uniform((n, 1, 1, 1), 0.3, 0.8, generator) * random_sign((n, 1, 1, 1), generator)).to(x)
    brightness = (uniform((n, channels, 1, 1), 0.08, 0.3, generator) * random_sign((n, channels, 1, 1), generator)).to(
        x
    )
    choice = torch.rand((n, 1, 1, 1), generator=generator).to(x)
    changed = torch.where(choice < 0.4, mean + contrast * (x - mean), torch.where(choice < 0.8, x + brightness, 1 - x))
    return changed.clamp(0, 1)


def blurred(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur with a Gaussian of SD 2.5 % to 8 % of the side, or, one in three, sharpen by what blur takes away."""
    x = jitter(x, generator)
    sigma = uniform(len(x), 0.025, 0.08, generator).to(x) * min(x.shape[2:])
    soft = gaussian_blur(x, sigma)
    sharpened = (torch.rand((len(x), 1, 1, 1), generator=generator) < 1 / 3).to(x.device)
    return torch.where(sharpened, x + 1.5 * (x - soft), soft).clamp(0, 1)


def scrambled(x: Tensor, generator: torch.Generator) -> Tensor:
    """Keep the strength of each spatial frequency and make its phase random."""
    x = jitter(x, generator)
    noise = torch.fft.rfft2(torch.randn((len(x), 1, *x.shape[2:]), generator=generator).to(x))
    phase = noise / noise.abs().clamp(min=1e-6)
    phase[:, :, 0, 0] = 1  # the mean stays
    scrambled_x: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * phase, s=x.shape[2:])
    return scrambled_x.clamp(0, 1)


NEGATIVES: dict[str, Negative] = {
    "elastic": elastic,
    "elastic_mild": elastic_mild,
    "turned": turned,
    "swirled": swirled,
    "patched": patched,
    "tinted": tinted,
    "mirrored": mirrored,
    "shifted": shifted,
    "zoomed": zoomed,
    "mixed": mixed,
    "relit": relit,
    "blurred": blurred,
    "scrambled": scrambled,
}


def make_negatives(x: Tensor, kinds: Sequence[str], generator: torch.Generator) -> Tensor:
    """As many pseudo-anomalies as images, of all kinds alike."""
    parts = x.tensor_split(len(kinds))
    return torch.cat([NEGATIVES[kind](part, generator) for kind, part in zip(kinds, parts, strict=True) if len(part)])


def tint(x: Tensor, smallest: float, largest: float, generator: torch.Generator) -> Tensor:
    """What brightens, darkens or, half of the colour images, colours each image: (N, 1 or C, 1, 1)."""
    n, channels = x.shape[:2]
    amount = uniform((n, 1, 1, 1), smallest, largest, generator) * random_sign((n, 1, 1, 1), generator)
    if channels == 1:
        return amount
    colour = torch.randn((n, channels, 1, 1), generator=generator)
    colour = amount.abs() * colour / colour.abs().amax(1, keepdim=True)
    return torch.where(torch.rand((n, 1, 1, 1), generator=generator) < 0.5, amount, colour)


def random_sign(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)


def _field(x: Tensor, channels: int, cells: int, generator: torch.Generator) -> Tensor:
    """Smooth noise of SD 1: Gaussian on a coarse grid, bicubic in between, (N, channels, H, W)."""
    coarse = torch.randn((len(x), channels, cells, cells), generator=generator)
    return F.interpolate(coarse, size=x.shape[2:], mode="bicubic", align_corners=True).to(x.device)


def _displacement(x: Tensor, cells: int, generator: torch.Generator) -> Tensor:
    return _field(x, 2, cells, generator).permute(0, 2, 3, 1).cpu()


def soft_spot(x: Tensor, smallest: float, largest: float, stretch: float, generator: torch.Generator) -> Tensor:
    """A soft ellipse somewhere in each image: 1 inside, 0 far away, (N, 1, H, W).

    Args:
        smallest, largest: radius, as fractions of the sides.
        stretch: up to how much longer than wide.
    """
    n, (height, width) = len(x), x.shape[2:]
    y, x_ = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    centre = uniform((n, 2, 1, 1), 0.15, 0.85, generator)
    radius = uniform((n, 1, 1), smallest, largest, generator)
    longer = torch.exp(uniform((n, 1, 1), -math.log(stretch), math.log(stretch), generator))
    angle = uniform((n, 1, 1), 0.0, math.pi, generator)
    dy, dx = y - centre[:, 0], x_ - centre[:, 1]
    along = (dx * angle.cos() + dy * angle.sin()) / (radius * longer)
    across = (dy * angle.cos() - dx * angle.sin()) / (radius / longer)
    return torch.exp(-((along.square() + across.square()) ** 2)).unsqueeze(1).to(x)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own ``sigma``, in pixels; reflected at the borders."""
    margin = min(x.shape[2:]) // 4
    padded = F.pad(x, (margin,) * 4, mode="reflect")
    down, across = torch.fft.fftfreq(padded.shape[2])[:, None], torch.fft.rfftfreq(padded.shape[3])[None]
    frequency = (down.square() + across.square()).to(x)
    response = torch.exp(-2 * (math.pi * sigma.view(-1, 1, 1, 1)).square() * frequency)
    soft: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * response, s=padded.shape[2:])
    return soft[:, :, margin:-margin, margin:-margin]
