"""Exported files give the detector's scores, or are not there; through ONNX Runtime, OpenVINO and the command line."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import alocc
from alocc.cli import main
from alocc.cli.running import some_training_images
from alocc.config import preset, with_settings
from alocc.data.resizing import ImageFormat, brought_to
from alocc.data.sources import open_source
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.export import export
from alocc.export.parity import TOLERANCE, difference, held_out_among, trial_images, verdicts_hold
from alocc.export.scorer import Verdicts, filter_matrix, resized
from alocc.runtime import Runtime, sessions
from alocc.runtime.sessions import METADATA_KEY
from alocc.scoring.open import digest, open_exported
from alocc.scoring.stream import score_batches
from alocc.scoring.table import write_table

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


def in_one(runtime, images):
    """Anomaly scores by one call of the graph, which resizes the images itself if it can."""
    return runtime.outputs(images)[0].astype(np.float64)


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
        found = np.concatenate([in_one(case.runtime, some[i : i + batch]) for i in range(0, len(some), batch)])
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
    expected, found = case.detector.score(images), case.runtime.score(images)
    assert difference(found.anomaly_score, in_one(case.runtime, images)).max() < 1e-6
    assert_agree(case.detector, expected, found)


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
    with pytest.raises(DataError, match="holds no images"):
        runtime.score(np.zeros((2, 16, 16, 2), np.uint8))


@pytest.mark.slow
def test_what_is_no_export_is_refused(cases, tmp_path):
    path = cases("robust, folds").exported.path
    content, target = path.read_bytes(), tmp_path / "m.onnx"
    for damaged in (b"", b"these are words", content[: len(content) // 2]):
        target.write_bytes(damaged)
        with pytest.raises(ArtefactError, match="damaged"):
            Runtime(target)
    model = onnx.load(path)
    notes = json.loads(model.metadata_props[0].value)
    for text, message in [
        ("null", "not written by alocc export"),
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        (json.dumps(notes | {"export_version": 0}), "another version"),
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


NAN, INFINITE = float("nan"), float("inf")
INVALID_NOTES = [
    *({name: None} for name in ("image_format", "layout", "size", "n_tiles", "alpha", "held_out_scores", "n_held_out")),
    *({"alpha": alpha} for alpha in (0, 1, -0.1, 2, NAN, INFINITE, "0.1", True, [0.1])),
    *({"n_tiles": n} for n in (0, -1, 1.5, 10**9, 10**400, "1", True, NAN)),
    {"held_out_scores": [], "n_held_out": 0},
    {"held_out_scores": "1", "n_held_out": 1},
    {"held_out_scores": {"1": 2}, "n_held_out": 1},
    *({"held_out_scores": [0.1, x], "n_held_out": 2} for x in (0.0, NAN, INFINITE, "2", None, True, [1], 10**400)),
    {"held_out_scores": [NAN, 0.1], "n_held_out": 2},
    {"n_held_out": 59},
    *(
        {"image_format": {"height": 16, "width": 16, "channels": 1} | change}
        for change in (
            {"height": 10**6, "width": 10**6}, {"height": 10**6}, {"width": 31_000, "height": 31_000}, {"height": 0},
            {"width": -1}, {"width": 16.0}, {"width": "16"}, {"height": True}, {"height": 10**400}, {"channels": 2},
            {"channels": True}, {"channels": None}, {"depth": 3},
        )
    ),
    {"image_format": {"height": 16, "width": 16}}, {"image_format": [16, 16, 1]}, {"layout": "hwcn"}, {"layout": []},
    {"size": "some"}, {"training": None}, {"training": []},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", INVALID_NOTES, ids=lambda change: str(change)[:60])
def test_notes_that_cannot_be_are_refused_in_one_line_before_memory_is_spent(cases, tmp_path, change):
    model = onnx.load(cases("article").exported.path)
    notes = json.loads(model.metadata_props[0].value) | change
    if None in change.values() and "training" not in change:
        notes = {name: value for name, value in notes.items() if name not in change}
    model.metadata_props[0].value = json.dumps(notes)
    onnx.save(model, tmp_path / "m.onnx")
    tracemalloc.start()
    with pytest.raises(ArtefactError, match="damaged") as refused:
        Runtime(tmp_path / "m.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000 and len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 500


def test_as_many_notes_as_no_detector_has_are_not_read():
    with pytest.raises(ValueError, match="100,000,000 are allowed"):
        sessions._notes(" " * 100_000_001)


def test_names_that_are_no_export_are_refused(tmp_path):
    (tmp_path / "alone.xml").write_text("<net/>")
    for name, message in [("gone.onnx", "does not exist"), ("m.pt", "must end in .onnx"), ("alone.xml", "alone.bin")]:
        with pytest.raises(ArtefactError, match=message):
            Runtime(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_graphs_own_verdicts_are_the_detectors(cases, name):
    """What callers in other languages read; score by score, p-value by p-value, verdict by verdict."""
    case = cases(name)
    images = case.images(30)
    expected = case.detector.score(images)
    anomaly_score, p_value, is_anomaly = case.runtime.outputs(images)
    held_out = case.detector.held_out_scores
    near = np.abs(expected.anomaly_score[:, None] - held_out).min(1) <= 0.02
    assert not near.all() and is_anomaly.dtype == bool
    np.testing.assert_allclose(p_value[~near], expected.p_value[~near], rtol=1e-6)
    np.testing.assert_array_equal(is_anomaly[~near], expected.is_anomaly[~near])
    np.testing.assert_array_equal(is_anomaly, anomaly_score > np.float32(case.detector.threshold))
    assert is_anomaly.any()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["inverted", "at the threshold", "p-value"])
def test_a_graph_whose_verdicts_are_wrong_is_not_written(cases, tmp_path, monkeypatch, wrong):
    """Wrong for all images; for one whose score is the threshold; and in the p-value of a held-out score alone."""
    right = Verdicts.forward

    def forward(self, images):
        anomaly_score, p_value, is_anomaly = right(self, images)
        at_least = (self.held_out >= anomaly_score[:, None]).sum(1)
        if wrong == "inverted":
            return anomaly_score, p_value, at_least >= self.rank
        above = (self.held_out > anomaly_score[:, None]).sum(1)
        if wrong == "p-value":
            return anomaly_score, (1 + above).float() / (len(self.held_out) + 1), is_anomaly
        return anomaly_score, p_value, above < self.rank

    monkeypatch.setattr(Verdicts, "forward", forward)
    with pytest.raises(ArtefactError, match=r"was not written: its (scores|verdicts)"):
        export(cases("article").detector, tmp_path / "m.onnx", size="fixed")
    if wrong != "inverted":
        with pytest.raises(ArtefactError, match="was not written: its verdicts do not match its scores"):
            export(cases("article").detector, tmp_path / "m.onnx", size="fixed", fresh=fresh_images())
    assert list(tmp_path.iterdir()) == []


def test_held_out_scores_among_those_of_images_have_some_at_and_on_both_sides_of_the_threshold():
    scores = np.array([5, 1, 4, 2, 3, 7, 6], np.float32)
    assert held_out_among(scores, 4).tolist() == [1, 2, 3, 4]
    assert held_out_among(scores, 12).tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5]


def test_what_parity_accepts_is_what_the_documents_say():
    expected = np.array([0.0, 0.0, 0.1, 0.1, 0.5, 0.5, -0.1, 2.0, 2.0, -50.0, -50.0])
    added = np.array([0.0099, 0.0101, 0.00049, 0.00051, 0.000099, 0.00011, 0.0004, 0.00019, 0.00021, 0.0049, 0.0051])
    is_accepted = [True, False, True, False, True, False, True, True, False, True, False]
    assert (difference(expected, expected + added) <= TOLERANCE).tolist() == is_accepted


@pytest.mark.slow
def test_no_file_is_left_if_its_scores_are_not_the_detectors(cases, tmp_path, monkeypatch):
    right = Runtime.outputs

    def wrong(self, images):
        anomaly_score, *others = right(self, images)
        return (anomaly_score + np.float32(0.01), *others)

    monkeypatch.setattr(Runtime, "outputs", wrong)
    with pytest.raises(ArtefactError, match=r"not written: its scores differ from the detector's by 0\.01"):
        export(cases("article").detector, tmp_path / "m.onnx", size="fixed")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_are_refused_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"must end in \.onnx"):
        export(None, tmp_path / "m.pb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs onnx, onnxscript, onnxruntime; install with, in the clone: pip install '\.\["
    ):
        export(None, tmp_path / "m.onnx")


def fresh_images():
    return torch.from_numpy(blobs(90, 5, (17, 18))[:, None])


@pytest.mark.slow
def test_8_bits_have_a_threshold_of_their_own(cases, tmp_path):
    detector = cases("article").detector
    fresh = fresh_images()
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
    anomaly_score, p_value, is_anomaly = runtime.outputs(fresh.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(is_anomaly, anomaly_score > np.float32(runtime.threshold))
    np.testing.assert_allclose(p_value, runtime.score(fresh.permute(0, 2, 3, 1).numpy()).p_value, rtol=1e-6)
    assert 0 < is_anomaly.sum() < 90 and verdicts_hold(runtime, fresh.permute(0, 2, 3, 1).numpy())
    with pytest.raises(DataError, match="29 normal images are too few"):
        export(detector, tmp_path / "n.onnx", fresh=fresh[:29])


@pytest.mark.slow
def test_the_callers_detector_stays_what_and_where_it_is(cases, tmp_path):
    detector = cases("article").detector
    detector.save(tmp_path / "before")
    export(detector, tmp_path / "m.onnx", size="fixed")
    detector.save(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_an_export_that_is_killed_leaves_nothing_beside_the_detector(cases, tmp_path, sent):
    run_folder, temporary = tmp_path / "run", tmp_path / "temporary"
    run_folder.mkdir()
    temporary.mkdir()
    cases("article").detector.save(run_folder / "model.safetensors")
    process = subprocess.Popen(
        [ALOCC, "export", run_folder], stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(temporary)}
    )
    while process.poll() is None and not list(temporary.glob("alocc-export-*/model.onnx")):
        time.sleep(0.01)
    process.send_signal(sent)
    process.communicate()
    assert process.returncode != 0
    assert [path.name for path in run_folder.iterdir()] == ["model.safetensors"]
    if sent == signal.SIGTERM:
        assert not list(temporary.glob("alocc-export-*"))


FORKED = """
import os, sys, time
import numpy as np
from alocc.runtime import Runtime

