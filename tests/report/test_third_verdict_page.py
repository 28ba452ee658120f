"""*Can't tell* in the report: its numbers are the detector's, in the page's data, without scripts and in a browser."""

import json
import re
import shutil

import numpy as np
import pytest

import alocc
from alocc.data.sources import open_source
from alocc.report import build_report

ALPHA, REVIEW_ALPHA = 10 / 201, 50 / 201
"""200 images set the threshold: both are met at equality."""


@pytest.fixture(scope="module")
def reviewed(trained, tmp_path_factory):
    """The run with a third verdict."""
    folder = tmp_path_factory.mktemp("reviewed") / "run"
    shutil.copytree(trained, folder)
    alocc.Detector.load(trained).at(ALPHA, REVIEW_ALPHA).save(folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def page_of(reviewed, parts):
    """Labels the wrong way round, so that all verdicts are of either side: good discs are among those in doubt."""
    return build_report(reviewed, str(parts), ["bad"])


@pytest.fixture(scope="module")
def judged(reviewed, parts):
    """The detector, the images, and which are anomalous."""
    detector = alocc.Detector.load(reviewed)
    images = open_source(str(parts), "test").load(detector.image_format)
    return detector, images, images.classes == "good"


def counts_of(verdict, anomalous):
    return [
        [int((verdict[side] == what).sum()) for what in ("normal", "can't tell", "anomalous")]
        for side in (~anomalous, anomalous)
    ]


def test_the_pages_data_and_plain_text_have_the_third_verdict(page_of, judged):
    detector, images, anomalous = judged
    text = page_of.read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert (data["alpha"], data["review_alpha"]) == (ALPHA, REVIEW_ALPHA) and REVIEW_ALPHA in data["review_alphas"]
    verdict = detector.score(images.images).verdict
    assert len(detector.held_out_scores) == 200
    shown = {image["name"]: image["regions"] for image in data["views"]["items"]}
    wanted = {str(name): said for name, said in zip(images.names, verdict, strict=True)}
    assert set(wanted.values()) == {"anomalous", "can't tell", "normal"}
    seen = [bool(regions) == (wanted[name] != "normal") for name, regions in shown.items() if name in wanted]
    assert len(seen) > 100 and all(seen)
    for group, numbers in enumerate(counts_of(verdict, anomalous)):
        for name, number in zip(("normal", "review", "anomaly"), numbers, strict=True):
            assert f'id="{name}-{group}">{number}</td>' in text
    threshold = detector.calibration.review_threshold
    assert f"Up to alpha 0.249, above {threshold:.3f}, it can't tell." in text
    assert '<option value="cant-tell">' in text
    assert '<th scope="col" class="number">can&#39;t tell</th>' in text  # by class


def test_without_it_the_page_says_nothing_of_it(labelled_page):
    text = labelled_page.read_text(encoding="utf-8")
    assert not [words for words in ("can&#39;t tell", '"review_alpha"') if words in text]
    assert not re.search('id="review-|value="cant-tell|class="(is-|cut )review', text)


@pytest.mark.slow
def test_without_labels_it_is_counted_of_all(visit, reviewed, parts, tmp_path):
    detector = alocc.Detector.load(reviewed)
    path = build_report(reviewed, str(parts / "good"), out=tmp_path / "good.html")
    assert '<span class="is-review">can&#39;t tell</span>' in path.read_text(encoding="utf-8")  # of a gallery
    n = detector.score(sorted(map(str, (parts / "good").glob("0*.png")))).n_review
    page = visit(path)
    assert int(page.text_content("#review-0")) == n > 2
    assert f"it can't tell: {n} of 100 images are for a person." in page.text_content("#alpha-said")


def type_into(page, name, alpha):
    page.fill(f"#{name}-number", repr(float(alpha)))
    page.press(f"#{name}-number", "Tab")


@pytest.mark.slow
def test_both_alphas_of_the_page_give_the_detectors_own_verdicts(visit, page_of, judged):
    detector, images, anomalous = judged
    page = visit(page_of)
    for alpha, review_alpha in (
        (ALPHA, REVIEW_ALPHA),
        (ALPHA, np.nextafter(REVIEW_ALPHA, 0)),
        (np.nextafter(ALPHA, 0), 0.5),
        (0.05, 0.999),
        (0.3, 0.2),  # nothing lies between
    ):
        type_into(page, "alpha", alpha)
        type_into(page, "review", review_alpha)
        own = detector.with_alpha(alpha).with_review_alpha(max(alpha, review_alpha))
        verdict = own.score(images.images).verdict
        wanted = counts_of(verdict, anomalous)
        found = [
            [int(page.text_content(f"#{what}-{group}")) for what in ("normal", "review", "anomaly")] for group in (0, 1)
        ]
        assert found == wanted
        assert page.text_content("#cut-value") == f"{own.threshold:.3f}"
        assert page.text_content("#review-value") == f"{own.calibration.review_threshold:.3f}"
        said = page.text_content("#alpha-said")
        if review_alpha > alpha:
            review = verdict == "can't tell"
            of = [f"{review[side].sum()} of {side.sum()}" for side in (~anomalous, anomalous)]
            assert f"it can't tell: {of[0]} normal and {of[1]} anomalous images are for a person." in said
        else:
            assert said.endswith("The review alpha is not above alpha: nothing is for a person.")
        is_called = verdict == "anomalous"
        for option, members in (
            ("anomaly", is_called), ("cant-tell", verdict == "can't tell"), ("normal", verdict == "normal"),
            ("false-alarm", is_called & ~anomalous), ("missed", (verdict == "normal") & anomalous),
        ):  # fmt: skip
            page.select_option("#filter-verdict", option)
            count = re.match(r"\d+", page.text_content("#found"))
            assert int(count[0] if count else 0) == members.sum(), option
        assert float(page.text_content("#live-accuracy")) == pytest.approx((is_called == anomalous).mean(), abs=1e-4)


@pytest.mark.slow
def test_the_third_verdict_is_read_sorted_and_reset_by_keyboard(visit, page_of, judged):
    detector, images, _ = judged
    page = visit(page_of)
    page.select_option("#filter-verdict", "cant-tell")
    cells = page.locator("#rows .is-review")
    assert cells.count() > 2 and set(cells.all_inner_texts()) == {"can't tell"}
    page.select_option("#filter-verdict", "")
    page.focus("th[data-sort=verdict] button")
    page.keyboard.press("Enter")
    n = int((detector.score(images.images).verdict == "anomalous").sum())
    page.select_option("#page-size", "100")
    words = [text.split("\n")[0] for text in page.locator("#rows tr td:last-child").all_inner_texts()]
    assert words[:n] == ["anomaly"] * n and words[n] == "can't tell" and "normal" in words
    page.focus("#review-slider")
    page.keyboard.press("End")
    assert float(page.get_attribute("#threshold-section", "data-review")) > 0.4
    page.focus("#review-reset")
    page.keyboard.press("Enter")
    assert float(page.get_attribute("#threshold-section", "data-review")) == REVIEW_ALPHA
    assert page.evaluate("document.activeElement.id") == "review-slider" and page.locator("#review-reset").is_disabled()
    lines = [page.locator(line).bounding_box() for line in ("#review-cut", "#cut")]
    assert lines[0]["x"] < lines[1]["x"] and lines[0]["x"] + lines[0]["width"] == pytest.approx(lines[1]["x"], abs=3)
    assert page.get_by_role("slider", name="review alpha").count() == 1


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_legible_in_both_schemes_and_fits_a_phone(visit, page_of, scheme):
    page = visit(page_of, color_scheme=scheme, viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.select_option("#filter-verdict", "cant-tell")
    colours = page.evaluate(
        """() => { const style = getComputedStyle(document.querySelector('.is-review'));
             return [style.color, getComputedStyle(document.querySelector('section')).backgroundColor]; }"""
    )
    inks = []
    for colour in colours:
        channels = [float(value) / 255 for value in re.findall(r"[\d.]+", colour)[:3]]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        inks.append(float(np.dot((0.2126, 0.7152, 0.0722), linear)))
    assert (max(inks) + 0.05) / (min(inks) + 0.05) >= 4.5
