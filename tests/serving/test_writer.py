"""Rows that were answered and are not in the history yet."""

import hashlib

import pytest

from alocc.errors import BusyError
from alocc.serving import writer
from alocc.serving.history import History, HistoryError
from alocc.serving.kept import Kept
from alocc.serving.logs import Log
from alocc.serving.writer import Writer


class Failing(History):
    """A database that does not answer for a while."""

    left = 0

    def add(self, rows, **progress):
        if self.left:
            self.left -= 1
            raise HistoryError("the database does not answer")
        super().add(rows, **progress)


@pytest.fixture
def history(tmp_path):
    opened = Failing(tmp_path / "history.sqlite")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path / "images")


def test_closing_writes_every_row_and_every_image(history, kept, image_row):
    contents = [f"image {i}".encode() for i in range(300)]
    rows = [image_row(i, sha256=hashlib.sha256(content).hexdigest(), kept=True) for i, content in enumerate(contents)]
    made = Writer(history, kept, Log())
    for row, content in zip(rows, contents, strict=True):
        made.put([row], [content])
    made.close()
    assert {row.id for row in history.export()} == {row.id for row in rows}
    assert [kept.get(row.sha256) for row in rows] == contents


def test_rows_outlive_a_database_that_does_not_answer(history, kept, image_row, monkeypatch):
    monkeypatch.setattr(writer, "AGAIN", 0.02)
    history.left = 3
    made = Writer(history, kept, Log())
    rows = [image_row(i) for i in range(3)]
    made.put(rows[:2], [None, None])
    made.put(rows[2:], [None])
    assert made.unwritten > 0
    made.flushed().result(10)
    assert made.problem is None and made.unwritten == 0
    assert [row.id for row in history.export()] == [row.id for row in reversed(rows)]
    assert made.flushed().done()
    made.close()


def test_a_database_that_never_answers_stops_new_work_and_does_not_hold_up_the_end(
    history, kept, image_row, monkeypatch, capsys
):
    monkeypatch.setattr(writer, "AGAIN", 0.01)
    monkeypatch.setattr(writer, "MOST_ROWS", 2)
    history.left = 10_000
    made = Writer(history, kept, Log())
    made.admit()
    made.put([image_row(i) for i in range(3)], [None] * 3)
    with pytest.raises(BusyError):
        made.admit()
    while made.problem is None:
        pass
    assert made.problem == "the database does not answer"
    made.close()
    assert "3 rows are lost" in capsys.readouterr().err and not list(history.export())


def test_an_image_that_cannot_be_kept_has_its_row_all_the_same(history, tmp_path, image_row):
    (tmp_path / "images").write_text("in the way")
    made = Writer(history, Kept(tmp_path / "images"), Log())
    made.put([image_row(kept=True), image_row(1)], [b"image", None])
    made.close()
    assert [row.kept for row in history.export()] == [False, False]
