"""Anomaly scores, p-values and the threshold, by hand and as identities."""

import math

import numpy as np
import pytest
import torch
from alocc.model.calibration import Fusion, conformal_p_values, discoveries, threshold_at
from alocc.model.scoring import FLOOR
from hypothesis import given, settings
from hypothesis import strategies as st

HELD_OUT = np.array([1.0, 2.0, 2.0, 3.0])


def p_values(scores, held_out=HELD_OUT):
    return conformal_p_values(np.asarray(scores, dtype=float), held_out)


def test_p_values_by_hand_with_ties():
    #                 all 4 ≥ 0.5      4 ≥ 1, 3 ≥ 1.5, 3 ≥ 2, 1 ≥ 2.5, 1 ≥ 3, 0 ≥ 3.5
    scores, at_least = [0.5, 1, 1.5, 2, 2.5, 3, 3.5], np.array([4, 4, 3, 3, 1, 1, 0])
    np.testing.assert_array_equal(p_values(scores), (1 + at_least) / 5)


def test_one_held_out_image_gives_a_half_or_one():
    np.testing.assert_array_equal(p_values([0, 1, 2], np.array([1.0])), [1, 1, 0.5])


@pytest.mark.parametrize(
    ("alpha", "threshold"),
    [
        (0.19, math.inf),  # 1/5 is the smallest p-value
        (0.2, 3.0),  # only what beats all four
        (0.39, 3.0),
        (0.4, 2.0),
        (0.6, 2.0),
        (0.8, 1.0),
        (0.99, 1.0),
    ],
)
def test_threshold_by_hand(alpha, threshold):
    assert threshold_at(alpha, HELD_OUT) == threshold


@st.composite
def calibrations(draw):
    """Held-out scores with many ties, alphas at and beside the possible p-values, scores at and between them."""
    n = draw(st.integers(1, 30))
    values = st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3))
    held_out = np.sort(draw(st.lists(values, min_size=n, max_size=n)))
    exact = draw(st.integers(1, n)) / (n + 1)
    beside = [exact, np.nextafter(exact, 0), np.nextafter(exact, 1), draw(st.floats(1e-6, 1 - 1e-6))]
    alpha = float(draw(st.sampled_from(beside)))
    scores = np.array([*draw(st.lists(values, min_size=1, max_size=5)), *held_out, -9.0, 9.0])
    return held_out, alpha, scores


@settings(max_examples=300)
@given(calibrations())
def test_small_p_value_is_the_same_as_a_score_above_the_threshold(calibration):
    held_out, alpha, scores = calibration
    np.testing.assert_array_equal(p_values(scores, held_out) <= alpha, scores > threshold_at(alpha, held_out))


@settings(max_examples=50)
@given(calibrations())
def test_p_values_fall_as_scores_rise(calibration):
    held_out, _, scores = calibration
    ordered = p_values(np.sort(scores), held_out)
    assert (np.diff(ordered) <= 0).all()
    assert ordered.min() >= 1 / (len(held_out) + 1) and ordered.max() <= 1


@settings(max_examples=50)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=20), st.floats(0.01, 0.99))
def test_normal_images_are_called_anomalies_at_most_so_often_as_promised(normal, alpha):
    """Any of n + 1 exchangeable images may be the new one: averaged over them, P(p ≤ α) ≤ α, ties included."""
    scores = np.array(normal, dtype=float)
    called = [
        p_values(scores[i : i + 1], np.sort(np.delete(scores, i)))[0] <= alpha for i in range(len(scores))
    ]  # fmt: skip
    assert np.mean(called) <= alpha + 1e-12


def test_distinct_exchangeable_images_have_every_p_value_once():
    scores = np.array([0.3, 1.4, -2.0, 5.0, 0.7])
    found = [p_values(scores[i : i + 1], np.sort(np.delete(scores, i)))[0] for i in range(5)]
    np.testing.assert_allclose(sorted(found), [0.2, 0.4, 0.6, 0.8, 1.0])


