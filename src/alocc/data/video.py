"""Frames of a video file, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.errors import ConfigError, DataError

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")


def frames(path: Path, stride: int = 1, where: str = "") -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Every ``stride``-th frame, from the first on: its time in seconds, and the image (H, W, 3) or (H, W), upright.

    A DataError if the file is no video, damaged, or shorter than it says: after the frames before that. A ConfigError
    if PyAV is not installed.
    """
    where = where or str(path)  # the path may be that of a copy
    try:
        import av
    except ImportError:
        raise ConfigError("video needs PyAV; install it with: pip install av") from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{where} has no pictures in it")
            stream: Any = container.streams.video[0]
            stream.thread_type = "AUTO"
            interval, time, lasts = 1 / float(stream.average_rate or 25), 0.0, 0.0
            for number, frame in enumerate(_decode(container, stream)):
                if frame is None:
                    raise DataError(f"{where} is damaged after {time_stamp(time)}")
                time = number * interval if frame.pts is None else float(frame.pts * stream.time_base)
                if number % stride == 0:
                    grey = frame.format.name.startswith("gray")
                    yield time, _turn_upright(frame.to_ndarray(format="gray" if grey else "rgb24"), frame)
                lasts = float(frame.duration * stream.time_base) if frame.duration else interval
            known = float(stream.duration * stream.time_base) if stream.duration else 0.0
            length = known or (container.duration or 0) / av.time_base  # 0 where a file does not say
            # where there is sound, it may go on for a moment behind the last frame
            if length - time - lasts > (1 if container.streams.audio else 2 * interval):
                raise DataError(f"{where} ends at {time_stamp(time)}, and should last {time_stamp(length)}")
    except av.FFmpegError as error:
        raise DataError(f"{where} cannot be read as a video ({error.strerror or error})") from None


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Frames, and None behind the last one before damage."""
    for packet in container.demux(stream):
        for frame in stream.decode(None if packet.is_corrupt else packet):  # None: what the decoder still holds
            if frame.is_corrupt:
                yield None
            yield frame
        if packet.is_corrupt:
            yield None


def _turn_upright(image: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """A frame as its display matrix turns and mirrors it: column, row → a · column + c · row, b · column + d · row."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist() if matrix else (1, 0, 0, 0, 1)
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def time_stamp(seconds: float) -> str:
    """0:01:02.345."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 1000:06.3f}"
