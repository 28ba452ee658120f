"""A training that was stopped ends as one that was not: weights to the bit, and the same history."""

import copy
import csv

import numpy as np
import pytest
import torch

from alocc.config import preset, with_settings
from alocc.detector import Detector
from alocc.errors import ArtefactError, StoppedError
from alocc.seeding import generator
from alocc.storage import load_tensors, save_tensors
from alocc.training.batches import Batches
from alocc.training.checkpoint import TrainingState
from alocc.training.history import History, history_csv
from alocc.training.loop import Hooks
from alocc.training.run import train

IMAGES = np.random.default_rng(0).integers(0, 200, (40, 16, 16), dtype=np.uint8)


def small(name, *settings):
    return with_settings(preset(name), ["networks.width=4", "training.batch_size=16", *settings])


ONE_FOLD = small("robust", "calibration.folds=0")


def stopped_after(n):
    asked = iter([False] * (n - 1) + [True])
    return Hooks(stop_requested=lambda: next(asked))


def history(folder):
    """Columns and rows."""
    with (folder / "history.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames, list(reader)


def make_state(seed):
    """Three networks as they start, with an optimiser of each kind; and one step of training them."""
    first = generator(seed, "weights")
    networks = {
        name: torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4)) for name in ("R", "D", "E")
    }
    for network in networks.values():
        for parameter in network.parameters():
            parameter.data = torch.rand(parameter.shape, generator=first)
    optimizers = {
        "first.R": torch.optim.AdamW(networks["R"].parameters(), 1e-2, fused=True),
        "second.D": torch.optim.Adam(networks["D"].parameters(), 1e-2),
        "second.E": torch.optim.SGD(networks["E"].parameters(), 1e-2, momentum=0.9),
    }
    streams = {name: generator(seed, name) for name in ("batches", "noise")}
    batches = Batches(10, 4, streams["batches"])
    state = TrainingState(networks, optimizers, streams, batches, {"config": {"seed": seed}})

    def step():
        x = batches().reshape(4, 1, 1, 1) + torch.rand(4, 1, 5, 5, generator=streams["noise"])
        losses = {}
        for (name, network), optimizer in zip(networks.items(), optimizers.values(), strict=True):
            optimizer.zero_grad()
            loss = network(x).sin().mean()
            loss.backward()
            optimizer.step()
            losses[f"z_{name}"] = float(loss.detach())
        state.history.add({**losses, "a": 1 / 3})
        state.iteration += 1

    return state, step


def everything(state):
    tensors = {
        f"{name}.{key}": value for name, net in state.networks.items() for key, value in net.state_dict().items()
    }
    tensors |= {name: stream.get_state() for name, stream in state.streams.items()} | {"p": state.batches.pending}
    for name, optimizer in state.optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": value for key, value in values.items()}
    return copy.deepcopy(tensors), copy.deepcopy((state.phase, state.iteration, state.seconds, state.history))


def test_a_state_comes_back_whole_and_goes_on_alike(tmp_path):
    state, step = make_state(0)
    for _ in range(3):
        step()
    state.phase, state.seconds = 2, 1.25
    state.history.write_row("first", 3, {"zeta": 0.1, "auroc": 0.7})
    step()
    state.save(tmp_path / "x.safetensors")
    saved = everything(state)
    step()
    ahead = everything(state)

    again, step_again = make_state(0)
    again.restore(tmp_path / "x.safetensors", never)
    assert_equal(everything(again), saved)
    assert list(again.history.rows[0]) == ["phase", "iteration", "z_R", "z_D", "z_E", "a", "zeta", "auroc"]
    assert list(again.history.losses[0]) == ["z_R", "z_D", "z_E", "a"]
    step_again()
    assert_equal(everything(again), ahead)


def never(message):
    raise AssertionError(message)


def assert_equal(found, expected):
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        assert torch.equal(found[0][name], value), name


def test_checkpoint_of_another_training_is_refused_and_changes_nothing(tmp_path):
    other, _ = make_state(1)
    other.save(tmp_path / "x.safetensors")
    state, _ = make_state(0)
    before = everything(state)
    with pytest.raises(ArtefactError, match=r"x\.safetensors is the checkpoint of a training with another config"):
        state.restore(tmp_path / "x.safetensors", never)
    assert_equal(everything(state), before)
    assert (tmp_path / "x.safetensors").exists()


