"""Progress on standard error: bars with rate and time left, for the command line and for Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

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

err = Console(stderr=True, highlight=False)
iterating = threading.Event()  # set from a training's first iteration to its last: only then is it asked to stop
PLAIN_LINE_EVERY = 10.0


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


@contextmanager
def _bar_or_lines() -> Iterator[Callable[[str, int, int | None, str], None]]:
    """A bar; without a terminal, a plain line now and then. Rate and time left count from the first call on."""
    with open_bar() as bar:
        task = bar.add_task("", total=None, note="")
        began = last_line = 0.0
        first = 0

        def show(description: str, done: int, total: int | None, note: str) -> None:
            nonlocal began, last_line, first
            now = time.monotonic()
            if not began:
                began, last_line, first = now, now, done
            bar.update(task, description=description, total=total, completed=done, note=note)
            if not err.is_terminal and now - last_line > PLAIN_LINE_EVERY:
                last_line, speed = now, (done - first) / (now - began)
                of_all, left = (
                    (f"/{total:,}", f"  {(total - done) / speed:.0f} s left") if total and speed else ("", "")
                )
                print_note(f"{description} {done:,}{of_all}  {per_second(speed)}{left}{note and '  ' + note}")

        yield show


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
def image_progress(description: str, n_images: int | None) -> Iterator[Callable[[int], None]]:
    """A bar over images; without a terminal, a plain line now and then."""
    done = 0
    with _bar_or_lines() as show:

        def advance(n_done: int) -> None:
            nonlocal done
            done += n_done
            show(description, done, n_images, "")

        advance(0)
        yield advance
