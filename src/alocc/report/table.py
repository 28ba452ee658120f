"""The table of images: columns, as the page takes them apart."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import numpy as np

from alocc.detector import Detector
from alocc.report.pictures import COLUMNS, PER_SHEET, Sheets
from alocc.report.shown import Shown, printable
from alocc.report.threshold import held_out_above

MOST_ROWS = 20_000
"""Images that the table lists; of more, the most anomalous. The counts are always of all."""


def image_table(detector: Detector, shown: Shown, sheets: Sheets) -> dict[str, Any]:
    """Columns of the images, the most anomalous first, and where the picture of each is."""
    listed = shown.by_score[:MOST_ROWS]
    names = [printable(shown.images.names[i]) for i in listed]
    start = common_folder(names)
    class_names, of_class = np.unique(shown.images.classes[listed], return_inverse=True)
    place = np.full(len(shown), -1)
    place[sheets.chosen] = np.arange(len(sheets.chosen))
    pictures = {**dataclasses.asdict(sheets), "chosen": len(sheets.chosen), "per_sheet": PER_SHEET, "columns": COLUMNS}
    is_anomalous = None if shown.is_anomalous is None else shown.is_anomalous[listed].astype(int).tolist()
    return {
        "folder": start,
        "path": [name.removeprefix(start) for name in names],
        "class_names": [printable(name) for name in class_names.tolist()],
        "class": of_class.tolist(),
        "anomaly_score": shown.scores.anomaly_score[listed].tolist(),
        "k": held_out_above(shown.scores.p_value[listed], len(detector.held_out_scores)).tolist(),
        "is_anomalous": is_anomalous,
        "picture": place[listed].tolist(),
        "pictures": pictures,
    }


def common_folder(names: list[str]) -> str:
    """What all paths begin with, up to and with a separator; "" if nothing."""
    if len(names) < 2:
        return ""
    first, last = min(names), max(names)  # what these two share, all share
    n_shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    folder = re.match(r".*[/\\]", first[:n_shared], re.DOTALL)
    return folder[0] if folder else ""
