"""Write docs/results/trust.md and its picture from the folders that ``make trust`` filled.

    python benchmarks/trust.py RESULTS

RESULTS holds suite/, mnist/, outliers/, article/ (the run folder of `alocc reproduce article`) and, where they were run,
baselines/, normals100/, dirty5/, dirty5told/, dr/ (D on R's images alone) and ablation/. `make trust` has the commands. What no
table says stands in benchmarks/trust_notes.md.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from ablation import VARIANTS
from image_sets import LAST_MADE

from alocc.evaluation.health import Measures, judge

mpl.use("svg")
import matplotlib.pyplot as plt
from scipy.stats import binom

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "polarity.svg"

Cell = dict[str, Any]


def cells(folder: Path) -> list[Cell]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "cells").glob("*.json"))]


def of(results: Sequence[Cell], method: str) -> list[Cell]:
    return [result for result in results if result["cell"]["method"] == method]


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def protocol_table(folder: Path) -> str:
    content = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    columns = list(next(iter(content["rows"].values())))
    rows = [
        [column, *("—" if row[column] is None else f"{row[column]:.4f}" for row in content["rows"].values())]
        for column in columns
    ]
    return table(["", *content["rows"]], rows)


def by_label(results: Sequence[Cell], method: str) -> dict[str, list[Cell]]:
    """Set or class → its runs, one a seed."""
    runs: dict[str, list[Cell]] = {}
    for result in of(results, method):
        runs.setdefault(result["cell"]["label"], []).append(result["figures"])
    return runs


def suite_lines(results: Sequence[Cell]) -> str:
    methods = dict.fromkeys(result["cell"]["method"] for result in results)
    auroc = {
        method: {
            label: float(np.mean([run["auroc"] for run in runs])) for label, runs in by_label(results, method).items()
        }
        for method in methods
    }
    ours = auroc.pop("robust")
    lines = []
    for title, labels in (
        ("All sets", list(ours)),
        ("The five sets made after the preset was settled", [label for label in ours if label in LAST_MADE]),
        ("The others", [label for label in ours if label not in LAST_MADE]),
    ):
        if not labels:
            continue
        means = {name: np.mean([values[label] for label in labels]) for name, values in auroc.items()}
        best = max(means, key=means.__getitem__)
        behind = {label: ours[label] - max(values[label] for values in auroc.values()) for label in labels}
        worst = min(behind, key=behind.__getitem__)
        against = f"{abs(behind[worst]):.4f} {'behind' if behind[worst] < 0 else 'ahead'} ({worst})"
        lines.append(
            f"- {title}: mean {np.mean([ours[label] for label in labels]):.4f}; the best single baseline, {best}, "
            f"{means[best]:.4f}; at worst, against the best baseline of each set by itself, {against}."
        )
    return "\n".join(lines) + "\n"


def false_positive_table(results: Sequence[Cell]) -> str:
    rows, outside, cells_counted = [], 0, 0
    for label, runs in by_label(results, "robust").items():
        n, held_out = runs[0]["n_normal"], runs[0]["n_held_out"]
        row = [label, held_out, n]
        for alpha in runs[0]["false_positives"]:
            if 1 / (held_out + 1) > float(alpha):
                row.append("not supported")
                continue
            count = float(np.mean([run["false_positives"][alpha] for run in runs]))
            low, high = binom.interval(0.99, n, float(alpha))
            cells_counted += 1
            outside += not low <= count <= high
            row.append(f"{count / n:.3f}" + ("" if low <= count <= high else " **outside**"))
        rows.append(row)
    seeds = len(next(iter(by_label(results, "robust").values())))
    header = ["set", "held out", "fresh", "alpha 0.01", "alpha 0.05", "alpha 0.1"]
    return (
        table(header, rows)
        + f"\nShares of fresh normal images called anomalies, mean over {seeds} choices of the held-out images (seeds): "
        f"{cells_counted - outside} of {cells_counted} inside the binomial 99 % interval of that many fresh images around alpha.\n"
    )


def health_table(results: Sequence[Cell]) -> str:
    rows = []
    for label, runs in by_label(results, "robust").items():
        measures = [
            Measures(**{field.name: run["health"].get(field.name) for field in fields(Measures)}) for run in runs
        ]
        health = [judge(measure) for measure in measures]
        reasons = "; ".join(dict.fromkeys(finding.reason for one in health for finding in one.findings))
        unseen = np.mean([measure.unseen_mean for measure in measures])
        rows.append([label, ", ".join(one.verdict for one in health), f"{unseen:.2f}", reasons])
    return table(["set", "verdict, by seed", "AUROC on unseen kinds", "why"], rows)


def ablation_table(folder: Path) -> str:
    rows = []
    for number, name in enumerate(VARIANTS):
        runs = cells(folder / f"{number:02d}")
        if not runs:
            continue
        labels = [run["cell"]["label"] for run in runs]
        score = [run["figures"]["auroc"] for run in runs]
        d = [run["figures"]["parts"].get("d") for run in runs]
        shown = [
            f"{value:.4f}" + (f" ({own:.4f})" if own is not None else "") for value, own in zip(score, d, strict=True)
        ]
        rows.append([name, *shown, f"{np.mean(score):.4f}"])
    return table(["", *labels, "mean"], rows)


def draw_polarity(results: Path) -> None:
    """D's AUROC through training: the picture of this project."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    with (results / "article" / "history.csv").open(encoding="utf-8", newline="") as file:
        plain = [float(row["auroc"]) for row in csv.DictReader(file) if row.get("auroc")]
    axes[0].plot(np.linspace(0, 100, len(plain) + 1)[1:], plain, lw=1)
    axes[0].set(title="plain ALOCC, 1 against 0: D(R(x))", xlabel="% of 100,000 iterations")
    for run in of(cells(results / "mnist"), "robust"):
        at, values = d_evaluations(run)
        axes[1].plot(100 * np.array(at), values, lw=0.8, alpha=0.6)
    axes[1].set(title="robust, ten digits × five seeds: D(x, R(x))", xlabel="% of D's training", xlim=(0, 100))
    for axis in axes:
        axis.axhline(0.5, color="grey", lw=0.8, ls=":")
        axis.set_ylim(0, 1.02)
    axes[0].set_ylabel("AUROC on test images")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def d_evaluations(run: Cell) -> tuple[list[float], list[float]]:
    """Share of D's own training, and D's AUROC on test images, at each evaluation; those while R trains are not D's."""
    evaluations = [one["d"] for one in run["figures"]["watch"]]
    training = run["cell"]["config"]["training"]
    r, d = training["reconstruction"]["iterations"], training["discrimination"]["iterations"]
    whole = r + d + (training["places"]["iterations"] or d)  # as many as D's own, where images are small
    every = max(1, whole // 8)
    at = [i for i in range(1, whole + 1) if i % every == 0 or i in (r, r + d, whole)]
    own = [((i - r) / d, value) for i, value in zip(at, evaluations, strict=True) if r < i <= r + d]
    return [share for share, _ in own], [value for _, value in own]


def lowest_late_d(results: Sequence[Cell]) -> float:
    """Lowest AUROC of D after the first fifth of its own training."""
    late = (zip(*d_evaluations(run), strict=True) for run in of(results, "robust"))
    return min(value for one in late for share, value in one if share > 0.2)


def mean_worst(results: Sequence[Cell], method: str = "robust") -> tuple[float, float]:
    values = [result["figures"]["auroc"] for result in of(results, method)]
    return float(np.mean(values)), min(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    suite, mnist = cells(results / "suite"), cells(results / "mnist")
    draw_polarity(results)
    parts: dict[str, list[float]] = {}
    for run in of(mnist, "robust"):
        for part, value in run["figures"]["parts"].items():
            parts.setdefault(part, []).append(value)
    sections = [
        "# Can it be trusted? What was measured\n",
        "Written by `benchmarks/trust.py` from the results of `alocc benchmark` and `benchmarks/suite.py`. Every figure is of the last step; no "
        "label chose a step, a score, a weight or a threshold. Intervals are Student's t over seeds.\n",
        "## MNIST, one digit against the rest\n",
        protocol_table(results / "mnist"),
        "Each part of the score by itself, over the same runs:\n",
        table(
            ["part", "mean AUROC", "worst run"],
            [[part, f"{np.mean(values):.4f}", f"{min(values):.4f}"] for part, values in sorted(parts.items())],
        ),
        f"The lowest AUROC of D on the pair at any evaluation after the first fifth of D's training: {lowest_late_d(mnist):.4f}.\n",
        "![AUROC of D through training](../images/polarity.svg)\n",
    ]
    if (results / "dr").exists():
        mean, worst = mean_worst(cells(results / "dr"))
        sections.append(
            f"**D(R(x)) alone**: D sees R's image only and meets the same pseudo-anomalies "
            f"(`networks.discriminator_input=reconstruction`, `scoring={{d=1.0}}`): mean {mean:.4f}, worst digit "
            f"{worst:.4f}.\n"
        )
    if (results / "baselines").exists():
        sections += ["### Baselines, and ALOCC as published, seed 0\n", protocol_table(results / "baselines")]
        sections.append(
            "`article`, `paper` and `ognet` train adversarially for 500 iterations, about as long as `robust` does; their "
            "last step counts.\n"
        )
    if (results / "ablation").exists():
        sections += ["### What each choice is worth\n", ablation_table(results / "ablation")]
        sections.append("AUROC of the score, and in brackets of D's part alone; seed 0, a digit and two sets.\n")
    sections += ["## MNIST with outliers among the test images\n", protocol_table(results / "outliers")]
    sections.append(
        "F1 with the inlier as the positive. *validation*: threshold with the best F1 on a validation fold with as many "
        "outliers, as the papers take it. GPND: .983 .971 .961 .950 .939; ALOCC's paper: .97 .92 .92 .91 .88.\n"
    )
    full = {run["cell"]["label"]: run["figures"]["auroc"] for run in of(mnist, "robust") if run["cell"]["seed"] == 0}
    few = []
    for name, title in (
        ("normals100", "100 normal images"),
        ("dirty5", "5 % anomalies among the training images"),
        ("dirty5told", "5 % anomalies among the training images, told with `--contamination 0.05`"),
    ):
        if not (results / name).exists():
            continue
        own = cells(results / name)
        for method in dict.fromkeys(run["cell"]["method"] for run in own):
            mean, worst = mean_worst(own, method)
            few.append([f"{title}, {method}", f"{mean:.4f}", f"{worst:.4f}"])
    if few:
        few.insert(0, ["all normal images, robust", f"{np.mean(list(full.values())):.4f}", f"{min(full.values()):.4f}"])
        sections += ["## Few and dirty normal images (MNIST, seed 0)\n", table(["", "mean AUROC", "worst digit"], few)]
    sections += [
        "## The suite\n",
        protocol_table(results / "suite"),
        suite_lines(suite),
        "### False positives on fresh normal images\n",
        false_positive_table(suite),
        "### Health\n",
        health_table(suite),
    ]
    sections.append((ROOT / "benchmarks" / "trust_notes.md").read_text(encoding="utf-8"))
    written = ROOT / "docs" / "results" / "trust.md"
    written.write_text("\n".join(sections), encoding="utf-8")
    print(f"{written} and {PICTURE} written")


if __name__ == "__main__":
    main()
