"""What people see: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alocc.errors import StoppedError
from alocc.progress import (
    err,
    image_progress,
    iterating,
    plain,
    print_note,
    run_progress,
    stage_progress,
    training_progress,
)
from alocc.storage import json_text

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from alocc.benchmark.running import Result
    from alocc.data.inspection import Inspection
    from alocc.data.sources import ImageSet, Skipped
    from alocc.detector import Detector
    from alocc.evaluation.labelled import Labelled
    from alocc.scores import Scores
    from alocc.scoring.stream import Engine
    from alocc.training.folder import Version
    from alocc.training.plan import TrainingImages
    from alocc.verdict import Health

__all__ = ["err", "image_progress", "plain", "print_note", "stage_progress", "training_progress"]

out = Console(highlight=False)
SKIPPED_SHOWN = 10
LARGER_ALPHA, MISSES_FROM = 0.05, 0.8
"""What is told beside an evaluation with a smaller alpha, whose recall is below this."""


def print_error(message: str) -> None:
    """One line of what is wrong."""
    err.print(Text("error: ", style="bold red") + plain(message), soft_wrap=True)


def print_warning(message: str) -> None:
    """One line of what to be wary of."""
    err.print(Text("warning: ", style="bold yellow") + plain(message), soft_wrap=True)


def print_table(rows: Sequence[Sequence[str]], title: str = "", header: bool = False) -> None:
    """Print rows of text as a table. A row of one entry is the heading of those below it.

    With a header, the first row names the columns; without, the first column names the rows, and there is no frame.
    """
    names, rows = (rows[0], rows[1:]) if header else ([""] * max(map(len, rows), default=0), rows)
    frame: dict[str, Any] = {} if header else {"show_header": False, "box": None}
    table = Table(title=plain(title) if title else None, title_justify="left", **frame)
    for i, name in enumerate(names):
        figures = header and all(re.fullmatch(r"[-–—\d.,e+ ]*", row[i]) for row in rows if len(row) > 1)
        style = "" if header or i else "bold"
        table.add_column(plain(name), justify="right" if figures else "left", style=style, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row), style="bold" if len(row) == 1 else None)
    out.print(table)


def print_json(value: Any) -> None:
    """A result for programs; see :func:`alocc.storage.json_text`."""
    print(json_text(value))


def print_skipped(skipped: Sequence[Skipped]) -> None:
    """Name the images that could not be used."""
    if skipped:
        err.print(plain(f"{len(skipped)} image{'s' * (len(skipped) > 1)} could not be used:", "yellow"))
    for item in skipped[:SKIPPED_SHOWN]:
        print_note(f"  {item.reason}")
    if len(skipped) > SKIPPED_SHOWN:
        print_note(f"  and {len(skipped) - SKIPPED_SHOWN} more")


def print_sides(labelled: Labelled) -> None:
    """Which classes count as normal and which as anomalous, with their numbers of images."""
    for side, word in ((False, "normal"), (True, "anomalous")):
        counts = labelled.class_counts(side).items()
        print_note(f"counted as {word}: " + ", ".join(f"{name} ({n:,})" for name, n in counts))


def print_classes(images: ImageSet) -> None:
    """Which classes counted as normal where images have classes: others of the same source may have been left out."""
    if counts := Counter(name for name in images.classes.tolist() if name):
        print_note("counted as normal: " + ", ".join(f"{name} ({n:,})" for name, n in sorted(counts.items())))


def print_seen(n_seen: int) -> None:
    """Warn of images that the detector knows from its training."""
    if n_seen:
        print_note(
            f"warning: {n_seen:,} of these images were trained or calibrated on; they look more normal than fresh ones"
        )


def print_what_finds_more(scores: Scores, is_anomalous: NDArray[np.bool_], *, other_preset: bool) -> None:
    """What a larger alpha would find and cost, where much is missed; and whether another preset may find more."""
    if scores.is_anomaly[is_anomalous].mean() >= MISSES_FROM:
        return
    if scores.alpha < LARGER_ALPHA:
        found, false = (int((scores.p_value[side] <= LARGER_ALPHA).sum()) for side in (is_anomalous, ~is_anomalous))
        print_note(
            f"note: --alpha {LARGER_ALPHA} would call {found:,} of the {int(is_anomalous.sum()):,} anomalous images, "
            f"and {false:,} of the {int((~is_anomalous).sum()):,} normal ones"
        )
    if other_preset:
        print_note("note: on photographs, alocc train --preset features usually finds more; alocc compare shows both")


def print_other_images(detector: Engine, looks: Sequence[NDArray[np.float64]], at_floor: bool = False) -> None:
    """One note where images are obviously of another kind than those that a detector knows."""
    import numpy as np

    from alocc.evaluation.monitoring import other_images

    if looks and (said := other_images(detector, np.concatenate(looks), at_floor)):
        print_note(f"note: {said}")


def rates_of(detector: Detector) -> str:
    """Where a detector's threshold is, and from where on it can't tell, if there is such a place."""
    said = f"threshold {detector.threshold:.3f} at alpha {detector.alpha:.4g}"
    if detector.review_alpha is None:
        return said
    return f"{said}, can't tell above {detector.calibration.review_threshold:.3f} at alpha {detector.review_alpha:.4g}"


def print_training_start(images: TrainingImages, again: bool) -> None:
    """What will be trained on."""
    from alocc.data.inspection import SHRUNK_FROM, duplicates

    if again:
        print_note("this training was finished already; training it again")
    facts = images.summary
    how = f"set the threshold, cross-fitted in {facts['n_folds']} folds"
    print_note(
        f"{len(images.normals):,} normal images, {images.frame.image_format}: {facts['n_fit']:,} train, "
        f"{facts['n_held_out']:,} {how if facts['n_folds'] else 'are held out for the threshold'}"
        + (f", {facts['n_left_out']:,} are left out as unusual" if facts["n_left_out"] else "")
    )
    height, width = facts["original_size"]
    if max(height, width) > SHRUNK_FROM * max(images.frame.image_format.size):
        shrunk = f"images of {width}×{height} pixels (width × height) are shrunk"
        print_note(f"{shrunk}: alocc inspect says how small faults may be")
    if groups := duplicates(images.normals.names, images.normals.images):
        n_duplicates, first = sum(map(len, groups)) - len(groups), ", ".join(groups[0][:2])
        are = "image is a duplicate" if n_duplicates == 1 else "images are duplicates"
        print_note(f"{n_duplicates:,} {are} ({first}): a threshold from images that train is "
                   "too low; alocc inspect lists them")  # fmt: skip
    print_skipped(images.normals.skipped)


def print_resumed(done: int) -> None:
    """Where a training goes on."""
    print_note(f"going on from iteration {done:,}, where it was stopped")


def print_finished(detector: Detector, run: Path) -> None:
    """That a training has nothing left to do, and what came of it."""
    verdict = f"health {detector.health.verdict}" if detector.health else "health not known: alocc check tells"
    print_note(
        f"this training is finished: {verdict}, threshold {detector.threshold:.3f}; its detector is "
        f"{run / 'model.safetensors'}; --again trains it again"
    )


def print_training_end(detector: Detector, run: Path, health: Health) -> None:
    """Threshold, health and folder of a new detector."""
    from alocc.calibration import DEFAULT_ALPHA
    from alocc.parts.cells import Cells

    if any(isinstance(part, Cells) and part.pose.is_fitted for part in detector.scorer.parts.values()):
        print_note("parts lie in different directions: each is turned the same way up before its places are compared")
    n = detector.training["n_held_out"]
    if detector.config.training.precision == "bf16-mixed":
        print_note("trained in bfloat16, which this processor computes with; it scores in float32")
    print_note(f"{rates_of(detector)}, from {n:,} held-out normal images")
    if detector.config.calibration.alpha is None and detector.alpha > DEFAULT_ALPHA:
        print_note(
            f"note: alpha {detector.alpha:.4g} is the smallest that {n} held-out images support; "
            f"{99 if detector.training.get('n_folds') else 3 * 99} or more normal images would support {DEFAULT_ALPHA}"
        )
    print_health(health)
    print_note(f"{run} written; next: alocc score {run} DATA --out scores.csv, or alocc report {run}")


def print_health(health: Health) -> None:
    """The verdict and its reasons, with advice."""
    style = {"good": "bold green", "doubtful": "bold yellow", "useless": "bold red"}[health.verdict]
    err.print(Text("health: ") + Text(health.verdict, style=style), soft_wrap=True)
    for finding in health.findings:
        print_note(f"  {finding.reason}; {finding.advice}")
    print_note(f"  {health.meaning}")


def print_health_warning(health: Health | None) -> None:
    """One line at each use of a detector that is not good."""
    if health and health.warning:
        print_warning(health.warning)


def print_detector(detector: Detector) -> None:
    """What a detector is, in words; hashes and all else that programs may want is in the JSON."""
    notes, weights = detector.training, detector.scorer.fusion.weights
    height, width = notes.get("original_size", detector.image_format.size)
    n, n_folds = len(detector.held_out_scores), 0 if "recalibrated_on" in notes else notes.get("n_folds")
    left_out, skipped = notes.get("n_left_out", 0), notes.get("n_skipped", 0)
    counts = f"{notes.get('n_fit', 0):,} images train, {n:,} set the threshold"
    rows = [
        ("preset", f"{detector.config.preset}, seed {detector.config.seed}"),
        ("working size", f"{detector.image_format} (width × height); the images have {width}×{height}"),
        ("trained on", str(notes.get("data", ""))),
        ("normal classes", ", ".join(notes.get("normal_classes", ()))),
        (
            "images",
            counts
            + (f", cross-fitted in {n_folds} folds" if n_folds else "")
            + (f"; {left_out:,} were left out as unusual" if left_out else "")
            + (f"; {skipped:,} could not be used" if skipped else ""),
        ),
        ("calibrated anew on", str(notes.get("recalibrated_on", ""))),
        ("threshold", f"{detector.threshold:.3f}: an image with a higher anomaly score is called an anomaly"),
        ("alpha", f"{detector.alpha:.4g}: share of normal images that are called anomalies, at most, on average"),
        ("review alpha", _review_rates(detector)),
        ("health", detector.health.verdict if detector.health else "not known; see alocc check"),
        ("parts of the score", ", ".join(f"{part} × {weight:.2g}" for part, weight in weights.items())),
        ("D was trained against", ", ".join(notes.get("negatives", ()))),
        ("changes that look normal", ", ".join(notes.get("looks_normal", ()))),
        ("D's AUROC in training", "  ".join(f"{value:.2f}" for value in notes.get("polarity", ()))),
        (
            "normal images look",
            ", ".join(f"{name} {mean:.3g} ± {by:.2g}" for name, (mean, by) in notes.get("appearance", {}).items()),
        ),
        ("written with", ", ".join(f"{name} {version}" for name, version in notes.get("versions", {}).items())),
    ]
    print_table([row for row in rows if row[1]])


def _review_rates(detector: Detector) -> str:
    if detector.review_alpha is None:
        return ""
    above = f"{detector.calibration.review_threshold:.3f}"
    return f"{detector.review_alpha:.4g}: can't tell of an image with a score above {above}, up to the threshold"


def print_versions(versions: Sequence[Version]) -> None:
    """The detectors of a run, the oldest first."""
    with_review = any(one.review_alpha is not None for one in versions)
    review_name = ("review alpha",) if with_review else ()
    titles = ("version", "date, UTC", "threshold", "alpha", *review_name, "from", "normal images")
    rows: list[tuple[str, ...]] = [titles]
    for one in versions:
        review = ("" if one.review_alpha is None else f"{one.review_alpha:.4g}",) if with_review else ()
        figures = f"{one.threshold:.3f}", f"{one.alpha:.4g}", *review
        number = "in use" if one.version is None else str(one.version)
        rows.append((number, one.date[:16], *figures, one.calibrated_on or "the training", f"{one.n_held_out:,}"))
    print_table(rows, header=True)


@contextmanager
def cell_progress(n_cells: int) -> Iterator[Callable[[Result, bool], None]]:
    """A line for each finished run of a benchmark, and a bar; without a terminal, a plain line now and then."""
    with run_progress(n_cells) as count:
        done = 0

        def show(result: Result, was_there: bool) -> None:
            nonlocal done
            done += 1
            cell = result.cell
            auroc = f"AUROC {result.figures['auroc']:.4f}" if result.figures else f"left out: {result.missing}"
            if not was_there:
                print_note(f"{done}/{n_cells}  {cell.label}, {cell.method}, seed {cell.seed}: {auroc}")
            count(done, was_there)

        yield show


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM ends a training after its iteration; before the first, after the last, or given twice, at once.

    What is given is whether to stop.

    Raises:
        StoppedError: if it stopped, with the exit code of the signal.
    """
    signals: list[int] = []
    iterating.clear()

    def stop(signum: int, frame: object) -> None:
        signals.append(signum)
        if len(signals) > 1 or not iterating.is_set():
            raise KeyboardInterrupt
        print_note("stopping after this iteration; Ctrl-C again stops at once")

    previous = {which: signal.signal(which, stop) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(signals)
    except (KeyboardInterrupt, StoppedError) as error:
        stopped = error if isinstance(error, StoppedError) else StoppedError("stopped")
        stopped.exit_code = 128 + (signals or [signal.SIGINT])[0]
        raise stopped from None
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)


def print_inspection(found: Inspection) -> None:
    """What an inspection found."""

    def some(items: Sequence[str], most: int) -> str:
        more = len(items) - most
        return ", ".join(items[:most]) + (f", {more} more" if more > 0 else "")

    rows = [("images", f"{found.n_images:,}"), ("brought to", str(found.image_format))]
    if any(found.classes):
        rows.append(("classes", ", ".join(f"{name or '(none)'} {n:,}" for name, n in sorted(found.classes.items()))))
    rows.append(("sizes", some([f"{size} ({n:,})" for size, n in found.sizes.items()], 5)))
    rows.append(("types", ", ".join(f"{kind} {n:,}" for kind, n in found.types.items())))
    rows += [("duplicates", some(group, SKIPPED_SHOWN)) for group in found.duplicates[:SKIPPED_SHOWN]]
    rows += [("flat", some(found.flat, SKIPPED_SHOWN))] if found.flat else []
    print_table(rows)


def print_warnings(warnings: Sequence[str]) -> None:
    """What to be wary of, or that there is nothing."""
    for warning in warnings:
        print_warning(warning)
    if not warnings:
        print_note("nothing to be wary of")
