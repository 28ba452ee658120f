"""A run folder: only a run's own files are removed, and any moment at which a training is killed is survived."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alocc.detector import Detector

TINY = ["--preset", "article", "--iterations", 3, "--set", "networks.width=4", "--set", "training.batch_size=8"]
RUN_FILES = {"config.toml", "health.json", "history.csv", "model.safetensors", "run.json"}
SNAPSHOTS = """
import shutil, sys
from pathlib import Path
out, states = Path(sys.argv[sys.argv.index("--out") + 1]), Path(sys.argv.pop(1))
def keep(event, args):
    if event == "os.rename" and out in Path(args[0]).parents:
        shutil.copytree(out, states / f"{len(list(states.iterdir())):02}")
sys.addaudithook(keep)
from alocc.cli import main
main()
"""
"""The command line, which copies its run folder whenever a file is about to be renamed: what a kill leaves."""
KILLED = """
import os, signal, sys
sys.addaudithook(lambda event, args: os.kill(os.getpid(), signal.SIGKILL) if event == "os.rename" else None)
from alocc.cli import main
main()
"""
"""The command line, killed when its first file is about to be renamed."""


@pytest.fixture(scope="module")
def states(good, tmp_path_factory):
    """What a kill at each renaming of a training leaves; and its end, which is the last."""
    root = tmp_path_factory.mktemp("states")
    kept, out = root / "states", root / "run"
    kept.mkdir()
    words = [sys.executable, "-c", SNAPSHOTS, kept, "train", good, "--out", out, *TINY]
    subprocess.run(list(map(str, words)), check=True, capture_output=True)
    out.rename(kept / "end")
    return kept


@pytest.fixture
def finished(states, tmp_path):
    return Path(shutil.copytree(states / "end", tmp_path / "finished"))


@pytest.fixture
def unfinished(states, tmp_path):
    """A run that was killed when its detector was to be renamed: with its checkpoint."""
    last = max(state for state in states.iterdir() if not (state / "model.safetensors").exists())
    return Path(shutil.copytree(last, tmp_path / "unfinished"))


def names(folder):
    return {path.name for path in folder.iterdir()}


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def train(alocc, good, out, *more, code=0):
    return alocc("train", good, "--out", out, *TINY, *more, code=code)


def test_files_of_a_run_are_these(finished):
    assert names(finished) == RUN_FILES


def test_overwriting_removes_the_files_of_a_run_and_nothing_else(alocc, good, finished):
    stale = [
        "report.html",
        "model.onnx",
        "model.xml",
        "model.bin",
        "model-int8.onnx",
        "checkpoints/fold2.safetensors",
        "versions/1.safetensors",
        "versions/12.safetensors",
    ]
    mine = [
        "notes.txt",
        "data/a.png",
        "checkpoints/best.safetensors",
        "model2.safetensors",
        ".config.toml.bak",
        "versions/mine.txt",
    ]
    for name in (*stale, *mine):
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).write_text(name)
    before = (finished / "model.safetensors").read_bytes()
    assert "--overwrite" in train(alocc, good, finished, "--seed", 1, code=2)
    assert all((finished / name).exists() for name in (*stale, *mine))
    assert (finished / "model.safetensors").read_bytes() == before
    train(alocc, good, finished, "--seed", 1, "--overwrite")
    assert (finished / "model.safetensors").read_bytes() != before
    assert [(finished / name).read_text() for name in mine] == mine
    assert not any((finished / name).exists() for name in stale)
    assert "seed = 1\n" in (finished / "config.toml").read_text()


@pytest.mark.parametrize(
    "text", ["[tool]\nname = 'mine'\n", "", "preset = 'robust'\n# images of mine\n", f"# images {'0' * 64}\nseed = 1\n"]
)
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_folder_with_a_config_that_is_no_runs_is_refused(alocc, good, tmp_path, text, more):
    for name in ("config.toml", "model.safetensors", "src/main.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = content(tmp_path)
    assert "holds other files (config.toml) and no run" in train(alocc, good, tmp_path, *more, code=2)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["notes.txt", "model.safetensors", "checkpoints/last.safetensors", "checkpoints", "x/y"]
)
def test_a_folder_without_a_run_is_refused(alocc, good, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    assert "choose another --out" in train(alocc, good, tmp_path, "--overwrite", code=2)
    assert content(tmp_path) == before


def test_other_peoples_checkpoints_are_refused(alocc, good, tmp_path, finished):
    out = tmp_path / "out"
    (out / "checkpoints").mkdir(parents=True)
    shutil.copy(finished / "model.safetensors", out / "checkpoints" / "last.safetensors")  # a detector's
    before = content(out)
    assert "last.safetensors" in train(alocc, good, out, "--overwrite", code=2)
    assert content(out) == before


def test_a_file_in_the_folders_place_is_refused(alocc, good, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert "cannot hold a run (File exists)" in train(alocc, good, tmp_path / "run", "--overwrite", code=2)
    assert (tmp_path / "run").read_text() == "mine"


def test_links_are_not_followed(alocc, good, tmp_path, unfinished):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (unfinished / "checkpoints").rename(elsewhere / "checkpoints")
    (unfinished / "checkpoints").symlink_to(elsewhere / "checkpoints", target_is_directory=True)
    (elsewhere / "report.html").write_text("mine")
    (unfinished / "report.html").symlink_to(elsewhere / "report.html")
    before = content(elsewhere)
    train(alocc, good, unfinished, "--seed", 1, "--overwrite")
    assert content(elsewhere) == before
    assert not (unfinished / "checkpoints").is_symlink() and not (unfinished / "report.html").exists()


@pytest.mark.parametrize("linked", ["config.toml", "checkpoints"])
def test_a_linked_mark_is_none(alocc, good, tmp_path, unfinished, linked):
    out = tmp_path / "out"
    out.mkdir()
    (out / linked).symlink_to(unfinished / linked)
    before = content(unfinished)
    assert f"holds other files ({linked}) and no run" in train(alocc, good, out, "--overwrite", code=2)
    assert content(unfinished) == before and (out / linked).is_symlink()


@pytest.mark.parametrize("place", ["", "checkpoints"])
@pytest.mark.parametrize("draft", [".config.toml.123.tmp", ".last.safetensors.0123456789abcdef.tmp"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_drafts_of_a_killed_training_are_removed(alocc, good, tmp_path, place, draft, more):
    (tmp_path / "run" / place).mkdir(parents=True)
    (tmp_path / "run" / place / draft).write_text("half a fi")
    train(alocc, good, tmp_path / "run", *more)
    assert names(tmp_path / "run") == RUN_FILES


def test_drafts_of_others_stay(alocc, good, tmp_path):
    (tmp_path / ".notes.txt.123.tmp").write_text("mine")
    assert "holds other files (.notes.txt.123.tmp)" in train(alocc, good, tmp_path, "--overwrite", code=2)
    assert names(tmp_path) == {".notes.txt.123.tmp"}


def test_every_state_that_a_kill_leaves_goes_on_to_the_same_detector(alocc, good, states, tmp_path):
    expected = (states / "end" / "model.safetensors").read_bytes()
    left = sorted(path for path in states.iterdir() if path.name != "end")
    assert [path.name for path in left[0].iterdir()] == [next(left[0].glob(".config.toml.*.tmp")).name]
    assert len(left) > 6 and sum((state / "model.safetensors").exists() for state in left) == 1  # before health.json
    for state in left:
        out = shutil.copytree(state, tmp_path / state.name)
        for words in (["info", out], ["report", out, good]):  # what is there is complete
            alocc(*words, code=0 if (out / "model.safetensors").exists() else 2)
        train(alocc, good, out)
        assert names(out) - {"report.html"} == RUN_FILES
        assert (out / "model.safetensors").read_bytes() == expected, state.name


@pytest.mark.parametrize("gone", [["run.json"], ["run.json", "history.csv"], ["model.safetensors"]])
def test_a_run_without_some_of_its_files_is_trained_again(alocc, good, states, finished, gone):
    for name in gone:
        (shutil.rmtree if (finished / name).is_dir() else Path.unlink)(finished / name)
    there = (finished / "model.safetensors").exists()
    alocc("info", finished, code=0 if there else 2)
    alocc("score", finished, good, "--out", finished.parent / "scores.csv", code=0 if there else 2)
    train(alocc, good, finished)
    assert names(finished) == RUN_FILES
    assert (finished / "model.safetensors").read_bytes() == (states / "end" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--seed", 1]])
def test_checkpoints_without_a_config_are_no_obstacle(alocc, good, tmp_path, unfinished, more):
    shutil.copytree(unfinished / "checkpoints", tmp_path / "run" / "checkpoints")
    train(alocc, good, tmp_path / "run", *more)
    assert names(tmp_path / "run") == RUN_FILES


def test_an_overwriting_that_is_killed_can_be_repeated(alocc, good, finished):
    words = ["train", good, "--out", finished, *TINY, "--seed", 1, "--overwrite"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert names(finished) - {"checkpoints"} == {"config.toml", next(finished.glob(".config.toml.*.tmp")).name}
    train(alocc, good, finished, "--seed", 1, "--overwrite")
    assert names(finished) == RUN_FILES


@pytest.mark.parametrize("n_damaged", [1, 2])
def test_a_damaged_checkpoint_leads_to_the_one_before_or_to_the_start(alocc, good, states, unfinished, n_damaged):
    for name in ("last", "last-previous")[:n_damaged]:
        path = unfinished / "checkpoints" / f"{name}.safetensors"
        content = bytearray(path.read_bytes())
        content[-100] ^= 4
        path.write_bytes(content)
    err = train(alocc, good, unfinished)
    [warning] = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "last.safetensors is damaged or was not written by alocc (its checksum is another one)" in warning
    assert warning.endswith("going on from the checkpoint before" if n_damaged == 1 else "these networks start anew")
    assert names(unfinished) == RUN_FILES
    assert (unfinished / "model.safetensors").read_bytes() == (states / "end" / "model.safetensors").read_bytes()


def test_what_is_finished_is_not_trained_again_unless_it_is_asked_for(alocc, good, finished):
    before = content(finished)
    dates = {path: path.stat().st_mtime_ns for path in before}
    for more in ([], ["--overwrite"]):  # of another training
        err = train(alocc, good, finished, *more)
        assert "this training is finished: health useless" in err and f"{finished}/model.safetensors; --again" in err
    assert content(finished) == before and {path: path.stat().st_mtime_ns for path in before} == dates
    assert "finished already; training it again" in train(alocc, good, finished, "--again")
    after = content(finished)
    assert after.keys() == before.keys()
    assert {path.name for path in after if after[path] != before[path]} <= {"run.json"}  # its seconds


def test_a_run_has_one_writer(alocc, good, finished, unfinished, newer):
    holds = """
