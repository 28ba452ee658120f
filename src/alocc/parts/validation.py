"""What is worth how much on these images, found out without a single anomaly.

Normal images that training never saw are changed into pseudo-anomalies (:mod:`alocc.synthesis.negatives`), and it is
measured how well each kind is told from normal images that were only jittered, and so carry the same blur.

* A kind that looks normal is no negative: where normal images lie in any direction, turning them teaches D nothing.
* A part of the score that misses the kinds which D never met counts less.
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
FULL_WEIGHT_FROM = 0.5
"""A part keeps its full weight if it is at least so useful, compared with the most useful part."""
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


def validated_weights(
    weights: Mapping[str, float], score: Score, held_out: Tensor, unseen: Sequence[str], generator: torch.Generator
) -> dict[str, float]:
    """Take weight from the parts of the score that miss what the others see.

    A part's usefulness is the mean of ``max(0, 2·AUROC − 1)`` over kinds that D was not trained on. With u the
    usefulness compared with the best part's, the weight is multiplied by ``min(1, u / 0.5)²``.

    Args:
        weights: each part's weight if it is useful.
        score: parts of the score of images, (N,) each, higher = more anomalous.
        held_out: normal images that do not train, (n, C, H, W), uint8 or float32 in [0, 1].
        unseen: kinds of pseudo-anomaly that D never met, but for those that look normal.
        generator: a CPU stream.
    """
    seen = separation(score, held_out, unseen, generator)
    useful = {part: sum(max(0.0, 2 * seen[kind][part] - 1) for kind in unseen) / len(unseen) for part in weights}
    best = max(useful.values())
    if best == 0:  # nothing is seen by any part: there is nothing to go by
        return dict(weights)
    return {part: weight * min(1.0, useful[part] / best / FULL_WEIGHT_FROM) ** 2 for part, weight in weights.items()}


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
