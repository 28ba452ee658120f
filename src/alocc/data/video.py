"""Frames of a video file, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.errors import ConfigError, DataError

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")


def frames(path: Path, stride: int = 1) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Every ``stride``-th frame, from the first on: its time in seconds, and the image (H, W, 3) or (H, W).

    Raises:
        DataError: if the file is no video, or damaged: after the frames before the damage.
        ConfigError: if PyAV is not installed.
    """
    av = _library()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} has no pictures in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % stride == 0:
                    grey = frame.format.name.startswith("gray")
                    time = frame.time if frame.time is not None else number / float(stream.average_rate or 25)
                    yield float(time), frame.to_ndarray(format="gray" if grey else "rgb24")
    except av.FFmpegError as error:
        raise DataError(f"{path} cannot be read as a video ({error.strerror or error})") from None


def time_stamp(seconds: float) -> str:
    """0:01:02.345."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 1000:06.3f}"


def _library() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigError("video needs PyAV; install it with: pip install 'alocc[video]'") from None
    return av
