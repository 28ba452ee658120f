"""Threads of the command line, beside other programs."""

import os
import subprocess
import sys

import pytest

from alocc.cli import cores
from alocc.cli.cores import OF_MACHINE, free_cores


@pytest.mark.parametrize(
    ("cores", "others", "wanted", "threads"),
    [
        (2, 0.0, 2, 2),
        (2, 0.4, 2, 2),  # less than half a core is no reason
        (2, 0.97, 2, 1),
        (2, 7.0, 2, 1),  # one at least
        (16, 9.8, 16, 6),
        (64, 30.0, 8, 8),  # torch was given few of many cores
    ],
)
def test_as_many_threads_as_there_are_free_cores(cores, others, wanted, threads):
    assert free_cores(cores, others, wanted) == threads


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", "cpu a b c d e f g h\n", "\0" * 40, None])
def test_a_machine_that_says_something_odd_is_not_asked(tmp_path, monkeypatch, text):
    if text is not None:
        (tmp_path / "stat").write_text(text)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "OF_MACHINE", tmp_path / "stat")
    monkeypatch.setattr(cores, "_started", (0.0, 0.0))
    assert cores._seconds() is None
    cores.use_free_cores()


COUNTED = """
from alocc.cli.cores import use_free_cores
import torch
torch.set_num_threads(2)
use_free_cores()
print(torch.get_num_threads())
"""


@pytest.mark.skipif(not OF_MACHINE.exists(), reason="only Linux says how busy its cores are")
def test_beside_busy_programs_one_thread_computes_unless_the_environment_decides():
    plain = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        few, as_told = (
            subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True, env=env)
            for env in (plain, plain | {"OMP_NUM_THREADS": "2"})
        )
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert few.stdout.strip() == "1"
    assert "other programs are busy: computing with 1 of 2 threads" in few.stderr
    assert as_told.stdout.strip() == "2"
    assert as_told.stderr == ""
