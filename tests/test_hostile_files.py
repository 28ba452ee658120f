"""A thousand damaged files, and a folder as people have them, through the command line in a process of its own."""

import csv
import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

ALOCC = Path(sys.executable).with_name("alocc")
TINY = ["--set", "networks.width=4", "--set", "training.batch_size=16", "--iterations", "10"]
SUFFIXES = ("png", "jpg", "bmp", "tif", "webp")
N_MUTATED = 1_000
MORE_MB = 1_250
"""Decoding the largest image that is allowed takes 1,000 MB for a moment, beside what scoring takes anyway."""

pytestmark = pytest.mark.slow


class Done(NamedTuple):
    stdout: str
    stderr: str
    peak_mb: float


def run(*words):
    """Run alocc to its end; the kernel says how much memory this one process had at most."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([ALOCC, *map(str, words)], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        watchdog = threading.Timer(300, process.kill)
        watchdog.start()
        _, status, used = os.wait4(process.pid, 0)
        watchdog.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout, stderr = (file.read() for file in (out, err) if file.seek(0) == 0)
    assert process.returncode == 0 and "Traceback" not in stderr, stderr
    return Done(stdout, stderr, used.ru_maxrss / 1024)


def scores_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def picture(rng, height, width):
    """A coloured disc on noise."""
    rows, columns = np.ogrid[:height, :width]
    inside = ((rows / height - 0.5) ** 2 + (columns / width - 0.5) ** 2 < 0.1)[..., None]
    return (inside * np.array([120, 160, 60]) + rng.integers(0, 60, (height, width, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(picture(rng, 24, 20)).save(root / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def run_folder(good, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run("train", good, "--out", out, *TINY)
    return out


@pytest.fixture(scope="module")
def most_mb(good, run_folder):
    """What the process may take on this machine, whatever libraries take here."""
    return run("score", run_folder, good).peak_mb + MORE_MB


def originals(rng):
    """Encoded images of every format, in several variants."""
    pixels = picture(rng, 30, 26)
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, options in (
        (Image.fromarray(pixels), {}),
        (Image.fromarray(pixels[..., 0]), {}),
        (Image.fromarray(pixels).quantize(16).convert("RGB"), {"exif": exif, "compression": "tiff_lzw"}),
        (Image.fromarray(pixels).convert("RGB"), {"progressive": True, "compression": "tiff_deflate"}),
    ):
        for suffix in SUFFIXES:
            buffer = io.BytesIO()
            kept = options if suffix == "tif" else {name: x for name, x in options.items() if name != "compression"}
            image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **kept)
            yield suffix, buffer.getvalue()


def mutated(content, rng):
    """One to three byte flips, cuts, insertions, repetitions or edits of the header."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        n = len(content)
        at = int(rng.integers(0, max(1, n)))
        kind = rng.integers(0, 6)
        if kind == 0:
            for place in rng.integers(0, n, 8):
                content[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del content[max(4, at) :]
        elif kind == 2:
            content[at:at] = rng.bytes(int(rng.integers(1, 40)))
        elif kind == 3:
            content[at:at] = content[at : at + 64]
        else:  # sizes, offsets and counts stand near the beginning
            place = int(rng.integers(4, 64))
            content[place : place + 2] = rng.choice([b"\xff\xff", b"\x00\x00", b"\x7f\xff", b"\x20\x00", b"\x00\x20"])
    return bytes(content)


def test_a_thousand_mutated_files_are_each_scored_or_named(run_folder, most_mb, tmp_path):
    rng = np.random.default_rng(0)
    sources = list(originals(rng))
    names = set()
    for i in range(N_MUTATED):
        suffix, content = sources[i % len(sources)]
        names.add(f"{i:04}.{suffix}")
        (tmp_path / f"{i:04}.{suffix}").write_bytes(mutated(content, rng))
    done = run("score", run_folder, tmp_path, "--out", tmp_path / "scores.csv")
    rows = scores_of(tmp_path / "scores.csv")
    files = [Path(row["path"].partition("#page=")[0]).name for row in rows]
    assert set(files) == names  # pages that a damaged TIFF claims to have are rows of their own
    n_scored, n_skipped = (sum(bool(row[column]) for row in rows) for column in ("anomaly_score", "error"))
    assert n_scored + n_skipped == len(rows) and len(rows) < N_MUTATED + 60
    assert n_scored > 50 and n_skipped > 200
    assert all(np.isfinite(float(row["anomaly_score"])) for row in rows if not row["error"])
    assert all(Path(row["path"]).name in row["error"] for row in rows if row["error"])
    assert f"{n_skipped} images could not be used" in done.stderr
    assert done.peak_mb < most_mb


def test_headers_that_promise_the_most_pixels_allowed_do_not_take_gigabytes(run_folder, most_mb, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8_900, 8_900), (200, 90, 30)).save(buffer, "PNG", compress_level=1)
    for i in range(6):  # as many as there are threads
        (tmp_path / f"{i}.png").write_bytes(buffer.getvalue()[: None if i < 2 else -5_000])
    done = run("score", run_folder, tmp_path, "--out", tmp_path / "scores.csv")
    assert [bool(row["error"]) for row in scores_of(tmp_path / "scores.csv")] == [False] * 2 + [True] * 4
    assert done.peak_mb < most_mb


def test_two_hundred_photographs_of_which_three_are_none(tmp_path):
    rng = np.random.default_rng(1)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for i in range(200):
        height, width = rng.integers(60, 160, 2)
        Image.fromarray(picture(rng, height, width)).save(photographs / f"{i:03}.jpg", quality=85)
    cut = photographs / "017.jpg"
    cut.write_bytes(cut.read_bytes()[:700])
    Image.new("1", (12_000, 8_000)).save(photographs / "bomb.jpg", "PNG")
    (photographs / "words.jpg").write_text("no picture at all")
    bad = ["017.jpg", "bomb.jpg", "words.jpg"]
    out = tmp_path / "run"
    told = run("train", photographs, "--out", out, "--set", "images.size=[24,24]", *TINY).stderr
    assert all(name in told for name in bad)
    done = run(
        "score", out, photographs, "--maps", tmp_path / "maps", "--maps-of", "all", "--out", tmp_path / "scores.csv"
    )
    assert "3 images could not be used" in done.stderr and all(name in done.stderr for name in bad)
    rows = scores_of(tmp_path / "scores.csv")
    assert sorted(Path(row["path"]).name for row in rows if row["error"]) == bad and len(rows) == 202
    assert len(list((tmp_path / "maps").glob("*.png"))) == 199
    run("report", out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in bad)
