import csv

import numpy as np
import pytest
import torch

import alocc
from alocc.config import preset, with_settings
from alocc.data.splits import split_normals
from alocc.errors import DataError, NonFiniteLossError, StoppedError
from alocc.networks.architecture import build_networks
from alocc.seeding import generator
from alocc.storage import load_tensors
from alocc.synthesis.deformation import jitter
from alocc.synthesis.negatives import NEGATIVES, make_negatives
from alocc.training.batches import Batches
from alocc.training.calibrating import Kinds
from alocc.training.history import History, history_csv
from alocc.training.loop import Hooks
from alocc.training.phases import one_cycle
from alocc.training.plan import Plan, load_training_images
from alocc.training.run import train

SMALL = ["networks.width=4", "training.batch_size=16"]
IMAGES = np.random.default_rng(0).integers(0, 200, (60, 16, 16), dtype=np.uint8)


def config(name, *settings):
    return with_settings(preset(name), [*SMALL, *settings])


def tensor(images):
    return torch.from_numpy(images)[:, None] / 255


def history(folder):
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(value, again) for value, again in pairs)


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
    history.write_row("reconstruction", 2, {"auroc": 0.9})
    history.add({"d_real": 7.0})
    history.write_row("discrimination", 3, {})
    assert history_csv(history.rows) == (
        "phase,iteration,r_mse,auroc,d_real\nreconstruction,2,2.0,0.9,\ndiscrimination,3,,,7.0\n"
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
    train(IMAGES, config=config("robust"), iterations=12, out=tmp_path / "b", hooks=Hooks(open_watch=lambda _: watch))
    assert len(looks) > 3 and len(set(looks)) > 3
    a, b = ((tmp_path / run / "model.safetensors").read_bytes() for run in "ab")
    assert a == b


def test_every_phase_changes_what_it_trains_and_nothing_else():
    plans = []
    detector = train(
        IMAGES, config=config("robust"), iterations=10, hooks=Hooks(started=lambda plan, again: plans.append(plan))
    )
    assert [[phase.name for phase in phases] for phases in plans[0].phases] == [
        ["reconstruction", "discrimination", "places"], ["reconstruction", "discrimination"],
    ]  # fmt: skip
    off = ["training.discrimination=none", "training.places=none", "scoring={mse=1.0}", "maps={mse=1.0}"]
    without_d = train(IMAGES, config=config("robust", *off), iterations=10)
    Ds = detector.scorer.parts["d"].networks
    assert len(Ds) == len(detector.scorer.R) == len(without_d.scorer.R) == 2
    for fold, (R, D, R_alone) in enumerate(zip(detector.scorer.R, Ds, without_d.scorer.R, strict=True)):
        start = generator(0, f"fold{fold + 1}/weights" if fold else "weights")
        R_start, D_start = build_networks(detector.config.networks, 1, (16, 16), start)
        assert same(R, R_alone)  # D's phase moves no weight and no running mean of R
        assert not any(map(torch.equal, R.parameters(), R_start.parameters()))
        assert not torch.equal(D.head.weight, D_start.head.weight)


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


def test_the_papers_rule_stops_training_once_its_error_is_below_and_not_before(tmp_path):
    """Asked at each row, here every ten iterations; R's error is taken by hand from trainings of as many."""
    plain = np.empty((60, 16, 16), np.uint8)
    plain[:] = np.random.default_rng(0).integers(60, 200, (60, 1, 1))
    quick = ["training.adversarial.mse_weight=100", "training.adversarial.adam.learning_rate=1e-3"]

    def after(iterations):
        without = config("paper", *quick, "training.adversarial.stop_mse=none")
        R = train(plain, config=without, iterations=iterations).scorer.R
        x = tensor(plain)[split_normals(len(plain), without.calibration, 0).held_out]
        assert len(x) == 20
        with torch.no_grad():
            return R[0], float((x - R[0](x)).square().mean())

    (_, first), (_, second), (R, third) = (after(n) for n in (10, 20, 30))
    assert third < second < first
    stop_mse = f"training.adversarial.stop_mse={(second + third) / 2}"
    detector = train(plain, config=config("paper", *quick, stop_mse), iterations=400, out=tmp_path / "r")
    assert history(tmp_path / "r")[-1]["iteration"] == "30"
    assert same(detector.scorer.R[0], R)  # the looks moved no running mean
    assert detector.config.training.adversarial.iterations == 400


def test_the_papers_rule_looks_at_held_out_images_alone(tmp_path):
    """R soon redraws plain grey, and never noise."""
    calibration = preset("paper").calibration
    held_out = split_normals(60, calibration, 0).held_out.numpy()
    rng, last = np.random.default_rng(0), {}
    for which in ("fit", "held_out"):
        noisy = np.isin(np.arange(60), held_out) == (which == "held_out")
        images = np.full((60, 16, 16), 128, np.uint8)
        images[noisy] = rng.integers(0, 256, (noisy.sum(), 16, 16))
        train(images, config=config("paper", "training.adversarial.stop_mse=0.05"), iterations=60, out=tmp_path / which)
        last[which] = history(tmp_path / which)[-1]["iteration"]
    assert int(last["fit"]) < 60 and last["held_out"] == "60"


def test_ognet_keeps_r_as_it_was_and_trains_d_against_it(tmp_path):
    plans = []
    detector = train(
        IMAGES, config=config("ognet"), iterations=20, out=tmp_path / "whole",
        hooks=Hooks(started=lambda plan, again: plans.append(plan)),
    )  # fmt: skip
    assert [phase.name for phase in plans[0].phases[0]] == ["adversarial", "old_is_gold"]
    assert detector.config.training.old_is_gold.old_after == 1
    steps = iter(range(1, 1 + plans[0].length))
    with pytest.raises(StoppedError):  # after the last step, with a checkpoint
        train(
            IMAGES, config=config("ognet"), iterations=20, out=tmp_path / "stopped",
            hooks=Hooks(stop_requested=lambda: next(steps) == plans[0].length),
        )  # fmt: skip
    tensors, _ = load_tensors(tmp_path / "stopped" / "checkpoints" / "last.safetensors")
    young, grown = (train(IMAGES, config=config("ognet", "training.old_is_gold=none"), iterations=n) for n in (1, 20))
    for name, value in young.scorer.R[0].state_dict().items():
        assert torch.equal(tensors[f"R_old.{name}"], value), name
    assert not same(young.scorer.R[0], grown.scorer.R[0])
    assert same(detector.scorer.R[0], grown.scorer.R[0])  # only D learns in the second phase
    assert not same(detector.scorer.parts["d"], grown.scorer.parts["d"])


def test_polarity_is_looked_at_while_d_trains_and_kept(tmp_path):
    """The last look, with the networks as they ended, by hand."""
    detector = train(IMAGES, config=config("robust", "calibration.folds=0"), iterations=20, out=tmp_path / "r")
    polarity = detector.training["polarity"]
    assert len(polarity) == 8 and len(set(polarity)) > 1
    assert [float(row["polarity"]) for row in history(tmp_path / "r") if row["polarity"]] == polarity

    dropped = (*detector.training["negatives"], *detector.training.get("looks_normal", ()))
    assert set(dropped) == set(detector.config.training.discrimination.kinds)
    stream = generator(0, "polarity")
    x = tensor(IMAGES)[split_normals(len(IMAGES), detector.config.calibration, 0).held_out]
    normal = jitter(x, stream)
    unseen = [kind for kind in NEGATIVES if kind not in dropped]
    pseudo = make_negatives(x[torch.randperm(len(x), generator=stream)], unseen, stream)
    R, D = detector.scorer.R[0], detector.scorer.parts["d"].networks[0]
    with torch.no_grad():
        of_normal, of_pseudo = (-D(torch.cat([images, R(images)], 1)) for images in (normal, pseudo))
    assert polarity[-1] == pytest.approx(float((of_pseudo[:, None] > of_normal).double().mean()), abs=1e-4)


def test_batches_hold_about_as_many_pixels_whatever_the_size():
    def batch_size(side):
        images = load_training_images(np.zeros((30, side, side), np.uint8), None, preset("robust"))
        return Plan.settle(preset("robust"), images, 1, None).config.training.batch_size

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
    phases = list(dict.fromkeys((row["fold"], row["phase"]) for row in history(tmp_path / "run")))
    networks = ["reconstruction", "adversarial", "discrimination"]
    assert phases == [("1", name) for name in (*networks, "places")] + [("2", name) for name in networks]


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
    assert list(dict.fromkeys(moment.phase for moment in told)) == ["reconstruction", "discrimination", "places"]
    # six of R and five of D in each fold, and ten of places with the first
    assert [moment.phase for moment in told].index("places") == 11 and len(told) == 32

    for n_more, fold in ((15, 1), (9, 2)):  # in the places; in the second fold
        with pytest.raises(StoppedError, match=f"of 32 iterations, in fold {fold} of 2"):
            train(IMAGES, config=config("robust"), iterations=12, out=tmp_path / "parts", hooks=stop_at(n_more))
    again = train(IMAGES, config=config("robust"), iterations=12, out=tmp_path / "parts", hooks=stop_at(None))
    assert resumed == [15, 24]
    assert [moment.iteration for moment in told[32:]] == list(range(1, 33))  # nothing twice, nothing left out
    np.testing.assert_array_equal(again.held_out_scores, whole.held_out_scores)
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    rows = history(tmp_path / "whole")
    assert (rows[0]["fold"], rows[-1]["fold"], rows[-1]["iteration"]) == ("1", "2", "32")


def test_folds_may_stop_at_different_iterations(tmp_path):
    """At ten iterations one fold's error is below the limit and the other's is not."""
    plain = config("paper", "calibration.folds=2", "training.adversarial.stop_mse=none")
    split = split_normals(len(IMAGES), plain.calibration, 0)
    networks = train(IMAGES, config=plain, iterations=20).scorer.R
    with torch.no_grad():
        x = [tensor(IMAGES)[fold.held_out] for fold in split.folds]
        mse = [float((x[k] - networks[k](x[k])).square().mean()) for k in (0, 1)]
    limit = f"training.adversarial.stop_mse={sum(mse) / 2}"
    detector = train(IMAGES, config=with_settings(plain, [limit]), iterations=80, out=tmp_path / "r")
    rows = history(tmp_path / "r")
    ends = [max(int(row["iteration"]) for row in rows if row["fold"] == fold) for fold in "12"]
    iterations, better = (ends[0], ends[1] - ends[0]), mse.index(min(mse))
    assert iterations[better] == 10 < iterations[1 - better] <= 40
    assert len(detector.scorer.R) == 2 and len(detector.held_out_scores) == len(IMAGES)
    assert same(detector.scorer.R[better], networks[better]) and not same(
        detector.scorer.R[1 - better], networks[1 - better]
    )


def test_looks_at_one_fold_take_the_alpha_that_it_supports():
    looks = []
    train(
        IMAGES, config=config("robust"), iterations=6, alpha=1 / (len(IMAGES) + 1),
        hooks=Hooks(open_watch=lambda _: lambda detector: looks.append(detector.threshold) or {"auroc": 0.5}),
    )  # fmt: skip
    assert looks and all(np.isfinite(threshold) for threshold in looks)


def test_a_watched_fold_is_measured_by_parts_fitted_to_its_own_images(monkeypatch):
    fitted = []
    monkeypatch.setattr("alocc.training.run.fit_part", lambda part, normals: fitted.append(len(normals)))
    monkeypatch.setattr("alocc.training.run.choose_kinds", lambda *given: Kinds((), ()))
    settings = ["scoring={texture=1}", "maps={mse=1}", "calibration.folds=2", "calibration.weights=fixed"]
    hooks = Hooks(open_watch=lambda plan: lambda detector: {"figure": 1.0})
    train(IMAGES, config=config("robust", *settings), iterations=4, hooks=hooks)
    assert fitted == [30, 30, 30, 30]  # mse and texture, of each fold


def test_young_r_is_kept_in_each_fold(tmp_path):
    settings = ["calibration.folds=2", "training.old_is_gold.old_after=10", "training.old_is_gold.iterations=2"]
    plan = Plan.settle(
        config("ognet", *settings), load_training_images(IMAGES, None, config("ognet", *settings)), 12, None
    )
    for phases in plan.phases:
        adversarial = phases[0]
        assert (adversarial.name, adversarial.iterations) == ("adversarial", 6)
        assert 0 < adversarial.young_r_after <= adversarial.iterations


def test_phases_that_no_part_uses_are_left_out():
    names = ["reconstruction", "discrimination", "places"]
    for settings, expected in (
        ([], names),
        (["maps={cells=1}"], names[:2]),
        (["scoring={texture=1}", "maps={cells=1}"], names[:1]),
    ):
        own = config("robust", *settings)
        plan = Plan.settle(own, load_training_images(IMAGES, None, own), 10, None)
        assert [phase.name for phase in plan.phases[0]] == expected


def test_too_few_images_without_the_suspected_ones_are_refused():
    own = config("robust", "training.contamination=0.25")
    with pytest.raises(DataError, match="fewer than 5 images are left to train on"):
        load_training_images(IMAGES[:10], None, own)
