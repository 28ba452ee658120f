"""What is worth how much on these images, found out without a single anomaly.

* A kind of pseudo-anomaly (:mod:`alocc.synthesis.negatives`) that looks normal is no negative: where normal images lie
  in any direction, turning them teaches D nothing. It is measured how well each kind is told from normal images that
  were only jittered, and so carry the same blur.
* A part of the score or of the map that misses small faults planted in normal images (:mod:`alocc.synthesis.faults`)
  counts less, or not at all.

All of it is measured on normal images that training never saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from alocc.data.images import to_unit_range
from alocc.parts.part import Score
from alocc.synthesis.deformation import jitter
from alocc.synthesis.negatives import NEGATIVES

MOST_IMAGES = 200
"""Pseudo-anomalies of each kind; fewer normal images are used several times, each time changed anew."""
LOOKS_NORMAL = 0.55
"""AUROC below which a kind of pseudo-anomaly cannot be told from normal images."""
WORTH_LEAVING_OUT = 0.005
"""By so much AUROC must grow, for a part to be left out: less is chance."""


def useful_kinds(score: Score, held_out: Tensor, kinds: Sequence[str], generator: torch.Generator) -> list[str]:
    """The kinds that do not look normal to any part of a score; the two least normal-looking if all do.

    Args:
        score: parts that need no D, fitted to the images that train.
        held_out: normal images that do not train, (n, C, H, W), uint8 or float32 in [0, 1].
        kinds: names from :data:`alocc.synthesis.negatives.NEGATIVES`.
        generator: a CPU stream.
    """
    seen = separation(score, held_out, kinds, generator)
    visible = {kind: max(by_part.values()) for kind, by_part in seen.items()}
    enough = [kind for kind in kinds if visible[kind] >= LOOKS_NORMAL]
    return enough if len(enough) >= 2 else sorted(kinds, key=lambda kind: -visible[kind])[:2]


def planted_weights(weights: Mapping[str, float], found: Callable[[Mapping[str, float]], float]) -> dict[str, float]:
    """Take weight from parts that miss planted faults, and leave out those without which more are found.

    With u = ``max(0, 2·AUROC − 1)`` of a part compared with the best part's, its weight is multiplied by u⁴: all parts
    are measured by the very faults that the score is for, so a part that sees half of them adds more noise than
    evidence. Then parts go, one after the other, as long as the AUROC of all that are left grows.

    Args:
        weights: each part's weight if it is useful.
        found: weights of some parts → AUROC of planted faults by what these say together.
    """
    alone = {part: max(0.0, 2 * found({part: 1.0}) - 1) for part in weights}
    best = max(alone.values())
    if best == 0:  # nothing is seen by any part: there is nothing to go by
        return dict(weights)
    kept = {part: weight * (alone[part] / best) ** 4 for part, weight in weights.items()}
    reached = found(kept)
    while sum(weight > 0 for weight in kept.values()) > 1:
        without = {part: found(kept | {part: 0.0}) for part, weight in kept.items() if weight > 0}
        part = max(without, key=lambda name: without[name])
        if without[part] < reached + WORTH_LEAVING_OUT:
            break
        kept[part], reached = 0.0, without[part]
    return kept


def separation(
    score: Score, normals: Tensor, kinds: Sequence[str], generator: torch.Generator, most: int = MOST_IMAGES
) -> dict[str, dict[str, float]]:
    """Kind → part → AUROC of ``most`` pseudo-anomalies of that kind against jittered normal images."""
    images = to_unit_range(normals[:most])
    images = images.repeat(math.ceil(most / len(images)), 1, 1, 1)[:most]
    # neighbours are put together by some kinds, so copies of one image must not be neighbours
    images = images[torch.randperm(len(images), generator=generator)]
    normal = score(jitter(images, generator))
    result = {}
    for kind in kinds:
        changed = score(NEGATIVES[kind](images, generator))
        result[kind] = {part: auroc(normal[part], changed[part]) for part in normal}
    return result


def auroc(normal: Tensor, anomalous: Tensor) -> float:
    """Share of pairs in which the anomalous one has the higher score; ties count half."""
    normal = normal.sort().values
    below, up_to = (torch.searchsorted(normal, anomalous.contiguous(), right=right).sum() for right in (False, True))
    return float(below + up_to) / (2 * len(normal) * len(anomalous))
