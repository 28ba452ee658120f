"""Which normal images train and which calibrate."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alocc.calibration import images_needed, smallest_alpha
from alocc.config import CalibrationConfig
from alocc.data.splits import split_normals
from alocc.errors import ConfigError, DataError

DEFAULT = CalibrationConfig()


@settings(max_examples=50)
@given(st.integers(10, 3000), st.floats(0.01, 0.5), st.integers(0, 2**40))
def test_both_parts_are_sorted_disjoint_and_together_everything(n_images, held_out, seed):
    fit, calibration = split_normals(n_images, CalibrationConfig(held_out=held_out), seed).folds[0]
    for part in (fit, calibration):
        assert len(part) > 0
        assert (part.diff() > 0).all()
    assert torch.cat([fit, calibration]).sort().values.tolist() == list(range(n_images))


def test_same_seed_splits_alike_and_another_does_not():
    first, again, other = (split_normals(500, DEFAULT, seed).held_out for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_held_out_images_are_spread_over_all():
    held_out = split_normals(6_742, DEFAULT, 0).held_out
    assert held_out.double().mean() == pytest.approx(6_741 / 2, rel=0.06)
    assert held_out.min() < 100 and held_out.max() > 6_642


@pytest.mark.parametrize(
    ("n_images", "expected"),
    [
        (6_742, 674),  # the tenth
        (2_000, 200),
        (600, 99),  # alpha 0.01 needs 99, more than the tenth
        (297, 99),
        (296, 98),  # at most a third
        (30, 10),
        (10, 3),
    ],
)
def test_a_tenth_is_held_out_or_what_alpha_needs_up_to_a_third(n_images, expected):
    split = split_normals(n_images, DEFAULT, 0)
    assert (len(split.fit), len(split.held_out)) == (n_images - expected, expected)
    assert not split.crosses


@settings(max_examples=50)
@given(st.integers(10, 1990), st.integers(2, 5), st.integers(0, 2**40))
def test_with_folds_every_image_is_held_out_once_from_networks_that_did_not_train_on_it(n_images, folds, seed):
    split = split_normals(n_images, CalibrationConfig(folds=folds), seed)
    assert len(split.folds) == folds and split.crosses
    assert split.held_out.sort().values.tolist() == split.fit.tolist() == list(range(n_images))
    for fit, held_out in split.folds:
        assert torch.cat([fit, held_out]).sort().values.tolist() == list(range(n_images))
        assert abs(len(held_out) - n_images / folds) < 1


def test_folds_are_for_few_images():
    config = CalibrationConfig(folds=2)
    assert split_normals(1_990, config, 0).crosses
    assert not split_normals(2_000, config, 0).crosses
    assert split_normals(99, CalibrationConfig(folds=2, alpha=0.01), 0).crosses  # 33 held-out images were too few
    with pytest.raises(ConfigError, match=r"needs 99 held-out normal images, and of 98 at most 98"):
        split_normals(98, CalibrationConfig(folds=2, alpha=0.01), 0)


def test_there_are_no_folds_where_there_may_be_none():
    split = split_normals(100, CalibrationConfig(folds=2), 0, may_cross=False)
    assert not split.crosses and (len(split.fit), len(split.held_out)) == (67, 33)


def test_images_left_out_do_not_train_but_stay_held_out():
    split = split_normals(50, CalibrationConfig(folds=2), 0)
    fewer = split.without(torch.tensor([3, 7]))
    assert fewer.held_out.tolist() == split.held_out.tolist()
    assert set(split.fit.tolist()) - set(fewer.fit.tolist()) == {3, 7}
    assert all(not {3, 7} & set(fold.fit.tolist()) for fold in fewer.folds)


def test_alpha_that_was_asked_for_holds_out_more():
    assert len(split_normals(1_000, CalibrationConfig(alpha=0.005), 0).held_out) == 199
    assert len(split_normals(1_000, CalibrationConfig(alpha=0.2), 0).held_out) == 100


def test_alpha_that_the_images_cannot_support_is_refused():
    with pytest.raises(ConfigError, match=r"alpha 0\.01 needs 99 held-out normal images, and of 100 at most 33"):
        split_normals(100, CalibrationConfig(alpha=0.01), 0)


@pytest.mark.parametrize("n_images", [10, 20, 50, 100, 151, 200, 296])
def test_alpha_that_the_refusal_suggests_is_accepted(n_images):
    with pytest.raises(ConfigError) as raised:
        split_normals(n_images, CalibrationConfig(alpha=0.001), 0)
    suggested = float(re.search(r"ask for alpha ([\d.]+) or more", str(raised.value))[1])
    held_out = split_normals(n_images, CalibrationConfig(alpha=suggested), 0).held_out
    assert smallest_alpha(len(held_out)) <= suggested


@pytest.mark.parametrize("n_images", [0, 1, 9])
def test_too_few_images_are_refused(n_images):
    with pytest.raises(DataError, match=f"train on: {n_images}; give at least 10"):
        split_normals(n_images, DEFAULT, 0)


@pytest.mark.parametrize("held_out", [0.95, 0.99])
def test_images_to_train_on_are_always_left(held_out):
    assert len(split_normals(10, CalibrationConfig(held_out=held_out), 0).fit) > 0


@pytest.mark.parametrize(("alpha", "needed"), [(0.5, 1), (0.4, 2), (0.1, 9), (0.05, 19), (0.01, 99), (0.001, 999)])
def test_images_needed_by_hand(alpha, needed):
    assert images_needed(alpha) == needed


@given(st.integers(1, 100_000))
def test_needed_images_and_smallest_alpha_are_inverse(n_held_out):
    assert images_needed(smallest_alpha(n_held_out)) == n_held_out


@given(st.integers(1, 999))
def test_needed_images_suffice_and_one_less_does_not(thousandths):
    alpha = thousandths / 1000
    needed = images_needed(alpha)
    assert smallest_alpha(needed) <= alpha
    assert needed == 1 or smallest_alpha(needed - 1) > alpha
