"""Gather what the report shows, then fill the page."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from alocc.config import dump_config
from alocc.data.images import ImageFormat, to_unit_range
from alocc.data.sources import ImageSet, Skipped
from alocc.data.splits import shown_alpha
from alocc.detector import Detector
from alocc.errors import ArtefactError
from alocc.evaluation.metrics import roc
from alocc.report import figures
from alocc.report.figures import FloatArray
from alocc.report.pictures import make_sheets, tile_size, triples, webp
from alocc.report.shown import Shown, look, printable, printable_reasons
from alocc.report.table import image_table
from alocc.report.threshold import follow_alpha, histogram
from alocc.storage import write_text
from alocc.training.run import RunFolder

GRID_COLUMNS = 8
GRID_CLASSES = 12
GALLERY = 12

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
    notes = _read_notes(folder) | {"recalibrated_on": detector.training.get("recalibrated_on")}
    if data is None:
        data = notes["watch"] or notes["data"]
        anomalous = anomalous or notes["watch_anomalous"]
    shown = None
    if data != "arrays":
        shown = look(detector, data, normal, anomalous)
    script = _asset("report.js")
    page = _environment().get_template("report.html").render(
        title=printable(folder.root.resolve().name),
        detector=detector,
        notes=notes,
        config=dump_config(detector.config),
        data=printable(data),
        evaluation=shown.evaluation if shown else None,
        shown=shown,
        counts=_counts(shown) if shown else [],
        smallest_alpha=shown_alpha(len(detector.held_out_scores)),
        histogram=histogram(detector, shown),
        page_data=_page_data(detector, shown),
        health=_read_health(folder),
        curves=_curves(folder, detector),
        roc=_roc(shown),
        grid=_grid(detector, shown.all_classes) if shown else [],
        galleries=_galleries(detector, shown) if shown else [],
        skipped=_skipped(notes, shown),
        style=_asset("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    written = Path(out) if out else folder.report
    write_text(written, page)
    return written


def _read_notes(folder: RunFolder) -> dict[str, Any]:
    try:
        notes: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder.summary} cannot be read ({error}); give the folder of a finished run") from None
    return {"watch": None, "watch_anomalous": None, "n_left_out": 0} | notes


def _skipped(notes: dict[str, Any], shown: Shown | None) -> dict[str, list[str]]:
    """Images that could not be used: one line each."""
    trained_on = [Skipped(**item) for item in notes["skipped"]]
    found = {"shown": shown.images.skipped if shown else (), "trained on": trained_on}
    return {where: printable_reasons(skipped) for where, skipped in found.items() if skipped}


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


def _curves(folder: RunFolder, detector: Detector) -> list[Markup]:
    """Losses of each phase, then what was watched; only curves that this training has."""
    with folder.history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = [
        _curve([row for row in rows if row["phase"] == phase], LOSS_NAMES, "loss", f"Losses: {phase}")
        for phase in dict.fromkeys(row["phase"] for row in rows)
    ]
    drawn.append(_curve(rows, POLARITY_NAMES, "AUROC", "D on kinds of pseudo-anomaly that it never met"))
    drawn.append(_curve(rows, WATCH_NAMES, "", "Watched: at the detector's threshold"))
    with_d = [row for row in rows if row.get("d_real")]
    if detector.config.networks.discriminator_input == "single":
        drawn.append(_curve(with_d, READING_NAMES, "", "Watched: D's argmax, read both ways"))
    drawn.append(_curve(with_d, P_REAL_NAMES, "mean p_real", "Watched: what D says"))
    return [Markup(picture) for picture in drawn if picture]


def _curve(rows: Sequence[dict[str, str]], names: dict[str, str], y_label: str, title: str) -> str:
    rows = _with_gaps(rows)
    series = {
        label: [float(row[name]) if row.get(name) else None for row in rows]
        for name, label in names.items()
        if any(row.get(name) for row in rows)
    }
    if not series:
        return ""
    return figures.themed(figures.lines([float(row["iteration"]) for row in rows], series, y_label, title), title)


def _with_gaps(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Rows that are no numbers between those of two folds, so that no line joins two trainings."""
    parted: list[dict[str, str]] = []
    for row in rows:
        if parted and row.get("fold") != parted[-1].get("fold"):
            gap = {name: "nan" if value else "" for name, value in row.items()}
            parted.append(gap | {"iteration": row["iteration"], "fold": row["fold"]})
        parted.append(row)
    return parted


