"""Trained networks and held-out normal images → a detector: parts, weights, scales, p-values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alocc.calibration import Calibration, FloatArray, default_alpha
from alocc.data.frame import thinned
from alocc.data.images import to_unit_range
from alocc.detector import MOST_MAPPED, Detector
from alocc.errors import NonFiniteLossError
from alocc.parts import STATISTICS, build_part
from alocc.parts.descriptions import TENTHS
from alocc.parts.discriminator import D
from alocc.parts.fusion import Fusion
from alocc.parts.part import Normals, Part, View
from alocc.parts.validation import MOST_IMAGES, auroc, planted_weights, useful_kinds
from alocc.scorer import Scorer
from alocc.seeding import generator
from alocc.stages import in_stage, stage
from alocc.synthesis.deformation import jitter
from alocc.synthesis.faults import planted
from alocc.synthesis.negatives import NEGATIVES, make_negatives
from alocc.training.plan import Plan

POLARITY_IMAGES = 100
PLANTED_IMAGES, PLANTED_STRENGTHS, SEEN = 100, (1.0, 2.0, 4.0, 8.0), 0.75
"""Images in which faults are planted; how strong, until a part's AUROC is above the last."""
WATCHED_HELD_OUT = 200
"""Held-out images that set the threshold of a watch, so that watching stays cheap."""


@dataclass(frozen=True)
class FoldScorer:
    """A scorer with one pair of networks, and normal images that these were not trained on."""

    scorer: Scorer
    held_out: Tensor
    """(n, C, H, W), uint8 or float32 in [0, 1]."""


@dataclass(frozen=True)
class Kinds:
    """Kinds of pseudo-anomaly, by what becomes of them."""

    met: Sequence[str]
    """D is trained against these."""
    looks_normal: Sequence[str]
    """Asked for, but they cannot be told from normal images, or the user says so: they are no anomalies here."""

    @property
    def unseen(self) -> list[str]:
        """All others: what D never met tells how far it can be trusted."""
        return [kind for kind in NEGATIVES if kind not in (*self.met, *self.looks_normal)]


def choose_kinds(plan: Plan, scorer: Scorer, normals: Normals, held_out: Tensor) -> Kinds:
    """Find the kinds that look normal, by the parts of the score that need no network."""
    phase, told = plan.config.training.discrimination, plan.config.training.augmentation.makes_normal
    if phase is None:
        return Kinds((), sorted(told))
    judges = {}
    for name in STATISTICS:
        judges[name] = scorer.parts[name] if name in scorer.parts else build_part(name, plan.config, plan.frame)
        if name not in scorer.parts:
            fit_part(judges[name], normals)

    def score(x: Tensor) -> Mapping[str, Tensor]:
        view = View(x, x, ())
        return {name: part(view).image for name, part in judges.items()}

    with torch.inference_mode():
        met = useful_kinds(
            score,
            trial_thumbnails(plan, held_out),
            [kind for kind in phase.kinds if kind not in told],
            generator(plan.config.seed, "validation"),
        )
    return Kinds(met, [*(kind for kind in phase.kinds if kind not in met), *sorted(told - {*phase.kinds})])


def trial_images(plan: Plan, held_out: Tensor) -> Tensor:
    """What pseudo-anomalies are made of: held-out images, or crops of some of them, from anywhere."""
    return plan.frame.draw_some(held_out, MOST_IMAGES, generator(plan.config.seed, "trial"))


def trial_thumbnails(plan: Plan, held_out: Tensor) -> Tensor:
    """The same as R and D see them."""
    return plan.frame.thumbnails(trial_images(plan, held_out))


def polarity_measure(plan: Plan, scorer: Scorer, held_out: Tensor, kinds: Kinds) -> Callable[[], Mapping[str, float]]:
    """Measures D's AUROC on kinds of pseudo-anomaly that it does not meet, made of these thumbnails."""
    stream = generator(plan.config.seed, "polarity")
    images = to_unit_range(held_out[:POLARITY_IMAGES])
    normals = jitter(images, stream)
    pseudo = make_negatives(images[torch.randperm(len(images), generator=stream)], kinds.unseen, stream)
    scorer = scorer.of_thumbnails()

    def measure() -> Mapping[str, float]:
        normal, anomalous = (
            scorer.over(x, lambda view: {"d": scorer.parts["d"](view).image})["d"] for x in (normals, pseudo)
        )
        return {"polarity": round(auroc(normal, anomalous), 4)}

    return measure


