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
    TimeRemainingColumn,
)
from rich.text import Text

from alocc.stages import listening

err = Console(stderr=True, highlight=False)
iterating = threading.Event()  # set from a training's first iteration to its last: only then is it asked to stop
PLAIN_LINE_EVERY = 4.0


Moment = tuple[str, int, int, Mapping[str, float]]
"""Phase, iterations done and planned, and losses of a training: :class:`alocc.training.loop.Moment`."""


def plain(message: str, style: str = "") -> Text:
    """Text as it is: brackets in file names are no markup, and what is not printable is escaped."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message), style)


def print_note(message: str) -> None:
    """A line for people, kept away from results."""
    err.print(plain(message), soft_wrap=True)


def per_second(speed: float) -> str:
    """A rate as text."""
    return f"{speed:.1f}/s" if speed < 10 else f"{speed:,.0f}/s"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(per_second(speed) if speed else "", style="cyan")


def open_bar() -> Progress:
    """A bar on standard error, if that is a terminal."""
    losses = TextColumn("{task.fields[note]}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(), "left", TimeRemainingColumn(), losses)
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

    def line(self, now: float) -> str:
        """One plain line."""
        n, seconds = self.done - self.first, max(now - self.began, 1e-3)
        if self.total and self.done >= self.total:  # what comes next has not said so
            return f"{self.description} {self.done:,}/{self.total:,}, finishing  {seconds:.0f} s"
        rate = per_second(n / seconds) if n else f"{seconds:.0f} s"
        of_all = f" {self.done:,}/{self.total:,}" if self.total else f" {self.done:,}" if self.done else ""
        left = f"  {(self.total - self.done) * seconds / n:.0f} s left" if self.total and n else ""
        return f"{self.description}{of_all}  {rate}{left}{self.note and '  ' + self.note}"


@contextmanager
def _bar_or_lines() -> Iterator[Callable[[str, int, int | None, str], None]]:
    """A bar; without a terminal, a plain line now and then, also while nothing new is told.

    Rate and time left count from when a description is first shown. Stages that are not told of here are shown as well.
    """
    with open_bar() as bar:
        task = bar.add_task("", total=None, note="")
        shown: _Shown | None = None

        def show(description: str, done: int, total: int | None, note: str) -> None:
            nonlocal shown
            if not shown or shown.description != description:
                bar.reset(task)
                shown = _Shown(description, done, total, note, done, time.monotonic())
            shown = shown._replace(done=done, total=total, note=note)
            bar.update(task, description=description, total=total, completed=done, note=note)

        def show_stage(name: str, done: int, total: int | None) -> None:
            iterating.clear()
            show(name, done, total, "")

        def print_lines() -> None:
            while not ended.wait(PLAIN_LINE_EVERY):
                if (now := shown) is not None:
                    print_note(now.line(time.monotonic()))

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
            phase, done, planned, losses = moment
            (iterating.set if done < planned else iterating.clear)()
            show(phase, done, planned, "  ".join(f"{name} {value:.3f}" for name, value in losses.items()))

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
def stage_progress() -> Iterator[None]:
    """A bar over whatever stages a computation says that it is in."""
    with _bar_or_lines():
        yield
