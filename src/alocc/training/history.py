"""The curves of a training: one row now and then, losses averaged since the row before."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

Row = dict[str, float | str]


class History:
    """Gathers losses and watched figures; ``rows`` is what a checkpoint keeps."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self._losses: list[Mapping[str, float]] = []

    def add(self, losses: Mapping[str, float]) -> None:
        """Take the losses of one iteration."""
        self._losses.append(losses)

    def write_row(self, phase: str, iteration: int, seconds: float, watched: Mapping[str, float]) -> None:
        """Close a row: the mean of the losses since the last one, and what was watched now."""
        names = self._losses[0] if self._losses else {}
        means = {name: sum(losses[name] for losses in self._losses) / len(self._losses) for name in names}
        self.rows.append({"phase": phase, "iteration": iteration, "seconds": round(seconds, 2), **means, **watched})
        self._losses.clear()


def later(rows: Sequence[Row], before: Sequence[Row]) -> list[Row]:
    """The rows of a training that came after another one: iterations and seconds go on from there."""
    if not before:
        return list(rows)
    last = before[-1]
    return [
        row | {name: round(float(last[name]) + float(row[name]), 2) for name in ("iteration", "seconds")}
        for row in rows
    ]


def history_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV, one column for each name that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
