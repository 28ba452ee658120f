"""Exported files give the detector's scores, or are not there; through ONNX Runtime, OpenVINO and the command line."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import alocc
from alocc.cli import main
from alocc.config import preset, with_settings
from alocc.data.resizing import ImageFormat, brought_to
from alocc.data.sources import open_source
from alocc.engines import open_exported
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.evaluation.table import score_source
from alocc.export import export
from alocc.export.parity import TOLERANCE, difference, trial_images
from alocc.export.scorer import filter_matrix, resized
from alocc.runtime import Runtime
from alocc.runtime.sessions import METADATA_KEY

ALOCC = Path(sys.executable).with_name("alocc")
ROOT = Path(__file__).parents[2]
SMALL = ["networks.width=4", "training.batch_size=16"]


def blobs(n, seed, size=(16, 16)):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    centre = rng.uniform(-2, 2, (n, 2)) + np.array(size) / 2
    distance = (y - centre[:, :1, None]) ** 2 + (x - centre[:, 1:, None]) ** 2
    return (rng.uniform(120, 250, (n, 1, 1)) * np.exp(-distance / 20)).astype(np.uint8)


def coloured(n, seed, size):
    return np.stack([blobs(n, seed + channel, size) for channel in range(3)], -1)


def trained(name, images, *settings, iterations=6):
    return alocc.train(images, config=with_settings(preset(name), [*SMALL, *settings]), iterations=iterations)


CASES = {
    "robust, folds": (lambda: trained("robust", blobs(60, 0)), "model.onnx", {}),
    "robust, colour, tiles": (
        lambda: trained("robust", coloured(30, 0, (40, 52)), "images.tile=24"), "model.onnx", {}),
    "article": (lambda: trained("article", blobs(60, 0, (17, 18))), "model.onnx", {}),
    "paper, fixed, nchw": (
        lambda: trained("paper", coloured(40, 0, (16, 18)), iterations=40),
        "model.onnx", {"layout": "nchw", "size": "fixed"}),
    "ognet, openvino": (lambda: trained("ognet", blobs(60, 0)), "model.xml", {}),
}  # fmt: skip


class Case:
    def __init__(self, name, folder):
        make, file, options = CASES[name]
        self.name, self.detector = name, make()
        self.exported = export(self.detector, folder / name / file, **options)
        self.runtime = Runtime(self.exported.path)

    def images(self, n):
        to = self.detector.image_format
        normal = (coloured if to.channels == 3 else blobs)(n - n // 2, 9, to.size)
        return np.concatenate([trial_images(self.detector, n // 2, to.size), normal.reshape(-1, *to.size, to.channels)])


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("exports"), {}

    def get(name):
        if name not in made:
            made[name] = Case(name, folder)
        return made[name]

    return get


def assert_agree(detector, expected, found):
    assert difference(expected.anomaly_score, found.anomaly_score).max() <= TOLERANCE
    held_out = detector.held_out_scores
    near = np.abs(expected.anomaly_score[:, None] - held_out).min(1) <= np.maximum(
        TOLERANCE, np.abs(expected.anomaly_score - found.anomaly_score)
    )
    same = (expected.p_value == found.p_value) & (expected.is_anomaly == found.is_anomaly)
    assert (same | near).all() and same.mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_detectors(cases, name):
    case = cases(name)
    n = {"robust, folds": 1_000, "robust, colour, tiles": 40}.get(name, 300)
    images = case.images(n)
    expected = case.detector.score(images)
    assert len(np.unique(expected.anomaly_score)) > n // 2
    assert_agree(case.detector, expected, case.runtime.score(images))
    for batch in (1, 7, 256):
        some = images[: max(60, batch)]
        chunks = [case.runtime.score_in_one(some[i : i + batch]) for i in range(0, len(some), batch)]
        found = np.concatenate([chunk.anomaly_score for chunk in chunks])
        assert difference(expected.anomaly_score[: len(some)], found).max() <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_score_does_not_depend_on_batch_mates(cases, name):
    case = cases(name)
    images = case.images(30)
    together = case.runtime.score(images).anomaly_score
    for size in (1, 7):
        alone = [case.runtime.score(images[i : i + size]).anomaly_score for i in range(0, len(images), size)]
        np.testing.assert_array_equal(np.concatenate(alone), together)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["robust, folds", "robust, colour, tiles", "ognet, openvino"])
@pytest.mark.parametrize("factor", [0.4, 2.3])
def test_images_of_other_sizes_are_resized_alike_in_the_graph_and_before_it(cases, name, factor):
    case = cases(name)
    to = case.detector.image_format
    images = trial_images(case.detector, 8, (int(to.height * factor), int(to.width * factor) + 3))
    found = case.runtime.score_in_one(images)
    assert difference(case.runtime.score(images).anomaly_score, found.anomaly_score).max() < 1e-6
    assert_agree(case.detector, case.detector.score(images), found)


@pytest.mark.slow
def test_grey_images_and_colour_images_are_brought_to_what_the_detector_has(cases):
    case = cases("robust, folds")
    images = coloured(5, 3, (20, 22))
    assert_agree(case.detector, case.detector.score(images), case.runtime.score(images))
    colour = cases("robust, colour, tiles")
    assert_agree(colour.detector, colour.detector.score(images[..., 0]), colour.runtime.score(images[..., 0]))


@pytest.mark.slow
def test_a_file_says_what_it_is_and_not_where_it_was_made(cases):
    case = cases("robust, folds")
    notes = json.loads(onnx.load(case.exported.path).metadata_props[0].value)
    assert notes == case.runtime.metadata
    assert notes["config"] == case.detector.config.model_dump(mode="json")
    assert notes["n_held_out"] == 60 and notes["alpha"] == case.detector.alpha
    assert notes["parity"]["difference"] <= TOLERANCE and notes["parity"]["n_images"] > 256
    assert {"torch", "onnx", "onnxruntime"} <= set(notes["library_versions"])
    content = case.exported.path.read_bytes()
    assert str(ROOT).encode() not in content and b"site-packages" not in content
    assert case.runtime.threshold == case.detector.threshold


@pytest.mark.slow
def test_alpha_can_be_another_if_the_held_out_images_support_it(cases):
    case = cases("robust, folds")
    images = case.images(100)
    expected = case.detector.with_alpha(0.3).score(images)
    found = Runtime(case.exported.path, alpha=0.3).score(images)
    assert_agree(case.detector, expected, found)
    assert found.is_anomaly.sum() >= case.runtime.score(images).is_anomaly.sum()
    with pytest.raises(ConfigError, match="alpha must be at least"):
        Runtime(case.exported.path, alpha=0.01)


@pytest.mark.slow
def test_what_the_runtime_does_not_take_is_said(cases):
    runtime = cases("robust, folds").runtime
    assert len(runtime.score(np.empty((0, 16, 16), np.uint8))) == 0
    with pytest.raises(DataError, match="uint8 images, got float64"):
        runtime.score(np.zeros((2, 16, 16)))
    with pytest.raises(DataError, match="shape"):
        runtime.score(np.zeros((2, 16, 16, 2), np.uint8))


@pytest.mark.slow
def test_what_is_no_export_is_refused(cases, tmp_path):
    path = cases("robust, folds").exported.path
    whole, target = path.read_bytes(), tmp_path / "m.onnx"
    for damaged in (b"", b"these are words", whole[: len(whole) // 2]):
        target.write_bytes(damaged)
        with pytest.raises(ArtefactError, match="damaged"):
            Runtime(target)
    model = onnx.load(path)
    notes = json.loads(model.metadata_props[0].value)
    for text, message in [
        ("null", "not written by alocc export"),
        ("{", "damaged"),
        (json.dumps(notes | {"export_version": 0}), "another version"),
        (json.dumps(notes | {"image_format": {"height": 16}}), "damaged"),
        (json.dumps(notes | {"layout": "nchw", "image_format": {"height": 9, "width": 5, "channels": 3}}), "damaged"),
    ]:
        model.metadata_props[0].value = text
        onnx.save(model, target)
        with pytest.raises(ArtefactError, match=message):
            Runtime(target)
    del model.metadata_props[:]
    onnx.save(model, target)
    with pytest.raises(ArtefactError, match="not written by alocc export"):
        Runtime(target)


def test_names_that_are_no_export_are_refused(tmp_path):
    (tmp_path / "alone.xml").write_text("<net/>")
    for name, message in [("gone.onnx", "does not exist"), ("m.pt", "must end in .onnx"), ("alone.xml", "alone.bin")]:
        with pytest.raises(ArtefactError, match=message):
            Runtime(tmp_path / name)


@pytest.mark.slow
def test_no_file_is_left_if_its_scores_are_not_the_detectors(cases, tmp_path, monkeypatch):
    right = Runtime.score_in_one

    def wrong(self, images):
        scores = right(self, images)
        return replace(scores, anomaly_score=scores.anomaly_score + 0.01)

    monkeypatch.setattr(Runtime, "score_in_one", wrong)
    with pytest.raises(ArtefactError, match=r"not written: its scores differ from the detector's by 0\.01"):
        export(cases("article").detector, tmp_path / "m.onnx", size="fixed")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_are_refused_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"must end in \.onnx"):
        export(None, tmp_path / "m.pb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx, onnxscript, onnxruntime; install with: pip install 'alocc\["):
        export(None, tmp_path / "m.onnx")


@pytest.mark.slow
def test_8_bits_have_a_threshold_of_their_own(cases, tmp_path):
    detector = cases("article").detector
    fresh = torch.from_numpy(blobs(90, 5, (17, 18))[:, None])
    exported = export(detector, tmp_path / "m.onnx", fresh=fresh)
    runtime = Runtime(exported.path)
    assert exported.shift.n_images == 60 == len(runtime.held_out_scores) == runtime.metadata["n_held_out"]
    assert exported.shift.spearman > 0.8  # of networks that hardly learned anything, and so say little; else 0.99
    assert 0 < exported.shift.mean_difference < 1
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(exported.path).graph.node)
    of_ranges = np.zeros(90, bool)
    of_ranges[np.arange(30) * 3] = True
    scores = runtime.score(fresh[~of_ranges].permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(np.sort(scores.anomaly_score), runtime.held_out_scores)
    np.testing.assert_array_equal(np.sort(scores.p_value), np.arange(2, 62) / 61)  # each counts itself
    with pytest.raises(DataError, match="29 normal images are too few"):
        export(detector, tmp_path / "n.onnx", fresh=fresh[:29])


@pytest.mark.parametrize(("size", "to"), [((28, 28), (28, 28)), ((9, 61), (16, 12)), ((5, 4), (33, 47))])
def test_the_graphs_resizing_is_that_of_images_to_the_last_bit(size, to):
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    found = resized(torch.from_numpy(images).permute(0, 3, 1, 2).float(), to).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(found.numpy(), brought_to(images, ImageFormat(*to, 3)))


def test_the_graphs_filter_fits_in_32_bits():
    assert (filter_matrix(32_000, 16).sum(1) == 1 << 15).all()  # 2 · 32,000 · 2^15 < 2^31


def run(*words, code=0):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, images of several sizes, and one that is broken."""
    root = tmp_path_factory.mktemp("run")
    config = with_settings(preset("robust"), SMALL)
    alocc.train(blobs(60, 0), config=config, iterations=6, out=root / "run")
    (root / "parts").mkdir()
    for i, image in enumerate(blobs(20, 7)):
        Image.fromarray(image).resize((16 + i % 4 * 5, 16 + i % 3 * 7)).save(root / "parts" / f"{i:02}.png")
    (root / "parts" / "broken.png").write_bytes(b"")
    return root


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def exported(folder):
    """The run with its export, made by the first command that needs it."""
    done = run(ALOCC, "score", folder / "run", folder / "parts", "--engine", "onnx", "--out", folder / "onnx.csv")
    assert "exporting the detector to" in done.stderr and "1 image could not be used" in done.stderr
    return folder


