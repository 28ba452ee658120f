import csv

import numpy as np
import pytest
import torch

import alocc
from alocc.config import preset, with_settings
from alocc.errors import NonFiniteLossError, StoppedError
from alocc.networks.architecture import build_networks
from alocc.seeding import generator
from alocc.storage import load_tensors
from alocc.training.batches import Batches
from alocc.training.history import History, history_csv
from alocc.training.loop import Hooks
from alocc.training.phases import one_cycle, phases_of
from alocc.training.run import train

SMALL = ["networks.width=4", "training.batch_size=16"]
IMAGES = np.random.default_rng(0).integers(0, 200, (60, 16, 16), dtype=np.uint8)


def config(name, *settings):
    return with_settings(preset(name), [*SMALL, *settings])


def test_every_epoch_has_every_image_once_and_every_batch_is_full():
    batches = Batches(10, 4, generator(0, "batches"))
    drawn = torch.cat([batches() for _ in range(15)])  # 60 = 6 epochs
    assert len(drawn) == 60
    for epoch in drawn.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert len(Batches(3, 8, generator(0, "batches"))()) == 8


def test_one_cycle_by_hand():
    assert one_cycle(0.0) == pytest.approx(1 / 25)
    assert one_cycle(0.15) == pytest.approx((1 / 25 + 1) / 2)
    assert one_cycle(0.3) == pytest.approx(1.0)
    assert one_cycle(0.65) == pytest.approx(0.5, abs=1e-5)
    assert one_cycle(1.0) == pytest.approx(1 / 250_000)


def test_history_averages_losses_between_rows():
    history = History([])
    for value in (1.0, 3.0):
        history.add({"r_mse": value})
    history.write_row("reconstruction", 2, 0.5, {"auroc": 0.9})
    history.add({"d_real": 7.0})
    history.write_row("discrimination", 3, 0.75, {})
    assert history_csv(history.rows) == (
        "phase,iteration,seconds,r_mse,auroc,d_real\nreconstruction,2,0.5,2.0,0.9,\ndiscrimination,3,0.75,,,7.0\n"
    )


@pytest.mark.parametrize("name", ["robust", "article", "paper"])
def test_training_again_after_a_stop_ends_with_the_same_bytes(name, tmp_path):
    train(IMAGES, config=config(name), iterations=24, out=tmp_path / "whole")
    asked = iter([False] * 9 + [True])
    with pytest.raises(StoppedError, match="after 10 of"):
        train(
            IMAGES, config=config(name), iterations=24, out=tmp_path / "parts",
            hooks=Hooks(stop_requested=lambda: next(asked)),
        )  # fmt: skip
    seen = []
    train(
        IMAGES, config=config(name), iterations=24, out=tmp_path / "parts",
        hooks=Hooks(progress=lambda moment: seen.append(moment.iteration)),
    )  # fmt: skip
    assert seen[0] == 11
    whole, parts = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "parts"))
    assert whole == parts


def test_a_stop_at_the_very_end_loses_nothing(tmp_path):
    train(IMAGES, config=config("article"), iterations=5, out=tmp_path / "whole")
    asked = iter([False] * 4 + [True])
    with pytest.raises(StoppedError):
        train(
            IMAGES, config=config("article"), iterations=5, out=tmp_path / "parts",
            hooks=Hooks(stop_requested=lambda: next(asked)),
        )  # fmt: skip
    train(IMAGES, config=config("article"), iterations=5, out=tmp_path / "parts")
    whole, parts = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "parts"))
    assert whole == parts


def test_watching_changes_no_bit(tmp_path):
    looks = []

    def watch(detector):
        looks.append(detector.score(IMAGES).anomaly_score.mean())
        return {"auroc": 0.5}

    train(IMAGES, config=config("robust"), iterations=12, out=tmp_path / "a")
    train(IMAGES, config=config("robust"), iterations=12, out=tmp_path / "b", open_watch=lambda images: watch)
    assert len(looks) > 3 and len(set(looks)) > 3
    a, b = ((tmp_path / run / "model.safetensors").read_bytes() for run in "ab")
    assert a == b


def test_every_phase_changes_what_it_trains_and_nothing_else(tmp_path):
    states = []
    hooks = Hooks(stop_requested=lambda: states.append(1) and False)
    detector = train(IMAGES, config=config("robust"), iterations=10, hooks=hooks)
    without_d = train(
        IMAGES, config=config("robust", "training.discrimination=none", "scoring={mse=1.0}"), iterations=10
    )
    for (R, D), (R_alone, D_alone) in zip(detector.networks, without_d.networks, strict=True):
        assert all(map(torch.equal, R.state_dict().values(), R_alone.state_dict().values()))
        assert not torch.equal(D.head.weight, D_alone.head.weight)
    assert [phase.name for phase in phases_of(detector.config)] == ["reconstruction", "discrimination"]


