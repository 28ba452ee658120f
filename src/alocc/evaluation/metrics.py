"""Scores of labelled images → figures with 95 % intervals; compute here, draw elsewhere.

Anomalous is the positive class unless a name says otherwise. The first figures are those at the detector's own
threshold, which no label has seen; anything tuned on the labels says so in its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import FloatArray
from alocc.errors import DataError
from alocc.notebook import html_table

BoolArray = NDArray[np.bool_]

CONFIDENCE = 0.95
RESAMPLES = 300
FIGURE_NAMES = {"f1": "F1", "auroc": "AUROC", "aupr": "AUPR", "eer": "EER", "fpr95": "FPR at 95 % TPR",
                "pixel_auroc": "pixel AUROC", "pro": "per-region overlap", "pixel_f1": "pixel F1",
                "best_f1": "best F1"}  # fmt: skip
"""For people; other figures are called what they are."""
MEANINGS = {
    "accuracy": "of all images, the share judged right",
    "precision": "of the images called anomalies, the share that is anomalous",
    "recall": "of the anomalous images, the share called anomalies",
    "f1": "harmonic mean of precision and recall",
    "auroc": "chance that an anomalous image scores above a normal one",
    "aupr": "mean precision over all recalls",
    "eer": "error rate where it is the same on either side",
    "fpr95": "false alarms where the recall is 95 %",
    "pixel_auroc": "chance that a marked pixel is above another one",
    "pro": "mean share of a marked region that stands out",
    "pixel_f1": "F1 of pixels at the threshold of maps",
    "normal_as_positive.precision": "of the images called normal, the share that is normal",
    "normal_as_positive.recall": "of the normal images, the share called normal",
    "normal_as_positive.f1": "harmonic mean of these two, as in some papers",
    "normal_as_positive.aupr": "mean of this precision over all recalls",
    "tuned_on_test.best_f1": "at the threshold that suits these labels best",
}
"""Figure, with its group where names are there twice → what it says, in words."""


@dataclass(frozen=True)
class ClassFigures:
    """What a detector makes of the images of one class, at its own threshold and beside all normal images."""

    name: str
    is_anomalous: bool
    n: int
    n_called: int
    """How many are called anomalies."""
    share_called: float
    """Recall of an anomalous class, false alarms of a normal one."""
    interval: tuple[float, float]
    """Wilson's 95 % interval of that share."""
    auroc: float | None
    """Of the class against all normal images; none of a normal class."""
    pixels: Mapping[str, float] = field(default_factory=dict)
    """pixel_auroc, pro and pixel_f1 of the class and all normal images, where it has masks."""
    n_review: int | None = None
    """Of how many the detector can't tell; none without a review alpha."""


@dataclass(frozen=True)
class Evaluation:
    """What a detector is worth on labelled images."""

    figures: Mapping[str, float]
    """accuracy, precision, recall, f1 at the detector's own threshold; auroc, aupr, eer, fpr95 over all."""
    normal_as_positive: Mapping[str, float]
    """precision, recall, f1, aupr if normal is the positive class, as in the papers."""
    tuned_on_test: Mapping[str, float]
    """best_f1 and its threshold, and best_f1 with normal as positive: chosen with these labels."""
    auroc_of_parts: Mapping[str, float]
    """AUROC of each part of the anomaly score alone."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % interval of each of ``figures``, of the others as "normal_as_positive.f1" and so on: Wilson's of shares and
    of F1, Hanley and McNeil's of AUROC, bootstrap of the rest."""
    alpha: float
    threshold: float
    n_normal: int
    n_anomalous: int
    pixels: Mapping[str, float] = field(default_factory=dict)
    """pixel_auroc, pro and pixel_f1, where there are masks."""
    classes: Sequence[ClassFigures] = ()
    """Each class of the images, normal ones first; empty if their classes are not known."""
    review_alpha: float | None = None
    """The rate up to which images are for a person. For the figures they are called normal."""

    def _repr_html_(self) -> str:
        header, *rows = self.as_rows()
        return html_table(f"{self.n_normal:,} normal and {self.n_anomalous:,} anomalous images", rows, header)

    def as_json(self) -> dict[str, Any]:
        """One flat object, with the intervals, the classes and the rest in objects of their own."""
        rest = asdict(self)
        rest["classes"] = [{**one.pop("pixels"), **one} for one in rest["classes"]]
        return {**rest.pop("figures"), **rest.pop("pixels"), **rest}

    def as_class_rows(self) -> list[tuple[str, ...]]:
        """For a table: a header, then class by class below headings, which say what the share is there."""
        pixels = [name for name in ("pixel_auroc", "pro") if any(one.pixels for one in self.classes)]
        with_review = self.review_alpha is not None
        of_review = ("can't tell", "normal") if with_review else ()
        header = ("class", "called anomalies", *of_review, "share", "95 % interval", "AUROC")
        rows: list[tuple[str, ...]] = [(*header, *(FIGURE_NAMES[name] for name in pixels))]
        headings = {False: "normal: false alarms", True: "anomalous: recall"}
        for side, heading in headings.items():
            rows.append((heading,))
            for one in self.classes:
                if one.is_anomalous == side:
                    counts = [f"{one.n_called:,} of {one.n:,}"]
                    if with_review and one.n_review is not None:
                        counts += [f"{one.n_review:,}", f"{one.n - one.n_called - one.n_review:,}"]
                    interval = " – ".join(f"{end:.3f}" for end in one.interval)
                    others = [one.auroc, *(one.pixels.get(name) for name in pixels)]
                    shown = ("" if value is None else f"{value:.3f}" for value in others)
                    rows.append((one.name, *counts, f"{one.share_called:.3f}", interval, *shown))
        return rows

    def as_rows(self) -> list[tuple[str, ...]]:
        """For a table: a header, then figures; a row of one entry is the heading of those below it."""
        from alocc.parts import PARTS

        own = {name: self.figures[name] for name in ("accuracy", "precision", "recall", "f1")}
        tuned = {"best_f1": self.tuned_on_test["best_f1"]}
        groups: list[tuple[str, str, Mapping[str, float]]] = [
            (f"at the detector's threshold (alpha {self.alpha:g})", "", own),
            ("over all thresholds", "", {name: self.figures[name] for name in self.figures if name not in own}),
            ("maps against masks", "", self.pixels),
            ("with normal as the positive class", "normal_as_positive.", self.normal_as_positive),
            ("tuned on these labels: too good for new images", "tuned_on_test.", tuned),
            ("AUROC of each part of the score (their weighted sum)", "parts.", self.auroc_of_parts),
        ]
        meanings = MEANINGS | {f"parts.{name}": part.meaning for name, part in PARTS.items() if part.of_images}
        rows: list[tuple[str, ...]] = [("figure", "value", "95 % interval", "meaning")]
        for title, prefix, group in groups:
            rows += [(title,)] if group else []
            for name, value in group.items():
                interval = " – ".join(f"{end:.4f}" for end in self.intervals.get(prefix + name, ()))
                meaning = meanings.get(prefix + name) or meanings.get(name, "")
                rows.append((FIGURE_NAMES.get(name, name), f"{value:.4f}", interval, meaning))
        return rows


