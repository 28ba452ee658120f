"""Scores of labelled images → figures, each with a bootstrap interval; compute here, draw elsewhere.

Anomalous is the positive class unless a name says otherwise. The first figures are those at the detector's own
threshold, which no label has seen; anything tuned on the labels says so in its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

CONFIDENCE = 0.95
RESAMPLES = 300


@dataclass(frozen=True)
class Evaluation:
    """What a detector is worth on labelled images."""

    figures: Mapping[str, float]
    """accuracy, precision, recall, f1 at the detector's own threshold; auroc, aupr, eer, fpr95 over all."""
    normal_as_positive: Mapping[str, float]
    """precision, recall, f1, aupr if normal is the positive class, as in the papers."""
    tuned_on_test: Mapping[str, float]
    """best_f1 and its threshold, and best_f1 with normal as positive: chosen with the labels, so out of reach."""
    auroc_of_parts: Mapping[str, float]
    """AUROC of each part of the anomaly score alone."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % bootstrap interval of each of ``figures``, of the others as "normal_as_positive.f1" and so on."""
    alpha: float
    threshold: float
    n_normal: int
    n_anomalous: int
    pixels: Mapping[str, float] = field(default_factory=dict)
    """pixel_auroc, pro and pixel_f1, where there are masks."""

    def as_json(self) -> dict[str, Any]:
        """One flat object, with the intervals and the rest in objects of their own."""
        return {
            **self.figures,
            **self.pixels,
            "alpha": self.alpha,
            "threshold": self.threshold,
            "n_normal": self.n_normal,
            "n_anomalous": self.n_anomalous,
            "normal_as_positive": dict(self.normal_as_positive),
            "tuned_on_test": dict(self.tuned_on_test),
            "auroc_of_parts": dict(self.auroc_of_parts),
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
        }


@dataclass(frozen=True)
class Curves:
    """Receiver operating characteristic, for drawing."""

    false_positive_rate: FloatArray
    true_positive_rate: FloatArray


def evaluate_scores(
    anomaly_score: FloatArray,
    is_anomalous: BoolArray,
    *,
    threshold: float,
    alpha: float,
    parts: Mapping[str, FloatArray] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Compare scores with labels.

    Args:
        anomaly_score: (n,), higher = more anomalous.
        is_anomalous: the labels, (n,).
        threshold: a score above it is called an anomaly.
        alpha: the false-positive rate that the threshold was set for; only noted.
        parts: parts of the score, each (n,).
        resamples: bootstrap samples, drawn within each class; 0 for no intervals.
        seed: of the bootstrap.

    Raises:
        DataError: if one of the two classes is empty.
    """
    n_anomalous = int(is_anomalous.sum())
    n_normal = len(is_anomalous) - n_anomalous
    if not n_normal or not n_anomalous:
        missing = "normal" if not n_normal else "anomalous"
        raise DataError(f"there are no {missing} images to evaluate with; see --normal and --anomalous")
    from sklearn import config_context

    with config_context(assume_finite=True, skip_parameter_validation=True):  # the same arrays, hundreds of times
        point = _all_figures(anomaly_score, is_anomalous, threshold, np.ones(len(anomaly_score)))
        samples = _bootstrap(anomaly_score, is_anomalous, threshold, resamples, seed)
    tail = 100 * (1 - CONFIDENCE) / 2
    intervals = {
        name: tuple(np.percentile([sample[name] for sample in samples], [tail, 100 - tail]).tolist())
        for name in point
        if samples and not name.endswith("threshold")
    }
    return Evaluation(
        figures={name: value for name, value in point.items() if "." not in name},
        normal_as_positive=_group(point, "normal_as_positive"),
        tuned_on_test=_group(point, "tuned_on_test"),
        auroc_of_parts={name: auroc(part, is_anomalous) for name, part in (parts or {}).items()},
        intervals=intervals,
        alpha=alpha,
        threshold=threshold,
        n_normal=n_normal,
        n_anomalous=n_anomalous,
    )


def auroc(anomaly_score: FloatArray, is_anomalous: BoolArray) -> float:
    """Chance that an anomalous image scores above a normal one, ties counting half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_anomalous, anomaly_score))


