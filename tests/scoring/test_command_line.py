"""``alocc score`` and ``alocc-score``, and ``--alpha`` of every command that scores."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.cli import main
from alocc.config import preset, with_settings
from alocc.errors import DataError
from alocc.evaluation import discoveries
from alocc.export import export
from alocc.runtime.__main__ import main as light_main

ALOCC = Path(sys.executable).with_name("alocc")


def disc(rng, side=16, *, square=False):
    y, x = np.abs(np.mgrid[:side, :side] - side / 2 + rng.uniform(-2, 2, (2, 1, 1)))
    inside = np.maximum(y, x) < 4 if square else y**2 + x**2 < 16
    return (inside * 180 + rng.integers(0, 40, inside.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 60 discs, its export, 30 other discs, 10 squares, and a file that is no image."""
    root, rng = tmp_path_factory.mktemp("scoring"), np.random.default_rng(0)
    config = with_settings(preset("article"), ["networks.width=4", "training.batch_size=16"])
    detector = alocc.train(np.stack([disc(rng) for _ in range(60)]), config=config, iterations=6, out=root / "run")
    export(detector, root / "model.onnx", size="fixed")
    for name, n in (("good", 30), ("bad", 10)):
        (root / "parts" / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(disc(rng, square=name == "bad")).save(root / "parts" / name / f"{i:02}.png")
    (root / "parts" / "good" / "broken.png").write_bytes(b"")
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process: standard output and standard error."""

    def run(*words, code=0, command=main):
        monkeypatch.setattr(sys, "argv", ["alocc", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        stopped = None
        try:
            command()
        except SystemExit as end:
            stopped = end.code
        out, err = capsys.readouterr()
        assert code is None or (stopped or 0) == code, out + err
        return out, err

    return run


def table_of(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


SCORERS = {
    "torch": lambda root: [root / "run"],
    "the run folder's export": lambda root: [root / "run", "--engine", "onnx"],
    "an exported file": lambda root: [root / "model.onnx"],
}


@pytest.mark.parametrize("scorer", SCORERS)
def test_alpha_of_score_decides_the_verdicts(run, folder, scorer):
    model, *engine = SCORERS[scorer](folder)
    found = {}
    for alpha in (0.05, 0.4):
        out, err = run("score", model, folder / "parts", "--alpha", alpha, "--json", *engine)
        found[alpha] = result = json.loads(out)
        rows = [row for row in result["images"] if row["error"] is None]
        assert result["alpha"] == alpha and f"at alpha {alpha:g}" in err and len(rows) == 40
        assert [row["is_anomaly"] for row in rows] == [row["p_value"] <= alpha for row in rows]
        assert [row["is_anomaly"] for row in rows] == [row["anomaly_score"] > result["threshold"] for row in rows]
        assert result["n_anomalies"] == sum(row["is_anomaly"] for row in rows)
        assert sum(bool(row["error"]) for row in result["images"]) == len(result["skipped"]) == 1
    assert found[0.05]["n_anomalies"] < found[0.4]["n_anomalies"]
    assert found[0.05]["threshold"] > found[0.4]["threshold"]
    assert "alpha must be at least" in run("score", model, folder / "parts", "--alpha", 0.001, *engine, code=2)[1]


def test_alpha_of_the_light_runtime_decides_the_verdicts(run, folder):
    for alpha in (0.05, 0.4):
        out, err = run(folder / "model.onnx", folder / "parts", "--alpha", alpha, command=light_main)
        rows = [row for row in table_of(out) if not row["error"]]
        assert [row["is_anomaly"] == "true" for row in rows] == [float(row["p_value"]) <= alpha for row in rows]
        assert (
            f"{sum(row['is_anomaly'] == 'true' for row in rows)} of 40 images are anomalies at alpha {alpha:g}" in err
        )


@pytest.mark.parametrize("scorer", SCORERS)
def test_alpha_of_evaluate_decides_the_figures(run, folder, scorer):
    model, *engine = SCORERS[scorer](folder)
    thresholds = []
    for alpha in (0.05, 0.4):
        words = ["--alpha", alpha, "--json", *engine]
        result = json.loads(run("evaluate", model, folder / "parts", "--normal", "good", "--bootstrap", 0, *words)[0])
        rows = [
            row for row in json.loads(run("score", model, folder / "parts", *words)[0])["images"] if not row["error"]
        ]
        right = [(row["p_value"] <= alpha) == ("bad" in Path(row["path"]).parts) for row in rows]
        assert result["alpha"] == alpha and result["accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
        thresholds.append(result["threshold"])
    assert thresholds[0] > thresholds[1]


@pytest.mark.parametrize("scorer", SCORERS)
def test_alpha_of_monitor_decides_the_share_of_anomalies(run, folder, scorer):
    model, *engine = SCORERS[scorer](folder)
    shares = []
    for alpha in (0.05, 0.4):
        words = [folder / "parts", "--alpha", alpha, "--json", *engine]
        out = run("monitor", model, *words, code=None)[0]  # 3 if it finds a drift
        rows = [row for row in json.loads(run("score", model, *words)[0])["images"] if not row["error"]]
        result = json.loads(out)
        [window] = result["windows"]
        assert result["alpha"] == alpha
        assert window["share_of_anomalies"] == pytest.approx(np.mean([row["p_value"] <= alpha for row in rows]))
        shares.append(window["share_of_anomalies"])
    assert shares[0] < shares[1]


def test_light_and_full_runtime_write_the_same_tables(run, folder, tmp_path):
    pytest.importorskip("pyarrow")
    for suffix in ("csv", "jsonl", "parquet"):
        run("score", folder / "model.onnx", folder / "parts", "--out", tmp_path / f"full.{suffix}")
        run(folder / "model.onnx", folder / "parts", "--out", tmp_path / f"light.{suffix}", command=light_main)
        assert (tmp_path / f"full.{suffix}").read_bytes() == (tmp_path / f"light.{suffix}").read_bytes()
    text = run("score", folder / "model.onnx", folder / "parts")[0]
    assert text == run(folder / "model.onnx", folder / "parts", command=light_main)[0]
    assert text == (tmp_path / "full.csv").read_text()
    assert "must end in" in run(folder / "model.onnx", folder, "--out", "s.txt", command=light_main, code=2)[1]


@pytest.mark.parametrize("command", [main, light_main])
def test_names_that_a_spreadsheet_would_compute_are_spelled_otherwise(run, folder, tmp_path, monkeypatch, command):
    names = ["+1.png", "-1.png", "=1+1.png", "@a.png"]
    for name in names:
        Image.fromarray(disc(np.random.default_rng(1))).save(tmp_path / name)
    (tmp_path / "=broken.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    words = ["score"] if command is main else []
    rows = table_of(run(*words, folder / "model.onnx", ".", command=command)[0])
    assert [row["path"] for row in rows] == [f"./{name}" for name in (*names, "=broken.png")]
    assert rows[-1]["error"].startswith("./=broken.png cannot be read (the file is empty)")
    if command is main:
        result = json.loads(run(*words, folder / "model.onnx", ".", "--json")[0])
        assert [row["path"] for row in result["images"]] == [*names, "=broken.png"]


def test_nothing_is_left_of_a_table_that_cannot_be(run, folder, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").write_bytes(b"")
    out = tmp_path / "new" / "s.csv"
    for data, *more in ((tmp_path / "none",), (tmp_path / "nowhere",), (folder / "parts", "--strict")):
        printed, err = run("score", folder / "model.onnx", data, "--out", out, *more, code=2)
        assert printed == "" and err.count("\n") == 1 and not out.parent.exists()
        assert run("score", folder / "model.onnx", data, *more, code=2)[0] == ""
    assert (
        "none of the 1 images can be used"
        in run(folder / "model.onnx", tmp_path / "none", "--out", out, command=light_main, code=2)[1]
    )


def ranked(run, folder, *words):
    """All rows that could be scored, the most anomalous first."""
    rows = json.loads(run("score", folder / "run", folder / "parts", *words, "--json")[0])["images"]
    return sorted((row for row in rows if not row["error"]), key=lambda row: -row["anomaly_score"])


def test_the_class_of_an_image_is_a_column_where_there_are_classes(run, folder):
    rows = table_of(run("score", folder / "run", folder / "parts")[0])
    assert list(rows[0]) == ["path", "anomaly_score", "p_value", "is_anomaly", "error", "class"]
    assert all(row["class"] == ("" if row["error"] else Path(row["path"]).parent.name) for row in rows)
    assert {row["class"] for row in rows} == {"good", "bad", ""}
    assert "class" not in table_of(run("score", folder / "run", folder / "parts" / "bad")[0])[0]


def test_top_lists_the_most_anomalous_and_counts_all(run, folder, tmp_path):
    rows = ranked(run, folder, "--alpha", 0.4)
    for n in (1, 7, 1_000):
        out, err = run("score", folder / "run", folder / "parts", "--alpha", 0.4, "--top", n)
        assert [row["path"] for row in table_of(out)] == [row["path"] for row in rows[:n]]
        assert f"{sum(row['is_anomaly'] for row in rows)} of 40 images are anomalies" in err
    result = json.loads(run("score", folder / "run", folder / "parts", "--alpha", 0.4, "--top", 7, "--json")[0])
    assert result["images"] == rows[:7] and result["n_images"] == 40 and len(result["skipped"]) == 1
    run("score", folder / "run", folder / "parts", "--top", 7, "--alpha", 0.4, "--out", tmp_path / "s.jsonl")
    assert [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()] == rows[:7]


@pytest.mark.parametrize("rule", [("--alpha", 0.4), ("--fdr", 0.5)])
def test_only_anomalies_are_listed_the_most_anomalous_first(run, folder, rule, monkeypatch):
    monkeypatch.setattr(discoveries, "discoveries", lambda p_value, _: p_value <= 0.3)  # others than alpha calls
    called = [row for row in ranked(run, folder, *rule) if row["is_anomaly"]]
    assert 1 < len(called) < 40
    words = ["score", folder / "run", folder / "parts", *rule, "--only", "anomalies", "--json"]
    assert json.loads(run(*words)[0])["images"] == called
    assert json.loads(run(*words, "--top", 2)[0])["images"] == called[:2]


def test_suspects_are_the_called_images_with_their_pictures(run, folder, tmp_path):
    rows = ranked(run, folder, "--alpha", 0.4)
    run("score", folder / "run", folder / "parts", "--alpha", 0.4, "--maps", tmp_path, "--top", 1)
    suspects = table_of((tmp_path / "suspects.csv").read_text(encoding="utf-8"))
    assert list(suspects[0]) == ["path", "anomaly_score", "p_value", "picture", "class"]
    wanted = [(row["path"], str(row["anomaly_score"]), str(row["p_value"])) for row in rows if row["is_anomaly"]]
    assert [(row["path"], row["anomaly_score"], row["p_value"]) for row in suspects] == wanted
    pictures = [row["picture"] for row in suspects]
    assert all(Path(row["path"]).stem in row["picture"] for row in suspects) and len(set(pictures)) == len(pictures)
    assert all((tmp_path / name).is_file() for name in pictures)
    run("score", folder / "run", rows[-1]["path"], "--maps", tmp_path / "none")
    assert (tmp_path / "none" / "suspects.csv").read_text() == "path,anomaly_score,p_value,picture\n"


@pytest.mark.parametrize("words", [("--top", 0), ("--top", -1), ("--only", "normal")])
def test_lists_that_cannot_be_are_refused(run, folder, words):
    out, err = run("score", folder / "run", folder / "parts", *words, code=2)
    assert out == "" and words[0] in err


def test_evaluate_says_first_what_counts_as_what_then_each_class(run, folder, tmp_path):
    """Images of class control are clean, but nothing says so: they count as anomalous, and that is said."""
    for name in ("good", "bad"):
        for path in sorted((folder / "parts" / name).glob("0*.png")):
            target = tmp_path / ("control" if name == "good" and path.stem < "04" else name) / path.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    words = [folder / "run", tmp_path, "--alpha", 0.4, "--bootstrap", 0]
    out, err = run("evaluate", *words, "--normal", "good")
    assert err.startswith("counted as normal: good (6)\ncounted as anomalous: bad (10), control (4)\n")
    assert out.startswith("by class at alpha 0.4") and out.index("by class") < out.index("over all thresholds")
    classes = json.loads(run("evaluate", *words, "--normal", "good", "--json")[0])["classes"]
    assert [(one["name"], one["is_anomalous"], one["n"]) for one in classes] == [
        ("good", False, 6), ("bad", True, 10), ("control", True, 4),
    ]  # fmt: skip
    rows = [row for row in json.loads(run("score", *words[:4], "--json")[0])["images"] if not row["error"]]
    normal = [row["anomaly_score"] for row in rows if row["class"] == "good"]
    for one in classes:
        own = [row for row in rows if row["class"] == one["name"]]
        n, called = len(own), sum(row["is_anomaly"] for row in own)
        assert (one["n_called"], one["share_called"]) == (called, called / n)
        z, share = 1.959964, called / n
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        assert one["interval"] == pytest.approx([middle - half, middle + half], abs=1e-6)
        wins = [
            (row["anomaly_score"] > other) + 0.5 * (row["anomaly_score"] == other) for row in own for other in normal
        ]
        assert one["auroc"] == (pytest.approx(np.mean(wins)) if one["is_anomalous"] else None)
        assert re.search(rf"{one['name']} +│ {called} of {n} +│ {share:.3f} │", out)
    err = run("evaluate", *words, "--normal", "good", "control", "--json")[1]
    assert err.startswith("counted as normal: control (4), good (6)\ncounted as anomalous: bad (10)\n")


REGION = ["x", "y", "width", "height", "area", "peak", "p_value", "reason"]


@pytest.mark.parametrize("rule", [("--alpha", 0.4), ("--fdr", 0.5)])
def test_regions_of_every_anomaly_and_of_no_other_image(run, folder, tmp_path, rule, monkeypatch):
    def again(*_):
        raise AssertionError("maps are computed a second time")

    monkeypatch.setattr(alocc.Detector, "anomaly_map", again)
    monkeypatch.setattr(discoveries, "discoveries", lambda p_value, _: p_value <= 0.4)  # more than alpha calls
    words = ["score", folder / "run", folder / "parts", *rule, "--maps", tmp_path / "maps", "--json"]
    out, err = run(*words, "--regions", tmp_path / "r.csv")
    found = json.loads(out)
    called = [image for image in found["images"] if image["is_anomaly"]]
    assert 0 < len(called) < 40 and found["regions"] == str(tmp_path / "r.csv") and "r.csv written" in err
    assert not any("regions" in image or image["box_left"] for image in found["images"] if image not in called)
    assert all(1 <= len(image["regions"]) == image["n_regions"] for image in called)  # none has more than 20
    rows = table_of((tmp_path / "r.csv").read_text(encoding="utf-8"))
    wanted = [{"path": image["path"]} | region for image in called for region in image["regions"]]
    assert list(rows[0]) == ["path", *REGION] and rows == [{k: str(v) for k, v in row.items()} for row in wanted]
    for image in called:
        left, top, right, bottom = (image[f"box_{side}"] for side in ("left", "top", "right", "bottom"))
        strongest = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        assert strongest.items() <= image["regions"][0].items()
    for row in wanted:
        assert 0 <= row["x"] <= row["x"] + row["width"] <= 16 and 0 <= row["y"] <= row["y"] + row["height"] <= 16
        assert 1 <= row["area"] <= row["width"] * row["height"] and 0 < row["p_value"] <= 1
        assert row["reason"].endswith(f"; {row['width']} × {row['height']} pixels")
    out, _ = run("score", folder / "run", folder / "parts", *rule, "--regions", tmp_path / "r.jsonl")
    assert out.startswith("path,anomaly_score,p_value,is_anomaly,error,box_left,box_top,box_right,box_bottom,class\n")
    lines = (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == wanted
    drawn = {path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.png")}
    assert drawn == {image["path"].removeprefix(f"{folder / 'parts'}/") for image in called}


def test_regions_are_in_pixels_of_the_image_as_it_is_saved(run, folder, tmp_path):
    name = "=1+1.png"  # which a spreadsheet would compute
    (tmp_path / "large").mkdir()
    Image.fromarray(255 - disc(np.random.default_rng(3)).repeat(4, 0).repeat(3, 1)).save(tmp_path / "large" / name)
    command = ["score", folder / "run", "--alpha", 0.99, "--json", "--regions"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "large")
        [image] = json.loads(run(*command, tmp_path / "r.csv", ".")[0])["images"]
    sides = [
        (region["x"] % 3, region["width"] % 3, region["y"] % 4, region["height"] % 4) for region in image["regions"]
    ]
    assert image["is_anomaly"] and sides == [(0, 0, 0, 0)] * len(sides)
    assert max(region["x"] + region["width"] for region in image["regions"]) > 16
    assert {row["path"] for row in table_of((tmp_path / "r.csv").read_text())} == {f"./{name}"}


def test_regions_that_cannot_be_are_one_line_and_leave_nothing(run, folder, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").write_bytes(b"")
    for model, data, out, more, message in (
        ("model.onnx", "parts", "r.csv", [], "model.onnx has no maps; export it again"),
        ("run", "parts", "r.txt", [], "--regions .*r.txt: the file must end in .csv, .jsonl\n"),
        ("run", "parts", "r.parquet", [], "the file must end in .csv, .jsonl\n"),
        ("run", "parts", "r.csv", ["--out", tmp_path / "new" / "r.csv"], "that is the file of --out too"),
        ("run", tmp_path / "none", "r.csv", [], "none of the 1 images can be used"),
        ("run", "parts", "r.csv", ["--strict"], "leave --strict out"),
        ("run", "parts", "r.csv", ["--maps-of", "all"], "--maps-of says which images --maps draws; give --maps too\n"),
    ):
        words = ["score", folder / model, folder / data, "--regions", tmp_path / "new" / out, *more]
        printed, err = run(*words, code=2)
        assert printed == "" and re.search(message, err) and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["none"]


def test_no_draft_of_regions_stays_where_the_scores_cannot_be_written(run, folder, tmp_path):
    (tmp_path / "file").write_text("")
    words = ["--out", tmp_path / "file" / "s.csv", "--regions", tmp_path / "r.csv"]
    assert "s.csv cannot be written" in run("score", folder / "run", folder / "parts", *words, code=2)[1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        "score MODEL PARTS", "score RUN PARTS", "score MODEL PARTS --json", "inspect PARTS", "inspect PARTS --json",
        "evaluate RUN PARTS --normal good --bootstrap 0", "info RUN", "info RUN --json", "monitor MODEL PARTS",
        "check RUN PARTS --normal good --no-second-seed", "score --help", "--version", "LIGHT MODEL PARTS",
    ],
)  # fmt: skip
def test_output_on_a_full_disk_is_one_line_and_code_1(folder, words):
    places = {"MODEL": folder / "model.onnx", "PARTS": folder / "parts", "RUN": folder / "run"}
    spelled = [str(places.get(word, word)) for word in words.split()]
    command = [sys.executable, "-m", "alocc.runtime"] if spelled[0] == "LIGHT" else [ALOCC, spelled[0]]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, *spelled[1:]], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert [line for line in lines if line.startswith("error:")] == [
        "error: standard output cannot be written (No space left on device)"
    ]


@pytest.mark.filterwarnings("ignore::alocc.errors.UselessDetectorWarning")
def test_scores_of_a_folder_from_python_are_those_of_the_command_line(run, folder):
    rows = table_of(run("score", folder / "run", folder / "parts")[0])
    with pytest.warns(
        UserWarning, match=r"1 of 41 images could not be used; the first: .*broken\.png .*; scores\.skip"
    ):
        scores = alocc.Detector.load(folder / "run").score(folder / "parts", maps=True)
    read = [row for row in rows if not row["error"]]
    assert scores.paths == [row["path"] for row in read] and len(scores) == 40
    assert scores.anomaly_score.tolist() == [float(row["anomaly_score"]) for row in read]
    assert scores.p_value.tolist() == [float(row["p_value"]) for row in read]
    assert scores.is_anomaly.tolist() == [row["is_anomaly"] == "true" for row in read]
    assert scores.skipped == [(row["path"], row["error"]) for row in rows if row["error"]]
    assert scores.anomaly_map.shape == (40, 16, 16) and len(scores.parts["d"]) == 40
    table = scores.to_pandas()
    assert [*table.columns, "class"] == list(rows[0]) and set(table.path) == {row["path"] for row in rows}


@pytest.mark.filterwarnings("ignore::alocc.errors.UselessDetectorWarning")
def test_listed_files_are_scored_in_the_order_of_the_list(folder):
    detector, parts = alocc.Detector.load(folder / "run"), folder / "parts"
    paths = [parts / "good" / "07.png", str(parts / "bad" / "03.png"), parts / "good" / "02.png"]
    scores = detector.score(paths)
    assert scores.paths == [str(path) for path in paths] and scores.skipped == []
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(scores.anomaly_score, detector.score(pixels).anomaly_score)
    assert detector.score(paths[0]).anomaly_score[0] == scores.anomaly_score[0]
    with pytest.warns(UserWarning, match="2 of 3 images could not be used"):
        some = detector.score([parts / "missing.png", paths[1], parts])
    assert some.paths == [paths[1]] and [path for path, _ in some.skipped] == [str(parts / "missing.png"), str(parts)]
    for images, told in (
        ([], "a list of 0 paths holds no image files"),
        ([parts / "missing.png"], "none of the 1 images can be used; the first: .*missing.png cannot be read"),
        (folder / "nothing", "nothing does not exist"),
    ):
        with pytest.raises(DataError, match=told):
            detector.score(images)


def test_maps_may_have_the_size_of_the_images(folder, save_image):
    detector = alocc.Detector.load(folder / "run")
    images = np.kron(np.stack([disc(np.random.default_rng(seed)) for seed in range(3)]), np.ones((3, 2), np.uint8))
    small, large = detector.anomaly_map(images), detector.anomaly_map(images, size="original")
    assert small.shape == (3, 16, 16) and large.shape == images.shape == (3, 48, 32)
    middles = large[:, 1::3].reshape(3, 16, 16, 2).mean(3)  # the middle row of three, and both columns beside a middle
    inner = (slice(None), slice(1, -1), slice(1, -1))
    weights = (small[:, :, :-2] + 6 * small[:, :, 1:-1] + small[:, :, 2:]) / 8  # bilinear, at a quarter of a pixel
    np.testing.assert_allclose(middles[inner], weights[:, 1:-1], rtol=1e-4, atol=1e-5)
    path = save_image(images[0], "a.png")
    np.testing.assert_array_equal(detector.anomaly_map(path, size="original"), large[:1])
    assert detector.anomaly_map(images[:0], size="original").shape == (0, 48, 32)
    for data, size, told in (
        ([path, save_image(images[0, :40], "b.png")], "original", "images of 2 sizes have no maps of one size"),
        (folder / "parts", "working", r"broken\.png.*; only score\(\) goes on without such images"),
    ):
        with pytest.raises(DataError, match=told):
            detector.anomaly_map(data, size=size)
    with pytest.raises(alocc.ConfigError, match='size must be "working" or "original", got \'full\''):
        detector.anomaly_map(images, size="full")
