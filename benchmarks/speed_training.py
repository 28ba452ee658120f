"""One iteration of the article's training, from Chainer to alocc step by step; its FLOP; and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytorch_port
import torch
import torch.nn.functional as F
from article_programs import Training, chainer_python, normal_images, run_chainer, start_alocc
from measuring import Bench, median_ms, spread, table
from speed_figures import bars
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from alocc.config import Config, preset, with_values
from alocc.errors import ConfigError
from alocc.seeding import generator

WARM_UP = 2  # iterations of each round that are not timed, here as in the Chainer program
BATCH = 128
GEMM_SIDES = (1024, 2048, 4096)
TOP_OPERATIONS = 12
PORT_STEPS = {
    "line-by-line PyTorch port": {},
    "+ no gradients of D in R's update": {"frozen_d": True},
    "+ fused Adam": {"frozen_d": True, "fused": True},
    "+ channels last": {"frozen_d": True, "fused": True, "channels_last": True},
}
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def article(fresh: bool) -> Config | None:
    """The preset with or without a fresh batch for R's update; none where this version has no such choice."""
    try:
        return with_values(preset("article"), {"training": {"adversarial": {"fresh_batches": fresh}}}, source="bench")
    except ConfigError:
        return preset("article") if fresh else None


def phase_of_robust(name: str) -> Config:
    """A config whose only phase, or whose last one, is that phase of ``robust``."""
    config = with_values(preset("robust"), {"training": {"batch_size": 64}}, source="bench")
    if name == "discrimination":
        return config
    weights = {"mse": 1.0}
    training = {"discrimination": None, "places": None}
    return with_values(config, {"training": training, "scoring": weights, "maps": weights}, source="bench")


def trainings(bench: Bench) -> dict[str, Training]:
    """alocc's rungs of the ladder, and the phases of ``robust``."""
    images = normal_images(bench.folder)
    made = {}
    for fresh, words in ((True, "a fresh batch for each update"), (False, "R's forward pass shared by both updates")):
        if config := article(fresh):
            made |= {f"alocc, {p}, {words}": start_alocc(images, config, code) for p, code in PRECISIONS.items()}
    for phase in ("reconstruction", "discrimination"):
        config = phase_of_robust(phase)
        made |= {f"`robust`, {phase}, {p}": start_alocc(images, config, code) for p, code in PRECISIONS.items()}
    return made


# ---- training


def training(bench: Bench) -> str:
    """The ladder."""
    iterations = bench.pick(20, 4)
    images = torch.from_numpy(normal_images(bench.folder))[:, None]
    programs: dict[str, Callable[[], float]] = {}
    if bench.chainer:
        python = chainer_python()
        programs["Chainer"] = lambda: run_chainer(python, bench.folder, iterations)["ms_per_iteration"]
    iterates: dict[str, Callable[[], object]] = {
        name: pytorch_port.make_iteration(images, generator(0, "port"), **steps) for name, steps in PORT_STEPS.items()
    }
    iterates |= {name: made.iterate for name, made in trainings(bench).items()}
    for name, iterate in iterates.items():
        programs[name] = lambda iterate=iterate: median_ms(iterate, iterations - WARM_UP, WARM_UP)
    figures = bench.interleaved(programs)

    ladder = {name: values for name, values in figures.items() if not name.startswith("`robust`")}
    robust = {name: values for name, values in figures.items() if name.startswith("`robust`")}
    bars(bench.pictures / "speed-training.svg", {name: _rate(values) for name, values in ladder.items()})
    head = ["", "ms an iteration", "min – max", "images/s", "this step", "times as fast as the first"]
    phases = [[name, *spread(values), f"{64e3 / _median(values):,.0f}"] for name, values in robust.items()]
    left_out = "" if bench.chainer else " Chainer was left out."
    return f"""\
One iteration of the article's training is one update of D and one of R, batches of {BATCH} images of MNIST's '1', 28×28.
Medians of {bench.rounds} rounds, with the lowest and the highest; a round is {iterations} iterations of each program in
turn, and its figure the median of all but the first {WARM_UP}. "This step" compares with the row above, or, for
alocc, with the row that differs in that alone: it is how many times as fast. images/s counts {BATCH} an iteration.{left_out}

{table(head, _ladder_rows(ladder))}
![images a second of each program](../images/speed-training.svg)

One iteration of each phase of `robust`, batches of 64:

{table(["", "ms an iteration", "min – max", "images/s"], phases)}"""


