"""A verdict is known wherever its detector goes, and warned of at each use; of another file or threshold it is none."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.calibration import Calibration
from alocc.cli import main
from alocc.config import preset, with_settings
from alocc.errors import ArtefactError, UselessDetectorWarning
from alocc.runtime import Runtime
from alocc.runtime.__main__ import main as light_main

SMALL = ["networks.width=4", "training.batch_size=16"]


def discs(n, seed=0):
    """Bright discs near the middle of dark 20×20 images, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:20, 0:20]
    centres, radii = rng.normal(9.5, 0.7, (n, 2)), rng.normal(5, 0.3, n)
    images = [1 / (1 + np.exp(2 * (np.hypot(y - v, x - u) - r))) for (u, v), r in zip(centres, radii, strict=True)]
    return (np.clip(0.8 * np.stack(images) + rng.normal(0.05, 0.02, (n, 20, 20)), 0, 1) * 255).astype(np.uint8)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process: standard error, after a check of the exit code."""

    def run(*words, code=0, program=main):
        monkeypatch.setattr(sys, "argv", ["alocc", *map(str, words)])
        capsys.readouterr()
        done = 0
        with warnings.catch_warnings():
            try:
                program()
            except SystemExit as error:
                done = error.code or 0
        out, err = capsys.readouterr()
        assert done == code, out + err
        return err

    return run


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """40 fresh normal images, in a folder."""
    root = tmp_path_factory.mktemp("parts")
    for i, image in enumerate(discs(40, seed=1)):
        Image.fromarray(image).save(root / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that scores discs well, unchecked."""
    out = tmp_path_factory.mktemp("runs") / "run"
    alocc.train(discs(200), config=with_settings(preset("robust"), SMALL), iterations=200, out=out)
    return out


@pytest.fixture
def good(trained, tmp_path):
    """A copy of the run, of its own."""
    subprocess.run(["cp", "-r", trained, tmp_path / "run"], check=True)
    return tmp_path / "run"


@pytest.fixture
def useless(good, parts, run):
    """A run whose scores have the other sign, as its check found out."""
    detector = alocc.Detector.load(good)
    for scale in detector.scorer.fusion.scales.values():
        scale.deviation.neg_()
    turned = replace(detector, calibration=Calibration.of(-detector.held_out_scores, detector.alpha))
    turned.save(good / "model.safetensors")
    assert "health: useless" in run("check", good, parts, "--no-second-seed", code=3)
    return good


def warned(err):
    return [line for line in err.splitlines() if "health check called" in line]


@pytest.mark.parametrize(
    "words",
    [
        "score RUN DATA --out TMP/s.csv", "score RUN/model.safetensors DATA --alpha 0.1 --out TMP/s.csv",
        "score RUN DATA --engine onnx --out TMP/s.csv", "report RUN DATA --out TMP/r.html", "export RUN",
    ],
)  # fmt: skip
def test_a_useless_detector_is_warned_of_at_each_use(run, useless, parts, tmp_path, words):
    if "onnx" in words or "export" in words:
        pytest.importorskip("onnx")
    places = {"RUN": useless, "DATA": parts, "TMP": tmp_path}
    for name, path in places.items():
        words = words.replace(name, str(path))
    [line] = warned(run(*words.split()))
    reason = alocc.Detector.load(useless).health.findings[0].reason
    assert line.startswith("warning: ") and "useless" in line and reason in line


def test_other_commands_warn_and_keep_their_exit_codes(run, useless, parts, tmp_path):
    (tmp_path / "set").mkdir()
    for name, images in (("good", discs(12, seed=2)), ("bad", 255 - discs(12, seed=3))):
        (tmp_path / "set" / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "set" / name / f"{i}.png")
    assert len(warned(run("evaluate", useless, tmp_path / "set", "--normal", "good", "--bootstrap", 0))) == 1
    assert len(warned(run("monitor", useless, tmp_path / "set" / "bad", code=3))) == 1
    assert len(warned(run("monitor", useless, parts))) == 1


def test_a_doubtful_detector_is_one_line_and_a_good_one_none(run, good, parts, tmp_path):
    assert alocc.Detector.load(good).health is None and not warned(
        run("score", good, parts, "--out", tmp_path / "s.csv")
    )
    assert "health: good" in run("check", good, parts, "--no-second-seed")
    assert alocc.Detector.load(good).health.verdict == "good"
    assert not warned(run("score", good, parts, "--out", tmp_path / "s.csv"))
    (tmp_path / "few").mkdir()
    for i, image in enumerate(discs(15, seed=4)):
        Image.fromarray(image).save(tmp_path / "few" / f"{i}.png")
    assert "the verdict good was on the earlier threshold" in run("calibrate", good, tmp_path / "few")
    assert "health: doubtful" in run("check", good, parts, "--no-second-seed")
    [line] = warned(run("score", good, parts, "--out", tmp_path / "s.csv"))
    assert "doubtful: only 15 held-out normal images" in line
    alocc.Detector.load(good).score(discs(3))  # no warning, which would be an error here


