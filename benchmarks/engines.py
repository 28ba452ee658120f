"""How fast a run's detector scores by torch, ONNX Runtime and OpenVINO: ``engines.py RUN DATA [PAGE]``.

DATA are images like those of the training; for 8 bits they must be normal, and some of them unknown to it.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from alocc.cli.running import load_normals
from alocc.detector import Detector
from alocc.export import export
from alocc.runtime import Runtime


def milliseconds(work, times):
    """Median and smallest."""
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken), min(taken)


def row(name, score, images):
    one, fastest = milliseconds(lambda: score(images[:1]), 100)
    many, quickest = milliseconds(lambda: score(images), 5)
    return f"| {name} | {one:.1f} ({fastest:.1f}) | {many / len(images):.2f} ({quickest / len(images):.2f}) |"


def main(run, data, page=None):
    detector = Detector.load(run)
    fresh = load_normals(detector, data, None, strict=False).images
    images = np.ascontiguousarray(fresh[:256].permute(0, 2, 3, 1).numpy())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        exported = {
            "ONNX Runtime": export(detector, Path(folder) / "m.onnx").path,
            "ONNX Runtime, 8 bits": export(detector, Path(folder) / "i.onnx", fresh=fresh).path,
            "OpenVINO": export(detector, Path(folder) / "m.xml").path,
        }
        for threads in (1, 2):
            torch.set_num_threads(threads)
            rows.append(row(f"torch, {threads} threads", detector.score, images))
            for name, path in exported.items():
                rows.append(row(f"{name}, {threads} threads", Runtime(path, threads).score, images))
    text = "\n".join(
        [
            f"`benchmarks/engines.py {run} {data}`: {detector.config.preset}, {detector.image_format}, "
            f"{len(detector.networks)} pair(s) of networks, {len(images)} images. "
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, other programs running "
            f"(load {os.getloadavg()[0]:.1f} before). Medians, and in brackets the fastest of several.",
            "",
            "| engine | one image, ms | of 256 images, ms each |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    if page:
        Path(page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
