"""Resizing in whole numbers, against the formula worked out pixel by pixel."""

import numpy as np
import pytest

from alocc.data.resizing import ONE, ImageFormat, _filter, brought_to
from alocc.errors import DataError


def by_formula(line, n_out):
    """One row of pixels, in Python's whole numbers."""
    n_in, resized = len(line), []
    s = max(n_in, n_out)
    for i in range(n_out):
        a = [max(0, 2 * s - abs((2 * j + 1) * n_out - (2 * i + 1) * n_in)) for j in range(n_in)]
        w = [(ONE * a_j + sum(a) // 2) // sum(a) for a_j in a]
        w[(2 * i + 1) * n_in // (2 * n_out)] += ONE - sum(w)
        resized.append((sum(w_j * int(x_j) for w_j, x_j in zip(w, line, strict=True)) + ONE // 2) // ONE)
    return resized


@pytest.mark.parametrize(("n_in", "n_out"), [(5, 9), (9, 5), (7, 7), (1, 6), (6, 1), (100, 33), (33, 70), (450, 40)])
def test_every_pixel_is_the_formulas(n_in, n_out):
    image = np.random.default_rng(n_in).integers(0, 256, (3, n_in), dtype=np.uint8)
    expected = [by_formula(row, n_out) for row in image]
    np.testing.assert_array_equal(brought_to(image[None], ImageFormat(3, n_out, 1))[0, ..., 0], expected)
    np.testing.assert_array_equal(brought_to(image.T[None], ImageFormat(n_out, 3, 1))[0, ..., 0].T, expected)


def test_a_line_worked_out_by_hand():
    # a = 6, 6, 2, 0 and 0, 2, 6, 6, of 14 each: (6·0 + 6·70 + 2·140) / 14 = 50 and (2·70 + 6·140 + 6·210) / 14 = 160
    image = np.array([[0, 70, 140, 210]], np.uint8)
    assert brought_to(image[None], ImageFormat(1, 2, 1)).ravel().tolist() == [50, 160]


@pytest.mark.parametrize("n_in", [1, 28, 999, 32_000, 63_000])
def test_weights_add_up_and_stay_in_32_bits(n_in):
    for block in _filter(n_in, 28):
        assert (block.weights.sum(1) == ONE).all()
        assert (np.abs(block.weights).sum(1) * 255 < 2**24).all()


def test_luma_is_rounded_to_whole_numbers():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)
    expected = [(299 * r + 587 * g + 114 * b + 500) // 1000 for r, g, b in image.reshape(-1, 3).tolist()]
    assert brought_to(image, ImageFormat(40, 50, 1)).ravel().tolist() == expected


def test_sizes_differ_by_side_and_channels_stay_apart():
    image = np.random.default_rng(1).integers(0, 256, (1, 31, 17, 3), dtype=np.uint8)
    to = ImageFormat(12, 40, 3)
    by_channel = [brought_to(image[..., c], ImageFormat(12, 40, 1)) for c in range(3)]
    np.testing.assert_array_equal(brought_to(image, to), np.concatenate(by_channel, 3))


def test_an_image_does_not_depend_on_its_batch():
    images = np.random.default_rng(2).random((9, 61, 47))
    to = ImageFormat(28, 28, 1)
    np.testing.assert_array_equal(brought_to(images, to)[4], brought_to(images[4:5], to)[0])


def test_what_holds_no_images_is_refused():
    with pytest.raises(DataError, match="holds no images"):
        brought_to(np.zeros((2, 3, 4, 2), np.uint8), ImageFormat(4, 4, 1))
