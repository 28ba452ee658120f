"""The file of scores, in its three formats."""

import builtins
import csv
import io
import json

import numpy as np
import pytest

from alocc.data.sources import Skipped
from alocc.detector import Scores
from alocc.errors import ArtefactError, ConfigError
from alocc.evaluation.table import Joined, ScoreTable, check_table_path

AWKWARD = 'b/a "quoted", Größe\n2.png'


@pytest.fixture
def table():
    skipped = (Skipped("a/broken.png", "a/broken.png cannot be read (truncated)"),)
    scores = Scores(
        np.array([-0.1, 0.1 + 0.2, 12.0]),
        np.array([1.0, 1 / 3, 0.01]),
        np.array([False, False, True]),
        {"mse": np.zeros(3)},
        None,
        0.01,
    )
    return ScoreTable(["a/1.png", AWKWARD, "c.png"], scores, skipped)


ROWS = [
    {"path": "a/1.png", "anomaly_score": -0.1, "p_value": 1.0, "is_anomaly": False, "error": None},
    {"path": AWKWARD, "anomaly_score": 0.1 + 0.2, "p_value": 1 / 3, "is_anomaly": False, "error": None},
    {"path": "c.png", "anomaly_score": 12.0, "p_value": 0.01, "is_anomaly": True, "error": None},
    {
        "path": "a/broken.png",
        "anomaly_score": None,
        "p_value": None,
        "is_anomaly": None,
        "error": "a/broken.png cannot be read (truncated)",
    },
]


def test_csv_gives_the_exact_numbers_back(table, tmp_path):
    table.write(tmp_path / "s.csv")
    text = (tmp_path / "s.csv").read_bytes().decode()
    assert text == table.as_csv()
    assert text.startswith("path,anomaly_score,p_value,is_anomaly,error\na/1.png,-0.1,1.0,false,\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["path"] for row in rows] == [row["path"] for row in ROWS]
    assert [float(row["anomaly_score"]) for row in rows[:3]] == [row["anomaly_score"] for row in ROWS[:3]]
    assert [float(row["p_value"]) for row in rows[:3]] == [row["p_value"] for row in ROWS[:3]]
    assert [row["is_anomaly"] for row in rows] == ["false", "false", "true", ""]
    assert [rows[3][name] for name in ("anomaly_score", "p_value", "error")] == ["", "", ROWS[3]["error"]]


def test_json_lines_are_the_rows(table, tmp_path):
    table.write(tmp_path / "s.jsonl")
    text = (tmp_path / "s.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == ROWS
    assert "Größe" in text


def test_parquet_has_types_and_nulls(table, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table.write(tmp_path / "s.parquet")
    read = parquet.read_table(tmp_path / "s.parquet")
    assert read.to_pylist() == ROWS
    assert [str(kind) for kind in read.schema.types] == ["string", "double", "double", "bool", "string"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_no_images_give_an_empty_table(tmp_path, suffix):
    nothing = np.zeros(0)
    empty = ScoreTable([], Scores(nothing, nothing, nothing > 0, {}, None, 0.01))
    empty.write(tmp_path / f"s.{suffix}")
    if suffix == "csv":
        assert (tmp_path / "s.csv").read_text() == "path,anomaly_score,p_value,is_anomaly,error\n"
    elif suffix == "jsonl":
        assert (tmp_path / "s.jsonl").read_text() == ""
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(tmp_path / "s.parquet").num_rows == 0


@pytest.mark.parametrize("name", ["s.txt", "s", "s.csv.gz"])
def test_other_suffixes_are_refused_before_anything_is_written(table, tmp_path, name):
    with pytest.raises(ConfigError, match=r"must end in \.csv, \.jsonl, \.parquet"):
        table.write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_says_how_to_get_it(monkeypatch, tmp_path):
    real_import = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(ConfigError, match=r"pip install 'alocc\[parquet\]'"):
        check_table_path(tmp_path / "s.parquet")
    check_table_path(tmp_path / "s.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_place_that_cannot_be_written_is_an_artefact_error(table, tmp_path, suffix):
    (tmp_path / f"s.{suffix}").mkdir()
    with pytest.raises(ArtefactError, match=r"cannot be written"):
        table.write(tmp_path / f"s.{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"s.{suffix}"]


def test_joined_names_are_those_of_all_batches():
    names = Joined([["a", "b"], ["c"], [], ["d"]])
    assert len(names) == 4 and list(names) == ["a", "b", "c", "d"]
    assert [names[i] for i in range(4)] == list(names) and names[-1] == "d" and names[1:3] == ["b", "c"]
    with pytest.raises(IndexError):
        names[4]
