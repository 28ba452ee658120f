"""Processes that train the same networks together, by gloo, have the numbers of one process up to the order of sums."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from scipy.stats import spearmanr
from torch import nn
from torch.distributed import TCPStore

from alocc.data.mnist import load_mnist
from alocc.detector import Detector
from alocc.seeding import generator
from alocc.training.folds import make_fabric
from alocc.training.ranks import Ranks, joined, normalise_together


def batch_norms(ranks, device="cpu"):
    """Two layers between batch normalisations, a batch of 7 and its mean over images: values, gradients, statistics."""
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1))
    for i, parameter in enumerate(network.parameters()):
        nn.init.normal_(parameter, 1.0, generator=generator(i, "weights"))
    x = 3 + 2 * torch.randn((7, 3, 6, 6), generator=generator(0, "images"))
    if ranks.size > 1:  # else it stays PyTorch's own
        normalise_together(network, ranks)
    own = ranks.share(x).clone().requires_grad_()
    y = network(own)
    mean = (y.square() * torch.linspace(0, 1, y[0].numel()).view_as(y[0])).flatten(1).mean(1).mean()
    ranks.weigh(mean, len(x)).backward()
    ranks.sum_gradients(network.parameters())
    network.eval()
    found = {name: parameter.grad for name, parameter in network.named_parameters()} | network.state_dict()
    total = ranks.mean_losses({"loss": mean}, len(x))["loss"].detach()
    return found | {"y": y.detach(), "x": own.grad, "loss": total, "eval": network(x).detach()}


def _batch_norms_of(rank, size, port, folder):
    store = TCPStore("127.0.0.1", port, is_master=False)
    with joined("cpu", store=store, rank=rank, world_size=size):
        torch.save(batch_norms(Ranks(None, rank, size)), Path(folder) / f"{rank}.pt")


def _threads_of(rank, size, port, folder):
    def has_threads():
        found = ""
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # it has ended
                found += (task / "comm").read_text()
        return "gloo" in found

    store = TCPStore("127.0.0.1", port, is_master=False)
    with joined("cpu", store=store, rank=rank, world_size=size):
        Ranks(make_fabric("cpu", "32-true"), rank, size).sum(torch.ones(3))
        during = has_threads()
    until = time.monotonic() + 5
    while has_threads() and time.monotonic() < until:  # the kernel may list one that was waited for a little longer
        time.sleep(0.05)
    (Path(folder) / str(rank)).write_text(f"{during} {has_threads()}")


@pytest.mark.skipif(sys.platform != "linux", reason="finds threads in /proc")
def test_no_thread_of_the_group_is_left_at_its_end(tmp_path):
    """One that is left may abort its process when Python shuts down, one in five times."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(_threads_of, (2, store.port, tmp_path), nprocs=2)
    assert [(tmp_path / name).read_text() for name in "01"] == ["True False"] * 2


def test_batch_normalisation_over_two_processes_is_that_of_one(tmp_path):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(_batch_norms_of, (2, store.port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = batch_norms(Ranks(None))
    assert len(first["y"]) == 3 and len(second["y"]) == 4  # 7 images
    for name in ("x", "y"):
        torch.testing.assert_close(
            torch.cat([first.pop(name), second.pop(name)]), alone.pop(name), rtol=1e-5, atol=1e-5
        )
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5, msg=name)
        assert torch.equal(first[name], second[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["robust", "ognet"])
def test_two_processes_train_like_one(alocc, tmp_path, preset):
    """On an odd batch size; networks are the same after some updates, and scores of other images in the same order."""
    images, _ = load_mnist("train", ["1"])
    np.save(tmp_path / "ones.npy", images[:60])
    command = ["train", tmp_path / "ones.npy", "--preset", preset, "--iterations", "6", "--device", "cpu"]
    command += ["--set", "training.batch_size=9", "--set", "networks.width=4", "--set", "training.precision=32-true"]
    scores = []
    for n in (1, 2):
        alocc(*command, "--out", tmp_path / str(n), "--devices", n)
        others, _ = load_mnist("test")
        scores.append(Detector.load(tmp_path / str(n)).score(others[::20]).anomaly_score)
    one, two = (Detector.load(tmp_path / n).scorer for n in "12")
    for name in ("R", "parts.d", *["parts.places"] * ("places" in one.parts)):
        weights, others = (
            torch.cat([weight.flatten() for weight in each.get_submodule(name).parameters()]) for each in (one, two)
        )
        close = torch.isclose(weights, others, rtol=1e-3, atol=1e-3).float().mean()
        assert close > 0.99, name  # Adam moves a weight without a gradient by the sign of what rounding leaves
    assert spearmanr(*scores).statistic > 0.999


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_launchers_processes_train_together_and_end_together(good, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "alocc", "train", good]
    launcher += ["--set", "networks.width=4", "--set", "training.batch_size=5", "--out", tmp_path / "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(
        [*map(str, launcher), "--iterations", "100000"], env=environment, stderr=subprocess.PIPE, text=True
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "last.safetensors"
    while not checkpoint.exists():
        assert job.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    second = next(pid for pid in children if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    time.sleep(2)
    os.kill(int(second), signal.SIGKILL)
    began = time.monotonic()
    err = job.communicate(timeout=60)[1]
    assert time.monotonic() - began < 15
    assert job.returncode
    assert len([line for line in err.splitlines() if line.startswith(("error: another process", "stopped"))]) == 1, err
    assert err.count("Traceback (most recent call last)") == 1, err  # the launcher's own

    done = subprocess.run(
        [*map(str, launcher), "--iterations", "20", "--overwrite"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("written; next") == 1
