"""Bytes of images that are kept: whole or not at all, once each, and nothing is removed that is not ours."""

import hashlib
import os
import threading
import time
from datetime import timedelta

import pytest

from alocc.errors import ArtefactError, DataError
from alocc.serving import kept as module
from alocc.serving.history import History, now
from alocc.serving.kept import Freed, Kept, retain


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path / "images")


@pytest.fixture
def sqlite(tmp_path):
    history = History(tmp_path / "history.sqlite")
    history.migrate()
    yield history
    history.close()


def keep(kept, history, image_row, content, days_ago=0.0):
    """Keep an image as if it had come some days ago."""
    sha256 = digest(content)
    kept.put(sha256, content)
    then = time.time() - days_ago * 86_400
    os.utime(kept.folder / sha256[:2] / sha256, (then, then))
    row = image_row(sha256=sha256, kept=True, time=now() - timedelta(days=days_ago))
    history.add([row])
    return row


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def test_the_same_bytes_are_there_once_under_their_digest(kept):
    for content in (b"one", b"two", b"one"):
        kept.put(digest(content), content)
    assert files(kept.folder) == sorted([digest(b"one"), digest(b"two")])
    assert kept.get(digest(b"one")) == b"one"
    assert kept.get(digest(b"three")) is None
    assert (kept.folder / digest(b"one")[:2]).stat().st_mode & 0o077 == 0  # nobody else looks at them


