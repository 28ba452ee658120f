"""*Can't tell*, between two alphas: in files, tables, pictures, every command, and the light runtime alike."""

import csv
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.calibration import Calibration
from alocc.cli import main
from alocc.cli.options import images_of_maps
from alocc.config import preset, with_settings
from alocc.data import reading
from alocc.errors import ArtefactError, ConfigError
from alocc.export import export
from alocc.map_pictures import AMBER, GREEN, RED
from alocc.overlays import STRONGEST
from alocc.runtime import Runtime
from alocc.runtime.__main__ import main as light_main
from alocc.scoring import journal
from alocc.storage import load_tensors, save_tensors

SIDE = 16
PLAIN_COLUMNS = ["path", "anomaly_score", "p_value", "is_anomaly", "error", "class"]
BOTH = ("--alpha", 5 / 61, "--review-alpha", 20 / 61)
"""60 images set the threshold, so that p-values are whole 61sts: both alphas are met at equality."""


def disc(rng, *, square=False):
    y, x = np.abs(np.mgrid[:SIDE, :SIDE] - SIDE / 2 + rng.uniform(-2, 2, (2, 1, 1)))
    inside = np.maximum(y, x) < 4 if square else y**2 + x**2 < 16
    return (inside * 180 + rng.integers(0, 40, inside.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 180 discs without a review alpha, its export with maps, 60 other discs, 10 squares and a broken file."""
    root, rng = tmp_path_factory.mktemp("third"), np.random.default_rng(0)
    config = with_settings(preset("article"), ["networks.width=4", "training.batch_size=16"])
    normals = np.stack([disc(rng) for _ in range(180)])
    detector = alocc.train(normals, config=config, iterations=6, out=root / "run")
    assert len(detector.held_out_scores) == 60
    export(detector, root / "model.onnx", size="fixed", maps=True)
    for name, n in (("good", 60), ("bad", 10)):
        (root / "parts" / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(disc(rng, square=name == "bad")).save(root / "parts" / name / f"{i:02}.png")
    (root / "parts" / "good" / "broken.png").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def detector(folder):
    return alocc.Detector.load(folder / "run")


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


def by_hand(p_value, alpha=BOTH[1], review_alpha=BOTH[3]):
    """The verdict of one p-value, as the definition has it."""
    if p_value <= alpha:
        return "anomalous"
    return "can't tell" if p_value <= review_alpha else "normal"


SCORERS = {
    "torch": lambda root: [root / "run"],
    "the run folder's export": lambda root: [root / "run", "--engine", "onnx"],
    "an exported file": lambda root: [root / "model.onnx"],
}


@pytest.mark.parametrize("scorer", SCORERS)
def test_score_has_a_verdict_of_every_image_and_counts_them(run, folder, scorer):
    model, *engine = SCORERS[scorer](folder)
    out, err = run("score", model, folder / "parts", *BOTH, *engine)
    rows = table_of(out)
    assert list(rows[0]) == ["path", "anomaly_score", "p_value", "is_anomaly", "verdict", "error", "class"]
    scored = [row for row in rows if not row["error"]]
    assert [row["verdict"] for row in scored] == [by_hand(float(row["p_value"])) for row in scored]
    assert [row["is_anomaly"] == "true" for row in scored] == [row["verdict"] == "anomalous" for row in scored]
    assert [row["verdict"] for row in rows if row["error"]] == [""]
    verdicts = [row["verdict"] for row in scored]
    called, review = verdicts.count("anomalous"), verdicts.count("can't tell")
    assert min(called, review, verdicts.count("normal")) > 2 and len(verdicts) == 70
    between = "(can't tell between alpha 0.0819672 and 0.327869)"
    assert f"{called} of 70 images are anomalies, {review} more for a person {between}\n" in err
    result = json.loads(run("score", model, folder / "parts", *BOTH, *engine, "--json")[0])
    assert (result["n_anomalies"], result["n_review"]) == (called, review)
    assert (result["alpha"], result["review_alpha"]) == (BOTH[1], BOTH[3])
    assert [row["verdict"] for row in result["images"] if not row["error"]] == [row["verdict"] for row in scored]


def test_images_at_either_alpha_are_on_its_side(detector, folder):
    """Held-out scores themselves have the p-values k/61, at the very alphas."""
    own = detector.at(BOTH[1], BOTH[3])
    p_value = own.calibration.p_values(own.held_out_scores[::-1])  # from 2/61 on
    wanted = ["anomalous"] * 4 + ["can't tell"] * 15 + ["normal"] * 41
    assert own.calibration.verdicts(p_value).tolist() == wanted
    assert own.calibration.review_threshold == own.held_out_scores[60 - 20]
    below = detector.at(np.nextafter(5 / 61, 0), np.nextafter(20 / 61, 0)).calibration.verdicts(p_value)
    assert below.tolist() == ["anomalous"] * 3 + ["can't tell"] * 15 + ["normal"] * 42


def test_without_a_review_alpha_nothing_is_said_of_it(run, folder, tmp_path, detector):
    rows = table_of(run("score", folder / "run", folder / "parts", *BOTH[:2], "--maps", tmp_path)[0])
    assert list(rows[0]) == [*PLAIN_COLUMNS[:-1], "box_left", "box_top", "box_right", "box_bottom", "class"]
    header = (tmp_path / "suspects.csv").read_text().partition("\n")[0]
    assert header == "path,anomaly_score,p_value,picture,class"
    err = run("score", folder / "run", folder / "parts", *BOTH[:2])[1]
    assert "images are anomalies at alpha 0.0819672\n" in err and "person" not in err
    assert "can't tell" not in run("evaluate", folder / "run", folder / "parts", "--normal", "good")[0]
    assert "review" not in run("info", folder / "run")[0]
    assert b"review_alpha" not in (folder / "run" / "model.safetensors").read_bytes()
    assert "review_alpha" not in (folder / "run" / "config.toml").read_text()


def test_only_review_is_the_persons_list(run, folder):
    words = ["score", folder / "run", folder / "parts"]
    images = json.loads(run(*words, *BOTH, "--json")[0])["images"]
    wanted = sorted((row for row in images if row["verdict"] == "can't tell"), key=lambda row: -row["anomaly_score"])
    assert json.loads(run(*words, *BOTH, "--only", "review", "--json")[0])["images"] == wanted
    assert json.loads(run(*words, *BOTH, "--only", "review", "--top", 2, "--json")[0])["images"] == wanted[:2]
    called = sorted((row for row in images if row["is_anomaly"]), key=lambda row: -row["anomaly_score"])
    assert json.loads(run(*words, *BOTH, "--only", "anomalies", "--json")[0])["images"] == called
    out, err = run(*words, "--only", "review", code=2)
    assert out == "" and err == (
        "error: --only review lists what is between two rates; give --review-alpha too, above alpha\n"
    )


@pytest.mark.parametrize("value", [0.01, 1, 1.5, -0.2, "nan"])
def test_a_review_alpha_that_cannot_be_is_one_line(run, folder, value):
    for words, command in (
        (["score", folder / "run", folder / "parts"], main),
        (["score", folder / "model.onnx", folder / "parts"], main),
        (["evaluate", folder / "run", folder / "parts", "--normal", "good"], main),
        ([folder / "model.onnx", folder / "parts"], light_main),
    ):
        out, err = run(*words, "--alpha", 0.1, f"--review-alpha={value}", code=2, command=command)
        assert out == "" and err == (
            f"error: the review alpha must be at least alpha, 0.1, and below 1, got {float(value):g}\n"
        )


def test_light_and_full_runtime_write_the_same_tables(run, folder, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    for suffix in ("csv", "jsonl", "parquet"):
        full, light = tmp_path / f"full.{suffix}", tmp_path / f"light.{suffix}"
        err = run("score", folder / "model.onnx", folder / "parts", *BOTH, "--out", full)[1]
        said = run(folder / "model.onnx", folder / "parts", *BOTH, "--out", light, command=light_main)[1]
        assert full.read_bytes() == light.read_bytes() and "more for a person" in said
        assert err.splitlines()[-1].replace(str(full), str(light)) in said
    verdicts = pyarrow.parquet.read_table(tmp_path / "full.parquet")["verdict"].to_pylist()
    assert verdicts == [row["verdict"] or None for row in table_of((tmp_path / "full.csv").read_text())]


def test_pictures_and_suspects_have_what_is_for_a_person(run, folder, tmp_path):
    rows = json.loads(run("score", folder / "run", folder / "parts", *BOTH, "--json")[0])["images"]
    suspect = [row for row in rows if row["verdict"] in ("anomalous", "can't tell")]
    suspect.sort(key=lambda row: -row["anomaly_score"])
    out = tmp_path / "scores.csv"
    words = [folder / "parts", *BOTH, "--maps", tmp_path / "maps", "--out", out]
    run("score", folder / "run", *words, "--regions", tmp_path / "regions.csv")
    listed = table_of((tmp_path / "maps/suspects.csv").read_text())
    assert list(listed[0]) == ["path", "anomaly_score", "p_value", "picture", "verdict", "class"]
    assert [(row["path"], row["verdict"]) for row in listed] == [(row["path"], row["verdict"]) for row in suspect]
    assert {Path(row["path"]).name for row in table_of((tmp_path / "regions.csv").read_text())} == {
        Path(row["path"]).name for row in suspect
    }
    for row in table_of(out.read_text()):
        assert bool(row["box_left"]) == (row["verdict"] in ("anomalous", "can't tell"))
    colours = {"anomalous": RED, "can't tell": AMBER}
    for row in listed:
        pixels = np.asarray(Image.open(tmp_path / "maps" / row["picture"]))
        found = {name for name, colour in colours.items() if (pixels == colour).all(2).any()}
        assert found == {row["verdict"]} and (pixels[:232] == STRONGEST).all(2).any()  # above the legend
    run("score", folder / "run", *words, "--maps-of", "all")  # over the earlier list of suspects, which is ours
    normal = next(row for row in rows if row["verdict"] == "normal")
    below = Path(normal["path"]).relative_to(folder / "parts")
    pixels = np.asarray(Image.open(tmp_path / "maps" / below))
    assert (pixels == GREEN).all(2).any() and not (pixels == STRONGEST).all(2).any()
    only = tmp_path / "only"
    run("score", folder / "run", folder / "parts", *BOTH, "--only", "review", "--maps", only, "--out", out)
    listed_there = table_of((only / "suspects.csv").read_text())
    assert all(row["picture"] and row["verdict"] == "can't tell" for row in listed_there)
    assert [row["path"] for row in table_of(out.read_text())] == [row["path"] for row in listed_there]
    assert len(list(only.rglob("*.png"))) == len(listed_there) > 0
    light = tmp_path / "light"
    run(folder / "model.onnx", folder / "parts", *BOTH, "--maps", light, command=light_main)
    drawn = [(row["path"], row["verdict"], row["picture"]) for row in table_of((light / "suspects.csv").read_text())]
    assert drawn == [(row["path"], row["verdict"], row["picture"]) for row in listed]


def test_a_false_discovery_rate_calls_and_the_review_alpha_says_what_else_is_looked_at(run, folder, monkeypatch):
    from alocc.evaluation import discoveries

    monkeypatch.setattr(discoveries, "discoveries", lambda p_value, _: p_value <= 2 / 61)
    words = ["score", folder / "run", folder / "parts", "--fdr", 0.3, "--review-alpha", 20 / 61]
    out, err = run(*words, "--json")
    rows = [row for row in json.loads(out)["images"] if not row["error"]]
    assert [row["verdict"] for row in rows] == [by_hand(row["p_value"], 2 / 61) for row in rows]
    n = sum(row["verdict"] == "can't tell" for row in rows)
    assert f"at a false-discovery rate of 0.3, {n} more for a person (can't tell up to alpha 0.327869)" in err


def test_a_job_with_another_review_alpha_does_not_go_on(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BATCH", 8)
    monkeypatch.setattr(journal, "EVERY", 0.0)
    plain = tmp_path / "plain.csv"
    run("score", folder / "run", folder / "parts", *BOTH, "--out", plain)
    out = tmp_path / "scores.csv"
    words = ["score", folder / "run", folder / "parts", *BOTH[:2], "--out", out]
    kept, real = [], journal.Journal._add

    def stopped(self, line):
        kept.append(line)
        real(self, line)
        if len(kept) == 3:
            raise KeyboardInterrupt

    def stop(*more):
        kept.clear()
        monkeypatch.setattr(journal.Journal, "_add", stopped)
        run(*words, *more, code=130)
        monkeypatch.setattr(journal.Journal, "_add", real)

    stop("--review-alpha", 0.5)
    err = run(*words, *BOTH[2:])[1]
    assert "other values of: options; this one begins anew" in err and "going on" not in err
    assert out.read_bytes() == plain.read_bytes()
    stop(*BOTH[2:])
    assert "going on from image" in run(*words, *BOTH[2:])[1] and out.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("scorer", SCORERS)
def test_evaluate_counts_each_verdict_of_each_class(run, folder, scorer):
    model, *engine = SCORERS[scorer](folder)
    rows = json.loads(run("score", model, folder / "parts", *BOTH, *engine, "--json")[0])["images"]
    words = ["evaluate", model, folder / "parts", "--normal", "good", "--bootstrap", 0, *BOTH, *engine]
    result = json.loads(run(*words, "--json")[0])
    out = run(*words)[0]
    assert out.startswith("by class at alpha 0.0819672, can't tell up to 0.327869; AUROC")
    assert result["review_alpha"] == BOTH[3]
    for one in result["classes"]:
        verdicts = [row["verdict"] for row in rows if row["class"] == one["name"]]
        called, review = verdicts.count("anomalous"), verdicts.count("can't tell")
        assert (one["n"], one["n_called"], one["n_review"]) == (len(verdicts), called, review)
        [line] = [line for line in out.splitlines() if line.startswith(f"│ {one['name']} ")]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[1:4] == [f"{called} of {len(verdicts)}", f"{review}", f"{len(verdicts) - called - review}"]
    right = [(row["verdict"] == "anomalous") == (row["class"] == "bad") for row in rows if not row["error"]]
    assert result["accuracy"] == pytest.approx(np.mean(right))  # what is for a person is called normal here


def test_a_detector_keeps_its_review_alpha_in_its_file(run, folder, detector, tmp_path):
    path = tmp_path / "model.safetensors"
    detector.at(0.1, 0.25).save(path)
    tensors, metadata = load_tensors(path)
    assert metadata["review_alpha"] == 0.25 and metadata["format_version"] == 9
    loaded = alocc.Detector.load(path)
    assert (loaded.alpha, loaded.review_alpha) == (0.1, 0.25)
    assert "can't tell of an image with a score above" in run("info", path)[0]
    assert json.loads(run("info", path, "--json")[0])["review_alpha"] == 0.25
    out, err = run("score", path, folder / "parts")
    assert "verdict" in table_of(out)[0] and "(can't tell between alpha 0.1 and 0.25)" in err
    err = run("score", path, folder / "parts", "--alpha", 0.4)[1]
    assert ", 0 more for a person (can't tell between alpha 0.4 and 0.4)" in err
    loaded.with_review_alpha(None).save(path)
    assert "review_alpha" not in load_tensors(path)[1] and alocc.Detector.load(path).review_alpha is None
    for wrong in (0.05, 1.0, "much", True, [0.2]):
        save_tensors(path, tensors, metadata | {"review_alpha": wrong})
        with pytest.raises(ArtefactError, match="is damaged"):
            alocc.Detector.load(path)


def test_an_exported_file_has_the_detectors_verdicts(folder, detector, tmp_path):
    own = detector.at(BOTH[1], BOTH[3])
    exported = export(own, tmp_path / "model.onnx", size="fixed").path
    images = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "parts").glob("*/??.png"))])
    expected, found = own.score(images), Runtime(exported).score(images)
    assert set(found.verdict.tolist()) == {"anomalous", "can't tell", "normal"}
    assert found.verdict.tolist() == [by_hand(p_value) for p_value in found.p_value]
    same = found.p_value == expected.p_value
    assert same.mean() > 0.9 and (found.verdict == expected.verdict)[same].all()
    runtime = Runtime(exported)
    assert (runtime.alpha, runtime.review_alpha) == (own.alpha, own.review_alpha)
    assert runtime.calibration.review_threshold == own.calibration.review_threshold
    assert Runtime(exported, alpha=0.2, review_alpha=0.9).review_alpha == 0.9
    assert Runtime(folder / "model.onnx").review_alpha is None
    with pytest.raises(ConfigError, match=r"review alpha must be at least alpha, 0\.5"):
        Runtime(exported, alpha=0.5, review_alpha=0.4)
    import onnx

    model = onnx.load(exported)
    for wrong in (0.01, 1, "much", True):
        notes = json.loads(model.metadata_props[0].value) | {"review_alpha": wrong}
        model.metadata_props[0].value = json.dumps(notes)
        onnx.save(model, tmp_path / "wrong.onnx")
        with pytest.raises(ArtefactError, match="in its notes, review_alpha must be at least alpha and below 1"):
            Runtime(tmp_path / "wrong.onnx")


def test_eight_bits_raise_the_review_alpha_with_alpha(detector, tmp_path):
    rng = np.random.default_rng(5)
    fresh = detector.at(0.05, 0.1)._accepted(np.stack([disc(rng) for _ in range(30)]))
    runtime = Runtime(export(detector.at(0.03, 0.04), tmp_path / "small.onnx", fresh=fresh).path)
    assert (runtime.alpha, runtime.review_alpha) == (1 / 21, 1 / 21)  # twenty of the images set the threshold


def test_scores_know_their_verdicts_in_parts_and_joined(detector, folder):
    own = detector.at(BOTH[1], BOTH[3])
    scores = own.score(folder / "parts" / "bad")
    wanted = [by_hand(p_value) for p_value in scores.p_value]
    assert scores.verdict.tolist() == wanted and scores[2:5].verdict.tolist() == wanted[2:5]
    assert type(scores).joined([scores, scores]).verdict.tolist() == 2 * wanted
    n = wanted.count("can't tell")
    assert scores.n_review == n and f"{n} can't tell up to alpha 0.328)" in repr(scores)
    assert "can&#x27;t tell" in scores._repr_html_()
    pandas = pytest.importorskip("pandas")
    frame = scores.to_pandas()
    assert frame["verdict"].tolist() == wanted and isinstance(frame, pandas.DataFrame)
    plain = replace(scores, review_alpha=None)
    assert "verdict" not in plain.to_pandas() and plain.n_review is None and "can't tell" not in repr(plain)
    assert set(plain.verdict.tolist()) <= {"anomalous", "normal"}


def test_what_is_for_a_person_has_regions_and_its_title_says_so(detector, folder):
    own = detector.at(BOTH[1], BOTH[3])
    images = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "parts/good").glob("0*.png"))])
    scores = own.score(images, maps=True)
    regions = own.regions(images, scores)
    assert [bool(found) for found in regions] == [verdict != "normal" for verdict in scores.verdict]
    index = scores.verdict.tolist().index("can't tell")
    assert own.show(images[index]).get_suptitle().startswith("can't tell: score")


def test_calibrating_again_sets_keeps_and_lists_the_review_alpha(run, folder, detector, tmp_path):
    rng = np.random.default_rng(7)
    for i in range(40):
        (tmp_path / "new").mkdir(exist_ok=True)
        Image.fromarray(disc(rng)).save(tmp_path / "new" / f"{i}.png")
    shutil.copytree(folder / "run", tmp_path / "run")
    words = ["calibrate", tmp_path / "run"]
    err = run(*words, tmp_path / "new", "--alpha", 0.1, "--review-alpha", 0.05, code=2)[1]
    assert err == "error: the review alpha must be at least alpha, 0.1, and below 1, got 0.05\n"
    err = run(*words, tmp_path / "new", "--alpha", 0.05, "--review-alpha", 0.2)[1]
    again = alocc.Detector.load(tmp_path / "run")
    assert (again.alpha, again.review_alpha) == (0.05, 0.2)
    review_threshold = Calibration(again.held_out_scores, 0.2).threshold
    assert f"at alpha 0.05, can't tell above {review_threshold:.3f} at alpha 0.2, from 40 normal images" in err
    table = run(*words, "--history")[0]
    assert "review" in table and " 0.2 " in table  # where paths are long, the heading is in two lines
    assert [one["review_alpha"] for one in json.loads(run(*words, "--history", "--json")[0])] == [None, 0.2]
    assert "and nothing else" in run(*words, "--undo", "--review-alpha", 0.2, code=2)[1]
    run(*words, "--undo")
    assert alocc.Detector.load(tmp_path / "run").review_alpha is None


def test_other_rates_need_no_newer_images_and_zero_takes_the_third_verdict_away(run, folder, detector, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    words = ["calibrate", tmp_path / "run"]
    err = run(*words, "--alpha", 0.1, "--review-alpha", 0.2)[1]
    again = alocc.Detector.load(tmp_path / "run")
    assert (again.alpha, again.review_alpha) == (0.1, 0.2)
    assert (again.held_out_scores == detector.held_out_scores).all()
    assert "from 60 normal images (before:" in err and "warning" not in err
    assert len(json.loads(run(*words, "--history", "--json")[0])) == 2
    shutil.copy(folder / "model.onnx", tmp_path / "run/model.onnx")  # with maps, of the detector before
    assert "model.onnx has the threshold of before; alocc export" in run(*words, "--alpha", 0.15)[1]
    err = run("score", tmp_path / "run", folder / "parts", "--engine", "onnx", "--out", tmp_path / "s.csv")[1]
    assert "exporting the detector" in err and "between alpha 0.15 and 0.2" in err
    assert Runtime(tmp_path / "run/model.onnx").map_maxima is not None  # as it had them
    run(*words, "--undo")
    (tmp_path / "run/model.onnx").unlink()

    assert "verdict" in table_of(run("score", tmp_path / "run", folder / "parts")[0])[0]
    out, err = run("score", tmp_path / "run", folder / "parts", "--review-alpha", 0)
    assert "verdict" not in table_of(out)[0] and "can't tell" not in err
    assert "can't tell" not in run(*words, "--review-alpha", 0)[1].partition("(before:")[0]
    assert alocc.Detector.load(tmp_path / "run").review_alpha is None
    assert alocc.Detector.load(tmp_path / "run").alpha == 0.1
    err = run(*words, "--alpha", 0.001, code=2)[1]
    assert err.startswith("error: alpha must be at least") and err.count("\n") == 1
    n_versions = len(json.loads(run(*words, "--history", "--json")[0]))
    assert "as before" in run(*words, "--alpha", 0.1, "--review-alpha", 0)[1]  # no earlier one that --undo would bring
    assert len(json.loads(run(*words, "--history", "--json")[0])) == n_versions == 3

    err = run(*words, "--review-alpha", 0.3, "--normal", "good", folder / "parts")[1]  # the last word is DATA
    assert "from 60 normal images" in err
    assert "give DATA too" in run(*words, "--alpha", 0.1, "--strict", code=2)[1]


def test_which_images_are_drawn_changes_no_job_that_draws_none(tmp_path):
    assert images_of_maps(None, None, "review") == images_of_maps(None, None) == "anomalies"
    assert images_of_maps(None, tmp_path, "review") == images_of_maps("review", tmp_path) == "review"
    assert images_of_maps("anomalies", tmp_path, "review") == images_of_maps(None, tmp_path, "anomalies") == "anomalies"


def test_a_training_that_asks_for_it_has_it(run, folder, tmp_path):
    options = ["--preset", "article", "--iterations", 2, "--set", "networks.width=4", "--set", "calibration.folds=2"]
    good = folder / "parts" / "good"
    asked = ["--alpha", 0.1, "--review-alpha", 0.3]
    err = run("train", good, "--out", tmp_path / "run", *options, *asked)[1]
    detector = alocc.Detector.load(tmp_path / "run")
    assert (detector.alpha, detector.review_alpha, detector.config.calibration.review_alpha) == (0.1, 0.3, 0.3)
    assert f"can't tell above {detector.calibration.review_threshold:.3f} at alpha 0.3, from 60 held-out" in err
    assert "review_alpha = 0.3" in (tmp_path / "run" / "config.toml").read_text()
    fresh = detector._accepted(np.stack([disc(np.random.default_rng(3)) for _ in range(5)]))
    again = detector.recalibrated(fresh)  # five images support no alpha below 1/6, and the review alpha is asked for
    assert (again.alpha, again.review_alpha) == (pytest.approx(1 / 6), 0.3)
    assert detector.recalibrated(fresh[:2]).review_alpha == pytest.approx(1 / 3)
    again = run("train", good, "--out", tmp_path / "set", *options, "--set", "calibration.review_alpha=.02", code=None)
    assert alocc.Detector.load(tmp_path / "set").review_alpha == 0.02, again
    for wrong, said in (
        (["--alpha", 0.1, "--review-alpha", 0.05], "review_alpha: must be at least calibration.alpha, 0.1, got 0.05"),
        (["--review-alpha", 0.012], "review_alpha 0.012 is below alpha, which is 0.01639 with 60 held-out"),
        (["--review-alpha", 1.2], "review_alpha: must be less than 1, got 1.2"),
    ):
        err = run("train", good, "--out", tmp_path / "none", *options, *wrong, code=2)[1]
        assert said in err and err.count("\n") == 1 and not (tmp_path / "none").exists()


def test_detectors_side_by_side_say_of_how_many_they_cannot_tell(run, folder, detector, tmp_path):
    detector.at(BOTH[1], BOTH[3]).save(tmp_path / "other.safetensors")
    words = ["compare", folder / "run", tmp_path / "other.safetensors", folder / "parts"]
    plain, other = json.loads(run(*words, "--json")[0])
    rows = json.loads(run("score", tmp_path / "other.safetensors", folder / "parts", "--json")[0])
    assert "n_review" not in plain and other["n_review"] == rows["n_review"]
    assert "can't tell" in run(*words)[0]
    assert json.loads(run(*words, "--alpha", 0.5, "--json")[0])[1]["n_review"] == 0
