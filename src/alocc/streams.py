"""Standard output and standard error of a command, and what happens if they cannot be written."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alocc.errors import AloccError


class OutputError(AloccError):
    """Standard output cannot be written."""


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"standard output cannot be written ({error.strerror or error})") from None


@contextmanager
def standard_streams() -> Iterator[None]:
    """Run a command: SIGTERM lets it tidy up, and output that cannot be written is an OutputError.

    It exits with code 1, silently, if whoever reads standard output has seen enough.
    """
    output, terminate = sys.stdout, signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if output is None:  # closed: writing must fail, not vanish
        sys.stdout = _text(os.open(os.devnull, os.O_RDONLY), "utf-8")
    elif isinstance(output, io.TextIOWrapper) and output is sys.__stdout__:
        sys.stdout = _text(output.fileno(), output.encoding, output.line_buffering)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (OutputError, BrokenPipeError) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again at the end
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        raise
    finally:
        sys.stdout.flush()
        sys.stdout = output
        signal.signal(signal.SIGTERM, terminate)


def _text(descriptor: int, encoding: str, line_buffering: bool = False) -> io.TextIOWrapper:
    raw = io.BufferedWriter(_Output(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(raw, encoding, line_buffering=line_buffering)
