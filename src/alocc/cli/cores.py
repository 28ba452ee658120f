"""Threads to compute with: no more than there are cores that nobody else is using (docs/decisions/0009)."""

from __future__ import annotations

import os
import time
from pathlib import Path

OF_MACHINE = Path("/proc/stat")
"""Its first line: seconds of all cores in user, nice, system, idle, iowait, irq, softirq … code, in ticks."""


def _seconds() -> tuple[float, float] | None:
    """Since some time, and how long cores computed for other processes; none where the machine does not say."""
    try:
        user, nice, system, _, _, irq, softirq = map(int, OF_MACHINE.read_text().split(maxsplit=8)[1:8])
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):  # only Linux says, and not in every container
        return None
    return time.monotonic(), busy - time.process_time()


_started = _seconds()  # heavy libraries load meanwhile


def count_free_cores() -> int:
    """How many cores other programs have left since this program started; all, if that is not known."""
    cores = os.cpu_count() or 1
    if _started is None or (measured := _seconds()) is None:
        return cores
    (since, before), (now, busy) = _started, measured
    return free_cores(cores, (busy - before) / max(now - since, 0.01), cores)


def use_free_cores() -> None:
    """Give torch fewer threads where others have kept cores busy since this program started.

    Threads that wait for one that has no core make the work take many times as long. ``OMP_NUM_THREADS`` decides
    instead where it is set.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    from alocc.cli.console import print_note

    wanted = torch.get_num_threads()
    threads = min(count_free_cores(), wanted)
    if threads < wanted:
        torch.set_num_threads(threads)
        print_note(f"other programs are busy: computing with {threads} of {wanted} threads; OMP_NUM_THREADS sets them")


def free_cores(cores: int, others: float, wanted: int) -> int:
    """Threads to use where others keep so many cores busy."""
    return max(1, min(wanted, round(cores - others)))
