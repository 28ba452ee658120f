"""Rows as they are scored → whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from alocc.serving.history import ImageRow

MOST = 256
"""Rows that wait for a watcher; one that is slower misses the oldest."""


class Feed:
    """The last rows, told to watchers of one event loop."""

    def __init__(self) -> None:
        self._watchers: dict[asyncio.Queue[ImageRow | None], asyncio.AbstractEventLoop] = {}
        self.closed = False

    def publish(self, rows: Sequence[ImageRow]) -> None:
        """Tell everybody who watches; any thread may."""
        for queue, loop in tuple(self._watchers.items()):
            loop.call_soon_threadsafe(_put, queue, rows)

    async def watch(self, patience: float) -> AsyncIterator[ImageRow | None]:
        """Rows from now on, and none whenever nothing came for so many seconds; until the feed is closed."""
        queue: asyncio.Queue[ImageRow | None] = asyncio.Queue(MOST)
        self._watchers[queue] = asyncio.get_running_loop()
        try:
            while not self.closed:
                try:
                    row = await asyncio.wait_for(queue.get(), patience)
                except TimeoutError:
                    row = None
                if not self.closed:
                    yield row
        finally:
            del self._watchers[queue]

    def close(self) -> None:
        """Let everybody go who watches."""
        self.closed = True
        for queue, loop in tuple(self._watchers.items()):
            loop.call_soon_threadsafe(_put, queue, (None,))


def _put(queue: asyncio.Queue[ImageRow | None], rows: Sequence[ImageRow | None]) -> None:
    for row in rows:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(row)
