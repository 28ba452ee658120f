"""What images look like in a few numbers that people have words for: to say what has changed when scores do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.data.frame import LARGE_BATCH
from alocc.data.images import to_unit_range

QUANTITIES = ("brightness", "contrast", "sharpness", "colour")
"""Mean grey level, 0 to 255; its deviation within an image; root mean square difference of neighbouring pixels, as a
share of that; and mean red minus mean blue."""


def appearance(images: Tensor) -> NDArray[np.float64]:
    """The quantities of images (n, C, H, W), uint8 or float32 in [0, 1]: (n, 4)."""
    n = max(1, LARGE_BATCH // (images.shape[2] * images.shape[3]))
    parts = [_appearance(to_unit_range(few)) for few in torch.split(images, n)] if len(images) else []
    return torch.cat(parts).double().numpy() if parts else np.empty((0, len(QUANTITIES)))


def usual_appearance(images: Tensor) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each quantity over normal images, for a detector's notes."""
    found = appearance(images)
    return {
        name: (round(float(mean), 4), round(float(deviation), 4))
        for name, mean, deviation in zip(QUANTITIES, found.mean(0), found.std(0), strict=True)
    }


def changes(found: NDArray[np.float64], usual: Mapping[str, tuple[float, float]], least: float = 0.5) -> list[str]:
    """In words, what differs in the mean of n images, (n, 4), by more than ``least`` deviations of normal images."""
    said: list[str] = []
    if not len(found):
        return said
    for name, values in zip(QUANTITIES, found.T, strict=True):
        if name not in usual:  # a detector of an older alocc does not know
            continue
        before, deviation = usual[name]
        now, visible = float(values.mean()), 0.01 * max(abs(before), 1.0)  # less is not, however alike all were
        distance = (now - before) / max(deviation, visible)
        if abs(distance) > least and abs(distance) * np.sqrt(len(values)) > 4:
            moved = f"{abs(distance):.1f} standard deviations {_direction(name, distance)}"
            said.append(f"{name} {before:.3g} → {now:.3g} ({moved})")
    return said


def _direction(name: str, distance: float) -> str:
    words = {"brightness": ("darker", "brighter"), "sharpness": ("softer", "sharper"), "colour": ("bluer", "redder")}
    return words.get(name, ("lower", "higher"))[distance > 0]


def _appearance(x: Tensor) -> Tensor:
    grey = x.mean(1)  # (n, H, W)
    brightness, contrast, colour = grey.mean((1, 2)), grey.flatten(1).std(1), (x[:, 0] - x[:, -1]).mean((1, 2))
    steps = (grey.diff(dim=1).square().mean((1, 2)) + grey.diff(dim=2).square().mean((1, 2))) / 2
    return torch.stack([255 * brightness, 255 * contrast, steps.sqrt() / contrast.clamp(min=0.002), 255 * colour], 1)