runtime = Runtime(sys.argv[1], threads=int(sys.argv[2]))
images = np.random.default_rng(0).integers(0, 256, (30, *runtime.image_format.size), np.uint8)
expected = runtime.score(images).anomaly_score  # has made threads
for n in (0, 1, 30):
    process = os.fork()
    if not process:
        if n:
            np.testing.assert_array_equal(runtime.score(images[:n]).anomaly_score, expected[:n])
        sys.exit(7)  # as a worker of a server ends: with all that ends with the interpreter
    for _ in range(400):
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(process, 9)
        sys.exit(f"{n} images: no answer in 20 seconds")
    assert os.waitstatus_to_exitcode(status) == 7, f"{n} images: {status}"
np.testing.assert_array_equal(runtime.score(images).anomaly_score, expected)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["article", "ognet, openvino"])
def test_a_runtime_that_has_scored_answers_in_a_forked_process_and_lets_it_end(cases, name, threads):
    done = run(sys.executable, "-c", FORKED, cases(name).exported.path, threads)
    assert done.stderr == ""


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
    for name, scorer in (
        ("torch", alocc.Detector.load(exported / "run")),
        ("file", open_exported(exported / "run/model.onnx", None)),
    ):
        batches = open_source(exported / "parts", "test").batches(scorer.image_format)
        write_table(score_batches(scorer, batches), exported / f"{name}.csv")
    run(sys.executable, "-m", "alocc.runtime", exported / "run/model.onnx", exported / "parts",
        "--out", exported / "runtime.csv")  # fmt: skip
    texts = {name: (exported / f"{name}.csv").read_text() for name in ("onnx", "file", "runtime")}
    assert texts["onnx"] == texts["file"] == texts["runtime"]
    for one, other in zip(rows(exported / "torch.csv"), rows(exported / "onnx.csv"), strict=True):
        assert one["path"] == other["path"] and one["error"] == other["error"]
        if not one["error"]:
            assert float(one["anomaly_score"]) == pytest.approx(float(other["anomaly_score"]), rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_an_export_of_another_detector_is_made_again_whatever_the_clock_says(cases, tmp_path):
    """A training that was repeated, a file that was copied, a threshold that was set anew: the content decides."""
    notes = []
    cases("article").detector.save(tmp_path / "model.safetensors")
    open_exported(tmp_path, "onnx", note=notes.append)
    os.utime(tmp_path / "model.onnx", (0, 0))  # older than the detector, of which it is all the same
    before = (tmp_path / "model.onnx").read_bytes()
    engine = open_exported(tmp_path, "onnx", note=notes.append)
    assert len(notes) == 1 and (tmp_path / "model.onnx").read_bytes() == before
    assert engine.metadata["made_from"] == digest(tmp_path / "model.safetensors")
    assert engine.was_seen(torch.from_numpy(blobs(60, 0, (17, 18))[:, None])).all()
    assert not engine.was_seen(torch.from_numpy(blobs(5, 99, (17, 18))[:, None])).any()

    detector = cases("article").detector.with_alpha(0.25)
    detector.save(tmp_path / "model.safetensors")
    os.utime(tmp_path / "model.safetensors", (1, 1))
    os.utime(tmp_path / "model.onnx")  # newer than the detector, but of another
    engine = open_exported(tmp_path, "onnx", note=notes.append)
    assert len(notes) == 2 and engine.alpha == 0.25 and engine.threshold == detector.threshold
    assert open_exported(tmp_path, "onnx", 0.5, note=notes.append).alpha == 0.5
    with pytest.raises(ConfigError, match="alpha must be at least"):
        open_exported(tmp_path, "onnx", 0.001, note=notes.append)
    assert len(notes) == 2
    (tmp_path / "model.onnx").write_bytes(b"words")
    assert open_exported(tmp_path, "onnx", note=notes.append).alpha == 0.25 and len(notes) == 3


@pytest.mark.slow
def test_bad_commands_end_with_one_line(exported, tmp_path, monkeypatch, capsys):
    model, parts = exported / "run/model.onnx", exported / "parts"
    (tmp_path / "text.onnx").write_text("no")
    for words, message in [
        (
            ["score", model, parts, "--maps", tmp_path / "maps"],
            "model.onnx has no maps; export it again, with: alocc export RUN --maps",
        ),
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

    def score(*words):
        command = [tmp_path / "venv/bin/alocc-score", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    done = score(exported / "run/model.onnx", exported / "parts")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (exported / "onnx.csv").read_text()
    assert METADATA_KEY == "alocc" and "skipped" in done.stderr

    export(alocc.Detector.load(exported / "run"), tmp_path / "mapped.onnx", size="fixed", maps=True)
    with_maps = ("mapped.onnx", exported / "parts", "--alpha", "0.9", "--maps", "maps", "--out", "mapped.csv")
    done = score(*with_maps)
    assert done.returncode == 2 and done.stderr == "error: --maps needs scipy; install it with: pip install scipy\n"
    run(python, "-m", "pip", "install", *quiet, "--constraint", ROOT / "constraints.txt", f"{ROOT / 'runtime'}[maps]")
    done = score(*with_maps)
    assert done.returncode == 0 and "pictures of 20 images written to maps" in done.stderr, done.stderr
    assert sorted((tmp_path / "maps").glob("*.png"))


@pytest.mark.slow
def test_scores_are_compared_on_images_of_the_training_though_others_of_its_folder_cannot_be_used(
    tmp_path, save_image, monkeypatch
):
    for i in range(30):
        save_image(np.random.default_rng(i).integers(0, 200, (16, 16), dtype=np.uint8), f"parts/train/good/{i:02}.png")
    save_image(np.zeros((16, 16), np.uint8), "parts/test/bad/0.png")
    save_image(np.zeros((16, 16), np.uint8), "parts/other/beside.png")  # in no part: skipped before any is read
    monkeypatch.chdir(tmp_path)
    detector = alocc.train("parts", config=with_settings(preset("article"), ["networks.width=4"]), iterations=2)
    images = some_training_images(detector, tmp_path / "model.safetensors")
    assert images is not None and len(images) == 24 and bool(detector.was_seen(images).all())
    monkeypatch.chdir("/")
    assert some_training_images(detector, tmp_path / "elsewhere" / "run" / "model.safetensors") is None
