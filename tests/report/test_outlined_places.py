"""The places that an inspector is shown: on the faults of boards, and nowhere else."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ALOCC = Path(sys.executable).with_name("alocc")
EXAMPLE = Path(__file__).parents[2] / "examples/make_boards.py"


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_strongest_place_is_on_the_fault_and_good_boards_have_none(tmp_path):
    def run(*words):
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        return done

    run(sys.executable, EXAMPLE, "boards", "--good", 100, "--test", 5)
    run(ALOCC, "train", "boards", "--out", "run", "--alpha", 0.02, "--iterations", 50)
    run(ALOCC, "score", "run", "boards", "--maps", "maps", "--regions", "regions.csv", "--out", "scores.csv")
    strongest = {}
    for row in rows_of(tmp_path / "regions.csv"):
        strongest.setdefault(row["path"], row)  # the first of each image
    called = {row["path"] for row in rows_of(tmp_path / "scores.csv") if row["is_anomaly"] == "true"}
    assert strongest.keys() == called
    suspects = rows_of(tmp_path / "maps/suspects.csv")
    assert {row["path"] for row in suspects} == called
    assert {row["picture"] for row in suspects} == {
        path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.png")
    }
    hits = []
    for path, row in strongest.items():
        kind, stem = Path(path).parent.name, Path(path).stem
        if kind != "good":
            mask = np.asarray(Image.open(tmp_path / "boards/ground_truth" / kind / f"{stem}_mask.png")) > 0
            x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
            hits.append(mask[y : y + height, x : x + width].any())
    assert len(hits) >= 30 and np.mean(hits) >= 0.9
