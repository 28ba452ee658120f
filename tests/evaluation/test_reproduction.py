"""The comparison with the article, from a history of four looks."""

import csv
import json

import pytest

from alocc.evaluation.reproduction import EXPERIMENT, compare_with_article

COLUMNS = ["iteration", "loss", "auroc", "accuracy_real", "f1_real", "accuracy_flipped", "f1_flipped"]
LOOKS = [
    (0.2, 0.10, 0.11, 0.90, 0.91),
    (0.6, 0.95, 0.96, 0.05, 0.06),
    (0.7, 0.92, 0.90, 0.08, 0.10),
    (0.4, 0.30, 0.20, 0.70, 0.80),
]


@pytest.fixture
def history(tmp_path):
    def write(looks):
        path = tmp_path / "history.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for i, look in enumerate(looks):
                writer.writerow([2 * i + 1, 0.5, *[""] * 5])  # an iteration that nobody looked at
                writer.writerow([2 * i + 2, 0.4, *look])
        return path

    return write


def test_experiment_is_1_against_0():
    assert (EXPERIMENT.data, EXPERIMENT.normal, EXPERIMENT.anomalous) == ("mnist", ("1",), ("0",))


def test_rows_are_the_claim_the_last_look_and_the_mean_of_the_second_half(history):
    claim, *rows = compare_with_article(history(LOOKS)).rows
    assert claim.values == (0.9, None, None)
    real_last, real_mean, flipped_last, flipped_mean = (row.values for row in rows)
    assert real_last == pytest.approx((0.30, 0.20, 0.4))
    assert real_mean == pytest.approx((0.61, 0.55, 0.55))
    assert flipped_last == pytest.approx((0.70, 0.80, 0.6))
    assert flipped_mean == pytest.approx((0.39, 0.45, 0.45))
    assert "class 1 = real" in rows[0].label and "article's reading" in rows[2].label
    assert "last step" in rows[0].label and "second half" in rows[1].label


def test_looks_are_counted_and_judged(history):
    comparison = compare_with_article(history(LOOKS))
    assert comparison.looks == 4
    assert comparison.flips == 2  # 0.2 → 0.6 and 0.7 → 0.4
    assert comparison.share_reaching_claim == {"real": 0.5, "flipped": 0.0}
    assert "does not reach 90 % accuracy: 70.0%" in comparison.verdict
    assert "30.0% the other way" in comparison.verdict
    assert "flipped 2 times" in comparison.verdict


def test_last_look_decides_the_verdict_and_not_the_best(history):
    ends_well = compare_with_article(history([LOOKS[3], LOOKS[0], LOOKS[2]]))
    assert "reaches 90 % accuracy: 92.0% with class 1 = real" in ends_well.verdict
    assert "does not" not in ends_well.verdict
    assert ends_well.flips == 1
    # the middle one of three looks belongs to the second half
    assert ends_well.share_reaching_claim == {"real": 0.5, "flipped": 0.5}


def test_single_look_is_the_last_and_the_second_half(history):
    comparison = compare_with_article(history(LOOKS[:1]))
    assert (comparison.looks, comparison.flips) == (1, 0)
    assert comparison.rows[1].values == pytest.approx(comparison.rows[2].values)
    assert comparison.share_reaching_claim == {"real": 0.0, "flipped": 1.0}


def test_json_says_the_same(history):
    comparison = compare_with_article(history(LOOKS))
    again = json.loads(json.dumps(comparison.as_json()))
    assert again["rows"][0] == {"label": "the article's claim", "accuracy": 0.9, "f1": None, "auroc": None}
    assert again["rows"][1]["accuracy"] == 0.3
    assert (again["looks"], again["flips"]) == (4, 2)
    assert again["share_reaching_claim"] == comparison.share_reaching_claim
    assert again["verdict"] == comparison.verdict
