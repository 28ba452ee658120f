"""Write docs/results/article.md and its curve from a run of ``alocc reproduce article``, finished or not.

.venv/bin/alocc reproduce article --out runs/article
.venv/bin/python benchmarks/article_results.py runs/article
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from measuring import cpu_model

from alocc.config import load_config
from alocc.evaluation.reproduction import CLAIMED_ACCURACY, READINGS, compare_with_article
from alocc.storage import load_tensors
from alocc.training.folder import RunFolder
from alocc.training.history import history_csv

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results" / "article.md"
PICTURE = ROOT / "docs" / "images" / "article.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    folder = RunFolder(parser.parse_args().run)
    text, seconds = history_and_seconds(folder)
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row.get("auroc")]
    draw(rows)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(folder, rows, text, seconds), encoding="utf-8")
    print(f"{PAGE} and {PICTURE} written")


def history_and_seconds(folder: RunFolder) -> tuple[str, float]:
    """The run's history and how long it took: of its files if it is finished, else what the checkpoint remembers."""
    if folder.is_finished:
        notes = json.loads(folder.summary.read_text(encoding="utf-8"))
        return folder.history.read_text(encoding="utf-8"), notes["training_seconds"]
    _, metadata = load_tensors(folder.checkpoint())
    return history_csv(list(map(dict, metadata["history"]))), metadata["seconds"]


def page(folder: RunFolder, rows: list[dict[str, str]], text: str, seconds: float) -> str:
    config = load_config(folder.config)
    planned, done = config.training.adversarial.iterations, int(rows[-1]["iteration"])
    with tempfile.TemporaryDirectory() as scratch:
        history = Path(scratch, "history.csv")
        history.write_text(text, encoding="utf-8")
        comparison = compare_with_article(history)
    state = "" if done == planned else f"\n**Not finished: {done:,} of {planned:,} iterations so far.**\n"
    hours = seconds / 3600
    table = "\n".join(f"| {' | '.join(row)} |" for row in comparison.as_rows()[1:])
    shown = ("accuracy_real", "accuracy_flipped", "auroc", "p_real_normal", "p_real_anomalous")
    evaluations = "\n".join(
        f"| {int(row['iteration']):,} | {' | '.join(f'{float(row[name]):.3f}' for name in shown)} |"
        for row in rows
        if int(row["iteration"]) % (planned // 40) == 0
    )
    return f"""# The article's experiment

ALOCC on MNIST, the digit 1 normal, 0 anomalous (1,135 and 980 test images), preset `article`, to the letter
([what differs](../method.md#the-preset-article)). The article reports accuracy "nearly 90 %" in the end.
{state}
| | |
|---|---|
| command | `alocc reproduce article --seed {config.seed} --set training.precision={config.training.precision}` |
| machine | {cpu_model()}, 2 threads |
| training time | {hours:.1f} h, with other work on the machine at times |
| date | {datetime.date.today()} |
| page written by | `benchmarks/article_results.py` |

![Accuracy through training, read both ways](../images/article.png)

| | accuracy | F1, 0 as positive | AUROC |
|---|---|---|---|
{table}

**Verdict.** {comparison.verdict}

The test images were evaluated {comparison.evaluations} times for this page, every {rows[0]["iteration"]} iterations. None of
these evaluations steered anything: the last step counts, whatever it is.

| iteration | accuracy, class 1 = real | accuracy, class 1 = anomaly | AUROC of 1 − p_real | mean p_real of 1 | of 0 |
|---|---|---|---|---|---|
{evaluations}
"""


def draw(rows: list[dict[str, str]]) -> None:
    """Accuracy under both readings, and AUROC."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    iterations = [float(row["iteration"]) for row in rows]
    for reading, colour in zip(READINGS, ("#2b6cb0", "#c05621"), strict=True):
        accuracy = [float(row[f"accuracy_{reading}"]) for row in rows]
        axes.plot(iterations, accuracy, color=colour, linewidth=1.2, label=f"accuracy, {READINGS[reading]}")
    auroc = [float(row["auroc"]) for row in rows]
    axes.plot(iterations, auroc, color="#4a5568", linewidth=0.8, alpha=0.7, label="AUROC of 1 − p_real")
    axes.axhline(CLAIMED_ACCURACY, color="#1a202c", linestyle="--", linewidth=1, label="the article's claim")
    axes.set(xlabel="iteration", ylim=(0, 1), title="Plain ALOCC: what D(R(x)) means keeps changing")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