def _ladder_rows(ladder: dict[str, list[float]]) -> list[list[str]]:
    first, before = next(iter(ladder)), None
    rows = []
    for name, values in ladder.items():
        compared = _compared_with(name, before, ladder)
        step = f"× {_median(ladder[compared]) / _median(values):.2f}" if compared else ""
        rows.append([
            name, *spread(values), f"{_rate(values):,.0f}", step, f"{_median(ladder[first]) / _median(values):.1f}",
        ])  # fmt: skip
        before = name
    return rows


def _compared_with(name: str, before: str | None, ladder: dict[str, list[float]]) -> str | None:
    """The rung that a rung differs from in one thing."""
    other = name.replace("R's forward pass shared by both updates", "a fresh batch for each update")
    if other == name:
        other = name.replace("bfloat16", "float32")
    return other if other != name and other in ladder else before


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _rate(values: list[float]) -> float:
    return 1000 * BATCH / _median(values)


# ---- peak


def peak(bench: Bench) -> str:
    """FLOP of an iteration, FLOP/s reached, and the share of what large matrix products reach."""
    sides = bench.pick(GEMM_SIDES, (512,))
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    peaks = {name: (matmul_peak(dtype, sides), convolution_peak(dtype)) for name, dtype in kinds.items()}
    bench.say("peaks measured")
    rows, profiles = [], []
    for name, made in trainings(bench).items():
        precision = "bfloat16" if "bfloat16" in name else "float32"
        with FlopCounterMode(display=False) as counter:
            made.iterate()
        flop = counter.get_total_flops()
        seconds = median_ms(made.iterate, bench.pick(30, 2), WARM_UP) / 1000
        reached = flop / seconds
        shares = [f"{reached / one:.0%}" for one in (peaks[precision][0], max(peaks[precision]))]
        rows.append([name, f"{flop / 1e9:.2f}", f"{1000 * seconds:.1f}", f"{reached / 1e9:,.0f}", *shares])
        if name.startswith("alocc"):
            profiles.append(f"{name}:\n\n{profile_table(made, bench.pick(20, 2))}")
        bench.say(f"{name} counted")
    peak_rows = [[name, *(f"{one / 1e9:,.0f}" for one in both)] for name, both in peaks.items()]
    head = ["iteration", "GFLOP", "ms", "GFLOP/s", "share of matrix products' peak", "share of the higher peak"]
    return f"""\
The peaks are what `torch.matmul` reaches on the best of square matrices of {", ".join(map(str, sides))} a side, and what a 3×3
convolution of 256 to 256 maps reaches, since on some processors one library is far ahead of the other. FLOP are
counted by `torch.utils.flop_counter`: convolutions and matrix products forward and backward, a multiply-add as two;
normalisation, activations, losses and Adam count nothing but take time.

{table(["arithmetic", "matrix products, GFLOP/s", "large convolution, GFLOP/s"], peak_rows)}
{table(head, rows)}
Where the time of an iteration goes: operations by their own time on the processor (`torch.profiler`).

{chr(10).join(profiles)}"""


def matmul_peak(dtype: torch.dtype, sides: tuple[int, ...]) -> float:
    """FLOP/s of square matrix products, at the best of several sizes."""
    best = 0.0
    for side in sides:
        a, b = (torch.randn((side, side), generator=generator(0, name)).to(dtype) for name in "ab")
        best = max(best, 2 * side**3 / _seconds(lambda a=a, b=b: a @ b, 2 * side**3))
    return best


def convolution_peak(dtype: torch.dtype, maps: int = 256, side: int = 32, batch: int = 16) -> float:
    """FLOP/s of a large 3×3 convolution, which another library computes than matrix products."""
    x = torch.randn((batch, maps, side, side), generator=generator(0, "x"))
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn((maps, maps, 3, 3), generator=generator(0, "weight")).to(dtype)
    flop = 2 * batch * maps * maps * 9 * side * side  # the border's too: a little more than is computed
    return flop / _seconds(lambda: F.conv2d(x, weight, padding=1), flop)


def _seconds(call: Callable[[], object], flop: float) -> float:
    return median_ms(call, max(3, round(4e11 / flop)), WARM_UP) / 1000


def profile_table(made: Training, iterations: int) -> str:
    """The operations that take most of an iteration."""
    for _ in range(WARM_UP):
        made.iterate()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        began = time.perf_counter()
        for _ in range(iterations):
            made.iterate()
        whole = time.perf_counter() - began
    spent = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)[:TOP_OPERATIONS]
    rows = [
        [f"`{event.key}`", f"{event.self_cpu_time_total / 1e6 / whole:.1%}", f"{event.count / iterations:.0f}"]
        for event in spent
    ]
    return table(["operation", "share of an iteration", "calls"], rows)
