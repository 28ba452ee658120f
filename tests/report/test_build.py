import base64
import html
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.data.images import ImageFormat
from alocc.errors import ArtefactError, DataError
from alocc.report import build_report, page_data, pictures
from alocc.report.build import _with_gaps
from alocc.report.pictures import by_interest, make_sheets, picture_size
from alocc.report.results import score_images
from alocc.report.views import LONGEST, make_views, view_size


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
    detector, results = looked_at
    data = json.loads(re.search(r'id="data">(.*?)</script>', labelled_page.read_text(encoding="utf-8"), re.DOTALL)[1])
    rows, order = data["table"], np.argsort(-results.scores.anomaly_score, kind="stable")
    assert [rows["folder"] + path for path in rows["path"]] == [results.images.names[i] for i in order]
    assert rows["anomaly_score"] == results.scores.anomaly_score[order].tolist()
    assert data["held_out"] == detector.held_out_scores.tolist()
    assert [sum(group["counts"]) for group in data["groups"]] == [100, 41]


def test_mistakes_have_pictures_before_all_others(looked_at, monkeypatch):
    detector, results = looked_at
    monkeypatch.setattr(pictures, "FIRST", 3)
    labels = results.scores.is_anomaly.copy()
    labels[[5, 77, 120]] = ~labels[[5, 77, 120]]  # three mistakes, and no other
    order = by_interest(replace(results, is_anomalous=labels), detector.threshold)
    assert order[:3].tolist() == [index for index in results.by_score if index in (5, 77, 120)]


def test_counts_and_verdicts_of_the_page_are_the_detectors(labelled_page, looked_at):
    detector, results = looked_at
    text, called = labelled_page.read_text(encoding="utf-8"), results.scores.is_anomaly
    assert called.any() and not called.all()
    for group, members in enumerate((~results.is_anomalous, results.is_anomalous)):
        found = [int(re.search(rf'id="{side}-{group}">(\d+)<', text)[1]) for side in ("normal", "anomaly")]
        assert found == [(members & ~called).sum(), (members & called).sum()]
        share = re.search(rf'id="share-{group}">([\d.]+) %<', text)[1]
        assert float(share) == pytest.approx(100 * called[members].mean(), abs=0.005)
    tiles = re.findall(
        r'<span class="is-(\w+)">(\w+)</span><br>.*?<span class="soft">(.*?)</span></li>', text, re.DOTALL
    )
    assert len(tiles) == 24
    by_name = {name: bool(verdict) for name, verdict in zip(results.images.names, called, strict=True)}
    for kind, word, name in tiles:
        assert kind == word == ("anomaly" if by_name[html.unescape(name)] else "normal")
    assert "at alpha 0.05 the threshold is" in text.lower() and f"{detector.threshold:.3f}" in text
    assert "were trained or calibrated on" not in text


