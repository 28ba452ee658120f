"""The client, against a server in another process."""

import zipfile

import numpy as np
import pytest

from alocc.client import AnswerError, Client
from alocc.detector import Detector
from alocc.errors import DataError


@pytest.fixture
def client(server):
    with Client(server.address, timeout=60) as made:
        yield made


def test_images_in_every_form_have_the_detectors_own_scores(client, part_run, parts, as_png, tmp_path):
    images = parts(4)
    (tmp_path / "one.png").write_bytes(as_png(images[1]))
    answer = client.score([images[0], tmp_path / "one.png", as_png(images[2]), ("pit.png", as_png(images[3]))])
    scores = Detector.load(part_run).score(images)
    assert [image.anomaly_score for image in answer.images] == scores.anomaly_score.tolist()
    assert [image.name for image in answer.images] == ["image 0", "one.png", "image 2", "pit.png"]
    assert (answer.model, answer.alpha, answer.calibration) == ("parts", 0.01, 0)
    pit = answer.images[3]
    assert pit.verdict == "anomalous" and pit.map is None
    x, y = 33, 27  # the middle of the pit
    box = pit.regions[0].box
    assert box.left <= x < box.right and box.top <= y < box.bottom


def test_one_image_with_pictures(client, parts):
    [image] = client.score(parts(4)[3], map=True, overlay=True, keep=True).images
    assert image.map and image.overlay and image.map[:4] == image.overlay[:4] == b"\x89PNG"
    [row] = [row for row in client.history(verdict="anomalous") if row["id"] == image.id]
    assert row["kept"] and row["anomaly_score"] == image.anomaly_score
    assert client.mark(image.id, "confirmed")["mark"] == "confirmed"
    assert [row["id"] for row in client.history(mark="confirmed")] == [image.id]


def test_more_images_than_a_request_may_have_are_sent_in_several(client, parts, as_png):
    contents = [(f"{i}.png", as_png(image)) for i, image in enumerate(parts(70))]
    answer = client.score(contents)
    assert [image.name for image in answer.images] == [name for name, _ in contents]


def test_where_the_server_takes_fewer_at_once_they_are_sent_in_halves(client, parts, as_png, monkeypatch):
    monkeypatch.setattr("alocc.client.TOGETHER", 150)  # the server takes 64
    contents = [(f"{i}.png", as_png(image)) for i, image in enumerate(parts(130))]
    assert [image.name for image in client.score(contents).images] == [name for name, _ in contents]


def test_a_batch_from_a_zip(client, parts, as_png, tmp_path):
    images = parts(6)
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        for i, image in enumerate(images):
            archive.writestr(f"{i}.png", as_png(image))
    batch = client.finished_batch(client.start_batch(tmp_path / "parts.zip"), timeout=60)
    assert (batch["state"], batch["done"], batch["total"]) == ("done", 6, 6)
    lines = client.results(batch["id"]).splitlines()
    assert len(lines) == 7 and "anomaly_score" in lines[0]
    direct = {str(image.anomaly_score) for image in client.score(list(images)).images}
    assert direct == {line.split(",")[lines[0].split(",").index("anomaly_score")] for line in lines[1:]}


def test_what_goes_wrong_is_an_error_with_the_servers_words(client, tmp_path):
    with pytest.raises(AnswerError, match="is not a PNG") as refused:
        client.score(b"no image")
    assert refused.value.status == 422
    with pytest.raises(DataError, match="cannot be read"):
        client.score(tmp_path / "nothing.png")
    with pytest.raises(AnswerError, match="does not answer"):
        Client("http://127.0.0.1:9", timeout=5).models()
    with pytest.raises(AnswerError, match="there is no model"):
        client.score(np.zeros((28, 28), np.uint8), model="none")
