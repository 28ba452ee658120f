"""Folds that train in processes of their own, side by side, or each in several processes together.

What trains elsewhere ends in its checkpoints: the process that asked goes on from these, as from those of a training
that was stopped at its very end. So nothing else of a training knows of other processes.

Processes that are started here find the images that they train with in shared memory, once for all of them, and read
nothing. Each has a line to the one that asked: of what happens there, one way, and that it should stop, the other way.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.multiprocessing
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from alocc.errors import AloccError, ConfigError, StoppedError
from alocc.stages import stage
from alocc.training.folds import FoldTask, make_fabric, n_gpus, train_fold
from alocc.training.loop import Hooks, Moment, as_stage
from alocc.training.plan import Device, Plan, Settings
from alocc.training.ranks import Ranks, first_has, follows, joined, launched_here, launched_number, launched_size

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOOK_EVERY = 0.1
"""Seconds between two looks at whether a training should stop."""


class Together(NamedTuple):
    """Where processes meet that train the same networks, and which of them one is."""

    port: int
    rank: int
    size: int


@dataclass(frozen=True)
class Work:
    """What one process does."""

    tasks: Sequence[FoldTask]
    """One after the other."""
    device: Device
    number: int
    """Of its GPU, where there are several."""
    threads: int
    together: Together | None = None

    @property
    def precision(self) -> Literal["auto", "32-true", "bf16-mixed"]:
        """Of all tasks."""
        return self.tasks[0].plan.config.training.precision

    @property
    def name(self) -> str:
        """For people."""
        if self.together:
            return f"process {self.together.rank + 1} of {self.together.size}"
        return "the process of fold " + " and ".join(str(task.fold + 1) for task in self.tasks)


@dataclass
class Worker:
    """A process, as the one that started it sees it."""

    work: Work
    process: BaseProcess
    line: Connection
    was_heard: bool = False
    """Or need not be, as the first of those that train together speaks for all."""
    is_done: bool = False


@dataclass
class Progress:
    """Iterations of all folds, by what their processes say."""

    plan: Plan
    hooks: Hooks
    resumed: int = 0
    """Iterations that were done before, until that was said."""
    latest: dict[int, Moment] = field(default_factory=dict)
    """Of each fold that is under way."""
    left: dict[int, float] = field(default_factory=dict)
    """Iterations of each fold that is not at its end."""

    def __post_init__(self) -> None:
        self.left = {fold: self.length(fold) for fold in range(len(self.plan.phases))}

    def length(self, fold: int) -> int:
        """Iterations of a fold, as planned."""
        return self.plan.length_before(fold + 1) - self.plan.length_before(fold)

    @property
    def done(self) -> int:
        """Iterations done."""
        ended = sum(self.length(fold) for fold in range(len(self.plan.phases)) if fold not in self.left)
        return ended + sum(moment.iteration for moment in self.latest.values())

    def show(self, fold: int, moment: Moment) -> None:
        """Tell the hooks how far all folds are, with the losses of the first of them."""
        self.latest[fold], self.left[fold] = moment, moment.left
        first = self.latest[min(self.latest)]
        shown = Moment(
            first.phase, self.done, self.plan.length, first.losses, sum(self.left.values()), self.hooks.later
        )
        (self.hooks.progress or as_stage)(shown)

    def end(self, fold: int) -> None:
        """A fold is at its end."""
        self.left.pop(fold)
        self.latest.pop(fold, None)


def n_ranks(settings: Settings) -> int:
    """How many processes train the same networks.

    Raises:
        ConfigError: if there are not as many as the settings say, or cannot be, or the training cannot be spread.
    """
    devices, nodes, size = settings.devices, settings.nodes, launched_size()
    if min(settings.processes, 1 if devices is None else devices) < 1:
        raise ConfigError("processes and devices must be at least 1")
    if follows():
        raise ConfigError("a launcher started several of these; have it start alocc train, which shares the work")
    if settings.processes > 1 and max(size, devices or 1) > 1:
        raise ConfigError("--processes trains folds side by side, --devices each of them together: give one of the two")
    if size > 1 and (devices not in (None, launched_here()) or nodes not in (None, size // launched_here())):
        raise ConfigError(
            f"the launcher started {launched_here()} processes on each of {size // launched_here()} nodes; leave "
            "--devices and --nodes out, or give the same"
        )
    if size == 1 and (nodes or 1) > 1:
        raise ConfigError(
            f"--nodes {nodes}: each node has to start its own processes; run on each: torchrun --nnodes {nodes} "
            "--nproc-per-node N --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m alocc train …"
        )
    if size == 1 and (devices or 1) > 1:
        _check_devices(settings.device, devices or 1)
    size = max(size, devices or 1)
    if size * settings.processes > 1 and settings.out is None:
        raise ConfigError("several processes meet in their run folder: give out")
    return size


def _check_devices(device: Device, devices: int) -> None:
    n = n_gpus(device)
    if device == "mps":
        raise ConfigError(f"--devices {devices}: of mps there is one; leave --devices out")
    if (n or device == "cuda") and devices > n:
        raise ConfigError(
            f"--devices {devices}: this machine has {n} GPU{'s' * (n != 1)}; give at most as many, or --device cpu"
        )


def train_apart(tasks: Sequence[FoldTask], device: Device, processes: int, hooks: Hooks) -> None:
    """Train all folds to their last checkpoints, so many at a time, each in a process with its share of the threads.

    Raises:
        StoppedError: if the hooks asked to stop; each fold has a checkpoint of where it was.
        ConfigError: if a process ended; the checkpoints are usable.
    """
    threads = max(1, torch.get_num_threads() // processes)
    works = [Work(tasks[i::processes], device, i, threads) for i in range(processes)]
    _train(works, Progress(tasks[0].plan, hooks))


def train_together(tasks: Sequence[FoldTask], device: Device, devices: int, hooks: Hooks) -> None:
    """Train all folds to their last checkpoints, one after the other, each by so many processes together.

    Raises:
        StoppedError, ConfigError: as :func:`train_apart`.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = max(1, torch.get_num_threads() // devices)
    together = [Together(store.port, rank, devices) for rank in range(devices)]
    works = [Work(tasks, device, one.rank, threads, one) for one in together]
    _train(works, Progress(tasks[0].plan, hooks))


@contextmanager
def leading(device: Device, fabric: Fabric) -> Iterator[Ranks]:
    """Be the first of the processes that a launcher started: the others wait for tasks until this is left."""
    if launched_size() == 1:
        yield Ranks(fabric)
        return
    with joined(_backend_device(device)) as (rank, size):
        try:
            yield Ranks(fabric, rank, size)
        finally:
            with suppress(AloccError):  # they have left already
                first_has(None)


def lead(tasks: Sequence[FoldTask], ranks: Ranks, hooks: Hooks) -> None:
    """Train all folds to their last checkpoints, with the other processes that a launcher started.

    Raises:
        StoppedError, ConfigError: as :func:`train_apart`.
    """
    first_has([task.for_others() for task in tasks])
    for task in tasks:
        train_fold(task, ranks, hooks)


def follow(device: Device, hooks: Hooks) -> None:
    """Be another one of the processes that a launcher started: train what the first one says, and leave with it."""
    with joined(_backend_device(device)) as (rank, size):
        while tasks := first_has(None):
            precision = tasks[0].plan.config.training.precision
            ranks = Ranks(make_fabric(device, precision, launched_number()), rank, size)
            for task in tasks:
                train_fold(task, ranks, hooks)


def _train(works: Sequence[Work], progress: Progress) -> None:
    stage("starting processes")
    for work in works:
        _share_images(work.tasks)
    context = torch.multiprocessing.get_context("spawn")
    workers: list[Worker] = []
    try:
        with _signals_wait():
            for work in works:
                ours, theirs = context.Pipe()
                tasks = [_alone(task.for_others()) for task in work.tasks]
                process = context.Process(target=_work, args=(theirs, replace(work, tasks=tasks)), daemon=True)
                process.start()
                theirs.close()
                workers.append(Worker(work, process, ours, was_heard=bool(work.together and work.together.rank)))
        _listen(workers, progress)
    finally:
        for worker in workers:
            worker.process.kill()  # which does nothing to those that have ended
            worker.process.join()
            worker.line.close()


def _listen(workers: Sequence[Worker], progress: Progress) -> None:
    """Hear the processes until all folds, or all processes, are at their end.

    Raises:
        AloccError: what went wrong in one of them.
    """
    asked, stopping = progress.hooks.stop_requested, False
    while progress.left and (waiting := [worker for worker in workers if not worker.is_done]):
        ready = wait([worker.line for worker in waiting], LOOK_EVERY)
        for worker in waiting:
            if worker.line in ready:
                _hear(worker, workers, progress)
        if not stopping and asked and asked():
            stopping = True
            for worker in waiting:
                with suppress(OSError):  # it has ended
                    worker.line.send("stop")
    if stopping:
        raise StoppedError(f"stopped after {progress.done} of {progress.plan.length} iterations")


def _hear(worker: Worker, workers: Sequence[Worker], progress: Progress) -> None:
    """Take what a process says next, or that it has ended."""
    hooks, worker.was_heard = progress.hooks, True
    try:
        what, *said = worker.line.recv()
    except (EOFError, OSError):
        worker.process.join()
        what, said, worker.is_done = "", [], True
    if what == "resumed":
        progress.resumed += said[0]
    elif what == "progress":
        if progress.resumed and hooks.resumed and all(one.was_heard for one in workers):
            hooks.resumed(progress.resumed)
            progress.resumed = 0
        progress.show(*said)
    elif what == "ended":
        progress.end(said[0])
    elif what == "row" and hooks.row:
        fold, done, row = said
        hooks.row(fold, progress.plan.length_before(fold) + done, row)
    elif what == "warned":
        hooks.warned(said[0])
    for one in workers:  # before what others say of it
        if one.process.exitcode:
            raise _ended(one, one.process.exitcode)
    if what == "failed" and not isinstance(said[0], StoppedError):
        raise said[0]


def _ended(worker: Worker, code: int) -> ConfigError:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    why = "; if memory ran out, fewer processes need less" if code == -signal.SIGKILL else ""
    return ConfigError(f"{worker.work.name} {how}{why}; the same command goes on from the checkpoints")


def _work(line: Connection, work: Work) -> None:
    """What a process does that was started here; of its end the line tells, which is cut then."""
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    torch.set_num_threads(work.threads)
    try:
        with _joined_started(work) as (rank, size):
            ranks = Ranks(make_fabric(work.device, work.precision, work.number), rank, size)
            for task in work.tasks:
                hooks = _telling(line, task.fold) if rank == 0 else Hooks(_ignore, stop_requested=line.poll)
                train_fold(task, ranks, hooks)
                if rank == 0:
                    line.send(("ended", task.fold))
    except AloccError as error:
        line.send(("failed", error))
    os._exit(0)  # nothing is left to do, and threads of gloo may abort a process that winds up while others have left


def _end_with(parent: BaseProcess) -> None:
    """End at once when the process that asked has ended: another one may go on from the checkpoints."""
    wait([parent.sentinel])
    os._exit(1)


def _telling(line: Connection, fold: int) -> Hooks:
    return Hooks(
        progress=lambda moment: line.send(("progress", fold, moment)),
        resumed=lambda done: line.send(("resumed", done)),
        stop_requested=line.poll,
        row=lambda _, done, row: line.send(("row", fold, done, row)),
        warned=lambda message: line.send(("warned", message)),
    )


def _alone(task: FoldTask) -> FoldTask:
    """As if there were no other folds: the process that asked adds them up."""
    phases = tuple(own if fold == task.fold else () for fold, own in enumerate(task.plan.phases))
    return replace(task, plan=replace(task.plan, phases=phases))


def _share_images(tasks: Sequence[FoldTask]) -> None:
    """Move what is trained with to shared memory, where every process finds it."""
    try:
        for images in (task.images for task in tasks):
            images.fit.share_memory_()  # type: ignore[no-untyped-call]
            images.held_out.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"shared memory has no room for the images ({reason}); make /dev/shm larger, or train in one process"
        ) from None


@contextmanager
def _signals_wait() -> Iterator[None]:
    """What is started here never sees Ctrl-C or SIGTERM: this process decides when the others stop."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started later, it would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _joined_started(work: Work) -> Iterator[tuple[int, int]]:
    if work.together is None:
        yield 0, 1
        return
    port, rank, size = work.together
    store = TCPStore("127.0.0.1", port, is_master=False)
    with joined(_backend_device(work.device), store=store, rank=rank, world_size=size) as where:
        yield where


def _backend_device(device: Device) -> str:
    return "cuda" if n_gpus(device) else "cpu"


def _ignore(moment: Moment) -> None:
    """What nobody wants to see."""
