"""Time and memory over the size of images, the batch and the number of images, with the exponents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import speed_detectors as detectors
from measuring import SKIPPED, Bench, UnavailableError, alocc, exponent, table, worker
from speed_detectors import PYTORCH
from speed_figures import fits

SIDES = (28, 64, 128, 256)
SIDE_BATCH = 16
BATCHES = (16, 32, 64, 128, 256)
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
SLOW_COUNTS = COUNTS[:-1]
"""As far as PyTorch is measured."""

Rows = dict[float, dict[str, float]]


def scaling(bench: Bench) -> str:
    """The section."""
    sides, batches = bench.pick(SIDES, (28, 64)), bench.pick(BATCHES, (16, 32))
    training_sides = {
        side: worker("speed_workers.py", "training", side, SIDE_BATCH, bench.pick(5, 1)) for side in sides
    }
    bench.say("training over sizes measured")
    training_batches = {b: worker("speed_workers.py", "training", 28, b, bench.pick(20, 2)) for b in batches}
    bench.say("training over batches measured")
    scoring_sides = scoring_over_sides(bench, sides)
    counts = {name: over_counts(bench, name, model) for name, model in scorers(bench).items()}
    draw(bench, {"training": training_sides, **scoring_sides}, training_batches, counts)
    side_tables = "\n".join(
        f"`robust`, scoring a batch of 64, {name}:\n\n{rows_table('side', rows, square=True)}"
        for name, rows in scoring_sides.items()
    )
    return f"""\
Exponents are slopes of least-squares lines through the logarithms. Memory is the peak of the whole process, libraries
included. Over the size of images, n is the number of pixels.

### Size of images

`article`, one iteration of training with batches of {SIDE_BATCH}, float32:

{rows_table("side", training_sides, square=True)}
{side_tables}
### Batch

`article`, one iteration of training on 28×28 images, float32:

{rows_table("batch", training_batches)}
Scoring over the batch is in the section Scoring.

### Number of images

`alocc score MODEL images.npy --out scores.csv`, 28×28 images in one `.npy` file, from start to exit. The time's exponent is
that of the seconds beyond those of one image.

{count_tables(counts)}
![time and memory over size, batch and number of images](../images/speed-scaling.svg)
"""


def rows_table(name: str, rows: Mapping[float, Mapping[str, float]], square: bool = False) -> str:
    """Time and memory, and below them the exponents."""
    lines: list[list[object]] = [[key, f"{row['ms']:,.1f}", f"{row['peak_mb']:,.0f}"] for key, row in rows.items()]
    sizes = [key**2 if square else key for key in rows]
    slopes = [exponent(sizes, [row[what] for row in rows.values()]) for what in ("ms", "peak_mb")]
    lines.append(["", *(f"∝ n^{slope:.2f}" for slope in slopes)])
    return table([name, "ms", "peak memory, MB"], lines)


# ---- size


def scoring_over_sides(bench: Bench, sides: Sequence[int]) -> dict[str, Rows]:
    """Each engine's figures over the sizes that it could be measured at."""
    found: dict[str, Rows] = {}
    for side in sides:
        folder = detectors.of_side(bench, side)
        for name, model in ({PYTORCH: folder} | detectors.exports(bench, folder, wanted=(False,))).items():
            if isinstance(model, Path):
                figures = worker("speed_workers.py", "scoring", model, side, 64, bench.pick(3, 1))
                found.setdefault(name, {})[side] = figures
        bench.say(f"scoring at {side}×{side} measured")
    return {name: rows for name, rows in found.items() if len(rows) > 1}


# ---- number of images


def scorers(bench: Bench) -> dict[str, Path | str]:
    """PyTorch, and ONNX Runtime where it is to be had."""
    folder = detectors.robust(bench).folder
    if bench.quick:
        return {PYTORCH: folder}
    try:
        return {PYTORCH: folder, "ONNX Runtime": detectors.exported(bench, folder, "onnx", False)}
    except UnavailableError as reason:
        return {PYTORCH: folder, "ONNX Runtime": str(reason)}


def over_counts(bench: Bench, name: str, model: Path | str) -> dict[int, Any] | str:
    """Seconds and memory of the command over the number of images; the first is of one image."""
    if isinstance(model, str):
        return model
    counts = bench.pick(SLOW_COUNTS if name == PYTORCH else COUNTS, (100, 400))
    figures = {}
    for n in (1, *counts):
        images = array_file(bench, n)
        figures[n] = alocc("score", model, images, "--out", bench.folder / "many.csv")
        images.unlink()
        bench.say(f"{name}: {n:,} images in {figures[n].seconds:.1f} s, {figures[n].peak_mb:.0f} MB")
    return figures


def array_file(bench: Bench, n: int) -> Path:
    """A .npy file of so many images: the test images again and again, written piece by piece, a little different."""
    path = bench.folder / "many.npy"
    images = detectors.test_images()[0]
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, *images.shape[1:]))
    for start in range(0, n, len(images)):
        part = images[: n - start]
        file[start : start + len(part)] = part ^ (start // len(images) % 4)
    file.flush()
    return path


def count_tables(counts: Mapping[str, dict[int, Any] | str]) -> str:
    """A table for each engine."""
    return "\n".join(f"{name}:\n\n{_count_table(figures)}" for name, figures in counts.items())


def _count_table(figures: dict[int, Any] | str) -> str:
    if isinstance(figures, str):
        return f"{SKIPPED}: {figures}\n"
    lines: list[list[object]] = [
        [f"{n:,}", f"{one.seconds:.1f}", f"{n / one.seconds:,.0f}", f"{one.peak_mb:,.0f}"] for n, one in figures.items()
    ]
    seconds, memory = (exponent(*curve) for curve in _count_curves(figures))
    lines.append(["", f"∝ n^{seconds:.2f}", "", f"∝ n^{memory:.2f}"])
    return table(["images", "seconds", "images/s", "peak memory, MB"], lines)


def _count_curves(figures: dict[int, Any]) -> list[tuple[list[int], list[float]]]:
    """Seconds beyond those of one image, and memory, over the number of images."""
    alone, many = figures[1], {n: one for n, one in figures.items() if n > 1}
    seconds = [max(one.seconds - alone.seconds, 0.001) for one in many.values()]
    return [(list(many), seconds), (list(many), [one.peak_mb for one in many.values()])]


# ---- figure


def draw(bench: Bench, sides: Mapping[str, Mapping[float, Any]], batches: Mapping[float, Any], counts: Any) -> None:
    """Three panels: over pixels, over the batch, over the number of images."""
    pixels = {f"{name}, ms": ([n**2 for n in of], [one["ms"] for one in of.values()]) for name, of in sides.items()}
    over_batch = {
        "training, ms": (list(batches), [one["ms"] for one in batches.values()]),
        "training, MB": (list(batches), [one["peak_mb"] for one in batches.values()]),
    }
    many = {}
    for name, figures in counts.items():
        if not isinstance(figures, str):
            seconds, memory = _count_curves(figures)
            many |= {f"{name}, seconds": seconds, f"{name}, MB": memory}
    panels = {"size": ("pixels", pixels), "batch": ("batch", over_batch), "number": ("images", many)}
    fits(bench.pictures / "speed-scaling.svg", panels)
