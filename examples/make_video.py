"""Film a conveyor belt: one video of normal running, and one with something on the belt for two seconds, twice.

    python examples/make_video.py

writes belt.mp4 (40 s, normal) and belt_today.mp4 (24 s; lost gloves from 0:08 to 0:10, and jars without lids from
0:16 to 0:18), 64×64 pixels, 12 frames a second. Needs PyAV: pip install av.
"""

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FINE, SIDE, RATE = 4, 64, 12
SPACING, SPEED = 40.0, 2.3
"""Pixels between two jars, and pixels a frame."""


def draw_frame(number, rng, fault=None):
    """A belt with jars that move to the right, (64, 64, 3), uint8."""
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), (58, 66, 72))
    pen = ImageDraw.Draw(image)

    def box(x, y, width, height, colour):
        pen.rectangle([x * FINE, y * FINE, (x + width) * FINE, (y + height) * FINE], colour)

    box(0, 46, SIDE, 9, (34, 34, 36))
    for x in np.arange(number * SPEED % 8 - 8, SIDE, 8):
        box(x, 46, 1, 9, (70, 70, 74))
    for jar in np.arange(number * SPEED % SPACING - SPACING, SIDE, SPACING):
        box(jar, 24, 18, 22, (196, 204, 196))
        box(jar + 2, 30, 14, 9, (176, 60, 52))
        if fault != "no lid":
            box(jar - 1, 20, 20, 5, (214, 178, 60))
    if fault == "glove":
        for x in np.arange(number * SPEED % SPACING - 14, SIDE, SPACING):
            for dx, dy in ((0, 0), (4, -2), (8, -1), (3, 4)):
                pen.ellipse([(x + dx) * FINE, (39 + dy) * FINE, (x + dx + 9) * FINE, (45 + dy) * FINE], (70, 110, 190))
    image = image.filter(ImageFilter.GaussianBlur(0.6 * FINE)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.clip(np.asarray(image) * rng.normal(1, 0.015) + rng.normal(0, 3, (SIDE, SIDE, 3)), 0, 255).astype(
        np.uint8
    )


def film(path, seconds, faults=()):
    """Write one video; ``faults`` are (from second, to second, what)."""
    rng = np.random.default_rng(len(path))
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = SIDE, SIDE, "yuv420p", 1_000_000
        for number in range(seconds * RATE):
            fault = next((what for start, end, what in faults if start <= number / RATE < end), None)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_frame(number, rng, fault), format="rgb24")))
        container.mux(stream.encode(None))
    print(f"{path}: {seconds} s, {seconds * RATE} frames")


if __name__ == "__main__":
    film("belt.mp4", 40)
    film("belt_today.mp4", 24, faults=[(8, 10, "glove"), (16, 18, "no lid")])
