"""The image sets: there, of the described type, and the same every time; and the script that runs methods on them."""

import json
import subprocess
import sys
from pathlib import Path

import image_sets
import numpy as np
import pytest
from image_sets import SUITE, load_set

from alocc.benchmark.cells import UnavailableError

QUICK = ["digits", "washers", "metal"]
SCRIPT = Path(image_sets.__file__).with_name("suite.py")


@pytest.mark.parametrize("name", SUITE)
def test_set_is_what_it_says(name):
    try:
        made = load_set(name)
    except UnavailableError as error:
        pytest.skip(str(error))
    about = SUITE[name][0]
    side = int(about.split("×")[0].split()[-1])
    assert made.train.dtype == made.test.dtype == np.uint8
    assert made.train.shape[1:3] == made.test.shape[1:3] == (side, side)
    assert made.train.ndim == (4 if "colour" in about else 3)
    assert f"{len(made.train):,} normals" in about
    assert len(made.is_anomalous) == len(made.test)
    assert made.is_anomalous.sum() > 20 and (~made.is_anomalous).sum() > 20
    trained = {image.tobytes() for image in made.train}
    assert len(trained) > 0.99 * len(made.train)
    assert not any(image.tobytes() in trained for image in made.test)


@pytest.mark.parametrize("name", QUICK)
def test_set_is_the_same_every_time(name):
    one, other = load_set(name), load_set(name)
    assert np.array_equal(one.train, other.train) and np.array_equal(one.test, other.test)


def test_a_set_that_is_not_installed_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(image_sets, "CLOTHES", tmp_path)
    with pytest.raises(UnavailableError, match="dataset-fashion-mnist"):
        load_set("clothes")


def run(*words):
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True)


def test_the_script_takes_several_words_goes_on_and_writes_the_table(tmp_path):
    words = ["--out", tmp_path / "b", "--methods", "5-nn", "pca", "--sets", "washers", "digits", "--processes", 2]
    first = run(*words)
    assert first.returncode == 0 and "4/4" in first.stderr and "washers" in first.stdout
    table = json.loads((tmp_path / "b" / "table.json").read_text())
    assert set(table["rows"]) == {"5-nn", "pca"} and {"washers", "digits"} <= set(table["rows"]["pca"])
    assert (tmp_path / "b" / "table.md").read_text().startswith("**AUROC on the suite**")
    assert "4/4" not in run(*words).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--methods", "9-nn"], 'no method "9-nn"'), (["--sets", "plants"], 'no "plants" in suite; it has: digits')],
)
def test_the_script_refuses_unknown_names(words, message, tmp_path):
    done = run("--out", tmp_path / "b", *words)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "b").exists()