def watch_measure(
    watch: Callable[[Detector], Mapping[str, float]], plan: Plan, fold: FoldScorer, seen: NDArray[np.int64]
) -> Callable[[], Mapping[str, float]]:
    """Measures the networks as they stand, as a detector with the config's own weights; it makes no maps."""

    def measure() -> Mapping[str, float]:
        few = thinned(fold.held_out, WATCHED_HELD_OUT)
        evidence = fold.scorer.over(few, fold.scorer.image_evidence)
        scores = _calibrated(plan, fold.scorer, evidence, plan.config.scoring)
        # the images of all folds support the alpha that was asked for, but perhaps not some of those of one
        calibration = Calibration.of(scores, default_alpha(len(scores), plan.config.calibration.alpha))
        no_maps = np.full(1, np.inf)
        return watch(Detector(plan.config, fold.scorer, calibration, no_maps, seen, plan.images.summary))

    return measure


def calibrate(plan: Plan, folds: Sequence[FoldScorer], seen: NDArray[np.int64], notes: Mapping[str, Any]) -> Detector:
    """Turn trained networks into a detector with the help of normal images that they were not trained on.

    Args:
        folds: all networks, each with its own held-out images; the first one's parts are fitted.
        seen: hashes of all images used.
        notes: to keep.
    """
    config, first = plan.config, folds[0]
    for fold in folds:
        fold.scorer.eval()  # running statistics: a score must not depend on its batch
    weights = config.scoring
    stage("weighing parts")
    if config.calibration.weights == "validated":
        weights = weights_from_planted_faults(plan, first)
    scorer, crossed = (first.scorer, {}) if len(folds) == 1 else _joined(plan, folds)
    left = [name for name in config.scoring if name not in crossed]
    stage("calibrating")
    by_fold = [fold.scorer.over(fold.held_out, partial(fold.scorer.image_evidence, names=left)) for fold in folds]
    evidence = {name: torch.cat([one[name] for one in by_fold]) for name in left} | crossed
    for name, values in evidence.items():
        if not values.isfinite().all():
            raise NonFiniteLossError(
                f"part {name} gives normal images infinite evidence; train again with another seed"
            )
    in_order = _calibrated(plan, scorer, evidence, weights)
    stage("calibrating maps")
    maxima = calibrate_map(first)
    scorer.map_fusion.load_state_dict(first.scorer.map_fusion.state_dict())
    calibration = Calibration.of(in_order, config.calibration.alpha, config.calibration.review_alpha)
    return Detector(config, scorer.cpu(), calibration, maxima, seen, notes, in_order)


