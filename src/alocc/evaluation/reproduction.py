"""The article's experiment, and how its outcome compares with what the article says."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ComparisonRow:
    """One line of the table: accuracy, F1 (0 as positive) and AUROC, where there is one."""

    label: str
    values: tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Comparison:
    """The article's claim and what came of it."""

    rows: tuple[ComparisonRow, ...]
    verdict: str
    looks: int
    share_reaching_claim: dict[str, float]
    """For each reading, the share of the looks in the second half of training with at least the claimed accuracy."""
    flips: int
    """How often D's AUROC crossed one half from a look to the next."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rows": [{"label": row.label, **dict(zip(("accuracy", "f1", "auroc"), row.values, strict=True))}
                     for row in self.rows],
            "verdict": self.verdict,
            "looks": self.looks,
            "share_reaching_claim": self.share_reaching_claim,
            "flips": self.flips,
        }  # fmt: skip


def compare_with_article(history: Path) -> Comparison:
    """Read a run's history and judge it; the last look counts, and no look is chosen for its figures."""
    with history.open(encoding="utf-8", newline="") as file:
        looks = [row for row in csv.DictReader(file) if row.get("auroc")]
    last, second_half = looks[-1], looks[len(looks) // 2 :]
    auroc = np.array([float(row["auroc"]) for row in looks])
    rows = [ComparisonRow("the article's claim", (CLAIMED_ACCURACY, None, None))]
    share = {}
    for reading, label in READINGS.items():
        final_auroc = float(last["auroc"])
        flipped = reading == "flipped"
        rows.append(
            ComparisonRow(
                f"{label}: last step",
                (_figure(last, "accuracy", reading), _figure(last, "f1", reading),
                 1 - final_auroc if flipped else final_auroc),
            )
        )  # fmt: skip
        mean_auroc = float(np.mean([float(row["auroc"]) for row in second_half]))
        rows.append(
            ComparisonRow(
                f"{label}: mean of the second half",
                (_mean(second_half, "accuracy", reading), _mean(second_half, "f1", reading),
                 1 - mean_auroc if flipped else mean_auroc),
            )
        )  # fmt: skip
        share[reading] = float(np.mean([_figure(row, "accuracy", reading) >= CLAIMED_ACCURACY for row in second_half]))
    flips = int((np.diff(auroc > 0.5) != 0).sum())
    return Comparison(tuple(rows), _verdict(last, share, flips, len(looks)), len(looks), share, flips)


def _verdict(last: dict[str, str], share: dict[str, float], flips: int, n_looks: int) -> str:
    accuracy = {reading: _figure(last, "accuracy", reading) for reading in READINGS}
    best = max(accuracy, key=lambda reading: accuracy[reading])
    reached = "reaches" if accuracy[best] >= CLAIMED_ACCURACY else "does not reach"
    return (
        f"The last step {reached} 90 % accuracy: {accuracy[best]:.1%} with {READINGS[best]}; "
        f"{1 - accuracy[best]:.1%} the other way. In the second half of training, {share['real']:.0%} of the looks "
        f"reach it with class 1 = real and {share['flipped']:.0%} with the article's reading; over all "
        f"{n_looks} looks the meaning of D(R(x̃)) flipped {flips} times."
    )


def _figure(row: dict[str, str], name: str, reading: str) -> float:
    return float(row[f"{name}_{reading}"])


def _mean(rows: Sequence[dict[str, str]], name: str, reading: str) -> float:
    return float(np.mean([_figure(row, name, reading) for row in rows]))
