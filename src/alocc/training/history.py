"""The curves of a training: one row now and then, losses averaged since the row before."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Row = dict[str, float | str]


@dataclass
class History:
    """Gathers losses and watched figures, row by row."""

    rows: list[Row] = field(default_factory=list)
    losses: list[Mapping[str, float]] = field(default_factory=list)
    """Of each iteration since the last row."""

    def add(self, losses: Mapping[str, float]) -> None:
        """Take the losses of one iteration."""
        self.losses.append(losses)

    def write_row(self, phase: str, iteration: int, watched: Mapping[str, float]) -> None:
        """Close a row: the mean of the losses since the last one, and what was watched now."""
        names = self.losses[0] if self.losses else {}
        means = {name: sum(losses[name] for losses in self.losses) / len(self.losses) for name in names}
        self.rows.append({"phase": phase, "iteration": iteration, **means, **watched})
        self.losses.clear()


def joined(folds: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of trainings that came one after another, as of one; which fold a row is of, if there are several."""
    rows: list[Row] = []
    for index, fold in enumerate(folds):
        before = int(rows[-1]["iteration"]) if rows else 0
        for row in fold:
            at = {"iteration": before + int(row["iteration"])}
            rows.append(row | at | ({"fold": index + 1} if len(folds) > 1 else {}))
    return rows


def history_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV, one column for each name that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
