"""Folds train side by side in processes, which end with the bytes of one process, whatever happens on the way."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from alocc.training import processes

TINY = [
    *("--iterations", "40", "--set", "networks.width=4", "--set", "training.batch_size=5"),
    *("--set", "scoring={d=1.0, mse=1.0, texture=1.0}", "--set", "maps={mse=1.0, places=1.0}"),
]
SAME = ("config.toml", "health.json", "history.csv", "model.safetensors")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Sums of several threads have another order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where the first test leaves what one process makes."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def at(monkeypatch):
    """Do something once, when so many iterations of all folds are done."""

    def wait_for(done, act):
        show = processes.Progress.show

        def shown(self, fold, moment):
            show(self, fold, moment)
            if self.done >= done:
                monkeypatch.setattr(processes.Progress, "show", show)
                act()

        monkeypatch.setattr(processes.Progress, "show", shown)

    return wait_for


def kill_a_process():
    os.kill(max(child.pid for child in multiprocessing.active_children()), signal.SIGKILL)  # the last one


def given(which):
    """What a signal does, without one, which would end this process where no handler is."""
    assert which not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    signal.getsignal(which)(which, None)


@pytest.mark.slow
def test_folds_side_by_side_end_with_the_bytes_of_one_process(alocc, good, whole, tmp_path, at):
    alocc("train", good, "--out", whole, *TINY)
    several = tmp_path / "several"
    command = ["train", good, "--out", several, *TINY, "--processes", "3"]

    at(15, kill_a_process)
    err = alocc(*command, code=2)
    assert "warning: --processes 3: this training has 2 folds" in err
    last = err.splitlines()[-1]
    assert last.startswith("error: the process of fold 2 was killed by signal 9") and last.endswith(
        "the same command goes on from the checkpoints"
    )
    assert not multiprocessing.active_children()

    at(25, lambda: given(signal.SIGTERM))
    err = alocc(*command, code=143)
    assert err.splitlines()[-1].startswith("stopped after ") and " of 104 iterations; " in err.splitlines()[-1]
    done = int(err.splitlines()[-1].split()[2])
    assert 25 <= done < 104 and not multiprocessing.active_children()  # on a busy machine the others run on for a while

    err = alocc(*command)
    assert f"going on from iteration {done}, where it was stopped" in err and err.count("going on") == 1
    for name in SAME:
        assert (several / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_two_devices_are_stopped_killed_and_gone_on_with_by_another_number(alocc, good, tmp_path, at):
    command = ["train", good, "--out", tmp_path / "run", *TINY]
    at(15, lambda: given(signal.SIGINT))
    err = alocc(*command, "--devices", "2", code=130)
    assert err.splitlines()[-1].startswith("stopped after 1")

    began = []
    at(30, lambda: began.append(time.monotonic()) or kill_a_process())
    err = alocc(*command, "--devices", "3", code=2)
    assert time.monotonic() - began[0] < 10
    assert "going on from iteration 1" in err
    assert err.splitlines()[-1].startswith("error: process 3 of 3 was killed by signal 9")
    assert not multiprocessing.active_children()

    assert "going on from iteration" in alocc(*command)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_processes_end_with_the_one_that_started_them(good, tmp_path, how, code):
    words = ["train", good, "--out", tmp_path / "run", *TINY, "--iterations", "100000", "--processes", "2"]
    job = subprocess.Popen([sys.executable, "-m", "alocc", *map(str, words)], stderr=subprocess.DEVNULL)
    names = [tmp_path / "run" / "checkpoints" / name for name in ("last.safetensors", "fold2.safetensors")]
    while not all(name.exists() for name in names):
        assert job.poll() is None
        time.sleep(0.1)
    started = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    training = [pid for pid in started if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(training) == 2
    job.send_signal(how)
    assert job.wait(60) == code
    ends = time.monotonic() + 5
    while any(is_running(pid) for pid in training):
        assert time.monotonic() < ends
        time.sleep(0.1)


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--processes 2 --devices 2", "--processes trains folds side by side, --devices each of them together"),
        ("--processes 2 --watch mnist", "a training is watched in one process"),
        ("--nodes 2", "--nodes 2: each node has to start its own processes; run on each: torchrun --nnodes 2"),
        ("--devices 6 --device cpu", "6 processes cannot share batches of 5 images"),
        ("--devices 99 --device cuda", "--devices 99: this machine has "),
        ("--devices 2 --device mps", "--devices 2: of mps there is one"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(alocc, good, tmp_path, options, line):
    err = alocc("train", good, "--out", tmp_path / "run", *TINY, *options.split(), code=2)
    assert err.splitlines()[-1].startswith("error: ") and line in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
