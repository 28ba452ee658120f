"""A training that is killed at any moments, and given the same command again each time, ends with the same bytes.

``ALOCC_KILLS=500`` kills it as often; 20 kills take about a minute.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

KILLS = int(os.environ.get("ALOCC_KILLS", "20"))
TINY = [
    *("--iterations", "80", "--set", "networks.width=4", "--set", "training.batch_size=8"),
    *("--set", "scoring={d=1.0, mse=1.0, texture=1.0, neighbours=1.0}", "--set", "maps={mse=1.0, places=1.0}"),
]
COMMANDS = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import lightning_fabric, scipy.stats, sklearn.covariance
import alocc.evaluation.health, alocc.training.loop, alocc.training.run
from alocc.cli import main

alocc.training.loop.CHECKPOINT_SECONDS = 0.03
root, kills, words = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

def command(out, moment=float("inf")):
    began = time.monotonic()
    if not (child := os.fork()):
        sys.argv = ["alocc", *words, "--out", str(out)]
        code = 1
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code or 0
        finally:
            os._exit(code)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - began > moment:
            os.kill(child, signal.SIGKILL)
            moment = float("inf")
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(ended[1]), time.monotonic() - began

codes = [command(root / "whole")]
length, chance, n_killed, n_runs = codes[0][1], random.Random(0), 0, 1
while n_killed < kills or codes[-1][0]:
    moment = chance.uniform(0, length * 2 / 3) if n_killed < kills else float("inf")
    codes.append(command(root / f"killed{n_runs}", moment))
    n_killed += codes[-1][0] == -signal.SIGKILL
    n_runs += codes[-1][0] == 0 and n_killed < kills
print(json.dumps(codes))
"""
"""Trains once as it should be, then kills as often; whenever a training comes to its end, another one begins.

Each command is a process of its own, forked from one that has loaded the libraries: that takes longer than to train.
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """24 images, in a folder."""
    root = tmp_path_factory.mktemp("good")
    for i, image in enumerate(np.random.default_rng(0).integers(0, 200, (24, 28, 28), dtype=np.uint8)):
        Image.fromarray(image).save(root / f"{i:02}.png")
    return root


def content(run):
    """Every file of a run by its name, but for the seconds that it took."""
    files = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    notes = json.loads(files["run.json"])
    assert notes.pop("training_seconds") > 0
    return files | {"run.json": json.dumps(notes)}


def test_a_training_that_is_killed_at_random_moments_ends_with_the_same_bytes(good, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, tmp_path, str(KILLS), "train", good, *TINY],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    codes = [code for code, _ in json.loads(done.stdout.splitlines()[-1])]
    assert set(codes) == {0, -9} and codes.count(-9) == KILLS, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "warning: " not in done.stderr
    whole, *others = (content(run) for run in sorted(tmp_path.iterdir(), reverse=True))
    assert whole.keys() == {"config.toml", "health.json", "history.csv", "model.safetensors", "run.json"}
    assert len(others) == codes.count(0) - 1 > 0
    for other in others:
        assert other.keys() == whole.keys()
        assert [name for name in whole if other[name] != whole[name]] == []
    resumed = [int(n) for n in re.findall(r"going on from iteration (\d+)", done.stderr)]
    assert len(set(resumed)) > 2  # within phases too
