"""The history: what is written is found again, once, in order, whatever the database and whoever writes beside."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from alocc.errors import ArtefactError, ConfigError, RefusedError
from alocc.serving import database
from alocc.serving.history import (
    PAGE,
    BatchRow,
    CalibrationRow,
    Filter,
    History,
    HistoryError,
    UnknownRowError,
    new_id,
    now,
)
from alocc.serving.tables import METADATA, VERSION_TABLE, images

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


def names(rows):
    return [row.name for row in rows]


def found(history, **conditions):
    rows, _, total = history.find(Filter(**conditions))
    assert total == len(rows)
    return names(rows)


def raw(history, statement, **values):
    """What the tables hold."""
    with history._writing() as connection:
        result = connection.execute(text(statement), values)
        return result.all() if result.returns_rows else []


# images


def test_a_row_is_read_as_it_was_written(history, image_row):
    region = {"box": {"left": 1, "top": 2, "right": 3, "bottom": 4}, "area": 4, "peak": 0.1, "reason": "darker, “so”"}
    history.add_batch(BatchRow("b" * 32, START, "bolts", {}))
    full = image_row(
        name="Ölfleck 螺丝 #1.png",
        time=datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC),
        batch="b" * 32,
        position=7,
        anomaly_score=0.1 + 0.2,
        p_value=1 / 3,
        verdict="can't tell",
        review_alpha=0.1 + 1e-17,
        regions=[region],
        kept=True,
    )
    bare = image_row(width=None, height=None, anomaly_score=None, p_value=None, verdict=None, error="no image")
    history.add([full, bare])
    assert history.get(full.id) == full
    assert history.get(bare.id) == bare
    with pytest.raises(UnknownRowError, match='has no image "nothing"'):
        history.get("nothing")


def test_text_that_no_database_takes_is_kept_as_far_as_it_can_be(history, image_row):
    row = image_row(name="a\0b\ud800c", error="e" * 5000, verdict=None)
    history.add([row])
    kept = history.get(row.id)
    assert kept.name == "ab?c"
    assert kept.error == "e" * 1000
    for hostile in ("\0", "\ud800", "x'; DROP TABLE images; --"):
        assert (
            found(history, text=f"q{hostile}q") == found(history, model=hostile) == found(history, batch=hostile) == []
        )
        with pytest.raises(UnknownRowError):
            history.mark(hostile, None)


def test_pages_hold_every_row_once_although_others_come_between(history, image_row):
    history.add([image_row(i) for i in range(25)])
    pages, cursor = [], None
    while True:
        rows, cursor, total = history.find(before=cursor, limit=10)
        pages.append(names(rows))
        assert total == 25  # as it was at the first page
        if cursor is None:
            break
        history.add([image_row(100 + len(pages))])
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [name for page in pages for name in page] == [f"part {i:05}.png" for i in reversed(range(25))]
    assert history.find()[2] == 27


def test_a_page_that_is_full_and_the_last_has_no_next(history, image_row):
    history.add([image_row(i) for i in range(10)])
    assert history.find(limit=10)[1] is None


@pytest.mark.parametrize("cursor", ["", "x", "1", "-1-2", "1-2-3", "٣-٣", f"{10**18}-1"])
def test_a_cursor_of_somebodys_own_is_refused(history, cursor):
    with pytest.raises(ConfigError, match="there is no page before"):
        history.find(before=cursor)


def test_every_condition_of_a_filter_by_hand(history, image_row):
    history.add_batch(BatchRow("b" * 32, START, "bolts", {}))
    rows = [
        image_row(0, name="plain.png"),
        image_row(1, name="other model.png", model="nuts", version="ffff"),
        image_row(2, name="called.png", verdict="anomalous"),
        image_row(3, name="unsure.png", verdict="can't tell"),
        image_row(4, name="broken.png", verdict=None),
        image_row(5, name="of a batch.png", batch="b" * 32, position=0, source="batch"),
    ]
    history.add(rows)
    history.mark(rows[2].id, "false alarm")
    assert found(history, model="nuts") == found(history, version="ffff") == ["other model.png"]
    assert found(history, verdict="anomalous") == found(history, mark="false alarm") == ["called.png"]
    assert found(history, verdict="can't tell") == ["unsure.png"]
    assert found(history, verdict="unusable") == ["broken.png"]
    assert found(history, batch="b" * 32) == found(history, source="batch") == ["of a batch.png"]
    assert "called.png" not in found(history, mark="unmarked")
    assert len(found(history, mark="unmarked")) == 5
    second = timedelta(seconds=1)
    assert found(history, since=START + 4 * second) == ["of a batch.png", "broken.png"]
    assert found(history, until=START + second) == ["plain.png"]  # what is of that very moment is not wanted
    assert found(history, since=START + 2 * second, until=START + 4 * second) == ["unsure.png", "called.png"]
    assert found(history, verdict="normal", model="bolts", until=START + second) == ["plain.png"]
    assert found(history) == [row.name for row in reversed(rows)]


def test_text_is_found_in_any_case_and_taken_as_it_is(history, image_row):
    given = ["Straße ÄRGER.png", "100% sure.png", "100_ sure.png", "100x sure.png", "back\\slash.png", "'quoted'.png"]
    history.add([image_row(i, name=name) for i, name in enumerate(given)])
    assert found(history, text="ärger") == found(history, text="STRASSE") == ["Straße ÄRGER.png"]
    assert found(history, text="100%") == ["100% sure.png"]
    assert found(history, text="0_ ") == ["100_ sure.png"]
    assert found(history, text="k\\s") == ["back\\slash.png"]
    assert found(history, text="'Quoted'") == ["'quoted'.png"]
    assert len(found(history, text="SURE")) == 3


def test_last_images_and_counts(history, image_row):
    rows = [
        image_row(i, model="nuts" if i % 2 else "bolts", version="new" if i > 3 else "old", verdict=verdict)
        for i, verdict in enumerate(["normal", "normal", "anomalous", "normal", None, "normal", "anomalous", "normal"])
    ]
    history.add(rows)
    history.mark(rows[2].id, "confirmed")
    of = [row.name for row in rows]
    assert names(history.last("bolts", 2)) == [of[6], of[2]]  # number 4 has no verdict
    assert names(history.last("bolts", 9, "old")) == [of[2], of[0]]
    assert names(history.last("nuts", 2, upto=rows[5].id)) == [of[5], of[3]]
    assert history.last("nuts", 2, upto="gone") == []
    assert history.counts(Filter(model="bolts")) == {
        ("normal", None): 1,
        ("anomalous", "confirmed"): 1,
        (None, None): 1,
        ("anomalous", None): 1,
    }


def test_an_export_holds_every_row_once_and_lets_others_write(history, image_row):
    history.add([image_row(i, verdict="anomalous" if i % 3 else "normal") for i in range(PAGE * 3 // 2 + 1)])
    rows = []
    for row in history.export(Filter(verdict="anomalous")):
        if len(rows) == 3:
            history.add([image_row(9999, verdict="anomalous")])
        rows.append(row.name)
    assert rows == [f"part {i:05}.png" for i in reversed(range(PAGE * 3 // 2 + 1)) if i % 3]
    assert len(list(history.export())) == PAGE * 3 // 2 + 2


def test_rows_that_are_there_already_are_left_out(history, image_row):
    history.add_batch(BatchRow("b" * 32, START, "bolts", {}, total=3))
    of_batch = [image_row(i, batch="b" * 32, position=i) for i in range(2)]
    history.add(of_batch, batch="b" * 32, done=2)
    again = [replace(row, id=new_id(), name="again") for row in of_batch]
    history.add([*again, image_row(2, batch="b" * 32, position=2)], batch="b" * 32, done=3)
    history.add(of_batch)  # written, but whoever wrote did not hear of it
    assert found(history) == ["part 00002.png", "part 00001.png", "part 00000.png"]
    assert history.batch("b" * 32).done == 3
    history.add([image_row(3), image_row(4)])  # what is of no batch has no place in one
    assert history.find()[2] == 5


def test_rows_and_progress_are_written_together_or_not_at_all(history, image_row):
    history.add_batch(BatchRow("b" * 32, START, "bolts", {}))
    with pytest.raises(HistoryError):
        history.add([image_row(0), image_row(1, batch="c" * 32, position=0)], batch="b" * 32, done=2)  # no batch c
    assert history.find()[2] == 0
    assert history.batch("b" * 32).done == 0


def test_retention_leaves_what_was_marked_and_what_is_under_way(history, image_row):
    history.add_batch(BatchRow("b" * 32, START, "bolts", {}, "running"))
    history.add_batch(BatchRow("c" * 32, START, "bolts", {}))
    rows = [image_row(i, verdict="anomalous") for i in range(5)]
    of_batches = [image_row(0, name=id, batch=id * 32, position=0) for id in "bc"]
    history.add([*rows, *of_batches])
    history.set_batch("c" * 32, "done")
    history.mark(rows[0].id, "confirmed")
    history.mark(rows[1].id, "false alarm")
    history.undo()
    assert history.prune(START + timedelta(seconds=3)) == 2
    assert found(history) == ["b", "part 00004.png", "part 00003.png", "part 00001.png", "part 00000.png"]
    assert history.prune(START + timedelta(seconds=3)) == 0


def test_retention_of_more_rows_than_go_at_once(history, image_row):
    history.add([image_row(i) for i in range(2 * PAGE + 1)])
    assert history.prune(START + timedelta(seconds=2 * PAGE)) == 2 * PAGE
    assert history.find()[2] == 1


# marks


def test_marks_are_set_changed_and_taken_away_and_all_of_it_is_kept(history, image_row):
    row = image_row(verdict="anomalous", kept=True)
    history.add([row])
    before = now()
    marked = history.mark(row.id, "confirmed", "scratch")
    assert vars(marked) == vars(row) | {"mark": "confirmed", "event": marked.event}
    history.mark(row.id, "false alarm", "no, dust")
    history.mark(row.id, None)
    assert history.get(row.id) == row
    events = history.marks_of(row.id)
    assert [(one.mark, one.before, one.comment, one.undone) for one in events] == [
        ("confirmed", None, "scratch", None),
        ("false alarm", "confirmed", "no, dust", None),
        (None, "false alarm", "", None),
    ]
    assert all(one.image == row.id and before <= one.time <= now() for one in events)


@pytest.mark.parametrize(
    ("verdict", "possible"),
    [
        ("normal", {"missed"}),
        ("can't tell", {"false alarm", "confirmed"}),
        ("anomalous", {"false alarm", "confirmed"}),
        (None, set()),
    ],
)
def test_which_verdict_can_have_which_mark(history, image_row, verdict, possible):
    row = image_row(verdict=verdict)
    history.add([row])
    for mark in ("false alarm", "missed", "confirmed", "nonsense"):
        if mark in possible:
            assert history.mark(row.id, mark).mark == mark
        else:
            with pytest.raises(ConfigError, match=f'of verdict "{verdict or "unusable"}" can have .*, not "{mark}"'):
                history.mark(row.id, mark)
    assert len(history.marks_of(row.id)) == len(possible)


def test_marks_are_undone_one_after_the_other_the_last_first(history, image_row):
    one, other = (image_row(i, verdict="anomalous") for i in range(2))
    history.add([one, other])
    history.mark(one.id, "confirmed")
    history.mark(other.id, "false alarm")
    history.mark(one.id, "false alarm")
    assert [(row.id, row.mark) for row in (history.undo(), history.undo())] == [
        (one.id, "confirmed"),
        (other.id, None),
    ]
    history.mark(other.id, "confirmed")  # what was undone stays undone
    assert [(row.id, row.mark) for row in (history.undo(), history.undo())] == [(other.id, None), (one.id, None)]
    assert history.undo() is None
    assert [event.undone is not None for event in history.marks_of(one.id)] == [True, True]
    assert len(history.marks_of(other.id)) == 2


def test_one_mark_is_taken_back_whoever_marked_another_image_since(history, image_row):
    one, other = (image_row(i, verdict="anomalous") for i in range(2))
    history.add([one, other])
    mine, theirs = history.mark(one.id, "confirmed").event, history.mark(other.id, "false alarm").event
    assert [history.marks_of(row.id)[0].number for row in (one, other)] == [mine, theirs]
    back = history.undo(mine)
    assert (back.id, back.mark, history.get(other.id).mark) == (one.id, None, "false alarm")
    history.mark(other.id, "confirmed")
    for stale in (mine, theirs):  # taken back already; marked anew since
        with pytest.raises(RefusedError, match="changed or taken back meanwhile") as error:
            history.undo(stale)
        assert error.value.status == 409
    with pytest.raises(UnknownRowError, match='no mark "1000"'):
        history.undo(1000)
    assert (history.get(one.id).mark, history.get(other.id).mark) == (None, "confirmed")
    assert [history.undo().mark, history.undo().mark, history.undo()] == ["false alarm", None, None]


def test_threads_write_and_read_side_by_side(history, image_row):
    called = [image_row(i, verdict="anomalous") for i in range(40)]
    history.add(called)
    problems = []

    def work(k):
        try:
            for i in range(k, 40, 8):
                history.mark(called[i].id, "confirmed")
                history.add([image_row(1000 + 10 * i + j) for j in range(3)])
                assert history.get(called[i].id).mark == "confirmed"
                assert history.find(Filter(text="part"), limit=5)[2] >= 40
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=[k]) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert history.counts() == {("anomalous", "confirmed"): 40, ("normal", None): 120}
    undone = {history.undo().id for _ in range(40)}
    assert undone == {row.id for row in called}
    assert history.undo() is None


# batches and calibrations


def test_batches_wait_in_order_and_what_ran_goes_first(history):
    for i, id in enumerate("abc"):
        history.add_batch(BatchRow(id * 32, START + timedelta(seconds=i), "bolts", {"addresses": [f"é{id}"]}))
    assert history.next_batch() == BatchRow("a" * 32, START, "bolts", {"addresses": ["éa"]})
    assert history.set_batch("b" * 32, "running", total=5) == history.next_batch()
    assert [batch.id[0] for batch in history.batches()] == ["c", "b", "a"]
    assert [batch.id[0] for batch in history.batches(2)] == ["c", "b"]
    ended = history.set_batch("b" * 32, "failed", error="no archive")
    assert (ended.state, ended.total, ended.error) == ("failed", 5, "no archive")
    assert START < ended.finished <= now()
    assert history.next_batch().id == "a" * 32
    history.set_batch("a" * 32, "cancelled")
    history.set_batch("c" * 32, "done", done=0, total=0)
    assert history.next_batch() is None
    with pytest.raises(UnknownRowError, match=r'has no batch "d+"'):
        history.set_batch("d" * 32, "done")


def test_a_batch_that_ended_does_not_run_again(history):
    history.add_batch(BatchRow("a" * 32, START, "bolts", {}))
    history.set_batch("a" * 32, "cancelled")
    assert history.set_batch("a" * 32, "running", done=3).state == "cancelled"
    assert history.batch("a" * 32).done == 0


def test_calibrations_count_up_and_one_is_active(history):
    scores = np.sort(np.random.default_rng(0).normal(size=500))
    row = CalibrationRow("bolts", "v1", 99, START, 0.01, None, "added", 400, scores)
    assert [history.add_calibration(row).number for _ in range(3)] == [1, 2, 3]
    assert history.add_calibration(replace(row, version="v2", review_alpha=0.1)).number == 1
    kept = history.calibrations("bolts", "v1")
    assert [(one.number, one.active) for one in kept] == [(3, True), (2, False), (1, False)]
    assert all(np.array_equal(one.held_out_scores, scores) for one in kept)  # to the last bit
    assert (kept[0].time, kept[0].alpha, kept[0].review_alpha, kept[0].basis) == (START, 0.01, None, "added")
    history.activate("bolts", "v1", 1)
    assert [one.active for one in history.calibrations("bolts", "v1")] == [False, False, True]
    history.activate("bolts", "v1", 0)
    assert not any(one.active for one in history.calibrations("bolts", "v1"))
    assert history.calibrations("bolts", "v2")[0].active  # nobody touched it
    with pytest.raises(ConfigError, match="there is no calibration 4"):
        history.activate("bolts", "v1", 4)


# the database


def test_a_database_is_brought_up_once_and_holds_what_it_held(address, image_row):
    for _ in range(2):
        history = History(address)
        history.migrate()
        history.add([image_row()])
        history.ping()
        history.close()
    assert history.find()[2] == 2  # a closed one opens again
    history.close()


def test_the_migrations_make_the_very_tables_that_the_queries_expect(history):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with history._reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_a_newer_database_is_refused_in_one_line_and_left_alone(address, image_row):
    history = History(address)
    history.migrate()
    history.add([image_row()])
    raw(history, f"UPDATE {VERSION_TABLE} SET version_num = '0007'")
    with pytest.raises(ArtefactError, match=r"tables of a newer alocc \(0007\); install that one, or give") as error:
        history.migrate()
    assert "\n" not in str(error.value)
    assert raw(history, f"SELECT version_num FROM {VERSION_TABLE}") == [("0007",)]
    assert history.find()[2] == 1
    history.close()


def test_somebody_elses_database_is_refused_and_left_alone(address):
    history = History(address)
    raw(history, "CREATE TABLE marks (of_students TEXT)")
    with pytest.raises(ArtefactError, match="holds tables that are not alocc's, such as marks; give an empty"):
        history.migrate()
    assert raw(history, "SELECT * FROM marks") == []
    history.close()
    if isinstance(address, Path):
        assert address.read_bytes()[18] == 1  # not even made one with a write-ahead log


def test_two_processes_that_start_at_once_share_a_database(address):
    code = "import sys, pathlib; from alocc.serving.history import History; a = sys.argv[1]\n"
    code += "h = History(a if '://' in a else pathlib.Path(a)); print(flush=True); sys.stdin.read()\n"
    code += "h.migrate(); h.migrate(); h.ping()"
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(address)], stdin=pipe, stdout=pipe, stderr=pipe)
        for _ in range(3)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.close()
    ends = [(process.wait(60), process.stderr.read()) for process in processes]
    for process in processes:
        process.stdout.close()
        process.stderr.close()
    assert ends == [(0, b"")] * 3


def test_the_change_to_a_write_ahead_log_waits_for_another_process(tmp_path, monkeypatch):
    engine = database.connect(tmp_path / "history.sqlite")
    with closing(sqlite3.connect(tmp_path / "history.sqlite", check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(database, "WAIT", 0.2)
        with pytest.raises(ArtefactError, match=r"cannot be written \(database is locked\)"):
            database._write_ahead(engine)
        monkeypatch.setattr(database, "WAIT", 30.0)
        threading.Timer(0.2, other.rollback).start()
        database._write_ahead(engine)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from alocc.serving.history import History, ImageRow, new_id, now
address = sys.argv[1]
history = History(address if "://" in address else Path(address))
done = history.batch("b" * 32).done
while True:
    rows = [
        ImageRow(new_id(), now(), "bolts", "v", 0, f"{i}", "0" * 64, "batch", 0.01, batch="b" * 32, position=i)
        for i in range(done, done + 5)
    ]
    history.add(rows, batch="b" * 32, done=done + 5)
    done += 5
    print(done, flush=True)
"""