def test_training_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    alocc.train(IMAGES, config=config("robust"), iterations=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_kept(tmp_path):
    settings = ["training.adversarial.adam.learning_rate=1e20", "training.adversarial.stop_mse=none"]
    with pytest.raises(NonFiniteLossError, match=r"at iteration \d+ of adversarial; .*lower training\.adversarial"):
        train(IMAGES, config=config("paper", *settings), iterations=2000, out=tmp_path / "r")
    checkpoint = tmp_path / "r" / "checkpoints" / "last.safetensors"
    tensors, _ = load_tensors(checkpoint)
    assert all(value.isfinite().all() for value in tensors.values())
    assert not (tmp_path / "r" / "model.safetensors").exists()


def test_the_papers_rule_stops_training(tmp_path):
    detector = train(IMAGES, config=config("paper", "training.adversarial.stop_mse=0.9"), iterations=400)
    assert detector.config.training.adversarial.iterations == 400
    train(IMAGES, config=config("paper", "training.adversarial.stop_mse=0.9"), iterations=400, out=tmp_path / "r")
    last = (tmp_path / "r" / "history.csv").read_text().splitlines()[-1]
    assert last.startswith("adversarial,10,")


def test_ognet_keeps_r_as_it_was_and_trains_d_against_it(tmp_path):
    detector = train(IMAGES, config=config("ognet"), iterations=20, out=tmp_path / "whole")
    assert [phase.name for phase in phases_of(detector.config)] == ["adversarial", "old_is_gold"]
    assert detector.config.training.old_is_gold.old_after == 1
    tensors, _ = load_tensors(tmp_path / "whole" / "checkpoints" / "last.safetensors")
    young = train(IMAGES, config=config("ognet"), iterations=20, hooks=Hooks(stop_requested=None))
    old, new = tensors["R_old.decoder.to_image.weight"], tensors["R.decoder.to_image.weight"]
    assert not torch.equal(old, new) and torch.equal(new, young.networks[0].R.decoder.to_image.weight.detach())
    start, _ = build_networks(detector.config.networks, 1, detector.image_format.size, generator(0, "weights"))
    assert not torch.equal(old, start.decoder.to_image.weight)


def test_polarity_is_looked_at_while_d_trains_and_kept():
    detector = train(IMAGES, config=config("robust"), iterations=20)
    assert len(detector.training["polarity"]) == 8
    assert all(0 <= value <= 1 for value in detector.training["polarity"])


def test_batches_hold_about_as_many_pixels_whatever_the_size():
    def batch_size(side):
        images = np.random.default_rng(0).integers(0, 256, (30, side, side), dtype=np.uint8)
        detector = train(images, config=with_settings(preset("robust"), ["networks.width=4"]), iterations=1)
        return detector.config.training.batch_size

    assert [batch_size(side) for side in (16, 28, 40, 64)] == [64, 64, 31, 16]


def test_suspects_do_not_train_where_the_user_says_that_there_are_some():
    rng = np.random.default_rng(1)
    checks = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((4, 4))) * 200
    others = np.clip(checks + rng.normal(0, 20, (6, 16, 16)), 0, 255).astype(np.uint8)
    spoiled = np.concatenate([IMAGES, others])
    plain, cautious = (
        train(spoiled, config=config("robust"), iterations=10, contamination=share) for share in (None, 0.1)
    )
    assert plain.training["n_left_out"] == 0
    assert cautious.training["n_left_out"] == round(0.2 * len(spoiled)) and plain.training["n_folds"] == 2
    assert cautious.training["n_fit"] == plain.training["n_fit"] - cautious.training["n_left_out"]
    assert cautious.training["n_held_out"] == plain.training["n_held_out"]  # the promise needs them as they came
    unusual = {name: one.score(others).parts["texture"].mean() for name, one in (("p", plain), ("c", cautious))}
    assert unusual["c"] > 5 * unusual["p"]


def test_the_adversarial_term_goes_with_pairs(tmp_path):
    adversarial = "training.adversarial={iterations=4, mse_weight=0.2, adam={learning_rate=2e-4}}"
    train(IMAGES, config=config("robust", adversarial), iterations=6, out=tmp_path / "run")
    phases = [line.split(",")[0] for line in (tmp_path / "run" / "history.csv").read_text().splitlines()[1:]]
    assert list(dict.fromkeys(phases)) == ["reconstruction", "adversarial", "discrimination"]


def test_folds_go_on_where_they_were_stopped(tmp_path):
    told, resumed = [], []

    def stop_at(n):
        moments = []
        return Hooks(
            lambda moment: moments.append(moment) or told.append(moment),
            resumed.append,
            stop_requested=lambda: len(moments) == n,
        )

    whole = train(IMAGES, config=config("robust"), iterations=12, out=tmp_path / "whole", hooks=stop_at(None))
    planned = {moment.planned for moment in told}
    assert len(planned) == 1 and [moment.iteration for moment in told] == list(range(1, planned.pop() + 1))
    assert {moment.phase for moment in told} == {"reconstruction", "discrimination", "maps"}

    n_networks = sum(moment.phase != "maps" for moment in told)
    for n_more in (n_networks // 2 + 3, n_networks // 2 - 1):  # in the second fold; in the maps
        with pytest.raises(StoppedError, match=r"in fold 2 of 2|where images are unusual"):
            train(IMAGES, config=config("robust"), iterations=12, out=tmp_path / "parts", hooks=stop_at(n_more))
    again = train(IMAGES, config=config("robust"), iterations=12, out=tmp_path / "parts", hooks=stop_at(None))
    assert resumed == [n_networks // 2 + 3, n_networks]
    np.testing.assert_array_equal(again.held_out_scores, whole.held_out_scores)
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    rows = list(csv.DictReader((tmp_path / "whole" / "history.csv").read_text().splitlines()))
    assert (rows[0]["fold"], rows[-1]["fold"], rows[-1]["iteration"]) == ("1", "2", str(n_networks))


def test_folds_may_stop_at_different_iterations(tmp_path):
    settings = ["calibration.folds=2", "training.adversarial.stop_mse=0.2"]
    detector = train(IMAGES, config=config("paper", *settings), iterations=40, out=tmp_path / "r")
    assert len(detector.networks) == 2


def test_looks_at_one_fold_take_the_alpha_that_it_supports():
    looks = []
    train(
        IMAGES, config=config("robust"), iterations=6, alpha=1 / (len(IMAGES) + 1),
        open_watch=lambda _: lambda detector: looks.append(detector.threshold) or {"auroc": 0.5},
    )  # fmt: skip
    assert looks and all(np.isfinite(threshold) for threshold in looks)
