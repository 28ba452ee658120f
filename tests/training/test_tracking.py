"""TensorBoard and MLflow show what history.csv says, each iteration once, and neither can stop a training."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

TINY = [
    *("--iterations", "20", "--set", "networks.width=4", "--set", "training.batch_size=8"),
    *("--set", "scoring={d=1.0, mse=1.0, texture=1.0}", "--set", "maps={mse=1.0, places=1.0}"),
]
COMMAND = """
import os, sys
from alocc.training import loop
from alocc.cli import main

moment, act = int(sys.argv.pop(1)), sys.argv.pop(1)
iterations, finite = [0], loop._finite

def counted(*arguments):
    iterations[0] += 1
    if iterations[0] == moment:
        exec(act)
    return finite(*arguments)

loop._finite = counted
main()
"""
"""The command line, in which something happens within one of the iterations."""

pytestmark = pytest.mark.filterwarnings("ignore")  # what both libraries warn of is not ours
with_tensorboard = pytest.mark.skipif(
    not importlib.util.find_spec("tensorboard"), reason="needs tensorboard: pip install '.[tensorboard]'"
)
with_both = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tensorboard", "mlflow", "sqlalchemy", "alembic"))),
    reason="needs tensorboard and mlflow: pip install '.[tensorboard,mlflow]'",
)


def train(good, out, *words, code=0, moment=0, act="", **environment):
    """Standard error of a training."""
    words = ["-c", COMMAND, moment, act, "train", good, "--out", out, *TINY, *words]
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment = own | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def curves_of(run):
    """Name → iterations and values, of history.csv."""
    curves = defaultdict(list)
    with (run / "history.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            _, step, fold = (row.pop(name) for name in ("phase", "iteration", "fold"))
            for name, value in row.items():
                if value:
                    curves[name if fold == "1" else f"fold{fold}/{name}"].append((int(step), float(value)))
    return curves


def events_of(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()


def mlflow_runs(run):
    """A client of the store in a run folder, and its runs, the newest first."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'mlflow' / 'mlflow.db'}")
    return client, client.search_runs([client.get_experiment_by_name("alocc").experiment_id])


def check_curves(run):
    """Both logs have the rows of the history, each once."""
    curves, events = curves_of(run), events_of(run)
    assert set(events.Tags()["scalars"]) == set(curves)
    assert {"r_mse", "polarity", "fold2/polarity", "places"} <= set(curves)
    client, [own] = mlflow_runs(run)
    assert set(own.data.metrics) == set(curves)
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        scalars = events.Scalars(name)
        assert [one.step for one in scalars] == list(steps), name
        np.testing.assert_allclose([one.value for one in scalars], values, rtol=1e-6)
        metrics = client.get_metric_history(own.info.run_id, name)
        assert [(one.step, one.value) for one in metrics] == points, name
    for name in ("reconstructions", "maps"):
        steps = [one.step for one in events.Images(name)]
        assert len(steps) == len(set(steps)) > 0
        assert len(client.list_artifacts(own.info.run_id, name)) == len(steps)
    assert all(len(events.Tensors(f"{name}/text_summary")) == 1 for name in ("config", "health"))
    assert own.info.status == "FINISHED"
    return client, own


@pytest.fixture(scope="module")
def plain(good, tmp_path_factory):
    """A run that nothing watched."""
    run = tmp_path_factory.mktemp("plain") / "run"
    train(good, run)
    return run


@with_both
@pytest.mark.slow
def test_both_show_the_whole_training(good, plain, tmp_path):
    run = tmp_path / "run"
    assert "warning" not in train(good, run, "--log", "tensorboard,mlflow")
    client, own = check_curves(run)
    assert own.info.run_name == str(run)
    assert own.data.params["training.batch_size"] == "8"
    assert own.data.tags["health"] in ("good", "doubtful", "useless")
    assert own.data.tags["health"] in own.data.tags["mlflow.note.content"]
    kept = Path(client.download_artifacts(own.info.run_id, "model.safetensors"))
    for path in (kept, run / "model.safetensors"):
        assert path.read_bytes() == (plain / "model.safetensors").read_bytes()
    assert (run / "history.csv").read_bytes() == (plain / "history.csv").read_bytes()


@with_both
@pytest.mark.slow
def test_a_killed_training_goes_on_in_the_same_logs(good, plain, tmp_path):
    log = ("--log", "tensorboard", "mlflow")
    kill = "os.kill(os.getpid(), 9)"  # rows behind the last checkpoint are logged by then, and come again
    train(good, tmp_path / "run", *log, code=-signal.SIGKILL, moment=19, act=kill)
    train(good, tmp_path / "run", *log, code=-signal.SIGKILL, moment=15, act=kill)
    assert "going on" in train(good, tmp_path / "run", *log)
    check_curves(tmp_path / "run")
    assert (tmp_path / "run" / "history.csv").read_bytes() == (plain / "history.csv").read_bytes()


@with_both
@pytest.mark.slow
def test_a_store_that_fails_in_the_middle_costs_a_warning(good, plain, tmp_path):
    run = tmp_path / "run"
    break_it = f"open({str(run / 'mlflow' / 'mlflow.db')!r}, 'wb').write(b'no data base' * 50_000)"
    err = train(good, run, "--log", "mlflow", "tensorboard", moment=3, act=break_it)
    [warning] = [line for line in err.splitlines() if "warning" in line]
    assert warning.startswith("warning: MLflow cannot be written to (")
    assert warning.endswith("); the training goes on without it")
    assert (run / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert [one.step for one in events_of(run).Scalars("r_mse")] == [step for step, _ in curves_of(run)["r_mse"]]


@with_both
def test_a_server_that_does_not_answer_is_an_error_before_the_training(good, tmp_path):
    err = train(good, tmp_path / "run", "--log", "mlflow", code=2, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    [message] = [line for line in err.splitlines() if not line.startswith("starting ")]
    assert message.startswith("error: --log mlflow: MLFLOW_TRACKING_URI cannot be used (")
    assert not (tmp_path / "run").exists()


@with_tensorboard
def test_another_training_removes_events_and_nothing_else(good, tmp_path):
    run, words = tmp_path / "run", ("--set", "maps={mse=1.0}", "--log", "tensorboard")
    train(good, run, *words)
    notes, [old] = run / "tensorboard" / "notes.txt", (run / "tensorboard").iterdir()
    notes.write_text("mine")
    (run / "mlflow-run.txt").write_text("of this training")
    train(good, run, *words, "--seed", "1", code=2)
    assert old.exists()
    train(good, run, *words[:2], "--seed", "1", "--overwrite")
    assert list((run / "tensorboard").iterdir()) == [notes]
    assert notes.read_text() == "mine"
    assert not (run / "mlflow-run.txt").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_library_that_is_missing_is_named_with_the_command(alocc, good, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    for option in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(option, "1")  # as it sets them if they are not
    err = alocc("train", good, "--out", tmp_path / "run", "--log", name, code=2)
    assert f"error: --log {name}: install it with: pip install {name}" in err
    assert not (tmp_path / "run").exists()


def test_what_is_no_log_is_refused(alocc, good, tmp_path):
    err = alocc("train", good, "--out", tmp_path / "run", "--log", "wandb", code=2)
    assert "error: --log must be tensorboard or mlflow, got 'wandb'" in err
