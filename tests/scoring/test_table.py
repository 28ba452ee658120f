"""The table of scores, in its three formats, written as its rows come."""

import builtins
import csv
import io
import json
import tracemalloc
from functools import partial

import numpy as np
import pytest

from alocc.data.entries import Skipped
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.regions import Region
from alocc.scores import Scores
from alocc.scoring import table
from alocc.scoring.stream import Rows
from alocc.scoring.table import BOX_COLUMNS, COLUMNS, check_table_path, most_anomalous, write_table

AWKWARD = 'b/a "quoted", Größe\n2.png'


def scores(anomaly_score, p_value, is_anomaly):
    return Scores(np.array(anomaly_score), np.array(p_value), np.array(is_anomaly), {}, None, 0.01)


PARTS = [
    Rows(["a/1.png", AWKWARD], scores([-0.1, 0.1 + 0.2], [1.0, 1 / 3], [False, False]), [], 1),
    Rows(["c.png"], scores([12.0], [0.01], [True]), [Skipped("a/bad.png", "a/bad.png cannot be read (truncated)")], 1),
]
ROWS = [
    {"path": "a/1.png", "anomaly_score": -0.1, "p_value": 1.0, "is_anomaly": False, "error": None},
    {"path": AWKWARD, "anomaly_score": 0.1 + 0.2, "p_value": 1 / 3, "is_anomaly": False, "error": None},
    {"path": "c.png", "anomaly_score": 12.0, "p_value": 0.01, "is_anomaly": True, "error": None},
    {
        "path": "a/bad.png",
        "anomaly_score": None,
        "p_value": None,
        "is_anomaly": None,
        "error": "a/bad.png cannot be read (truncated)",
    },
]
SUFFIXES = ["csv", "jsonl", "parquet"]


