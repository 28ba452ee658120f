"""``alocc score --engine ray`` with the real Ray: the plain engine's rows, whatever happens to a worker."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.cli import main
from alocc.config import preset, with_settings

ALOCC = Path(sys.executable).with_name("alocc")
SIDE = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run, and a folder of 1,500 images in two classes, some of which are none; the plain engine's table of them."""
    root, rng = tmp_path_factory.mktemp("scale"), np.random.default_rng(0)
    config = with_settings(preset("article"), ["networks.width=4", "training.batch_size=16"])
    images = rng.integers(0, 256, (1_500, SIDE, SIDE), dtype=np.uint8)
    alocc.train(images[:60], config=config, iterations=6, out=root / "run")
    for name in ("a", "b"):
        (root / "parts" / name).mkdir(parents=True)
    for i, image in enumerate(images):
        path = root / "parts" / "ab"[i > 800] / f"{i}.png"
        path.write_bytes(b"") if 500 < i < 770 or i % 400 == 7 else Image.fromarray(image).save(path)
    score(root, "parts", "--out", "plain.csv")
    return root


@pytest.fixture
def needs_ray():
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")


def start(root, *words):
    # in its own folder: a relative path must be found by workers in others; in its own session, as a terminal's job is
    command = [ALOCC, "score", "run", *map(str, words)]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True)


def score(root, *words, code=0):
    process = start(root, *words)
    err = process.communicate()[1]
    assert process.returncode == code, err
    return err


def workers_of(pid):
    """Processes below one that load a detector."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue

    def is_below(other):
        while other in parents and other != pid:
            other = parents[other]
        return other == pid

    return [one for one in parents if is_below(one) and b"MapWorker" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.mark.slow
def test_the_table_is_that_of_the_plain_engine_after_a_stop_too(needs_ray, root):
    kept = root / ".ray.csv.unfinished"
    words = ["parts", "--engine", "ray", "--workers", "2", "--out", "ray.csv"]
    process = start(root, *words)
    err = ""
    while process.poll() is None and not workers_of(process.pid):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    err = process.communicate()[1]
    assert process.returncode == 130 and "the same command" in err.splitlines()[-1], err
    err = score(root, *words)
    assert (root / "ray.csv").read_bytes() == (root / "plain.csv").read_bytes() and not kept.exists()
    assert "of 1,227 images are anomalies at alpha" in err and "273 images could not be used" in err
    assert not [line for line in err.splitlines() if "ray" in line.lower() and "ray.csv" not in line], "it is not quiet"


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_row_of_a_folder(needs_ray, root):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    rng = np.random.default_rng(1)
    np.save(root / "many.npy", rng.integers(0, 256, (30_000, SIDE, SIDE), dtype=np.uint8))
    score(root, "many.npy", "--out", "many.parquet")
    process = start(root, "many.npy", "--engine", "ray", "--workers", "2", "--out", "many")
    while process.poll() is None and len(workers := workers_of(process.pid)) < 2:
        time.sleep(0.1)
    os.kill(workers[0], signal.SIGKILL)
    err = process.communicate()[1]
    assert process.returncode == 0, err
    table = pyarrow.parquet.read_table(root / "many").sort_by("index")
    assert table["index"].to_pylist() == list(range(30_000))
    plain = pyarrow.parquet.read_table(root / "many.parquet")
    assert table.drop_columns("index").equals(plain)
    assert f"{sum(plain['is_anomaly'].to_pylist()):,} of 30,000 images are anomalies" in err and "many written" in err


@pytest.mark.slow
def test_a_folder_has_what_cannot_be_read_the_classes_and_the_third_verdict_too(needs_ray, root):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    with zipfile.ZipFile(root / "parts.zip", "w") as archive:  # its entries open it in each worker
        for path in (root / "parts").rglob("*.png"):
            archive.write(path, path.relative_to(root / "parts"))
    words = ["parts.zip", "--alpha", "0.1", "--review-alpha", "0.3"]
    err = score(root, *words, "--engine", "ray", "--out", "folder")
    said = re.search(r"\d+ of 1,227 images are anomalies, \d+ more for a person \(can't tell .* 0\.1 and 0\.3\)", err)
    assert said and said[0] in score(root, *words, "--out", "zip.parquet")
    rows = pyarrow.parquet.read_table(root / "folder").to_pylist()
    plain = pyarrow.parquet.read_table(root / "zip.parquet").to_pylist()
    assert sorted(row.pop("index") for row in rows) == list(range(1_500)) and "273 images could not be used" in err
    by_path = sorted(rows, key=lambda row: row["path"])
    assert by_path == sorted(plain, key=lambda row: row["path"])
    assert {row["class"] for row in rows if not row["error"]} == {"a", "b"}
    assert {row["verdict"] for row in rows} > {"can't tell", None}
    assert "folder is there already, and is no empty folder" in score(
        root, "parts.zip", "--engine", "ray", "--out", "folder", code=2
    )


@pytest.fixture
def run(monkeypatch, capsys, root):
    """Run a command line that is refused, in this process: standard error."""

    def run(*words):
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["alocc", "score", "run", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        err = capsys.readouterr().err
        assert stopped.value.code == 2 and err.count("\n") == 1, err
        return err

    return run


def test_without_ray_one_line_says_so(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert "needs Ray; install it with: pip install 'ray[data]'" in run("parts", "--engine", "ray", "--out", "x.csv")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--workers", "2"], "--workers is for --engine ray"),
        (["--address", "auto"], "--address is for --engine ray"),
        (["--engine", "ray", "--maps", "maps"], "--engine ray makes no maps"),
        (["--engine", "ray", "--out", "folder", "--top", "3"], "a folder holds all images"),
        (["--engine", "torch", "--out", "folder"], "must end in .csv"),
    ],
)
def test_what_does_not_go_together_is_refused(run, words, reason):
    assert reason in run("parts", *words)


@pytest.mark.slow
def test_what_cannot_be_cut_and_who_does_not_answer(needs_ray, root):
    pytest.importorskip("av")
    shutil.copy(root / "run" / "model.safetensors", root / "x.mp4")
    assert "cannot cut x.mp4 into parts" in score(root, "x.mp4", "--engine", "ray", "--out", "x.csv", code=2)
    with socket.socket() as bound:  # a port that nobody listens at
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        err = score(root, "parts", "--engine", "ray", "--address", address, "--out", "x.csv", code=2)
    assert f"no Ray cluster at --address {address}" in err and err.count("\n") == 1
    assert json.loads((root / "run" / "run.json").read_text()) and not (root / "x.csv").exists()
