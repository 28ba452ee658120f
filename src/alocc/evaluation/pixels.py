"""Maps against masks: how well the places that stand out are the places of the anomalies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alocc.data.decoding import read_mask
from alocc.data.images import ImageFormat
from alocc.errors import DataError
from alocc.evaluation.metrics import auroc

PRO_LIMIT = 0.3
"""Per-region overlap is averaged over false-positive rates up to this (Bergmann et al. 2021)."""


def load_masks(masks: Sequence[Path | None], image_format: ImageFormat) -> NDArray[np.bool_]:
    """Masks at the detector's size, (n, H, W): true where at least half of the area is marked; all false for none.

    Raises:
        DataError: if a mask cannot be read (:func:`alocc.data.decoding.read_mask` says what one marks).
    """
    loaded = np.zeros((len(masks), *image_format.size), dtype=bool)
    for i, path in enumerate(masks):
        if path is not None:
            marked = Image.fromarray(read_mask(path).astype(np.float32))
            loaded[i] = np.asarray(marked.resize(image_format.size[::-1], Image.Resampling.BOX)) >= 0.5
    return loaded


def pixel_figures(maps: NDArray[np.float32], masks: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """pixel_auroc over all pixels of maps and masks, (n, H, W), pro, and pixel_f1 at the detector's threshold of maps.

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

    Each connected region, corners included, counts alike, however large it is.
    """
    from scipy.ndimage import label
    from sklearn.metrics import roc_auc_score

    touching = np.zeros((3, 3, 3), dtype=bool)
    touching[1] = True  # within one mask, not from mask to mask
    regions = label(masks, touching)[0].ravel()
    weights = 1 / np.bincount(regions)[regions]  # the share of regions that stands out is a true-positive rate then
    standardised = roc_auc_score(masks.ravel(), maps.ravel(), sample_weight=weights, max_fpr=PRO_LIMIT)
    # the area under the curve up to the limit L, over L: McClish standardised it from L / 2 … 1 to 0.5 … 1
    return float(PRO_LIMIT / 2 + (2 * standardised - 1) * (1 - PRO_LIMIT / 2))