def evaluate_scores(
    anomaly_score: FloatArray,
    is_anomalous: BoolArray,
    *,
    threshold: float,
    alpha: float,
    parts: Mapping[str, FloatArray] | None = None,
    classes: NDArray[np.str_] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Compare n scores, higher = more anomalous, with n labels.

    Args:
        anomaly_score, is_anomalous: (n,).
        threshold: a score above it is called an anomaly.
        alpha: the false-positive rate that the threshold was set for; only noted.
        parts: parts of the score, each (n,).
        classes: name of each image's class, (n,), each on one side; none: no figures of classes.
        resamples: bootstrap samples, drawn within each side; 0 for no intervals, but of classes.
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

    called = anomaly_score > threshold
    with config_context(assume_finite=True, skip_parameter_validation=True):  # the same arrays, hundreds of times
        point = at_threshold(called, is_anomalous) | {"auroc": auroc(anomaly_score, is_anomalous)}
        point |= {f"normal_as_positive.{name}": value for name, value in at_threshold(~called, ~is_anomalous).items()}
        del point["normal_as_positive.accuracy"]  # the same as without
        point |= _over_all_thresholds(anomaly_score, is_anomalous, np.ones(len(anomaly_score)))
        samples = _bootstrap(anomaly_score, is_anomalous, resamples, seed)
    intervals = _intervals(point, called, is_anomalous, samples) if samples else {}
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
        classes=() if classes is None else _of_classes(anomaly_score, called, is_anomalous, classes),
    )


def auroc(anomaly_score: FloatArray, is_anomalous: BoolArray) -> float:
    """Chance that an anomalous image scores above a normal one, ties counting half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_anomalous, anomaly_score))


def roc(anomaly_score: FloatArray, is_anomalous: BoolArray) -> tuple[FloatArray, FloatArray]:
    """False-positive and true-positive rate at every threshold, for drawing."""
    from sklearn.metrics import roc_curve

    return roc_curve(is_anomalous, anomaly_score)[:2]  # type: ignore[no-any-return]


def at_threshold(called: BoolArray, positive: BoolArray) -> dict[str, float]:
    """accuracy, precision, recall and F1 of calling images positive; 0 where a ratio has nothing below the line."""
    hits, n_called, n_positive = int((called & positive).sum()), int(called.sum()), int(positive.sum())
    return {
        "accuracy": float((called == positive).mean()),
        "precision": hits / max(1, n_called),
        "recall": hits / max(1, n_positive),
        "f1": 2 * hits / max(1, n_called + n_positive),
    }


def share_interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n images; 0 to 1 if there are none."""
    from scipy.stats import binomtest

    if not n:
        return 0.0, 1.0
    low, high = binomtest(count, n).proportion_ci(CONFIDENCE, "wilson")
    return float(low), float(high)