@pytest.mark.slow
def test_engines_write_the_same_table(exported):
    score_source(alocc.Detector.load(exported / "run"), open_source(exported / "parts", "test")).write(
        exported / "torch.csv"
    )
    again = open_exported(exported / "run/model.onnx", None)
    score_source(again, open_source(exported / "parts", "test")).write(exported / "file.csv")
    run(sys.executable, "-m", "alocc.runtime", exported / "run/model.onnx", exported / "parts",
        "--out", exported / "runtime.csv")  # fmt: skip
    texts = {name: (exported / f"{name}.csv").read_text() for name in ("onnx", "file", "runtime")}
    assert texts["onnx"] == texts["file"] == texts["runtime"]
    for one, other in zip(rows(exported / "torch.csv"), rows(exported / "onnx.csv"), strict=True):
        assert one["path"] == other["path"] and one["error"] == other["error"]
        if not one["error"]:
            assert float(one["anomaly_score"]) == pytest.approx(float(other["anomaly_score"]), rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_an_export_older_than_its_detector_is_made_again(exported, monkeypatch):
    made, notes = [], []
    monkeypatch.setattr("alocc.export.export", lambda detector, path: made.append(path))
    open_exported(exported / "run", "onnx", note=notes.append)
    os.utime(exported / "run/model.onnx", (0, 0))
    engine = open_exported(exported / "run", "onnx", note=notes.append)
    os.utime(exported / "run/model.onnx")
    assert made == [exported / "run/model.onnx"] and "exporting the detector" in notes[0]
    assert engine.was_seen(torch.from_numpy(blobs(60, 0)[:, None])).all()


@pytest.mark.slow
def test_bad_commands_end_with_one_line(exported, tmp_path, monkeypatch, capsys):
    model, parts = exported / "run/model.onnx", exported / "parts"
    (tmp_path / "text.onnx").write_text("no")
    for words, message in [
        (["score", model, parts, "--maps", tmp_path / "maps"], "--maps needs the torch engine"),
        (["score", model, parts, "--engine", "torch"], "--engine torch needs a run folder"),
        (["score", model, parts, "--engine", "openvino"], "not for --engine openvino"),
        (["score", tmp_path / "text.onnx", parts], "damaged"),
        (["score", exported / "run", parts, "--engine", "onnx", "--alpha", "0.001"], "alpha must be at least"),
        (["score", model, parts, "--device", "cuda"], "exported detectors compute on the CPU"),
        (["export", exported / "run", "--int8"], "--int8 needs --data"),
        (["export", exported / "run", "--format", "openvino", "--out", tmp_path / "m.onnx"], "must end in .xml"),
    ]:
        monkeypatch.setattr(sys, "argv", ["alocc", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr().err
        assert ended.value.code == 2 and message in printed and len(printed.strip().splitlines()) == 1, printed
    done = run(sys.executable, "-m", "alocc.runtime", model, tmp_path / "nothing", code=2)
    assert "does not exist" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.onnx"]


@pytest.mark.slow
def test_the_runtime_is_all_that_scoring_needs(exported, tmp_path):
    """In a fresh environment, from the light distribution, with its dependencies alone."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    quiet = ["--quiet", "--disable-pip-version-check"]
    run(python, "-m", "pip", "install", *quiet, "--constraint", ROOT / "constraints.txt", ROOT / "runtime")
    installed = run(python, "-m", "pip", "list", "--format", "json").stdout
    assert not {"torch", "pydantic", "scipy", "onnx"} & {package["name"] for package in json.loads(installed)}
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COVERAGE", "COV_"))
    }
    done = subprocess.run(
        [tmp_path / "venv/bin/alocc-score", exported / "run/model.onnx", exported / "parts"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == (exported / "onnx.csv").read_text()
    assert METADATA_KEY == "alocc" and "skipped" in done.stderr
