"""Maps against masks: how well the places that stand out are the places of the anomalies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alocc.data.images import ImageFormat, read_image
from alocc.errors import DataError
from alocc.evaluation.metrics import auroc

PRO_LIMIT = 0.3
"""Per-region overlap is averaged over false-positive rates up to this (Bergmann et al. 2021)."""
MOST_THRESHOLDS = 300


def load_masks(masks: Sequence[Path | None], image_format: ImageFormat) -> NDArray[np.bool_]:
    """Masks at the detector's size, (n, H, W): true where more than half of the area is marked; all false for none.

    Raises:
        DataError: if a mask cannot be read.
    """
    loaded = np.zeros((len(masks), *image_format.size), dtype=bool)
    for i, path in enumerate(masks):
        if path is not None:
            marked = Image.fromarray((_grey(read_image(path)) > 0).astype(np.float32))
            loaded[i] = np.asarray(marked.resize(image_format.size[::-1], Image.Resampling.BOX)) >= 0.5
    return loaded


def pixel_figures(maps: NDArray[np.float32], masks: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """pixel_auroc over all pixels, pro, and pixel_f1 at the detector's own threshold of the map.

    Args:
        maps, masks: (n, H, W).
        threshold: of the map.

    Raises:
        DataError: if no pixel, or every pixel, is marked.
    """
    if not masks.any() or masks.all():
        raise DataError("the masks mark no pixel, or all of them; there is nothing to compare maps with")
    called = maps > threshold
    hit = float((called & masks).sum())
    return {
        "pixel_auroc": auroc(maps.astype(np.float64).ravel(), masks.ravel()),
        "pro": per_region_overlap(maps, masks),
        "pixel_f1": 2 * hit / max(1.0, float(called.sum() + masks.sum())),
    }


def per_region_overlap(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> float:
    """Mean share of each marked region that stands out, averaged over false-positive rates up to 0.3, in [0, 1].

    Each connected region counts alike, however large it is.
    """
    from scipy.ndimage import label

    regions = [
        np.sort(anomaly_map[labelled == number])
        for anomaly_map, mask in zip(maps, masks, strict=True)
        for labelled, n_regions in [label(mask)]
        for number in range(1, n_regions + 1)
    ]
    outside = np.sort(maps[~masks])
    rates = np.linspace(0, PRO_LIMIT, MOST_THRESHOLDS)
    thresholds = outside[np.clip(np.ceil(len(outside) * (1 - rates)).astype(int) - 1, 0, len(outside) - 1)]
    overlap = [1 - np.searchsorted(values, thresholds, side="right") / len(values) for values in regions]
    return float(np.trapezoid(np.mean(overlap, 0), rates) / PRO_LIMIT)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = image if image.ndim == 2 else image.max(2)
    return grey
