"""A scoring job that is stopped or killed goes on, and ends with the files of one that was not."""

import errno
import fcntl
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.cli import main
from alocc.config import preset, with_settings
from alocc.data import reading, sources
from alocc.scoring import journal

ALOCC = Path(sys.executable).with_name("alocc")
SIDE = 28


def disc(rng, *, square=False):
    y, x = np.abs(np.mgrid[:SIDE, :SIDE] - SIDE / 2 + rng.uniform(-2, 2, (2, 1, 1)))
    inside = np.maximum(y, x) < 6 if square else y**2 + x**2 < 36
    return (inside * 180 + rng.integers(0, 40, inside.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two runs of 60 discs, 40 other discs and squares in two classes with files that are no images among them."""
    root, rng = tmp_path_factory.mktemp("journal"), np.random.default_rng(0)
    normals = np.stack([disc(rng) for _ in range(60)])
    config = with_settings(preset("article"), ["networks.width=4", "training.batch_size=16"])
    for seed in (0, 1):
        alocc.train(normals, config=with_settings(config, [f"seed={seed}"]), iterations=6, out=root / f"run{seed}")
    for name, n in (("good", 25), ("bad", 15)):
        (root / "parts" / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(disc(rng, square=name == "bad")).save(root / "parts" / name / f"{i:02}.png")
    for name in ("bad/0.png", "bad/12x.png", "good/24x.png"):
        (root / "parts" / name).write_bytes(b"")
    return root


STOPS = {signal.SIGINT: KeyboardInterrupt(), signal.SIGTERM: SystemExit(143)}
"""What the handlers of these signals raise; the signals themselves come to processes of their own, below."""


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process, and interrupt it when its n-th batch is read; batches are of eight images."""
    monkeypatch.setattr(reading, "BATCH", 8)
    monkeypatch.setattr(journal, "EVERY", 0.0)
    prepare_batch = sources.prepare_batch

    def run(*words, code=0, stop_at=0, stop_by=signal.SIGINT):
        n_batches = 0

        def counted(*arguments):
            nonlocal n_batches
            n_batches += 1
            if n_batches == stop_at:
                raise STOPS[stop_by]
            return prepare_batch(*arguments)

        monkeypatch.setattr(sources, "prepare_batch", counted)
        monkeypatch.setattr(sys, "argv", ["alocc", *map(str, words)])
        capsys.readouterr()
        stopped = None
        try:
            main()
        except SystemExit as end:
            stopped = end.code
        out, err = capsys.readouterr()
        assert (stopped or 0) == code, out + err
        return err, n_batches

    return run


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OPTIONS = {
    "plain": [],
    "JSON lines": ["--out", "scores.jsonl"],
    "top": ["--top", "7"],
    "only": ["--only", "anomalies", "--alpha", "0.3"],
    "false-discovery rate": ["--fdr", "0.4"],
    "maps": ["--maps", "maps", "--alpha", "0.3"],
    "all maps and regions": ["--maps", "maps", "--maps-of", "all", "--regions", "regions.csv", "--alpha", "0.3"],
    "the most anomalous maps": ["--maps", "maps", "--maps-of", "5", "--alpha", "0.3"],
    "regions at a false-discovery rate": ["--regions", "regions.jsonl", "--fdr", "0.4"],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_job_stopped_twice_ends_with_the_same_files(root, run, tmp_path, monkeypatch, options):
    command = ["score", root / "run0", root / "parts", "--out", "scores.csv", *options]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    _, n_batches = run(*command)
    monkeypatch.chdir(tmp_path / "stopped")
    n_read = 0
    for stop_at, stop_by, code in ((3, signal.SIGINT, 130), (2, signal.SIGTERM, 143)):
        err, n = run(*command, code=code, stop_at=stop_at, stop_by=stop_by)
        last = err.rstrip().splitlines()[-1]
        assert last.startswith("stopped; ") and last.endswith("the same command goes on from there"), err
        assert len(list(Path.cwd().glob(".*"))) == 1  # the journal; no draft of a table
        n_read += n - 1
    err, n = run(*command)
    assert "going on from image " in err
    again = 2 if "5" in options else 0  # what is drawn at the end is read again where it was scored before a stop
    assert n_read + n == n_batches + again  # no other image was read twice, or left out
    found = files_below(tmp_path / "stopped")
    assert found == files_below(tmp_path / "whole") and len(found) >= 1


def test_a_job_of_an_exported_file_with_maps_goes_on_too(root, run, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    from alocc.export import export

    export(alocc.Detector.load(root / "run0"), tmp_path / "model.onnx", maps=True)
    command = ["score", tmp_path / "model.onnx", root / "parts", "--out", "scores.csv", "--alpha", "0.3"]
    command += ["--maps", "maps", "--maps-of", "5", "--regions", "regions.csv"]
    for name, stop_at in (("whole", 0), ("stopped", 4)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if stop_at:
            run(*command, code=130, stop_at=stop_at)
        err, _ = run(*command)
        assert ("going on from image 25:" in err) == bool(stop_at) and "5 pictures of 40 images written" in err
    found = files_below(tmp_path / "stopped")
    assert found == files_below(tmp_path / "whole") and {"scores.csv", "regions.csv", "maps/suspects.csv"} < set(found)
    assert found["maps/suspects.csv"].splitlines()[0].endswith(b",class")


@pytest.mark.parametrize("options", [[], ["--regions", "regions.csv"], ["--fdr", "0.4"]])
def test_images_of_another_kind_are_noted_once_though_a_job_was_stopped(root, run, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    (tmp_path / "bright").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(200, 256, (SIDE, SIDE), dtype=np.uint8)).save(tmp_path / "bright" / f"{i}.png")
    command = ["score", root / "run0", "bright", "--out", "scores.csv", *options]
    err, _ = run(*command, code=130, stop_at=3)
    assert "look different" not in err
    err, _ = run(*command)
    assert "going on from image 17" in err and err.count("note: these images look different from those trained on") == 1


def test_each_line_says_where_it_goes_on(root, run, tmp_path):
    out = tmp_path / "scores.csv"
    err, _ = run("score", root / "run0", root / "parts", "--out", out, stop_at=4, code=130)
    assert err.endswith(
        f"stopped; the scores of 24 images are kept beside {out}; the same command goes on from there\n"
    )
    err, _ = run("score", root / "run0", root / "parts", "--out", out)
    assert "going on from image 25: those before it were scored when the job was stopped\n" in err
    err, _ = run("score", root / "run0", root / "parts", stop_at=4, code=130)
    assert err.endswith("stopped; with --out, an ordinary file, scores would be kept; the same command begins anew\n")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_rows_of_another_job_never_get_into_a_table(root, run, tmp_path):
    parts, out, whole = tmp_path / "parts", tmp_path / "scores.csv", tmp_path / "whole.csv"
    shutil.copytree(root / "parts", parts)
    (tmp_path / "good.csv").write_text("path,label\n" + "".join(f"parts/good/{i:02}.png,good\n" for i in range(25)))
    command = ["score", root / "run0", parts, "--out", out]
    others = {
        "detector": ["score", root / "run1", parts],
        "options": ["score", root / "run0", parts, "--alpha", "0.3"],
        "images": ["score", root / "run0", tmp_path / "good.csv"],
    }
    for differs, words in others.items():
        run(*command, stop_at=3, code=130)
        err, _ = run(*words, "--out", out)
        assert f"with other values of: {differs}; this one begins anew" in err and "going on" not in err
        run(*words, "--out", whole)
        assert out.read_bytes() == whole.read_bytes()
    run(*command, stop_at=3, code=130)
    Image.fromarray(disc(np.random.default_rng(9))).save(parts / "good" / "00.png")  # the file of a name changes
    err, _ = run(*command)
    run(*command[:-1], whole)
    assert "other values of: images" in err and out.read_bytes() == whole.read_bytes()


def test_a_line_that_is_torn_is_scored_again(root, run, tmp_path):
    out, kept = tmp_path / "scores.csv", tmp_path / ".scores.csv.unfinished"
    command = ["score", root / "run0", root / "parts", "--out", out]
    run(*command)
    whole = out.read_bytes()
    run(*command, stop_at=5, code=130)
    lines = kept.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    for torn in (b"".join(lines)[:-1], b"".join(lines)[:-90], b"".join(lines[:-1]) + bytes(500) + b"\n", lines[0][:9]):
        kept.write_bytes(torn)
        assert ("going on from image 25" in run(*command)[0]) == torn.startswith(lines[0])
        assert out.read_bytes() == whole and not kept.exists()
    kept.write_bytes(b"notes of somebody's\n")
    assert f"{kept} is no file of alocc's" in run(*command, code=2)[0]
    assert kept.read_bytes() == b"notes of somebody's\n"


def test_a_source_of_which_no_more_can_be_used_is_finished(root, run, tmp_path):
    parts, out = tmp_path / "parts", tmp_path / "scores.csv"
    parts.mkdir()
    for i in range(24):
        shutil.copy(root / "parts" / "good" / f"{i:02}.png", parts) if i < 8 else (parts / f"{i}.png").write_bytes(b"")
    command = ["score", root / "run0", parts, "--out", out]
    run(*command, stop_at=3, code=130)
    err, _ = run(*command)
    assert "going on from image 9" in err and "16 images could not be used" in err
    assert len(out.read_text().splitlines()) == 25


def test_two_processes_do_not_write_one_table(root, run, tmp_path):
    out = tmp_path / "scores.csv"
    with journal.Journal(out, {"job": "another"}) as other:
        next(iter(other.keep(lambda first: [journal.from_line(NOTHING)] * 2)))
        err, _ = run("score", root / "run0", root / "parts", "--out", out, code=2)
        assert err == f"error: another process writes the same table, and holds {other.path}; give another --out\n"


def test_a_file_system_without_locks_is_none_the_worse(root, run, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    command = ["score", root / "run0", root / "parts", "--out", tmp_path / "scores.csv"]
    run(*command, code=130, stop_at=3)
    assert "going on from image 17" in run(*command)[0]


NOTHING = (
    b'{"names":[],"anomaly_score":[],"p_value":[],"is_anomaly":[],"alpha":0.1,"skipped":[],"n_seen":0,"regions":[],'
    b'"classes":[]}'
)


def test_a_full_disk_is_one_line(root, run, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        err, _ = run("score", root / "run0", root / "parts", "--out", tmp_path / "scores.csv", code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert err.startswith("error: ") and err.count("\n") == 1 and "cannot be written (File too large)" in err
    err, _ = run("score", root / "run0", root / "parts", "--out", tmp_path / "scores.csv")
    assert "going on" in err and len((tmp_path / "scores.csv").read_text().splitlines()) == 44


def test_a_short_job_leaves_no_trace(root, run, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "EVERY", 60.0)
    (tmp_path / "before").touch()
    run("score", root / "run0", root / "parts", "--out", tmp_path / "missing" / "scores.csv", "--strict", code=2)
    assert [path.name for path in tmp_path.rglob("*")] == ["before"]


@pytest.mark.slow
def test_a_job_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    """20,000 images, each once and in order, whatever was being written."""
    rng = np.random.default_rng(0)
    config = with_settings(preset("article"), ["networks.width=16"])
    alocc.train(np.stack([disc(rng) for _ in range(60)]), config=config, iterations=6, out=tmp_path / "run")
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (20_000, SIDE, SIDE), dtype=np.uint8))
    out, kept = tmp_path / "killed.csv", tmp_path / ".killed.csv.unfinished"
    command = [ALOCC, "score", tmp_path / "run", tmp_path / "images.npy", "--out"]
    subprocess.run([*command, tmp_path / "whole.csv"], check=True, capture_output=True)
    delays, n_killed = random.Random(0), 0
    for how, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = subprocess.Popen([*command, out], stderr=subprocess.PIPE, text=True)
        size = kept.stat().st_size if kept.exists() else 0
        while process.poll() is None and (not kept.exists() or kept.stat().st_size == size):
            time.sleep(0.01)
        process.send_signal(how)
        assert "the same command goes on from there" in process.communicate(timeout=60)[1]
        assert process.returncode == code
    for _ in range(10):
        size = kept.stat().st_size if kept.exists() else 0
        process = subprocess.Popen([*command, out], stderr=subprocess.DEVNULL)
        while process.poll() is None and (not kept.exists() or kept.stat().st_size == size):
            time.sleep(0.01)
        time.sleep(delays.uniform(0, 0.5))
        process.kill()
        n_killed += process.wait() == -signal.SIGKILL
        out.unlink(missing_ok=True)  # of one that was too quick: it begins anew
        if n_killed >= 3 and kept.exists():
            break
    assert n_killed >= 3
    done = subprocess.run([*command, out], capture_output=True, text=True, check=True)
    assert "going on from image " in done.stderr
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    names = [line.partition(",")[0].rpartition("#")[2] for line in out.read_text().splitlines()[1:]]
    assert names == list(map(str, range(20_000)))
    assert not list(tmp_path.glob(".*"))
