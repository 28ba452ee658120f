"""Gather what the report shows, then fill the page."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from alocc.config import dump_config
from alocc.data.images import to_unit_range
from alocc.data.sources import ImageSet, open_source
from alocc.detector import Detector, Scores
from alocc.errors import ArtefactError
from alocc.evaluation.labelled import Labelled, evaluate
from alocc.evaluation.metrics import Evaluation, roc
from alocc.report import figures
from alocc.storage import write_text
from alocc.training.run import RunFolder

GRID_COLUMNS = 8
GRID_CLASSES = 12
GALLERY = 16

LOSS_NAMES = {
    "r_mse": "R: mean squared error",
    "r_adversarial": "R: adversarial",
    "d_real": "D: on real normal images",
    "d_fake": "D: on R's images or deformed ones",
}
WATCH_NAMES = {"accuracy": "accuracy", "f1": "F1", "auroc": "AUROC"}
READING_NAMES = {
    "accuracy_real": "accuracy, class 1 = real",
    "accuracy_flipped": "accuracy, class 1 = anomaly",
    "f1_real": "F1, class 1 = real",
    "f1_flipped": "F1, class 1 = anomaly",
}
POLARITY_NAMES = {"polarity": "AUROC of D"}
P_REAL_NAMES = {"p_real_normal": "normal images", "p_real_anomalous": "anomalous images"}


@dataclass(frozen=True)
class Shown:
    """The images of a report, with their scores and, where classes are known, their labels."""

    all_classes: ImageSet
    """For the grid: every class of the data."""
    images: ImageSet
    """For figures and galleries: the classes that were asked for."""
    is_anomalous: NDArray[np.bool_] | None
    scores: Scores
    evaluation: Evaluation | None


def build_report(
    run: str | Path,
    data: str | None = None,
    normal: Sequence[str] | None = None,
    anomalous: Sequence[str] | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write the report of a run and return its path.

    Args:
        run: a run folder.
        data: images to show; none: those watched through training, or else those trained on.
        normal: normal classes of ``data``; none: those of the training.
        anomalous: anomalous classes of ``data``; none: those watched, or else all others.
        out: the HTML file; none: report.html in the run folder.

    Raises:
        ArtefactError: if there is no finished run.
        DataError: if the images cannot be found.
    """
    folder = RunFolder(Path(run))
    detector = Detector.load(folder.root)
    notes = _read_notes(folder)
    if data is None:
        data = notes["watch"] or notes["data"]
        anomalous = anomalous or notes["watch_anomalous"]
    shown = None
    if data != "arrays":
        shown = _look(detector, data, normal or notes["normal_classes"], anomalous)
    page = _environment().get_template("report.html").render(
        title=folder.root.resolve().name,
        detector=detector,
        notes=notes,
        config=dump_config(detector.config),
        data=data,
        evaluation=shown.evaluation if shown else None,
        health=_read_health(folder),
        curves=_curves(folder, detector),
        operating_figures=_operating_figures(detector, shown),
        grid=_grid(detector, shown.all_classes) if shown else [],
        galleries=_galleries(shown) if shown else [],
    )  # fmt: skip
    written = Path(out) if out else folder.report
    write_text(written, page)
    return written


def _read_notes(folder: RunFolder) -> dict[str, Any]:
    try:
        notes: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder.summary} cannot be read ({error}); give the folder of a finished run") from None
    return {"watch": None, "watch_anomalous": None} | notes


def _read_health(folder: RunFolder) -> dict[str, Any] | None:
    """The last verdict; none if the run was never examined."""
    try:
        health: dict[str, Any] = json.loads(folder.health.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder.health} cannot be read ({error}); run alocc check again") from None
    measures = health["measures"]
    shown = {f"{name} images": value for name, value in measures["probes"].items()}
    shown |= {f"normal images {name.replace('_', ' ')}": value for name, value in measures["unseen_kinds"].items()}
    return health | {"shown": shown}