def auroc_interval(value: float, n_anomalous: int, n_normal: int) -> tuple[float, float]:
    """95 % interval of an AUROC, also of a perfect one: all values that are not too far from it for their own error.

    Standard error as by Hanley & McNeil 1982, with the mean of both numbers of images; method 5 of Newcombe 2006.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, others = norm.ppf((1 + CONFIDENCE) / 2), (n_anomalous + n_normal) / 2 - 1

    def lower(value: float) -> float:
        def excess(other: float) -> float:
            of_pairs = other * (1 - other) / (n_anomalous * n_normal)
            variance = of_pairs * (1 + others * ((1 - other) / (2 - other) + other / (1 + other)))
            return float(z**2 * variance - (other - value) ** 2)

        return float(brentq(excess, 0, np.nextafter(value, 0))) if value > 0 else 0.0

    return lower(value), 1 - lower(1 - value)


def _of_classes(
    score: FloatArray, called: BoolArray, anomalous: BoolArray, classes: NDArray[np.str_]
) -> list[ClassFigures]:
    figures = []
    for side in (False, True):
        for name in np.unique(classes[anomalous == side]).tolist():
            own = classes == name
            n, n_called = int(own.sum()), int(called[own].sum())
            both = own | ~anomalous
            area = auroc(score[both], anomalous[both]) if side else None
            interval = share_interval(n_called, n)
            figures.append(ClassFigures(name, side, n, n_called, n_called / n, interval, area))
    return figures


def _intervals(
    point: Mapping[str, float], called: BoolArray, anomalous: BoolArray, samples: Sequence[Mapping[str, float]]
) -> dict[str, tuple[float, float]]:
    n_anomalous, n_normal = int(anomalous.sum()), int((~anomalous).sum())
    intervals = {"auroc": auroc_interval(point["auroc"], n_anomalous, n_normal)}
    for prefix, taken, positive in (("", called, anomalous), ("normal_as_positive.", ~called, ~anomalous)):
        hits, either = int((taken & positive).sum()), int((taken | positive).sum())
        low, high = share_interval(hits, either)
        intervals |= {
            f"{prefix}accuracy": share_interval(int((taken == positive).sum()), len(taken)),
            f"{prefix}precision": share_interval(hits, int(taken.sum())),
            f"{prefix}recall": share_interval(hits, int(positive.sum())),
            f"{prefix}f1": (2 * low / (1 + low), 2 * high / (1 + high)),  # of hits among those called or positive
        }
    # a bootstrap of scores without an overlap has no width: no narrower than a share of the images behind the figure
    behind = {name: n_normal if "normal" in name else n_anomalous for name in samples[0] if name[-9:] != "threshold"}
    behind |= dict.fromkeys(("eer", "fpr95"), min(n_normal, n_anomalous))
    tail = 100 * (1 - CONFIDENCE) / 2
    for name, n in behind.items():
        low, high = np.percentile([sample[name] for sample in samples], [tail, 100 - tail]).tolist()
        least, most = share_interval(round(point[name] * n), n)
        intervals[name] = min(low, least), max(high, most)
    return {name: intervals[name] for name in point if name in intervals}


def _over_all_thresholds(score: FloatArray, anomalous: BoolArray, weights: FloatArray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

    fpr, tpr, _ = roc_curve(anomalous, score, sample_weight=weights, drop_intermediate=False)
    precision, recall, thresholds = precision_recall_curve(anomalous, score, sample_weight=weights)
    f1 = _f1(precision, recall)[:-1]
    precision_n, recall_n, _ = precision_recall_curve(~anomalous, -score, sample_weight=weights)
    return {
        "aupr": float(average_precision_score(anomalous, score, sample_weight=weights)),
        "eer": equal_error_rate(fpr, tpr),
        "fpr95": float(fpr[np.argmax(tpr >= 0.95 - 1e-12)]),
        "normal_as_positive.aupr": float(average_precision_score(~anomalous, -score, sample_weight=weights)),
        "tuned_on_test.best_f1": float(f1.max()),
        # scikit-learn calls a score at the threshold positive; here it has to be above
        "tuned_on_test.threshold": float(np.nextafter(thresholds[f1.argmax()], -np.inf)),
        "tuned_on_test.best_f1_normal_as_positive": float(_f1(precision_n, recall_n).max()),
    }


def equal_error_rate(false_positive_rate: FloatArray, true_positive_rate: FloatArray) -> float:
    """Where the curve has as many false positives as false negatives, in proportion; linear between its points."""
    gap = false_positive_rate - (1 - true_positive_rate)  # rises from −1 to 1
    return float(np.interp(0, gap, false_positive_rate))


def _f1(precision: FloatArray, recall: FloatArray) -> FloatArray:
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def _bootstrap(score: FloatArray, anomalous: BoolArray, resamples: int, seed: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(anomalous), np.flatnonzero(~anomalous)]
    samples = []
    for _ in range(resamples):
        weights = np.zeros(len(score))
        for group in groups:
            weights[group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)))
        drawn = weights > 0
        samples.append(_over_all_thresholds(score[drawn], anomalous[drawn], weights[drawn]))
    return samples


def _group(figures: Mapping[str, float], name: str) -> dict[str, float]:
    return {key.removeprefix(f"{name}."): value for key, value in figures.items() if key.startswith(f"{name}.")}
