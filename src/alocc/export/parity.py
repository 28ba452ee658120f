"""Does a file give the detector's scores and maps? Asked of images of many types and sizes, before it is there."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alocc.calibration import Calibration
from alocc.detector import Detector
from alocc.parts.cells import Cells
from alocc.parts.neighbours import SIDE as SMALL_SIDE
from alocc.parts.neighbours import Neighbours
from alocc.runtime import Runtime
from alocc.seeding import generator
from alocc.stages import in_stage
from alocc.synthesis.deformation import jitter, uniform

TOLERANCE = 1e-4
"""Difference of anomaly scores s that is allowed: 0.0001 · max(1, |s|); or, within ±1, where s is the root of a mean of
squares, 0.0001 of s · |s|. That is 0.01 at a score of 0, 0.0005 at 0.1, and 0.0001 from 0.5 on."""
TURNED_TOLERANCE = 0.003
"""The same of detectors that turn parts: a tenth of a thousandth of a pixel, by which engines differ in a centre,
changes a score (docs/decisions/0025)."""
OF_MAPS = 10
"""The values of a map may differ by so many times as much: the worst of very many places counts, and nothing that is
drawn shows it."""
BATCHES = (1, 7, 256)
FEW = 24
"""Images of a batch that have to be resized, and of one of large images."""
MOST_PIXELS = 2**21
"""Of the images of a batch together."""
PROBED = 7
"""Images at and around the threshold; few enough for one batch of every engine."""


class Parity(NamedTuple):
    """A comparison of an exported file with its detector."""

    difference: float
    """Largest difference of anomaly scores, as :func:`difference` measures it."""
    n_images: int
    n_real: int
    """Images of these that are like those of the training; the rest are drawn."""
    tolerance: float
    """Difference that is allowed."""
    same_verdicts: bool
    """All p-values and verdicts, the graph's own, are equal, but where a held-out score is within 0.0001 of the image's
    or between the detector's and the file's; and they are the same to the last bit with maps and without."""
    map_difference: float | None = None
    """The same of the values of maps; none if the file gives none."""

    def __str__(self) -> str:
        real = f"{self.n_real:,}" if self.n_real else "none"
        images = f"{self.n_images:,} images of several types, {real} of them from the training"
        maps = "" if self.map_difference is None else f", its maps to {self.map_difference:.1g}"
        return f"its scores are the detector's to {self.difference:.1g}{maps}, on {images}"

    @property
    def holds(self) -> bool:
        """Whether the file may be used in place of the detector."""
        return self.fault is None

    @property
    def fault(self) -> str | None:
        """Why it may not, in words."""
        if not self.same_verdicts and self.difference <= self.tolerance:
            return "its verdicts or p-values differ from the detector's"
        if not self.difference <= self.tolerance:
            return f"its scores differ from the detector's by {self.difference:.2g} ({self.tolerance:g} is allowed)"
        if self.map_difference is not None and not self.map_difference <= (allowed := OF_MAPS * self.tolerance):
            return f"its maps differ from the detector's by {self.map_difference:.2g} ({allowed:g} is allowed)"
        return None


def compare(detector: Detector, runtime: Runtime, any_size: bool = True, real: Tensor | None = None) -> Parity:
    """Score the same images by both, in batches of several sizes; compare maps too, if the file gives them.

    Args:
        any_size: whether the graph resizes images.
        real: images like those of the training, (n, C, H, W), uint8, in the detector's format, to score as well.
    """
    frame, own_size = detector.scorer.frame, detector.image_format.size
    most = max(BATCHES) if frame.n_crops == 1 else max(2, FEW * 4 // frame.n_crops)
    most = min(most, max(2, MOST_PIXELS // (own_size[0] * own_size[1])))
    factors = (0.6, 1.7) if any_size else ()  # a smaller size and a larger one, which the graph resizes
    others = [(max(1, round(own_size[0] * factor)), max(1, round(own_size[1] * factor) - 1)) for factor in factors]
    found = []
    for n in in_stage("comparing scores", [min(n, most) for n in BATCHES]):
        for size in (own_size, *(others if n > 1 else ())):
            images = trial_images(detector, n if size == own_size else min(n, FEW), size)
            found.append(_compared(detector, runtime, images))
    if real is not None:
        found.append(
            _compared(detector, runtime, real.permute(0, 2, 3, 1).contiguous().numpy())._replace(n_real=len(real))
        )
    together = (sum(one.n_images for one in found), sum(one.n_real for one in found))
    worst = float(np.max([one.difference for one in found]))  # NaN, if there is one
    of_maps = [one.map_difference for one in found if one.map_difference is not None]
    worst_map = float(np.max(of_maps)) if of_maps else None
    return Parity(worst, *together, found[0].tolerance, all(one.same_verdicts for one in found), worst_map)


def tolerance(detector: Detector) -> float:
    """Difference of its anomaly scores that is allowed."""
    turns = any(isinstance(part, Cells) and part.pose.is_fitted for part in detector.scorer.parts.values())
    return TURNED_TOLERANCE if turns else TOLERANCE


def difference(expected: NDArray[Any], found: NDArray[Any]) -> NDArray[np.floating]:
    """How far scores or values of maps are from what they should be, relative beyond ±1; see :data:`TOLERANCE`.

    Near 0 the score is a root, which makes a large difference of a rounding; there, its square is compared.
    """
    distance = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    of_squares = np.abs(found * np.abs(found) - expected * np.abs(expected))
    differences: NDArray[np.floating] = np.where(np.abs(expected) < 1, np.minimum(distance, of_squares), distance)
    return differences


def trial_images(detector: Detector, n: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Images like the normal ones, as far as the detector remembers them; noise; gradients: (n, H, W, C), uint8."""
    stream = generator(0, "parity")
    channels = detector.image_format.channels
    x = torch.cat([_remembered(detector, n, size, stream), _gradients(n, channels, size, stream),
                   torch.rand((n, channels, *size), generator=stream)])  # fmt: skip
    chosen = x.view(3, n, *x.shape[1:])[torch.arange(n) * 2 % 3, torch.arange(n)]
    return (chosen * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _compared(detector: Detector, runtime: Runtime, images: NDArray[np.uint8]) -> Parity:
    with_maps, allowed = runtime.map_maxima is not None, tolerance(detector)
    expected = detector.score(images, maps=with_maps)
    anomaly_score, p_value, is_anomaly = outputs = runtime.outputs(images)
    worst = difference(expected.anomaly_score, anomaly_score)
    margin = np.maximum(allowed, np.abs(anomaly_score - expected.anomaly_score))
    below, above = (detector.calibration.count_at_least(expected.anomaly_score + sign * margin) for sign in (-1, 1))
    same_p_value = expected.p_value == detector.calibration.exact(p_value)
    same = same_p_value & (expected.is_anomaly == is_anomaly)
    parity = Parity(float(worst.max()), len(images), 0, allowed, bool((same | (below != above)).all()))
    if expected.anomaly_map is None:
        return parity
    *beside, anomaly_map = runtime.outputs_and_maps(images)  # another computation, with its own verdicts
    agree = all(np.array_equal(one, other) for one, other in zip(outputs, beside, strict=True))
    map_difference = float(difference(expected.anomaly_map, anomaly_map).max())
    return parity._replace(map_difference=map_difference, same_verdicts=parity.same_verdicts and agree)


def held_out_among(scores: NDArray[np.float32], n: int) -> NDArray[np.float64]:
    """Held-out scores, sorted, each of which, and so the threshold, is one of the lower three quarters of scores."""
    return np.sort(np.resize(np.sort(scores)[: max(1, 3 * len(scores) // 4)], n)).astype(np.float64)


def verdicts_hold(runtime: Runtime, images: NDArray[np.uint8]) -> bool:
    """Whether the graph's own p-values and verdicts are exactly those of its own scores, for images of its format."""
    scores, p_value, is_anomaly = runtime.outputs(images)
    calibration = Calibration(runtime.held_out_scores.astype(np.float32), runtime.alpha)  # the graph's own 32 bits
    expected = calibration.p_values(scores)
    same = (calibration.exact(p_value) == expected) & (is_anomaly == (expected <= runtime.alpha))
    return bool(same.all())


def _remembered(detector: Detector, n: int, size: tuple[int, int], stream: torch.Generator) -> Tensor:
    """Small copies that the detector keeps of its training images, enlarged and jittered; else soft noise."""
    channels = detector.image_format.channels
    small = torch.rand((n, channels, SMALL_SIDE, SMALL_SIDE), generator=stream)
    if "neighbours" in detector.scorer.parts:
        memory = cast(Neighbours, detector.scorer.parts["neighbours"]).remembered()
        small = memory[torch.randint(len(memory), (n,), generator=stream)]
    return jitter(F.interpolate(small, size=size, mode="bilinear"), stream).clamp(0, 1)


def _gradients(n: int, channels: int, size: tuple[int, int], stream: torch.Generator) -> Tensor:
    y, x = torch.linspace(0, 1, size[0])[:, None], torch.linspace(0, 1, size[1])
    slope, level = (uniform((n, channels, 1, 1), -1, 1, stream) for _ in range(2))
    return (0.5 + slope * x + level * y).clamp(0, 1)
