"""Whether work can be done, looked at seldom however many ask: a look writes to the disk and asks the database."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 1.0
"""For which the last look holds."""


class Readiness:
    """What keeps a server from working. One look at a time, for everybody who asks meanwhile; of one event loop.

    Args:
        look: gives the problems; it may wait, as it is called in another thread.
    """

    def __init__(self, look: Callable[[], list[str]]) -> None:
        self._look = look
        self._looking: asyncio.Task[list[str]] | None = None
        self._until = -math.inf

    async def problems(self) -> list[str]:
        """A line each; none if all is well."""
        if self._looking is None or (self._looking.done() and time.monotonic() >= self._until):
            self._looking = asyncio.create_task(self._looked())
        return await asyncio.shield(self._looking)  # whoever asked may go away

    async def _looked(self) -> list[str]:
        try:
            return await asyncio.to_thread(self._look)
        finally:
            self._until = time.monotonic() + SECONDS


def can_write(folder: Path) -> bool:
    """Whether a folder, and the disk it is on, takes a few thousand bytes."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError:
        return False
    return True
