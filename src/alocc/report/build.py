"""Gather what the report shows, then fill the page."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup
from numpy.typing import NDArray

from alocc.calibration import ANOMALOUS, CANT_TELL, smallest_alpha_text
from alocc.config import dump_config
from alocc.data.images import to_unit_range
from alocc.data.sources import ImageSet, Skipped
from alocc.detector import Detector
from alocc.errors import ArtefactError, ConfigError, InputError
from alocc.evaluation.health import Measures
from alocc.evaluation.metrics import roc
from alocc.evaluation.notes import noted_data
from alocc.report import figures
from alocc.report.page_data import histogram, page_data
from alocc.report.pictures import ON_PAGE, address, make_sheets, picture_size, strip, triples
from alocc.report.results import Results, printable, printable_reasons, score_images
from alocc.report.views import make_views
from alocc.storage import write_text
from alocc.training.folder import RunFolder

WATCHED = {"accuracy": "accuracy", "f1": "F1", "auroc": "AUROC"}
BOTH_READINGS = {
    "accuracy_real": "accuracy, class 1 = real",
    "accuracy_flipped": "accuracy, class 1 = anomaly",
    "f1_real": "F1, class 1 = real",
    "f1_flipped": "F1, class 1 = anomaly",
}


def build_report(
    run: str | Path,
    data: str | None = None,
    normal: Sequence[str] | None = None,
    anomalous: Sequence[str] | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write the report of a run folder and return its path: ``out``, or report.html in the folder.

    Args:
        run: the run folder.
        data: images to show; none: those watched through training, or else those trained on, if they are near: see
            :mod:`alocc.evaluation.notes`.
        normal: normal classes of ``data``; none: those of the training.
        anomalous: anomalous classes of ``data``; none: those watched, or else all others.
        out: the HTML file.

    Raises:
        ConfigError: if ``out`` is called otherwise than HTML files are.
        ArtefactError: if there is no finished run.
        DataError: if the images cannot be found.
    """
    if out is not None and Path(out).suffix.lower() not in ("", ".html", ".htm"):
        raise ConfigError(f"--out {out}: the file must end in .html")
    folder = RunFolder(Path(run))
    detector = Detector.load(folder.root)
    notes = {"watch": None, "watch_anomalous": None, "n_left_out": 0} | _read(folder.summary, "give a finished run")
    notes["recalibrated_on"] = detector.training.get("recalibrated_on")
    if data is None:
        watched = notes["watch_anomalous"]
        anomalous = anomalous or (list(map(str, watched)) if isinstance(watched, list) else None)
        noted = notes["watch"] or notes.get("data")
        data = "arrays" if noted == "arrays" else noted_data(noted, folder.root)
    results = None if data == "arrays" else score_images(detector, data, normal, anomalous)
    shown: dict[str, Any] = dict.fromkeys(("evaluation", "counts", "page_data", "roc", "grid", "galleries"), ())
    if results:
        order = results.by_score
        views = make_views(detector, results)
        sheets = make_sheets(detector, results, (ON_PAGE - views.n_bytes) * 3 // 4)
        places = views.places(len(results))
        shown = {
            "evaluation": results.evaluation,
            "counts": _counts(results),
            "page_data": page_data(detector, results, sheets, views),
            "roc": _roc(results),
            "grid": _grid(detector, results.all_classes),
            "galleries": [
                {"title": "Most anomalous", "images": _gallery(detector, results, order[:12], places)},
                {"title": "Most normal", "images": _gallery(detector, results, order[::-1][:12], places)},
            ],
        }
    written = Path(out) if out else folder.report
    write_text(written, _page(folder, detector, shown | {"notes": notes, "data": printable(data), "results": results}))
    return written


def _page(folder: RunFolder, detector: Detector, shown: Mapping[str, Any]) -> str:
    """Fill the template with what is shown of the images, and with what the run folder holds."""
    results = shown["results"]
    script = _asset("report.js")
    environment = Environment(
        loader=PackageLoader("alocc.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    try:
        return environment.get_template("report.html").render(
            shown,
            title=printable(folder.root.resolve().name),
            detector=detector,
            config=dump_config(detector.config),
            review_threshold=detector.calibration.review_threshold,
            smallest_alpha=smallest_alpha_text(len(detector.held_out_scores)),
            histogram=histogram(detector, results),
            measures=_measures(folder),
            curves=_curves(folder, detector),
            skipped=_skipped(shown["notes"], results),
            style=_asset("report.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    except (csv.Error, KeyError, OSError, TypeError, UndefinedError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        names = ", ".join(path.name for path in (folder.summary, folder.history, folder.health))
        raise ArtefactError(f"{folder.root}: {names} are not all what alocc wrote ({error}); train again") from None


def _read(path: Path, advice: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read ({error}); {advice}") from None
    if not isinstance(content, dict):
        raise ArtefactError(f"{path} was not written by alocc; {advice}")
    return content


def _skipped(notes: Mapping[str, Any], results: Results | None) -> dict[str, list[str]]:
    """Images that could not be used: one line each."""
    trained_on = [Skipped(**item) for item in notes["skipped"]]
    found = {"shown": results.images.skipped if results else (), "trained on": trained_on}
    return {where: printable_reasons(skipped) for where, skipped in found.items() if skipped}


def _measures(folder: RunFolder) -> list[tuple[str, str]]:
    """What the last check measured; nothing if there was none."""
    if not folder.health.exists():
        return []
    return Measures(**_read(folder.health, "run alocc check again")["measures"]).as_rows()


def _curves(folder: RunFolder, detector: Detector) -> list[Markup]:
    """Losses of each phase, then what was watched; only curves that this training has."""
    with folder.history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with_d = [row for row in rows if row.get("d_real")]
    takes_pairs = detector.config.networks.discriminator_input == "pair"
    losses = {
        "r_mse": "R: mean squared error",
        "r_adversarial": "R: adversarial",
        "d_real": "D: on real normal images",
        "d_fake": "D: on R's images or deformed ones",
    }
    p_real = {"p_real_normal": "normal images", "p_real_anomalous": "anomalous images"}
    drawn = [
        _curve([row for row in rows if row["phase"] == phase], losses, "loss", f"Losses: {phase}")
        for phase in dict.fromkeys(row["phase"] for row in rows)
    ]
    drawn += [
        _curve(rows, {"polarity": "AUROC of D"}, "AUROC", "D on kinds of pseudo-anomaly that it never met"),
        _curve(rows, WATCHED, "", "Watched: at the detector's threshold"),
        "" if takes_pairs else _curve(with_d, BOTH_READINGS, "", "Watched: D's argmax, read both ways"),
        _curve(with_d, p_real, "mean p_real", "Watched: what D says"),
    ]
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


def _roc(results: Results) -> Markup | None:
    if results.evaluation is None or results.is_anomalous is None:
        return None
    anomalous, called = results.is_anomalous, results.scores.is_anomaly
    rates = float(called[~anomalous].mean()), float(called[anomalous].mean())
    area = results.evaluation.figures["auroc"]
    curve = figures.roc_figure(roc(results.scores.anomaly_score, anomalous), area, rates)
    return Markup(figures.themed(curve, f"ROC curve, AUROC {area:.4f}"))


def _grid(detector: Detector, images: ImageSet) -> list[dict[str, str]]:
    """The article's picture: input, noisy input and reconstruction of 8 images, for up to 12 classes."""
    rows, size = [], picture_size(detector.image_format)
    for name in sorted(set(images.classes.tolist()))[:12]:
        chosen = images[np.flatnonzero(images.classes == name)[:8]].images
        x_noisy, x_hat = detector.reconstruct(chosen)
        strips = {"input": to_unit_range(chosen), "noisy": x_noisy, "reconstruction": x_hat}
        rows.append({"name": name} | {label: strip(images.numpy(), size) for label, images in strips.items()})
    return rows


def _counts(results: Results) -> list[dict[str, Any]]:
    """What is called what: shown before anybody moves alpha."""
    verdict = results.scores.verdict
    return [
        {
            "name": name,
            "n": int(members.sum()),
            "called": int((verdict[members] == ANOMALOUS).sum()),
            "review": int((verdict[members] == CANT_TELL).sum()),
        }
        for name, members in results.groups().items()
    ]


def _gallery(
    detector: Detector, results: Results, indices: NDArray[np.int64], places: NDArray[np.int64]
) -> list[dict[str, Any]]:
    drawn = triples(detector, results, indices, picture_size(detector.image_format))
    verdict = results.scores.verdict
    return [
        {
            "pictures": list(zip(("input", "reconstruction", "anomaly map"), map(address, three), strict=True)),
            "view": int(places[index]),
            "name": printable(results.images.names[index]),
            "image_class": printable(results.images.classes[index]),
            "anomaly_score": results.scores.anomaly_score[index],
            "p_value": results.scores.p_value[index],
            "verdict": verdict[index],
        }
        for index, three in zip(indices.tolist(), drawn, strict=True)
    ]


def _asset(name: str) -> Markup:
    return Markup((resources.files("alocc.report") / "templates" / name).read_text(encoding="utf-8"))
