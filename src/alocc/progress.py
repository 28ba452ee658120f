"""Progress on standard error: bars with rate and time left, for the command line and for Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

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
iterating = threading.Event()
"""Set from a training's first iteration to its last: only then does somebody ask whether to stop."""
PLAIN_LINE_EVERY = 10.0


class Moment(Protocol):
    """Where a training stands; see :class:`alocc.training.loop.Moment`."""

    @property
    def phase(self) -> str: ...
    @property
    def iteration(self) -> int: ...
    @property
    def planned(self) -> int: ...
    @property
    def losses(self) -> Mapping[str, float]: ...


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
def training_progress() -> Iterator[Callable[[Moment], None]]:
    """A bar with rate, time left and losses; without a terminal, a plain line now and then."""
    with open_bar() as bar:
        task = bar.add_task("training", total=None, note="")
        last_line = began = 0.0
        first = 0

        def show(moment: Moment) -> None:
            nonlocal last_line, began, first
            (iterating.set if moment.iteration < moment.planned else iterating.clear)()
            now = time.monotonic()
            if not began:
                last_line = began = now
                first = moment.iteration
            losses = "  ".join(f"{name} {value:.3f}" for name, value in moment.losses.items())
            bar.update(task, description=moment.phase, total=moment.planned, completed=moment.iteration, note=losses)
            if not err.is_terminal and now - last_line > PLAIN_LINE_EVERY:
                last_line = now
                speed = (moment.iteration - first) / (now - began)
                done = f"{moment.phase} {moment.iteration:,}/{moment.planned:,}  {per_second(speed)}"
                print_note(f"{done}  {(moment.planned - moment.iteration) / speed:.0f} s left  {losses}")

        yield show


@contextmanager
def image_progress(description: str, n_images: int | None) -> Iterator[Callable[[int], None]]:
    """A bar over images; without a terminal, a plain line now and then."""
    with open_bar() as bar:
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
                print_note(f"{description} {done:,}{f'/{n_images:,}' if n_images else ''}  {per_second(speed)}{left}")

        yield advance
