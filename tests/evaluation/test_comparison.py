"""Detectors side by side, through the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ALOCC = Path(sys.executable).with_name("alocc")


def alocc(*words, code=0):
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run([ALOCC, *map(str, words)], capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Good parts, bad ones, and two detectors of the good ones, of other sizes."""
    root, rng = tmp_path_factory.mktemp("compare"), np.random.default_rng(0)
    y, x = np.mgrid[:24, :20]
    for folder, n in (("train/good", 40), ("test/good", 12), ("test/bad", 8)):
        (root / "parts" / folder).mkdir(parents=True)
        for i in range(n):
            inside = np.hypot(y - 12 - rng.uniform(-1, 1), x - 10) < 6
            image = inside * 150 + rng.integers(0, 40, inside.shape)
            if folder == "test/bad":
                image[:, :10] = 200 - image[:, :10]
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "parts" / folder / f"{i:02}.png")
    for name, side in (("small", 19), ("large", 24)):
        settings = ["--set", "networks.width=4", "--set", f"images.longest={side}", "--iterations", "20"]
        alocc("train", root / "parts", "--out", root / name, *settings)
    return root


def test_figures_are_those_that_evaluate_gives(parts):
    runs = [parts / "small", parts / "large"]
    compared = json.loads(alocc("compare", *runs, parts / "parts", "--json").stdout)
    for run, one in zip(runs, compared, strict=True):
        alone = json.loads(alocc("evaluate", run, parts / "parts", "--json", "--bootstrap", "0").stdout)
        assert one["detector"] == str(run)
        assert one["auroc"] == alone["auroc"]
        assert one["recall"] == [round(alone["recall"] * 8), 8]
        assert one["false_alarms"][1] == 12 and one["n_images"] == 20
        assert one["recall"][0] + one["false_alarms"][0] == one["n_anomalies"]
    assert [one["images"] for one in compared] == ["16×19 grey", "20×24 grey"]  # width × height
    assert "same_verdicts" not in compared[0] and 0 <= compared[1]["same_verdicts"] <= 1


def test_without_labels_it_counts_and_without_images_it_describes(parts):
    runs = [parts / "small", parts / "large"]
    shown = alocc("compare", *runs, parts / "parts/test/good").stdout
    assert "called anomalous" in shown and "same verdicts as the first" in shown and "AUROC" not in shown
    shown = alocc("compare", *runs).stdout
    assert "20×24 grey" in shown and "called anomalous" not in shown


def test_one_detector_or_none_is_refused(parts):
    for words in ((parts / "small",), (parts / "small", parts / "parts"), (parts / "parts",)):
        assert "two detectors or more" in alocc("compare", *words, code=2).stderr
    assert "does not exist" in alocc("compare", parts / "small", parts / "large", "nowhere", code=2).stderr
