"""A training stops at whatever stage it is asked to: its own exit code, one line, and the same bytes in the end."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

TINY = [
    *("--iterations", "12", "--set", "networks.width=4", "--set", "training.batch_size=8"),
    *("--set", "scoring={d=1.0, mse=1.0, texture=1.0}", "--set", "maps={mse=1.0, places=1.0}"),
]
STAGES = [
    *("looking for images", "fitting parts", "reconstruction", "places", "weighing parts", "calibrating"),
    *("calibrating maps", "checking health"),
]
STOPPED = """
import os, sys
import alocc.progress
from alocc.cli import main

stage, number, times = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
listening = alocc.progress.listening

def listening_and_stopping(show):
    def shown(name, done, total):
        show(name, done, total)
        if name == stage:
            for _ in range(times):
                os.kill(os.getpid(), number)
    return listening(shown)

class Progress(type(alocc.progress.open_bar())):
    def update(self, task, **shown):
        super().update(task, **shown)
        if shown["description"] == stage and shown["completed"]:
            for _ in range(times):
                os.kill(os.getpid(), number)

alocc.progress.listening = listening_and_stopping
alocc.progress.Progress = Progress
main()
"""
"""The command line, which sends itself a signal in a stage of a training, or in one of its phases."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """24 images, in a folder."""
    root = tmp_path_factory.mktemp("good")
    for i, image in enumerate(np.random.default_rng(0).integers(0, 200, (24, 28, 28), dtype=np.uint8)):
        Image.fromarray(image).save(root / f"{i:02}.png")
    return root


def train(good, out, stage="none", number=signal.SIGINT, times=1):
    """Exit code and standard error."""
    words = ["-c", STOPPED, stage, int(number), times, "train", good, "--out", out, *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_stop_in_any_stage_loses_nothing(good, tmp_path):
    assert train(good, tmp_path / "whole")[0] == 0
    stopped = tmp_path / "stopped"
    for stage, number in zip(STAGES, [signal.SIGTERM, signal.SIGINT] * len(STAGES), strict=False):
        code, err = train(good, stopped, stage, number)
        assert code == 128 + number, (stage, err)
        assert re.fullmatch(r"stopped( after \d+ of \d+ iterations.*)?; the same command goes on", err.splitlines()[-1])
        assert ("iterations" in err.splitlines()[-1]) == (stage in ("reconstruction", "places")), stage
    assert train(good, stopped)[0] == 0
    assert {path.name for path in stopped.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    for name in ("model.safetensors", "history.csv", "health.json", "config.toml"):
        assert (stopped / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_second_signal_does_not_wait_for_the_iteration(good, tmp_path):
    code, err = train(good, tmp_path / "run", "reconstruction", times=2)
    assert (code, err.splitlines()[-1]) == (130, "stopped; the same command goes on")
