"""What a long computation is doing, for whoever shows it: like a log, it need not be listened to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Listener = Callable[[str, int, int | None], None]
"""Told of a stage's name, of what is done and of what there is to do, if that is known."""
Item = TypeVar("Item")
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def stage(name: str, done: int = 0, total: int | None = None) -> None:
    """Say what is done now, to whoever listens."""
    if listener := _listener.get():
        listener(name, done, total)


def in_stage(name: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items, one after the other, each counted when it is done."""
    stage(name, 0, len(items))
    for done, item in enumerate(items, 1):
        yield item
        stage(name, done, len(items))


def counted(name: str, total: int) -> Callable[[int], None]:
    """What is told of the number of images of each finished batch, as a stage."""
    done = 0
    stage(name, 0, total)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        stage(name, done, total)

    return advance


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell this listener, and no other, within."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