import sys, time
from pathlib import Path
from alocc.training.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(600)
"""
    for run, words in ((unfinished, ["train", good, "--out", unfinished, *TINY]),
                       (finished, ["calibrate", finished, newer(1)]),
                       (finished, ["calibrate", finished, "--undo"])):  # fmt: skip
        before = content(run)
        with subprocess.Popen([sys.executable, "-c", holds, run], stdout=subprocess.PIPE) as other:
            other.stdout.readline()
            assert f"another process is writing to {run}; wait until it has ended" in alocc(*words, code=2)
            assert content(run) == before
            other.kill()
    train(alocc, good, unfinished)  # the lock is gone with its process
    assert names(unfinished) == RUN_FILES


def test_a_file_system_without_locks_is_none_the_worse(alocc, good, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    train(alocc, good, tmp_path / "run")
    assert names(tmp_path / "run") == RUN_FILES


def test_a_training_that_does_not_begin_leaves_no_folder(alocc, tmp_path):
    alocc("train", tmp_path / "nothing", "--out", tmp_path / "a" / "b" / "run", *TINY, code=2)
    assert names(tmp_path) == set()


def test_a_finished_run_that_runs_again_can_be_stopped_and_goes_on(alocc, good, finished):
    code = """
import sys
from alocc.training.loop import Hooks
from alocc.training.run import train
from alocc.config import preset, with_settings
from alocc.errors import StoppedError
config = with_settings(preset("article"), ["networks.width=4", "training.batch_size=8"])
asked = iter([False, True])
seen = []
for again, hooks in ((True, Hooks(stop_requested=lambda: next(asked))), (False, Hooks(resumed=seen.append))):
    try:
        train(sys.argv[1], config=config, iterations=3, out=sys.argv[2], again=again, hooks=hooks)
    except StoppedError:
        pass
