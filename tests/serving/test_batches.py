"""Batches in the background: every image once, whatever becomes of the process."""

import csv
import io
import os
import signal
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow.parquet
import pytest
from stations import blobs, encoded, serving, small_detector

import alocc
from alocc.errors import ArtefactError, RefusedError
from alocc.serving import batches as module
from alocc.serving.batches import LIST, ZIP, Batches
from alocc.serving.history import HistoryError, now
from alocc.serving.logs import Log
from alocc.serving.server import open_station
from alocc.serving.settings import Settings
from alocc.serving.station import Options

N = 300
ALPHAS = ("--alpha", "0.1", "--review-alpha", "0.3")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector") / "blobs.safetensors")


@pytest.fixture(scope="module")
def images():
    """Name → file of an image; some are far from normal, one is none."""
    pixels = blobs(N, 5)
    pixels[::7, 4:8, 4:8] = 255
    files = {f"part {i:03}.png": encoded(image) for i, image in enumerate(pixels)}
    files["part 100.png"] = b"no image"
    return files


def packed(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture(scope="module")
def pages(images):
    """Address of a server of these images."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self):
            content = images.get(self.path.partition("?")[0].rpartition("/")[2].replace("%20", " "))
            self.send_response(200 if content else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def station(detector, pages, tmp_path_factory):
    store = tmp_path_factory.mktemp("station") / "store"
    addresses = ("--allow-address", f"{pages}/parts/", "--allow-private")
    with serving(detector, "--store", store, *ALPHAS, *addresses) as station:
        station.store = store
        yield station


@pytest.fixture(scope="module")
def whole(station, images):
    """Id of a batch that ran without interruption."""
    answer = station.http.post("/v1/batches", files={"archive": ("parts.zip", packed(images))})
    assert answer.status_code == 202
    return answer.json()["id"]


def results(station, batch):
    answer = station.http.get(f"/v1/batches/{batch}/results.csv")
    assert answer.status_code == 200
    return list(csv.DictReader(io.StringIO(answer.text)))


def state_of_results(station, batch):
    headers = station.http.get(f"/v1/batches/{batch}/results.csv").headers
    return headers["x-batch-state"], headers["content-disposition"].partition('"')[2].rstrip('"')


def test_every_image_of_a_zip_is_judged_in_its_order_as_the_detector_does(station, whole, images, detector):
    batch = station.finished(whole)
    assert (batch["state"], batch["done"], batch["total"], batch["error"]) == ("done", N, N, None)
    rows = results(station, whole)
    assert [row["path"] for row in rows] == list(images)
    assert [row["path"] for row in rows if row["error"]] == ["part 100.png"]
    usable = [i for i in range(N) if i != 100]
    pixels = blobs(N, 5)
    pixels[::7, 4:8, 4:8] = 255
    scores = alocc.Detector.load(detector).score(pixels[usable])
    given = [float(rows[i]["anomaly_score"]) for i in usable]
    np.testing.assert_allclose(given, scores.anomaly_score, rtol=1e-5, atol=1e-5)
    assert [float(rows[i]["p_value"]) for i in usable] == pytest.approx(scores.p_value.tolist())
    called = [float(row["p_value"]) <= 0.1 for row in rows if not row["error"]]
    assert [row["is_anomaly"] == "true" for row in rows if not row["error"]] == called
    assert {row["verdict"] for row in rows} <= {"normal", "can't tell", "anomalous", ""}
    assert sum(batch["verdicts"].values()) == N
    assert batch["verdicts"]["unusable"] == 1
    assert batch["verdicts"]["anomalous"] == sum(called) > 20
    assert not list((station.store / "uploads").iterdir())


def test_parquet_has_the_same_rows(station, whole):
    station.finished(whole)
    answer = station.http.get(f"/v1/batches/{whole}/results.parquet")
    table = pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pylist()
    rows = results(station, whole)
    assert list(table[0]) == list(rows[0])
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    assert [row["anomaly_score"] for row in table if row["anomaly_score"]] == [
        float(row["anomaly_score"]) for row in rows if row["anomaly_score"]
    ]


def half_done(station, batch, more_than=0, n=N):
    """Wait until a batch is so far, and is not done."""
    end = time.monotonic() + 60
    while (done := station.http.get(f"/v1/batches/{batch}").json()["done"]) <= more_than:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert done < n


def test_a_killed_and_a_stopped_server_go_on_and_every_image_is_there_once_with_the_same_numbers(
    station, whole, images, detector, tmp_path
):
    options = (detector, "--store", tmp_path / "store", *ALPHAS)
    with serving(*options) as killed:
        as_zip = {"Content-Type": "application/zip"}
        sent = killed.http.post("/v1/batches", content=packed(images), headers=as_zip, params={"keep": True})
        batch = sent.json()["id"]
        half_done(killed, batch, 20)
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
    with serving(*options) as stopped:
        half_done(stopped, batch, 20)
        started = time.monotonic()
        stopped.process.send_signal(signal.SIGTERM)
        stopped.process.wait(20)
        assert time.monotonic() - started < 10  # it waits for the images under way, not for the batch
    with serving(*options) as again:
        found = again.finished(batch)
        assert (found["state"], found["done"], found["total"], sum(found["verdicts"].values())) == ("done", N, N, N)
        station.finished(whole)
        assert results(again, batch) == results(station, whole)
    assert not list((tmp_path / "store" / "uploads").iterdir())


def test_a_batch_that_is_cancelled_keeps_what_was_scored(station, images):
    many = {f"{i}/{name}": content for i in range(10) for name, content in images.items()}
    batch = station.http.post("/v1/batches", files={"archive": ("a.zip", packed(many))}).json()["id"]
    half_done(station, batch, n=len(many))
    assert state_of_results(station, batch) == ("running", f"batch-{batch[:12]}-partial.csv")
    assert station.http.post(f"/v1/batches/{batch}/cancel").json()["state"] == "cancelled"
    assert state_of_results(station, batch) == ("cancelled", f"batch-{batch[:12]}-partial.csv")
    after = encoded(blobs(1, 2)[0])  # one batch at a time: once this is done, nothing is under way
    station.finished(
        station.http.post("/v1/batches", files={"archive": ("a.zip", packed({"a.png": after}))}).json()["id"]
    )
    found = station.http.get(f"/v1/batches/{batch}").json()
    assert 0 < found["done"] < len(many)
    assert len(results(station, batch)) == found["done"]
    assert station.http.post(f"/v1/batches/{batch}/cancel").json()["state"] == "cancelled"
    assert not list((station.store / "uploads").iterdir())


def test_no_more_batches_wait_than_allowed(station, images):
    many = packed({f"{i}/{name}": content for i in range(10) for name, content in images.items()})
    answers = [station.http.post("/v1/batches", files={"archive": ("a.zip", many)}) for _ in range(17)]
    assert [answer.status_code for answer in answers] == [202] * 16 + [429]
    assert answers[-1].headers["retry-after"] == "60"
    for answer in answers[:16]:
        station.http.post(f"/v1/batches/{answer.json()['id']}/cancel")
    again = station.http.post("/v1/batches", files={"archive": ("a.zip", packed({"a.png": b"x"}))})
    assert station.finished(again.json()["id"])["verdicts"] == {"unusable": 1}


def test_names_in_tables_are_no_formulas_and_files_that_are_no_images_are_counted(station):
    files = {name: encoded(blobs(1, 1)[0]) for name in ("=1+1.png", "@SUM(A1).png", "+a.png", "-a.png")}
    files |= {"notes.txt": b"x", ".hidden.png": b"x"}
    batch = station.http.post("/v1/batches", files={"archive": ("a.zip", packed(files))}).json()["id"]
    assert station.finished(batch)["other_files"] == 1
    assert [row["path"] for row in results(station, batch)] == ["./=1+1.png", "./@SUM(A1).png", "./+a.png", "./-a.png"]


def test_images_behind_addresses_are_judged_as_those_of_a_zip(station, whole, pages):
    asked = [f"{pages}/parts/part%20{i:03}.png?key=secret" for i in (5, 100, 999, 7)]
    refused = station.http.post("/v1/batches", json={"addresses": [*asked, f"{pages}/other/a.png"]})
    assert (refused.status_code, "is not below" in refused.json()["error"]) == (422, True)
    batch = station.http.post("/v1/batches", json={"addresses": asked}).json()["id"]
    assert station.finished(batch)["done"] == 4
    rows = results(station, batch)
    assert [row["path"] for row in rows] == [address.removesuffix("?key=secret") for address in asked]
    assert "answered 404" in rows[2]["error"]
    station.finished(whole)
    expected = results(station, whole)
    assert [(rows[i]["anomaly_score"], rows[i]["verdict"]) for i in (0, 3)] == [
        (expected[j]["anomaly_score"], expected[j]["verdict"]) for j in (5, 7)
    ]


def test_options_are_checked_before_anything_waits(station, images):
    zipped = packed({"a.png": b"x"})
    send = station.http.post
    assert send("/v1/batches?model=none", files={"archive": ("a.zip", zipped)}).status_code == 404
    assert send("/v1/batches?alpha=0.00001", files={"archive": ("a.zip", zipped)}).status_code == 422
    assert send("/v1/batches?surprise=1", files={"archive": ("a.zip", zipped)}).status_code == 422
    assert send("/v1/batches", files={"other": ("a.zip", zipped)}).status_code == 422
    assert send("/v1/batches", data={"archive": "text"}).status_code in (415, 422)
    assert send("/v1/batches", json={"addresses": []}).status_code == 422
    assert send("/v1/batches", json={"addresses": ["https://example.org/a.png"]}).status_code == 422
    assert send("/v1/batches", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert send("/v1/batches", content=b"x", headers={"Content-Type": "application/zip"}).status_code == 422
    assert station.http.get("/v1/batches/none").status_code == 404
    assert station.http.get("/v1/batches/none/results.csv").status_code == 404
    assert station.http.post("/v1/batches/none/cancel").status_code == 404
    assert not list((station.store / "uploads").iterdir())


# the worker in this process, with a disk and a database that fail


@pytest.fixture
def inside(detector, tmp_path):
    """Batches that are not started, of a station with nothing else around it."""
    addresses = ("http://127.0.0.1:9/",)
    settings = Settings(models={"blobs": detector}, store=tmp_path / "s", addresses=addresses, private_addresses=True)
    station = open_station(settings, Log(None))
    batches = Batches(station)
    yield batches
    batches.close()
    station.close()


def taken(batches, files, **options):
    with batches.incoming(ZIP) as path:
        path.write_bytes(packed(files))
        return batches.add_archive(path, Options(source="batch", **options))


def ended(batches, id, seconds=20):
    end = time.monotonic() + seconds
    while (found := batches.history.batch(id)).state in ("queued", "running"):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def fail(error):
    def failing(*_, **__):
        raise error

    return failing


def test_a_full_disk_costs_the_images_and_not_the_batch(inside, images, monkeypatch):
    monkeypatch.setattr(inside.station.kept, "put", fail(ArtefactError("/secret/place cannot be written (full)")))
    batch = taken(inside, dict(list(images.items())[:3]), keep=True)
    inside.start()
    assert ended(inside, batch.id).state == "done"
    assert [row.kept for row in inside.history.last("blobs", 9)] == [False] * 3


def test_why_a_batch_failed_names_no_path(inside, images, monkeypatch):
    monkeypatch.setattr(inside.station, "judge_batch", fail(ArtefactError("/secret/place cannot be read")))
    batch = taken(inside, dict(list(images.items())[:3]))
    inside.start()
    found = ended(inside, batch.id)
    assert (found.state, found.error) == ("failed", "something failed here; the log says more")


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_the_end_waits_for_the_images_under_way_and_no_more(inside, images, monkeypatch, how):
    started = threading.Event()

    def slow(source, position):
        started.set()
        time.sleep(0.5)
        return read(source, position)

    read = module._read
    monkeypatch.setattr(module, "_read", slow)
    batch = taken(inside, images)  # 64 are read together, four at a time: 8 seconds
    inside.start()
    assert started.wait(10)
    start = time.monotonic()
    if how == "cancel":
        inside.cancel(batch.id)
    inside.close()
    assert time.monotonic() - start < 3
    assert inside.history.batch(batch.id).state == ("cancelled" if how == "cancel" else "running")


def test_a_database_that_fails_does_not_use_up_the_places_of_batches(inside, monkeypatch):
    monkeypatch.setattr(inside.history, "batch", fail(HistoryError("it does not answer")))
    for _ in range(20):
        with inside.incoming(ZIP):
            pass
    assert inside._open == set()


def test_no_room_for_a_list_or_a_folder_is_said(inside, monkeypatch):
    inside.folder.mkdir()
    monkeypatch.setattr(module, "new_id", lambda: "0" * 32)
    (inside.folder / f"{'0' * 32}{LIST}").mkdir()  # writing to it fails, for root too
    with pytest.raises(RefusedError, match="no room") as error:
        inside.add_addresses(["http://127.0.0.1:9/a.png"], Options(source="batch"))
    assert error.value.status == 507
    (inside.folder / f"{'0' * 32}{LIST}").rmdir()
    inside.folder.rmdir()
    inside.folder.write_bytes(b"in the way")
    with pytest.raises(RefusedError, match="no room"), inside.incoming(ZIP):
        pass


def test_a_form_is_not_stored_while_too_many_batches_wait(station, images):
    many = packed({f"{i}/{name}": content for i in range(10) for name, content in images.items()})
    open_ = [station.http.post("/v1/batches", files={"archive": ("a.zip", many)}).json()["id"] for _ in range(16)]
    head = b"POST /v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    answer = station.send(head + b"Content-Length: 1000000\r\n\r\n", wait=5)  # not a byte of the form is sent
    assert answer.startswith(b"HTTP/1.1 429 ")
    for id in open_:
        station.http.post(f"/v1/batches/{id}/cancel")


def test_results_that_retention_removed_are_not_passed_over(inside, images):
    batch = taken(inside, dict(list(images.items())[:3]))
    inside.start()
    ended(inside, batch.id)
    assert len(inside.results(batch.id)[1]) == 3
    marked = inside.history.last("blobs", 1)[0]
    inside.history.mark(marked.id, "missed" if marked.verdict == "normal" else "confirmed")
    inside.history.prune(now())
    with pytest.raises(
        RefusedError, match=r"^2 of the 3 results of this batch are no longer kept; .* the others$"
    ) as e:
        inside.results(batch.id)
    assert e.value.status == 410