def test_classes_are_listed_with_what_they_count_as_and_what_is_called(labelled_page, looked_at):
    _, results = looked_at
    text = re.search(r'<h2 id="classes">(.*?)</section>', labelled_page.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "Counted as normal: <b>good</b> (100)" in text and "Counted as anomalous: <b>bad</b> (41)" in text
    for name in ("good", "bad"):
        called = results.scores.is_anomaly[results.images.classes == name]
        assert f'<td>{name}</td><td class="number interval">{called.sum()} of {len(called)}</td>' in text
    area = np.mean(
        results.scores.anomaly_score[results.is_anomalous][:, None]
        > results.scores.anomaly_score[~results.is_anomalous]
    )
    assert f'interval">{area:.3f}</td>' in text


def test_images_that_were_seen_are_said_to_be(trained, parts, tmp_path, draw_disc):
    rng = np.random.default_rng(1)
    (tmp_path / "images").mkdir()
    for i in range(20):  # the first of those that trained
        Image.fromarray(draw_disc(rng)).save(tmp_path / "images" / f"{i}.png")
    page = build_report(trained, str(tmp_path / "images"), out=tmp_path / "seen.html").read_text(encoding="utf-8")
    assert "All of the 20 images" in page and "were trained or calibrated on" in page
    for path in sorted((parts / "bad").glob("*.png"))[:5]:
        shutil.copy(path, tmp_path / "images" / f"new-{path.name}")
    page = build_report(trained, str(tmp_path / "images"), out=tmp_path / "seen.html").read_text(encoding="utf-8")
    assert "20 of the 25 images" in page


def test_images_of_one_side_that_cannot_be_used_are_missed(trained, tmp_path, draw_disc):
    for name in ("good", "bad"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(draw_disc(np.random.default_rng(2))).save(tmp_path / "set" / name / "1.png")
    (tmp_path / "set" / "bad" / "1.png").write_bytes(b"no image")
    detector = alocc.Detector.load(trained)
    with pytest.raises(DataError, match="has no anomalous images that can be used"):
        score_images(detector, str(tmp_path / "set"), ["good"])
    (tmp_path / "set" / "good" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 2 images can be used"):
        build_report(trained, str(tmp_path / "set"), out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "{}"), ("run.json", "[]"), ("run.json", '{"watch": 5}'),
        ("run.json", '{"data": "arrays", "skipped": 3}'),
        ("run.json", "\ud800"), ("health.json", "{}"), ("health.json", '{"measures": {"probes": 3}}'),
        ("history.csv", "a,b\n1,2\n"), ("history.csv", "phase,iteration,r_mse\nx,one,2\n"),
    ],
)  # fmt: skip
def test_files_of_a_run_that_alocc_did_not_write_are_one_clear_line(trained, tmp_path, name, content):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / name).write_text(content, errors="surrogatepass")
    with pytest.raises((ArtefactError, DataError)) as error:
        build_report(run)
    assert str(run) in str(error.value) and "\n" not in str(error.value)
    assert not (run / "report.html").exists()


def test_ticks_are_round_and_inside(looked_at):
    detector, results = looked_at
    axis = page_data.histogram(detector, results)
    assert 3 <= len(axis.ticks) <= 10 and axis.low <= min(axis.ticks) < max(axis.ticks) <= axis.high
    steps = np.diff(axis.ticks)
    assert np.allclose(steps, steps[0]) and float(f"{steps[0]:.2g}") == pytest.approx(steps[0])


def test_skipped_images_are_named_with_their_reason(labelled_page):
    text = labelled_page.read_text(encoding="utf-8")
    assert "1 of those shown" in text and "broken &lt;b&gt;.png" in text


def test_pictures_keep_to_their_budget_and_begin_with_what_matters(looked_at, monkeypatch):
    detector, results = looked_at
    monkeypatch.setattr(pictures, "PER_SHEET", 20)
    everything = make_sheets(detector, results)
    assert sorted(everything.chosen) == list(range(141)) and len(everything.sheets) == 8
    some = make_sheets(detector, results, budget=len(everything.sheets[0]))  # base64: room for one, not for two
    assert some.sheets == everything.sheets[:1] and some.chosen == everything.chosen[:20]
    monkeypatch.setattr(pictures, "FIRST", 3)
    order = by_interest(results, detector.threshold)
    assert sorted(order.tolist()) == list(range(141))
    assert results.by_score[0] in order[:4] and results.by_score[-1] in order[: 3 + 3 + 6 + 3]


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((28, 28), (448, 448)), ((20, 18), (396, 440)), ((100, 100), (400, 400)), ((320, 240), (240, 320)),
     ((1024, 512), (224, 448)), ((2, 1000), (448, 1))],
)  # fmt: skip
def test_views_are_whole_multiples_of_small_images_and_at_most_448_pixels(size, wanted):
    assert view_size(ImageFormat(*size, 3)) == wanted and max(wanted) <= LONGEST