@pytest.mark.parametrize("name", ["", "../" * 3 + "etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "a" * 62 + "/b"])
def test_nothing_but_a_digest_names_a_file(kept, name):
    for ask in (kept.get, lambda name: kept.put(name, b"x")):
        with pytest.raises(DataError, match="64 hexadecimal digits"):
            ask(name)
    assert not kept.folder.exists()


def test_bytes_that_have_changed_on_the_disk_are_none(kept):
    kept.put(digest(b"good"), b"good")
    path = kept.folder / digest(b"good")[:2] / digest(b"good")
    for damaged in (b"go", b"", bytes(4)):  # a power cut
        path.write_bytes(damaged)
        assert kept.get(digest(b"good")) is None
        kept.put(digest(b"good"), b"good")
        assert kept.get(digest(b"good")) == b"good"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(ArtefactError, match="cannot be made"):
        Kept(tmp_path / "images").put(digest(b"x"), b"x")


def test_retention_by_age_by_hand(kept, sqlite, image_row):
    old, young = (keep(kept, sqlite, image_row, content, days) for content, days in ((b"12345", 31), (b"123", 29)))
    assert kept.prune(sqlite, now() - timedelta(days=30), 1e9) == Freed(1, 5)
    assert files(kept.folder) == [young.sha256]
    assert [sqlite.get(row.id).kept for row in (old, young)] == [False, True]
    assert kept.prune(sqlite, now() - timedelta(days=30), 1e9) == Freed()


def test_retention_by_size_keeps_the_newest(kept, sqlite, image_row):
    rows = [keep(kept, sqlite, image_row, bytes([i]) * 10, 5 - i) for i in range(5)]
    assert kept.prune(sqlite, now() - timedelta(days=30), 35) == Freed(2, 20)
    assert [sqlite.get(row.id).kept for row in rows] == [False, False, True, True, True]
    assert files(kept.folder) == sorted(row.sha256 for row in rows[2:])
    assert kept.prune(sqlite, now() - timedelta(days=30), 0) == Freed(3, 30)


def test_what_came_again_counts_from_then_and_every_row_of_it_is_noted(kept, sqlite, image_row):
    first = keep(kept, sqlite, image_row, b"again", 40)
    kept.put(first.sha256, b"again")
    second = image_row(sha256=first.sha256, kept=True)
    sqlite.add([second])
    month = now() - timedelta(days=30)
    assert kept.prune(sqlite, month, 1e9) == Freed()
    assert kept.prune(sqlite, month, 0) == Freed(1, 5)
    assert [sqlite.get(row.id).kept for row in (first, second)] == [False, False]


def test_what_is_not_ours_stays(kept, sqlite, image_row, tmp_path):
    old = keep(kept, sqlite, image_row, b"ours", 100)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    precious = elsewhere / digest(b"precious")
    precious.write_bytes(b"precious")
    folder = kept.folder / old.sha256[:2]
    strangers = [
        kept.folder / "notes.txt",
        folder / "notes.txt",
        folder / ("0" * 64 if not old.sha256.startswith("00") else "f" * 64),  # in the wrong folder
        kept.folder / digest(b"flat"),
        folder / f".{old.sha256}.{'a' * 16}.txt",
    ]
    for path in strangers:
        path.write_bytes(b"somebody's")
    (folder / (old.sha256[:2] + "1" * 62)).symlink_to(precious)
    (kept.folder / digest(b"precious")[:2]).symlink_to(elsewhere)
    (kept.folder / "zz").mkdir()
    (kept.folder / "zz" / "file").write_bytes(b"somebody's")
    for path in strangers:
        path.touch()
    month = now() - timedelta(days=101)
    assert kept.prune(sqlite, month, 4) == Freed()  # nor is what is not ours counted
    assert kept.prune(sqlite, now(), 0) == Freed(1, 4)
    assert all(path.read_bytes() == b"somebody's" for path in [*strangers, kept.folder / "zz" / "file"])
    assert precious.read_bytes() == b"precious"


def test_drafts_of_killed_processes_go_and_those_under_way_stay(kept, sqlite):
    kept.put(digest(b"x"), b"x")
    folder = kept.folder / digest(b"x")[:2]
    abandoned, young = (folder / f".{digest(b'x')}.{i * 16}.tmp" for i in "ab")
    for path in (abandoned, young):
        path.write_bytes(b"half")
    os.utime(abandoned, (time.time() - 2 * module.ABANDONED,) * 2)
    kept.prune(sqlite, now() - timedelta(days=1), 1e9)
    assert not abandoned.exists()
    assert young.exists()


def test_an_image_that_is_kept_again_while_retention_runs_stays(kept, sqlite, image_row, monkeypatch):
    row = keep(kept, sqlite, image_row, b"race", 100)
    listed = kept._files

    def slow():
        yield from list(listed())
        kept.put(row.sha256, b"race")  # after it was found to be old

    monkeypatch.setattr(kept, "_files", slow)
    assert kept.prune(sqlite, now() - timedelta(days=30), 1e9) == Freed()
    assert kept.get(row.sha256) == b"race"
    assert sqlite.get(row.id).kept


def test_keeping_and_removing_side_by_side_loses_nothing_that_was_kept_last(kept, sqlite):
    contents = [bytes([i]) * 100 for i in range(20)]
    stop = threading.Event()

    def prune():
        while not stop.is_set():
            kept.prune(sqlite, now() + timedelta(days=1), 1e9)

    thread = threading.Thread(target=prune)
    thread.start()
    for _ in range(10):
        for content in contents:
            kept.put(digest(content), content)
    stop.set()
    thread.join()
    for content in contents:
        kept.put(digest(content), content)
    assert all(kept.get(digest(content)) == content for content in contents)
    assert len(files(kept.folder)) == 20


def test_rows_go_with_their_age_too(kept, sqlite, image_row):
    rows = [keep(kept, sqlite, image_row, bytes([i]), days) for i, days in enumerate((50, 40, 20, 10))]
    marked = keep(kept, sqlite, image_row, b"marked", 60)
    sqlite.mark(marked.id, "missed")
    assert retain(sqlite, kept, keep_days=30, keep_gb=1) == Freed(3, 8, 2)
    assert {row.id for row in sqlite.export()} == {rows[2].id, rows[3].id, marked.id}
    assert not sqlite.get(marked.id).kept  # the bytes go all the same, the mark stays
    assert retain(sqlite, kept, keep_days=1e9, keep_gb=0) == Freed(2, 2, 0)
