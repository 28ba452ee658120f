"""What people see: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

    from alocc.benchmark.protocols import Table as ResultsTable
    from alocc.benchmark.running import Result
    from alocc.data.inspection import Inspection
    from alocc.data.sources import Skipped
    from alocc.detector import Detector
    from alocc.evaluation.health import Health
    from alocc.evaluation.metrics import Evaluation
    from alocc.evaluation.monitoring import Drift
    from alocc.evaluation.reproduction import Comparison
    from alocc.export import Exported
    from alocc.training.loop import Moment
    from alocc.training.run import TrainingImages

DEFAULT_ALPHA = 0.01
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

PLAIN_LINE_EVERY = 10.0
SKIPPED_SHOWN = 10
SIZES_SHOWN = 5
FIGURE_NAMES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auroc": "AUROC",
    "aupr": "AUPR",
    "eer": "EER",
    "fpr95": "FPR at 95 % TPR",
    "pixel_auroc": "pixel AUROC",
    "pro": "per-region overlap",
    "pixel_f1": "pixel F1",
}


def verbatim(text: str, style: str = "") -> Text:
    """Text for a terminal as it is: brackets are no markup, and control characters of a file's name do nothing."""
    from alocc.data.entries import visible

    return Text(visible(text), style=style)


def standard_output() -> TextIO:
    """Where a table goes, line by line; names in it do nothing on a terminal."""
    return cast("TextIO", _Verbatim()) if sys.stdout.isatty() else sys.stdout


class _Verbatim(io.TextIOBase):
    def write(self, line: str) -> int:
        return sys.stdout.write(verbatim(line[:-1]).plain + line[-1:])


def print_error(message: str) -> None:
    """One line of what is wrong."""
    err.print(Text("error: ", style="bold red") + verbatim(message), soft_wrap=True)


def print_note(message: str) -> None:
    """A line for people, kept away from results."""
    err.print(verbatim(message), soft_wrap=True)