def test_a_killed_process_leaves_every_image_of_its_batch_once(history, address):
    history.add_batch(BatchRow("b" * 32, START, "bolts", {}))
    said = 0
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(address)], stdout=subprocess.PIPE) as process:
            for _ in range(40):
                said = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
        done = history.batch("b" * 32).done
        assert done >= said
        rows = list(history.export(Filter(batch="b" * 32)))
        assert sorted(row.position for row in rows) == list(range(done))
    assert done >= 400


def test_a_page_of_many_rows_comes_at_once(history, image_row):
    verdicts = ["anomalous" if i % 50 == 0 else "normal" for i in range(12_000)]
    history.add([image_row(i, verdict=verdict) for i, verdict in enumerate(verdicts)])
    took = []
    for conditions in ({}, {"verdict": "anomalous"}, {"text": "77"}, {"model": "bolts", "verdict": "normal"}):
        start = time.perf_counter()
        history.find(Filter(**conditions))
        took.append(time.perf_counter() - start)
    assert max(took[1:]) < 0.5, took  # a few hundredths on an idle machine


def test_pages_of_sqlite_follow_an_index_and_sort_nothing(tmp_path):
    history = History(tmp_path / "history.sqlite")
    history.migrate()
    seen = []
    from sqlalchemy import event

    event.listen(history._engine, "before_cursor_execute", lambda *given: seen.append(given[2:4]))
    conditions = [
        {},
        {"verdict": "anomalous"},
        {"mark": "false alarm"},
        {"batch": "b"},
        {"model": "m"},
        {"model": "m", "verdict": "n"},
    ]
    for given in conditions:
        history.find(Filter(**given))
        history.find(Filter(**given), before="5000-9000")
    history.last("m", 100)
    queries = [(query, values) for query, values in seen if "ORDER BY" in query]
    assert len(queries) == 2 * len(conditions) + 1
    counted = [query for query, _ in seen if "count(" in query]
    assert len(counted) == len(conditions)  # not again for the next page
    with sqlite3.connect(tmp_path / "history.sqlite") as connection:
        for query, values in queries:
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values))
            assert "TEMP B-TREE" not in plan, (query, plan)
    connection.close()
    history.close()