assert seen == [2], seen
"""
    before = (finished / "model.safetensors").read_bytes()
    subprocess.run([sys.executable, "-c", code, good, finished], check=True)
    assert (finished / "model.safetensors").read_bytes() == before


@pytest.fixture
def newer(tmp_path):
    """A function that writes newer images: a folder of each seed."""

    def draw(seed, n=30):
        root = tmp_path / f"newer{seed}"
        root.mkdir()
        for i, image in enumerate(np.random.default_rng(seed).integers(0, 200, (n, 16, 16), dtype=np.uint8)):
            Image.fromarray(image).save(root / f"{i:02}.png")
        return root

    return draw


def threshold(run):
    return Detector.load(run).threshold


def test_calibrating_keeps_the_earlier_detectors_and_undoing_brings_them_back(alocc, finished, newer):
    model = finished / "model.safetensors"
    trained, health = model.read_bytes(), Detector.load(finished).health
    assert health and "--undo" in alocc("calibrate", finished, newer(1))
    first = model.read_bytes()
    assert Detector.load(finished).health is None
    err = alocc("calibrate", model, newer(2))  # the run's detector by its own name
    assert (finished / "versions" / "1.safetensors").read_bytes() == trained
    assert (finished / "versions" / "2.safetensors").read_bytes() == first
    assert f"before: {threshold(finished / 'versions' / '2.safetensors'):.3f}" in err
    err = alocc("calibrate", finished, newer(3, n=25), "--alpha", "0.3", "--out", finished / "other.safetensors")
    assert "support a smaller one" not in err and "counted as normal" not in err  # 0.3 was asked for; no classes
    assert len(names(finished / "versions")) == 2  # nothing took the place of the run's detector

    assert "is back" in alocc("calibrate", finished, "--undo")
    assert model.read_bytes() == first and names(finished / "versions") == {"1.safetensors"}
    alocc("calibrate", finished, "--undo")
    assert model.read_bytes() == trained and names(finished) == RUN_FILES | {"other.safetensors"}
    assert Detector.load(finished).health == health
    before = content(finished)
    assert "no calibration to undo" in alocc("calibrate", finished, "--undo", code=2)
    assert content(finished) == before


@pytest.mark.parametrize("n", [1, 2])  # the version; the detector
def test_a_calibration_that_is_killed_changes_nothing_and_can_be_repeated(alocc, finished, newer, n):
    trained, words = (finished / "model.safetensors").read_bytes(), ["calibrate", finished, newer(1)]
    killed = KILLED.replace('event == "os.rename"', f'event == "os.rename" and next(renamings) == {n}')
    code = "import itertools\nrenamings = itertools.count(1)\n" + killed
    assert subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True).returncode == -9
    assert (finished / "model.safetensors").read_bytes() == trained
    assert len(list(finished.rglob("*.tmp"))) == 1
    alocc(*words)
    assert names(finished / "versions") == {"1.safetensors"} and names(finished) == RUN_FILES | {"versions"}
    assert (
        (finished / "versions" / "1.safetensors").read_bytes()
        == trained
        != (finished / "model.safetensors").read_bytes()
    )


def test_the_history_is_a_table_and_json(finished, newer):
    def run(*words):
        words = [Path(sys.executable).with_name("alocc"), "calibrate", finished, *words]
        elsewhere = {**os.environ, "TZ": "Asia/Tokyo", "COLUMNS": "200"}
        return subprocess.run(words, check=True, capture_output=True, text=True, env=elsewhere).stdout

    drawn = newer(1)
    run(drawn)
    first, second = json.loads(run("--history", "--json"))
    assert (first["version"], first["calibrated_on"], first["n_held_out"]) == (1, None, 4)
    assert (second["version"], second["calibrated_on"], second["n_held_out"]) == (None, str(drawn), 30)
    assert second["threshold"] == threshold(finished)
    written = datetime.fromisoformat(first["date"]).timestamp()
    assert written == int((finished / "versions" / "1.safetensors").stat().st_mtime)
    table = run("--history")
    assert "in use" in table and f"{second['threshold']:.3f}" in table and "the training" in table
    assert "date, UTC" in table and datetime.fromtimestamp(written, UTC).isoformat(" ", "minutes")[:16] in table


def test_calibrating_and_undoing_leave_what_is_not_the_runs(alocc, finished, newer):
    versions = finished / "versions"
    versions.mkdir()
    (versions / "1.safetensors").mkdir()
    (versions / "2.safetensors").symlink_to(finished / "model.safetensors")
    (versions / "notes.txt").write_text("mine")
    before = names(versions)
    alocc("calibrate", finished, newer(1))
    assert names(versions) == before | {"3.safetensors"}
    alocc("calibrate", finished, "--undo")
    assert "no calibration to undo" in alocc("calibrate", finished, "--undo", code=2)
    assert names(versions) == before and (versions / "2.safetensors").is_symlink()


@pytest.mark.parametrize("obstacle", ["file", "link", "model"])
def test_a_calibration_that_cannot_be_written_changes_nothing(alocc, finished, newer, tmp_path, obstacle):
    if obstacle == "file":
        (finished / "versions").write_text("mine")
    elif obstacle == "link":
        (tmp_path / "elsewhere").mkdir()
        shutil.copy(finished / "model.safetensors", tmp_path / "elsewhere" / "1.safetensors")
        (finished / "versions").symlink_to(tmp_path / "elsewhere")
        assert "is a link" in alocc("calibrate", finished, "--undo", code=2)
    else:  # its own name is free, but where it leads nothing can be written
        (tmp_path / ("x" * 250)).write_bytes((finished / "model.safetensors").read_bytes())
        (finished / "model.safetensors").unlink()
        (finished / "model.safetensors").symlink_to(tmp_path / ("x" * 250))  # its draft's name is too long
    before, drawn = content(finished), newer(1)
    assert "error: " in alocc("calibrate", finished, drawn, code=2)
    assert content(finished) == before and names(finished) - {"versions"} == RUN_FILES
    assert obstacle != "model" or not (finished / "versions").exists()


def test_a_damaged_version_is_not_brought_back(alocc, finished, newer):
    alocc("calibrate", finished, newer(1))
    (finished / "versions" / "1.safetensors").write_bytes(b"damaged")
    before = content(finished)
    for option in ("--undo", "--history"):
        assert "1.safetensors is damaged" in alocc("calibrate", finished, option, code=2)
    assert content(finished) == before


def test_training_again_keeps_a_detector_that_was_calibrated(alocc, good, finished, newer):
    trained = (finished / "model.safetensors").read_bytes()
    alocc("calibrate", finished, newer(1))
    calibrated = (finished / "model.safetensors").read_bytes()
    assert "health not known" in train(alocc, good, finished)
    assert (finished / "model.safetensors").read_bytes() == calibrated
    train(alocc, good, finished, "--again")
    assert (finished / "model.safetensors").read_bytes() == trained
    assert (finished / "versions" / "2.safetensors").read_bytes() == calibrated
    train(alocc, good, finished, "--again")  # the same again is no other version
    assert names(finished / "versions") == {"1.safetensors", "2.safetensors"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["RUN"], "DATA is missing: give newer normal images; or --alpha or --review-alpha"),
        (["RUN", "--undo", "--history"], "and nothing else"),
        (["RUN", "DATA", "--undo"], "and nothing else"),
        (["RUN", "--history", "--out", "x.safetensors"], "and nothing else"),
        (["RUN", "DATA", "--json"], "--json is for --history"),
        (["FILE", "--undo"], "is not in a run folder"),
        (["FILE", "DATA"], "give --out"),
        (["TMP", "--history"], "holds no finished detector"),
    ],
)
def test_options_of_calibrate_that_do_not_go_together(alocc, finished, newer, tmp_path, words, error):
    lone, drawn = shutil.copy(finished / "model.safetensors", tmp_path / "lone.safetensors"), newer(1)
    before = content(tmp_path)
    filled = {"RUN": finished, "FILE": lone, "TMP": tmp_path, "DATA": drawn}
    assert error in alocc("calibrate", *(filled.get(word, word) for word in words), code=2)
    assert content(tmp_path) == before
