"""Is a detector fit for use? Asked without a single anomaly: some images must look anomalous, and normal ones must not.

Measuring and judging are apart: :func:`measure` gives numbers, :func:`judge` makes a verdict with its reasons of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alocc.calibration import FloatArray
from alocc.config import LARGEST, PRESETS, Config
from alocc.data.images import to_unit_range
from alocc.data.sources import Data, Skipped, open_normals
from alocc.detector import Detector, artefact_path
from alocc.errors import DataError
from alocc.evaluation.metrics import auroc
from alocc.evaluation.monitoring import same_source
from alocc.evaluation.notes import noted_data
from alocc.parts.descriptions import Texture
from alocc.parts.validation import MOST_IMAGES, separation
from alocc.seeding import generator
from alocc.stages import in_stage, stage
from alocc.storage import digest, json_text, write_text
from alocc.synthesis.faults import with_spots
from alocc.synthesis.negatives import NEGATIVES
from alocc.synthesis.pasting import clouds
from alocc.training.folder import RunFolder
from alocc.training.plan import TrainingImages, load_training_images
from alocc.training.run import train
from alocc.verdict import Finding, Health, Verdict

FEWEST_IMAGES, SMALL = 24, 64 * 64
"""Images of each kind, at least; pixels up to which there are 200."""
PROBES = 50
"""Images of each probe."""
SHRUNK, SMALL_SPOT = 1.1, 4
"""Images that were shrunk by more lost small faults; spots of so many pixels across are small in any image."""
SPOT_CONTRAST, SPOT_FOUND = 4.0, 0.9
"""Change of brightness in spots, in standard deviations of an image's pixels; AUROC from which they are found."""
ANOTHER_PRESET = {"article": "robust", "paper": "robust", "ognet": "robust", "robust": "features"}
"""Preset → one that sees more."""
SHORT, FEW = 0.2, 50
"""Share of its preset's iterations below which a training is short; held-out images below which a verdict is weak."""
FLIPPED = 0.45
"""AUROC of D on pseudo-anomalies below which it means the opposite of what it should."""


@dataclass(frozen=True)
class Measures:
    """What was measured; everything that a verdict rests on."""

    probes: Mapping[str, float]
    """Probe that must look anomalous → AUROC of the anomaly score against normal images."""
    unseen_kinds: Mapping[str, float]
    """Kind of pseudo-anomaly that D never met, and that does not look normal → AUROC against normal images, jittered
    for the kinds that are."""
    polarity: Sequence[float]
    """AUROC of D on pseudo-anomalies, measured through its training; empty if D has no part in the score."""
    d_weight: float
    """Share of D in the score's weights."""
    n_held_out: int
    n_fresh: int
    """Fresh normal images that were compared with the held-out ones; 0 for none."""
    same_as_held_out: float | None
    """p-value of the hypothesis that fresh normal images score like the held-out ones; none if there were none."""
    shift: float | None
    """How far fresh normal images are from the training images on average; none without them, or without statistics."""
    stability: float | None
    """Rank correlation of the scores with those of a second seed; none if there was no second training."""
    spots: Mapping[str, float] = field(default_factory=dict)
    """Diameter in pixels of a spot planted in normal images → AUROC."""
    shorter_side: int = 0
    """Of the images or crops in which spots were planted, in pixels."""
    shrunk: float = 1.0
    """How many times as long the sides of the original images are, in the mean; below 1, images were enlarged."""

    @property
    def unseen_mean(self) -> float:
        """Mean AUROC over kinds that D never met."""
        return float(np.mean(list(self.unseen_kinds.values())))

    @property
    def smallest_spot(self) -> int | None:
        """Diameter from which spots are found, in pixels; none if not even the largest are."""
        found = None
        for diameter, auc in sorted(self.spots.items(), key=lambda item: -int(item[0])):
            if auc < SPOT_FOUND:
                break
            found = int(diameter)
        return found

    def as_rows(self) -> list[tuple[str, str]]:
        """For a table: what was measured, and the figure; what was not measured is left out."""
        kinds = {f"AUROC on normal images {name.replace('_', ' ')}": auc for name, auc in self.unseen_kinds.items()}
        figures = {f"AUROC on {name} images": auc for name, auc in self.probes.items()} | kinds
        rows = [(name, f"{auc:.3f}") for name, auc in (figures | {"mean over these kinds": self.unseen_mean}).items()]
        if self.spots:
            found = "  ".join(f"{diameter}: {auc:.2f}" for diameter, auc in self.spots.items())
            rows.append((f"AUROC on spots, by pixels across, in images of {self.shorter_side}", found))
        if self.polarity:
            rows.append(("AUROC of D through training", "  ".join(f"{value:.2f}" for value in self.polarity)))
            rows.append(("share of D in the score", f"{self.d_weight:.2f}"))
        if self.same_as_held_out is not None:
            rows.append((f"{self.n_fresh} fresh images score as held-out ones", f"p = {self.same_as_held_out:.3g}"))
        if self.shift is not None:
            distance = f"{max(0.0, self.shift):.2f}"
            rows.append(("squared distance of fresh and training images' means (0: one source)", distance))
        if self.stability is not None:
            rows.append(("rank correlation with a second seed", f"{self.stability:.2f}"))
        return [*rows, ("held-out normal images", str(self.n_held_out))]