def parts(**values):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_fusion_is_the_root_of_the_weighted_mean_of_signed_squares():
    # d_image: mean 2, deviation 1. mse: logarithms 0, 1, 2, 3 of the error and its floor: mean 1.5, deviation √1.25
    normal = parts(d_image=[1.0, 1.0, 3.0, 3.0], mse=[math.exp(k) - FLOOR for k in range(4)])
    fusion = Fusion.fit({"d_image": 3.0, "mse": 1.0}, normal)
    assert fusion.means == pytest.approx({"d_image": 2.0, "mse": 1.5})
    assert fusion.scales == pytest.approx({"d_image": 1.0, "mse": math.sqrt(1.25)})
    score = fusion(parts(d_image=[5.0, 2.0], mse=[math.exp(4) - FLOOR, 0.0]))
    above = math.sqrt((3 * 3**2 + 2.5**2 / 1.25) / 4)
    below = -math.sqrt((math.log(FLOOR) - 1.5) ** 2 / 1.25 / 4)
    assert score.tolist() == pytest.approx([above, below])


def test_a_single_part_is_standardised_on_held_out_images():
    normal = {"mse": torch.rand(50, generator=torch.Generator().manual_seed(0)).double()}
    alone = Fusion.fit({"mse": 5.0}, normal)(normal)
    assert alone.mean().item() == pytest.approx(0, abs=1e-12)
    assert alone.std(correction=0).item() == pytest.approx(1)


def test_one_part_far_out_counts_more_than_two_a_little_out():
    normal = parts(d_image=[-1.0, 1.0], d_reconstruction=[-1.0, 1.0])
    fusion = Fusion.fit({"d_image": 1.0, "d_reconstruction": 1.0}, normal)
    one_far, both_little = fusion(parts(d_image=[4.0, 2.0], d_reconstruction=[0.0, 2.0])).tolist()
    assert one_far == pytest.approx(math.sqrt(8)) and both_little == pytest.approx(2)


def test_weights_count_in_proportion_only():
    normal = parts(d_image=[1.0, 2.0, 4.0], d_reconstruction=[0.0, 5.0, 1.0])
    new = parts(d_image=[3.0], d_reconstruction=[2.0])
    one = Fusion.fit({"d_image": 1.0, "d_reconstruction": 3.0}, normal)(new)
    ten = Fusion.fit({"d_image": 10.0, "d_reconstruction": 30.0}, normal)(new)
    assert torch.allclose(one, ten)


def test_parts_without_weight_are_not_looked_at():
    fusion = Fusion.fit({"d_image": 1.0}, parts(d_image=[0.0, 2.0], ssim=[0.1, 0.2]))
    assert fusion(parts(d_image=[3.0], ssim=[9.0])).tolist() == [2.0]


def test_part_that_is_the_same_for_all_divides_by_no_zero():
    fusion = Fusion.fit({"d_image": 1.0}, parts(d_image=[2.0, 2.0, 2.0]))
    score = fusion(parts(d_image=[2.0, 3.0]))
    assert score[0] == 0
    assert score[1] > 1 and score.isfinite().all()


def test_discoveries_are_benjamini_and_hochbergs_and_their_share_of_normals_is_kept():
    p_values = np.array([0.01, 0.2, 0.03, 0.02, 0.9])
    assert discoveries(p_values, 0.1).tolist() == [True, False, True, True, False]  # 0.03 ≤ 0.1 · 3 / 5
    assert not discoveries(p_values, 0.01).any()
    assert discoveries(np.full(3, 0.4), 0.5).all() and discoveries(np.zeros(0), 0.5).shape == (0,)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        held_out = np.sort(rng.normal(0, 1, 500))
        scores = np.concatenate([rng.normal(0, 1, 80), rng.normal(4, 1, 20)])
        called = discoveries(conformal_p_values(scores, held_out), 0.1)
        shares.append(called[:80].sum() / max(1, called.sum()))
    assert np.mean(shares) < 0.1
