"""What the speed benchmark's sections share: a clock, processes with their time and memory, medians, tables, facts."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
IMAGES = HERE.parent / "docs" / "images"
BIN = Path(sys.executable).parent
SKIPPED = "not measured"


class UnavailableError(Exception):
    """Something that cannot be measured here, with the reason."""


class Run(NamedTuple):
    """One command, from start to exit."""

    began: float
    """Seconds since the epoch."""
    seconds: float
    peak_mb: float
    """Peak of resident memory."""
    stdout: str


@dataclass(eq=False)
class Bench:
    """How thoroughly to measure, where, and how much time is left."""

    quick: bool
    rounds: int
    folder: Path
    """Scratch space, removed at the end."""
    pictures: Path
    """Where figures go."""
    chainer: bool
    planned: Mapping[str, float]
    """Seconds that each section takes, about, in order."""
    done: dict[str, float] = field(default_factory=dict)
    """Seconds that the finished ones took."""
    current: str = ""
    began: float = field(default_factory=time.perf_counter)

    def begin(self, section: str) -> None:
        """Say that a section starts now."""
        self.current, self.began = section, time.perf_counter()
        self.say("begins")

    def end(self) -> None:
        """Say that it is finished."""
        self.done[self.current] = time.perf_counter() - self.began
        self.say(f"done in {self.done[self.current]:.0f} s")

    def say(self, text: str) -> None:
        """Progress, with the time left, to stderr."""
        print(f"[{self.current}] {text}; about {self.left() / 60:.0f} min left", file=sys.stderr, flush=True)

    def left(self) -> float:
        """Seconds left: the plan, at the pace so far."""
        behind = sum(self.planned[name] for name in self.done)
        pace = sum(self.done.values()) / behind if behind else 1.0
        spent = 0.0 if self.current in self.done else time.perf_counter() - self.began
        ahead = sum(seconds for name, seconds in self.planned.items() if name not in self.done)
        return max(0.0, pace * ahead - spent)

    def pick(self, full: Any, quick: Any) -> Any:
        """A setting of the whole benchmark, or of the smoke run."""
        return quick if self.quick else full

    def interleaved(self, programs: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Each program's figure, round after round, so that a disturbance of the machine meets all of them."""
        figures: dict[str, list[float]] = {name: [] for name in programs}
        for done in range(1, self.rounds + 1):
            for name, measure in programs.items():
                figures[name].append(measure())
            self.say(f"round {done} of {self.rounds}")
        return figures


def run(*words: object) -> Run:
    """Run a command and wait for it.

    Raises:
        UnavailableError: if it fails, with the last line that it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err, figures = (Path(folder, name) for name in ("out", "err", "figures"))
        launched = [sys.executable, "-I", "-S", HERE / "launcher.py", figures, *words]
        with out.open("w") as stdout, err.open("w") as stderr:
            status = subprocess.run(list(map(str, launched)), stdout=stdout, stderr=stderr, check=False).returncode
        if status:
            raise UnavailableError(_last_line(err.read_text()) or f"exit code {status}")
        return Run(**json.loads(figures.read_text()), stdout=out.read_text())


def alocc(*words: object) -> Run:
    """Run the command line."""
    return run(BIN / "alocc", *words)


def worker(script: str, *words: object) -> dict[str, Any]:
    """Run one of the benchmark's own programs in a process of its own; it prints JSON in its last line."""
    done = run(sys.executable, HERE / script, *words)
    return {**json.loads(done.stdout.splitlines()[-1]), "began": done.began}


def _last_line(text: str) -> str:
    lines = [line.strip(" │╭╰─╮╯") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")


def median_ms(call: Callable[[], object], times: int, warm_up: int = 1) -> float:
    """Milliseconds of a call: the median of so many, after the first ones."""
    seconds = []
    for _ in range(warm_up + times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[warm_up:])


def exponent(sizes: Sequence[float], figures: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms: figure ∝ size^slope."""
    return float(np.polyfit(np.log(sizes), np.log(figures), 1)[0])


def spread(values: Sequence[float], digits: int = 1) -> tuple[str, str]:
    """Median; lowest and highest."""
    return f"{statistics.median(values):,.{digits}f}", f"{min(values):,.{digits}f} – {max(values):,.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def provenance(command: Sequence[str], more: Mapping[str, str]) -> str:
    """When, where and with what: figures without it cannot be checked."""
    import torch

    names = ("alocc", "torch", "numpy", "onnxruntime", "openvino", "scikit-learn", "pyod")
    versions = {"Python": platform.python_version()} | {name: v for name in names if (v := _version(name))} | more
    facts = {
        "date": str(datetime.date.today()),
        "machine": f"{cpu_model()}, {os.cpu_count()} cores, {platform.system()}; {torch.get_num_threads()} threads, "
        f"load average of the last minute {os.getloadavg()[0]:.1f}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "command": f"`{shlex.join(command)}`",
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {fact} |\n" for name, fact in facts.items())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Name of the processor; Python itself does not know it on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
