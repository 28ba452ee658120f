"""In a notebook: tables as HTML and in pandas, pictures, and the example, executed."""

import base64
import io
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas
import pytest
from nbclient import NotebookClient
from PIL import Image

import alocc
from alocc.config import preset, with_settings
from alocc.evaluation.metrics import evaluate_scores
from alocc.notebook import html_table
from alocc.scores import Scores

EXAMPLE = Path(__file__).parent.parent / "examples" / "inspect_parts.ipynb"


def rows_of(html):
    """Texts of the cells, row by row, of tables that must be well-formed."""
    root = ElementTree.fromstring(f"<div>{html}</div>")
    return [[cell.text or "" for cell in row] for row in root.iter("tr")]


@pytest.fixture
def scores():
    """Of three files, in which the second is an anomaly, and one that is no image."""
    numbers = [np.array(values) for values in ([0.5, 9.25, -1.0], [0.25, 0.01, 1.0], [False, True, False])]
    parts = {"cells": np.array([1.0, 2.0, 3.0])}
    paths, skipped = ["a.png", "<b>&.png", "c.png"], [("d.png", "d.png is no image")]
    return Scores(*numbers, parts, None, 0.01, paths=paths, skipped=skipped)


def test_a_table_escapes_what_it_shows_and_has_headings():
    html = html_table("<1>", [("a&b", "<script>"), ("heading",)], ("x", "y"))
    root = ElementTree.fromstring(html)
    assert root.find("caption").text == "<1>"
    assert rows_of(html) == [["x", "y"], ["a&b", "<script>"], ["heading"]]
    assert root.findall("tr")[2][0].attrib == {"colspan": "2"}
    assert "<script>" not in html


def test_scores_show_the_most_anomalous_first_and_what_could_not_be_used(scores):
    html = scores._repr_html_()
    assert rows_of(html) == [
        ["image", "anomaly score", "p-value", "verdict"],
        ["<b>&.png", "9.25", "0.01", "anomalous"],
        ["a.png", "0.50", "0.25", "normal"],
        ["c.png", "-1.00", "1", "normal"],
        ["image", "reason"],
        ["d.png", "d.png is no image"],
    ]
    assert "3 images, 1 anomalous at alpha 0.01" in html and "1 more could not be used" in html
    assert repr(scores) == "Scores(3 images, 1 anomalous at alpha 0.01, 1 more could not be used)"


def test_of_many_scores_ten_are_shown_by_their_index():
    numbers = np.arange(30.0)
    rows = rows_of(Scores(numbers, numbers, numbers > 1, {}, None, 0.1)._repr_html_())
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(29, 19, -1)]


def test_a_part_of_the_scores_has_theirs_of_everything(scores):
    maps, p_real = np.arange(12, dtype=np.float32).reshape(3, 2, 2), np.array([0.1, 0.2, 0.3])
    scores = replace(scores, anomaly_map=maps, p_real=p_real)
    top = scores.top(2)
    assert top.paths == ["<b>&.png", "a.png"] and top.anomaly_score.tolist() == [9.25, 0.5] and len(top) == 2
    assert top.parts["cells"].tolist() == [2, 1] and top.p_real.tolist() == [0.2, 0.1] and top.skipped == ()
    np.testing.assert_array_equal(top.anomaly_map, maps[[1, 0]])
    for keep in (slice(1, 2), scores.is_anomaly, np.array([1]), 1, -2):
        assert scores[keep].paths == ["<b>&.png"] and scores[keep].p_value.tolist() == [0.01]
    assert [one.paths for one in scores] == [[path] for path in scores.paths]
    again = Scores.joined([scores[:1], scores[1:]])
    assert again.paths == scores.paths and again.p_real.tolist() == p_real.tolist()
    np.testing.assert_array_equal(again.anomaly_map, maps)


def test_a_pandas_table_has_the_unusable_files_last_without_numbers(scores):
    table = scores.to_pandas()
    assert table.columns.tolist() == ["path", "anomaly_score", "p_value", "is_anomaly", "error"]
    assert table.path.tolist() == [*scores.paths, "d.png"]
    assert table.anomaly_score[:3].tolist() == [0.5, 9.25, -1] and np.isnan(table.anomaly_score[3])
    assert table.is_anomaly[:3].tolist() == [False, True, False] and table.is_anomaly[3] is pandas.NA
    assert table[table.is_anomaly].path.tolist() == ["<b>&.png"]
    assert table.error.isna().tolist() == [True, True, True, False] and table.error[3] == "d.png is no image"
    of_arrays = replace(scores, paths=None, skipped=()).to_pandas()
    assert of_arrays.columns.tolist() == ["anomaly_score", "p_value", "is_anomaly"] and len(of_arrays) == 3


