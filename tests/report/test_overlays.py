"""Maps over images: what is coloured and outlined, and that nothing is of an image that is not called an anomaly."""

import numpy as np
import pytest
from scipy import ndimage

from alocc.overlays import OTHER, RIM, STRONGEST, heat, overlay

GREY = np.full((192, 256, 3), 128, np.uint8)


def hot(*places, shape=(48, 64)):
    """A map that is 0 but for some places: (rows, columns, value)."""
    anomaly_map = np.zeros(shape, np.float32)
    for rows, columns, value in places:
        anomaly_map[rows, columns] = value
    return anomaly_map


def pixels_of(drawn, colour):
    return (drawn == colour).all(2)


def enclosed(line):
    """What a closed line goes around, and itself; the picture's border closes nothing."""
    return ndimage.binary_fill_holes(line)


@pytest.mark.parametrize("value", [3.0, 0.4, 1.01])
@pytest.mark.parametrize(("rows", "columns"), [(slice(20, 28), slice(30, 46)), (slice(40, 48), slice(0, 9))])
def test_the_strongest_place_is_outlined_whether_it_is_above_the_threshold_or_not(value, rows, columns):
    drawn = overlay(GREY, hot((rows, columns, value)), 1.0, True)
    inside = np.zeros((192, 256), bool)
    inside[4 * rows.start : 4 * rows.stop, 4 * columns.start : 4 * columns.stop] = True
    line = pixels_of(drawn, STRONGEST)
    assert line.any() and (enclosed(line) | pixels_of(drawn, RIM))[inside].all()
    assert not line[ndimage.binary_erosion(inside, iterations=4, border_value=0)].any()  # the fault stays visible
    assert not line[~ndimage.binary_dilation(inside, iterations=8)].any()
    assert not pixels_of(drawn, OTHER).any()


def test_other_places_are_outlined_where_they_are_above_the_threshold():
    drawn = overlay(GREY, hot((slice(4, 12), slice(4, 12), 3), (slice(30, 40), slice(40, 60), 2)), 1.0, True)
    strongest, others = enclosed(pixels_of(drawn, STRONGEST)), enclosed(pixels_of(drawn, OTHER))
    assert strongest[16:48, 16:48].all() and others[120:160, 160:240].all()
    assert not strongest[96:].any() and not others[:96].any()
    below = hot((slice(4, 12), slice(4, 12), 3), (slice(30, 40), slice(40, 60), 0.9))
    assert not pixels_of(overlay(GREY, below, 1.0, True), OTHER).any()


def test_a_place_as_large_as_the_image_has_a_line_along_the_border():
    line = pixels_of(overlay(GREY, np.full((48, 64), 2, np.float32), 1.0, True), STRONGEST)
    assert line.any() and line[:4].any() and line[-4:].any() and not line[10:-10, 10:-10].any()


def test_an_image_that_is_not_called_stays_as_it_is_whatever_its_map():
    np.testing.assert_array_equal(overlay(GREY, hot((slice(2, 9), slice(2, 9), 50)), 1.0, False), GREY)


def test_colours_are_on_the_scale_of_the_threshold_and_not_of_the_image():
    values = np.array([[0, 0.5, 1, 2, 9]], np.float32)
    colour, opacity = heat(4 * values, 4.0)
    np.testing.assert_allclose(opacity[0, :, 0], [0, 0, 0.6, 0.6, 0.6])
    np.testing.assert_allclose(colour[0, 2:], [[255, 220, 40], [235, 70, 20], [235, 70, 20]])
    usual = hot((slice(20, 28), slice(30, 46), 0.4))  # far below half of the threshold: outlined, not coloured
    drawn = overlay(GREY, usual, 1.0, True)
    assert {tuple(pixel) for pixel in drawn.reshape(-1, 3).tolist()} == {(128, 128, 128), STRONGEST, RIM}


def test_a_place_smaller_than_a_pixel_of_a_small_picture_is_no_error():
    drawn = overlay(GREY[:12, :12], hot((slice(100, 101), slice(200, 201), 9.0), shape=(448, 448)), 1.0, True)
    assert pixels_of(drawn, STRONGEST).any()
