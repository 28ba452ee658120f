"""The verdict on a detector: rules by hand, measures on real detectors."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import alocc
from alocc.calibration import Calibration
from alocc.config import preset, with_iterations, with_settings
from alocc.data.images import prepare_batch
from alocc.errors import DataError
from alocc.evaluation.health import (
    Measures,
    _second,
    check,
    check_run,
    gross_probes,
    judge,
    likely_probes,
    measure,
    unseen_kinds,
)
from alocc.storage import json_text

ROBUST = preset("robust")
SMALL = ["networks.width=4", "training.batch_size=16"]
GOOD = Measures(
    probes={"noise": 1.0, "striped": 1.0, "black, white and grey": 0.98},
    unseen_kinds={"mirrored": 0.7, "blurred": 0.8},
    polarity=[0.5, 0.8, 0.9, 0.9, 0.9],
    d_weight=0.4,
    n_held_out=99,
    n_fresh=100,
    same_as_held_out=0.4,
    shift=0.3,
    stability=0.9,
)


def discs(n, seed=0):
    """Bright discs of about one size on dark ground, anywhere near the middle, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:20, 0:20]
    centres, radii = rng.normal(9.5, 0.7, (n, 2)), rng.normal(5, 0.3, n)
    images = [1 / (1 + np.exp(2 * (np.hypot(y - v, x - u) - r))) for (u, v), r in zip(centres, radii, strict=True)]
    return (np.clip(0.8 * np.stack(images) + rng.normal(0.05, 0.02, (n, 20, 20)), 0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector():
    return alocc.train(discs(200), config=with_settings(preset("robust"), SMALL), iterations=200)


def tensor(images, detector):
    return prepare_batch(images, detector.image_format)


def test_nothing_to_find_is_good():
    health = judge(GOOD, ROBUST)
    assert (health.verdict, health.findings) == ("good", [])


@pytest.mark.parametrize(
    ("change", "verdict", "word"),
    [
        ({"unseen_kinds": {"mirrored": 0.35, "blurred": 0.43}}, "useless", "almost normal"),
        ({"unseen_kinds": {"mirrored": 0.43, "blurred": 0.45}}, "doubtful", "almost normal"),
        ({"shift": 4.0}, "doubtful", "on average"),
        ({"probes": {"noise": 0.2}}, "useless", "noise images"),
        ({"probes": {"noise": 0.8}}, "doubtful", "noise images"),
        ({"polarity": [0.9, 0.9, 0.2, 0.9, 0.9]}, "doubtful", "more normal than normal"),
        ({"polarity": [0.9, 0.9, 0.9, 0.9, 0.2], "d_weight": 1.0}, "useless", "more normal than normal"),
        ({"n_held_out": 8}, "doubtful", "only 8 held-out"),
        ({"same_as_held_out": 1e-5}, "doubtful", "do not score like"),
        ({"stability": 0.1}, "doubtful", "second training"),
        ({"spots": {"2": 0.5, "4": 0.6, "8": 0.7}, "shorter_side": 25, "shrunk": 9.8}, "doubtful", "it finds none"),
        (
            {"spots": {"4": 0.5, "8": 0.7, "16": 0.92}, "shorter_side": 64, "shrunk": 5.0},
            "doubtful",
            "only those of 16 pixels across or more, 80 in the originals",
        ),
    ],
)
def test_each_finding_has_a_reason_and_advice(change, verdict, word):
    health = judge(replace(GOOD, **change), ROBUST)
    assert health.verdict == verdict
    assert word in health.findings[0].reason and health.findings[0].advice


ADVISED = {
    "unseen": replace(GOOD, unseen_kinds={"mirrored": 0.3}, shrunk=3.0),
    "probes": replace(GOOD, probes={"noise": 0.1}),
    "spots": replace(GOOD, spots={"4": 0.5}, shorter_side=64, shrunk=3.0),
    "polarity": replace(GOOD, polarity=[0.2] * 5, d_weight=1.0),
    "n": replace(GOOD, n_held_out=5),
    "stability": replace(GOOD, stability=0.1),
}
"""Measures with a finding each."""


@pytest.mark.parametrize(
    ("name", "other"),
    [("article", "robust"), ("paper", "robust"), ("ognet", "robust"), ("robust", "features"), ("features", None)],
)
def test_advice_names_no_preset_that_was_followed_already(name, other):
    for case in ("probes", "polarity"):
        [finding] = judge(ADVISED[case], preset(name)).findings
        assert ("preset" in finding.advice) == (other is not None)
        assert other is None or f"the preset {other}" in finding.advice


@pytest.mark.parametrize(
    ("settings", "advised"),
    [
        ([], "--set images.longest=SIDE, up to 1,024"),
        (["images.size=[500,700]"], "--set images.size=[HEIGHT,WIDTH], up to 1,024"),
        (["images.longest=1024"], None),
        (["images.size=[1024,700]"], None),
        (["images.tile=64"], None),
    ],
)
def test_a_larger_size_is_advised_where_there_is_one(settings, advised):
    config = with_settings(ROBUST, settings)
    for case in ("unseen", "spots"):
        [finding] = judge(ADVISED[case], config).findings
        assert ("larger size" in finding.advice) == (advised is not None)
        assert advised is None or advised in finding.advice
    assert "larger" not in judge(replace(ADVISED["unseen"], shrunk=1.0), config).findings[0].advice
    assert "larger" not in judge(ADVISED["stability"], config).findings[0].advice  # these images were not shrunk


def test_a_larger_alpha_is_advised_where_none_was_asked_for():
    asked = with_settings(ROBUST, ["calibration.alpha=0.2"])
    assert "larger alpha" in judge(ADVISED["n"], ROBUST).findings[0].advice
    assert "larger alpha" not in judge(ADVISED["n"], asked).findings[0].advice


def test_the_meaning_of_a_verdict_counts_pixels_of_the_original_images():
    spots = {"2": 0.5, "4": 0.95, "8": 0.99}
    said = judge(replace(GOOD, spots=spots, shrunk=2.5), ROBUST).meaning
    assert said.startswith("Good means") and "those of 10 pixels across or more were found" in said
    assert "4 standard deviations" in said and "fainter ones were not tried" in said
    assert "those of 4 pixels" in judge(replace(GOOD, spots=spots, shrunk=0.5), ROBUST).meaning  # enlarged
    none = judge(replace(GOOD, spots={"2": 0.5, "8": 0.6}), ROBUST).meaning
    assert "even those of 8 pixels across were missed" in none
    assert "pixels" not in judge(GOOD, ROBUST).meaning  # too small for any


def test_what_makes_a_good_verdict_weak_is_said_and_warns_of_nothing():
    short = with_iterations(ROBUST, 20)
    health = judge(replace(GOOD, n_held_out=30), short)
    few, length = health.findings
    assert health.verdict == "good" and health.warning is None
    assert "only 30 held-out" in few.reason and "20 iterations, where the preset takes 500" in length.reason
    assert judge(replace(GOOD, n_held_out=50), with_iterations(ROBUST, 100)).findings == []


def test_the_worst_finding_decides_and_stands_first():
    health = judge(replace(GOOD, n_held_out=5, probes={"noise": 0.1}), ROBUST)
    assert health.verdict == "useless"
    assert [finding.verdict for finding in health.findings] == ["useless", "doubtful"]


def test_ds_first_fifth_does_not_count():
    assert judge(replace(GOOD, polarity=[0.1, 0.9, 0.9, 0.9, 0.9]), ROBUST).verdict == "good"


def test_probes_are_images():
    for name, x in gross_probes(torch.rand(70, 3, 20, 24), torch.Generator().manual_seed(0)).items():
        assert x.shape == (50, 3, 20, 24), name
        assert x.min() >= 0 and x.max() <= 1


def test_pieces_change_places_and_none_is_lost():
    x = torch.rand((6, 3, 20, 24), generator=torch.Generator().manual_seed(0))
    shuffled = likely_probes(x, torch.Generator().manual_seed(0))["shuffled"]
    assert not torch.equal(shuffled, x)

    def pieces(image):
        return {tuple(piece.flatten().tolist()) for row in image.split(5, 1) for piece in row.split(6, 2)}

    for image, changed in zip(x, shuffled, strict=True):
        assert pieces(image) == pieces(changed)


def test_likely_probes_are_at_most_fifty_images_of_the_same_shape():
    x = 0.4 + 0.1 * torch.randn((60, 1, 22, 27), generator=torch.Generator().manual_seed(0))
    for name, probe in likely_probes(x, torch.Generator().manual_seed(0)).items():
        assert probe.shape == (50, 1, 22, 27) and probe.min() >= (0 if name == "cloudy" else x.min())


def test_flat_images_are_no_probe_where_normal_ones_are_flat():
    flat = torch.full((20, 1, 16, 16), 0.5)
    assert "black, white and grey" not in gross_probes(flat, torch.Generator())
    rough = torch.rand((180, 1, 16, 16), generator=torch.Generator())
    assert "black, white and grey" in gross_probes(rough, torch.Generator())
    assert "black, white and grey" not in gross_probes(torch.cat([rough, flat]), torch.Generator())  # a tenth is flat


def test_a_detector_of_discs_is_good_and_fresh_discs_score_alike(detector):
    health = check(detector, tensor(discs(150, seed=1), detector), fresh=True)
    assert health.verdict == "good", health.findings
    assert health.measures.same_as_held_out > 0.001 and health.measures.n_fresh == 150
    assert set(health.measures.unseen_kinds) == {
        "mirrored", "shifted", "zoomed", "mixed", "relit", "blurred", "scrambled", "cloudy", "shuffled"
    }  # fmt: skip
    assert abs(health.measures.shift) < 1
    assert 8 <= len(health.measures.polarity) <= 9
    assert json.loads(json_text(health))["verdict"] == "good"


def test_images_of_another_kind_are_told_from_the_held_out_ones(detector):
    others = 255 - discs(100, seed=2)
    findings = check(detector, tensor(others, detector), fresh=True).findings
    assert any("do not score like" in finding.reason for finding in findings)


def test_a_part_of_what_it_was_trained_on_is_told_from_all_of_it():
    lying = np.sin(np.arange(20) + np.arange(150)[:, None] * 0.1)[:, :, None] * np.ones(20)
    others = [100 + 80 * lying, 100 + 80 * lying.transpose(0, 2, 1), 255 - discs(150, seed=5), 10 + 0.2 * discs(150)]
    noise = np.random.default_rng(0).normal(0, 5, (600, 20, 20))
    mixed_images = np.concatenate([discs(150), np.clip(np.concatenate(others) + noise, 0, 255).astype(np.uint8)])
    mixed = alocc.train(mixed_images, config=with_settings(preset("robust"), SMALL), iterations=10)
    fresh = tensor(discs(100, seed=1), mixed)
    assert 2.5 < measure(mixed, fresh, fresh=True).shift < 5  # 4 were all the clusters alike
    assert any("on average" in finding.reason for finding in check(mixed, fresh, fresh=True).findings)
    assert measure(mixed, fresh, fresh=False).shift is None


def test_a_detector_turned_round_is_useless(detector):
    scorer = copy.deepcopy(detector.scorer)
    for scale in scorer.fusion.scales.values():
        scale.deviation.neg_()  # every part's z, and so the score, with the other sign
    turned = replace(detector, scorer=scorer, calibration=Calibration.of(-detector.held_out_scores, detector.alpha))
    assert check(turned, tensor(discs(100, seed=1), detector), fresh=True).verdict == "useless"


def test_a_second_seed_is_compared(detector):
    second = alocc.train(discs(200), config=with_settings(preset("robust"), SMALL), iterations=30, seed=1)
    measures = measure(detector, tensor(discs(60, seed=1), detector), fresh=False, second=second)
    assert 0.5 < measures.stability < 1
    assert measure(detector, tensor(discs(60, seed=1), detector), fresh=False, second=detector).stability > 0.999999


def test_no_images_are_refused_and_three_are_enough(detector):
    with pytest.raises(DataError, match="no normal images to check with"):
        check(detector, tensor(discs(3), detector)[:0], fresh=True)
    assert check(detector, tensor(discs(3, seed=1), detector), fresh=True).measures.n_fresh == 3


def test_a_run_on_arrays_needs_images_to_be_checked(tmp_path):
    alocc.train(discs(60), config=with_settings(preset("robust"), SMALL), iterations=10, out=tmp_path / "run")
    with pytest.raises(DataError, match="trained on arrays"):
        check_run(tmp_path / "run")
    with pytest.raises(DataError, match="--no-second-seed"):
        check_run(tmp_path / "run", discs(40, seed=3))
    health = check_run(tmp_path / "run", discs(40, seed=3), second_seed=False)
    assert json.loads((tmp_path / "run" / "health.json").read_text())["verdict"] == health.verdict


def test_images_that_it_was_trained_on_are_not_fresh(tmp_path):
    alocc.train(discs(60), config=with_settings(preset("robust"), SMALL), iterations=10, out=tmp_path / "run")
    both = np.concatenate([discs(60), discs(30, seed=3)])
    assert check_run(tmp_path / "run", both, second_seed=False).measures.n_fresh == 30


def test_a_kind_that_looks_normal_is_no_anomaly(detector):
    """Discs look the same in any direction, so "turned" was dropped, though the config has it."""
    assert "turned" in detector.config.training.discrimination.kinds
    notes = {**detector.training, "negatives": ["elastic", "patched"]}
    unseen = {"mirrored", "shifted", "zoomed", "mixed", "relit", "blurred", "scrambled"}
    assert set(unseen_kinds(replace(detector, training=notes))) == unseen
    notes["looks_normal"] = ["mirrored"]
    assert set(unseen_kinds(replace(detector, training=notes))) == unseen - {"mirrored"}
    without_d = with_settings(detector.config, ["training.discrimination=none", "scoring={mse = 1.0}"])
    assert len(unseen_kinds(replace(detector, training={}, config=without_d))) == 13


def test_the_second_seed_is_another_one_and_a_quarter_as_long(detector):
    second = _second(detector, discs(200))
    assert (detector.config.seed, second.config.seed) == (0, 1)
    assert detector.config.training.reconstruction.iterations == 200
    assert second.config.training.reconstruction.iterations == 50


def test_images_of_the_training_stand_for_those_that_it_held_out(tmp_path):
    run = tmp_path / "run"
    detector = alocc.train(discs(60), config=with_settings(preset("robust"), SMALL), iterations=10, out=run)
    health = check_run(run, discs(60), second_seed=False)
    assert (health.measures.n_fresh, health.measures.same_as_held_out) == (0, None)
    with pytest.raises(DataError, match="has changed since the training, or is not what it was trained on"):
        check_run(run, discs(60)[:40], second_seed=False)
    newer = prepare_batch(discs(30, seed=4), detector.image_format)
    detector.recalibrated(newer).save(run / "model.safetensors")
    with pytest.raises(DataError, match=r"set anew by alocc calibrate.*give fresh normal images"):
        check_run(run, discs(60), second_seed=False)
    again = check_run(run, np.concatenate([discs(30, seed=4), discs(25, seed=5)]), second_seed=False)
    assert again.measures.n_fresh == 25 and again.measures.n_held_out == 30


def test_rows_have_what_was_measured_and_nothing_else():
    rows = dict(GOOD.as_rows())
    assert rows["AUROC on noise images"] == "1.000" and rows["mean over these kinds"] == "0.750"
    assert rows["100 fresh images score as held-out ones"] == "p = 0.4"
    fewer = dict(replace(GOOD, same_as_held_out=None, shift=None, stability=None, polarity=[]).as_rows())
    assert set(rows) - set(fewer) == {
        "AUROC of D through training",
        "share of D in the score",
        "100 fresh images score as held-out ones",
        "squared distance of fresh and training images' means (0: one source)",
        "rank correlation with a second seed",
    }


def test_small_spots_found_or_images_not_shrunk_are_no_finding():
    spots = {"2": 0.6, "4": 0.93, "8": 0.99}
    assert replace(GOOD, spots=spots).smallest_spot == 4
    assert replace(GOOD, spots=spots | {"16": 0.5}).smallest_spot is None  # larger ones must be found too
    for more in ({"shorter_side": 25, "shrunk": 9.8}, {"shorter_side": 320, "shrunk": 1.0}):
        assert judge(replace(GOOD, spots=spots, **more), ROBUST).verdict == "good"
    assert judge(replace(GOOD, spots={"8": 0.5}, shorter_side=28, shrunk=1.0), ROBUST).verdict == "good"


def test_spots_are_planted_and_noted(detector):
    measures = measure(detector, tensor(discs(60, seed=5), detector), fresh=True)
    assert set(measures.spots) == {"2", "4"}  # up to a third of 20 pixels
    assert measures.spots["4"] > 0.9 and measures.spots["4"] >= measures.spots["2"]
    assert (measures.shorter_side, measures.shrunk) == (20, 1.0)
    assert any("spots" in name for name, _ in measures.as_rows())
