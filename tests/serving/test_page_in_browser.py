"""The page in a real browser, against a real server: what people see is what the detector and the history say."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.config import preset, with_settings
from alocc.detector import artefact_path
from alocc.serving.history import History, ImageRow, new_id
from alocc.storage import digest

pytestmark = pytest.mark.slow

VIEWS = ("inspect", "history", "threshold", "review", "drift", "models")
HOSTILE = "<img src=x onerror=alert(1)>.png"
TOKEN = "a-token-that-is-long-enough"
N_OLD = 12_000
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
PIT = (slice(34, 38), slice(46, 50))


def plates(n, seed, depth=0):
    """Noise on a small plate with a slot, (n, 48, 64); with a dark pit if it has a depth."""
    rng = np.random.default_rng(seed)
    drawn = np.full((n, 48, 64), 120.0)
    drawn[:, 10:22, 16:42] = 190
    drawn += rng.normal(0, 8, drawn.shape)
    drawn[:, *PIT] -= depth
    return drawn.clip(0, 255).astype(np.uint8)


def png(image):
    written = io.BytesIO()
    Image.fromarray(image).save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A detector with maps, 160 held-out scores and alpha 0.02."""
    folder = tmp_path_factory.mktemp("runs") / "plates"
    config = with_settings(
        preset("robust"),
        ["networks.width=4", "training.batch_size=16", "calibration.held_out=0.4", "calibration.alpha=0.02"],
    )
    alocc.train(plates(160, 1), config=config, iterations=10, seed=0, out=folder)
    return folder


@pytest.fixture(scope="module")
def weak_folder(run_folder):
    """The same detector, which its health check called useless, with a report."""
    folder = run_folder.parent / "weak"
    shutil.copytree(run_folder, folder)
    finding = {"verdict": "useless", "reason": "spots look normal to it", "advice": "train it longer"}
    health = {"verdict": "useless", "findings": [finding], "meaning": "it misses what it should find"}
    known = {"made_from": digest(artefact_path(folder))}
    (folder / "health.json").write_text(json.dumps(health | known))
    (folder / "report.html").write_text(
        "<!doctype html><title>r</title><script>document.title='ran'</script><h1>Report</h1>"
    )
    return folder


def fill(store):
    """12,000 rows of a model that is not loaded any more, of yesterday, one a second."""
    store.mkdir()
    history = History(store / "history.sqlite")
    history.migrate()
    verdicts = ("normal", "anomalous", "can't tell")
    for first in range(0, N_OLD, 4000):
        history.add([
            ImageRow(
                id=new_id(), time=START + timedelta(seconds=i), model="old", version="0" * 12, calibration=0,
                name=f"old {i:05}.png", sha256=f"{i:064x}", source="api", alpha=0.01, width=64, height=48,
                anomaly_score=float(i), p_value=0.5, verdict=verdicts[i % 3] if i % 40 == 0 else "normal",
            )
            for i in range(first, first + 4000)
        ])  # fmt: skip
    history.close()


