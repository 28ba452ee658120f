"""Progress on standard error: bars with rate and time left, for the command line and for Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from alocc.stages import listening

err = Console(stderr=True, highlight=False)
iterating = threading.Event()  # set from a training's first iteration to its last: only then is it asked to stop
PLAIN_LINE_EVERY = 2.0  # the first one too: what is wrong with the input shows alone, as a rule
FEW = 20
"""Items from which they are taken to cost the same, so that their number tells the time left."""
SURE = 15.0
"""Seconds left from which an estimate is shown that nothing measures any more."""

Moment = tuple[str, int, int, Mapping[str, float], float, float]
"""Phase, iterations done, planned, losses, iterations left at the cost of the present ones, and seconds that come after
them: :class:`alocc.training.loop.Moment`."""


def plain(message: str, style: str = "") -> Text:
    """Text as it is: brackets in file names are no markup, and what is not printable is escaped."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message), style)


def print_note(message: str) -> None:
    """A line for people, kept away from results."""
    err.print(plain(message), soft_wrap=True)


def per_second(speed: float) -> str:
    """A rate as text."""
    return f"{speed:.1f}/s" if speed < 10 else f"{speed:,.0f}/s"


def about(seconds: float) -> str:
    """A time that is left as text, no more exact than it can be known."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 55:
        return f"about {5 * round(seconds / 5)} s"
    return f"about {round(seconds / 60) or 1} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text(left() if left else "", style="cyan")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(per_second(speed) if speed else "", style="cyan")


def open_bar() -> Progress:
    """A bar on standard error, if that is a terminal."""
    losses = TextColumn("{task.fields[note]}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(), _Left(), losses)
    return Progress("{task.description:<14}", *columns, console=err, transient=True, disable=not err.is_terminal)


class _Shown(NamedTuple):
    """What is shown at one moment."""

    description: str
    done: int
    total: int | None
    note: str
    first: int
    """What was done already when it began."""
    began: float
    left: float | None = None
    """What is left to do, at the cost of what is done now; none: the rest of the total."""
    later: float = 0.0
    """Seconds that come after that."""
    ends: float = 0.0
    """When all ends, as was estimated before this began."""

    def time_left(self, now: float) -> str:
        """What is left, as text; nothing where that is not known."""
        n, seconds = self.done - self.first, max(now - self.began, 1e-3)
        if self.left is None and self.ends - now > SURE:
            return f"{about(self.ends - now)} left"
        if (
            not self.total
            or not n
            or (self.left is None and self.done >= self.total)
            or (self.left is None and self.total < FEW)
        ):
            return ""
        left = self.total - self.done if self.left is None else self.left
        return f"{about(left * seconds / n + self.later)} left"

    def line(self, now: float) -> str:
        """One plain line."""
        n, seconds = self.done - self.first, max(now - self.began, 1e-3)
        left = f"  {text}" if (text := self.time_left(now)) else ""
        if self.total and self.total < FEW and self.left is None:
            return f"{self.description} {self.done} of {self.total}  {seconds:.0f} s{left}"
        if self.total and self.done >= self.total:  # what comes next has not said so
            return f"{self.description} {self.done:,}/{self.total:,}, finishing  {seconds:.0f} s{left}"
        rate = per_second(n / seconds) if n else f"{seconds:.0f} s"
        of_all = f" {self.done:,}/{self.total:,}" if self.total else f" {self.done:,}" if self.done else ""
        return f"{self.description}{of_all}  {rate}{left}{self.note and '  ' + self.note}"


@contextmanager
def _bar_or_lines(first: str = "starting") -> Iterator[Callable[..., None]]:
    """A bar; without a terminal, a plain line now and then, also while nothing new is told.

    It is given a name, what is done, the total, a note, and :class:`_Shown`'s ``left`` and ``later``. Rate and
    time left count from when a description is first shown. Stages that are not told of here are shown as well.
    """
    with open_bar() as bar:
        shown = _Shown(first, 0, None, "", 0, time.monotonic())
        task = bar.add_task(first, total=None, note="", left=lambda: shown.time_left(time.monotonic()))

        def show(
            description: str, done: int, total: int | None, note: str, left: float | None = None, later: float = 0.0
        ) -> None:
            nonlocal shown
            now = time.monotonic()
            if shown.description != description:
                bar.reset(task)
                shown = _Shown(description, done, total, note, done, now, ends=shown.ends)
            shown = shown._replace(done=done, total=total, note=note, left=left, later=later)
            if left is not None and (n := done - shown.first):
                shown = shown._replace(ends=now + left * (now - shown.began) / n + later)
            bar.update(task, description=description, total=total, completed=done, note=note)

        def show_stage(name: str, done: int, total: int | None) -> None:
            iterating.clear()
            show(name, done, total, "")

        def print_lines() -> None:
            while not ended.wait(PLAIN_LINE_EVERY):
                print_note(shown.line(time.monotonic()))

        ended = threading.Event()
        lines = threading.Thread(target=print_lines, daemon=True)
        if not err.is_terminal:
            lines.start()
        try:
            with listening(show_stage):
                yield show
        finally:
            ended.set()
            if lines.is_alive():
                lines.join()


@contextmanager
def training_progress() -> Iterator[Callable[[Moment], None]]:
    """A bar with rate, time left and losses; without a terminal, a plain line now and then."""
    with _bar_or_lines() as show:

        def show_moment(moment: Moment) -> None:
            phase, done, planned, losses, left, later = moment
            (iterating.set if done < planned else iterating.clear)()
            show(phase, done, planned, "  ".join(f"{name} {value:.3f}" for name, value in losses.items()), left, later)

        yield show_moment


@contextmanager
def image_progress(description: str, n_images: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar over images, some of which may be done; without a terminal, a plain line now and then."""
    with _bar_or_lines() as show:

        def advance(n_done: int) -> None:
            nonlocal done
            done += n_done
            show(description, done, n_images, "")

        advance(0)
        yield advance


@contextmanager
def run_progress(n_runs: int) -> Iterator[Callable[[int, bool], None]]:
    """A bar over the runs of a benchmark, some of which may be there already; without a terminal, plain lines.

    What is given takes how many are done, and whether the last was there. The stages within a run do not show.
    """
    with _bar_or_lines("runs") as show, listening(lambda *_: None):

        def count(done: int, was_there: bool) -> None:
            show("runs done before" if was_there else "runs", done, n_runs, "")  # their time is not known

        show("runs", 0, n_runs, "")
        yield count


@contextmanager
def stage_progress() -> Iterator[None]:
    """A bar over whatever stages a computation says that it is in."""
    with _bar_or_lines("working"):
        yield