@dataclass(frozen=True)
class Examination(Health):
    """A verdict with the measures behind it: what a check finds, and what its run folder keeps."""

    measures: Measures
    skipped: Sequence[Skipped] = ()
    """Images of the data given that could not be used."""
    made_from: str | None = None
    """SHA-256 of the detector's file; none if it has none."""


def check(detector: Detector, normals: Tensor, *, fresh: bool, second: Detector | None = None) -> Examination:
    """Examine a fitted detector on normal images that it was not trained on, (n, C, H, W), in its format.

    ``fresh`` says that they are not those that it was calibrated on, so that the two can be compared; ``second`` is a
    detector of the same images with another seed.

    Raises:
        DataError: if there are no images.
    """
    return judge(measure(detector, normals, fresh=fresh, second=second), detector.config)


def measure(detector: Detector, normals: Tensor, *, fresh: bool, second: Detector | None = None) -> Measures:
    """Measure all that a verdict needs; see :func:`check`."""
    from scipy.stats import spearmanr

    if len(normals) == 0:
        raise DataError("no normal images to check with: the detector was trained or calibrated on all of them")
    stage("checking health")
    detector = replace(detector, health=None)  # what an earlier check said is no matter here
    frame = detector.scorer.frame
    height, width, _ = frame.crop_format
    most = max(FEWEST_IMAGES, min(MOST_IMAGES, MOST_IMAGES * SMALL // (height * width)))  # fewer of large images
    normals = normals[:: max(1, len(normals) // most)]
    stream = generator(detector.config.seed, "health")
    # of the held-out images themselves the detector keeps what it said before it had seen them
    compared = detector.score(normals).anomaly_score if fresh else detector.held_out_scores
    subject, is_cut = detector.of_crops, frame.n_crops > 1
    normals = to_unit_range(frame.draw_some(normals, most, stream))
    own = compared if not is_cut else subject.score(normals).anomaly_score

    def against_normals(probe: Tensor) -> float:
        return _told(subject, probe, own)

    def fused(x: Tensor) -> dict[str, Tensor]:
        return {"fused": torch.from_numpy(subject.score(x).anomaly_score)}

    unseen = unseen_kinds(detector)
    seen = separation(fused, normals, unseen, stream, most)
    weights = detector.scorer.fusion.weights
    d_weight = weights.get("d", 0.0) / sum(weights.values())
    shift = None
    # the mean of changed copies is another one, and crops of one image are alike: then there is nothing to compare
    comparable = not is_cut and not detector.config.training.augmentation.is_on
    if fresh and comparable and "texture" in detector.scorer.parts and len(normals) > 1:
        with torch.inference_mode():
            texture = cast(Texture, detector.scorer.parts["texture"])
            shift = texture.shift(frame.thumbnails(normals), detector.training["n_fit"])
    stability = None
    if second is not None:
        x = torch.cat([normals, *(NEGATIVES[kind](normals, stream) for kind in unseen)])
        by_seed = [one.score(x).anomaly_score for one in (subject, second.of_crops)]
        stability = float(np.nan_to_num(spearmanr(*by_seed).statistic))
    gross = {name: against_normals(probe) for name, probe in gross_probes(normals, stream).items()}
    likely = {name: against_normals(probe) for name, probe in likely_probes(normals, stream).items()}
    original = detector.training.get("original_size", detector.image_format.size)
    return Measures(
        gross,
        {kind: by_part["fused"] for kind, by_part in seen.items()} | likely,
        list(detector.training.get("polarity", ())) if d_weight else [],
        d_weight,
        len(detector.held_out_scores),
        len(compared) if fresh else 0,
        same_source(detector, compared) if fresh else None,
        shift,
        stability,
        _spots(subject, normals[: min(PROBES, most)], stream),
        min(normals.shape[2:]),
        math.sqrt(math.prod(original) / math.prod(detector.image_format.size)),
    )


def _told(detector: Detector, probe: Tensor, own: FloatArray) -> float:
    """AUROC of images that must look anomalous against scores of normal ones."""
    scores = detector.score(probe).anomaly_score
    return auroc(np.concatenate([own, scores]), np.arange(len(own) + len(scores)) >= len(own))


def _spots(detector: Detector, normals: Tensor, stream: torch.Generator) -> dict[str, float]:
    """AUROC on spots of 2, 4, 8, … pixels across, up to a third of the shorter side."""
    diameters = [2**i for i in range(1, 10) if 2**i <= min(normals.shape[2:]) // 3]
    clean = detector.score(normals).anomaly_score  # with folds it was fitted to all of them: compare like with like
    return {
        str(d): _told(detector, with_spots(normals, d, SPOT_CONTRAST, stream), clean)
        for d in in_stage("planting spots", diameters)
    }


def unseen_kinds(detector: Detector) -> list[str]:
    """Kinds of pseudo-anomaly that say something of a detector: D never met them, and they do not look normal."""
    notes, discrimination = detector.training, detector.config.training.discrimination
    wanted = discrimination.kinds if discrimination else ()  # those that D did not meet were dropped: they look normal
    known = {*notes.get("negatives", ()), *notes.get("looks_normal", ()), *wanted}
    return [kind for kind in NEGATIVES if kind not in known]


def judge(measures: Measures, config: Config) -> Examination:
    """Turn measures into a verdict: the worst of all findings, good if there are none, or none but remarks.

    The config is the detector's: advice is never what it follows already.
    """
    order: Sequence[Verdict] = ("useless", "doubtful", "good")
    found = [*_findings(measures, config), *_remarks(measures, config)]
    findings = sorted(found, key=lambda finding: order.index(finding.verdict))
    verdict = findings[0].verdict if findings else "good"
    return Examination(verdict, findings, _meaning(verdict, measures), measures)


def _meaning(verdict: Verdict, measures: Measures) -> str:
    """What the verdict says, and what nobody should take it for."""
    says = {
        "good": "Good means that no test found a fault in it",
        "doubtful": "Doubtful means that a test went wrong: see whether its reason applies to you",
        "useless": "Useless means that its scores say nothing: do not rely on them",
    }[verdict]
    tested = ""
    if measures.spots:
        smallest, largest = measures.smallest_spot, max(map(int, measures.spots))
        size = f"{round((smallest or largest) * max(1.0, measures.shrunk))} pixels across"
        found = (
            f"those of {size} or more were found, smaller ones may be missed"
            if smallest
            else f"even those of {size} were missed"
        )
        tested = (
            f" Of spots planted in normal images, with a contrast of {SPOT_CONTRAST:g} standard "
            f"deviations of the pixels, {found} (in the original images); fainter ones were not tried."
        )
    return (
        f"{says}.{tested} None of your defects was there: only labelled images (alocc evaluate) tell how many it finds."
    )


def _findings(measures: Measures, config: Config) -> Iterator[Finding]:
    """What speaks against a detector."""
    mean = measures.unseen_mean
    larger = f"at a larger size (--set {config.images.larger}, up to {LARGEST:,})" if config.images.larger else None
    more = "train on more normal images" + (f", or {larger}" if larger and measures.shrunk > SHRUNK else "")
    more += "; look at what sets anomalies apart"
    other = ANOTHER_PRESET.get(config.preset)
    mixed = (
        "were other things mixed into the training images, or have the images changed since? "
        "Train again on images like these"
    )
    if mean < 0.48:
        yield Finding(
            "useless" if mean < 0.42 else "doubtful",
            f"pseudo-anomalies of kinds that it never met look almost normal to it (mean AUROC {mean:.2f})",
            more + "; were other things mixed into the normal images?",
        )
    for name, value in measures.probes.items():
        if value < 0.9:
            yield Finding(
                "useless" if value < 0.6 else "doubtful",
                f"{name} images, which nobody would call normal, do not stand out (AUROC {value:.2f})",
                "do not rely on it for images of another type than the normal ones"
                + (f"; the preset {other} may see more" if other else ""),
            )
    yield from _unseen_spots(measures, larger)
    late = measures.polarity[len(measures.polarity) // 5 :]
    if late and min(late) < FLIPPED:
        yield Finding(
            "useless" if measures.d_weight > 0.5 and late[-1] < FLIPPED else "doubtful",
            f"D called pseudo-anomalies more normal than normal images in training (AUROC down to {min(late):.2f})",
            "its score may mean the opposite of what it should; train again, with another seed"
            + (f" or with the preset {other}" if other else ""),
        )
    if measures.n_held_out < 20:
        yield Finding(
            "doubtful",
            f"only {measures.n_held_out} held-out normal images stand behind its threshold",
            "train on more normal images" + (", or ask for a larger alpha" if config.calibration.alpha is None else ""),
        )
    if (same := measures.same_as_held_out) is not None and same < 0.001:
        yield Finding(
            "doubtful",
            f"{measures.n_fresh} fresh normal images do not score like those that it was calibrated on "
            f"(p = {same:.1g})",
            f"its false-positive rate is not what it promises; {mixed}",
        )
    if measures.shift is not None and measures.shift > 2.5:
        yield Finding(
            "doubtful",
            "fresh normal images are not, on average, like those that it was trained on (squared distance "
            f"{measures.shift:.1f}, where chance would give 0)",
            f"it learned something else, or something more, than these images: {mixed}",
        )
    if measures.stability is not None and measures.stability < 0.5:
        yield Finding(
            "doubtful",
            f"a second training with another seed ranks images differently (correlation {measures.stability:.2f})",
            more,
        )


def _remarks(measures: Measures, config: Config) -> Iterator[Finding]:
    """What makes a verdict weak, though no test went wrong."""
    if 20 <= measures.n_held_out < FEW:
        reason = f"only {measures.n_held_out} held-out normal images stand behind this verdict, which makes it weak"
        fresh = "" if measures.n_fresh else ", or check it with fresh ones"
        yield Finding("good", reason, f"train on more normal images{fresh}")
    if "d" not in config.scoring:  # then no trained network has a say
        return
    usual = PRESETS.get(config.preset, config).training
    for name in ("reconstruction", "adversarial"):
        own, full = getattr(config.training, name), getattr(usual, name)
        if own and full and own.iterations < SHORT * full.iterations:
            reason = (
                f"its training was short: {own.iterations:,} iterations, where the preset takes {full.iterations:,}"
            )
            yield Finding("good", reason, "its networks may not know the images yet; train it in full")


def _unseen_spots(measures: Measures, larger: str | None) -> Iterator[Finding]:
    """Images that were shrunk so far that small spots in them are not found."""
    if measures.spots and measures.shrunk > SHRUNK:
        smallest = measures.smallest_spot
        if smallest is None or smallest > max(SMALL_SPOT, measures.shorter_side / 8):
            found = "none"
            if smallest:
                original = round(smallest * measures.shrunk)
                found = f"only those of {smallest} pixels across or more, {original} in the originals"
            yield Finding(
                "doubtful",
                f"of spots planted in normal images, shrunk to {measures.shorter_side} pixels, it finds {found}",
                f"smaller faults go unseen: {f'train {larger}, or ' if larger else ''}crop to the part that matters",
            )


def check_trained(detector: Detector, images: TrainingImages, folder: RunFolder | None = None) -> Examination:
    """Examine a detector on the images that its training held out, and keep the result in its run folder.

    With folds these are all images, each of which trained one of the networks: changed copies of them are told a
    little too well. ``check_run`` with fresh images is stricter.
    """
    health = check(detector, images.normals.images[images.split.held_out], fresh=False)
    return _kept(replace(health, made_from=digest(folder.model)), folder) if folder else health


def check_run(
    run: str | Path,
    data: Data | None = None,
    normal: Sequence[str] | None = None,
    *,
    second_seed: bool = True,
    strict: bool = False,
) -> Examination:
    """Examine the detector of a run folder, and keep the result there.

    Args:
        run: a run folder or a detector's file.
        data: fresh normal images, of which those that it was trained or calibrated on are left out; none, or the
            images of the training: those of them that it held out.
        normal: classes of ``data``; none: those of the training, or all images if ``data`` has no classes.
        second_seed: whether to train a second detector with another seed, four times shorter, and compare.
        strict: stop at the first image of ``data`` that cannot be used.

    Raises:
        ArtefactError, DataError: if there is no such run, or its images are not found, or other ones set the threshold.
    """
    detector, made_from = Detector.load(run), digest(artefact_path(run))
    skipped: Sequence[Skipped] = ()
    normals = None
    if data is not None:
        source = open_normals(data, "test", normal, detector.training["normal_classes"])
        loaded = source.load(detector.image_format, strict)
        skipped, normals = loaded.skipped, loaded.images[torch.from_numpy(~detector.was_seen(loaded.images))]
    fresh = normals is not None and len(normals) > 0
    if not fresh and "recalibrated_on" in detector.training:
        raise DataError(
            "its threshold was set anew by alocc calibrate, from images that the training did not hold out; give fresh "
            "normal images: alocc check RUN DATA"
        )
    second = None
    if not fresh or second_seed:
        trained_on = noted_data(detector.training["data"], run) if fresh or data is None else data
        images = _images_of(detector, trained_on)
        second = _second(detector, trained_on) if second_seed else None
        normals = normals if fresh else images.normals.images[images.split.held_out]
    assert normals is not None
    health = replace(check(detector, normals, fresh=fresh, second=second), skipped=skipped, made_from=made_from)
    folder = RunFolder.of(run)
    return _kept(health, folder) if folder else health


def _kept(health: Examination, folder: RunFolder) -> Examination:
    write_text(folder.health, json_text(health))
    return health


def _images_of(detector: Detector, data: Data) -> TrainingImages:
    """The images of a detector's training, if they are still what they were."""
    notes = detector.training
    images = load_training_images(data, notes["normal_classes"] or None, detector.config)
    if images.summary["images_sha256"] != notes["images_sha256"]:
        raise DataError(
            f"{images.summary['data']} has changed since the training, or is not what it was trained on; give fresh "
            "normal images, and --no-second-seed"
        )
    return images


def _second(detector: Detector, data: Data) -> Detector:
    """A detector of the same images with the next seed and a quarter of the iterations."""
    config = detector.config
    main = config.training.reconstruction or config.training.adversarial
    assert main is not None
    normal, iterations = detector.training["normal_classes"] or None, max(1, main.iterations // 4)
    return train(data, normal=normal, config=config, seed=config.seed + 1, iterations=iterations)


def gross_probes(normals: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
    """Images that nobody would call normal, unless the normal ones are just like that.

    A flat image is no probe where some normal images are flat themselves.
    """
    n, channels, height, width = normals.shape
    few = min(n, PROBES)
    noise = torch.rand((few, channels, height, width), generator=stream)
    probes = {"noise": noise, "striped": _stripes(few, normals.shape, stream)}
    if float(normals.flatten(1).std(1).quantile(0.05)) > 0.02:  # fewer than one in twenty is flat
        shade = torch.linspace(0, 1, few).view(-1, 1, 1, 1)
        probes["black, white and grey"] = shade.expand(few, channels, height, width).clone()
    return probes


def likely_probes(normals: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
    """Images that are hardly normal, unless the normal ones have no shape: another source, and pieces out of place."""
    few = normals[:PROBES]
    return {"cloudy": clouds(few, stream), "shuffled": _shuffled(few, stream)}


def _shuffled(x: Tensor, stream: torch.Generator) -> Tensor:
    """Cut into 4×4 pieces that change places; a remainder at the borders is lost and made up by mirroring."""
    n, _, height, width = x.shape
    side = height // 4, width // 4
    whole = x[:, :, : side[0] * 4, : side[1] * 4]
    pieces = F.unfold(whole, side, stride=side)
    order = torch.rand((n, 16), generator=stream).argsort(1)
    moved = pieces.gather(2, order[:, None].expand_as(pieces))
    whole = F.fold(moved, whole.shape[2:], side, stride=side)
    return F.pad(whole, (0, width - whole.shape[3], 0, height - whole.shape[2]), mode="reflect")


def _stripes(n: int, shape: Sequence[int], stream: torch.Generator) -> Tensor:
    """Waves of any direction, length and colour."""
    _, channels, height, width = shape
    angle = torch.rand((n, 1, 1, 1), generator=stream) * torch.pi
    length = 3 + 5 * torch.rand((n, 1, 1, 1), generator=stream)
    phase = torch.rand((n, channels, 1, 1), generator=stream) * 2 * torch.pi
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return 0.5 + 0.5 * torch.sin(2 * torch.pi * (x * angle.cos() + y * angle.sin()) / length + phase)
