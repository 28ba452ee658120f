"""Cells, tables and protocols: figures by hand, and the real command on small data."""

import json

import numpy as np
import pytest
from image_sets import SUITE
from image_sets import load_task as load_task_of_suite
from sklearn.metrics import f1_score

from alocc.benchmark.baselines import BASELINES, CLASSICAL, fit_baseline
from alocc.benchmark.cells import Cell, _best_threshold, _f1, _f1_by_outliers, load_task, run_cell
from alocc.benchmark.protocols import auroc_table, make_cells, method_configs, outliers_table, summary
from alocc.benchmark.running import Result, run_cells
from alocc.config import preset, with_settings
from alocc.errors import ArtefactError, ConfigError, DataError

TINY = ["networks.width=4", "training.reconstruction.iterations=5", "training.discrimination.iterations=4"]


def tiny(config):
    return with_settings(config, TINY)


def suite_cells(methods, seeds=1, **options):
    return make_cells("suite", "suite", method_configs(methods, TINY), seeds, ["washers"], list(SUITE), **options)


def result(method, label, seed, auroc):
    return Result(Cell("suite", "suite", label, method, seed), {"auroc": auroc})


@pytest.fixture
def parts(tmp_path):
    """Two classes in sub-folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("bright", 190)):
        (tmp_path / "parts" / name).mkdir(parents=True)
        for i in range(60):
            pixels = np.clip(rng.normal(level, 20, (16, 16)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "parts" / name / f"{i}.png")
    return tmp_path / "parts"


@pytest.mark.parametrize("name", CLASSICAL)
def test_baselines_give_higher_scores_to_other_images(name):
    rng = np.random.default_rng(0)
    normal = rng.normal(100, 5, (80, 8, 8)).astype(np.uint8)
    score = fit_baseline(name, normal, 0)
    other = rng.normal(100, 40, (20, 8, 8)).clip(0, 255).astype(np.uint8)
    assert np.median(score(other)) > np.quantile(score(normal), 0.9)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - set(CLASSICAL)))
def test_pyods_models_run_where_they_are_installed(name):
    pytest.importorskip("pyod.models.base_dl")
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8)).astype(np.uint8)
    assert fit_baseline(name, images, 0)(images).shape == (40,)


def test_f1_and_threshold_are_scikit_learns_best():
    rng = np.random.default_rng(0)
    score, inlier = rng.normal(size=200), rng.random(200) < 0.6
    score[~inlier] += 1
    threshold = _best_threshold(score, inlier)
    best = max(f1_score(inlier, score <= value) for value in score)
    assert _f1(score <= threshold, inlier) == pytest.approx(best)
    assert _f1(score <= threshold, inlier) == pytest.approx(f1_score(inlier, score <= threshold))


def test_thresholds_of_the_outliers_protocol_are_chosen_without_the_test_fold():
    """Ten inliers and ten outliers a fold; what is best in one fold is of no use in the other."""
    is_anomalous, in_test = np.arange(40) >= 20, np.arange(40) % 20 >= 10
    score = np.empty(40)
    score[~in_test] = np.where(is_anomalous[~in_test], 2.0, 1.0)  # the validation fold parts at 1
    score[in_test] = np.where(is_anomalous[in_test], 20.0, 10.0)  # the test fold at 10
    p_value = np.where(score < 15, 0.5, 0.03)
    figures = _f1_by_outliers(score, p_value, is_anomalous, in_test)["50"]
    assert figures["validation"] == 0  # at 1 no image of the test fold is called an inlier
    assert figures["alpha 0.05"] == 1  # and the p-values part it well
    assert figures["alpha 0.01"] == pytest.approx(2 * 10 / 30)  # all twenty are called inliers
    score[in_test] -= 8.5  # 1.5 and 11.5: at 1 none is found, at its own best all would be
    assert _f1_by_outliers(score, None, is_anomalous, in_test)["50"] == {"validation": 0}
    score[in_test] = np.where(is_anomalous[in_test], 0.9, 0.8)  # at 1 all twenty are called inliers
    assert _f1_by_outliers(score, None, is_anomalous, in_test)["50"]["validation"] == pytest.approx(2 * 10 / 30)
    assert _f1_by_outliers(score, None, is_anomalous, in_test)["10"]["validation"] == pytest.approx(2 * 10 / 21)


def test_the_best_threshold_takes_images_of_one_score_together():
    score, inlier = np.array([1.0, 1.0, 1.0, 2.0]), np.array([True, False, False, True])
    assert _best_threshold(score, inlier) == 2.0  # F1 2·2/6, against 2·1/5 at 1


def test_summary_by_hand():
    mean, worst, deviation, half = summary([{"a": 0.9, "b": 0.7}, {"a": 1.0, "b": 0.8}])
    assert (mean, worst) == (pytest.approx(0.85), 0.7)
    assert deviation == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert half == pytest.approx(12.706 * deviation / np.sqrt(2), rel=1e-4)
    assert summary([{"a": 0.9}]) == [0.9, 0.9, None, None]


def test_table_has_means_over_seeds_and_says_what_is_missing():
    runs = {("a", 0): 0.8, ("a", 1): 0.9, ("b", 0): 0.7, ("b", 1): 0.7}
    results = [result("robust", label, seed, auroc) for (label, seed), auroc in runs.items()]
    results.append(Result(Cell("suite", "suite", "c", "robust", 0), {}, "no camera"))
    table = auroc_table(results, "title")
    assert table.columns[:2] == ["a", "b"]
    assert table.rows["robust"][:4] == [pytest.approx(0.85), 0.7, pytest.approx(0.775), 0.7]
    assert "Left out — c: no camera." in table.as_markdown()
    assert table.as_json()["rows"]["robust"]["worst run"] == 0.7


def test_outliers_split_is_the_papers(parts):
    task = load_task(Cell("outliers", str(parts), "dark", "5-nn", 0))
    in_test = task.in_test
    assert len(task.train) == 36 and len(task.test) == 48
    for fold in (in_test, ~in_test):
        assert (task.is_anomalous & fold).sum() == (~task.is_anomalous & fold).sum() == 12
    everything = [image.tobytes() for image in (*task.train, *task.test)]
    assert len(set(everything)) == len(everything)


def test_outliers_need_enough_images_of_other_classes(parts):
    for path in sorted((parts / "bright").iterdir())[20:]:
        path.unlink()
    with pytest.raises(
        DataError, match="dark has 60 images and the other classes 20; the protocol needs at least 5 and 24"
    ):
        load_task(Cell("outliers", str(parts), "dark", "5-nn", 0))


def test_images_that_cannot_be_used_are_counted(parts):
    (parts / "dark" / "broken.png").write_bytes(b"no image")
    cells = [Cell("one-vs-rest", str(parts), "dark", "5-nn", 0)]
    results = [Result(cell, run_cell(cell)) for cell in cells]
    assert results[0].figures["n_skipped"] == 1
    assert "1 images of the data could not be used." in auroc_table(results, "").as_markdown()


def test_one_vs_rest_of_a_folder_keeps_a_fifth_for_the_test(parts):
    task = load_task(Cell("one-vs-rest", str(parts), "dark", "5-nn", 0))
    assert len(task.train) == 48 and len(task.test) == 24 and task.is_anomalous.sum() == 12


def test_fewer_and_spoiled_training_images(parts):
    few = load_task(Cell("one-vs-rest", str(parts), "dark", "5-nn", 0, normals=20))
    assert len(few.train) == 20
    spoiled = load_task(Cell("one-vs-rest", str(parts), "dark", "5-nn", 0, contamination=0.2))
    assert len(spoiled.train) == 60 and (spoiled.train.mean((1, 2)) > 120).sum() == 12
    with pytest.raises(DataError, match="has 48 normal images to train on, fewer than 49"):
        load_task(Cell("one-vs-rest", str(parts), "dark", "5-nn", 0, normals=49))


def test_a_cell_of_ours_has_all_figures(parts):
    config = tiny(preset("robust")).model_dump(mode="json")
    figures = run_cell(Cell("one-vs-rest", str(parts), "dark", "robust", 0, config, watch=True))
    assert set(figures["parts"]) == set(figures["weights"]) == set(preset("robust").scoring) - {"cells"}
    assert figures["auroc"] > 0.9
    assert len(figures["watch"]) >= 8 and all(set(one) == set(figures["weights"]) for one in figures["watch"])
    assert figures["health"]["unseen_kinds"] and figures["health"]["n_fresh"] == figures["n_normal"] == 12
    counts = [figures["false_positives"][alpha] for alpha in ("0.01", "0.05", "0.1")]
    assert 0 <= counts[0] <= counts[1] <= counts[2] < 12  # normal images that are called, not those that are not
    assert json.loads(json.dumps(figures)) == figures


def test_finished_cells_are_not_run_again(tmp_path):
    cells = suite_cells(["5-nn", "pca"])
    seen = []
    first = run_cells(cells, tmp_path, 1, lambda done, was_there: seen.append(was_there), load_task_of_suite)
    again = run_cells(cells, tmp_path, 2, lambda done, was_there: seen.append(was_there), load_task_of_suite)
    assert seen == [False, False, True, True]
    assert [done.figures for done in first] == [done.figures for done in again]
    other = suite_cells(["5-nn"], normals=20)
    with pytest.raises(ArtefactError, match="other settings"):
        run_cells(other, tmp_path)


def test_processes_give_the_same_figures(tmp_path):
    cells = suite_cells(["5-nn", "iforest"], seeds=2)
    one, two = (run_cells(cells, tmp_path / name, n, load=load_task_of_suite) for name, n in (("a", 1), ("b", 2)))
    assert [done.figures["auroc"] for done in one] == [done.figures["auroc"] for done in two]


def test_outliers_table_has_every_threshold(parts):
    config = tiny(preset("robust")).model_dump(mode="json")
    cells = [Cell("outliers", str(parts), "dark", "robust", 0, config), Cell("outliers", str(parts), "dark", "5-nn", 0)]
    table = outliers_table([Result(cell, run_cell(cell)) for cell in cells], "F1")
    assert list(table.rows) == ["robust, validation", "robust, alpha 0.01", "robust, alpha 0.05", "5-nn, validation"]
    assert all(0.5 < value <= 1 for value in table.rows["5-nn, validation"])


@pytest.mark.parametrize(
    ("methods", "labels", "words"),
    [(["9-nn"], None, 'no method "9-nn"'), (["5-nn"], ["grey"], 'no "grey" in .*; it has: bright, dark')],
)
def test_unknown_names_are_refused(parts, methods, labels, words):
    with pytest.raises(ConfigError, match=words):
        make_cells("one-vs-rest", str(parts), method_configs(methods, TINY), 1, labels)
