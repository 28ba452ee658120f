"""Write docs/results/trust.md and its picture from the folders that ``alocc benchmark`` filled.

    python benchmarks/trust.py RESULTS

RESULTS holds suite/, mnist/, outliers/ and, where they were run, normals100/, dirty5/, dr/ (D on R's images alone) and
article/ (the run folder of `alocc reproduce article`). `make trust` has the commands. What no table says stands in
benchmarks/trust_notes.md.
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

from alocc.evaluation.health import Measures, judge

mpl.use("svg")
import matplotlib.pyplot as plt
from scipy.stats import betabinom, binom

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


def suite_lines(results: Sequence[Cell]) -> str:
    ours = {result["cell"]["label"]: result["figures"]["auroc"] for result in of(results, "robust")}
    rivals: dict[str, dict[str, float]] = {}
    for result in results:
        if result["cell"]["method"] != "robust":
            rivals.setdefault(result["cell"]["method"], {})[result["cell"]["label"]] = result["figures"]["auroc"]
    means = {name: np.mean(list(values.values())) for name, values in rivals.items()}
    best = max(means, key=means.__getitem__)
    behind = {label: ours[label] - max(values[label] for values in rivals.values()) for label in ours}
    worst = min(behind, key=behind.__getitem__)
    return (
        f"Mean {np.mean(list(ours.values())):.4f}; the best single rival, {best}, {means[best]:.4f}. Against the best "
        f"rival of each set by itself, the largest loss is {-behind[worst]:.4f} ({worst}).\n"
    )


def false_positive_table(results: Sequence[Cell]) -> str:
    rows = []
    for result in of(results, "robust"):
        figures, row = result["figures"], [result["cell"]["label"], result["figures"]["n_held_out"]]
        n, held_out = figures["n_normal"], figures["n_held_out"]
        for alpha, count in figures["false_positives"].items():
            if 1 / (held_out + 1) > float(alpha):
                row.append("not supported")
                continue
            low, high = binom.interval(0.99, n, float(alpha))
            k = int(np.floor(float(alpha) * (held_out + 1) + 1e-9))
            wide_low, wide_high = betabinom.interval(0.99, n, k, held_out + 1 - k)
            note = "" if low <= count <= high else " ·" if wide_low <= count <= wide_high else " **outside**"
            row.append(f"{count} of {n} ({count / n:.3f}){note}")
        rows.append(row)
    return table(["set", "held out", "alpha 0.01", "alpha 0.05", "alpha 0.1"], rows)


def health_table(results: Sequence[Cell]) -> str:
    rows = []
    for result in of(results, "robust"):
        health = result["figures"]["health"]
        measures = Measures(**{field.name: health.get(field.name) for field in fields(Measures)})
        verdict = judge(measures)
        reason = verdict.findings[0].reason if verdict.findings else ""
        rows.append([result["cell"]["label"], verdict.verdict, f"{measures.unseen_mean:.2f}", reason])
    return table(["set", "verdict", "AUROC on unseen kinds", "why"], rows)


def draw_polarity(results: Path) -> None:
    """D's AUROC through training: the picture of this project."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    with (results / "article" / "history.csv").open(encoding="utf-8", newline="") as file:
        plain = [float(row["auroc"]) for row in csv.DictReader(file) if row.get("auroc")]
    axes[0].plot(np.linspace(0, 100, len(plain) + 1)[1:], plain, lw=1)
    axes[0].set(title="plain ALOCC, 1 against 0: D(R(x))", xlabel="% of 100,000 iterations")
    for run in of(cells(results / "mnist"), "robust"):
        at, looks = d_looks(run)
        axes[1].plot(100 * np.array(at), looks, lw=0.8, alpha=0.6)
    axes[1].set(title="robust, ten digits × five seeds: D(x, R(x))", xlabel="% of D's training", xlim=(0, 100))
    for axis in axes:
        axis.axhline(0.5, color="grey", lw=0.8, ls=":")
        axis.set_ylim(0, 1.02)
    axes[0].set_ylabel("AUROC on test images")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def d_looks(run: Cell) -> tuple[list[float], list[float]]:
    """Share of D's own training, and D's AUROC on test images, at each look; looks while R trains are not D's."""
    looks = [look["d_pair"] for look in run["figures"]["watch"]]
    training = run["cell"]["config"]["training"]
    r, d = training["reconstruction"]["iterations"], training["discrimination"]["iterations"]
    every = max(1, (r + d) // 8)
    at = [i for i in range(1, r + d + 1) if i % every == 0 or i in (r, r + d)]
    own = [((i - r) / d, look) for i, look in zip(at, looks, strict=True) if i > r]
    return [share for share, _ in own], [look for _, look in own]


def lowest_late_d(results: Sequence[Cell]) -> float:
    """Lowest AUROC of D after the first fifth of its own training."""
    return min(look for run in of(results, "robust") for share, look in zip(*d_looks(run), strict=True) if share > 0.2)


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
        "Written by `benchmarks/trust.py` from the results of `alocc benchmark`. Every figure is of the last step; no "
        "label chose a step, a score, a weight or a threshold. Intervals are Student's t over seeds.\n",
        "## MNIST, one digit against the rest\n",
        protocol_table(results / "mnist"),
        "Each part of the score by itself, over the same runs:\n",
        table(
            ["part", "mean AUROC", "worst run"],
            [[part, f"{np.mean(values):.4f}", f"{min(values):.4f}"] for part, values in sorted(parts.items())],
        ),
        f"The lowest AUROC of D on the pair at any look after the first fifth of D's training: {lowest_late_d(mnist):.4f}.\n",
        "![AUROC of D through training](../images/polarity.svg)\n",
    ]
    if (results / "dr").exists():
        mean, worst = mean_worst(cells(results / "dr"))
        sections.append(
            f"**D(R(x)) alone**: D sees R's image only and meets the same pseudo-anomalies "
            f"(`networks.discriminator_input=single`, `scoring={{d_reconstruction=1.0}}`): mean {mean:.4f}, worst digit "
            f"{worst:.4f}.\n"
        )
    sections += ["## MNIST with outliers among the test images\n", protocol_table(results / "outliers")]
    sections.append(
        "F1 with the inlier as the positive. *validation*: threshold with the best F1 on a validation fold with as many "
        "outliers, as the papers take it. GPND: .983 .971 .961 .950 .939; ALOCC's paper: .97 .92 .92 .91 .88.\n"
    )
    full = {run["cell"]["label"]: run["figures"]["auroc"] for run in of(mnist, "robust") if run["cell"]["seed"] == 0}
    few = []
    for name, title in (("normals100", "100 normal images"), ("dirty5", "5 % anomalies among the training images")):
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
        "A dot: outside the binomial 99 % interval around alpha, but inside the beta-binomial one, which allows for the "
        "chance in which images were held out. The promise is kept on average over such choices.\n",
        "### Health\n",
        health_table(suite),
    ]
    sections.append((ROOT / "benchmarks" / "trust_notes.md").read_text(encoding="utf-8"))
    written = ROOT / "docs" / "results" / "trust.md"
    written.write_text("\n".join(sections), encoding="utf-8")
    print(f"{written} and {PICTURE} written")


if __name__ == "__main__":
    main()