# addresses and files that are none of ours


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "--database takes a URL"),
        ("mysql://u:secret@host/name", "takes postgresql://… or sqlite:///FILE, not mysql://"),
        ("postgresql+asyncpg://u:secret@host/name", "not postgresql"),
        ("sqlite://", "--database takes"),
        ("sqlite:///:memory:", "--database takes"),
        ("sqlite:///file:x?mode=memory&uri=true", "--database takes"),
    ],
)
def test_other_addresses_are_refused(address, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        History(address)
    assert "secret" not in str(error.value)


def test_a_server_that_is_not_there_is_one_line_without_the_password(tmp_path):
    pytest.importorskip("psycopg")
    history = History(f"postgresql://somebody:secret@/name?host={tmp_path}")
    with pytest.raises(ArtefactError, match="cannot be opened") as error:
        history.migrate()
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(HistoryError, match="does not answer") as error:
        history.ping()
    assert str(tmp_path) not in str(error.value)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path):
    path = tmp_path / "history.sqlite"
    path.write_bytes(b"no database at all, but something that somebody needs" * 100)
    before = path.read_bytes()
    with pytest.raises(ArtefactError, match=r"history\.sqlite cannot be opened \(file is not a database\)"):
        History(path).migrate()
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["history.sqlite"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtefactError, match="cannot be made"):
        History(tmp_path / "file" / "history.sqlite").migrate()
    with pytest.raises(ArtefactError, match="cannot be opened"):
        History(tmp_path).migrate()


