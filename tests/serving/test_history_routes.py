"""The history, marks and recalibration over HTTP, with a detector that scores: what a page or a program sees."""

import asyncio
import base64
import csv
import io
import json
import re
import shutil
import socket
import threading
import time
from contextlib import closing
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.config import preset, with_settings
from alocc.detector import Detector
from alocc.errors import DataError, RefusedError

pytest.importorskip("fastapi", reason="FastAPI is not installed; pip install '.[serve]'")

import httpx
import uvicorn

from alocc.serving import judging
from alocc.serving import models as serving_models
from alocc.serving.app import create_app
from alocc.serving.history import FALSE_ALARM, History, new_id
from alocc.serving.images import Upload
from alocc.serving.judging import Options
from alocc.serving.logs import Log
from alocc.serving.models import Models
from alocc.serving.readiness import Readiness
from alocc.serving.routes import models as routes
from alocc.serving.server import open_station
from alocc.serving.settings import Settings

SIDE = 16


def discs(n, seed, *, spot=False):
    """Grey discs near the middle; some with a bright spot on them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    centres = rng.uniform(-1, 1, (n, 2)) + SIDE / 2
    inside = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2 < 25
    images = (inside * 120 + rng.normal(60, 6, (n, SIDE, SIDE))).clip(0, 255).astype(np.uint8)
    if spot:
        images[:, 6:10, 6:10] = 255
    return images


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "discs"
    config = with_settings(preset("robust"), ["networks.width=4", "training.batch_size=16"])
    alocc.train(discs(100, 0), config=config, iterations=8, out=folder)
    return folder


@pytest.fixture
def station(run_folder, tmp_path):
    return open_station(Settings(models={"discs": run_folder}, store=tmp_path / "store", review_alpha=0.2), Log(None))


@pytest.fixture
def client(station):
    """A client of a server that answers in another thread."""
    server = uvicorn.Server(uvicorn.Config(create_app(station), log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            yield client
        server.should_exit = True  # the application closes the station
        thread.join()


def score(client, images, prefix="part", **options):
    """The replies on some images."""
    body = [
        {"name": f"{prefix} {i}.png", "data": base64.b64encode(png(image)).decode()} for i, image in enumerate(images)
    ]
    options = {"keep": True, "source": "page"} | options
    reply = client.post("/v1/score", json={"images": body, **options})
    assert reply.status_code == 200, reply.text
    assert client.get("/v1/history", params={"limit": 1}).status_code == 200  # waits until they are written
    return reply.json()["images"]


def get(client, address, status=200, **query):
    reply = client.get(address, params=query)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_what_was_scored_is_in_the_history_at_once(client):
    given = score(client, discs(5, 1)) + score(client, discs(1, 2, spot=True), "spot", alpha=0.05)
    page = get(client, "/v1/history")
    assert (page["total"], page["next"]) == (6, None)
    assert [row["id"] for row in page["rows"]] == [one["id"] for one in reversed(given)]
    for one, row in zip(given, reversed(page["rows"]), strict=True):
        for column in ("name", "verdict", "anomaly_score", "p_value", "width", "height", "error"):
            assert row[column] == one[column]
        assert row["regions"] == one["regions"]
        assert (row["model"], row["source"], row["kept"], row["calibration"]) == ("discs", "page", True, 0)
    newest = page["rows"][0]
    assert (newest["verdict"], newest["alpha"], len(newest["regions"]) > 0) == ("anomalous", 0.05, True)
    entry = get(client, f"/v1/history/{newest['id']}")
    assert entry == {"image": newest, "marks": []}


def test_pages_and_filters(client):
    score(client, discs(5, 1), "Disc")
    score(client, discs(2, 2, spot=True), "spot")
    first = get(client, "/v1/history", limit=4)
    second = get(client, "/v1/history", limit=4, before=first["next"])
    assert [row["name"] for row in first["rows"] + second["rows"]] == [
        "spot 1.png", "spot 0.png", *(f"Disc {i}.png" for i in reversed(range(5)))
    ]  # fmt: skip
    assert second["next"] is None
    assert get(client, "/v1/history", text="DISC")["total"] == 5
    assert get(client, "/v1/history", verdict="anomalous", text="spot")["total"] == 2
    assert get(client, "/v1/history", until="2020-01-01T00:00:00")["total"] == 0
    assert get(client, "/v1/history", since="2020-01-01T00:00:00+14:00")["total"] == 7
    for wrong in (
        {"limit": 0},
        {"limit": 5000},
        {"verdict": "x"},
        {"since": "x"},
        {"before": "x"},
        {"text": "x" * 300},
    ):
        assert "\n" not in get(client, "/v1/history", 422, **wrong)["error"]
    assert get(client, "/v1/history/nothing", 404)["error"] == 'the history has no image "nothing"'


def test_a_mark_is_set_undone_and_remembered(client):
    one = score(client, discs(1, 2, spot=True))[0]
    address = f"/v1/history/{one['id']}/mark"
    assert client.put(address, json={"mark": "false alarm", "comment": "dust"}).json()["mark"] == "false alarm"
    assert get(client, "/v1/history", mark="false alarm")["total"] == 1
    assert client.post("/v1/marks/undo").json()["image"]["mark"] is None
    assert client.post("/v1/marks/undo").json() == {"image": None}
    entry = get(client, f"/v1/history/{one['id']}")
    assert [(event["mark"], event["comment"], event["undone"] is None) for event in entry["marks"]] == [
        ("false alarm", "dust", False)
    ]
    assert client.put(address, json={"mark": "missed"}).status_code == 422
    assert client.put(address, json={"mark": "nonsense"}).status_code == 422
    assert client.put(address, json={"mark": None}).status_code == 200
    assert client.put("/v1/history/nothing/mark", json={"mark": "missed"}).status_code == 404


def test_a_mark_that_is_not_sent_as_json_is_told_how(client):
    [one] = score(client, discs(1, 1))
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl sends
    reply = client.put(f"/v1/history/{one['id']}/mark", content='{"mark": "missed"}', headers=form)
    assert reply.status_code == 422 and "sent as Content-Type: application/json" in reply.json()["error"]


def test_a_mark_is_taken_back_by_its_event(client):
    one, other = score(client, discs(2, 2, spot=True))
    mine = client.put(f"/v1/history/{one['id']}/mark", json={"mark": "false alarm"}).json()["event"]
    client.put(f"/v1/history/{other['id']}/mark", json={"mark": "confirmed"})
    assert get(client, f"/v1/history/{one['id']}")["marks"][0]["number"] == mine
    back = client.post("/v1/marks/undo", json={"event": mine}).json()["image"]
    assert (back["id"], back["mark"]) == (one["id"], None)
    again = client.post("/v1/marks/undo", json={"event": mine})
    assert again.status_code == 409 and "\n" not in again.json()["error"]
    assert client.post("/v1/marks/undo", json={"event": 10**6}).status_code == 404
    assert client.post("/v1/marks/undo", json={"event": "x"}).status_code == 422
    assert client.post("/v1/marks/undo", json={"event": None}).json()["image"]["id"] == other["id"]


def test_pictures_are_made_anew_upright_and_gone_when_they_are_not_kept(client, station):
    sideways = Image.fromarray(np.tile(discs(1, 2, spot=True)[0], (2, 2))[:, :20])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it upright
    file = io.BytesIO()
    sideways.save(file, "JPEG", exif=exif, quality=95)
    reply = client.post(
        "/v1/score", params={"keep": "true"}, content=file.getvalue(), headers={"content-type": "image/jpeg"}
    )
    one = reply.json()["images"][0]
    assert (one["width"], one["height"]) == (32, 20)
    shown = client.get(f"/v1/history/{one['id']}/image")
    assert shown.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(shown.content))
    assert (picture.size, picture.mode) == ((32, 20), "RGB")
    assert b"Exif" not in shown.content
    expected = np.rot90(np.asarray(Image.open(io.BytesIO(file.getvalue()))), -1)
    np.testing.assert_array_equal(np.asarray(picture)[..., 0], expected)
    over = Image.open(io.BytesIO(client.get(f"/v1/history/{one['id']}/map").content))
    assert (over.size, over.mode) == ((32, 20), "RGBA")
    station.kept.prune(station.history, station.history.get(one["id"]).time, 0)
    for kind in ("image", "map"):
        assert get(client, f"/v1/history/{one['id']}/{kind}", 410)["error"] == "this image is not kept"
    unkept = score(client, discs(1, 1), keep=False)[0]
    assert get(client, f"/v1/history/{unkept['id']}/image", 410)["error"] == "this image is not kept"


@pytest.mark.parametrize(
    ("keep", "kept"), [("page", [False, False, True]), ("suspects", [False, True, True]), ("all", [True, True, True])]
)
def test_where_a_client_does_not_say_the_server_decides_which_images_are_kept(client, station, keep, kept):
    station.settings = station.settings.model_copy(update={"keep": keep})
    good, bad = discs(1, 1), discs(1, 2, spot=True)
    asked = [(good, {"source": "api"}), (bad, {"source": "api"}), (good, {"source": "page"})]
    given = [score(client, image, keep=None, alpha=0.05, **options)[0] for image, options in asked]
    assert [one["verdict"] for one in given] == ["normal", "anomalous", "normal"]
    assert [get(client, f"/v1/history/{one['id']}")["image"]["kept"] for one in given] == kept
    told = [score(client, bad, keep=told, source="api")[0] for told in (False, True)]
    assert [get(client, f"/v1/history/{one['id']}")["image"]["kept"] for one in told] == [False, True]


def test_the_map_is_that_of_the_scoring(client):
    image = discs(1, 2, spot=True)
    one = score(client, image, map=True)[0]
    again = Image.open(io.BytesIO(client.get(f"/v1/history/{one['id']}/map").content))
    then = Image.open(io.BytesIO(base64.b64decode(one["map"]))).resize(again.size, Image.Resampling.BILINEAR)
    assert again.size == (SIDE, SIDE)
    assert np.abs(np.asarray(again, np.int16) - np.asarray(then, np.int16)).max() <= 2


def test_the_map_of_a_model_that_was_replaced_is_gone(client, station, image_row):
    one = score(client, discs(1, 2, spot=True))[0]
    row = station.history.get(one["id"])
    other = image_row(model="discs", version="another file", sha256=row.sha256, kept=True)
    station.history.add([other])
    assert "no longer used" in get(client, f"/v1/history/{other.id}/map", 410)["error"]
    assert client.get(f"/v1/history/{other.id}/image").status_code == 200


def test_exports_hold_everything_and_no_formula(client, station, image_row):
    score(client, discs(1, 2, spot=True), "=HYPERLINK(1)")
    score(client, discs(2, 1), '"quoted", ä')
    station.history.add([image_row(5, name="\r=1", verdict=None, error="-1 bytes", model="discs")])
    lines = [json.loads(line) for line in client.get("/v1/history.jsonl").text.splitlines()]
    assert [line["name"] for line in lines] == ["\r=1", '"quoted", ä 1.png', '"quoted", ä 0.png', "=HYPERLINK(1) 0.png"]
    for line, row in zip(lines, get(client, "/v1/history")["rows"], strict=True):
        assert datetime.fromisoformat(line.pop("time")) == datetime.fromisoformat(row.pop("time"))
        assert line == row
    reply = client.get("/v1/history.csv")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    assert reply.headers["content-disposition"] == "attachment"
    rows = list(csv.DictReader(io.StringIO(reply.text, newline="")))
    assert [row["name"] for row in rows] == [
        "./\r=1",
        '"quoted", ä 1.png',
        '"quoted", ä 0.png',
        "./=HYPERLINK(1) 0.png",
    ]
    assert rows[0]["error"] == "./-1 bytes"
    assert rows[0]["kept"] == "false"
    assert float(rows[3]["anomaly_score"]) == lines[3]["anomaly_score"]
    assert [int(rows[3][f"box_{side}"]) for side in ("left", "top", "right", "bottom")] == list(
        lines[3]["regions"][0]["box"].values()
    )
    assert rows[1]["box_left"] == ""
    only = client.get("/v1/history.csv", params={"verdict": "anomalous"}).text
    assert len(list(csv.DictReader(io.StringIO(only, newline="")))) == 1


def test_marks_become_a_calibration_that_can_be_taken_back(client, station):
    model = "/v1/models/discs"
    own = get(client, f"{model}/calibrations")
    assert [(one["number"], one["active"]) for one in own] == [(0, True)]
    good = score(client, discs(40, 3), "good")
    called = score(client, discs(3, 4, spot=True), "called")
    assert [one["verdict"] for one in called] == ["anomalous"] * 3
    for one in called[:2]:  # these spots are nothing bad, it turns out
        client.put(f"/v1/history/{one['id']}/mark", json={"mark": "false alarm"})
    client.put(f"/v1/history/{called[2]['id']}/mark", json={"mark": "confirmed"})
    before = get(client, f"{model}/precision")
    assert (before["n_confirmed"], before["n_false_alarms"]) == (1, 2)
    assert before["value"] == pytest.approx(1 / 3)
    assert (before["low"], before["high"]) == pytest.approx((0.0084, 0.9057), abs=1e-4)  # of 1 in 3, published tables
    n_called = sum(one["verdict"] == "anomalous" for one in good)

    shown = get(client, f"{model}/recalibration", basis="added")
    assert (shown["n_images"], shown["n_false_alarms"], shown["n_left_out"]) == (43, 2, n_called)
    assert shown["n_normals"] == 42 - n_called
    assert shown["n_held_out"] == own[0]["n_held_out"] + shown["n_normals"]
    assert sum(one["n"] for one in shown["verdicts"]) == 43
    assert shown["threshold"] > shown["threshold_before"] == own[0]["threshold"]
    asked = {"basis": "added", "digest": shown["digest"]}
    score(client, discs(1, 9), "meanwhile")
    used = client.post(f"{model}/recalibration", json=asked).json()
    assert (used["number"], used["active"], used["threshold"]) == (1, True, shown["threshold"])
    assert client.post(f"{model}/recalibration", json=asked).status_code == 409
    again = score(client, discs(1, 4, spot=True), "again")[0]
    row = station.history.get(again["id"])
    assert row.calibration == 1
    assert row.p_value == station.calibrations.current(station.models.get("discs"))[1].p_values(row.anomaly_score)
    assert row.p_value > station.history.get(called[0]["id"]).p_value  # two good images are as unusual now

    back = client.post(f"{model}/calibrations/0/activate").json()
    assert [(one["number"], one["active"]) for one in back] == [(1, False), (0, True)]
    assert score(client, discs(1, 4, spot=True), "back")[0]["p_value"] == called[0]["p_value"]
    assert client.post(f"{model}/calibrations/7/activate").status_code == 422


def test_other_alphas_and_drift(client):
    score(client, discs(60, 5))
    counts = get(client, "/v1/models/discs/alpha", alpha=0.5, review_alpha=0.9)
    assert counts["n_images"] == 60
    assert sum(counts["before"].values()) == sum(counts["after"].values()) == 60
    assert counts["after"]["anomalous"] >= counts["before"]["anomalous"]
    assert counts["threshold_after"] < counts["threshold_before"]
    drift = get(client, "/v1/models/discs/drift", window=20)
    assert [window["n_images"] for window in drift["windows"]] == [20, 20, 20]
    assert drift["windows"][0]["first"] <= drift["windows"][2]["last"]


def test_a_model_that_nobody_used_or_knows(client):
    assert get(client, "/v1/models/discs/precision")["value"] is None
    assert get(client, "/v1/models/discs/drift")["verdict"].startswith("0 images are too few")
    assert get(client, "/v1/models/discs/alpha")["n_images"] == 0
    assert "0 of the images" in get(client, "/v1/models/discs/recalibration", 422)["error"]
    for what in ("precision", "drift", "alpha", "recalibration", "calibrations"):
        assert get(client, f"/v1/models/nuts/{what}", 404)["error"].startswith("there is no model")
    for wrong in ({"alpha": 1}, {"alpha": "nan"}, {"last": 0}, {"basis": "x"}):
        get(client, "/v1/models/discs/recalibration", 422, **wrong)


def test_a_database_that_is_gone_is_said_without_where_it_was(client, station, monkeypatch):
    monkeypatch.setattr(
        station.history, "_engine", type(station.history)("postgresql://u:secret@/x?host=/nowhere")._engine
    )
    reply = client.get("/v1/history")
    assert reply.status_code == 503
    assert reply.json()["error"].startswith("the history's database does not answer")
    assert "nowhere" not in reply.text
    monkeypatch.undo()


def test_marks_are_named_alike_everywhere():
    assert FALSE_ALARM in json.dumps(create_schema())


def create_schema():
    from fastapi import FastAPI

    from alocc.serving.routes import history, recalibration

    app = FastAPI()
    app.include_router(history.router)
    app.include_router(recalibration.router)
    return app.openapi()


# what nobody waits for


@pytest.fixture
def idle(station):
    """A station that no server has."""
    yield station
    station.close()


def test_an_image_of_few_bytes_and_many_pixels_is_not_decoded_by_the_thread_of_the_engine(idle, monkeypatch):
    threads = {}

    def decoded(upload, *_):
        threads[upload.name] = threading.current_thread().name
        raise DataError("seen")

    monkeypatch.setattr(judging, "decode", decoded)
    written = {kind: io.BytesIO() for kind in ("PNG", "WEBP", "TIFF")}
    Image.new("1", (8900, 8900)).save(written["PNG"], "PNG")
    Image.new("L", (4000, 4000)).save(written["WEBP"], "WEBP", lossless=True)
    Image.new("L", (16, 16)).save(written["TIFF"], "TIFF")
    contents = {kind: file.getvalue() for kind, file in written.items()}
    assert all(len(content) <= judging.QUICK for content in contents.values())
    contents |= {"small": png(discs(1, 0)[0]), "none": b"no image"}
    asyncio.run(idle.judge([Upload(*content) for content in contents.items()], Options()))
    of_engine = {name for name, thread in threads.items() if thread == "alocc-engine"}
    assert of_engine == {"small", "none"} and len(threads) == 5


def test_the_database_is_read_before_requests_come(run_folder, tmp_path, monkeypatch):
    where = []
    plain = History.calibrations

    def calibrations(*args):
        where.append(threading.current_thread().name)
        return plain(*args)

    monkeypatch.setattr(History, "calibrations", calibrations)
    shutil.copytree(run_folder, tmp_path / "discs")
    station = open_station(Settings(models={"discs": tmp_path / "discs"}, store=tmp_path / "store"), Log(None))
    with closing(station):
        assert len(where) == 1
        before, file = station.models.get().version, tmp_path / "discs" / "model.safetensors"
        Detector.load(file).with_alpha(0.5).save(file)
        end = time.monotonic() + 20
        while station.models.get().version == before:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert where[1:] == ["alocc-tend"]
        [judged] = asyncio.run(station.judge([Upload("disc", png(discs(1, 0)[0]))], Options()))
        assert judged.row.alpha == 0.5 and len(where) == 2


def test_a_file_that_could_not_be_loaded_is_tried_again(run_folder, tmp_path, monkeypatch):
    shutil.copytree(run_folder, tmp_path / "discs")
    models = Models(Settings(models={"discs": tmp_path / "discs"}))
    before, file = models.get(), tmp_path / "discs" / "model.safetensors"
    Detector.load(file).with_alpha(0.5).save(file)
    failures = []

    def prepare(_):
        raise MemoryError("at 0x7f")

    [line] = models.reload(prepare, failures.append)
    assert models.problem("discs") == "its new file cannot be loaded; the server's log says why"
    assert models.problem("discs") in line and isinstance(failures[0], MemoryError) and models.get() is before
    assert models.reload() == []  # not at once
    monkeypatch.setattr(serving_models, "RETRY", 0.0)
    assert models.reload(prepare, failures.append) == [] and len(failures) == 2  # what was said is not said again
    assert models.reload() == [f"model discs: version {models.get().version} is loaded"]
    assert models.problem("discs") is None and models.get().engine.alpha == 0.5
    assert models.reload() == []


def test_reports_are_those_of_the_run_that_a_file_is_of(run_folder, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(run_folder, run)
    elsewhere.mkdir()
    (elsewhere / "report.html").write_text("of something else")
    model = run / "model.safetensors"
    shutil.copy(model, elsewhere)
    shutil.copy(model, run / "copy.safetensors")
    Detector.load(model).with_alpha(0.5).save(run / "other.safetensors")

    def folder(path):
        return Models(Settings(models={"discs": path})).get().run_folder

    assert [folder(path) for path in (run, model, run / "copy.safetensors")] == [run] * 3
    assert folder(elsewhere) == elsewhere  # named as a run folder
    assert folder(elsewhere / "model.safetensors") is None and folder(run / "other.safetensors") is None
    for digest, expected in ((serving_models.digest(model), run), ("0" * 64, None), (None, None)):
        exported = SimpleNamespace(metadata={"made_from": digest})
        assert serving_models._run_folder(run / "model.onnx", exported) == expected
    store = {"store": tmp_path / "store"}
    station = open_station(Settings(models={"discs": elsewhere / "model.safetensors"}, **store), Log(None))
    with closing(station):
        for route in (routes.report, routes.curves):
            with pytest.raises(RefusedError) as refused:
                asyncio.run(route(station, "discs"))
            assert refused.value.status == 404
        described = asyncio.run(routes.model(station, "discs"))
        assert (described.has_report, described.has_curves) == (False, False)


def test_readiness_is_looked_at_once_for_all_who_ask_within_a_second():
    looks = []

    def look():
        looks.append(None)
        time.sleep(0.05)
        return ["full"]

    async def ask():
        readiness = Readiness(look)
        impatient = asyncio.create_task(readiness.problems())
        await asyncio.sleep(0)
        impatient.cancel()
        found = await asyncio.gather(*(readiness.problems() for _ in range(20)))
        assert found == [["full"]] * 20 and len(looks) == 1
        assert await readiness.problems() == ["full"] and len(looks) == 1
        readiness._until = time.monotonic()
        assert await readiness.problems() == ["full"] and len(looks) == 2

    asyncio.run(ask())


def test_ids_are_one_kind(idle):
    [judged] = asyncio.run(idle.judge([Upload("disc", png(discs(1, 0)[0]))], Options()))
    ids = {judged.row.id, *(new_id() for _ in range(1000))}
    assert len(ids) == 1001 and all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)
    assert judging.new_id is new_id
