"""The comparison with the article, from a history of four evaluations."""

import csv
import json

import pytest

from alocc.evaluation.reproduction import EXPERIMENT, compare_with_article

COLUMNS = ["iteration", "loss", "auroc", "accuracy_real", "f1_real", "accuracy_flipped", "f1_flipped"]
EVALUATIONS = [
    (0.2, 0.10, 0.11, 0.90, 0.91),
    (0.6, 0.95, 0.96, 0.05, 0.06),
    (0.7, 0.92, 0.90, 0.08, 0.10),
    (0.4, 0.30, 0.20, 0.70, 0.80),
]


@pytest.fixture
def history(tmp_path):
    def write(evaluations):
        path = tmp_path / "history.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for i, one in enumerate(evaluations):
                writer.writerow([2 * i + 1, 0.5, *[""] * 5])  # an iteration that nobody evaluated
                writer.writerow([2 * i + 2, 0.4, *one])
        return path

    return write


def test_experiment_is_1_against_0():
    assert (EXPERIMENT.data, EXPERIMENT.normal, EXPERIMENT.anomalous) == ("mnist", ("1",), ("0",))


def test_rows_are_the_claim_the_last_evaluation_and_the_mean_of_the_second_half(history):
    rows = compare_with_article(history(EVALUATIONS)).rows
    claim, real_last, real_mean, flipped_last, flipped_mean = rows.values()
    assert claim == (0.9, None, None)
    assert real_last == pytest.approx((0.30, 0.20, 0.4))
    assert real_mean == pytest.approx((0.61, 0.55, 0.55))
    assert flipped_last == pytest.approx((0.70, 0.80, 0.6))
    assert flipped_mean == pytest.approx((0.39, 0.45, 0.45))
    labels = list(rows)
    assert "class 1 = real" in labels[1] and "article's reading" in labels[3]
    assert "last step" in labels[1] and "second half" in labels[2]


def test_evaluations_are_counted_and_judged(history):
    comparison = compare_with_article(history(EVALUATIONS))
    assert comparison.evaluations == 4
    assert comparison.flips == 2  # 0.2 → 0.6 and 0.7 → 0.4
    assert comparison.share_reaching_claim == {"real": 0.5, "flipped": 0.0}
    assert "does not reach 90 % accuracy: 70.0%" in comparison.verdict
    assert "30.0% the other way" in comparison.verdict
    assert "flipped 2 times" in comparison.verdict


def test_last_evaluation_decides_the_verdict_and_not_the_best(history):
    ends_well = compare_with_article(history([EVALUATIONS[3], EVALUATIONS[0], EVALUATIONS[2]]))
    assert "reaches 90 % accuracy: 92.0% with class 1 = real" in ends_well.verdict
    assert "does not" not in ends_well.verdict
    assert ends_well.flips == 1
    # the middle one of three evaluations belongs to the second half
    assert ends_well.share_reaching_claim == {"real": 0.5, "flipped": 0.5}


def test_single_evaluation_is_the_last_and_the_second_half(history):
    comparison = compare_with_article(history(EVALUATIONS[:1]))
    assert (comparison.evaluations, comparison.flips) == (1, 0)
    _, last, mean, *_ = comparison.rows.values()
    assert last == pytest.approx(mean)
    assert comparison.share_reaching_claim == {"real": 0.0, "flipped": 1.0}


def test_json_says_the_same(history):
    comparison = compare_with_article(history(EVALUATIONS))
    again = json.loads(json.dumps(comparison.as_json()))
    assert again["rows"][0] == {"label": "the article's claim", "accuracy": 0.9, "f1": None, "auroc": None}
    assert again["rows"][1]["accuracy"] == 0.3
    assert (again["evaluations"], again["flips"]) == (4, 2)
    assert again["share_reaching_claim"] == comparison.share_reaching_claim
    assert again["verdict"] == comparison.verdict


def test_rows_for_a_table(history):
    header, claim, last, *_ = compare_with_article(history(EVALUATIONS)).as_rows()
    assert header == ("", "accuracy", "F1", "AUROC") and claim == ("the article's claim", "0.900", "", "")
    assert last == ("class 1 = real, as D is trained: last step", "0.300", "0.200", "0.400")
