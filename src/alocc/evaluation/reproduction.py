"""The article's experiment, and how its outcome compares with what the article says."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLAIMED_ACCURACY = 0.9
"""The article: "nearly 90 %" in the end."""


@dataclass(frozen=True)
class Experiment:
    """Which images play which part."""

    data: str
    normal: tuple[str, ...]
    anomalous: tuple[str, ...]


EXPERIMENT = Experiment("mnist", normal=("1",), anomalous=("0",))

READINGS = {"real": "class 1 = real, as D is trained", "flipped": "class 1 = anomaly, the article's reading"}
COLUMNS = ("accuracy", "f1", "auroc")


@dataclass(frozen=True)
class Comparison:
    """The article's claim and what came of it."""

    rows: Mapping[str, Sequence[float | None]]
    """Label → accuracy, F1 (0 as positive) and AUROC, where there is one."""
    verdict: str
    evaluations: int
    share_reaching_claim: Mapping[str, float]
    """For each reading, the share of the evaluations in the second half with at least the claimed accuracy."""
    flips: int
    """How often D's AUROC crossed one half from an evaluation to the next."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        rows = [{"label": label, **dict(zip(COLUMNS, values, strict=True))} for label, values in self.rows.items()]
        return {**asdict(self), "rows": rows}

    def as_rows(self) -> list[tuple[str, ...]]:
        """For a table: a header, then the claim and what came of it."""
        shown = {name: ["" if x is None else f"{x:.3f}" for x in values] for name, values in self.rows.items()}
        return [("", "accuracy", "F1", "AUROC"), *((name, *values) for name, values in shown.items())]


def compare_with_article(history: Path) -> Comparison:
    """Read a run's history and judge it; the last evaluation counts, and none is chosen for its figures."""
    with history.open(encoding="utf-8", newline="") as file:
        evaluations = [
            {name: float(value) for name, value in row.items() if name.startswith(COLUMNS)}
            for row in csv.DictReader(file)
            if row.get("auroc")
        ]
    last, second_half = evaluations[-1], evaluations[len(evaluations) // 2 :]
    rows: dict[str, Sequence[float | None]] = {"the article's claim": (CLAIMED_ACCURACY, None, None)}
    share = {}
    for reading, label in READINGS.items():
        for which, those in (("last step", [last]), ("mean of the second half", second_half)):
            columns = (f"accuracy_{reading}", f"f1_{reading}", "auroc")
            accuracy, f1, auroc = (float(np.mean([row[column] for row in those])) for column in columns)
            rows[f"{label}: {which}"] = accuracy, f1, 1 - auroc if reading == "flipped" else auroc
        share[reading] = float(np.mean([row[f"accuracy_{reading}"] >= CLAIMED_ACCURACY for row in second_half]))
    flips = int((np.diff([row["auroc"] > 0.5 for row in evaluations])).sum())
    return Comparison(rows, _verdict(last, share, flips, len(evaluations)), len(evaluations), share, flips)


def _verdict(last: Mapping[str, float], share: Mapping[str, float], flips: int, n_evaluations: int) -> str:
    accuracy = {reading: last[f"accuracy_{reading}"] for reading in READINGS}
    best = max(accuracy, key=accuracy.__getitem__)
    reached = "reaches" if accuracy[best] >= CLAIMED_ACCURACY else "does not reach"
    return (
        f"The last step {reached} 90 % accuracy: {accuracy[best]:.1%} with {READINGS[best]}; "
        f"{1 - accuracy[best]:.1%} the other way. In the second half of training, {share['real']:.0%} of the "
        f"evaluations reach it with class 1 = real and {share['flipped']:.0%} with the article's reading; over all "
        f"{n_evaluations} evaluations the meaning of D(R(x̃)) flipped {flips} times."
    )
