"""Figures by hand on eight images, against scikit-learn on many, and their intervals."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from alocc.errors import DataError
from alocc.evaluation.metrics import (
    _over_all_thresholds,
    at_threshold,
    auroc,
    auroc_interval,
    equal_error_rate,
    evaluate_scores,
    roc,
    share_interval,
)

SCORES = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.5, 0.7, 0.8])
ANOMALOUS = np.array([False] * 4 + [True] * 4)


def by_hand(**options):
    return evaluate_scores(SCORES, ANOMALOUS, **{"threshold": 0.45, "alpha": 0.1, "resamples": 0} | options)


def many(n=400, seed=0):
    """Overlapping scores with many ties."""
    rng = np.random.default_rng(seed)
    anomalous = rng.random(n) < 0.3
    return np.round(rng.normal(size=n) + 1.5 * anomalous, 1), anomalous


def test_figures_at_the_threshold_by_hand():
    # above 0.45: 0.6, which is normal, and 0.5, 0.7, 0.8; below it one anomalous image, 0.4
    figures = by_hand(threshold=0.45).figures
    assert {name: figures[name] for name in ("accuracy", "precision", "recall", "f1")} == {
        "accuracy": 6 / 8,
        "precision": 3 / 4,
        "recall": 3 / 4,
        "f1": 3 / 4,
    }
    lower = by_hand(threshold=0.35)
    assert lower.figures["precision"] == 4 / 5
    assert lower.figures["recall"] == 1
    assert lower.figures["f1"] == pytest.approx(8 / 9)
    assert lower.normal_as_positive["precision"] == 1
    assert lower.normal_as_positive["recall"] == 3 / 4
    assert lower.normal_as_positive["f1"] == pytest.approx(6 / 7)


def test_score_at_the_threshold_is_normal():
    assert by_hand(threshold=0.5).figures["recall"] == 2 / 4
    assert by_hand(threshold=np.inf).figures["recall"] == 0
    assert by_hand(threshold=-np.inf).figures["accuracy"] == 0.5


def test_figures_over_all_thresholds_by_hand():
    evaluation = by_hand()
    figures = evaluation.figures
    assert figures["auroc"] == (3 + 3 + 4 + 4) / 16
    # downwards: A A N A A, so precision 1, 1, 3/4, 4/5 at each quarter of the recall
    assert figures["aupr"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4)
    # upwards: N N N A A N
    assert evaluation.normal_as_positive["aupr"] == pytest.approx((1 + 1 + 1 + 4 / 6) / 4)
    # between 0.4 and 0.5 one of four is wrong on either side
    assert figures["eer"] == 0.25
    # all four anomalous images are at least 0.4, and so is one normal one
    assert figures["fpr95"] == 0.25


def test_false_positive_rate_is_taken_where_95_percent_are_found():
    anomalous = np.arange(40) >= 20
    scores = np.concatenate([np.arange(20), np.arange(20) + 10.5])
    scores[20] = -1.0  # one anomalous image of twenty may be missed: it looks most normal of all
    figures = evaluate_scores(scores, anomalous, threshold=0.0, alpha=0.1, resamples=0).figures
    assert figures["fpr95"] == 8 / 20  # the normal images 12 to 19 are above 11.5


def test_tuned_figures_by_hand():
    tuned = by_hand().tuned_on_test
    assert tuned["best_f1"] == pytest.approx(8 / 9)  # 0.4 and above: 4 of 4, and one false
    assert tuned["best_f1_normal_as_positive"] == pytest.approx(6 / 7)  # 0.3 and below: 3 of 4, none false


def test_tuned_threshold_gives_its_f1_by_the_detectors_own_rule():
    for scores, anomalous in ((SCORES, ANOMALOUS), many()):
        tuned = evaluate_scores(scores, anomalous, threshold=0.0, alpha=0.1, resamples=0).tuned_on_test
        assert at_threshold(scores > tuned["threshold"], anomalous)["f1"] == pytest.approx(tuned["best_f1"])


@pytest.mark.parametrize("seed", range(3))
def test_figures_agree_with_scikit_learn(seed):
    scores, anomalous = many(seed=seed)
    called = scores > 0.75
    evaluation = evaluate_scores(scores, anomalous, threshold=0.75, alpha=0.1, parts={"a": -scores}, resamples=0)
    expected = {
        "accuracy": sk.accuracy_score(anomalous, called),
        "precision": sk.precision_score(anomalous, called),
        "recall": sk.recall_score(anomalous, called),
        "f1": sk.f1_score(anomalous, called),
        "auroc": sk.roc_auc_score(anomalous, scores),
        "aupr": sk.average_precision_score(anomalous, scores),
    }
    assert {name: evaluation.figures[name] for name in expected} == pytest.approx(expected)
    other_side = {
        "precision": sk.precision_score(anomalous, called, pos_label=False),
        "recall": sk.recall_score(anomalous, called, pos_label=False),
        "f1": sk.f1_score(anomalous, called, pos_label=False),
        "aupr": sk.average_precision_score(~anomalous, -scores),
    }
    assert evaluation.normal_as_positive == pytest.approx(other_side)
    best = max(sk.f1_score(anomalous, scores >= value) for value in np.unique(scores))
    best_other = max(sk.f1_score(~anomalous, scores <= value) for value in np.unique(scores))
    assert evaluation.tuned_on_test["best_f1"] == pytest.approx(best)
    assert evaluation.tuned_on_test["best_f1_normal_as_positive"] == pytest.approx(best_other)
    assert evaluation.auroc_of_parts == pytest.approx({"a": 1 - expected["auroc"]})


def test_auroc_counts_ties_half():
    scores, anomalous = many(100)
    above = scores[anomalous][:, None] - scores[~anomalous][None, :]
    assert auroc(scores, anomalous) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())


def test_perfect_and_useless_scores():
    perfect = evaluate_scores(ANOMALOUS * 1.0, ANOMALOUS, threshold=0.5, alpha=0.1, resamples=0)
    assert set(perfect.figures) == {"accuracy", "precision", "recall", "f1", "auroc", "aupr", "eer", "fpr95"}
    assert (perfect.figures["f1"], perfect.figures["auroc"]) == (1, 1)
    assert (perfect.figures["eer"], perfect.figures["fpr95"]) == (0, 0)
    useless = evaluate_scores(np.zeros(8), ANOMALOUS, threshold=0.5, alpha=0.1, resamples=0)
    assert (useless.figures["auroc"], useless.figures["eer"]) == (0.5, 0.5)
    assert (useless.figures["precision"], useless.figures["f1"]) == (0, 0)


@pytest.mark.parametrize(
    ("false_positive_rate", "true_positive_rate", "expected"),
    [
        ([0, 0.2, 1], [0, 0.6, 1], 1 / 3),  # from (0.2, 0.6) a sixth of the way to (1, 1): (1/3, 2/3)
        ([0, 1], [0, 1], 0.5),
        ([0, 0, 1], [0, 1, 1], 0),
        ([0, 1, 1], [0, 0, 1], 1),
        ([0, 0.3, 0.3, 1], [0, 0.5, 0.9, 1], 0.3),
    ],
)
def test_equal_error_rate_by_hand(false_positive_rate, true_positive_rate, expected):
    found = equal_error_rate(np.array(false_positive_rate, dtype=float), np.array(true_positive_rate, dtype=float))
    assert found == pytest.approx(expected)


def test_equal_error_rate_is_the_same_from_both_sides():
    scores, anomalous = many()
    one = evaluate_scores(scores, anomalous, threshold=0, alpha=0.1, resamples=0).figures["eer"]
    other = evaluate_scores(-scores, ~anomalous, threshold=0, alpha=0.1, resamples=0).figures["eer"]
    assert one == pytest.approx(other)


def test_calling_nothing_or_having_nothing_to_call_gives_0():
    nothing, everything = np.zeros(3, bool), np.ones(3, bool)
    assert at_threshold(nothing, everything) == {"accuracy": 0, "precision": 0, "recall": 0, "f1": 0}
    assert at_threshold(nothing, nothing) == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0}


@settings(max_examples=40)
@given(st.data())
def test_weight_of_an_image_is_how_often_it_counts(data):
    n = data.draw(st.integers(4, 15))
    scores = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)), dtype=float)
    weights = np.array(data.draw(st.lists(st.integers(1, 4), min_size=n, max_size=n)))
    anomalous = np.arange(n) % 2 == 0
    weighted = _over_all_thresholds(scores, anomalous, weights.astype(float))
    repeated = _over_all_thresholds(np.repeat(scores, weights), np.repeat(anomalous, weights), np.ones(weights.sum()))
    assert weighted == pytest.approx(repeated)


def test_intervals_hold_the_figures_and_are_reproducible():
    scores, anomalous = many(300)

    def evaluated(seed):
        return evaluate_scores(scores, anomalous, threshold=0.75, alpha=0.1, resamples=100, seed=seed)

    one = evaluated(0)
    assert one.intervals == evaluated(0).intervals
    assert one.intervals != evaluated(1).intervals
    for name, value in one.figures.items():
        low, high = one.intervals[name]
        assert low < value < high, name
    for name, value in one.normal_as_positive.items():
        low, high = one.intervals[f"normal_as_positive.{name}"]
        assert low < value < high, name
    assert set(one.intervals) <= {*one.figures, *(f"normal_as_positive.{name}" for name in one.normal_as_positive),
                                  "tuned_on_test.best_f1", "tuned_on_test.best_f1_normal_as_positive"}  # fmt: skip
    assert "tuned_on_test.best_f1" in one.intervals
    assert not any(name.endswith("threshold") for name in one.intervals)


def wilson(share, n):
    """By the formula of Wilson 1927, z = 1.96."""
    z2 = 1.959964**2
    centre, half = share + z2 / (2 * n), np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n)))
    return pytest.approx(((centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)), abs=1e-6)


def test_intervals_of_shares_are_wilsons():
    assert share_interval(8, 10) == wilson(0.8, 10)
    assert share_interval(8, 10) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert share_interval(20, 20) == pytest.approx((0.8389, 1), abs=1e-4)  # z² / (n + z²) below 1
    assert share_interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert share_interval(0, 0) == (0, 1)
    # 40 anomalous images of which 32 are found, 60 normal ones of which 6 are called: 38 called, 46 called or anomalous
    anomalous = np.arange(100) >= 60
    scores = np.concatenate([np.zeros(54), np.ones(6), np.zeros(8), np.ones(32)])
    intervals = evaluate_scores(scores, anomalous, threshold=0.5, alpha=0.1, resamples=2).intervals
    assert intervals["accuracy"] == wilson(0.86, 100)
    assert intervals["precision"] == wilson(32 / 38, 38)
    assert intervals["recall"] == wilson(0.8, 40)
    low, high = share_interval(32, 46)  # F1 = 2 h / (called + anomalous), and h / 46 = F1 / (2 − F1)
    assert intervals["f1"] == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))
    assert intervals["normal_as_positive.recall"] == wilson(0.9, 60)
    assert intervals["normal_as_positive.precision"] == wilson(54 / 62, 62)


@pytest.mark.parametrize(
    ("value", "n_anomalous", "n_normal"), [(1.0, 20, 20), (0.9, 30, 50), (0.5, 10, 200), (0, 5, 9)]
)
def test_ends_of_an_aurocs_interval_are_196_of_their_own_standard_errors_away(value, n_anomalous, n_normal):
    """Hanley & McNeil's variance, with (n + m) / 2 − 1 in place of n − 1 and m − 1, as Newcombe's method 5 has it."""
    low, high = auroc_interval(value, n_anomalous, n_normal)
    assert low <= value <= high and high - low > 0.05
    for end in {low, high} - {0.0, 1.0}:
        q1, q2, others = end / (2 - end), 2 * end**2 / (1 + end), (n_anomalous + n_normal) / 2 - 1
        variance = end * (1 - end) + others * ((q1 - end**2) + (q2 - end**2))
        assert abs(end - value) == pytest.approx(1.959964 * np.sqrt(variance / (n_anomalous * n_normal)), rel=1e-5)


def test_intervals_of_scores_without_an_overlap_have_a_width():
    anomalous = np.arange(40) >= 20
    perfect = evaluate_scores(anomalous * 1.0, anomalous, threshold=0.5, alpha=0.1, resamples=5)
    assert perfect.intervals["auroc"] == pytest.approx((0.8987, 1), abs=1e-4)
    for name, value in perfect.figures.items():
        low, high = perfect.intervals[name]
        assert low <= value <= high and high - low > 0.05, name
    assert perfect.intervals["eer"] == perfect.intervals["fpr95"] == pytest.approx((0, 0.1611), abs=1e-4)
    more = np.arange(2_000) >= 1_000
    assert evaluate_scores(more * 1.0, more, threshold=0.5, alpha=0.1, resamples=2).intervals["auroc"][0] > 0.997


def test_the_bootstrap_is_one_of_95_percent():
    # all anomalous images score 1, as do 40 of 200 normal ones: binomial, 2.5 % are below 29 and 5 % below 31
    scores = np.concatenate([np.ones(40), np.zeros(160), np.ones(200)])
    evaluation = evaluate_scores(scores, np.arange(400) >= 200, threshold=0.5, alpha=0.1, resamples=1_000)
    assert evaluation.figures["fpr95"] == 0.2
    low, high = evaluation.intervals["fpr95"]
    assert low == pytest.approx(29 / 200, abs=0.003) and low < share_interval(40, 200)[0]
    assert high == share_interval(40, 200)[1]  # Wilson's is the wider one there


def test_no_resamples_give_no_intervals():
    assert by_hand(resamples=0).intervals == {}


def test_scikit_learns_settings_are_left_alone():
    import sklearn

    before = sklearn.get_config()
    by_hand(resamples=2)
    assert sklearn.get_config() == before


@pytest.mark.parametrize(("label", "missing"), [(True, "normal"), (False, "anomalous")])
def test_one_sided_labels_are_refused(label, missing):
    with pytest.raises(DataError, match=rf"no {missing} images"):
        evaluate_scores(SCORES, np.full(8, label), threshold=0.0, alpha=0.1)


def test_json_holds_everything():
    evaluation = by_hand(parts={"mse": SCORES}, resamples=3)
    assert (evaluation.n_normal, evaluation.n_anomalous) == (4, 4)
    again = json.loads(json.dumps(evaluation.as_json()))
    assert again["auroc"] == 14 / 16
    assert (again["alpha"], again["threshold"], again["n_normal"], again["n_anomalous"]) == (0.1, 0.45, 4, 4)
    assert again["auroc_of_parts"] == {"mse": 14 / 16}
    assert again["intervals"]["f1"] == list(evaluation.intervals["f1"])
    assert again["normal_as_positive"] == evaluation.normal_as_positive
    assert again["tuned_on_test"] == evaluation.tuned_on_test


def test_roc_curve_goes_from_corner_to_corner_over_the_area():
    scores, anomalous = many()
    curve = roc(scores, anomalous)
    for rate in curve:
        assert (rate[0], rate[-1]) == (0, 1)
        assert (np.diff(rate) >= 0).all()
    area = np.trapezoid(curve[1], curve[0])
    assert area == pytest.approx(auroc(scores, anomalous))


def test_rows_are_the_figures_with_their_intervals_below_headings():
    evaluation = by_hand(parts={"mse": SCORES}, resamples=3)
    header, *rows = evaluation.as_rows()
    assert header == ("figure", "value", "95 % interval", "meaning")
    headings = [row[0] for row in rows if len(row) == 1]
    assert headings[0] == "at the detector's threshold (alpha 0.1)" and len(headings) == 5  # no masks
    interval = "{:.4f} – {:.4f}".format(*evaluation.intervals["accuracy"])
    assert rows[1] == ("accuracy", "0.7500", interval, "of all images, the share judged right")
    assert rows[-1] == ("mse", "0.8750", "", "how far R's reconstruction is from the image")
    assert all(row[3] for row in rows if len(row) > 1)
    precisions = [row[3] for row in rows if row[0] == "precision"]
    assert len(precisions) == 2 and "called anomalies" in precisions[0] and "called normal" in precisions[1]
    assert ("best F1", "0.8889") in [row[:2] for row in rows]


def test_figures_of_classes_by_hand():
    """Above 0.45: 0.6 of the normal images, and all anomalous ones but 0.4, which 0.6 alone of the normal exceeds."""
    classes = np.array(["good", "good", "fine", "good", "bent", "bent", "torn", "torn"])
    evaluation = by_hand(classes=classes)
    found = {
        one.name: (one.is_anomalous, one.n, one.n_called, one.share_called, one.auroc) for one in evaluation.classes
    }
    assert list(found) == ["fine", "good", "bent", "torn"]
    assert found["fine"] == (False, 1, 0, 0, None) and found["good"] == (False, 3, 1, 1 / 3, None)
    assert found["bent"] == (True, 2, 1, 1 / 2, 6 / 8)  # of 8 pairs with normal images, 0.4 and 0.5 lose to 0.6
    assert found["torn"] == (True, 2, 2, 1, 1)
    z = 1.959964
    half = z * np.sqrt(2 / 4 + z**2 / 4) / (2 + z**2)  # Wilson's, of 1 in 2
    assert evaluation.classes[2].interval == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert evaluation.classes[3].interval == pytest.approx((2 / (2 + z**2), 1), abs=1e-6)
    assert by_hand().classes == () and evaluation.as_json()["classes"][0]["name"] == "fine"
    header, *rows = evaluation.as_class_rows()
    assert header == ("class", "called anomalies", "share", "95 % interval", "AUROC")  # no masks
    assert [row[0] for row in rows] == ["normal: false alarms", "fine", "good", "anomalous: recall", "bent", "torn"]
    assert rows[4] == ("bent", "1 of 2", "0.500", "0.095 – 0.905", "0.750") and rows[1][4] == ""
