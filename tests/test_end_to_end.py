"""From files to verdicts through the real command line."""

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import alocc
from alocc.calibration import Calibration
from alocc.cli import console
from alocc.data.mnist import load_mnist
from alocc.errors import StoppedError
from alocc.evaluation.health import check_run
from alocc.report import build_report
from alocc.training.loop import Moment

ALOCC = Path(sys.executable).with_name("alocc")
TINY = ["--set", "networks.width=4", "--set", "training.batch_size=16", "--iterations", "30"]


def run(*words, code=0, cwd=None):
    done = subprocess.run(
        [ALOCC, *map(str, words)], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, cwd=cwd
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def disc(rng, square):
    """A grey 20×18 picture of a disc or a square, somewhere near the middle."""
    rows, columns = np.mgrid[:20, :18]
    dy, dx = np.abs(rows - 10 - rng.uniform(-2, 2)), np.abs(columns - 9 - rng.uniform(-2, 2))
    inside = np.maximum(dy, dx) < 5 if square else dy**2 + dx**2 < 25
    return (inside * 180 + rng.integers(0, 40, inside.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """60 good parts, 20 bad ones and one file that is no image."""
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for name, count in (("good", 60), ("bad", 20)):
        (root / name).mkdir()
        for i in range(count):
            Image.fromarray(disc(rng, square=name == "bad")).save(root / name / f"{i:02}.png")
    (root / "good" / "broken.png").write_bytes((root / "good" / "00.png").read_bytes()[:60])
    return root


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    done = run("train", parts, "--normal", "good", "--out", out, "--watch", parts, "--watch-every", 20, *TINY)
    assert "1 image could not be used" in done.stderr
    assert "broken.png" in done.stderr
    return out


def test_run_folder_holds_what_it_should(trained):
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert files >= {"model.safetensors", "config.toml", "history.csv", "run.json"}
    assert not any(".tmp" in name for name in files)
    with (trained / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["phase"] for row in rows} == {"reconstruction", "discrimination", "places"}
    assert any(row["auroc"] for row in rows)


def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(parts, trained, tmp_path):
    run("train", parts / "good", "--out", tmp_path / "a", "--seed", 5, *TINY)
    run("train", parts / "good", "--out", tmp_path / "b", "--seed", 5, *TINY)
    run("train", parts / "good", "--out", tmp_path / "c", "--seed", 6, *TINY)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_formats_of_scores_agree_and_name_the_broken_image(parts, trained, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    for suffix in ("csv", "jsonl", "parquet"):
        run("score", trained, parts, "--out", tmp_path / f"s.{suffix}")
    with (tmp_path / "s.csv").open() as file:
        from_csv = list(csv.DictReader(file))
    from_json = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    from_parquet = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert len(from_csv) == 81
    assert from_json == from_parquet
    assert [row["path"] for row in from_csv] == [row["path"] for row in from_json]
    for text, value in zip(from_csv, from_json, strict=True):
        if value["error"]:
            assert text["anomaly_score"] == "" and "broken.png" in text["error"]
        else:
            assert float(text["anomaly_score"]) == value["anomaly_score"]
            assert text["is_anomaly"] == str(value["is_anomaly"]).lower()
    assert sum(bool(row["error"]) for row in from_json) == 1


def test_command_line_detector_and_estimator_give_identical_numbers(parts, trained, tmp_path):
    run("score", trained, parts / "bad", "--out", tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as file:
        on_the_line = [float(row["anomaly_score"]) for row in csv.DictReader(file)]
    images = np.stack([np.asarray(Image.open(path)) for path in sorted((parts / "bad").iterdir())])
    detector = alocc.Detector.load(trained)
    np.testing.assert_array_equal(detector.score(images).anomaly_score, on_the_line)
    good = [path for path in sorted((parts / "good").iterdir()) if path.name != "broken.png"]
    model = alocc.ALOCC(iterations=30, settings={"networks.width": 4, "training.batch_size": 16}, random_state=0).fit(
        np.stack([np.asarray(Image.open(path)) for path in good])
    )
    np.testing.assert_array_equal(-model.score_samples(images), on_the_line)


def test_evaluate_as_json_has_the_promised_keys(parts, trained):
    result = json.loads(run("evaluate", trained, parts, "--json", "--bootstrap", 20).stdout)
    keys = "accuracy precision recall f1 auroc aupr eer fpr95 alpha threshold n_normal n_anomalous".split()
    assert set(keys) <= set(result)
    assert (result["n_normal"], result["n_anomalous"], result["n_seen_in_training"]) == (60, 20, 60)
    assert result["skipped"][0]["name"].endswith("broken.png")
    low, high = result["intervals"]["auroc"]
    assert low <= result["auroc"] <= high


def test_class_lists_are_taken_apart_in_all_their_spellings(trained):
    def counts(*spelling):
        result = json.loads(run("evaluate", trained, "mnist", *spelling, "--json", "--bootstrap", 0).stdout)
        return result["n_normal"], result["n_anomalous"]

    several = counts("--normal", "1", "--anomalous", "0", "2")
    assert several == counts("--normal=1", "--anomalous", "0,2") == (1135, 980 + 1032)
    assert several == counts("--normal", "1", "--anomalous", "0", "--anomalous", "2")


def test_maps_are_drawn_for_every_image_that_can_be_read(parts, trained, tmp_path):
    words = ["--maps", tmp_path / "maps", "--maps-of", "all", "--out", tmp_path / "s.csv"]
    done = run("score", trained, parts / "bad", *words)
    drawn = sorted(path.name for path in (tmp_path / "maps").glob("*.png"))
    assert drawn == [f"{i:02}.png" for i in range(20)]
    with Image.open(tmp_path / "maps" / drawn[0]) as picture:
        assert picture.mode == "RGB" and picture.width > 2 * 224 and picture.height > 224
    assert "20 pictures of 20 images written to" in done.stderr


def test_a_false_discovery_rate_calls_by_the_batch(parts, trained):
    rows = json.loads(run("score", trained, parts, "--fdr", 0.2, "--json").stdout)["images"]
    p_values = np.array([row["p_value"] for row in rows if row["error"] is None])
    below = [p for k, p in enumerate(np.sort(p_values), 1) if p <= 0.2 * k / len(p_values)]
    limit = max(below, default=0.0)
    assert [row["is_anomaly"] for row in rows if row["error"] is None] == (p_values <= limit).tolist()
    assert "--fdr must be above 0" in run("score", trained, parts, "--fdr", 2, code=2).stderr


def test_strict_stops_at_the_first_bad_image(parts, trained, tmp_path):
    done = run("score", trained, parts, "--strict", "--out", tmp_path / "s.csv", code=2)
    assert "broken.png" in done.stderr and not (tmp_path / "s.csv").exists()


def test_inspect_names_what_is_wrong(parts, tmp_path):
    found = json.loads(run("inspect", parts, "--json", "--sheet", tmp_path / "sheet.png").stdout)
    assert (found["n_images"], found["classes"]) == (80, {"bad": 20, "good": 60})
    assert found["skipped"][0]["name"].endswith("broken.png")
    assert any("2 classes" in warning for warning in found["warnings"])
    assert (tmp_path / "sheet.png").exists()
    shown = run("inspect", parts)
    assert "18×20 grey" in shown.stdout and "warning: 2 classes" in shown.stderr


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """120 newer good parts in a little more light."""
    root = tmp_path_factory.mktemp("newer")
    rng = np.random.default_rng(5)
    for i in range(120):
        Image.fromarray(disc(rng, square=False) // 2 + 100).save(root / f"{i:03}.png")
    return root


def test_drift_is_told_and_calibrated_away(trained, newer, tmp_path):
    done = run("monitor", trained, newer, "--window", 40, "--chart", tmp_path / "drift.svg", "--json", code=3)
    assert json.loads(done.stdout)["has_drifted"] and "the images have changed" in done.stderr
    assert (tmp_path / "drift.svg").read_text().startswith("<svg")
    again = tmp_path / "again.safetensors"
    for i in range(60):
        (tmp_path / "calm").mkdir(exist_ok=True)
        (tmp_path / "calm" / f"{i}.png").write_bytes((newer / f"{i:03}.png").read_bytes())
    assert "from 60 normal images" in run("calibrate", trained, tmp_path / "calm", "--out", again).stderr
    watched = run("monitor", again, newer, "--json")
    assert not json.loads(watched.stdout)["has_drifted"]
    assert "warning: 60 of these images were trained or calibrated on" in watched.stderr
    assert "not both" in run("score", again, newer, "--alpha", 0.1, "--fdr", 0.1, code=2).stderr
    assert "trained or calibrated on all" in run("calibrate", again, tmp_path / "calm", "--out", again, code=2).stderr
    assert "give --out" in run("calibrate", again, newer, code=2).stderr  # nothing would be left of this one


def test_the_layout_of_industrial_sets_from_training_to_pixels(tmp_path):
    rng = np.random.default_rng(2)
    counts = {"ground_truth/stain": 0, "train/good": 60, "test/good": 15, "test/stain": 15, "test/torn": 5}
    for folder, count in counts.items():
        (tmp_path / folder).mkdir(parents=True)
        for i in range(count):
            picture = disc(rng, square=False)
            if folder == "test/stain":
                mask = np.zeros_like(picture)
                mask[2:6, 3:7] = 255
                picture[2:6, 3:7] = 150
                Image.fromarray(mask).save(tmp_path / "ground_truth/stain" / f"{i:02}_mask.png")
            Image.fromarray(picture).save(tmp_path / folder / f"{i:02}.png")
    run("train", tmp_path, "--out", tmp_path / "run", *TINY)
    figures = json.loads(run("evaluate", tmp_path / "run", tmp_path, "--json", "--bootstrap", 0).stdout)
    assert (figures["n_normal"], figures["n_anomalous"]) == (15, 20)
    good, stain, torn = figures["classes"]
    assert [(one["name"], one["n"]) for one in (good, stain, torn)] == [("good", 15), ("stain", 15), ("torn", 5)]
    assert "pixel_auroc" not in good.keys() | torn.keys()  # no masks
    assert (stain["pixel_auroc"], stain["pro"]) == (figures["pixel_auroc"], figures["pro"])
    assert stain["auroc"] > 0.9 and figures["pixel_auroc"] > 0.9 and figures["pro"] > 0.7
    detector = alocc.Detector.load(tmp_path / "run")
    images = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "test").glob("[gs]*/*.png"))])
    called, marked = detector.anomaly_map(images) > detector.map_threshold, np.zeros((30, 20, 18), bool)
    marked[15:, 2:6, 3:7] = True  # good comes before stain
    assert figures["pixel_f1"] == pytest.approx(2 * (called & marked).sum() / (called.sum() + marked.sum()))


def test_report_is_one_file_without_links_outside(parts, trained, tmp_path):
    run("report", trained, parts, "--out", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<svg" in page and "data:image/png;base64," in page
    assert 'src="http' not in page and 'href="http' not in page
    assert "Most anomalous" in page and "At the detector&#39;s own threshold" in page.replace("'", "&#39;")
    run("report", trained, parts / "bad")
    assert (trained / "report.html").exists()


def test_info_tells_what_a_detector_is(trained):
    facts = json.loads(run("info", trained, "--json").stdout)
    assert facts["preset"] == "robust"
    assert facts["images"] == "18×20 grey"
    assert (facts["n_fit"], facts["n_held_out"], facts["n_folds"]) == (60, 60, 2)
    assert "18×20 grey" in run("info", trained).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["train", "minst", "--out", "x"], 'did you mean "mnist"'),
        (["train", "mnist", "--out", "x"], "say which classes"),
        (["train", "mnist", "--normal", "11", "--out", "x"], 'no class "11"'),
        (["train", "mnist", "--normal", "1", "--out", "x", "--preset", "robst"], 'did you mean "robust"'),
        (["train", "mnist", "--normal", "1", "--out", "x", "--set", "training.batch_sise=3"], "batch_size"),
        (["train", "mnist", "--normal", "1", "--out", "x", "--alpha", "0.0001"], "alpha 0.0001 needs 9999"),
        (["train", "mnist", "--normal", "1", "--out", "x", "--iterations", "3", "--epochs", "1"], "not both"),
        (["train", "mnist", "--normal", "1", "--out", "x", "--device", "cuda"], "device cuda"),
        (["score", "nowhere", "mnist"], "nowhere does not exist"),
        (["score", "x.bin", "mnist"], "damaged"),
        (["report", "."], "no finished detector"),
    ],
)
def test_bad_input_is_one_clear_line_and_code_2(words, expected, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\x80\x04\x95 a pickle, not tensors")
    done = subprocess.run([ALOCC, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("starting ")]  # of a busy machine
    assert len(lines) == 1
    assert not (tmp_path / "x").exists()


def test_another_training_in_the_run_folder_is_refused_unless_overwritten(parts, tmp_path):
    run("train", parts / "good", "--out", tmp_path / "r", *TINY)
    before = (tmp_path / "r" / "model.safetensors").read_bytes()
    done = run("train", parts / "good", "--out", tmp_path / "r", "--seed", 1, *TINY, code=2)
    assert "--overwrite" in done.stderr
    assert (tmp_path / "r" / "model.safetensors").read_bytes() == before
    run("train", parts / "good", "--out", tmp_path / "r", "--seed", 1, "--overwrite", *TINY)
    assert (tmp_path / "r" / "model.safetensors").read_bytes() != before


def test_a_folder_with_other_files_is_never_touched(parts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run("train", parts / "good", "--out", tmp_path, "--overwrite", *TINY, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_interrupted_training_goes_on_to_the_same_bytes(parts, tmp_path):
    """SIGTERM, and stages without iterations: training/test_stopped.py."""
    words = ["train", parts / "good", "--set", "networks.width=4", "--set", "training.batch_size=16"]
    words += ["--preset", "article", "--iterations", "400"]
    run(*words, "--out", tmp_path / "whole")
    terminal, stderr = pty.openpty()  # so that it shows how far it is
    process = subprocess.Popen(
        [ALOCC, *map(str, words), "--out", tmp_path / "parts"], stderr=stderr, env={**os.environ, "COLUMNS": "200"}
    )
    os.close(stderr)
    shown = b""
    while not re.search(rb"[1-9]\d*/400", shown):
        shown += os.read(terminal, 10_000)
    process.send_signal(signal.SIGINT)
    while chunk := read_to_the_end(terminal):
        shown += chunk
    assert process.wait() == 130 and b"stopping after this iteration" in shown
    assert re.search(rb"stopped after \d+ of 400 iterations; the same command goes on", shown)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    assert "going on from iteration" in run(*words, "--out", tmp_path / "parts").stderr
    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == resumed


def read_to_the_end(terminal):
    try:
        return os.read(terminal, 10_000)
    except OSError:  # nobody writes to it any more
        return b""


def test_an_interrupt_waits_for_an_iteration_and_for_nothing_else(capsys):
    def interrupt():
        signal.getsignal(signal.SIGINT)(signal.SIGINT, None)  # no signal to the process that runs the tests

    def stopped(*moments, first=False):
        with (
            pytest.raises(StoppedError, match="stopped") as raised,
            console.training_progress() as show,
            console.stop_on_interrupt() as stop_requested,
        ):
            for iteration in moments:
                show(Moment("reconstruction", iteration, 3, {}, 3 - iteration))
            if first:
                interrupt()
                assert stop_requested()
            interrupt()
            raise AssertionError("it goes on")
        assert raised.value.exit_code == 128 + signal.SIGINT

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped()  # while images are read
    stopped(1, 2, 3)  # while it calibrates
    assert "stopping" not in capsys.readouterr().err
    stopped(1, first=True)  # the second time
    assert capsys.readouterr().err.count("stopping after this iteration") == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_training_that_fails_exits_with_1(parts, tmp_path):
    rate = ["--set", "training.reconstruction.adam.learning_rate=1e30"]
    done = run("train", parts / "good", "--out", tmp_path / "r", *rate, *TINY, code=1)
    assert "error: " in done.stderr and "lower training.reconstruction.adam.learning_rate" in done.stderr
    assert not (tmp_path / "r" / "model.safetensors").exists()


def test_check_has_a_verdict_with_reasons(parts, trained):
    words = ["check", trained, parts, "--normal", "good,bad", "--json"]
    result = json.loads(run(*words, cwd=parts.parent).stdout)
    assert (result["verdict"], result["measures"]["n_fresh"]) == ("doubtful", 20)  # the good ones were seen
    assert -1 <= result["measures"]["stability"] < 1 and result["measures"]["same_as_held_out"] < 0.001
    assert any("20 fresh normal images do not score like" in finding["reason"] for finding in result["findings"])
    assert json.loads((trained / "health.json").read_text()) == result
    again = run("check", trained, "--no-second-seed", cwd=parts.parent)
    assert "health:" in again.stderr and "AUROC on noise images" in again.stdout
    kept = json.loads((trained / "health.json").read_text())
    assert (kept["measures"]["n_fresh"], kept["measures"]["n_held_out"]) == (0, 60)


def test_a_useless_detector_exits_with_3(parts, trained, tmp_path):
    detector = alocc.Detector.load(trained)
    for scale in detector.scorer.fusion.scales.values():
        scale.deviation.neg_()  # every part's z, and so the score, with the other sign
    turned = replace(detector, calibration=Calibration.of(-detector.held_out_scores, detector.alpha))
    turned.save(tmp_path / "turned.safetensors")
    done = run("check", tmp_path / "turned.safetensors", parts / "bad", "--no-second-seed", "--json", code=3)
    assert json.loads(done.stdout)["verdict"] == "useless" and "health: useless" in done.stderr


def test_a_run_is_checked_and_reported_from_any_directory(parts, tmp_path, monkeypatch):
    """Its images are found where they were, or beside it; what a stranger's notes name is asked for."""
    home, far = tmp_path / "home", tmp_path / "far"
    shutil.copytree(parts, home / "parts")
    far.mkdir()
    run("train", "parts", "--normal", "good", "--out", "run", *TINY, cwd=home)
    for cwd, path in ((home, "run"), (far, "../home/run")):
        monkeypatch.chdir(cwd)
        assert check_run(path, second_seed=False).measures.n_held_out == 60
        page = build_report(path).read_text()
        assert "60 of the 80 images" in page and "were trained or calibrated on" in page
    shutil.move(home / "run", far / "run")
    for command in (["check", "far/run", "--no-second-seed"], ["report", "far/run"]):
        error = run(*command, cwd=tmp_path, code=2).stderr
        assert 'names "parts"' in error and str(far) in error and "give DATA on the command line" in error
    assert check_run(far / "run", home / "parts", second_seed=False).measures.n_held_out == 60
    assert "60 of the 80 images" in build_report(far / "run", str(home / "parts")).read_text()


@pytest.mark.parametrize("noted", ["https://127.0.0.1:9/parts.zip", "/", "../../private", "s3://bucket/parts"])
def test_a_strangers_run_opens_nothing_far_away(trained, tmp_path, noted):
    stranger = shutil.copytree(trained, tmp_path / "here" / "run")
    (stranger / "report.html").unlink(missing_ok=True)
    (tmp_path / "private").mkdir()
    Image.fromarray(np.full((20, 18), 7, np.uint8)).save(tmp_path / "private" / "1.png")
    detector = alocc.Detector.load(stranger)
    replace(detector, training={**detector.training, "data": noted}).save(stranger / "model.safetensors")
    notes = json.loads((stranger / "run.json").read_text())
    (stranger / "run.json").write_text(json.dumps({**notes, "data": noted, "watch": noted}))
    for command in (["check"], ["report"]):
        error = run(*command, "run", cwd=tmp_path / "here", code=2).stderr
        assert f'names "{noted}"' in error and "give DATA" in error and len(error.splitlines()) == 1
    assert not (stranger / "report.html").exists()


def test_twelve_images_are_enough_and_their_health_is_doubtful(parts, tmp_path):
    (tmp_path / "few").mkdir()
    for path in sorted((parts / "good").iterdir())[:12]:
        (tmp_path / "few" / path.name).write_bytes(path.read_bytes())
    assert "only 12 held-out normal images" in run("train", tmp_path / "few", "--out", tmp_path / "r", *TINY).stderr


def test_check_takes_a_folder_without_classes_and_names_what_it_cannot_use(parts, trained):
    done = subprocess.run([ALOCC, "check", trained, parts / "bad", "--no-second-seed"], capture_output=True, text=True)
    assert done.returncode in (0, 3) and "20 fresh images" in done.stdout
    done = subprocess.run([ALOCC, "check", trained, parts, "--normal", "good,bad", "--no-second-seed", "--json"],
                          capture_output=True, text=True)  # fmt: skip
    assert [Path(item["name"]).name for item in json.loads(done.stdout)["skipped"]] == ["broken.png"]


def test_benchmark_goes_on_where_it_stopped(parts, tmp_path):
    words = (
        "benchmark",
        "one-vs-rest",
        parts,
        "--classes",
        "good",
        "bad",
        "--methods",
        "5-nn",
        "pca",
        "--out",
        tmp_path / "b",
    )
    first = run(*words)
    assert "4/4" in first.stderr and "5-nn" in first.stdout
    table = json.loads((tmp_path / "b" / "table.json").read_text())
    assert set(table["rows"]) == {"5-nn", "pca"} and 0.5 < table["rows"]["5-nn"]["mean"] <= 1
    assert "4/4" not in run(*words).stderr
    spelled = ["--classes", "good,bad", "--methods=5-nn", "--methods", "pca", "--out", tmp_path / "b"]
    assert "4/4" not in run("benchmark", "one-vs-rest", parts, *spelled).stderr
    wrong = run("benchmark", "outliers", parts, "--methods", "pca", "6-nn", "--out", tmp_path / "c", code=2)
    assert 'no method "6-nn"' in wrong.stderr and not (tmp_path / "c").exists()


@pytest.mark.slow
def test_digit_1_is_told_from_all_others_without_one_of_them(tmp_path):
    run("train", "mnist", "--normal", "1", "--out", tmp_path / "r", "--iterations", 200)
    result = json.loads(run("evaluate", tmp_path / "r", "mnist", "--bootstrap", 0, "--json").stdout)
    assert result["auroc"] > 0.97
    assert 0.001 < 1 - result["normal_as_positive"]["recall"] < 0.03  # alpha 0.01 on 1,135 images
    detector = alocc.Detector.load(tmp_path / "r")
    images, digits = load_mnist("test")
    scores = detector.score(images)
    assert roc_auc_score(digits != "1", scores.anomaly_score) == pytest.approx(result["auroc"], abs=1e-12)
    for count in (1, 7, 100):
        np.testing.assert_allclose(
            detector.score(images[:count]).anomaly_score, scores.anomaly_score[:count], rtol=0, atol=1e-5
        )


@pytest.mark.slow
def test_reproducing_the_article_ends_with_its_table_and_report(tmp_path):
    done = run("reproduce", "article", "--iterations", 20, "--out", tmp_path / "r")
    assert "the article's claim" in done.stdout
    assert "90 %" in done.stdout
    page = (tmp_path / "r" / "report.html").read_text()
    assert "read both ways" in page
