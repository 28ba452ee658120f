"""Maps of exported files: those of the detector, or no file; the same regions and pictures, with torch and without."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy import ndimage

import alocc
from alocc.calibration import Calibration, map_threshold
from alocc.cli import main
from alocc.config import preset, with_settings
from alocc.errors import ArtefactError, ConfigError
from alocc.export import export
from alocc.export.parity import OF_MAPS, TOLERANCE, difference, trial_images
from alocc.overlays import STRONGEST
from alocc.runtime import Runtime
from alocc.runtime.__main__ import main as light_main
from alocc.runtime.sessions import MAP, VERDICTS

PLANTED = slice(30, 42), slice(8, 20)
"""Rows and columns of the fault, in images of 60×50 pixels."""
SETTINGS = ["networks.width=4", "training.batch_size=16"]


def disc(rng, *, faulty=False, size=(60, 50)):
    """A grey picture of a disc, with a bright square on it where it is faulty."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = ((rows - 30) ** 2 + (columns - 25) ** 2 < 400) * 120 + rng.integers(0, 40, size)
    if faulty:
        image[PLANTED] = 250
    return image.astype(np.uint8)


def trained(name, n, *settings, iterations=20, out=None):
    rng = np.random.default_rng(0)
    config = with_settings(preset(name), [*SETTINGS, *settings])
    return alocc.train(np.stack([disc(rng) for _ in range(n)]), config=config, iterations=iterations, out=out)