def read_rows(path):
    """What a program gets from a table of any format."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


def test_csv_gives_the_exact_numbers_back(tmp_path, capsys):
    totals = write_table(PARTS, tmp_path / "s.csv")
    assert (totals.n_images, totals.n_anomalies, totals.n_seen, totals.skipped) == (3, 1, 2, PARTS[1].skipped)
    text = (tmp_path / "s.csv").read_bytes().decode()
    write_table(PARTS, None)
    assert capsys.readouterr().out == text
    assert text.startswith("path,anomaly_score,p_value,is_anomaly,error\na/1.png,-0.1,1.0,false,\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["path"] for row in rows] == [row["path"] for row in ROWS]
    assert [float(row["anomaly_score"]) for row in rows[:3]] == [row["anomaly_score"] for row in ROWS[:3]]
    assert [float(row["p_value"]) for row in rows[:3]] == [row["p_value"] for row in ROWS[:3]]
    assert [row["is_anomaly"] for row in rows] == ["false", "false", "true", ""]
    assert [rows[3][name] for name in ("anomaly_score", "p_value", "error")] == ["", "", ROWS[3]["error"]]


def test_json_lines_are_the_rows(tmp_path):
    write_table(PARTS, tmp_path / "s.jsonl")
    assert read_rows(tmp_path / "s.jsonl") == ROWS
    assert "Größe" in (tmp_path / "s.jsonl").read_text(encoding="utf-8")


def test_parquet_has_types_and_nulls(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(PARTS, tmp_path / "s.parquet")
    read = parquet.read_table(tmp_path / "s.parquet")
    assert read.to_pylist() == ROWS
    assert [str(kind) for kind in read.schema.types] == ["string", "double", "double", "bool", "string"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_written_as_they_come_and_take_no_memory(tmp_path, suffix, monkeypatch):
    """200 batches of 500 images: 100,000 rows would take some 40 MB as dictionaries."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(table, "ROW_GROUP", 1_000)
    batch = np.linspace(0, 1, 500)

    def parts():
        for number in range(200):
            names = [f"folder/{number:04}/{i:04}.png" for i in range(500)]
            yield Rows(names, scores(batch, batch, batch > 0.5), [], 0)

    tracemalloc.start()
    write_table(parts(), tmp_path / f"s.{suffix}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    rows = read_rows(tmp_path / f"s.{suffix}")
    assert len(rows) == 100_000 and rows[-1]["path"] == "folder/0199/0499.png"
    if suffix == "parquet":
        import pyarrow.parquet

        assert pyarrow.parquet.ParquetFile(tmp_path / "s.parquet").num_row_groups == 100


def test_of_many_rows_only_the_top_is_in_memory(tmp_path):
    """The same 100,000 rows; the highest score is there 200 times, and the first of these come first."""
    batch = np.linspace(0, 1, 500)

    def parts():
        for number in range(200):
            names = [f"folder/{number:04}/{i:04}.png" for i in range(500)]
            yield Rows(names, scores(batch, batch, batch > 0.5), [], 0)

    tracemalloc.start()
    totals = write_table(parts(), tmp_path / "s.csv", partial(most_anomalous, top=201))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000 and (totals.n_images, totals.n_anomalies) == (100_000, 50_000)
    names = [row["path"] for row in read_rows(tmp_path / "s.csv")]
    assert names == [*(f"folder/{number:04}/0499.png" for number in range(200)), "folder/0000/0498.png"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_classes_are_a_column_behind_the_others(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    nothing = Rows([], scores([], [], np.zeros(0, bool)), [Skipped("z.png", "z.png is empty")], 0)
    parts = [PARTS[0]._replace(classes=["", "=a"]), PARTS[1]._replace(classes=["c"]), nothing]
    write_table(parts, tmp_path / f"s.{suffix}")
    rows = read_rows(tmp_path / f"s.{suffix}")
    assert list(rows[0]) == [*COLUMNS, "class"]
    wanted = ["", "./=a", "c", "", ""] if suffix == "csv" else [None, "=a", "c", None, None]
    assert [row["class"] for row in rows] == wanted


FORMULAS = ["=1+1.png", "+1.png", "-1.png", "@a.png", "\t=1.png", "\r=1.png", "\n=1.png", "＝1.png"]


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("is_skipped", [False, True])
def test_no_cell_of_csv_is_a_formula_and_other_formats_are_raw(tmp_path, name, is_skipped):
    none = scores([], [], np.zeros(0, bool))
    part = Rows([name], scores([1.0], [0.5], [False]), [], 0)
    if is_skipped:
        part = Rows([], none, [Skipped(name, f"{name} is empty")], 0)
    pytest.importorskip("pyarrow")
    for suffix in SUFFIXES:
        write_table([part], tmp_path / f"s.{suffix}")
    [cells] = csv.reader(io.StringIO((tmp_path / "s.csv").read_bytes().decode().partition("\n")[2], newline=""))
    assert cells[0] == f"./{name}" and cells[4] == (f"./{name} is empty" if is_skipped else "")
    assert read_rows(tmp_path / "s.jsonl") == read_rows(tmp_path / "s.parquet")
    assert read_rows(tmp_path / "s.jsonl")[0]["path"] == name


def test_names_that_are_no_formula_and_numbers_below_0_stay_as_they_are(tmp_path):
    write_table([Rows(["a=1.png", " -.png"], scores([-1.5, -2.0], [1, 1], [False] * 2), [], 0)], tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text().splitlines()[1:] == ["a=1.png,-1.5,1,false,", " -.png,-2.0,1,false,"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_boxes_of_strongest_places_are_columns_where_they_are_asked_for(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    regions = [Region(3, 4, 10, 20, 150, 2.0, 0.1, "darker", 2), Region(0, 0, 1, 1, 1, 1.0, 0.2, "brighter", 2)]
    parts = [PARTS[0]._replace(regions=[[], []]), PARTS[1]._replace(regions=[regions])]
    write_table(parts, tmp_path / f"s.{suffix}", with_boxes=True)
    nothing = "" if suffix == "csv" else None
    found = [[row[column] or nothing for column in BOX_COLUMNS] for row in read_rows(tmp_path / f"s.{suffix}")]
    box = [3, 4, 13, 24]
    assert found == [[nothing] * 4] * 2 + [[str(side) for side in box] if suffix == "csv" else box] + [[nothing] * 4]
    write_table(parts, tmp_path / f"t.{suffix}")
    assert list(read_rows(tmp_path / f"t.{suffix}")[2]) == list(COLUMNS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_stream_that_breaks_leaves_the_former_table(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")

    def broken():
        yield PARTS[0]
        raise DataError("an image is broken")

    (tmp_path / f"s.{suffix}").write_text("before")
    with pytest.raises(DataError, match="an image is broken"):
        write_table(broken(), tmp_path / f"s.{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"s.{suffix}"]
    assert (tmp_path / f"s.{suffix}").read_text() == "before"


def test_nothing_is_printed_of_a_stream_that_breaks(capsys):
    def broken():
        yield PARTS[0]
        raise DataError("an image is broken")

    with pytest.raises(DataError):
        write_table(broken(), None)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["s.txt", "s", "s.csv.gz"])
def test_other_suffixes_are_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match=r"must end in \.csv, \.jsonl, \.parquet"):
        write_table(PARTS, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_says_how_to_get_it(monkeypatch, tmp_path):
    real_import = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(ConfigError, match=r"pip install pyarrow"):
        check_table_path(tmp_path / "s.parquet")
    check_table_path(tmp_path / "s.csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_place_that_cannot_be_written_is_an_artefact_error(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / f"s.{suffix}").mkdir()
    with pytest.raises(ArtefactError, match=r"cannot be written"):
        write_table(PARTS, tmp_path / f"s.{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"s.{suffix}"]


def test_the_columns_are_these():
    assert COLUMNS == ("path", "anomaly_score", "p_value", "is_anomaly", "error")