def weights_from_planted_faults(plan: Plan, fold: FoldScorer) -> dict[str, float]:
    """Weights of the score's parts, by small faults planted in held-out images; large images' maps are weighed too."""
    scorer, stream = fold.scorer.of_crops(), generator(plan.config.seed, "faults")
    clean = to_unit_range(thinned(trial_images(plan, fold.held_out), PLANTED_IMAGES))
    copies = clean.repeat(math.ceil(PLANTED_IMAGES / len(clean)), 1, 1, 1)[:PLANTED_IMAGES]  # each with its own fault
    with_maps = plan.frame.has_thumbnails

    def evidence_of(x: Tensor) -> dict[str, Tensor]:
        return scorer.over(
            x, lambda view: scorer.image_evidence(view) | (scorer.grid_evidence(view) if with_maps else {})
        )

    normal = evidence_of(clean)
    scorer.fusion.fit(normal)
    for strength in PLANTED_STRENGTHS:  # the faintest that something sees
        faulty, is_fault = planted(copies, stream, strength)
        anomalous = evidence_of(faulty)
        if max(auroc(normal[part], anomalous[part]) for part in plan.config.scoring) > SEEN:
            break

    def fused(fusion: Fusion, weights: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        fusion.reweigh({name: weights.get(name, 0.0) for name in fusion.scales})
        return fusion(normal), fusion(anomalous)

    if with_maps:
        beyond = [covered - side for covered, side in zip(plan.frame.covered, is_fault.shape[2:], strict=True)]
        is_fault = F.pad(is_fault.float(), (0, beyond[1], 0, beyond[0]))
        is_fault_at = F.adaptive_max_pool2d(is_fault, plan.frame.grid)[:, 0] > 0  # (n, h, w)

        def found_places(weights: Mapping[str, float]) -> float:
            places = fused(scorer.map_fusion, weights)[1]
            return auroc(places[~is_fault_at], places[is_fault_at])

        scorer.map_fusion.fit(normal)
        scorer.map_fusion.reweigh(planted_weights(plan.config.maps, found_places))
    return planted_weights(plan.config.scoring, lambda weights: auroc(*fused(scorer.fusion, weights)))


def fit_part(part: torch.nn.Module, normals: Normals) -> None:
    """Let a part learn without gradients."""
    with torch.no_grad():
        part.fit(normals)  # type: ignore[operator]


def _joined(plan: Plan, folds: Sequence[FoldScorer]) -> tuple[Scorer, dict[str, Tensor]]:
    """One scorer with all networks, its parts fitted to all training images, and what these say of held-out images.

    Each image is measured by what was made from other images. Parts of the map alone stay those of the first fold,
    whose held-out images put the map on its scale.
    """
    split, first = plan.images.split, folds[0].scorer
    scorer = Scorer(plan.config, plan.frame)
    for fold in folds:
        scorer.R.extend(fold.scorer.R)
        if "d" in scorer.parts:
            cast(D, scorer.parts["d"]).networks.extend(cast(D, fold.scorer.parts["d"]).networks)
    for name in set(plan.config.maps) - set(plan.config.scoring):
        scorer.parts[name] = first.parts[name]
    fitted, pixels = plan.normals(split.fit).some(), plan.images.normals.images
    is_everything = len(fitted) == len(pixels) and bool((fitted.source == torch.arange(len(pixels))).all())
    images = fitted  # then descriptions are computed once for both
    if not is_everything:
        images = Normals(plan.frame.thumbnails(pixels), full=pixels)
    tenth = torch.randperm(len(pixels), generator=generator(plan.config.seed, "tenths")) % TENTHS
    crossed = {}
    for name in in_stage("fitting parts", list(plan.config.scoring)):
        with torch.no_grad():
            # the map was put on its scale with the first fold's part: what that decided holds for all
            cast(Part, scorer.parts[name]).fit_like(cast(Part, first.parts[name]), fitted)
            evidence = scorer.parts[name].cross_fitted(fitted, images, tenth)  # type: ignore[operator]
        if evidence is not None:
            crossed[name] = evidence[split.held_out]
    return scorer.compute_on(next(first.R.parameters()).device), crossed


def _calibrated(plan: Plan, scorer: Scorer, evidence: Mapping[str, Tensor], weights: Mapping[str, float]) -> FloatArray:
    """Put the parts on their scales by evidence of held-out images; the anomaly scores of these, in order."""
    scorer.fusion.reweigh(weights)
    scorer.fusion.fit(evidence)
    return plan.frame.worst(scorer.fusion(evidence).cpu()).numpy()


def calibrate_map(fold: FoldScorer) -> FloatArray:
    """Put the map on its scale by held-out images; the highest value in the map of each, on the scale of the others.

    Each tenth of the images is put on the scale of the other nine: a place's own scale would make its own image look
    too normal.
    """
    scorer, frame = fold.scorer, fold.scorer.frame
    evidence = scorer.over(frame.thinned(fold.held_out, MOST_MAPPED), scorer.grid_evidence)  # (n · crops, h, w)
    n = len(next(iter(evidence.values())))
    tenth, peaks = torch.arange(n) // frame.n_crops % TENTHS, torch.empty(n)
    for own in (tenth == k for k in range(TENTHS)):
        others = ~own if not own.all() else own
        scorer.map_fusion.fit({name: values[others] for name, values in evidence.items()})
        peaks[own] = (
            scorer.map_fusion({name: values[own] for name, values in evidence.items()}).flatten(1).amax(1).cpu()
        )
    scorer.map_fusion.fit(evidence)
    return frame.worst(peaks).double().numpy()
