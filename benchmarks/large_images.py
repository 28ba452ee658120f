"""Small faults in large images: whole, shrunk, or in tiles? Two drawn kinds, 256×256: a weave, and a gear that stands still.

python benchmarks/large_images.py [docs/results/large-images.md]
"""

import argparse
import datetime
import platform
import resource
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alocc.config import preset, with_settings
from alocc.evaluation.metrics import auroc
from alocc.storage import write_text
from alocc.training.run import train

SIDE = 256
VARIANTS = {"whole": [], "shrunk to 64": ["images.longest=64"], "tiles of 64": ["images.tile=64"]}
N_TRAIN, N_TEST = 200, 60
Images = NDArray[np.uint8]


def weave(rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = np.mgrid[0:SIDE, 0:SIDE] + rng.uniform(0, 8, (2, 1, 1)) + rng.normal(0, 0.4, (2, SIDE, 1)).cumsum(1) * 0.05
    return 0.5 + 0.18 * np.sin(x * np.pi / 4) + 0.18 * np.sin(y * np.pi / 4) + rng.normal(0, 0.03, (SIDE, SIDE))


def gear(rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2 - rng.normal(0, 2, (2, 1, 1))
    radius, angle = np.hypot(y, x), np.arctan2(y, x) + rng.normal(0, 0.02)
    body = (radius < 92 + 8 * np.sign(np.sin(18 * angle))) & (radius > 26)
    return 0.15 + 0.55 * body + 0.1 * np.cos(angle - 1) * body + rng.normal(0, 0.03, (SIDE, SIDE))


def scratched(image: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A scratch of 12 to 24 pixels, two wide, somewhere in the inner half."""
    mask, length, angle = Image.new("L", (SIDE, SIDE)), rng.uniform(12, 24), rng.uniform(0, np.pi)
    start = rng.uniform(0.3 * SIDE, 0.7 * SIDE, 2)
    ImageDraw.Draw(mask).line([*start, *(start + length * np.array([np.cos(angle), np.sin(angle)]))], 255, 2)
    return np.where(np.asarray(mask) > 0, image + rng.choice([-0.35, 0.35]), image)


def images(draw, n: int, seed: int, fault=None) -> Images:
    rng = np.random.default_rng(seed)
    drawn = [fault(draw(rng), rng) if fault else draw(rng) for _ in range(n)]
    return (np.clip(drawn, 0, 1) * 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="?")
    arguments = parser.parse_args()
    lines = ["| images | judged | AUROC | training, s | ms an image | peak memory so far, MB |", "|" + "---|" * 6]
    for draw in (weave, gear):
        normal, tested = (
            images(draw, N_TRAIN, 0),
            np.concatenate([images(draw, N_TEST, 1), images(draw, N_TEST, 2, scratched)]),
        )
        for name, settings in VARIANTS.items():
            start = time.perf_counter()
            detector = train(normal, config=with_settings(preset("robust"), settings), seed=0)
            trained = time.perf_counter()
            found = auroc(detector.score(tested).anomaly_score, np.arange(2 * N_TEST) >= N_TEST)
            each = 1000 * (time.perf_counter() - trained) / len(tested)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            lines.append(
                f"| {draw.__name__} | {name} | {found:.3f} | {trained - start:.0f} | {each:.0f} | {peak:.0f} |"
            )
            print(lines[-1], flush=True)
    if arguments.page:
        facts = f"`benchmarks/large_images.py`, {datetime.date.today()}, {platform.machine()}, two cores"
        write_text(arguments.page, f"# Small faults in large images\n\n{N_TRAIN} normal images of {SIDE}×{SIDE} pixels train; {N_TEST} more, and {N_TEST} with a "
                   f"scratch of 12 to 24 pixels, two wide, test. "
            f"Written by {facts}.\n\n" + "\n".join(lines) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
