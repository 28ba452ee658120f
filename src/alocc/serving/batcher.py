"""Images of many requests → batches of one model.

One thread computes. Whenever it is free, it takes whatever waits, up to what is worth computing together: alone, an
image waits for nothing; where many wait, they share a pass. A request that would wait too long is refused at the door.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alocc.data.resizing import ImageFormat
from alocc.errors import BusyError
from alocc.scores import Scores
from alocc.scoring.stream import Engine
from alocc.serving.settings import Limits

MOST, MOST_PIXELS = 128, 2**20
"""Images that are computed together at most, and of large images their pixels."""
MEMORY = 0.8
"""What the rate that was measured before counts for, beside the newest batch."""

Pixels = NDArray[np.uint8]


@dataclass
class _Ticket:
    """Images (H, W, C) that somebody waits for."""

    engine: Engine
    images: Sequence[Pixels]
    maps: bool
    scores: Future[Scores] = field(default_factory=Future)

    def goes_with(self, other: _Ticket) -> bool:
        """Whether one pass can compute both."""
        return self.engine is other.engine and self.maps == other.maps


class Batcher:
    """The queue before one model, and the thread that empties it.

    Whoever submits says which engine computes: the model's file may be replaced while images wait.

    Args:
        engine: the model's, to measure how fast it is.
        limits: how many images may wait, and how long.
        observe: told of the images and the seconds of each batch.
    """

    def __init__(
        self, engine: Engine, limits: Limits, observe: Callable[[int, float], None] = lambda n, seconds: None
    ) -> None:
        self._limits, self._observe = limits, observe
        self._rate = _measured_rate(engine)
        self._waiting = 0
        self._urgent: deque[_Ticket] = deque()
        self._later: deque[_Ticket] = deque()
        self._closing = False
        self._something = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="alocc-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images of requests that were admitted and are not computed yet, those being decoded included."""
        return self._waiting

    def admit(self, n: int) -> None:
        """Count n images as waiting, before they are decoded; each is submitted or released later.

        Where nothing waits, whatever comes is admitted.

        Raises:
            BusyError: if too many wait already, or they would wait too long.
        """
        with self._something:
            seconds = self._waiting / self._rate
            too_many = self._waiting + n > self._limits.queue or seconds * 1000 > self._limits.latency_ms
            if self._waiting and too_many:
                raise BusyError(max(1, math.ceil(seconds)))
            self._waiting += n

    def release(self, n: int) -> None:
        """Images that were admitted will not come: they cannot be used."""
        with self._something:
            self._waiting -= n

    def submit(self, engine: Engine, images: Sequence[Pixels]) -> Future[Scores]:
        """Score images that were admitted, (H, W, C) each, in the engine's format."""
        return self._put(self._urgent.append, _Ticket(engine, images, maps=False))

    def submit_for_maps(self, engine: Engine, images: Sequence[Pixels]) -> Future[Scores]:
        """Score images again, with maps; before all others, as somebody has waited for them already."""
        return self._put(self._urgent.appendleft, _Ticket(engine, images, maps=True))

    def submit_later(self, engine: Engine, images: Sequence[Pixels], *, maps: bool = False) -> Future[Scores]:
        """Score images when nobody else waits."""
        return self._put(self._later.append, _Ticket(engine, images, maps))

    def close(self) -> None:
        """Compute what was submitted, and end; nothing may be submitted after this."""
        with self._something:
            self._closing = True
            self._something.notify()
        self._thread.join()

    def _put(self, append: Callable[[_Ticket], None], ticket: _Ticket) -> Future[Scores]:
        with self._something:
            append(ticket)
            self._something.notify()
        return ticket.scores

    def _work(self) -> None:
        while tickets := self._take():
            images = np.stack([image for ticket in tickets for image in ticket.images])
            start = time.perf_counter()
            try:
                scores = tickets[0].engine.score(images, maps=tickets[0].maps)
            except Exception as error:
                for ticket in tickets:
                    ticket.scores.set_exception(error)
                continue
            self._learn(tickets[0].engine, len(images), time.perf_counter() - start)
            first = 0
            for ticket in tickets:
                last = first + len(ticket.images)
                ticket.scores.set_result(scores[first:last])
                first = last

    def _take(self) -> list[_Ticket]:
        """Whatever waits, of one kind, the oldest first; nothing once there will be no more."""
        with self._something:
            while not (queue := self._urgent or self._later):
                if self._closing:
                    return []
                self._something.wait()
            first = queue.popleft()
            taken, n, most = [first], len(first.images), most_together(first.engine.image_format)
            while queue and queue[0].goes_with(first) and n + len(queue[0].images) <= most:
                n += len(queue[0].images)
                taken.append(queue.popleft())
            if queue is self._urgent and not first.maps:
                self._waiting -= n
            return taken

    def _learn(self, engine: Engine, n: int, seconds: float) -> None:
        self._observe(n, seconds)
        if 2 * n >= most_together(engine.image_format):  # a few images alone do not show how many could be computed
            self._rate = MEMORY * self._rate + (1 - MEMORY) * n / seconds


def most_together(image_format: ImageFormat) -> int:
    """Images that are worth computing in one pass."""
    return max(1, min(MOST, MOST_PIXELS // (image_format.height * image_format.width)))


def _measured_rate(engine: Engine) -> float:
    """Images a second of a full batch, and that what a first batch takes longer is behind us."""
    most = most_together(engine.image_format)
    images = np.zeros((most, *engine.image_format), np.uint8)
    engine.score(images)
    start = time.perf_counter()
    engine.score(images)
    return most / (time.perf_counter() - start)