def print_json(value: Any) -> None:
    """A result for programs. Infinite and undefined figures become null: JSON has no word for them."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False))


def print_skipped(skipped: Sequence[Skipped]) -> None:
    """Name the images that could not be used."""
    if not skipped:
        return
    err.print(Text(f"{len(skipped)} image{'s' * (len(skipped) > 1)} could not be used:", style="yellow"))
    for item in skipped[:SKIPPED_SHOWN]:
        err.print(verbatim(f"  {item.reason}"), soft_wrap=True)
    if len(skipped) > SKIPPED_SHOWN:
        err.print(Text(f"  and {len(skipped) - SKIPPED_SHOWN} more"))


def print_seen(n_seen: int) -> None:
    """Warn of images that the detector knows from its training."""
    if n_seen:
        print_note(
            f"warning: {n_seen:,} of these images were trained or calibrated on; they look more normal than fresh ones"
        )


def print_training_start(images: TrainingImages, again: bool) -> None:
    """What will be trained on."""
    if again:
        print_note("this training is finished already; training it again")
    facts = images.summary
    print_note(
        f"{len(images.normals):,} normal images, {images.image_format}: "
        + (
            f"{facts['n_fit']:,} train, {facts['n_held_out']:,} set the threshold, by turns in {facts['n_folds']} folds"
            if facts["n_folds"]
            else f"{facts['n_fit']:,} train, {facts['n_held_out']:,} are held out for the threshold"
        )
        + (f", {facts['n_left_out']:,} are left out as unusual" if facts["n_left_out"] else "")
    )
    print_skipped(images.normals.skipped)


def print_training_end(detector: Detector, run: Path, health: Health) -> None:
    """Where the threshold is, how well the detector is, and where."""
    n = detector.training["n_held_out"]
    if detector.config.training.precision == "bf16-mixed":
        print_note("trained in bfloat16, which this processor computes with; it scores in float32")
    print_note(f"threshold {detector.threshold:.3f} at alpha {detector.alpha:.4g}, from {n:,} held-out normal images")
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
        err.print(verbatim(f"  {finding.reason}; {finding.advice}"), soft_wrap=True)


def health_table(health: Health) -> Table:
    """What was measured."""
    measures = health.measures
    table = facts_table()
    for name, value in measures.probes.items():
        table.add_row(f"AUROC on {name} images", f"{value:.3f}")
    for name, value in measures.unseen_kinds.items():
        table.add_row(f"AUROC on normal images {name.replace('_', ' ')}", f"{value:.3f}")
    table.add_row("mean over these kinds", f"{measures.unseen_mean:.3f}")
    if measures.polarity:
        table.add_row("AUROC of D through training", "  ".join(f"{value:.2f}" for value in measures.polarity))
        table.add_row("share of D in the score", f"{measures.d_weight:.2f}")
    if measures.same_as_held_out is not None:
        table.add_row(f"{measures.n_fresh} fresh images score as held-out ones", f"p = {measures.same_as_held_out:.3g}")
    if measures.shift is not None:
        table.add_row("squared distance of fresh and training images' means", f"{max(0.0, measures.shift):.2f}")
    if measures.stability is not None:
        table.add_row("rank correlation with a second seed", f"{measures.stability:.2f}")
    table.add_row("held-out normal images", str(measures.n_held_out))
    return table


def print_resumed(done: int) -> None:
    """Where a stopped training goes on."""
    print_note(f"going on from iteration {done:,}, where it was stopped")


def _per_second(speed: float) -> str:
    return f"{speed:.1f}/s" if speed < 10 else f"{speed:,.0f}/s"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_per_second(speed) if speed else "", style="cyan")


def _bar() -> Progress:
    losses = TextColumn("{task.fields[note]}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(), "left", TimeRemainingColumn(), losses)
    return Progress("{task.description:<14}", *columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def training_progress() -> Iterator[Callable[[Moment], None]]:
    """A bar with rate, time left and losses; without a terminal, a plain line now and then."""
    with _bar() as bar:
        task = bar.add_task("training", total=None, note="")
        last_line = began = 0.0
        first = 0

        def show(moment: Moment) -> None:
            nonlocal last_line, began, first
            now = time.monotonic()
            if not began:
                last_line = began = now
                first = moment.iteration
            losses = "  ".join(f"{name} {value:.3f}" for name, value in moment.losses.items())
            bar.update(task, description=moment.phase, total=moment.planned, completed=moment.iteration, note=losses)
            if not err.is_terminal and now - last_line > PLAIN_LINE_EVERY:
                last_line = now
                speed = (moment.iteration - first) / (now - began)
                done = f"{moment.phase} {moment.iteration:,}/{moment.planned:,}  {_per_second(speed)}"
                print_note(f"{done}  {(moment.planned - moment.iteration) / speed:.0f} s left  {losses}")

        yield show


@contextmanager
def image_progress(description: str, n_images: int | None) -> Iterator[Callable[[int], None]]:
    """A bar over images; without a terminal, a plain line now and then."""
    with _bar() as bar:
        task = bar.add_task(description, total=n_images, note="")
        done, began, last_line = 0, time.monotonic(), time.monotonic()

        def advance(n_done: int) -> None:
            nonlocal done, last_line
            done += n_done
            bar.advance(task, n_done)
            now = time.monotonic()
            if not err.is_terminal and now - last_line > PLAIN_LINE_EVERY:
                last_line, speed = now, done / (now - began)
                left = f"  {(n_images - done) / speed:.0f} s left" if n_images else ""
                print_note(f"{description} {done:,}{f'/{n_images:,}' if n_images else ''}  {_per_second(speed)}{left}")

        yield advance


@contextmanager
def cell_progress(n_cells: int) -> Iterator[Callable[[Result, bool], None]]:
    """A bar over the runs of a benchmark; without a terminal, a line for each."""
    with _bar() as bar:
        task = bar.add_task("benchmark", total=n_cells, note="")
        done = 0

        def show(result: Result, was_there: bool) -> None:
            nonlocal done
            done += 1
            cell = result.cell
            auroc = f"AUROC {result.figures['auroc']:.4f}" if result.figures else f"left out: {result.missing}"
            note = verbatim(f"{cell.label}, {cell.method}, seed {cell.seed}: {auroc}").plain
            bar.update(task, completed=done, note=note)
            if not err.is_terminal and not was_there:
                print_note(f"{done}/{n_cells}  {note}")

        yield show


def results_table(table: ResultsTable) -> Table:
    """A protocol's table, turned: classes or sets go down, methods across."""
    columns, rows = list(table.columns), dict(table.rows)
    shown = Table(title=verbatim(table.title), title_justify="left")
    shown.add_column("")
    for method in rows:
        shown.add_column(verbatim(method), justify="right")
    for index, column in enumerate(columns):
        values = [row[index] for row in rows.values()]
        shown.add_row(verbatim(column), *("" if value is None else f"{value:.4f}" for value in values))
    return shown


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, or a polite kill, asks to stop in good order; a second Ctrl-C stops at once."""
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, previous)
        print_note("stopping after this iteration; Ctrl-C again stops at once")

    previous = signal.signal(signal.SIGINT, ask)
    terminated = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, terminated)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:  # noqa: PLR0124
        return value
    return None if isinstance(value, float) else value


def evaluation_table(evaluation: Evaluation) -> Table:
    """Figures with their intervals; the operating point first."""
    table = Table(
        title=f"{evaluation.n_normal:,} normal and {evaluation.n_anomalous:,} anomalous images",
        title_justify="left",
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")

    def add(label: str, value: float, interval: tuple[float, float] | None = None) -> None:
        table.add_row(label, f"{value:.4f}", f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else "")

    groups = {
        f"at the detector's threshold (alpha {evaluation.alpha:g})": ("accuracy", "precision", "recall", "f1"),
        "over all thresholds": ("auroc", "aupr", "eer", "fpr95"),
    }
    for title, names in groups.items():
        table.add_row(Text(title, style="bold"))
        for name in names:
            add(f"  {FIGURE_NAMES[name]}", evaluation.figures[name], evaluation.intervals.get(name))
    if evaluation.pixels:
        table.add_row(Text("maps against masks", style="bold"))
    for name, value in evaluation.pixels.items():
        add(f"  {FIGURE_NAMES[name]}", value)
    table.add_row(Text("with normal as the positive class", style="bold"))
    for name, value in evaluation.normal_as_positive.items():
        add(f"  {FIGURE_NAMES[name]}", value, evaluation.intervals.get(f"normal_as_positive.{name}"))
    table.add_row(Text("tuned on these labels, so out of reach", style="bold"))
    best = "tuned_on_test.best_f1"
    add("  best F1", evaluation.tuned_on_test["best_f1"], evaluation.intervals.get(best))
    table.add_row(Text("AUROC of each part of the score", style="bold"))
    for name, value in evaluation.auroc_of_parts.items():
        add(f"  {name}", value)
    return table


def facts_table() -> Table:
    """Two columns without a frame."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def comparison_table(comparison: Comparison) -> Table:
    """A reproduction beside the claim."""
    table = Table(title="the article's experiment", title_justify="left")
    for column in ("", "accuracy", "F1", "AUROC"):
        table.add_column(column, justify="left" if not column else "right")
    for row in comparison.rows:
        table.add_row(row.label, *("" if value is None else f"{value:.3f}" for value in row.values))
    return table