def _roc(shown: Shown | None) -> Markup | None:
    if shown is None or shown.evaluation is None or shown.is_anomalous is None:
        return None
    anomalous, called = shown.is_anomalous, shown.scores.is_anomaly
    rates = float(called[~anomalous].mean()), float(called[anomalous].mean())
    area = shown.evaluation.figures["auroc"]
    curve = figures.roc_figure(roc(shown.scores.anomaly_score, anomalous), area, *rates)
    return Markup(figures.themed(curve, f"ROC curve, AUROC {area:.4f}"))


def _grid(detector: Detector, images: ImageSet) -> list[dict[str, str]]:
    """The article's picture: input, noisy input and reconstruction, for every class."""
    rows = []
    for name in sorted(set(images.classes.tolist()))[:GRID_CLASSES]:
        chosen = images[np.flatnonzero(images.classes == name)[:GRID_COLUMNS]].images
        x_noisy, x_hat = detector.reconstruct(chosen)
        strips = {"input": to_unit_range(chosen), "noisy": x_noisy, "reconstruction": x_hat}
        rows.append({"name": name} | {label: figures.strip(_small(strip)) for label, strip in strips.items()})
    return rows


def _small(images: Tensor) -> FloatArray:
    """Images of a report's size: none is enlarged."""
    width, height = tile_size(ImageFormat(images.shape[2], images.shape[3], 1))
    if height < images.shape[2]:
        images = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True).clamp(0, 1)
    small: FloatArray = images.double().numpy()
    return small


def _galleries(detector: Detector, shown: Shown) -> list[dict[str, Any]]:
    order = shown.by_score
    return [
        {"title": "Most anomalous", "tiles": _tiles(detector, shown, order[:GALLERY])},
        {"title": "Most normal", "tiles": _tiles(detector, shown, order[::-1][:GALLERY])},
    ]


def _tiles(detector: Detector, shown: Shown, indices: NDArray[np.int64]) -> list[dict[str, Any]]:
    drawn = triples(detector, shown, indices, tile_size(detector.image_format))
    return [_tile(shown, index, three) for index, three in zip(indices.tolist(), drawn, strict=True)]


def _tile(shown: Shown, index: int, three: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    addresses = ["data:image/webp;base64," + base64.b64encode(webp(pixels)).decode() for pixels in three]
    return {
        "pictures": list(zip(("input", "reconstruction", "anomaly map"), addresses, strict=True)),
        "name": printable(shown.images.names[index]),
        "image_class": printable(shown.images.classes[index]),
        "anomaly_score": shown.scores.anomaly_score[index],
        "p_value": shown.scores.p_value[index],
        "is_anomaly": bool(shown.scores.is_anomaly[index]),
    }


def _counts(shown: Shown) -> list[dict[str, Any]]:
    """How many images of each group are called anomalies: what the page shows before anybody moves alpha."""
    called = shown.scores.is_anomaly
    groups = shown.groups().items()
    return [{"name": name, "n": int(of.sum()), "called": int((called & of).sum())} for name, of in groups]


def _page_data(detector: Detector, shown: Shown | None) -> dict[str, Any] | None:
    if shown is None:
        return None
    return follow_alpha(detector, shown) | {"table": image_table(detector, shown, make_sheets(detector, shown))}


def _asset(name: str) -> Markup:
    return Markup((resources.files("alocc.report") / "templates" / name).read_text(encoding="utf-8"))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alocc.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment
