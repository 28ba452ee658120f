"""Maps against masks, on cases whose figures are plain to see."""

import numpy as np
import pytest

from alocc.data.images import ImageFormat
from alocc.errors import DataError
from alocc.evaluation.pixels import load_masks, per_region_overlap, pixel_figures

MASKS = np.zeros((2, 20, 20), bool)
MASKS[0, 2:6, 2:6] = True
MASKS[0, 10:18, 10:18] = True


def test_a_perfect_map():
    figures = pixel_figures(MASKS.astype(np.float32), MASKS, 0.5)
    assert figures == {"pixel_auroc": 1.0, "pro": 1.0, "pixel_f1": 1.0}


def test_regions_count_alike_however_large():
    small_missed = MASKS.astype(np.float32)
    small_missed[0, 2:6, 2:6] = -1.0
    assert per_region_overlap(small_missed, MASKS) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    random = rng.random((200, 20, 20)).astype(np.float32)
    assert per_region_overlap(random, np.tile(MASKS, (100, 1, 1))) == pytest.approx(0.15, abs=0.01)  # mean of 0…0.3


def test_f1_by_hand():
    maps = np.zeros((2, 20, 20), np.float32)
    maps[0, 2:6, 2:6] = 1  # 16 of 80 marked pixels
    maps[1, :4, :4] = 1  # 16 beside
    assert pixel_figures(maps, MASKS, 0.5)["pixel_f1"] == pytest.approx(2 * 16 / (32 + 80))


def test_masks_are_brought_to_size(tmp_path, save_image):
    large = np.zeros((40, 80), np.uint8)
    large[:20, :40] = 200
    save_image(large, "mask.png")
    masks = load_masks([tmp_path / "mask.png", None], ImageFormat(20, 20, 1))
    assert masks[0, :10, :10].all() and masks[0].sum() == 100 and not masks[1].any()
    with pytest.raises(DataError, match=r"lost\.png cannot be read"):
        load_masks([tmp_path / "lost.png"], ImageFormat(20, 20, 1))


def test_masks_that_mark_nothing_are_refused():
    with pytest.raises(DataError, match="mark no pixel"):
        pixel_figures(np.zeros((2, 20, 20), np.float32), np.zeros((2, 20, 20), bool), 0.5)