def test_without_pandas_it_is_said_what_to_install(scores, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(alocc.ConfigError, match="pip install pandas"):
        scores.to_pandas()


def test_an_evaluation_is_a_table_of_its_figures():
    numbers = np.arange(20.0)
    evaluation = evaluate_scores(numbers, numbers > 14, threshold=14.5, alpha=0.05, resamples=0)
    rows = rows_of(evaluation._repr_html_())
    assert rows[0] == ["figure", "value", "95 % interval", "meaning"]
    assert ["AUROC", "1.0000", ""] in [row[:3] for row in rows]
    assert "15 normal and 5 anomalous images" in evaluation._repr_html_()


@pytest.fixture(scope="module")
def detector(plates):
    settings = ["networks.width=4", "training.batch_size=16", "images.size=[65,85]"]
    return alocc.train(plates(40, 0), config=with_settings(preset("robust"), settings), iterations=10)


def test_a_detector_is_a_table_of_facts(detector):
    rows = dict(rows_of(detector._repr_html_()))
    assert rows["images"] == "85×65 grey" and rows["held-out images"] == "40" and rows["trained on"] == "arrays"
    assert rows["alpha"] == "0.0244" and float(rows["threshold"]) == pytest.approx(detector.threshold, abs=1e-3)


@pytest.mark.parametrize("kind", ["path", "array"])
def test_a_picture_has_the_image_at_its_own_size_its_regions_and_its_verdict(
    detector, plates, with_pits, save_image, kind
):
    image = with_pits(plates(1, 1))[0]
    path = save_image(image, "a $b$ {c}.png")
    figure = detector.show(path if kind == "path" else image)
    plain, marked = figure.axes
    np.testing.assert_array_equal(plain.images[0].get_array(), np.repeat(image[..., None], 3, 2))
    score = detector.score(image[None], maps=True)
    [regions] = detector.regions(image[None], score, sizes=[image.shape])
    boxes = [(box.get_x() + 0.5, box.get_y() + 0.5, box.get_width(), box.get_height()) for box in marked.patches]
    assert boxes == [(region.x, region.y, region.width, region.height) for region in regions] and boxes
    layer = marked.images[1]
    assert layer.get_extent() == plain.images[0].get_extent() == [-0.5, 169.5, 129.5, -0.5]
    anomaly_map, opacity = detector.anomaly_map(image[None])[0], np.asarray(layer.get_array())[..., 3]
    hot = anomaly_map > 2 * detector.map_threshold / 3
    assert hot.any() and (opacity[hot] >= 0.2 - 1e-6).all() and (opacity[~hot] <= 0.2).all()
    verdict = "anomalous" if score.is_anomaly[0] else "normal"
    said = f"{verdict}: score {score.anomaly_score[0]:.2f}, p-value {score.p_value[0]:.3g}"
    assert figure.get_suptitle() == (f"{path}\n{said}" if kind == "path" else said)
    picture = Image.open(io.BytesIO(figure._repr_png_()))
    assert picture.width > 2 * 170 and len(np.unique(np.asarray(picture)[..., :3].reshape(-1, 3), axis=0)) > 50


def test_what_is_not_one_image_is_not_drawn(detector, save_image, tmp_path):
    for name in ("a.png", "b.png"):
        save_image(np.zeros((20, 20), np.uint8), f"two/{name}")
    (tmp_path / "text.png").write_text("text")
    for image, told in (
        (tmp_path / "two", "two is not one image; give the path of one"),
        (np.zeros((2, 20, 20), np.uint8), r"shape \(2, 20, 20\) is not one image"),
        (tmp_path / "text.png", "text.png is not a PNG"),
        (tmp_path / "missing.png", "missing.png does not exist"),
    ):
        with pytest.raises(alocc.DataError, match=told):
            detector.show(image)


def test_the_example_is_stored_without_outputs():
    cells = nbformat.read(EXAMPLE, 4).cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells if cell.cell_type == "code")


@pytest.mark.slow
def test_the_example_runs_and_shows_tables_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    example = nbformat.read(EXAMPLE, 4)
    NotebookClient(example, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data for cell in example.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [data["text/html"] for data in shown if "text/html" in data]
    detector, scores, counts, evaluation = tables
    assert dict(rows_of(detector))["images"] == "72×60 grey" and dict(rows_of(detector))["normal classes"] == "good"
    assert len(rows_of(scores)) == 1 + 10 and "scratched" in rows_of(scores)[1][0]
    assert "scratched" in counts and "good" in counts
    assert any(row[0] == "AUROC" for row in rows_of(evaluation))
    [picture] = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert Image.open(io.BytesIO(picture)).width > 500