def test_a_path_with_signs_of_urls_is_a_path(tmp_path, image_row):
    path = tmp_path / "50% of #1?x=y" / "history.sqlite"
    history = History(path)
    history.migrate()
    history.add([image_row()])
    history.close()
    assert path.is_file()


def test_readers_and_a_writer_do_not_wait_for_each_other(tmp_path, image_row):
    history = History(tmp_path / "history.sqlite")
    history.migrate()
    history.add([image_row(0)])
    assert raw(history, "PRAGMA journal_mode") == [("wal",)]
    start = time.perf_counter()
    with history._reading() as reader:
        assert len(reader.execute(images.select()).all()) == 1
        history.add([image_row(1)])  # while that one still reads
        assert len(reader.execute(images.select()).all()) == 1
    with history._writing() as writer:
        writer.execute(images.delete())
        rows = []
        thread = threading.Thread(target=lambda: rows.extend(history.find()[0]))
        thread.start()
        thread.join(10)
        assert len(rows) == 2  # as it was before
    assert time.perf_counter() - start < 5
    assert history.find()[2] == 0
    history.close()


def test_the_database_module_names_a_database_without_its_password():
    assert database.name_of(database.connect("postgresql://u:secret@host/name").url).startswith(
        "postgresql+psycopg://u:***@"
    )


def test_one_server_claims_a_database_until_it_closes_or_dies(history, address):
    history.claim()
    other = History(address)
    with pytest.raises(ConfigError, match="is used by another server; give another --database"):
        other.claim()
    other.ping()  # whoever reads may
    history.close()
    other.claim()
    other.close()
    words = "import sys, os; from alocc.serving.history import History; h = History(%r); h.claim(); os._exit(0)"
    where = f"__import__('pathlib').Path({str(address)!r})" if isinstance(address, Path) else repr(str(address))
    subprocess.run([sys.executable, "-c", words.replace("%r", where)], check=True)
    end = time.monotonic() + 10
    while True:  # PostgreSQL notices a moment later
        try:
            return history.claim()
        except ConfigError:
            assert time.monotonic() < end
            time.sleep(0.05)