def test_what_a_verdict_means_is_said_alike_in_the_terminal_and_on_the_page(run, good, parts, tmp_path):
    err = run("check", good, parts, "--no-second-seed")
    meaning = alocc.Detector.load(good).health.meaning
    assert meaning in err and "None of your defects was there" in meaning and "spots planted" in meaning
    run("report", good, parts, "--out", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    header = page[page.index("<header") : page.index("</header>")]
    assert "<b>Health: good.</b>" in header and meaning in header
    assert header.index('id="verdict"') < header.index('class="soft"')


def test_python_warns_of_a_useless_detector_once_for_each_place(useless, parts):
    detector = alocc.Detector.load(useless)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UselessDetectorWarning)
        for _ in range(3):
            detector.score(discs(2))
    assert [one.category for one in caught] == [UselessDetectorWarning]
    with warnings.catch_warnings(record=True) as of_paths:
        warnings.simplefilter("default", UselessDetectorWarning)
        detector.score(str(parts))
    assert of_paths[0].filename == __file__
    assert caught[0].filename == __file__ and detector.health.findings[0].reason in str(caught[0].message)
    with pytest.warns(UselessDetectorWarning):
        detector.with_alpha(0.2).score(discs(2))  # the ranks of its scores are the same


def test_an_exported_file_carries_the_verdict(run, useless, parts, tmp_path):
    onnx = pytest.importorskip("onnx")
    run("export", useless, "--out", tmp_path / "m.onnx")
    expected = alocc.Detector.load(useless).health
    runtime = Runtime(tmp_path / "m.onnx")
    assert runtime.health == expected
    with pytest.warns(UselessDetectorWarning, match="useless"):
        runtime.score(discs(2))
    for words, program in ((["score"], main), ([], light_main)):
        [line] = warned(run(*words, tmp_path / "m.onnx", parts, "--out", tmp_path / "s.csv", program=program))
        assert expected.findings[0].reason in line
    model = onnx.load(tmp_path / "m.onnx")
    notes = json.loads(model.metadata_props[0].value)
    for damaged in (
        {"verdict": "useless"},
        3,
        {**notes["health"], "verdict": "fine"},
        {**notes["health"], "findings": []},
    ):
        model.metadata_props[0].value = json.dumps({**notes, "health": damaged})
        onnx.save(model, tmp_path / "d.onnx")
        with pytest.raises(ArtefactError, match="health must be a verdict"):
            Runtime(tmp_path / "d.onnx")


def test_the_engine_of_a_run_knows_the_last_verdict_though_its_export_is_older(run, good, parts, tmp_path):
    pytest.importorskip("onnx")
    run("export", good)
    run("check", good, parts, "--no-second-seed")
    notes = json.loads((good / "health.json").read_text())
    finding = {"verdict": "useless", "reason": "a reason", "advice": "advice"}
    (good / "health.json").write_text(json.dumps({**notes, "verdict": "useless", "findings": [finding]}))
    assert Runtime(good / "model.onnx").health is None
    assert "a reason" in warned(run("score", good, parts, "--engine", "onnx", "--out", tmp_path / "s.csv"))[0]


def test_a_verdict_of_another_file_or_threshold_is_none(run, useless, parts, tmp_path):
    assert alocc.Detector.load(useless).health.verdict == "useless"
    detector = alocc.Detector.load(useless)
    detector.with_alpha(0.3).save(useless / "model.safetensors")
    assert alocc.Detector.load(useless).health is None
    assert not warned(run("score", useless, parts, "--out", tmp_path / "s.csv"))
    run("report", useless, parts, "--out", tmp_path / "r.html")
    assert "of another detector, or of an earlier threshold" in (tmp_path / "r.html").read_text()
    detector.save(useless / "model.safetensors")
    assert alocc.Detector.load(useless).health.verdict == "useless"


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"verdict": "good", "findings": 3, "meaning": ""}'])
def test_a_damaged_verdict_is_none_and_a_check_makes_it_anew(run, good, parts, text):
    (good / "health.json").write_text(text)
    assert alocc.Detector.load(good).health is None
    run("check", good, parts, "--no-second-seed")
    assert alocc.Detector.load(good).health.verdict == "good"


def test_a_verdict_is_shown_as_it_is_and_runs_nothing(run, useless, parts, tmp_path):
    notes = json.loads((useless / "health.json").read_text())
    notes["findings"][0]["reason"] = "<script>alert(1)</script>\x1b[31m\nnext"
    (useless / "health.json").write_text(json.dumps(notes))
    [line] = warned(run("report", useless, parts, "--out", tmp_path / "r.html"))
    assert r"\x1b[31m\nnext" in line
    assert "<script>alert(1)" not in (tmp_path / "r.html").read_text()