CASES = {
    "crops": (lambda: trained("robust", 30, "images.tile=30"), "model.onnx", {"layout": "nchw", "size": "fixed"}),
    "odd sides": (lambda: trained("article", 40, "images.size=[17,18]"), "model.onnx", {}),
    "odd sides, openvino": (lambda: trained("article", 40, "images.size=[17,18]"), "model.xml", {}),
}
"""Those of parts that are turned are in parts/test_pose.py."""


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A function that gives a detector, and what was exported from it with maps, by name."""
    folder, made = tmp_path_factory.mktemp("maps"), {}

    def get(name):
        if name not in made:
            make, file, options = CASES[name]
            detector = make()
            made[name] = (detector, export(detector, folder / name / file, maps=True, **options))
        return made[name]

    return get


@pytest.fixture(scope="module")
def folder(tmp_path_factory, traced_once):
    """A run on discs at half of their size, its files with maps, and a folder of 6 good ones and 6 with a fault."""
    root, rng = tmp_path_factory.mktemp("mapped"), np.random.default_rng(1)
    detector = trained(
        "robust",
        80,
        "images.size=[30,25]",
        "calibration.alpha=0.05",
        "calibration.folds=0",
        iterations=40,
        out=root / "run",
    )
    with traced_once():
        for file in ("model.onnx", "model.xml"):
            export(detector, root / file, size="fixed", maps=True)
    for name in ("good", "chipped"):
        (root / "parts" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(disc(rng, faulty=name == "chipped")).save(root / "parts" / name / f"{i:04}.png")
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process: standard error."""

    def run(*words, code=0, command=main):
        monkeypatch.setattr(sys, "argv", ["alocc", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        stopped = 0
        try:
            command()
        except SystemExit as end:
            stopped = end.code or 0
        err = capsys.readouterr().err
        assert stopped == code, err
        return err

    return run


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_maps_are_the_detectors(case, name):
    detector, exported = case(name)
    runtime, to = Runtime(exported.path), detector.image_format
    images = trial_images(detector, 20, to.size)
    maps = detector.anomaly_map(images)
    scores = runtime.score(images, maps=True)
    assert scores.anomaly_map.shape == (20, *to.size) and scores.anomaly_map.dtype == np.float32
    assert difference(maps, scores.anomaly_map).max() <= OF_MAPS * TOLERANCE < maps.std() / 100
    np.testing.assert_array_equal(scores.anomaly_score, runtime.score(images).anomaly_score)
    alone = np.concatenate([runtime.score(images[i : i + 1], maps=True).anomaly_map for i in range(20)])
    np.testing.assert_array_equal(alone, scores.anomaly_map)
    assert runtime.map_threshold == detector.map_threshold
    assert Runtime(exported.path, alpha=0.5).map_threshold == detector.with_alpha(0.5).map_threshold
    assert f", its maps to {exported.parity.map_difference:.1g}, on" in str(exported.parity)
    assert runtime.metadata["parity"]["map_difference"] == exported.parity.map_difference <= OF_MAPS * TOLERANCE


@pytest.mark.slow
def test_an_image_of_another_size_has_a_map_of_the_detectors_size(case):
    detector, exported = case("odd sides")
    images = trial_images(detector, 4, (40, 33))
    *_, of_graph = Runtime(exported.path).outputs_and_maps(images)
    assert of_graph.shape == (4, 17, 18)
    assert difference(detector.anomaly_map(images), of_graph).max() <= OF_MAPS * TOLERANCE


@pytest.mark.slow
def test_no_file_is_left_if_its_maps_are_not_the_detectors(case, tmp_path, monkeypatch):
    right = Runtime.outputs_and_maps

    def wrong(self, images):
        *verdicts, anomaly_map = right(self, images)
        anomaly_map = anomaly_map.copy()
        anomaly_map[-1, -1, -1] += 1  # one place of one image
        return (*verdicts, anomaly_map)

    monkeypatch.setattr(Runtime, "outputs_and_maps", wrong)
    with pytest.raises(ArtefactError, match=r"not written: its maps differ .* \(0\.001 is allowed\)"):
        export(case("odd sides")[0], tmp_path / "m.onnx", size="fixed", maps=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_without_maps_says_how_to_get_them(case, tmp_path, run):
    detector, mapped = case("odd sides")
    plain = export(detector, tmp_path / "plain.onnx")
    assert [output.name for output in onnx.load(plain.path).graph.output] == ["anomaly_score", "p_value", "is_anomaly"]
    assert plain.n_bytes < mapped.n_bytes and "map" not in str(plain.parity)
    runtime = Runtime(plain.path)
    assert "map_maxima" not in runtime.metadata and runtime.map_maxima is None
    images = trial_images(detector, 3, (17, 18))
    for ask in (
        lambda: runtime.score(images, maps=True),
        lambda: runtime.regions(images),
        lambda: runtime.map_threshold,
    ):
        with pytest.raises(
            ConfigError, match=r"plain\.onnx has no maps; export it again, with: alocc export RUN --maps"
        ):
            ask()
    parts = tmp_path / "parts"
    parts.mkdir()
    Image.fromarray(images[0, :, :, 0]).save(parts / "a.png")
    before = sorted(tmp_path.rglob("*"))
    for words, command in (
        (["score", plain.path, parts, "--maps", tmp_path / "maps"], main),
        (["score", plain.path, parts, "--regions", tmp_path / "r.csv"], main),
        ([plain.path, parts, "--maps", tmp_path / "maps"], light_main),
    ):
        err = run(*words, code=2, command=command)
        assert "has no maps; export it again, with: alocc export RUN --maps" in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_notes_of_maps_that_cannot_be_are_refused(case, tmp_path):
    model = onnx.load(case("odd sides")[1].path)
    notes = json.loads(model.metadata_props[0].value)
    for maxima in ([], "1", [None], [float("nan")], [10**400], {"1": 2}):
        model.metadata_props[0].value = json.dumps(notes | {"map_maxima": maxima})
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(ArtefactError, match="damaged: in its notes, map_maxima must be finite numbers"):
            Runtime(tmp_path / "m.onnx")
    model.metadata_props[0].value = json.dumps(notes)
    del model.graph.output[3]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ArtefactError, match="its notes do not match its graph"):
        Runtime(tmp_path / "m.onnx")


def test_maps_of_8_bits_are_refused_before_any_work(run, tmp_path):
    words = ["export", tmp_path / "no run", "--maps", "--int8", "--data", tmp_path]
    (tmp_path / "no run").mkdir()
    (tmp_path / "no run" / "model.safetensors").write_bytes(b"")
    err = run(*words, code=2)
    assert "--maps cannot go with --int8" in err and err.count("\n") == 1


@pytest.mark.slow
def test_every_engine_finds_the_same_regions_and_draws_the_same(folder, tmp_path, run):
    tables, regions, pictures, suspects = {}, {}, {}, {}
    for model in ("run", "model.onnx", "model.xml"):
        out = tmp_path / model
        words = ["--maps", out / "maps", "--maps-of", "all", "--regions", out / "r.csv", "--out", out / "s.csv"]
        err = run("score", folder / model, folder / "parts", *words)
        assert "12 pictures of 12 images written to" in err
        tables[model], regions[model] = rows_of(out / "s.csv"), rows_of(out / "r.csv")
        suspects[model] = rows_of(out / "maps/suspects.csv")
        drawn = files_below(out / "maps")
        pictures[model] = {name: np.asarray(Image.open(path)) for name, path in drawn.items() if name.endswith(".png")}
    assert sum("chipped" in row["path"] for row in suspects["run"]) == 6 and len(regions["run"]) >= 6
    for model in ("model.onnx", "model.xml"):
        for one, other in zip(regions["run"], regions[model], strict=True):
            assert float(other.pop("peak")) == pytest.approx(float(one["peak"]), rel=OF_MAPS * TOLERANCE)
            assert other == {name: value for name, value in one.items() if name != "peak"}
        for mine, theirs in ((tables["run"], tables[model]), (suspects["run"], suspects[model])):
            for one, other in zip(mine, theirs, strict=True):
                expected, found = np.float64(one["anomaly_score"]), np.float64(other.pop("anomaly_score"))
                assert difference(expected, found) <= TOLERANCE
                assert other == {name: value for name, value in one.items() if name != "anomaly_score"}
        assert pictures[model].keys() == pictures["run"].keys()
        for name, picture in pictures["run"].items():  # a colour may be rounded the other way
            far = np.abs(picture.astype(int) - pictures[model][name].astype(int)).max(2) > 1
            assert far.mean() < 0.001


@pytest.mark.slow
def test_a_run_that_was_not_exported_is_exported_with_maps_where_they_are_asked_for(folder, tmp_path, run):
    detector = trained("article", 40, "images.size=[17,18]", out=tmp_path / "run")
    words = ["--engine", "onnx", "--alpha", 0.9, "--regions", tmp_path / "r.csv", "--out", tmp_path / "s.csv"]
    assert "exporting the detector to" in run("score", tmp_path / "run", folder / "parts", *words)
    assert Runtime(tmp_path / "run/model.onnx").map_maxima.tolist() == detector.map_maxima.tolist()
    assert rows_of(tmp_path / "r.csv")


WITHOUT_TORCH = """
import runpy, sys

for name in ("torch", "matplotlib", "pydantic", "safetensors", "typer", "rich", "jinja2", "sklearn", "onnx", *sys.argv[1].split()):
    sys.modules[name] = None
del sys.argv[1]
runpy.run_module("alocc.runtime", run_name="__main__", alter_sys=True)
"""  # noqa: E501


def light(*words, missing="", code=0):
    command = [sys.executable, "-c", WITHOUT_TORCH, missing, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", ["model.onnx", "model.xml"])
def test_the_light_runtime_draws_without_torch_what_the_command_line_draws(folder, tmp_path, run, model):
    err = light(folder / model, folder / "parts", "--maps", tmp_path / "light", "--out", tmp_path / "light.csv")
    assert "pictures of 12 images written to" in err
    run("score", folder / model, folder / "parts", "--maps", tmp_path / "full", "--out", tmp_path / "full.csv")
    assert (tmp_path / "light.csv").read_text() == (tmp_path / "full.csv").read_text()
    drawn = files_below(tmp_path / "light")
    assert drawn.keys() == files_below(tmp_path / "full").keys() >= {"suspects.csv", "chipped/0000.png"}
    for name, path in drawn.items():
        assert path.read_bytes() == (tmp_path / "full" / name).read_bytes(), name
    fault = np.zeros((60, 50), bool)
    fault[PLANTED] = True
    for i in range(6):
        pixels = np.asarray(Image.open(drawn[f"chipped/{i:04}.png"]))
        marked = pixels[8:308, 2 * 8 + 250 : 2 * 8 + 500]  # of five times the image's own pixels
        around = ndimage.binary_fill_holes((marked == STRONGEST).all(2))
        assert around[fault.repeat(5, 0).repeat(5, 1)].mean() > 0.6
    for row in rows_of(tmp_path / "light.csv"):
        if "chipped" in row["path"]:
            left, top, right, bottom = (int(row[f"box_{side}"]) for side in ("left", "top", "right", "bottom"))
            assert 0 <= left < 20 and 8 < right <= 50 and 0 <= top < 42 and 30 < bottom <= 60


@pytest.mark.slow
def test_what_the_light_runtime_cannot_draw_is_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("")
    for words, missing, message in (
        (["--maps", tmp_path / "maps"], "scipy", "--maps needs scipy; install it with: pip install scipy"),
        (["--maps", tmp_path / "file"], "", "that is a file; give a folder"),
        (["--maps", tmp_path, "--out", tmp_path / "suspects.csv"], "", "that is the list of suspects of --maps"),
    ):
        err = light(folder / "model.onnx", folder / "parts", *words, missing=missing, code=2)
        assert message in err and err.count("\n") == 1
    assert "anomalies at alpha" in light(folder / "model.onnx", folder / "parts", missing="scipy")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_maps_threshold_by_hand():
    """Of 4 maps, alpha 0.4 asks for the second highest; alpha 0.1, which so few cannot support, for the highest."""
    maxima = np.array([3.0, 1.0, 4.0, 2.0])
    assert map_threshold(maxima, 0.1) == 4 == Calibration.of(maxima, 0.2).threshold
    assert map_threshold(maxima, 0.4) == 3


@pytest.mark.slow
def test_a_map_that_nobody_asked_for_is_not_computed_and_changes_no_bit_of_the_scores(case):
    import onnxruntime

    detector, exported = case("crops")
    images = trial_images(detector, 6, detector.image_format.size)
    runtime = Runtime(exported.path)
    *with_maps, maps = runtime.outputs_and_maps(images)
    assert all((one == other).all() for one, other in zip(runtime.outputs(images), with_maps, strict=True))

    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    [nothing] = session.run(["anomaly_map"], {"images": images.transpose(0, 3, 1, 2), "with_maps": np.array(False)})
    [unless_told] = session.run(["anomaly_map"], {"images": images.transpose(0, 3, 1, 2)})
    assert nothing.shape == (0, *maps.shape[1:]) and (unless_told == maps).all()
    [choice] = [node for node in onnx.load(exported.path).graph.node if node.op_type == "If"]
    sizes = {branch.name: len(branch.g.node) for branch in choice.attribute}
    assert sizes["then_branch"] > 10 and sizes["else_branch"] == 0


FORKED = """
import os, sys
import numpy as np
from alocc.runtime import Runtime

runtime = Runtime(sys.argv[1])
images = np.random.default_rng(0).integers(0, 256, (20, *runtime.image_format), np.uint8)
expected = [runtime.score(images, maps=maps).anomaly_score for maps in (False, True)]
if not (child := os.fork()):
    found = [runtime.score(images, maps=maps).anomaly_score for maps in (False, True)]
    sys.exit(7 if np.array_equal(found, expected) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_openvino_computes_a_map_by_a_model_of_its_own_also_in_a_forked_process(case):
    path = case("odd sides, openvino")[1].path
    session = Runtime(path)._session
    sizes = [len(session._compiled_for(frozenset(names)).outputs) for names in (VERDICTS, (*VERDICTS, MAP))]
    assert sizes == [3, 4] and len(session._compiled) == 2
    done = subprocess.run([sys.executable, "-c", FORKED, path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (7, "")