def pixels_of(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_views_show_images_maps_and_regions_within_their_budget(looked_at, monkeypatch):
    detector, results = looked_at
    views = make_views(detector, results)
    assert sorted(views.of) == list(range(141)) and (views.width, views.height, views.grows) == (396, 440, True)
    assert abs(len(json.dumps(views.items)) - views.n_bytes) < 1_000
    regions = detector.regions(results.images.images)
    for item, index in zip(views.items, views.of, strict=True):
        assert item["name"] == results.images.names[index] and tuple(item["size"]) == (20, 18)
        assert [box[:4] for box in item["regions"]] == [(r.x, r.y, r.width, r.height) for r in regions[index]]
        assert item["regions"] or not results.scores.is_anomaly[index]
        assert all(box[4].startswith(r.reason) for box, r in zip(item["regions"], regions[index], strict=True))
    first = results.images.images[views.of[0], 0].numpy()
    np.testing.assert_array_equal(pixels_of(views.items[0]["image"])[..., 0], first)  # small ones keep every pixel
    hot = detector.anomaly_map(results.images.images[views.of[:1]])[0] / detector.map_threshold
    opacity = pixels_of(views.items[0]["map"])[..., 3]
    assert opacity.shape == (20, 18)
    np.testing.assert_allclose(opacity, 255 * 0.6 * np.clip(2 * hot - 1, 0, 1), atol=1)
    for item, index in zip(views.items, views.of, strict=True):
        opaque = pixels_of(item["map"])[..., 3:]  # no channel where nothing is
        assert results.scores.is_anomaly[index] or not (item["regions"] or (opaque.size and opaque.any()))
    some = make_views(detector, results, len(json.dumps(views.items[:3])))
    assert some.items == views.items[:3] and some.places(141)[some.of].tolist() == [0, 1, 2]
    assert (some.places(141) == -1).sum() == 138 and some.n_bytes <= len(json.dumps(views.items[:3]))


def test_views_of_anomalies_have_the_pixels_of_their_files(looked_at, tmp_path):
    detector, _ = looked_at
    large = np.random.default_rng(0).integers(0, 256, (1500, 700), np.uint8)
    for side in (1500, 60):
        Image.fromarray(large[:side]).save(tmp_path / f"{side}.png")
    results = score_images(detector, str(tmp_path))
    assert results.scores.is_anomaly.all()
    sizes = {item["name"][-8:]: pixels_of(item["image"]).shape[:2] for item in make_views(detector, results).items}
    assert sorted(sizes.values()) == [(60, 700), (1024, 478)]


def test_the_legend_has_the_scale_of_the_map(labelled_page, looked_at):
    detector, _ = looked_at
    text = labelled_page.read_text(encoding="utf-8")
    assert f"<span>{detector.map_threshold:.3g} = the map's threshold</span>" in text
    assert f"<span>{2 * detector.map_threshold:.3g} and above</span>" in text and "outlines the strongest place" in text


def test_counts_stand_beside_the_rates(labelled_page, looked_at):
    _, results = looked_at
    called, anomalous = results.scores.is_anomaly, results.is_anomalous
    [said] = re.findall(r'<p id="caught">(.*?)</p>', labelled_page.read_text(encoding="utf-8"))
    stopped, found = (called & ~anomalous).sum(), (called & anomalous).sum()
    assert re.sub("<.*?>", "", said) == (
        f"{stopped} of 100 normal images would be stopped, {found} of 41 anomalous ones found."
    )


def test_of_too_many_images_the_most_anomalous_are_listed(looked_at, monkeypatch):
    detector, results = looked_at
    monkeypatch.setattr(page_data, "MOST_ROWS", 10)
    rows = page_data.page_data(detector, results, make_sheets(detector, results), make_views(detector, results))[
        "table"
    ]
    assert rows["anomaly_score"] == np.sort(results.scores.anomaly_score)[::-1][:10].tolist()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((28, 28), (56, 56)), ((20, 18), (36, 40)), ((64, 64), (64, 64)), ((96, 48), (32, 64)), ((2, 300), (64, 1))],
)
def test_pictures_are_whole_multiples_or_at_most_64_pixels(size, wanted):
    assert picture_size(ImageFormat(*size, 1)) == wanted


def test_a_class_that_does_not_exist_is_refused(trained, parts):
    detector = alocc.Detector.load(trained)
    for normal, anomalous in ((["god"], None), (["good"], ["god"])):
        with pytest.raises(DataError, match=r'has no class "god"; did you mean "good".* bad, good'):
            score_images(detector, str(parts), normal, anomalous)
    with pytest.raises(DataError, match='"good" is named both'):
        score_images(detector, str(parts), ["good"], ["good", "bad"])
    assert (
        score_images(detector, str(parts)).is_anomalous is None
    )  # trained without class names: nobody said what is normal


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
