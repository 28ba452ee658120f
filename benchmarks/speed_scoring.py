"""Scoring: images a second with every engine, the whole command on files, memory, and start-up."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import speed_detectors as detectors
import torch
from measuring import BIN, SKIPPED, Bench, Run, UnavailableError, alocc, median_ms, run, spread, table
from PIL import Image
from scipy.stats import spearmanr
from speed_detectors import PLAIN, PYTORCH, Score
from speed_figures import curves
from speed_quality import memory_rows

from alocc.detector import Detector
from alocc.evaluation.metrics import auroc
from alocc.scoring.open import ExportedDetector

BATCHES = (1, 8, 64, 256, 1024)
FEW_BATCHES = (1, 256)
LEAST_SECONDS = 0.2
"""A figure is the median of as many calls as fit into about this time, at least one."""


def scoring(bench: Bench) -> str:
    """The section."""
    batches = bench.pick(BATCHES, (1, 64))
    whole = rates(bench, detectors.robust(bench).folder, batches)
    drawn = {name: (batches, [statistics.median(of[b]) for b in batches]) for name, of in whole.items() if of}
    curves(bench.pictures / "speed-scoring.svg", "batch", "images a second", drawn)
    folds = rates(bench, detectors.in_folds(bench), FEW_BATCHES)
    article = rates(bench, detectors.article(bench), batches)
    return f"""\
28×28 images in memory as bytes; scores and p-values come back as arrays. Medians of {bench.rounds} rounds, all engines and
batches in turn. The plain forward pass is the same definition in PyTorch without the fixed batch that makes an image's
score independent of its batch mates; all other engines keep that promise.

### `robust`, one pair of networks: images a second over the batch

{rate_table(whole, batches)}
![images a second over the batch](../images/speed-scoring.svg)

One image, milliseconds (lowest – highest):

{single_table(whole)}
### `robust` in folds, two pairs of networks: images a second

{rate_table(folds, FEW_BATCHES)}
### `article`: images a second

{rate_table(article, batches)}
### What int8 costs

{int8_table(bench)}"""


Rates = dict[str, dict[int, list[float]]]


def rates(bench: Bench, folder: Path, batches: tuple[int, ...]) -> Rates:
    """Images a second of each engine at each batch, all rounds; an engine that is missing has none."""
    images = detectors.test_images()[0]
    found = detectors.engines(bench, folder)
    programs: dict[tuple[str, int], Callable[[], float]] = {
        (name, batch): partial(images_a_second, score, np.ascontiguousarray(images[:batch]))
        for name, score in found.items()
        if not isinstance(score, str)
        for batch in batches
    }
    figures = bench.interleaved({f"{name}@{batch}": program for (name, batch), program in programs.items()})
    return {
        name: {} if isinstance(score, str) else {batch: figures[f"{name}@{batch}"] for batch in batches}
        for name, score in found.items()
    }


def images_a_second(score: Score, images: detectors.Images) -> float:
    """Of one batch, again and again."""
    first = median_ms(lambda: score(images), 1, warm_up=1)
    times = max(0, min(100, int(1000 * LEAST_SECONDS / first)) - 1)
    return 1000 * len(images) / (median_ms(lambda: score(images), times, warm_up=0) if times else first)


def rate_table(found: Rates, batches: tuple[int, ...]) -> str:
    """A row for each engine, a column for each batch."""
    rows = [
        [name, *(f"{statistics.median(of[batch]):,.0f}" for batch in batches)]
        if of
        else [name, SKIPPED, *[""] * (len(batches) - 1)]
        for name, of in found.items()
    ]
    return table(["engine", *(f"batch {batch:,}" for batch in batches)], rows)


def single_table(found: Rates) -> str:
    """Milliseconds of one image alone."""
    rows = [[name, *spread([1000 / rate for rate in of[1]], 2)] for name, of in found.items() if of]
    return table(["engine", "ms", "min – max"], rows)


def int8_table(bench: Bench) -> str:
    """AUROC of every engine."""
    folder = detectors.robust(bench).folder
    digit = detectors.digit_of(folder)
    images, digits = detectors.test_images()
    rest = np.setdiff1d(np.arange(len(digits)), np.flatnonzero(digits == digit)[: detectors.FRESH])
    rest = rest[: bench.pick(None, 2_000)]
    scores = {
        name: np.concatenate([score(part) for part in np.array_split(images[rest], max(1, len(rest) // 1_000))])
        for name, score in detectors.engines(bench, folder).items()
        if not isinstance(score, str) and name != PLAIN
    }
    rows = [
        [name, f"{auroc(values, digits[rest] != digit):.4f}", f"{spearmanr(values, scores[PYTORCH])[0]:.4f}"]
        for name, values in scores.items()
    ]
    return f"""\
AUROC of '{digit}' against all other digits, on MNIST's test images but for the {detectors.FRESH} that set int8's threshold, and rank
correlation with PyTorch's scores:

{table(["engine", "AUROC", "rank correlation"], rows)}"""


# ---- files


@cache
def png_folder(bench: Bench, n: int) -> Path:
    """So many of MNIST's test images as PNG files, grey, 28×28."""
    folder = bench.folder / f"png-{n}"
    folder.mkdir()
    for index, image in enumerate(detectors.test_images()[0][:n]):
        Image.fromarray(image).save(folder / f"{index:05}.png")
    return folder


def models(bench: Bench) -> dict[str, Path | str]:
    """What ``alocc score`` can be given: the run folder, and the exported files; or why it cannot."""
    folder = detectors.robust(bench).folder
    return {PYTORCH: folder} | detectors.exports(bench, folder)


