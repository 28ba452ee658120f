"""P-values, the threshold and the alpha rule, by hand and as identities."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alocc.calibration import Calibration, default_alpha, images_needed, smallest_alpha, smallest_alpha_text
from alocc.errors import ConfigError
from alocc.evaluation.discoveries import discoveries

HELD_OUT = np.array([1.0, 2.0, 2.0, 3.0])


def p_values(scores, held_out=HELD_OUT):
    return Calibration(held_out, 0.5).p_values(np.asarray(scores, dtype=float))


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
    assert Calibration(HELD_OUT, alpha).threshold == threshold


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
    np.testing.assert_array_equal(p_values(scores, held_out) <= alpha, scores > Calibration(held_out, alpha).threshold)


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


def test_held_out_scores_come_in_any_order_and_are_kept_sorted():
    calibration = Calibration.of([2.0, 3.0, 1.0, 2.0], 0.4)
    np.testing.assert_array_equal(calibration.held_out_scores, HELD_OUT)
    assert calibration.held_out_scores.dtype == np.float64
    assert (calibration.n, calibration.rank, calibration.threshold) == (4, 2, 2.0)


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.5), (9, 0.1), (98, 1 / 99), (99, 0.01), (100, 0.01), (5000, 0.01)])
def test_unasked_alpha_is_a_hundredth_or_the_smallest_possible(n, alpha):
    assert Calibration.of(np.arange(n)).alpha == default_alpha(n) == alpha


def test_a_wanted_alpha_is_kept_where_it_can_be_kept():
    assert default_alpha(19, 0.2) == 0.2
    assert default_alpha(9, 0.05) == 0.1
    assert default_alpha(999, 0.001) == 0.001


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0])
def test_alpha_outside_of_0_to_1_is_refused(alpha):
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        Calibration.of(HELD_OUT, alpha)


def test_too_small_an_alpha_is_refused_with_what_it_needs():
    with pytest.raises(ConfigError, match=r"at least 0\.2 with 4 held-out images, got 0\.01, which needs 99 "):
        Calibration.of(HELD_OUT, 0.01)
    assert Calibration.of(np.arange(99), 0.01).rank == 1


def test_another_alpha_leaves_the_held_out_images_as_they_are():
    calibration = Calibration.of(HELD_OUT, 0.2)
    other = calibration.with_alpha(0.6)
    assert (calibration.alpha, calibration.threshold, other.alpha, other.threshold) == (0.2, 3.0, 0.6, 2.0)
    assert other.held_out_scores is calibration.held_out_scores
    np.testing.assert_array_equal(other.p_values(HELD_OUT), calibration.p_values(HELD_OUT))


@given(st.integers(1, 10_000))
def test_the_smallest_alpha_is_granted_as_a_number_and_as_it_is_printed(n):
    calibration = Calibration(np.zeros(n), 0.5)
    assert calibration.with_alpha(smallest_alpha(n)).rank == 1
    assert calibration.with_alpha(float(smallest_alpha_text(n))).rank >= 1
    assert float(smallest_alpha_text(n)) - smallest_alpha(n) <= 1e-4


@given(st.integers(1, 10_000))
def test_as_many_images_as_an_alpha_needs_support_it_and_one_less_does_not(n):
    alpha = smallest_alpha(n)
    assert images_needed(alpha) == n
    assert smallest_alpha(n - 1) > alpha


def test_images_needed_by_hand():
    assert [images_needed(alpha) for alpha in (None, 0.01, 0.05, 0.3, 0.5)] == [99, 99, 19, 3, 1]


#                            n = 4, so p is 1/5 … 5/5; each edge at equality, and one double beside it
EDGES = [0.2, np.nextafter(0.2, 1), 0.4, np.nextafter(0.4, 1), 0.6, 1.0]


@pytest.mark.parametrize(
    ("alpha", "review_alpha", "wanted"),
    [
        (0.2, None, "A N N N N N"),
        (0.2, 0.4, "A ? ? N N N"),
        (0.2, np.nextafter(0.4, 0), "A ? N N N N"),
        (0.2, 0.2, "A N N N N N"),  # nothing lies between
        (0.4, 0.6, "A A A ? ? N"),
        (0.2, 0.999, "A ? ? ? ? N"),
    ],
)
def test_verdicts_by_hand_at_equality(alpha, review_alpha, wanted):
    letters = {"A": "anomalous", "?": "can't tell", "N": "normal"}
    verdicts = Calibration.of(HELD_OUT, alpha, review_alpha).verdicts(EDGES)
    assert verdicts.tolist() == [letters[letter] for letter in wanted.split()]


@settings(max_examples=200)
@given(calibrations(), st.floats(0, 1, exclude_max=True))
def test_verdicts_by_p_value_are_those_by_score(calibration, share):
    held_out, alpha, scores = calibration
    review_alpha = min(alpha + share * (1 - alpha), float(np.nextafter(1, 0)))
    both = Calibration(held_out, alpha, review_alpha)
    by_score = np.where(
        scores > both.threshold, "anomalous", np.where(scores > both.review_threshold, "can't tell", "normal")
    )
    np.testing.assert_array_equal(both.verdicts(both.p_values(scores)), by_score)
    assert both.review_threshold <= both.threshold


def test_a_review_alpha_is_from_alpha_on_and_below_1():
    calibration = Calibration.of(HELD_OUT, 0.4)
    assert (calibration.review_alpha, calibration.review_threshold) == (None, None)
    assert calibration.with_review_alpha(0.4).review_threshold == calibration.threshold == 2.0
    assert calibration.with_review_alpha(0.8).review_threshold == 1.0
    for none in (None, 0):
        assert calibration.with_review_alpha(0.8).with_review_alpha(none).review_alpha is None
    for wrong in (0.3, np.nextafter(0.4, 0), 1.0, 2.0, -0.1, math.nan):
        with pytest.raises(ConfigError, match=r"review alpha must be at least alpha, 0\.4, and below 1, got "):
            calibration.with_review_alpha(wrong)
    with pytest.raises(ConfigError, match="review alpha must be at least alpha"):
        Calibration.of(HELD_OUT, 0.4, 0.2)
    with pytest.raises(ConfigError, match=r"at least alpha, 0\.2, and below 1, got 0\.1"):
        Calibration.of(HELD_OUT, review_alpha=0.1)  # alpha is the smallest that four images support


def test_an_alpha_above_the_review_alpha_raises_it_and_leaves_nothing_between():
    calibration = Calibration.of(HELD_OUT, 0.2, 0.4)
    assert (calibration.with_alpha(0.3).alpha, calibration.with_alpha(0.3).review_alpha) == (0.3, 0.4)
    raised = calibration.with_alpha(0.6)
    assert (raised.alpha, raised.review_alpha) == (0.6, 0.6)
    assert set(raised.verdicts(EDGES).tolist()) == {"anomalous", "normal"}
    at = calibration.at(0.6, 0.8)
    assert (at.alpha, at.review_alpha) == (0.6, 0.8) and calibration.at(None, None) is calibration
    with pytest.raises(ConfigError, match=r"at least alpha, 0\.6"):
        calibration.at(0.6, 0.5)


def test_discoveries_are_benjamini_and_hochbergs_and_their_share_of_normals_is_kept():
    batch = np.array([0.01, 0.2, 0.03, 0.02, 0.9])
    assert discoveries(batch, 0.1).tolist() == [True, False, True, True, False]  # 0.03 ≤ 0.1 · 3 / 5
    assert not discoveries(batch, 0.01).any()
    assert discoveries(np.full(3, 0.4), 0.5).all() and discoveries(np.zeros(0), 0.5).shape == (0,)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        held_out = np.sort(rng.normal(0, 1, 500))
        scores = np.concatenate([rng.normal(0, 1, 80), rng.normal(4, 1, 20)])
        called = discoveries(p_values(scores, held_out), 0.1)
        shares.append(called[:80].sum() / max(1, called.sum()))
    assert np.mean(shares) < 0.1