class Station:
    """A server process, and requests to it that do not come from the page."""

    def __init__(self, *arguments, token=None):
        command = [sys.executable, "-m", "alocc", "serve", "--port", "0", *map(str, arguments)]
        environment = os.environ | ({"ALOCC_TOKEN": token} if token else {})
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.said = ""
        while not (found := re.search(r"http://\S+:\d+", self.said)):
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        self.address = found[0].rstrip(";")
        self.reading = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.reading.start()

    def get(self, path):
        with urllib.request.urlopen(self.address + path) as reply:
            return json.load(reply)

    def score(self, image, name, **options):
        """Score one image as another program would."""
        query = urllib.parse.urlencode({"name": name, **options})
        head = {"Content-Type": "image/png"}
        request = urllib.request.Request(f"{self.address}/v1/score?{query}", png(image), head)
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def mark(self, id, mark):
        """Mark an image as somebody else would."""
        head = {"Content-Type": "application/json"}
        address, body = f"{self.address}/v1/history/{id}/mark", json.dumps({"mark": mark}).encode()
        urllib.request.urlopen(urllib.request.Request(address, body, head, method="PUT")).close()

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.reading.join()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def station(run_folder, weak_folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "station"
    fill(store)
    served = Station(f"plates={run_folder}", f"weak={weak_folder}", "--store", store)
    for i, image in enumerate(np.concatenate([plates(5, 2), plates(1, 3, depth=110)])):
        served.score(image, f"first {i}.png", keep="true")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def detector(run_folder):
    return alocc.Detector.load(run_folder)


@pytest.fixture
def visit(browser):
    """Open a view; complaints of the browser, and requests to anywhere else, end the test."""
    contexts = []

    def visit(station, view="inspect", allowed=("429",), wait=".light.on", **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}, "timezone_id": "UTC"} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.complaints = []
        said = lambda text: None if any(one in text for one in allowed) else page.complaints.append(text)  # noqa: E731
        page.on("console", lambda message: said(message.text))
        page.on("pageerror", lambda error: said(str(error)))
        page.on("dialog", lambda dialog: (said(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: None if _is_ours(request.url, station) else said(request.url))
        page.goto(f"{station.address}/#/{view}")
        page.wait_for_selector(wait)
        return page

    yield visit
    for context in contexts:
        for page in context.pages:
            assert page.complaints == []
        context.close()


def _is_ours(url, station):
    return url.startswith((f"{station.address}/", f"blob:{station.address}/", "data:"))


def go(page, view):
    page.goto(re.sub(r"#.*", f"#/{view}", page.url))
    page.wait_for_selector(f"body[data-view={view}] main > *:nth-child(2)")


def drop(page, *paths):
    """Drop files and folders of this machine, as the desktop would; again where the browser lost the drop.

    Chromium does where the page's answer to dragOver is still on its way.
    """
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
    page.evaluate("() => { window.took = false; addEventListener('drop', () => { window.took = true; }, true); }")
    for _ in range(5):
        for kind in ("dragEnter", "dragOver", "drop"):
            page.wait_for_timeout(100)
            session.send("Input.dispatchDragEvent", {"type": kind, "x": 500, "y": 300, "data": data})
        for _ in range(30):
            if page.evaluate("window.took"):
                return
            page.wait_for_timeout(100)
    raise AssertionError("the browser took no drop")


def verdict_of(page):
    return page.text_content(".panel .verdict").strip(), page.text_content(".panel .file").strip()


def wait_for_verdict(page, verdict, name):
    page.wait_for_function(
        "([verdict, name]) => document.querySelector('.panel .verdict')?.textContent === verdict"
        " && document.querySelector('.panel .file')?.textContent === name",
        arg=[verdict, name],
    )


def wait_for_picture(page):
    page.wait_for_selector(".picture[aria-busy=false] .stage:not([hidden])")


def select(page, name):
    page.click(f".dot[aria-label^='{name}:']")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve good plates, two with a pit in a folder of their own, and what is no image."""
    root = tmp_path_factory.mktemp("drop") / "line 1"
    (root / "late").mkdir(parents=True)
    for i, image in enumerate(plates(12, 5)):
        (root / f"good {i:02}.png").write_bytes(png(image))
    for i, image in enumerate(plates(2, 6, depth=110)):
        (root / "late" / f"pit {i}.png").write_bytes(png(image))
    (root / "broken.png").write_bytes(png(plates(1, 0)[0])[:60])
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(png(plates(1, 0)[0]))
    return root


def test_drop_judge_mark_undo_recalibrate_roll_back_reload(visit, station, detector, folder):
    """The whole way of a day's work; the numbers are the detector's own."""
    page = visit(station)
    drop(page, folder)
    page.wait_for_selector(".upload-words:has-text('15 images:')")
    said = page.text_content(".upload-words")
    called = detector.score(np.concatenate([plates(12, 5), plates(2, 6, depth=110)])).is_anomaly
    assert called[12:].all()
    assert f"{called.sum()} anomalous" in said and f"{(~called).sum()} normal" in said and "1 not usable" in said
    assert "1 file is no image" in said
    page.click(".broken summary")
    assert "line 1/broken.png" in page.text_content(".broken ul")
    wait_for_verdict(page, "Anomalous", "line 1/late/pit 0.png")  # what was called is shown, not what came last

    wait_for_picture(page)
    page.wait_for_selector(".map[src]")
    score = detector.score(plates(2, 6, depth=110)[:1]).anomaly_score[0]
    assert float(page.text_content(".gauge-words strong").replace("−", "-")) == pytest.approx(score, abs=1e-3)
    assert "None of the 160 normal images" in page.text_content(".meaning")
    assert_map_and_box_are_at_the_pit(page)

    before = station.get("/v1/models/plates")
    page.keyboard.press("f")
    page.wait_for_selector(".toast:has-text('pit 0.png: false alarm')")
    page.wait_for_selector(".marked:has-text('False alarm')")
    page.click(".toast button:has-text('Undo')")
    page.wait_for_selector(".toast:has-text('no mark')")
    assert page.locator(".marked").count() == 0
    page.keyboard.press("f")
    page.wait_for_selector(".marked:has-text('False alarm')")

    page.keyboard.press("3")
    page.wait_for_selector(".effect .counts-row")
    page.wait_for_selector(".precision:has-text('0 of 1 called image that somebody looked at')")
    page.click("text=Show what would change")
    page.wait_for_selector(".proposal .figure")
    threshold = station.get("/v1/models/plates/recalibration?alpha=0.02&review_alpha=0.02")["threshold"]
    assert page.text_content(".proposal .figure strong") == f"{threshold:.3f}".replace("-", "−")
    assert station.get("/v1/models/plates")["threshold"] == before["threshold"]  # shown, not applied
    page.click("text=Apply for everybody")
    page.wait_for_selector(".versions tr:has-text('Calibration 1') .in-use")
    assert station.get("/v1/models/plates")["threshold"] == pytest.approx(threshold)
    page.click(".toast button:has-text('Roll back')")
    page.wait_for_selector('.versions tr:has-text("The file\'s own") .in-use')
    assert station.get("/v1/models/plates")["threshold"] == before["threshold"]

    page.reload()
    page.wait_for_selector(".versions tr:has-text('Calibration 1') button")
    go(page, "inspect")
    select(page, "line 1/late/pit 0.png")
    page.wait_for_selector(".marked:has-text('False alarm')")
    wait_for_picture(page)
    assert verdict_of(page) == ("Anomalous", "line 1/late/pit 0.png")
    go(page, "history")
    page.fill("[type=search]", "PIT 0")
    page.wait_for_function("() => document.querySelector('.found').textContent === '1 image'")
    assert "False alarm" in page.text_content(".space .row")


def test_undo_takes_back_the_mark_of_this_page_and_not_of_somebody_else(visit, station):
    ids = [station.score(plates(1, seed, depth=110)[0], f"mine {seed}.png")["images"][0]["id"] for seed in (41, 42)]
    theirs = station.score(plates(1, 43, depth=110)[0], "theirs.png")["images"][0]["id"]
    marks = lambda: [station.get(f"/v1/history/{id}")["image"]["mark"] for id in (*ids, theirs)]  # noqa: E731
    page = visit(station)
    for name in ("mine 41.png", "mine 42.png"):
        select(page, name)
        wait_for_verdict(page, "Anomalous", name)
        page.keyboard.press("f")
        page.wait_for_selector(f".toast:has-text('{name}: false alarm')")
    station.mark(theirs, "confirmed")
    page.click(".toast button:has-text('Undo')")
    page.wait_for_selector(".toast:has-text('Taken back. mine 42.png')")
    assert marks() == ["false alarm", None, "confirmed"]
    page.keyboard.press("u")
    page.wait_for_selector(".toast:has-text('Taken back. mine 41.png')")
    assert marks() == [None, None, "confirmed"]
    page.keyboard.press("u")  # nothing of this page is left: the last of all
    page.wait_for_selector(".toast:has-text('Taken back. theirs.png')")
    assert marks() == [None, None, None]


def assert_map_and_box_are_at_the_pit(page):
    """The map's colour is strong in the pit and not in the opposite corner; the first box has the pit in it."""
    rows, columns = PIT
    opacity = page.evaluate(
        """([x, y]) => {
             const map = document.querySelector('.map'), canvas = document.createElement('canvas');
             canvas.width = map.naturalWidth; canvas.height = map.naturalHeight;
             const context = canvas.getContext('2d', { willReadFrequently: true }); context.drawImage(map, 0, 0);
             return [[x, y], [2, 2]].map(([x, y]) => context.getImageData(x, y, 1, 1).data[3]);
        }""",
        [columns.start + 2, rows.start + 2],
    )
    assert opacity[0] > 100
    assert opacity[1] < 60
    box, stage = (page.locator(one).bounding_box() for one in (".box.first", ".stage"))
    left, top = (box["x"] - stage["x"]) * 64 / stage["width"], (box["y"] - stage["y"]) * 48 / stage["height"]
    right, bottom = left + box["width"] * 64 / stage["width"], top + box["height"] * 48 / stage["height"]
    assert left < columns.start + 2 < right and top < rows.start + 2 < bottom


def test_map_and_boxes_by_key_and_slider(visit, station):
    page = visit(station)
    select(page, "first 5.png")
    page.wait_for_selector(".map[src]")
    page.keyboard.press("o")
    assert not page.is_visible(".map")
    page.keyboard.press("o")
    assert page.is_visible(".map")
    page.eval_on_selector(".tools input", "(e) => { e.value = 0.25; e.dispatchEvent(new Event('input')) }")
    assert page.eval_on_selector(".map", "(e) => e.style.opacity") == "0.25"
    page.keyboard.press("b")
    assert not page.is_visible(".box.first")
    page.keyboard.press("z")
    assert page.get_attribute(".zoom", "aria-pressed") == "true"


def test_results_of_others_appear_on_the_strip_by_themselves(visit, station):
    page = visit(station)
    reply = station.score(plates(1, 20, depth=110)[0], HOSTILE)
    page.wait_for_selector(".dot.is-anomalous[aria-label*='onerror']")
    wait_for_verdict(page, "Anomalous", HOSTILE)  # as text: else the browser would complain
    assert "No picture: this image is not kept" in page.text_content(".picture-note")
    page.wait_for_selector(f".regions li:has-text('{reply['images'][0]['regions'][0]['reason'][:20]}')")
    page.uncheck("text=Follow")
    station.score(plates(1, 21)[0], "later.png")
    page.wait_for_selector(".dot[aria-label^='later.png']")
    assert verdict_of(page) == ("Anomalous", HOSTILE)
    station.score(plates(1, 22)[0], "of the other.png", model="weak")
    station.score(plates(1, 23)[0], "last.png")
    page.wait_for_selector(".dot[aria-label^='last.png']")
    assert page.locator(".dot[aria-label^='of the other']").count() == 0


def test_the_strip_by_keyboard(visit, station):
    page = visit(station)
    page.wait_for_selector(".dot")
    assert page.locator(".dot[tabindex='0']").count() == 1
    page.focus(".dot[tabindex='0']")
    labels = page.eval_on_selector_all(".dot", "(dots) => dots.map((dot) => dot.getAttribute('aria-label'))")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == labels[-2]
    assert page.get_attribute(".dot[tabindex='0']", "aria-pressed") == "true"
    page.keyboard.press("Shift+ArrowLeft")
    chosen = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert chosen == [label for label in labels[:-2] if ": Normal" not in label][-1]


def test_a_busy_server_is_waited_for(visit, station, folder):
    page = visit(station)
    times = []

    def answer(route):
        times.append(time.monotonic())
        if len(times) == 1:
            busy = json.dumps({"error": "busy"})
            route.fulfill(status=429, headers={"Retry-After": "1"}, content_type="application/json", body=busy)
        else:
            route.continue_()

    page.route("**/v1/score*", answer)
    page.set_input_files("input[type=file] >> nth=0", str(folder / "good 03.png"))
    page.wait_for_selector(".upload-words:has-text('the server is busy')")
    wait_for_verdict(page, "Normal", "good 03.png")
    assert len(times) == 2 and times[1] - times[0] >= 0.95


def test_what_a_dead_server_did_not_get_is_said_and_sent_again(visit, run_folder, tmp_path):
    """No verdict of the image before stands beside it; once the server is back, the same files go there."""
    served = Station(f"plates={run_folder}", "--store", tmp_path / "store")
    port = urllib.parse.urlsplit(served.address).port
    try:
        served.score(plates(1, 3, depth=110)[0], "before.png", keep="true")
        page = visit(served, allowed=("ERR_",))
        wait_for_verdict(page, "Anomalous", "before.png")
        served.stop()
        for name, image in (("new 0.png", plates(1, 80)[0]), ("new 1.png", plates(1, 81)[0])):
            (tmp_path / name).write_bytes(png(image))
        page.set_input_files("input[type=file] >> nth=0", str(tmp_path / "new 0.png"))
        page.wait_for_selector(".upload-words:has-text('1 not sent: the server does not answer')")
        assert "not usable" not in page.text_content(".upload-words")
        assert verdict_of(page) == ("Not sent", "new 0.png")
        assert page.locator(".panel .gauge-box").count() == 0 and not page.is_visible(".stage")
        page.set_input_files("input[type=file] >> nth=0", str(tmp_path / "new 1.png"))
        wait_for_verdict(page, "Not sent", "2 images")
        page.click(".panel button:has-text('Send again')")  # it is still down
        wait_for_verdict(page, "Not sent", "2 images")
        page.wait_for_selector(".upload-words:has-text('2 not sent')")
        served = Station(f"plates={run_folder}", "--store", tmp_path / "store", "--port", port)
        page.click(".upload button:has-text('Send again')")
        page.wait_for_selector(".panel .file:has-text('new ')")
        page.wait_for_selector(".upload-words:text-matches('^2 images: (?!.*not sent)')")
        wait_for_picture(page)
        assert {row["name"] for row in served.get("/v1/history")["rows"]} == {"before.png", "new 0.png", "new 1.png"}
        assert not page.is_visible(".upload button:has-text('Send again')")
    finally:
        served.stop()


def test_files_that_are_no_images_are_counted(visit, station, folder):
    page = visit(station)
    page.set_input_files("input[type=file] >> nth=0", [str(folder / "good 04.png"), str(folder / "notes.txt")])
    page.wait_for_selector(".upload-words:has-text('1 file is no image')")
    assert page.text_content(".upload-words").startswith("1 image: ")


def test_no_newer_called_image_is_said(visit, station):
    station.score(plates(1, 24, depth=110)[0], "newest called.png")
    page = visit(station)
    wait_for_verdict(page, "Anomalous", "newest called.png")
    page.click("text=Next called")
    page.wait_for_selector(".toast:has-text('No newer called image')")


def test_an_upload_is_paused_and_cancelled(visit, station, tmp_path):
    page = visit(station)
    for i, image in enumerate(plates(100, 30)):
        (tmp_path / f"many {i:03}.png").write_bytes(png(image))
    held = []
    page.route("**/v1/score*", lambda route: held.append(route))  # noqa: PLW0108  (playwright marks its handlers)
    page.set_input_files("input[type=file] >> nth=0", sorted(map(str, tmp_path.iterdir())))
    page.wait_for_selector(".upload-words:has-text('0 of 100 images')")
    page.wait_for_timeout(300)
    assert len(held) == 2  # two requests of 32; the others wait
    assert held[0].request.post_data_buffer.count(b'filename="many') == 32
    page.click("text=Pause")
    held[0].continue_()
    page.wait_for_selector(".upload-words:has-text('32 of 100 images · paused')")
    assert len(held) == 2
    page.click("text=Go on")
    page.wait_for_timeout(300)
    assert len(held) == 3
    page.click("text=Cancel")
    page.wait_for_selector(".upload-words:has-text('32 images:')")


def test_the_camera_is_captured_by_key_and_by_time(visit, station):
    page = visit(station, permissions=["camera"])
    page.click("text=Camera")
    page.wait_for_function("() => document.querySelector('video')?.videoWidth > 0")
    page.focus("main")
    page.keyboard.press("Space")
    page.wait_for_selector(".panel .file:has-text('camera 20')")
    first = page.text_content(".panel .file")
    page.fill(".camera input[type=number]", "0.2")
    page.check(".camera input[type=checkbox]")
    page.wait_for_function("(name) => document.querySelector('.panel .file').textContent !== name", arg=first)
    page.click("[aria-label='Camera off']")
    assert not page.is_visible("video")


def test_ten_thousand_rows_without_stutter(visit, station):
    page = visit(station, "history")
    page.wait_for_selector(".space .row")
    page.select_option("[aria-label=Verdict]", "normal")
    page.fill("[type=search]", "old")
    page.wait_for_function("() => document.querySelector('.found').textContent === '11,800 images'")
    page.wait_for_function("() => document.querySelector('.table').scrollHeight > 400000")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # whatever else this machine does

    def busy():
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return sum(metrics[name] for name in ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration"))

    page.eval_on_selector(".table", "(table) => { table.scrollTop = table.scrollHeight }")
    page.wait_for_selector(".space .row:has-text('old 00001.png')")  # every page until there was loaded
    before, jumps = busy(), 60
    page.evaluate(
        """async (jumps) => {
             const table = document.querySelector('.table');
             for (let i = 0; i < jumps; i += 1) {
               table.scrollTop = (table.scrollHeight * ((i * 37) % jumps)) / jumps;
               await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
             }
        }""",
        jumps,
    )
    assert (busy() - before) / jumps < 0.016  # a frame; every jump draws a screenful anew
    assert page.locator(".space .row").count() < 60
    rows = page.eval_on_selector_all(".space .row", "(rows) => rows.map((row) => [row.dataset.index, row.textContent])")
    assert all("old" in text for _, text in rows)
    page.focus(".table")
    page.keyboard.press("End")
    page.wait_for_selector(".space .row[aria-selected=true]:has-text('old 00000.png')")
    assert page.get_attribute(".table", "aria-rowcount") == "11801"


def test_filters_find_what_the_history_finds(visit, station):
    page = visit(station, "history")
    page.wait_for_selector(".space .row")
    asked = {"[aria-label=Model]": "old", "[aria-label=Verdict]": "can't tell", "[aria-label=Mark]": "unmarked"}
    for field, value in asked.items():
        page.select_option(field, value)
    total = station.get("/v1/history?model=old&verdict=can%27t%20tell&mark=unmarked")["total"]
    page.wait_for_function("(n) => document.querySelector('.found').textContent === n", arg=f"{total} images")
    page.wait_for_selector(".space .c-verdict")  # rows are drawn a frame later
    assert set(page.locator(".space .c-verdict").all_text_contents()) == {"Can't tell"}
    page.select_option("[aria-label=Time]", "1")
    page.wait_for_function("() => document.querySelector('.found').textContent.startsWith('No image')")
    page.select_option("[aria-label=Time]", "own")
    page.fill("[aria-label=From]", f"{START:%Y-%m-%dT%H:%M}")
    page.fill("[aria-label=To]", f"{START + timedelta(hours=1):%Y-%m-%dT%H:%M}")
    page.wait_for_function("() => document.querySelector('.found').textContent === '30 images'")  # 3,600 s, every 120th
    link = page.get_attribute("a[download]", "href")
    with urllib.request.urlopen(station.address + link) as reply:
        assert len(reply.read().decode().splitlines()) == 31


def test_a_row_opens_by_enter_and_is_marked_there(visit, station):
    station.score(plates(1, 40)[0], "looked at.png", keep="true")
    page = visit(station, "history")
    page.fill("[type=search]", "looked at")
    page.wait_for_function("() => document.querySelector('.found').textContent === '1 image'")
    page.focus(".table")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.viewer .stage:not([hidden])")
    page.keyboard.press("f")
    page.wait_for_selector(".viewer .toast:has-text('F says')")  # it was not called: F is none of its marks
    page.keyboard.press("m")
    page.wait_for_selector(".viewer .marked:has-text('Missed')")
    page.click(".viewer .toast button:has-text('Undo')")  # a message can be pressed while the dialog is open
    page.wait_for_selector(".viewer .toast:has-text('no mark')")
    page.keyboard.press("m")
    page.wait_for_selector(".viewer .marked:has-text('Missed')")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.viewer", state="detached")
    assert page.evaluate("document.activeElement.className").startswith("table")
    assert "Missed" in page.text_content(".space .row")


def test_what_cannot_be_told_is_reviewed_one_after_another(visit, station):
    for i, image in enumerate(plates(3, 50)):
        station.score(image, f"unsure {i}.png", keep="true", review_alpha=0.999)
    page = visit(station, "review")
    page.wait_for_selector(".review-list button")
    n = int(page.text_content(".list-card p").split()[0].replace(",", ""))
    wait_for_verdict(page, "Can't tell", "unsure 2.png")
    page.wait_for_function("(n) => document.querySelector('.badge-count').textContent === n", arg=str(n))
    page.keyboard.press("c")
    wait_for_verdict(page, "Can't tell", "unsure 1.png")
    page.click(".panel .mark:has-text('Good')")
    wait_for_verdict(page, "Can't tell", "unsure 0.png")
    page.wait_for_selector(f".list-card p:has-text('{n - 2} image')")
    page.keyboard.press("u")
    wait_for_verdict(page, "Can't tell", "unsure 1.png")
    rows = station.get("/v1/history?text=unsure")["rows"]
    assert [(row["name"], row["mark"]) for row in rows] == [
        ("unsure 2.png", "confirmed"), ("unsure 1.png", None), ("unsure 0.png", None)
    ]  # fmt: skip


def test_what_to_do_for_a_picture_stands_before_the_marks(visit, station):
    station.score(plates(1, 55)[0], "not kept.png", review_alpha=0.999)
    page = visit(station, "review")
    wait_for_verdict(page, "Can't tell", "not kept.png")
    page.wait_for_selector(".no-picture:has-text('programs send keep=true') + .marks button:has-text('Good')")


def test_alpha_is_tried_on_the_last_images_and_used_in_this_browser(visit, station, detector):
    page = visit(station, "threshold")
    page.wait_for_selector(".effect .counts-row")
    page.fill("[aria-label='Alpha, typed']", "0.3")
    page.press("[aria-label='Alpha, typed']", "Tab")
    page.wait_for_selector(".counts-row:has-text('Alpha 0.3')")
    counts = station.get("/v1/models/plates/alpha?alpha=0.3&review_alpha=0.3&last=500")
    figures = page.text_content(".counts-row:has-text('Alpha 0.3') .counts-figures")
    assert f"{counts['after']['anomalous']} anomalous" in figures and f"{counts['after']['normal']} normal" in figures
    rows = [row for row in station.get("/v1/history?model=plates&limit=500")["rows"] if row["verdict"]]
    scores = np.array([row["anomaly_score"] for row in rows])
    now, then = (detector.with_alpha(alpha).calibration.threshold for alpha in (0.02, 0.3))
    n = int(((scores > now) != (scores > then)).sum())
    assert page.text_content(".effect summary").startswith(f"{n} images of the newest")
    page.click("text=Use in this browser")
    page.wait_for_selector("text=This browser uses alpha 0.3")
    page.reload()
    page.wait_for_selector("text=This browser uses alpha 0.3")
    go(page, "inspect")
    with page.expect_request("**/v1/score*") as sent:
        files = {"name": "own alpha.png", "mimeType": "image/png", "buffer": png(plates(1, 60)[0])}
        page.set_input_files("input[type=file] >> nth=0", files)
    assert "alpha=0.3&review_alpha=0.3" in sent.value.url
    page.wait_for_selector(".panel .file:has-text('own alpha.png')")


def test_drift_has_the_monitors_figures(visit, station):
    page = visit(station, "drift")
    page.wait_for_selector(".charts .chart")
    found = station.get("/v1/models/plates/drift?window=100&last=5000")["windows"]
    page.click("text=Figures of")
    cells = page.eval_on_selector_all(
        "tbody tr", "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert [(row[3], row[4]) for row in cells] == [
        (str(one["n_images"]), f"{one['mean_p_value']:.2f}") for one in found
    ]


def test_models_show_curves_report_and_what_is_wrong_with_them(visit, station, run_folder):
    page = visit(station, "models")
    card = page.locator(".model[aria-label=plates]")
    card.locator("summary:has-text('Curves')").click()
    card.locator(".curves .chart").first.wait_for()
    names = (run_folder / "history.csv").read_text().splitlines()[0].split(",")
    assert set(card.locator("figcaption").all_text_contents()) <= set(names)
    assert not page.is_visible("#banner")
    page.select_option("#model", "weak")
    page.wait_for_selector("#banner:has-text('useless by its health check')")
    page.locator(".model[aria-label=weak] summary:has-text('Report')").click()
    frame = page.locator("iframe.report")
    assert frame.get_attribute("sandbox") == "allow-scripts"
    page.frame_locator("iframe.report").locator("h1").wait_for()
    for view in VIEWS:
        go(page, view)
        assert page.is_visible("#banner")
    page.reload()
    page.wait_for_selector("#banner:has-text('useless by its health check')")


def test_a_token_is_asked_for_once(visit, run_folder, tmp_path):
    guarded = Station(run_folder, "--store", tmp_path / "store", token=TOKEN)
    try:
        page = visit(guarded, allowed=["401"], wait="#token")
        page.fill("#token", "another-token-of-some-length")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-error:has-text('not this station')")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog.login", state="detached")
        page.wait_for_selector(".light.on")
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)").find(TOKEN) < 0
        files = {"name": "inside.png", "mimeType": "image/png", "buffer": png(plates(1, 70)[0])}
        page.set_input_files("input[type=file] >> nth=0", files)
        page.wait_for_selector(".panel .file:has-text('inside.png')")
        page.reload()
        page.wait_for_selector(".dot")
        assert page.locator("dialog.login").count() == 0
        page.click("text=Sign out")
        page.wait_for_selector("#token")
    finally:
        guarded.stop()


def test_views_and_help_by_keyboard_alone(visit, station):
    page = visit(station)
    page.wait_for_selector(".dot")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "view"
    for i, view in enumerate(VIEWS):
        page.keyboard.press(str(i + 1))
        page.wait_for_selector(f"body[data-view={view}]")
        assert page.get_attribute(f"[data-name={view}][aria-current]", "aria-current") == "page"
    page.keyboard.press("?")
    page.wait_for_selector("dialog.keys-list")
    page.keyboard.press("1")  # no view changes behind a dialog
    assert page.evaluate("document.body.dataset.view") == VIEWS[-1]
    page.uncheck("text=Single letters and figures are keys")
    page.keyboard.press("Escape")
    page.focus("main")
    page.keyboard.press("1")
    assert page.evaluate("document.body.dataset.view") == VIEWS[-1]


def test_nothing_is_wider_than_a_phone(visit, station):
    page = visit(station, viewport={"width": 360, "height": 740}, has_touch=True)
    page.wait_for_selector(".dot >> nth=-1")
    for view in VIEWS:
        go(page, view)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        nav = page.locator(".nav").bounding_box()
        assert nav["y"] + nav["height"] == pytest.approx(740, abs=1)
    go(page, "inspect")
    page.wait_for_selector(".dot >> nth=-1")
    label, dots = (page.locator(one).bounding_box() for one in (".alarm:not(.review-line) span", ".dots"))
    assert label["y"] + label["height"] <= dots["y"] + 1  # no mark is printed over it


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """axe-core's source, by npm."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed; axe-core comes through it")
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(
        ["npm", "pack", "axe-core@4", "--silent"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    if packed.returncode:
        pytest.skip(f"npm cannot get axe-core: {packed.stderr.strip()[:200]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def test_axe_finds_no_violation(visit, station, axe):
    """On every view, a proposal and an open image; light and dark, desk and phone."""
    page = visit(station)
    page.wait_for_selector(".dot")
    page.evaluate(axe)
    states = [(view, lambda: None) for view in VIEWS]
    states += [
        ("threshold", lambda: (page.click("text=Show what would change"), page.wait_for_selector(".proposal .figure"))),
        (
            "history",
            lambda: (page.wait_for_selector(".space .row"), page.focus(".table"), page.keyboard.press("Enter")),
        ),
    ]
    for view, act in states:
        go(page, view)
        act()
        page.wait_for_timeout(300)
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 360)):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.set_viewport_size({"width": width, "height": 800})
            found = page.evaluate("axe.run(document, { iframes: false })")
            said = [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found["violations"]]
            assert said == [], (view, scheme, width)
            assert found["passes"]


def test_files_are_sent_with_an_etag_and_a_strict_policy(station):
    def ask(path, **headers):
        request = urllib.request.Request(station.address + path, headers=headers)
        try:
            with urllib.request.urlopen(request) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    status, headers, body = ask("/")
    assert status == 200 and b"<main" in body and headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert ask("/", **{"If-None-Match": headers["ETag"]})[0] == 304
    assert ask("/", **{"If-None-Match": f'"another", W/{headers["ETag"]}'})[0] == 304
    assert ask("/", **{"If-None-Match": '"another"'})[0] == 200
    status, headers, _ = ask("/page/views/inspect.js")
    assert status == 200 and headers["Content-Type"] == "text/javascript; charset=utf-8"
    for path in (
        "/page/",
        "/page/none.js",
        "/page/views",
        "/page/%2e%2e/page.py",
        "/page/..%2f..%2fapp.py",
        "/page/%00",
    ):
        assert ask(path)[0] in (400, 404), path


def test_the_page_has_nothing_that_its_policy_forbids():
    """No inline script, style or event, no markup made from text, no address of anywhere else."""
    files = [path for path in (Path(alocc.__file__).parent / "serving" / "page").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", text), path
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        if path.suffix == ".html":
            assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]*src=)|<style", text)
        if path.suffix == ".js":
            assert text.startswith("// "), path
