"""The protocols: which cells they are made of, and the table that comes of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alocc import parts
from alocc.benchmark.baselines import BASELINES, CLASSICAL, check_installed
from alocc.benchmark.cells import OUTLIER_PERCENTS, Cell
from alocc.benchmark.running import Result
from alocc.config import PRESETS, Config, preset, with_settings
from alocc.data.sources import known_classes
from alocc.errors import ConfigError, DataError
from alocc.storage import json_text, write_text

DEFAULT_METHODS = ("robust", *CLASSICAL)


@dataclass(frozen=True)
class Table:
    """What a protocol says: columns, and one row of numbers or nothing for each label."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | None]]
    notes: Sequence[str] = ()

    def as_markdown(self) -> str:
        """A table for people."""
        lines = ["| | " + " | ".join(self.columns) + " |", "|---" * (len(self.columns) + 1) + "|"]
        for label, values in self.rows.items():
            shown = ["—" if value is None else f"{value:.4f}" for value in values]
            lines.append(f"| {label} | " + " | ".join(shown) + " |")
        return "\n".join([f"**{self.title}**", "", *lines, "", *self.notes, ""]).rstrip() + "\n"

    def as_json(self) -> dict[str, Any]:
        """A table for programs."""
        rows = {label: dict(zip(self.columns, values, strict=True)) for label, values in self.rows.items()}
        return {"title": self.title, "rows": rows, "notes": self.notes}

    def as_rows(self) -> list[tuple[str, ...]]:
        """For a terminal, turned: a header, then classes or sets go down, methods across."""
        cells = [["" if value is None else f"{value:.4f}" for value in values] for values in self.rows.values()]
        return [("", *self.rows), *zip(self.columns, *cells, strict=True)]

    def write(self, folder: Path) -> None:
        """Write table.md and table.json."""
        write_text(folder / "table.md", self.as_markdown())
        write_text(folder / "table.json", json_text(self.as_json(), indent=1))


def method_configs(
    methods: Sequence[str] | None, settings: Sequence[str], more: Collection[str] = ()
) -> dict[str, Config | None]:
    """Method → its config, settings ("key=value") on top, or none for a baseline; without methods, the default ones.

    ``more`` are baselines of one protocol alone.

    Raises:
        ConfigError: if there is no such method, or its library is not installed.
    """
    configs: dict[str, Config | None] = {}
    for name in methods or DEFAULT_METHODS:
        if name in PRESETS:
            configs[name] = config = with_settings(preset(name), settings)
            parts.check_installed(config)
        elif name in (*BASELINES, *more):
            check_installed(name)
            configs[name] = None
        else:
            raise ConfigError(f'there is no method "{name}"; methods: {", ".join([*PRESETS, *BASELINES, *more])}')
    return configs


def make_cells(
    protocol: str,
    data: str,
    methods: Mapping[str, Config | None],
    seeds: int,
    labels: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
    **options: Any,
) -> list[Cell]:
    """All cells of a protocol: labels × methods × seeds.

    Args:
        protocol: "one-vs-rest" or "outliers", or a name for what a loader of the caller's makes.
        data: a source of labelled images, or what the loader knows.
        methods: as :func:`method_configs` gives them.
        seeds: 0 to ``seeds − 1``.
        labels, known: normal classes, none: all, of those that there are, none: the classes of the source.
        options: the other fields of :class:`Cell`.

    Raises:
        ConfigError, DataError: if there is no such label, or not more than one class.
    """
    if not known and len(known := known_classes(data, "test")) < 2:
        raise DataError(f"{data} has no classes to set against each other; it needs a sub-folder for each")
    for label in labels or ():
        if label not in known:
            raise ConfigError(f'there is no "{label}" in {data}; it has: {", ".join(known)}')
    return [
        Cell(protocol, data, label, method, seed, config.model_dump(mode="json") if config else None, **options)
        for label in labels or known
        for method, config in methods.items()
        for seed in range(seeds)
    ]


def auroc_table(results: Sequence[Result], title: str) -> Table:
    """AUROC by method: every label's mean over the seeds, then mean, worst single run and spread over all."""
    done = [result for result in results if not result.missing]
    labels = list(dict.fromkeys(result.cell.label for result in done))
    rows = {}
    for method in dict.fromkeys(result.cell.method for result in results):
        runs: dict[int, dict[str, float]] = {}
        for result in done:
            if result.cell.method == method:
                runs.setdefault(result.cell.seed, {})[result.cell.label] = result.figures["auroc"]
        by_seed = list(runs.values())
        rows[method] = [
            *(_mean([run[label] for run in by_seed if label in run]) for label in labels),
            *summary(by_seed),
        ]
    return Table(title, [*labels, "mean", "worst run", "SD of seeds", "± 95 %"], rows, _notes(results))


def outliers_table(results: Sequence[Result], title: str) -> Table:
    """Mean F1 over classes and seeds, inliers positive, by share of outliers and kind of threshold."""
    rows: dict[str, list[float | None]] = {}
    for method in dict.fromkeys(result.cell.method for result in results):
        figures = [result.figures["f1"] for result in results if result.cell.method == method and not result.missing]
        for kind in figures[0]["10"] if figures else ():
            rows[f"{method}, {kind}"] = [
                _mean([run[str(share)][kind] for run in figures]) for share in OUTLIER_PERCENTS
            ]
    return Table(title, [f"{share} % outliers" for share in OUTLIER_PERCENTS], rows, _notes(results))


def summary(by_seed: Sequence[Mapping[str, float]]) -> list[float | None]:
    """Mean, worst run, standard deviation of the seeds' means, half width of their 95 % interval (Student's t)."""
    from scipy.stats import t

    if not by_seed:
        return [None] * 4
    means = [float(np.mean(list(runs.values()))) for runs in by_seed]
    worst = min(min(runs.values()) for runs in by_seed)
    n = len(means)
    if n < 2:
        return [means[0], worst, None, None]
    deviation = float(np.std(means, ddof=1))
    return [float(np.mean(means)), worst, deviation, float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)]


def _notes(results: Sequence[Result]) -> list[str]:
    missing = {f"{result.cell.label}: {result.missing}." for result in results if result.missing}
    skipped = max((result.figures.get("n_skipped", 0) for result in results), default=0)
    notes = [f"Left out — {reason}" for reason in sorted(missing)]
    return [*notes, f"{skipped} images of the data could not be used."] if skipped else notes


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
