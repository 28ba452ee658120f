"""Batches in, rows out: what is read ahead, what is counted, what is refused."""

import threading

import numpy as np
import pytest
from PIL import Image

from alocc.data import reading
from alocc.data.decoding import read_brought_to
from alocc.data.entries import Entry, Skipped, folder_entries
from alocc.data.reading import Batch, read_batches
from alocc.data.resizing import ImageFormat
from alocc.errors import DataError
from alocc.scores import Scores
from alocc.scoring.stream import Rows, score_batches

FORMAT = ImageFormat(6, 5, 1)


class Mean:
    """Scores an image by its mean, and has seen those that begin with 0."""

    alpha = 0.1
    review_alpha = None

    def __init__(self):
        self.n_scored = 0

    def score(self, images, progress=None):
        self.n_scored += len(images)
        mean = images.reshape(len(images), -1).mean(1)
        if progress:
            progress(len(images))
        parts = {"mean": mean}
        return Scores(mean, np.full(len(images), 0.5), mean > 100, parts, mean, self.alpha)

    def was_seen(self, images):
        return images.reshape(len(images), -1)[:, 0] == 0


def batch(values, *unusable):
    images = np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 6, 5, 1))
    skipped = [Skipped(name, f"{name}!") for name in unusable]
    return Batch([Entry(f"{value}.png", "", f"class {value}") for value in values], images, skipped)


def test_rows_have_the_batches_names_scores_and_what_could_not_be_used():
    told, seen = [], []
    batches = [batch([], "a"), batch([0, 200], "b"), batch([], "c"), batch([7]), batch([], "d")]
    parts = list(
        score_batches(Mean(), batches, progress=told.append, with_classes=True, each=lambda *what: seen.append(what))
    )
    assert [part.names for part in parts] == [["0.png", "200.png"], ["7.png"], ()]
    assert [[item.name for item in part.skipped] for part in parts] == [["a", "b"], ["c"], ["d"]]
    assert [part.n_seen for part in parts] == [1, 0, 0] and told == [2, 1]
    assert [one for one, *_ in seen] == [batches[1], batches[3]] and seen[0][1].parts["mean"].tolist() == [0, 200]
    assert not parts[0].scores.parts and parts[0].scores.p_real is None
    together = Rows.joined(parts)
    assert together.names == ["0.png", "200.png", "7.png"] and together.n_seen == 1
    assert together.scores.anomaly_score.tolist() == [0, 200, 7]
    assert together.scores.is_anomaly.tolist() == [False, True, False]
    assert [item.name for item in together.skipped] == list("abcd")
    assert together.classes == ["class 0", "class 200", "class 7"]
    assert next(score_batches(Mean(), batches)).classes == ()


def test_not_one_image_or_one_too_many_is_an_error():
    with pytest.raises(DataError, match="none of the 2 images can be used; the first: a!"):
        list(score_batches(Mean(), [batch([], "a"), batch([], "b")]))
    with pytest.raises(DataError, match=r"none of the 0 images can be used$"):
        list(score_batches(Mean(), []))
    scorer = Mean()
    with pytest.raises(DataError, match="b!; leave --strict out"):
        list(score_batches(scorer, [batch([1, 2]), batch([3], "b"), batch([4])], strict=True))
    assert scorer.n_scored == 2


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(23):
        Image.fromarray(rng.integers(0, 256, (9, 8), np.uint8)).save(tmp_path / f"{i:02}.png")
    (tmp_path / "05.png").write_bytes(b"")
    (tmp_path / "22.png").write_bytes(b"words")
    return tmp_path


def test_entries_are_read_in_order_whatever_cannot_be_used(folder, monkeypatch):
    monkeypatch.setattr(reading, "BATCH", 8)
    entries, _ = folder_entries(folder, "test")
    batches = list(read_batches(entries, FORMAT, [Skipped("gone", "gone!")]))
    assert [len(one.images) for one in batches] == [0, 7, 8, 6]
    assert [[item.name[-6:] for item in one.skipped] for one in batches] == [["gone"], ["05.png"], [], ["22.png"]]
    names = [name for one in batches for name in one.names]
    assert names == [entry.name for i, entry in enumerate(entries) if i not in (5, 22)]
    for name, image in zip(names, np.concatenate([one.images for one in batches]), strict=True):
        np.testing.assert_array_equal(image, read_brought_to(name, None, 0, FORMAT)[0])


def test_one_batch_is_read_ahead_and_no_more(folder, monkeypatch):
    monkeypatch.setattr(reading, "BATCH", 8)
    read, real, lock = [], reading.read_brought_to, threading.Lock()

    def counted(content, name, page, to):
        with lock:
            read.append(name)
        return real(content, name, page, to)

    monkeypatch.setattr(reading, "read_brought_to", counted)
    entries, _ = folder_entries(folder, "test")
    others = set(threading.enumerate())
    batches = read_batches(entries, FORMAT)
    next(batches)
    assert 8 <= len(read) <= 16
    batches.close()  # which ends the threads
    assert len(read) <= 16 and set(threading.enumerate()) <= others
    assert list(read_batches([], FORMAT)) == []


def test_a_batch_of_large_images_is_smaller():
    assert reading.batch_size(FORMAT) == 256
    assert reading.batch_size(ImageFormat(1024, 1024, 1)) == 32
    assert reading.batch_size(ImageFormat(8000, 8000, 3)) == 8
