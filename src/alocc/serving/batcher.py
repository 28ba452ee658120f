"""Images of many requests → batches of one model.

One thread computes. Whenever it is free, it takes whatever waits, up to what is worth computing together: alone, an
image waits for nothing; where many wait, they share a pass, and another thread decodes them while the pass before
computes. A request that would wait too long is refused at the door.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import FloatArray
from alocc.data.resizing import ImageFormat
from alocc.errors import BusyError
from alocc.scoring.stream import Engine
from alocc.serving.settings import Limits

MOST, MOST_PIXELS = 128, 2**20
"""Images that are computed together at most, and of large images their pixels."""
MEMORY = 0.8
"""What the rate that was measured before counts for, beside the newest batch."""

Pixels = NDArray[np.uint8]


class Found(NamedTuple):
    """What an engine says of n images."""

    anomaly_score: FloatArray
    p_value: FloatArray
    anomaly_map: NDArray[np.float32] | None
    """(n, H, W), if maps were asked for."""


@dataclass(eq=False)
class Work:
    """Images that somebody waits for, all for one engine."""

    engine: Engine
    n: int
    """How many there may be."""
    images: Callable[[], Sequence[Pixels]]
    """Gives them, (H, W, C) in the engine's format; those that cannot be used are left out."""
    maps: bool = False
    later: bool = False
    """Whether everybody else comes first."""
    found: Future[Found] = field(default_factory=Future)
    begun: bool = field(default=False, init=False)
    """Whether a thread prepares it, or did."""
    _prepared: Sequence[Pixels] | None = field(default=None, init=False, repr=False)
    _preparing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def prepare(self) -> Sequence[Pixels]:
        """Its images, made once, by whichever thread comes first."""
        with self._preparing:
            if self._prepared is None:
                self._prepared = self.images()
            return self._prepared

    def goes_with(self, other: Work) -> bool:
        """Whether one pass can compute both."""
        return self.engine is other.engine and self.maps == other.maps


class Batcher:
    """The queue before one model, the thread that empties it, and one that prepares what comes next.

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
        self._urgent: deque[Work] = deque()
        self._later: deque[Work] = deque()
        self._computes = self._closing = False
        lock = threading.Lock()
        self._something, self._behind = threading.Condition(lock), threading.Condition(lock)
        """There is work, or the end; there is work that the pass under way leaves time to prepare, or the end."""
        targets = {"alocc-engine": self._work, "alocc-ahead": self._prepare}
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in targets.items()]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Images of requests that were admitted and are not computed yet; while they are decoded they wait too."""
        return self._waiting

    def admit(self, n: int) -> None:
        """Count n images as waiting; work of so many images will be submitted.

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

    def submit(self, work: Work) -> Future[Found]:
        """Score images; those with maps come before all others, as somebody has waited for them already."""
        with self._something:
            if work.later:
                self._later.append(work)
            elif work.maps:
                self._urgent.appendleft(work)
            else:
                self._urgent.append(work)
                if self._computes:
                    self._behind.notify()
            self._something.notify()
        return work.found

    def close(self) -> None:
        """Compute what was submitted, and end; nothing may be submitted after this."""
        with self._something:
            self._closing = True
            self._something.notify()
            self._behind.notify()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while taken := self._take():
            self._compute(taken)
            del taken  # else the last ones, and their engine, would be here as long as nothing else comes

    def _compute(self, taken: Sequence[Work]) -> None:
        works = [work for work in taken if work.found.set_running_or_notify_cancel()]  # not those that went
        images = [(work, pixels) for work in works if (pixels := _images_of(work)) is not None]
        self._begin(taken)
        try:
            self._score(images)
        except Exception as error:
            for work, _ in images:
                if not work.found.done():
                    work.found.set_exception(error)

    def _prepare(self) -> None:
        """While the engine computes, have what waits for it decoded."""
        while work := self._next_behind():
            with suppress(Exception):  # it comes again in its turn, and is told then
                work.prepare()
            del work  # else the last one, and its engine, would be here as long as nothing else comes

    def _next_behind(self) -> Work | None:
        """Work for the next pass that nobody prepares; nothing once there will be no more."""
        with self._something:
            while not self._closing:
                if self._computes and (work := self._unprepared()):
                    work.begun = True
                    return work
                self._behind.wait()
            return None

    def _unprepared(self) -> Work | None:
        n = 0
        for work in self._urgent:
            if not (work.begun or work.found.cancelled()):
                return work
            n += work.n
            if n >= most_together(work.engine.image_format):
                break
        return None

    def _begin(self, works: Sequence[Work]) -> None:
        """Images that were admitted wait no longer, whatever became of them."""
        with self._something:
            self._computes = True
            self._behind.notify()
            self._waiting -= sum(work.n for work in works if not (work.later or work.maps))

    def _score(self, works: Sequence[tuple[Work, Sequence[Pixels]]]) -> None:
        together = [image for _, images in works for image in images]
        if not together:
            nothing = np.empty(0)
            for work, _ in works:
                work.found.set_result(Found(nothing, nothing, None))
            return
        first, start = works[0][0], time.perf_counter()
        scores = first.engine.score(np.stack(together), maps=first.maps)
        self._computes = False  # before anybody is answered
        self._learn(first.engine, len(together), time.perf_counter() - start)
        score, p_value, maps = scores.anomaly_score, scores.p_value, scores.anomaly_map
        end = 0
        for work, images in works:
            begin, end = end, end + len(images)
            found = Found(score[begin:end], p_value[begin:end], None if maps is None else maps[begin:end])
            work.found.set_result(found)

    def _take(self) -> list[Work]:
        """Whatever waits, of one kind, the oldest first; nothing once there will be no more."""
        with self._something:
            self._computes = False
            while not (queue := self._urgent or self._later):
                if self._closing:
                    return []
                self._something.wait()
            first = queue.popleft()
            taken, n, most = [first], first.n, most_together(first.engine.image_format)
            while queue and queue[0].goes_with(first) and n + queue[0].n <= most:
                n += queue[0].n
                taken.append(queue.popleft())
            for work in taken:
                work.begun = True
            return taken

    def _learn(self, engine: Engine, n: int, seconds: float) -> None:
        self._observe(n, seconds)
        if 2 * n >= most_together(engine.image_format):  # a few images alone do not show how many could be computed
            self._rate = MEMORY * self._rate + (1 - MEMORY) * n / seconds


def most_together(image_format: ImageFormat) -> int:
    """Images that are worth computing in one pass."""
    return max(1, min(MOST, MOST_PIXELS // (image_format.height * image_format.width)))


def _images_of(work: Work) -> Sequence[Pixels] | None:
    """Its images; none if they could not be made, which its result says then."""
    try:
        return work.prepare()
    except Exception as error:
        work.found.set_exception(error)
        return None


def _measured_rate(engine: Engine) -> float:
    """Images a second of a full batch, and that what a first batch takes longer is behind us."""
    most = most_together(engine.image_format)
    images = np.zeros((most, *engine.image_format), np.uint8)
    engine.score(images)
    start = time.perf_counter()
    engine.score(images)
    return most / (time.perf_counter() - start)
