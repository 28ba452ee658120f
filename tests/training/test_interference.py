"""Disks that are full or read-only, images that are gone, bits that flip: one line, code 2, and nothing is lost."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ALOCC = Path(sys.executable).with_name("alocc")

TINY = ["--preset", "article", "--iterations", 6, "--set", "networks.width=4", "--set", "training.batch_size=8"]
RUN_FILES = {"config.toml", "health.json", "history.csv", "model.safetensors", "run.json"}
KILLED = """
import os, signal, sys
def kill(event, args):
    if event == "os.rename" and "model.safetensors" in str(args[1]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
from alocc.cli import main
main()
"""
"""The command line, killed when its detector is about to be renamed."""


@pytest.fixture(scope="module")
def whole(good, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run([ALOCC, *map(str, ["train", good, "--out", out, *TINY])], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """30 newer images, in a folder."""
    root = tmp_path_factory.mktemp("newer")
    for i, image in enumerate(np.random.default_rng(1).integers(0, 200, (30, 16, 16), dtype=np.uint8)):
        Image.fromarray(image).save(root / f"{i:02}.png")
    return root


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: its folder, and a function that mounts it with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "alocc", folder], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    yield folder, remount
    subprocess.run(["umount", "--lazy", folder], check=True)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def same(run, whole):
    found, expected = content(run), content(whole)
    assert found.keys() == expected.keys()
    return {name for name in found if found[name] != expected[name]} <= {"run.json"}  # its seconds


def only_line(err, message):
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    return message in line and line == err.splitlines()[-1]


@pytest.mark.parametrize("kilobytes", [64, 256, 400, 440])  # for a checkpoint; for a second; for notes; for a detector
def test_a_training_on_a_full_disk_goes_on_when_there_is_room(alocc, good, whole, disk, kilobytes):
    root, remount = disk
    remount(f"size={kilobytes}k")
    words = ["train", good, "--out", root / "run", *TINY]
    assert only_line(alocc(*words, code=2), "cannot be written (No space left on device)")
    assert not (root / "run" / "model.safetensors").exists() and not list(root.rglob("*.tmp"))
    remount("size=16m")
    assert ("going on from iteration" in alocc(*words)) == (kilobytes >= 400)  # its last checkpoint was whole
    assert same(root / "run", whole)


def test_a_read_only_disk_takes_no_training_and_says_of_a_finished_one_that_it_is(alocc, good, whole, disk):
    root, remount = disk
    shutil.copytree(whole, root / "whole")
    remount("ro")
    for out in ("new", "whole"):
        err = alocc("train", good, "--out", root / out, *TINY, code=2 if out == "new" else 0)
        assert "this training is finished" in err if out == "whole" else only_line(err, "(Read-only file system)")
    assert only_line(alocc("train", good, "--out", root / "whole", *TINY, "--again", code=2), "(Read-only file system)")
    assert same(root / "whole", whole) and [path.name for path in root.iterdir()] == ["whole"]


@pytest.mark.parametrize("state", ["size", "ro"])
@pytest.mark.parametrize(
    "words",
    [
        ["score", "RUN", "DATA", "--out", "DISK/scores.csv"],
        ["score", "RUN", "DATA", "--out", "DISK/scores.parquet"],
        ["score", "RUN", "DATA", "--regions", "DISK/regions.csv"],
        ["score", "RUN", "DATA", "--maps", "DISK/maps", "--maps-of", "all"],
        ["calibrate", "RUN", "NEWER"],
        ["report", "RUN", "DATA"],
        ["export", "RUN"],
        ["check", "RUN", "NEWER", "--no-second-seed"],
        ["inspect", "DATA", "--sheet", "DISK/sheet.png"],
    ],
    ids=lambda words: f"{words[0]}{words[3:4]}",
)
def test_other_commands_on_a_full_or_read_only_disk_leave_what_was_there(alocc, whole, good, newer, disk, words, state):
    root, remount = disk
    shutil.copytree(whole, root / "run")
    before = content(root)
    if state == "size":
        with pytest.raises(OSError, match="No space left"), (root / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
    else:
        remount("ro")
    filled = [word.replace("DISK", str(root)) for word in words]
    filled = [{"RUN": root / "run", "DATA": good, "NEWER": newer}.get(word, word) for word in filled]
    reason = "Read-only file system)" if state == "ro" else "No space left on device)"
    assert only_line(alocc(*filled, code=2), reason)
    found = content(root)
    found.pop("filler", None)
    assert found == before


def test_images_that_are_gone_lose_no_checkpoint(alocc, good, tmp_path):
    images, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(good, images)
    words = ["train", images, "--out", run, *TINY]
    subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], capture_output=True)
    before = content(run)
    assert "checkpoints/last.safetensors" in before and "model.safetensors" not in before
    (images / "03.png").rename(tmp_path / "03.png")
    assert only_line(alocc(*words, code=2), "with another config or other images")
    images.rename(tmp_path / "gone")
    assert only_line(alocc(*words, code=2), f"{images} does not exist")
    assert content(run) == before
    (tmp_path / "gone").rename(images)
    (tmp_path / "03.png").rename(images / "03.png")
    assert "going on from iteration" in alocc(*words)
    assert content(run).keys() == RUN_FILES


def test_a_detector_with_a_flipped_bit_is_never_used(alocc, good, whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    damaged = bytearray((run / "model.safetensors").read_bytes())
    damaged[-1000] ^= 16
    (run / "model.safetensors").write_bytes(damaged)
    for words in (["score", run, good], ["info", run], ["report", run, good], ["calibrate", run, good], ["check", run]):
        assert only_line(alocc(*words, code=2), "(its checksum is another one)")
    words = ["train", good, "--out", run, *TINY]
    assert only_line(alocc(*words, code=2), "--again trains it again")
    alocc(*words, "--again")
    assert (run / "versions" / "1.safetensors").read_bytes() == damaged
    shutil.rmtree(run / "versions")
    assert same(run, whole)


def test_losses_that_are_not_numbers_leave_the_last_good_checkpoint(alocc, good, tmp_path):
    rate = ["--set", "training.adversarial.adam.learning_rate=1e30"]
    words = ["train", good, "--out", tmp_path / "run", *TINY, *rate, "--iterations", 300]
    for _ in range(2):  # the same again, as it is the same training
        assert only_line(alocc(*words, code=1), "lower training.adversarial.adam.learning_rate")
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.toml", "checkpoints"}
