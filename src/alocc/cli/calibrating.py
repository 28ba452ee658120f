"""`alocc calibrate`: another threshold for a detector, from newer normal images or for other rates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alocc.cli import console
from alocc.cli.running import load_normals
from alocc.errors import ConfigError, DataError

if TYPE_CHECKING:
    from alocc.data.sources import ImageSet
    from alocc.detector import Detector
    from alocc.training.folder import RunFolder

UNLIKELY = 0.001
"""Chance of as many false alarms among normal images, below which a person is asked whether they are normal."""


def calibrate_again(
    model: Path,
    data: str | None,
    normal: list[str] | None,
    alpha: float | None,
    review_alpha: float | None,
    out: Path | None,
    strict: bool,
) -> None:
    """Set a detector's threshold anew, and say what became of it; a run folder keeps the earlier detector.

    Without newer images, it is that of other rates with the images that it has.
    """
    from alocc.detector import Detector, artefact_path
    from alocc.scoring.open import SUFFIX_OF

    if data is None and strict:
        raise ConfigError("--strict is about DATA; give DATA too, or leave it out")
    if data is None and alpha is None and review_alpha is None:
        raise ConfigError(
            "DATA is missing: give newer normal images; or --alpha or --review-alpha, for other rates with those it has"
        )
    source, (written, run) = artefact_path(model), _place(model, out)
    detector = Detector.load(source)
    console.print_health_warning(detector.health)
    images = None
    if data is None:
        again = detector.at(alpha, review_alpha)
    else:
        with console.stage_progress():
            images = _newer_normals(detector, data, normal, strict)
            again = detector.recalibrated(images.images, alpha, data, review_alpha)
    is_other = True
    if run:
        with run.locked():
            is_other = run.replace(again)
    else:
        again.save(written)
    if images:
        console.print_skipped(images.skipped)
        console.print_classes(images)
    if not is_other:
        console.print_note(f"{console.rates_of(again)}, as before: {written} stays as it is")
        return
    console.print_note(
        f"{console.rates_of(again)}, from {len(again.held_out_scores):,} normal images "
        f"(before: {console.rates_of(detector).removeprefix('threshold ')}); {written} written"
        + (f"; alocc calibrate {model} --undo brings the earlier one back" if not out else "")
    )
    if images:
        _warn_of_newer(detector, again, images, asked=alpha is not None)
    if detector.health:
        was = f"the verdict {detector.health.verdict} was on the earlier threshold"
        console.print_note(f"{was}; alocc check {model}, with fresh normal images, tells of this one")
    files = [run.model.with_suffix(suffix) for suffix in SUFFIX_OF.values()] if run else []
    for file in filter(Path.exists, files):
        console.print_note(f"{file} has the threshold of before; alocc export {model} writes it again")


def _place(model: Path, out: Path | None) -> tuple[Path, RunFolder | None]:
    """Where a detector that was calibrated again goes, and the run whose own it is then, if it is one's."""
    from alocc.detector import artefact_path, is_artefact
    from alocc.training.folder import RunFolder

    written, folder = out or artefact_path(model), RunFolder.of(model)
    if out is None and folder is None:
        raise ConfigError(f"{model} is not in a run folder, so its threshold would be lost; give --out, another file")
    own = folder and written.exists() and written.samefile(folder.model)
    if out and not own and written.exists() and (RunFolder.of(written) or not is_artefact(written)):
        raise ConfigError(f"--out {out} is there already, and would be lost; give another file")
    return written, folder if own else None


def _newer_normals(detector: Detector, data: str, normal: list[str] | None, strict: bool) -> ImageSet:
    """Fresh normal images that are enough for a threshold."""
    from alocc.data.splits import MIN_IMAGES

    images = load_normals(detector, data, normal, strict)
    if len(images) < MIN_IMAGES:
        raise DataError(f"{len(images)} new normal images are too few for a threshold; give at least {MIN_IMAGES}")
    return images


def _warn_of_newer(before: Detector, again: Detector, images: ImageSet, *, asked: bool) -> None:
    """Say what is odd about the newer images of a calibration, and of its alpha unless that was asked for."""
    from scipy.stats import binom

    from alocc.data.appearance import appearance, changes
    from alocc.evaluation.monitoring import OBVIOUS

    n_called = int((again.held_out_scores > before.threshold).sum())
    if binom.sf(n_called - 1, len(images), before.alpha) < UNLIKELY:
        console.print_note(
            f"warning: {n_called:,} of these {len(images):,} images are anomalies by the threshold before; "
            "are they normal?"
        )
    if again.alpha > before.alpha and not asked:
        raised = f"alpha {again.alpha:.4g} is above the {before.alpha:.4g} of before"
        console.print_note(f"note: {raised}; more images support a smaller one")
    if differs := changes(appearance(images.images), before.training.get("appearance", {}), OBVIOUS):
        console.print_note(f"warning: these images look different from those before: {'; '.join(differs)}")
