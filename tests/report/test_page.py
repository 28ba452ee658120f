"""The report in a real browser: its numbers are the detector's, at every alpha; people can use it with a keyboard."""

import itertools
import re

import numpy as np
import pytest

import alocc
from alocc.data.sources import open_source
from alocc.evaluation.metrics import at_threshold
from alocc.report import build_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judged(trained, parts):
    """The detector, the images of the labelled page, and which are anomalous."""
    detector = alocc.Detector.load(trained)
    images = open_source(str(parts), "test").load(detector.image_format)
    return detector, images, images.classes != "good"


def number(page, selector):
    return int(page.text_content(selector).replace(",", ""))


def called_by_the_page(page):
    return [[number(page, f"#{what}-{group}") for what in ("normal", "anomaly")] for group in (0, 1)]


def type_alpha(page, alpha):
    page.fill("#alpha-number", repr(alpha))
    page.press("#alpha-number", "Tab")


def test_every_alpha_gives_the_detectors_own_numbers(visit, labelled_page, judged):
    detector, images, anomalous = judged
    page = visit(labelled_page)
    n = len(detector.held_out_scores)
    assert float(page.get_attribute("#threshold-section", "data-alpha")) == detector.alpha == 0.05
    steps = int(page.get_attribute("#alpha-slider", "max"))
    seen = set()
    by_slider = [0, 1, steps // 3, steps // 2, steps - 1, steps]
    by_hand = [0.05, 3 / (n + 1), np.nextafter(3 / (n + 1), 0), 0.2, 0.9, 0.999]  # at equality, and just below
    for kind, value in [*(("slider", step) for step in by_slider), *(("typed", float(alpha)) for alpha in by_hand)]:
        if kind == "slider":
            page.eval_on_selector(
                "#alpha-slider", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')) }", value
            )
        else:
            type_alpha(page, value)
        alpha = float(page.get_attribute("#threshold-section", "data-alpha"))
        assert kind == "slider" or alpha == value
        seen.add(alpha)
        own = detector.with_alpha(alpha)
        called = own.score(images.images).is_anomaly
        wanted = [[int((called[side] == what).sum()) for what in (False, True)] for side in (~anomalous, anomalous)]
        assert called_by_the_page(page) == wanted
        assert page.text_content("#cut-value") == f"{own.threshold:.3f}"
        said = [f"{(called & side).sum()} of {side.sum()}" for side in (~anomalous, anomalous)]
        assert f"{said[0]} normal and {said[1]} anomalous images are called" in page.text_content("#alpha-said")
        for name, figure in at_threshold(called, anomalous).items():
            assert page.text_content(f"#live-{name}") == f"{figure:.4f}"
        page.select_option("#filter-verdict", "anomaly")
        assert page.text_content("#found").startswith(f"{called.sum()} of {len(images)} images") or not called.any()
    assert len(seen) > 8


def test_alpha_cannot_go_where_the_held_out_images_do_not_reach(visit, labelled_page, judged):
    page, n = visit(labelled_page), len(judged[0].held_out_scores)
    for asked in (0.001, 0.0, -1.0):
        type_alpha(page, asked)
        assert float(page.get_attribute("#threshold-section", "data-alpha")) == 1 / (n + 1)
    page.focus("#alpha-slider")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert float(page.get_attribute("#threshold-section", "data-alpha")) == 1 / (n + 1)
    page.click("#alpha-reset")
    assert page.input_value("#alpha-number") == "0.05"


def column(page, index):
    return page.eval_on_selector_all("#rows tr", "(rows, i) => rows.map((row) => row.cells[i].textContent)", index)


def test_table_sorts_filters_and_turns_pages_by_keyboard(visit, labelled_page, judged):
    page = visit(labelled_page)
    scores = list(map(float, column(page, 3)))
    assert len(scores) == 25 and scores == sorted(scores, reverse=True)
    assert page.get_attribute("th[data-sort=anomaly_score]", "aria-sort") == "descending"
    page.focus("th[data-sort=anomaly_score] button")
    page.keyboard.press("Enter")
    assert page.get_attribute("th[data-sort=anomaly_score]", "aria-sort") == "ascending"
    assert float(column(page, 3)[0]) == pytest.approx(judged[0].score(judged[1].images).anomaly_score.min(), abs=1e-3)
    page.focus("th[data-sort=path] button")
    page.keyboard.press("Space")
    assert column(page, 1)[1:] == [f"bad/{i:03}.png" for i in range(24)] and page.locator("th[aria-sort]").count() == 1
    page.focus("#next")
    page.keyboard.press("Enter")
    assert page.text_content("#page") == "page 2 of 6" and "26 to 50 shown" in page.text_content("#found")
    page.select_option("#filter-class", label="good")
    assert page.text_content("#found").startswith("100 of 141 images") and set(column(page, 2)) == {"good"}
    page.fill("#filter-text", "GOOD/01")
    assert len(column(page, 1)) == 10
    page.fill("#filter-text", "no such")
    assert page.text_content("#found") == "No image passes these filters"


def test_mistakes_are_found_by_the_filter(visit, labelled_page, judged):
    detector, images, anomalous = judged
    page, called = visit(labelled_page), detector.score(images.images).is_anomaly
    for option, wanted in (("false-alarm", called & ~anomalous), ("missed", ~called & anomalous)):
        page.select_option("#filter-verdict", option)
        count = re.match(r"\d+", page.text_content("#found"))
        assert int(count[0] if count else 0) == wanted.sum()


def test_hostile_names_are_text(visit, labelled_page):
    page = visit(labelled_page)
    page.fill("#filter-text", "onerror")
    assert column(page, 1) == ["bad/</script><img src=x onerror=alert(1)>.png"]
    assert page.locator("img[src=x]").count() == 0 and page.title() == "<run>: alocc report"
    assert "broken <b>.png" in page.inner_text("section[aria-labelledby=skipped]")


def test_pictures_are_those_of_their_images(visit, labelled_page, judged):
    """The input on the page is the image of that path, but for the WebP."""
    page, images = visit(labelled_page), judged[1]
    folder = page.inner_text("#images-caption b")
    drawn = page.evaluate(
        """async () => Promise.all([...document.querySelectorAll('#rows tr')].slice(0, 5).map(async (row) => {
             const image = row.querySelector('img'); await image.decode();
             const [x, y] = image.style.objectPosition.split(' ').map(parseFloat);
             const canvas = document.createElement('canvas');
             canvas.width = image.width; canvas.height = image.height;
             const context = canvas.getContext('2d'); context.drawImage(image, x, y);
             const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
             return [row.cells[1].textContent, canvas.width, [...data]];
        }))"""
    )
    for path, width, values in drawn:
        pixels = np.array(values).reshape(-1, width, 4)[::2, ::2, 0]
        original = images.images[list(images.names).index(folder + path), 0].numpy()
        assert np.abs(pixels - original.astype(float)).mean() < 12


def test_pictures_open_an_enlarged_view_with_map_and_regions(visit, labelled_page, judged):
    page, (detector, images, _) = visit(labelled_page), judged
    row = page.locator("#rows tr").first
    index = list(images.names).index(page.inner_text("#images-caption b") + row.locator(".path").inner_text())
    regions = detector.regions(images[np.array([index])].images)[0]
    assert regions and not page.locator("#view").is_visible()
    row.locator("button.three").click()
    assert page.inner_text("#view-name") == images.names[index] and page.locator("#view-image").is_visible()
    stage = page.locator("#view-stage").bounding_box()
    assert (stage["width"], stage["height"]) == (396, 440)
    lines = page.locator("#view-regions li").all_inner_texts()
    assert lines == [f"{region.reason}; p {region.p_value:.3g}" for region in regions]
    for box, region in zip(page.locator(".box").all(), regions, strict=True):
        drawn = box.bounding_box()
        wanted = (stage["x"] + 22 * region.x, stage["y"] + 22 * region.y, 22 * region.width, 22 * region.height)
        assert tuple(drawn[side] for side in ("x", "y", "width", "height")) == pytest.approx(wanted, abs=0.1)
    decoded = "async (e) => { await e.decode(); return [e.naturalWidth, e.naturalHeight] }"
    assert [page.eval_on_selector(f"#view-{what}", decoded) for what in ("image", "map")] == [[18, 20]] * 2
    for what, key, shown in (("map", "m", "#view-map"), ("boxes", "b", ".box")):
        switch, first = page.locator(f"#view-{what}-switch"), page.locator(shown).first
        assert first.is_visible() and switch.get_attribute("aria-pressed") == "true"
        page.keyboard.press(key)
        assert not first.is_visible() and switch.get_attribute("aria-pressed") == "false"
        switch.click()
        assert first.is_visible() and switch.get_attribute("aria-pressed") == "true"
    page.keyboard.press("m")
    page.keyboard.press("Escape")
    assert not page.locator("#view").is_visible()
    assert page.evaluate("document.activeElement.className") == "three"  # back where it was opened
    page.locator(".gallery button.three").last.press("Enter")  # the map stays off
    assert page.locator("#view").is_visible() and not page.locator("#view-map").is_visible()
    name = page.locator(".gallery .tiles li").last.locator(".soft").inner_text()
    assert page.inner_text("#view-name") == name
    page.click("#view-close")
    assert not page.locator("#view").is_visible()


def test_without_labels_the_anomalies_are_counted(visit, plain_page, trained, parts):
    page, detector = visit(plain_page), alocc.Detector.load(trained)
    images = open_source(str(parts / "bad"), "test").load(detector.image_format).images
    assert page.locator("#normal-1").count() == page.locator("#live-f1").count() == 0
    for alpha in (0.02, 0.3):
        type_alpha(page, alpha)
        assert number(page, "#anomaly-0") == detector.with_alpha(alpha).score(images).is_anomaly.sum()
        assert f"{number(page, '#anomaly-0')} images are called anomalies" in page.text_content("#alpha-said")


def test_a_run_on_arrays_has_a_report_without_images(visit, trained, tmp_path):
    page = visit(build_report(trained, out=tmp_path / "arrays.html"))
    assert (
        page.locator("#cut").count() == 1
        and page.locator("#alpha-slider").count() == page.locator("#rows").count() == 0
    )
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "dark"


def luminance(colour):
    channels = [value / 255 for value in colour]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


TEXT_AND_GROUND = """() => [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.disabled &&
    [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).map((e) => {
  let ground = e;
  while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
  const style = getComputedStyle(e), colour = e instanceof SVGElement ? style.fill : style.color;
  return [e.textContent.trim().slice(0, 40), colour, getComputedStyle(ground ?? document.body).backgroundColor];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(visit, labelled_page, scheme):
    page = visit(labelled_page, color_scheme=scheme)
    grounds = set()
    for text, *colours in page.evaluate(TEXT_AND_GROUND):
        inks = [luminance(list(map(float, re.findall(r"[\d.]+", colour)[:3]))) for colour in colours]
        assert (max(inks) + 0.05) / (min(inks) + 0.05) >= 4.5, (text, colours)
        grounds.add(colours[1])
    page.click("#theme")
    other = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert other not in grounds and page.get_attribute("html", "data-theme") != scheme


def test_it_is_laid_out_for_screen_readers_narrow_screens_and_paper(visit, labelled_page):
    page = visit(labelled_page, viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.get_attribute("html", "lang") == "en"
    levels = page.eval_on_selector_all("h1, h2, h3", "(all) => all.map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.locator("img:not([alt])").count() == page.locator("svg[role=img]:not([aria-label])").count() == 0
    ids = page.eval_on_selector_all("body [id]", "(all) => all.filter((e) => !e.closest('svg')).map((e) => e.id)")
    assert len(ids) == len(set(ids)) and page.locator("main, nav, header").count() == 3
    assert page.get_by_role("slider", name="alpha").count() == page.get_by_role("searchbox").count() == 1
    assert page.get_by_role("row").count() > 25 and page.get_by_role("columnheader", name="p_value").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.emulate_media(media="print")
    assert not any(
        page.locator(hidden).first.is_visible() for hidden in ("#filters", "#alpha-slider", "#theme", "nav", "#next")
    )
    assert page.locator("#rows tr").first.is_visible() and page.locator(".on-paper").first.is_visible()


def test_without_scripts_it_still_tells_the_result(browser, labelled_page):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(labelled_page.as_uri())
    shown = page.inner_text("body")
    context.close()
    assert (
        "The table needs JavaScript" in shown
        and "At alpha 0.05 the threshold is" in shown
        and "Most anomalous" in shown
    )
