"""``alocc benchmark --engine ray`` with the real Ray: the same table as in one process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ALOCC = Path(sys.executable).with_name("alocc")


def benchmark(*words, code=0):
    done = subprocess.run([ALOCC, "benchmark", "one-vs-rest", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.mark.slow
def test_cells_in_ray_give_the_same_table_and_are_not_run_twice(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    rng = np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("bright", 120)):
        (tmp_path / "parts" / name).mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(brightness - 50, brightness + 50, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "parts" / name / f"{i}.png")
    words = [tmp_path / "parts", "--methods", "5-nn,pca", "--out"]
    benchmark(*words, tmp_path / "plain")
    ray = [*words, tmp_path / "ray", "--engine", "ray", "--processes", "2"]
    assert "4/4" in benchmark(*ray)
    assert (tmp_path / "ray" / "table.md").read_text() == (tmp_path / "plain" / "table.md").read_text()
    assert "1/4" not in benchmark(*ray)  # those that are there are not run again, and no cluster starts
    assert "--address is for --engine ray" in benchmark(*words, tmp_path / "x", "--address", "auto", code=2)