def _look(detector: Detector, data: str, normal: Sequence[str], anomalous: Sequence[str] | None) -> Shown:
    everything = open_source(data, "test").load(detector.image_format)
    names = set(everything.classes.tolist())
    labelled = set(normal) <= names and (set(anomalous) if anomalous else names - set(normal)) - {""} != set()
    images, is_anomalous = everything, None
    if labelled:
        images = everything[np.isin(everything.classes, [*normal, *(anomalous or names)])]
        is_anomalous = ~np.isin(images.classes, list(normal))
    scores = detector.score(images.images)
    evaluation = None
    if is_anomalous is not None:
        evaluation = evaluate(detector, Labelled(images, is_anomalous), scores)
    return Shown(everything, images, is_anomalous, scores, evaluation)


def _curves(folder: RunFolder, detector: Detector) -> list[Markup]:
    """Losses of each phase, then what was watched; only curves that this training has."""
    with folder.history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = [
        _curve([row for row in rows if row["phase"] == phase], LOSS_NAMES, "loss", f"Losses: {phase}")
        for phase in dict.fromkeys(row["phase"] for row in rows)
    ]
    drawn.append(_curve(rows, POLARITY_NAMES, "AUROC", "D on pseudo-anomalies of kinds that it never met; no labels"))
    drawn.append(_curve(rows, WATCH_NAMES, "", "Watched: at the detector's threshold"))
    with_d = [row for row in rows if row.get("d_real")]
    if detector.config.networks.discriminator_input == "single":
        drawn.append(_curve(with_d, READING_NAMES, "", "Watched: D's argmax, read both ways"))
    drawn.append(_curve(with_d, P_REAL_NAMES, "mean p_real", "Watched: what D says"))
    return [Markup(picture) for picture in drawn if picture]


def _curve(rows: Sequence[dict[str, str]], names: dict[str, str], y_label: str, title: str) -> str:
    series = {
        label: [float(row[name]) if row.get(name) else None for row in rows]
        for name, label in names.items()
        if any(row.get(name) for row in rows)
    }
    return figures.lines([float(row["iteration"]) for row in rows], series, y_label, title) if series else ""


def _operating_figures(detector: Detector, shown: Shown | None) -> list[Markup]:
    if shown is None or shown.evaluation is None or shown.is_anomalous is None:
        groups = {"held-out normal images": detector.held_out_scores}
        if shown is not None:
            groups["the images shown"] = shown.scores.anomaly_score
        return [Markup(figures.histogram(groups, detector.threshold))]
    score, anomalous, called = shown.scores.anomaly_score, shown.is_anomalous, shown.scores.is_anomaly
    groups = {"normal": score[~anomalous], "anomalous": score[anomalous]}
    rates = float(called[~anomalous].mean()), float(called[anomalous].mean())
    curve = figures.roc_figure(roc(score, anomalous), shown.evaluation.figures["auroc"], *rates)
    return [Markup(figures.histogram(groups, detector.threshold)), Markup(curve)]


def _grid(detector: Detector, images: ImageSet) -> list[dict[str, str]]:
    """The article's picture: input, noisy input and reconstruction, for every class."""
    rows = []
    for name in sorted(set(images.classes.tolist()))[:GRID_CLASSES]:
        chosen = images[np.flatnonzero(images.classes == name)[:GRID_COLUMNS]].images
        x_noisy, x_hat = detector.reconstruct(chosen)
        strips = {"input": to_unit_range(chosen), "noisy": x_noisy, "reconstruction": x_hat}
        rows.append({"name": name} | {label: figures.strip(strip.numpy()) for label, strip in strips.items()})
    return rows


def _galleries(shown: Shown) -> list[dict[str, Any]]:
    order = np.argsort(shown.scores.anomaly_score)
    return [
        {"title": "Most anomalous", "tiles": [_tile(shown, index) for index in order[::-1][:GALLERY]]},
        {"title": "Most normal", "tiles": [_tile(shown, index) for index in order[:GALLERY]]},
    ]


def _tile(shown: Shown, index: int) -> dict[str, Any]:
    return {
        "picture": figures.png(to_unit_range(shown.images.images[index]).numpy()),
        "name": shown.images.names[index],
        "image_class": shown.images.classes[index],
        "anomaly_score": shown.scores.anomaly_score[index],
        "p_value": shown.scores.p_value[index],
        "is_anomaly": bool(shown.scores.is_anomaly[index]),
    }


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("alocc.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