@cache
def scored(bench: Bench, model: Path, n: int) -> Run:
    """``alocc score`` on PNG files, for its memory and once for its time."""
    return alocc("score", model, png_folder(bench, n), "--out", bench.folder / "scores.csv")


def files(bench: Bench) -> str:
    """The section: the whole command, and how much of its time the model takes."""
    n = bench.pick(10_000, 100)
    folder, rows = png_folder(bench, n), []
    found = models(bench)
    usable = {name: model for name, model in found.items() if isinstance(model, Path)}
    out = bench.folder / "scores.csv"
    programs = {
        name: lambda model=model: alocc("score", model, folder, "--out", out).seconds for name, model in usable.items()
    }
    figures = bench.interleaved(programs)
    for name, model in found.items():
        if isinstance(model, str):
            rows.append([name, f"{SKIPPED}: {model}", "", "", "", ""])
            continue
        stages = stages_of(model, folder)
        bench.say(f"{name}: {stages}")
        seconds = statistics.median(figures[name])
        rows.append([
            name, *spread(figures[name]), f"{n / seconds:,.0f}", f"{stages['model'] / stages['together']:.0%}",
            f"{stages['decode']:.1f}",
        ])  # fmt: skip
    head = ["engine", "seconds", "min – max", "images/s", "model busy", "decoding alone, seconds"]
    return f"""\
`alocc score MODEL FOLDER --out scores.csv` on {n:,} grey PNG files of 28×28, from start to exit. Files are decoded in
threads beside the model. "Model busy" is the share of the time between the first file and the last row, in a process
that is warm, that is spent in the model; "decoding alone" is how long the files take without any model.

{table(head, rows)}"""


def stages_of(model: Path, data: Path) -> dict[str, float]:
    """Seconds of decoding alone, of decoding, scoring and writing together, and of the model meanwhile."""
    from alocc.data.sources import open_source
    from alocc.scoring.stream import score_batches
    from alocc.scoring.table import write_table

    scorer = TimedScorer(Detector.load(model) if model.is_dir() else ExportedDetector(model, torch.get_num_threads()))
    source = open_source(str(data), "test")
    began = time.perf_counter()
    for _ in source.batches(scorer.image_format):
        pass
    decoded = time.perf_counter()
    write_table(score_batches(scorer, source.batches(scorer.image_format)), data.parent / "stages.csv")
    together = time.perf_counter() - decoded
    return {"decode": decoded - began, "together": together, "model": scorer.seconds}


class TimedScorer:
    """A scorer that knows how long it took."""

    def __init__(self, scorer: Any) -> None:
        self.scorer, self.seconds = scorer, 0.0

    def score(self, *arguments: Any) -> Any:
        """The scorer's scores."""
        began = time.perf_counter()
        scores = self.scorer.score(*arguments)
        self.seconds += time.perf_counter() - began
        return scores

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)


# ---- memory


def memory(bench: Bench) -> str:
    """The section: peak resident memory of processes."""
    n = bench.pick(10_000, 100)
    rows: list[list[str]] = []
    for name, model in models(bench).items():
        if isinstance(model, str):
            rows.append([name, f"{SKIPPED}: {model}"])
        else:
            rows.append([f"`alocc score`, {name}", f"{scored(bench, model, n).peak_mb:,.0f}"])
    try:
        runtime = detectors.exported(bench, detectors.robust(bench).folder, "onnx", False)
        peak = run(*runtime_command(runtime, png_folder(bench, n), bench)).peak_mb
        rows.append(["`python -m alocc.runtime`, ONNX Runtime", f"{peak:,.0f}"])
    except UnavailableError as reason:
        rows.append(["`python -m alocc.runtime`", f"{SKIPPED}: {reason}"])
    return f"""\
Peak resident memory of one process (`ru_maxrss`), MB. Training on one digit of MNIST, and scoring the test images:

{table(["method", "training", "scoring, in the same process"], memory_rows(bench))}
Scoring {n:,} PNG files through the command line:

{table(["command", "MB"], rows)}"""


def runtime_command(model: Path, data: Path, bench: Bench) -> list[object]:
    """The runtime without PyTorch, as a command."""
    return [sys.executable, "-m", "alocc.runtime", model, data, "--out", bench.folder / "runtime.csv"]


# ---- start-up


def startup(bench: Bench) -> str:
    """The section: what a command costs before it does anything."""
    one = png_folder(bench, 1)
    commands: dict[str, list[object]] = {
        "`alocc --help`": [BIN / "alocc", "--help"],
        '`python -c "import alocc"`': [sys.executable, "-c", "import alocc"],
        '`python -c "import torch"`, for comparison': [sys.executable, "-c", "import torch"],
    }
    missing = []
    for name, model in models(bench).items():
        if isinstance(model, str):
            missing.append(name)
            continue
        commands[f"`alocc score`, one image, {name}"] = [
            BIN / "alocc", "score", model, one, "--out", bench.folder / "one.csv",
        ]  # fmt: skip
        if model.suffix == ".onnx":
            commands[f"`python -m alocc.runtime`, one image, {name}"] = runtime_command(model, one, bench)
    peaks: dict[str, float] = {}

    def seconds(name: str) -> float:
        done = run(*commands[name])
        peaks[name] = done.peak_mb
        return done.seconds

    figures = bench.interleaved({name: partial(seconds, name) for name in commands})
    rows = [[name, *spread(values, 2), f"{peaks[name]:,.0f}"] for name, values in figures.items()]
    left_out = f"\nNot measured, for want of an exported file: {', '.join(missing)}.\n" if missing else ""
    return f"""\
From the start of the process to its exit, the files already in the system's cache.

{table(["command", "seconds", "min – max", "peak memory, MB"], rows)}{left_out}"""