@pytest.fixture
def two_checkpoints(tmp_path):
    """A path, and what the state was that it holds, and that the checkpoint before it holds."""
    state, step = make_state(0)
    states = []
    for _ in range(3):  # of the first nothing is left
        step()
        state.save(tmp_path / "x.safetensors")
        states.append(everything(state))
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "x-previous.safetensors"}
    return tmp_path / "x.safetensors", states[2], states[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, metadata: tensors.pop("R.0.weight"),
        lambda tensors, metadata: tensors.update({"D.0.weight": torch.zeros(2)}),
        lambda tensors, metadata: tensors.update({"optimizer/second.D/99/step": torch.tensor(1.0)}),
        lambda tensors, metadata: tensors.update({"optimizer/second.D/x/step": torch.tensor(1.0)}),
        lambda tensors, metadata: tensors.update({"stream/noise": torch.zeros(3, dtype=torch.uint8)}),
        lambda tensors, metadata: tensors.pop("batches/pending"),
        lambda tensors, metadata: metadata.pop("losses"),
        lambda tensors, metadata: metadata.update(history=[1, 2]),
        lambda tensors, metadata: metadata.update(history=None),
    ],
)
def test_something_wrong_in_a_checkpoint_leads_to_the_one_before(two_checkpoints, damage):
    path, _, before = two_checkpoints
    tensors, metadata = load_tensors(path)
    damage(tensors, metadata)
    save_tensors(path, tensors, metadata)
    told = []
    state, _ = make_state(0)
    state.restore(path, told.append)
    assert_equal(everything(state), before)
    assert len(told) == 1 and "\n" not in told[0]
    assert told[0].startswith(f"{path} is damaged (") and told[0].endswith("; going on from the checkpoint before")
    assert [one.name for one in path.parent.iterdir()] == ["x-previous.safetensors"]


def flip(path, at):
    """Change one bit of a file, at a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1])
def test_one_bit_that_flips_is_noticed(two_checkpoints, at):
    path, last, before = two_checkpoints
    state, _ = make_state(0)
    state.restore(path, never)
    assert_equal(everything(state), last)
    flip(path, at)
    told = []
    state.restore(path, told.append)
    assert_equal(everything(state), before)
    assert len(told) == 1 and "going on from the checkpoint before" in told[0]
    state.save(path)  # the damaged one does not take the place of the good one
    path.unlink()
    state.restore(path, never)
    assert_equal(everything(state), before)


@pytest.mark.parametrize("n_there", [1, 2])
def test_where_no_checkpoint_can_be_used_a_state_stays_as_it_starts(two_checkpoints, n_there):
    path, _, _ = two_checkpoints
    before = path.with_stem("x-previous")
    flip(path, 0.9)
    flip(before, 0.5)
    if n_there == 1:
        before.unlink()
    told = []
    state, step = make_state(0)
    step()
    fresh = everything(state)
    state.restore(path, told.append)
    assert_equal(everything(state), fresh)
    assert len(told) == 1 and told[0].count("damaged") == n_there and told[0].endswith("start anew")
    assert list(path.parent.iterdir()) == []


def test_a_kill_between_two_renamings_leaves_the_checkpoint_before(two_checkpoints):
    path, _, before = two_checkpoints
    path.unlink()
    state, _ = make_state(0)
    state.restore(path, never)
    assert_equal(everything(state), before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing stopped: 12 iterations of R, then 10 of D, then 10 of places."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(IMAGES, config=ONE_FOLD, iterations=12, out=out)
    return out


@pytest.mark.parametrize(
    "n", [7, 12, 15, 21, 22, 27]
)  # within R's phase; at its end; early and late in D's; at its end; in places'
def test_weights_after_a_stop_are_those_of_a_training_without_one(whole, tmp_path, n):
    with pytest.raises(StoppedError, match=f"after {n} of 32"):
        train(IMAGES, config=ONE_FOLD, iterations=12, out=tmp_path, hooks=stopped_after(n))
    resumed = []
    train(IMAGES, config=ONE_FOLD, iterations=12, out=tmp_path, hooks=Hooks(resumed=resumed.append, warned=never))
    assert resumed == [n]
    expected, found = (Detector.load(folder).scorer.state_dict() for folder in (whole, tmp_path))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "n", [5, 10, 13, 22, 27]
)  # before and at a row, between rows, at the end of a phase, in the last
def test_history_after_a_stop_is_that_of_a_training_without_one(whole, tmp_path, n):
    with pytest.raises(StoppedError):
        train(IMAGES, config=ONE_FOLD, iterations=12, out=tmp_path, hooks=stopped_after(n))
    train(IMAGES, config=ONE_FOLD, iterations=12, out=tmp_path)
    columns, rows = history(tmp_path)
    assert (columns, rows) == history(whole)
    assert columns[:3] == ["phase", "iteration", "r_mse"]
    assert {row["iteration"] for row in rows} >= {"10", "12", "20", "22", "30", "32"}


def test_history_of_several_stops_in_folds_is_that_of_a_training_without_one(tmp_path):
    config = small("robust")
    train(IMAGES, config=config, iterations=30, out=tmp_path / "whole")
    for n in (6, 6, 12, 10):
        with pytest.raises(StoppedError):
            train(IMAGES, config=config, iterations=30, out=tmp_path / "parts", hooks=stopped_after(n))
    train(IMAGES, config=config, iterations=30, out=tmp_path / "parts")
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert {row["fold"] for row in history(tmp_path / "parts")[1]} == {"1", "2"}


def test_history_averages_losses_since_the_last_row():
    told = History()
    for value in (1.0, 3.0):
        told.add({"r_mse": value})
    told.write_row("reconstruction", 2, {"auroc": 0.9})
    assert told.losses == []
    told.add({"d_real": 7.0})
    told.write_row("discrimination", 3, {})
    assert history_csv(told.rows) == (
        "phase,iteration,r_mse,auroc,d_real\nreconstruction,2,2.0,0.9,\ndiscrimination,3,,,7.0\n"
    )