def roc(anomaly_score: FloatArray, is_anomalous: BoolArray) -> Curves:
    """False- and true-positive rate at every threshold."""
    from sklearn.metrics import roc_curve

    false_positive_rate, true_positive_rate, _ = roc_curve(is_anomalous, anomaly_score)
    return Curves(false_positive_rate, true_positive_rate)


def at_threshold(called: BoolArray, positive: BoolArray, weights: FloatArray | None = None) -> dict[str, float]:
    """accuracy, precision, recall and F1 of calling images positive; 0 where a ratio has nothing below the line."""
    weights = np.ones(len(called)) if weights is None else weights
    true_positive = weights[called & positive].sum()
    n_called, n_positive = weights[called].sum(), weights[positive].sum()
    return {
        "accuracy": float(weights[called == positive].sum() / weights.sum()),
        "precision": float(true_positive / n_called) if n_called else 0.0,
        "recall": float(true_positive / n_positive) if n_positive else 0.0,
        "f1": float(2 * true_positive / (n_called + n_positive)) if n_called + n_positive else 0.0,
    }


def _all_figures(score: FloatArray, anomalous: BoolArray, threshold: float, weights: FloatArray) -> dict[str, float]:
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

    fpr, tpr, _ = roc_curve(anomalous, score, sample_weight=weights, drop_intermediate=False)
    precision, recall, thresholds = precision_recall_curve(anomalous, score, sample_weight=weights)
    f1 = _f1(precision, recall)[:-1]
    precision_n, recall_n, _ = precision_recall_curve(~anomalous, -score, sample_weight=weights)
    called = score > threshold
    normal = at_threshold(~called, ~anomalous, weights)
    return {
        **at_threshold(called, anomalous, weights),
        "auroc": float(auc(fpr, tpr)),
        "aupr": float(average_precision_score(anomalous, score, sample_weight=weights)),
        "eer": equal_error_rate(fpr, tpr),
        "fpr95": float(fpr[np.argmax(tpr >= 0.95 - 1e-12)]),
        "normal_as_positive.precision": normal["precision"],
        "normal_as_positive.recall": normal["recall"],
        "normal_as_positive.f1": normal["f1"],
        "normal_as_positive.aupr": float(average_precision_score(~anomalous, -score, sample_weight=weights)),
        "tuned_on_test.best_f1": float(f1.max()),
        # scikit-learn calls a score at the threshold positive; here it has to be above
        "tuned_on_test.threshold": float(np.nextafter(thresholds[f1.argmax()], -np.inf)),
        "tuned_on_test.best_f1_normal_as_positive": float(_f1(precision_n, recall_n).max()),
    }


def equal_error_rate(false_positive_rate: FloatArray, true_positive_rate: FloatArray) -> float:
    """Where the curve has as many false positives as false negatives, in proportion; linear between its points."""
    gap = false_positive_rate - (1 - true_positive_rate)  # rises from −1 to 1
    after = int(np.argmax(gap >= 0))
    if after == 0:
        return float(false_positive_rate[0])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    step = false_positive_rate[after] - false_positive_rate[after - 1]
    return float(false_positive_rate[after - 1] + share * step)


def _f1(precision: FloatArray, recall: FloatArray) -> FloatArray:
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def _bootstrap(
    score: FloatArray, anomalous: BoolArray, threshold: float, resamples: int, seed: int
) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(anomalous), np.flatnonzero(~anomalous)]
    samples = []
    for _ in range(resamples):
        weights = np.zeros(len(score))
        for group in groups:
            weights[group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)))
        drawn = weights > 0
        samples.append(_all_figures(score[drawn], anomalous[drawn], threshold, weights[drawn]))
    return samples


def _group(figures: Mapping[str, float], name: str) -> dict[str, float]:
    return {key.removeprefix(f"{name}."): value for key, value in figures.items() if key.startswith(f"{name}.")}