def inspection_table(found: Inspection) -> Table:
    """What a look at images found."""
    table = facts_table()
    table.add_row("images", f"{found.n_images:,}")
    table.add_row("brought to", str(found.image_format))
    if any(found.classes):
        classes = ", ".join(f"{name or '(none)'} {n:,}" for name, n in sorted(found.classes.items()))
        table.add_row("classes", verbatim(classes))
    shown = list(found.sizes.items())[:SIZES_SHOWN]
    more = len(found.sizes) - len(shown)
    table.add_row("sizes", ", ".join(f"{size} ({n:,})" for size, n in shown) + (f", {more} more" if more else ""))
    table.add_row("types", ", ".join(f"{of_type} {n:,}" for of_type, n in found.types.items()))
    for title, group in (*(("duplicates", group) for group in found.duplicates[:SKIPPED_SHOWN]), ("flat", found.flat)):
        more = len(group) - SKIPPED_SHOWN
        if group:
            names = ", ".join(group[:SKIPPED_SHOWN]) + (f", {more} more" if more > 0 else "")
            table.add_row(title, verbatim(names))
    return table


def print_warnings(warnings: Sequence[str]) -> None:
    """What to be wary of, or that there is nothing."""
    for warning in warnings:
        err.print(Text("warning: ", style="bold yellow") + verbatim(warning), soft_wrap=True)
    if not warnings:
        print_note("nothing to be wary of")


def drift_table(drift: Drift) -> Table:
    """Window by window."""
    table = Table()
    for column in ("from", "to", "images", "mean p-value", f"share of p ≤ {drift.alpha:g}", "p of no change"):
        table.add_column(column, justify="left" if column in ("from", "to") else "right", overflow="fold")
    for window in drift.windows:
        shown = (f"{window.mean_p_value:.2f}", f"{window.share_of_anomalies:.3f}", f"{window.p_same:.2g}")
        table.add_row(verbatim(window.first), verbatim(window.last), str(window.n_images), *shown)
    return table


def print_drift(drift: Drift) -> None:
    """The verdict on a stream."""
    if drift.has_drifted:
        print_note(
            "the images have changed: their scores are not those of the held-out images. If these are normal, "
            "calibrate or train again; if not, look at the most anomalous ones"
        )
    else:
        print_note("no sign of a change")


def export_facts(written: Exported) -> dict[str, Any]:
    """What was exported, for programs."""
    return {
        "out": str(written.path),
        "n_bytes": written.n_bytes,
        "parity": written.parity._asdict() if written.parity else None,
        "shift": written.shift._asdict() if written.shift else None,
    }


def print_export(written: Exported) -> None:
    """What was exported, and how near it is to the detector."""
    if written.parity:
        nearness = (
            f"its scores are the detector's to {written.parity.difference:.1g}, on {written.parity.n_images:,} images "
            "of several kinds"
        )
    else:
        assert written.shift is not None
        shift = written.shift
        nearness = (
            f"8 bits moved the scores of {shift.n_images:,} normal images by {shift.mean_difference:.2g} "
            f"on average (rank correlation {shift.spearman:.3f}); the threshold is from these images"
        )
    print_note(f"{written.path} written ({written.n_bytes / 1e6:.1f} MB); {nearness}")
