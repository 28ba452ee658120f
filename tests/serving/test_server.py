"""The server as a process of its own: answers, limits, reload, end."""

import base64
import csv
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from alocc.detector import Detector
from alocc.serving.history import History
from alocc.serving.replies import ErrorReply


def post(server, content, *, kind="image/png", **query):
    return server.http.post("/v1/score", content=content, headers={"Content-Type": kind}, params=query)


def rows_of(server, **query):
    return server.http.get("/v1/history", params={"limit": 500, **query}).json()["rows"]


def patiently(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture(scope="module")
def by_command_line(part_run, parts, as_png, tmp_path_factory):
    """Eight files of several formats, what `alocc score` says of them, and of their regions."""
    folder = tmp_path_factory.mktemp("files")
    kinds = ["PNG", "BMP", "TIFF", "PNG", "JPEG", "WEBP", "PNG", "JPEG"]
    for i, (image, kind) in enumerate(zip(parts(8), kinds, strict=True)):
        large = image.repeat(3, 0).repeat(3, 1) if i in (3, 7) else image
        (folder / f"{i}.{kind.lower()}").write_bytes(as_png(large, kind))
    command = [sys.executable, "-m", "alocc", "score", part_run, folder, "--out", folder / "scores.csv"]
    subprocess.run([*command, "--regions", folder / "regions.csv"], check=True, capture_output=True)
    with (folder / "scores.csv").open() as scores, (folder / "regions.csv").open() as regions:
        return sorted(folder.glob("[0-7].*")), list(csv.DictReader(scores)), list(csv.DictReader(regions))


def test_answers_are_those_of_the_command_line_to_the_last_bit(server, by_command_line):
    files, rows, regions = by_command_line
    together = server.http.post("/v1/score", files=[("images", (file.name, file.read_bytes())) for file in files])
    assert together.status_code == 200, together.text
    images = together.json()["images"]
    assert [image["name"] for image in images] == [file.name for file in files]
    for image, row in zip(images, rows, strict=True):
        assert (image["anomaly_score"], image["p_value"]) == (float(row["anomaly_score"]), float(row["p_value"]))
        assert (image["verdict"] == "anomalous") == (row["is_anomaly"].lower() == "true")
        box = {side: row[f"box_{side}"] for side in ("left", "top", "right", "bottom")}
        assert image["box"] == ({side: int(at) for side, at in box.items()} if box["left"] else None)
    assert {image["verdict"] for image in images} == {"normal", "anomalous"}
    found = [region for image in images for region in image["regions"]]
    assert [(region["reason"], region["peak"], region["p_value"]) for region in found] == [
        (row["reason"], float(row["peak"]), float(row["p_value"])) for row in regions
    ]


def test_an_answer_does_not_depend_on_who_asks_at_the_same_time(server, part_run, parts, as_png):
    images = parts(48, seed=5)
    scores = Detector.load(part_run).score(images)
    contents = [as_png(image) for image in images]

    def ask(i):
        with httpx.Client(base_url=server.address, timeout=60) as http:
            answers = []
            for j in range(i, 48, 12):
                reply = http.post("/v1/score", content=contents[j], headers={"Content-Type": "image/png"})
                answers.append((j, reply.json()["images"][0]))
            return answers

    with ThreadPoolExecutor(12) as threads:
        answers = dict(itertools.chain.from_iterable(threads.map(ask, range(12))))
    assert [answers[j]["anomaly_score"] for j in range(48)] == scores.anomaly_score.tolist()
    assert [answers[j]["p_value"] for j in range(48)] == scores.p_value.tolist()


def test_three_ways_to_send_an_image_give_one_answer(server, parts, as_png):
    content = as_png(parts(4)[3])
    form = server.http.post("/v1/score", files={"images": ("pit.png", content)}, params={"map": True, "overlay": True})
    body = {"images": [{"name": "pit.png", "data": base64.b64encode(content).decode()}], "map": True, "overlay": True}
    replies = [
        post(server, content, name="pit.png", map=True, overlay=True),
        form,
        server.http.post("/v1/score", json=body),
    ]
    answers = [reply.json() for reply in replies]
    ids = [answer["images"][0].pop("id") for answer in answers]
    assert answers[0] == answers[1] == answers[2] and len(set(ids)) == 3
    [image] = answers[0]["images"]
    assert (image["width"], image["height"]) == (52, 40) and image["verdict"] == "anomalous"
    assert all(base64.b64decode(image[name])[:8] == b"\x89PNG\r\n\x1a\n" for name in ("map", "overlay"))
    assert image["box"] == image["regions"][0]["box"]
    names = {row["id"]: row["name"] for row in rows_of(server, text="pit.png")}
    assert all(names[id] == "pit.png" for id in ids)


def test_alphas_of_a_request_give_other_verdicts_and_the_same_scores(server, usual_part):
    content = usual_part
    usual = post(server, content).json()
    p_value = usual["images"][0]["p_value"]
    assert usual["images"][0]["verdict"] == "normal" and usual["review_alpha"] is None
    called = post(server, content, alpha=p_value).json()
    unsure = post(server, content, review_alpha=p_value).json()
    assert [answer["images"][0]["verdict"] for answer in (called, unsure)] == ["anomalous", "can't tell"]
    assert called["alpha"] == p_value and unsure["review_alpha"] == p_value
    assert called["threshold"] < usual["threshold"] == unsure["threshold"]
    scores = {answer["images"][0]["anomaly_score"] for answer in (usual, called, unsure)}
    assert len(scores) == 1
    assert called["images"][0]["regions"] and unsure["images"][0]["regions"] and not usual["images"][0]["regions"]


def test_an_unusable_image_among_others_says_why_and_is_in_the_history(server, parts, as_png):
    files = [("images", ("good.png", as_png(parts(1)[0]))), ("images", ("notes.txt", b"no image"))]
    reply = server.http.post("/v1/score", files=files)
    good, bad = reply.json()["images"]
    assert reply.status_code == 200 and good["error"] is None
    assert bad["verdict"] is bad["anomaly_score"] is bad["width"] is None
    assert bad["error"] == "notes.txt is not a PNG, JPEG, BMP, TIFF, WEBP image"
    assert server.http.get(f"/v1/history/{bad['id']}").json()["image"]["error"] == bad["error"]


WRONG = [
    ({"content": b"no image"}, 422, "image is not a PNG, JPEG, BMP, TIFF, WEBP image"),
    ({"content": b""}, 422, "the body is empty; it must be an image file"),
    ({"content": b"x", "kind": "text/plain"}, 415, "the body must be image/*.* not text/plain"),
    ({"content": b"{", "kind": "application/json"}, 422, "the body: it is no JSON"),
    ({"content": b'{"images": []}', "kind": "application/json"}, 422, "images: must have at least 1"),
    ({"content": b'{"images": [{"data": "%"}]}', "kind": "application/json"}, 422, "images.0.data is not base64"),
    ({"content": b'{"images": 3, "x": 1}', "kind": "application/json"}, 422, r"images: .*\(and 1 more\)"),
    ({"content": b"x", "kind": "multipart/form-data"}, 400, "(?i)boundary"),
    ({"content": b"x", "model": "none"}, 404, "there is no model 'none'; there is parts"),
    ({"content": b"x", "alpha": "0"}, 422, "alpha: must be greater than 0"),
    ({"content": b"x", "alpha": "0.0001"}, 422, "alpha must be at least 0.0083 with 120 held-out images"),
    ({"content": b"x", "alpha": "1e-320"}, 422, r"alpha must be .* needs \d{18,19} held-out images"),
    ({"content": b"x", "alpha": ".1", "review_alpha": ".05"}, 422, "the review alpha must be at least alpha"),
    ({"content": b"x", "alpha": "nan"}, 422, "alpha: must be"),
    ({"content": b"x", "threshold": "1"}, 422, "threshold: there is no such option"),
]


@pytest.mark.parametrize(("request_", "status", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_with_a_request_is_said_in_one_line(server, request_, status, message):
    reply = post(server, **request_)
    assert reply.status_code == status, reply.text
    error = ErrorReply.model_validate_json(reply.content, strict=True).error
    assert re.match(message, error) or re.search(message, error), error
    assert "\n" not in error and "Error" not in error and not re.search(r"(^|[\s'\"])/", error)


def test_too_many_images_are_a_case_for_a_batch(server, parts, as_png):
    files = [("images", (f"{i}.png", as_png(image))) for i, image in enumerate(parts(65))]
    reply = server.http.post("/v1/score", files=files)
    assert reply.status_code == 413 and "64 are allowed" in reply.json()["error"]


def test_nothing_at_an_address_and_no_such_method_are_json_too(server):
    for reply, status in ((server.http.get("/nothing"), 404), (server.http.delete("/v1/score"), 405)):
        assert reply.status_code == status and set(reply.json()) == {"error"}


def test_models_say_what_they_are(server, part_run):
    [model] = server.http.get("/v1/models").json()["models"]
    detector = Detector.load(part_run)
    assert model == server.http.get("/v1/models/parts").json()
    assert model["name"] == "parts" and model["images"] == "52×40 grey" and model["preset"] == "robust"
    assert (model["alpha"], model["threshold"]) == (detector.alpha, detector.threshold)
    assert model["calibration"] == {"number": 0, "date": None, "n_images": 120}
    assert model["has_maps"] and model["has_curves"] and not model["has_report"] and model["problem"] is None
    columns = server.http.get("/v1/models/parts/curves").json()["columns"]
    with (part_run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(columns) == list(rows[0])
    assert columns["iteration"] == [float(row["iteration"]) for row in rows]
    assert server.http.get("/v1/models/parts/report").status_code == 404


def test_a_report_is_sent_into_a_sandbox(server, part_run):
    (part_run / "report.html").write_text("<p>report", encoding="utf-8")
    try:
        reply = server.http.get("/v1/models/parts/report")
    finally:
        (part_run / "report.html").unlink()
    assert reply.text == "<p>report" and reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'") and "allow-same-origin" not in policy


def test_metrics_count_what_was_done(server, parts, as_png):
    def value(name):
        text = server.http.get("/metrics").text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    names = [f'alocc_images_total{{model="parts",verdict="{verdict}"}}' for verdict in ("normal", "anomalous")]
    before = [value(name) for name in [*names, "alocc_score_seconds_count"]]
    files = [("images", (f"{i}.png", as_png(image))) for i, image in enumerate(parts(8))]
    images = server.http.post("/v1/score", files=files).json()["images"]
    n = [sum(image["verdict"] == verdict for image in images) for verdict in ("normal", "anomalous")]
    assert [value(name) for name in [*names, "alocc_score_seconds_count"]] == [
        before[0] + n[0], before[1] + n[1], before[2] + 1,
    ]  # fmt: skip
    assert value("alocc_pass_images_sum") >= 8
    assert value("alocc_queue_images") == 0 and 0 < value("alocc_called_share") < 1


def test_who_watches_is_told_of_every_verdict(server, usual_part):
    told = []
    with server.http.stream("GET", "/v1/events", timeout=30) as reply:
        lines = reply.iter_lines()
        assert next(lines) == ": watching"
        thread = threading.Thread(target=lambda: post(server, usual_part, name="watched.png"))
        thread.start()
        while not told or told[-1]["name"] != "watched.png":
            if (line := next(lines)).startswith("data: "):
                told.append(json.loads(line[6:]))
    thread.join()
    assert told[-1]["verdict"] == "normal" and told[-1]["model"] == "parts"


def test_every_address_is_described_with_its_errors(server):
    described = server.http.get("/openapi.json").json()
    replies = {
        (path, method): operation["responses"]
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        if path.startswith("/v1/")
    }
    assert len(replies) > 20
    for route, statuses in replies.items():
        assert {"422", "429", "503"} <= set(statuses), route
        for status in set(statuses) - {"200", "202", "204"}:
            schema = statuses[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorReply"}, (route, status)
    types = described["paths"]["/v1/score"]["post"]["requestBody"]["content"]
    assert {"image/png", "multipart/form-data", "application/json"} <= set(types)
    assert server.http.get("/docs").status_code == server.http.get("/redoc").status_code == 404


def test_sigterm_answers_what_was_accepted_and_writes_it(start_server, part_run, parts, as_png, tmp_path):
    server = start_server(part_run, "--store", tmp_path / "store")
    contents = [as_png(image) for image in parts(16)]
    answered, refused = [], []

    def ask(i):
        with httpx.Client(base_url=server.address, timeout=60) as http:
            while True:
                try:
                    reply = http.post("/v1/score", content=contents[i], headers={"Content-Type": "image/png"})
                except httpx.TransportError as error:  # not accepted: nothing listens any more
                    return refused.append(error)
                answered.append(reply.json()["images"][0]["id"])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    patiently(lambda: len(answered) > 30)
    assert server.stop() == 143
    for thread in threads:
        thread.join()
    history = History(tmp_path / "store" / "history.sqlite")
    assert set(answered) <= {row.id for row in history.export()} and len(refused) == 16
    history.close()
    assert not any("Traceback" in line for line in server.lines), "".join(server.lines)


def test_a_file_that_is_replaced_is_loaded_and_a_damaged_one_is_not(start_server, part_run, usual_part, tmp_path):
    shutil.copytree(part_run, tmp_path / "parts")
    file, content = tmp_path / "parts" / "model.safetensors", usual_part
    server = start_server(tmp_path / "parts", "--store", tmp_path / "store")
    before = post(server, content).json()
    Detector.load(file).with_alpha(0.5).save(file)

    def model(version=None, problem=None):
        found = server.http.get("/v1/models/parts").json()
        return found if found["version"] != version and bool(found["problem"]) == bool(problem) else None

    newer = patiently(lambda: model(before["model"]["version"]))
    after = post(server, content).json()
    assert after["model"]["version"] == newer["version"] and (before["alpha"], after["alpha"]) == (0.01, 0.5)
    file.write_bytes(file.read_bytes()[:-100])
    damaged = patiently(lambda: model(problem=True))
    assert damaged["version"] == newer["version"]
    assert "model.safetensors is damaged" in damaged["problem"] and str(tmp_path) not in damaged["problem"]
    assert server.http.get("/readyz").json() == {"status": "ok", "problems": []}
    assert post(server, content).json()["model"]["version"] == newer["version"]
    shutil.copy(part_run / "model.safetensors", file)
    assert patiently(lambda: model(newer["version"]))["version"] == before["model"]["version"]
    assert server.stop(signal.SIGINT) == 130


COMMANDS = [
    ([], "Missing argument"),
    (["nowhere"], "nowhere does not exist; give a run folder"),
    (["RUN", "parts=RUN"], "two models are called parts; name one of them"),
    (["RUN", "--alpha", "0.00001"], "alpha must be at least 0.0083"),
    (["RUN", "--review-alpha", "0.001"], "the review alpha must be at least alpha"),
    (["RUN", "--keep-days", "0"], "--keep-days must be greater than 0, got 0"),
    (["RUN", "--limit", "speed=3"], "--limit speed: there is no such limit; there are body_bytes, batch_bytes, images"),
    (["RUN", "--limit", "images=0"], "--limit images must be at least 1, got '0'"),
    (["RUN", "--limit", "images=many", "queue=3"], "--limit images must be a whole number, got 'many'"),
    (["RUN", "--limit", "images"], "--limit images must be a whole number, got ''"),
    (["RUN", "--limit", "images=2", "images=3"], "--limit: one of them is given twice"),
    (["RUN", "--limit", "body_seconds=inf"], "--limit body_seconds must be a finite number"),
    (["RUN", "--limit", "pixels=90000000"], "--limit pixels must be at most 80000000"),
    (["RUN", "--host", "0.0.0.0"], "--host 0.0.0.0 .*--token-file FILE"),
    (["RUN", "--port", "TAKEN"], r"cannot listen at 127.0.0.1, port \d+ \([\w ]*in use\); try another --port"),
    (["RUN", "--host", "256.0.0.1", "--no-token"], "cannot listen at 256.0.0.1"),
    (["RUN", "--token-file", "nowhere"], "--token-file nowhere cannot be read"),
    (["RUN", "--store", "/dev/null/x"], "--store /dev/null/x cannot be made"),
    (["RUN", "--database", "mysql://x"], "(?i)database"),
]


@pytest.mark.parametrize(("words", "message"), COMMANDS, ids=lambda value: str(value)[:40])
def test_what_is_wrong_with_the_command_is_said_in_one_line(
    capsys, monkeypatch, server, part_run, tmp_path, words, message
):
    from alocc.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALOCC_TOKEN", raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    taken = str(httpx.URL(server.address).port)
    words = [word.replace("RUN", str(part_run)).replace("TAKEN", taken) for word in words]
    monkeypatch.setattr(sys, "argv", ["alocc", "serve", "--port", "0", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and re.search(message, error), error
    assert error.count("error:") == 1 and "Traceback" not in error


def test_scores_of_a_map_that_is_not_called_are_no_other(server, usual_part):
    plain, mapped = (post(server, usual_part, map=wanted).json()["images"][0] for wanted in (False, True))
    assert mapped["map"] and not mapped["regions"]
    assert (plain["anomaly_score"], plain["p_value"]) == (mapped["anomaly_score"], mapped["p_value"])


def refused(*words):
    """Exit code and last words of a server that does not start."""
    command = [sys.executable, "-m", "alocc", "serve", *map(str, words), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return ended.returncode, " ".join(ended.stderr.split())


def test_a_store_and_a_database_have_one_server_and_what_it_makes_is_its_users_alone(
    start_server, part_run, usual_part, tmp_path
):
    store, there = tmp_path / "store", tmp_path / "there"
    store.mkdir(mode=0o755)
    address = f"sqlite:///{there / 'h.sqlite'}"
    abandoned, under_way = (store / "uploads" / f"{digit * 32}.zip" for digit in "10")
    abandoned.parent.mkdir(mode=0o700)
    abandoned.write_bytes(b"of a server that was killed")
    options = ["--keep", "all", "--limit", "images=2", "per_second=1000"]
    first = start_server(part_run, "--store", store, "--database", address, *options)
    assert not abandoned.exists()  # it has looked around when it says its address
    under_way.write_bytes(b"half")
    code, words = refused(part_run, "--store", store)
    assert code == 2 and "is used by another server; give another --store" in words and "Traceback" not in words
    assert under_way.read_bytes() == b"half"
    code, words = refused(part_run, "--store", tmp_path / "other", "--database", address)
    assert code == 2 and "is used by another server; give another --database" in words

    assert post(first, usual_part).status_code == 200  # and is kept
    three = [("images", ("a.png", usual_part, "image/png"))] * 3
    assert [first.http.post("/v1/score", files=three[:n]).status_code for n in (2, 3)] == [200, 413]
    assert first.stop() == 143
    made = [path for folder in (store, there) for path in folder.rglob("*") if path != under_way]
    assert {path.name for path in made} >= {"h.sqlite", "images"}
    assert [path for path in (there, *made) if path.stat().st_mode & 0o077] == []
    assert store.stat().st_mode & 0o777 == 0o755  # it was there
