import json
import re

import numpy as np
import pytest

import alocc
from alocc.data.images import ImageFormat
from alocc.errors import DataError
from alocc.report import pictures, table
from alocc.report.build import _with_gaps
from alocc.report.pictures import by_interest, make_sheets, tile_size
from alocc.report.results import score_images


@pytest.fixture(scope="module")
def looked_at(trained, parts):
    detector = alocc.Detector.load(trained)
    return detector, score_images(detector, str(parts), ["good"], None)


def test_page_is_one_file_that_asks_for_nothing(labelled_page):
    text = labelled_page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data: blob:;") and "script-src 'sha256-" in policy.replace(
        "&#39;", "'"
    )
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "@import" not in text
    assert text.count("</script>") == 2 and "<img src=x" not in text


def test_rows_are_the_images_most_anomalous_first(labelled_page, looked_at):
    detector, shown = looked_at
    data = json.loads(re.search(r'id="data">(.*?)</script>', labelled_page.read_text(encoding="utf-8"), re.DOTALL)[1])
    rows, order = data["table"], np.argsort(-shown.scores.anomaly_score, kind="stable")
    assert [rows["folder"] + path for path in rows["path"]] == [shown.images.names[i] for i in order]
    assert rows["anomaly_score"] == shown.scores.anomaly_score[order].tolist()
    assert data["held_out"] == detector.held_out_scores.tolist()
    assert [sum(group["counts"]) for group in data["groups"]] == [100, 41]


def test_skipped_images_are_named_with_their_reason(labelled_page):
    text = labelled_page.read_text(encoding="utf-8")
    assert "1 of those shown" in text and "broken &lt;b&gt;.png" in text


def test_pictures_keep_to_their_budget_and_begin_with_what_matters(looked_at, monkeypatch):
    detector, shown = looked_at
    monkeypatch.setattr(pictures, "PER_SHEET", 20)
    everything = make_sheets(detector, shown)
    assert sorted(everything.chosen) == list(range(141)) and len(everything.sheets) == 8
    some = make_sheets(detector, shown, budget=len(everything.sheets[0]))  # base64: room for one, not for two
    assert some.sheets == everything.sheets[:1] and some.chosen == everything.chosen[:20]
    monkeypatch.setattr(pictures, "FIRST", 3)
    order = by_interest(shown, detector.threshold)
    assert sorted(order.tolist()) == list(range(141))
    mistakes = np.flatnonzero(shown.scores.is_anomaly != shown.is_anomalous)[:3]
    assert len(mistakes) == 0 or order[0] in np.flatnonzero(shown.scores.is_anomaly != shown.is_anomalous)
    assert shown.by_score[0] in order[:4] and shown.by_score[-1] in order[: 3 + 3 + 6 + 3]


def test_of_too_many_images_the_most_anomalous_are_listed(looked_at, monkeypatch):
    detector, shown = looked_at
    monkeypatch.setattr(table, "MOST_ROWS", 10)
    rows = table.image_table(detector, shown, make_sheets(detector, shown))
    assert rows["anomaly_score"] == np.sort(shown.scores.anomaly_score)[::-1][:10].tolist()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((28, 28), (56, 56)), ((20, 18), (36, 40)), ((64, 64), (64, 64)), ((96, 48), (32, 64)), ((2, 300), (64, 1))],
)
def test_tiles_are_whole_multiples_or_at_most_64_pixels(size, wanted):
    assert tile_size(ImageFormat(*size, 1)) == wanted


def test_a_class_that_does_not_exist_is_refused(trained, parts):
    detector = alocc.Detector.load(trained)
    for normal, anomalous in ((["god"], None), (["good"], ["god"])):
        with pytest.raises(DataError, match='has no class "god"; its classes: bad, good'):
            score_images(detector, str(parts), normal, anomalous)
    assert score_images(detector, str(parts)).is_anomalous is None  # trained without class names: nobody said what is normal


def test_two_folds_curves_are_parted_and_name_only_what_was_measured():
    rows = [
        {"iteration": "10", "r_mse": "0.5", "d_real": "", "fold": "1"},
        {"iteration": "20", "r_mse": "0.4", "d_real": "", "fold": "1"},
        {"iteration": "30", "r_mse": "0.6", "d_real": "", "fold": "2"},
    ]
    parted = _with_gaps(rows)
    assert [row["r_mse"] for row in parted] == ["0.5", "0.4", "nan", "0.6"]
    assert not any(row["d_real"] for row in parted)
    assert _with_gaps([{"iteration": "10"}, {"iteration": "20"}]) == [{"iteration": "10"}, {"iteration": "20"}]
