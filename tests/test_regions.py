"""Regions of maps, by hand: boxes, peaks, p-values, and the sentence why."""

from dataclasses import replace

import numpy as np
import pytest

import alocc
from alocc.config import preset, with_settings
from alocc.data.sources import open_source
from alocc.errors import DataError
from alocc.regions import MOST, find_regions

MAXIMA = np.array([0.5, 1.0, 1.5, 2.0])  # of four held-out images
FLAT = np.full((1, 24, 32), 0.5, np.float32)


def hot(*places, shape=(24, 32), below=0.0):
    """A map that is ``below`` but for some places: (rows, columns, value)."""
    anomaly_map = np.full(shape, below, np.float32)
    for rows, columns, value in places:
        anomaly_map[rows, columns] = value
    return anomaly_map


def boxes(regions):
    return [(region.x, region.y, region.width, region.height, region.area) for region in regions]


def test_two_blobs_are_two_regions_the_higher_peak_first():
    anomaly_map = hot((slice(2, 5), slice(3, 8), 1.5), (slice(10, 12), slice(20, 21), 2.5))
    anomaly_map[3, 4] = 1.75
    regions = find_regions(anomaly_map, FLAT, 1.0, MAXIMA)
    assert boxes(regions) == [(20, 10, 1, 2, 2), (3, 2, 5, 3, 15)]
    assert [region.peak for region in regions] == [2.5, 1.75] and {region.n_regions for region in regions} == {2}


def test_p_value_counts_the_held_out_maps_whose_maximum_is_as_high():
    places = [(slice(0, 1), slice(i, i + 1), value) for i, value in ((0, 2.5), (5, 2.0), (10, 1.75), (15, 1.25))]
    regions = find_regions(hot(*places), FLAT, 1.0, MAXIMA[::-1])  # in any order
    assert [region.p_value for region in regions] == [1 / 5, 2 / 5, 2 / 5, 3 / 5]


def test_pixels_that_touch_at_a_corner_are_one_region():
    regions = find_regions(hot((slice(4, 6), slice(4, 6), 2), (slice(6, 8), slice(6, 9), 3)), FLAT, 1.0, MAXIMA)
    assert boxes(regions) == [(4, 4, 5, 4, 10)]


def test_a_region_may_lie_at_the_border_and_one_at_the_threshold_is_none():
    anomaly_map = hot((slice(0, 3), slice(28, 32), 2), (slice(20, 24), slice(0, 1), 2), (slice(10, 12), 5, 1.0))
    assert boxes(find_regions(anomaly_map, FLAT, 1.0, MAXIMA)) == [(28, 0, 4, 3, 12), (0, 20, 1, 4, 4)]


def test_of_equal_peaks_the_one_further_up_comes_first():
    anomaly_map = hot(*((slice(row, row + 1), slice(at, at + 1), 2) for row, at in ((9, 3), (2, 30), (2, 8))))
    regions = find_regions(anomaly_map, FLAT, 1.0, MAXIMA)
    assert [(region.y, region.x) for region in regions] == [(2, 8), (2, 30), (9, 3)]


def test_below_the_threshold_the_surroundings_of_the_peak_are_the_region():
    anomaly_map = hot((slice(3, 6), slice(3, 6), 0.6), (slice(4, 5), slice(4, 5), 0.8), (20, 20, 0.79), below=0.2)
    [region] = find_regions(anomaly_map, FLAT, 1.0, MAXIMA)
    assert boxes([region]) == [(3, 3, 3, 3, 9)] and region.peak == pytest.approx(0.8)  # 0.6 is 3/4 of it
    assert region.p_value == 4 / 5
    [region] = find_regions(hot((7, 9, -0.1), below=-0.2), FLAT, 1.0, MAXIMA)
    assert boxes([region]) == [(9, 7, 1, 1, 1)] and region.p_value == 1


def test_the_strongest_place_is_not_smaller_where_its_peak_is_just_above_the_threshold():
    places = (slice(3, 6), slice(3, 6), 0.9), (slice(4, 5), slice(4, 5), 1.1), (slice(20, 22), slice(20, 22), 0.9)
    assert boxes(find_regions(hot(*places), FLAT, 1.0, MAXIMA)) == [(3, 3, 3, 3, 9)]
    places = (slice(3, 6), slice(3, 6), 1.1), (slice(4, 5), slice(4, 5), 4), (slice(20, 22), slice(20, 22), 1.2)
    assert boxes(find_regions(hot(*places), FLAT, 1.0, MAXIMA)) == [(3, 3, 3, 3, 9), (20, 20, 2, 2, 4)]


def test_at_most_twenty_are_described_and_all_are_counted():
    anomaly_map = hot(*((slice(0, 23, 2), slice(0, 31, 4), 2.0),))
    anomaly_map[22, 28] = 3
    regions = find_regions(anomaly_map, FLAT, 1.0, MAXIMA)
    assert len(regions) == MOST == 20 and regions[0].n_regions == 12 * 8 and (regions[0].x, regions[0].y) == (28, 22)


def picture(seed=0, channels=1, shape=(64, 80)):
    """Grey 0.5 with noise of 0.05, and a map that is hot in rows 20 to 29, columns 30 to 49."""
    noise = np.random.default_rng(seed).normal(0, 0.05, (1, *shape)).repeat(channels, 0)
    return (0.5 + noise).astype(np.float32), hot((slice(20, 30), slice(30, 50), 2), shape=shape)


PLACE = (slice(None), slice(20, 30), slice(30, 50))


def sentence(image, anomaly_map):
    [region] = find_regions(anomaly_map, image, 1.0, MAXIMA)
    return region.reason


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("change", "word"), [(-0.1, "darker"), (0.1, "brighter")])
def test_what_is_darker_or_brighter_than_around_it_is_called_so(channels, change, word):
    image, anomaly_map = picture(channels=channels)
    image[PLACE] += change
    assert sentence(image, anomaly_map) == f"{word} than its surroundings at row 25, column 40; 20 × 10 pixels"


def test_less_than_the_noise_around_is_no_difference():
    image, anomaly_map = picture()
    image[PLACE] += 0.03
    assert sentence(image, anomaly_map) == "unlike normal images at row 25, column 40; 20 × 10 pixels"
    assert sentence(FLAT, hot((slice(0, 24), slice(0, 32), 2))).startswith("unlike normal images at row 12, column 16")


def test_other_regions_are_no_surroundings():
    """A dark stripe, 4 pixels wide, between two dark regions: one bright pixel away at either side."""
    image, anomaly_map = picture()
    anomaly_map[:] = 0
    for rows, columns, value in (((20, 30), (29, 33), 3), ((15, 35), (10, 28), 2), ((15, 35), (34, 60), 2)):
        anomaly_map[slice(*rows), slice(*columns)] = value
        image[:, slice(*rows), slice(*columns)] -= 0.4
    regions = find_regions(anomaly_map, image, 1.0, MAXIMA)
    assert [region.reason.split()[0] for region in regions] == ["darker"] * 3


@pytest.mark.parametrize(("factor", "word"), [(3, "rougher"), (0.2, "smoother")])
def test_what_varies_more_or_less_than_around_it_is_called_so(factor, word):
    image, anomaly_map = picture()
    image[PLACE] = 0.5 + factor * (image[PLACE] - image[PLACE].mean())
    assert sentence(image, anomaly_map) == f"{word} than its surroundings at row 25, column 40; 20 × 10 pixels"


def test_another_colour_of_the_same_brightness_is_called_so():
    image, anomaly_map = picture(channels=3)
    image[PLACE] += np.array([0.1, -0.1 * 0.299 / 0.587, 0])[:, None, None].astype(np.float32)
    assert sentence(image, anomaly_map).startswith("of another colour than its surroundings at row 25, column 40;")


def test_boxes_and_sentences_are_in_pixels_of_the_image_as_it_came():
    image, anomaly_map = picture()
    image[PLACE] -= 0.2
    [region] = find_regions(anomaly_map, image, 1.0, MAXIMA, size=(640, 200))  # 10 times as high, 2.5 as wide
    assert boxes([region]) == [(75, 200, 50, 100, 5000)]
    assert region.reason.endswith("at row 250, column 100; 50 × 100 pixels")
    [region] = find_regions(anomaly_map, image, 1.0, MAXIMA, size=(32, 24))  # smaller: pixels that it has a part of
    assert boxes([region]) == [(9, 10, 6, 5, 30)]


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """A detector of grey discs, 16×16, and the same with a dark square, saved twice as large."""
    from PIL import Image

    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("discs")
    rows, columns = np.mgrid[:16, :16]
    normals = np.stack([
        ((rows - 8 - dy) ** 2 + (columns - 8 - dx) ** 2 < 30) * 150 + rng.integers(0, 40, (16, 16))
        for dy, dx in rng.uniform(-1, 1, (80, 2))
    ]).astype(np.uint8)  # fmt: skip
    faulty = normals[:6].copy()
    faulty[:, 6:9, 6:9] = 0
    for i, image in enumerate(faulty):
        Image.fromarray(image).resize((32, 48), Image.Resampling.NEAREST).save(root / f"{i}.png")
    config = with_settings(preset("robust"), ["networks.width=4", "training.batch_size=16", "calibration.alpha=0.1"])
    return alocc.train(normals, config=config, iterations=10), faulty, root


def test_a_detector_gives_the_regions_of_its_maps(discs):
    detector, faulty, root = discs
    scores = detector.score(faulty, maps=True)
    regions = detector.regions(faulty)
    assert regions == detector.regions(faulty, scores) and len(regions) == 6
    for found, is_anomaly, anomaly_map in zip(regions, scores.is_anomaly, scores.anomaly_map, strict=True):
        assert bool(found) == bool(is_anomaly) and all(region.peak <= anomaly_map.max() for region in found)
    lower = replace(detector, map_maxima=detector.map_maxima - 100)  # every map is above its threshold
    assert lower.regions(faulty, replace(scores, is_anomaly=np.zeros(6, bool))) == [[]] * 6
    called = replace(scores, is_anomaly=np.ones(6, bool))
    peaks = [found[0].peak for found in detector.regions(faulty, called)]
    np.testing.assert_array_equal(peaks, scores.anomaly_map.max((1, 2)))
    higher = replace(detector, map_maxima=detector.map_maxima + 100)  # no map is above its threshold
    one_of_two = replace(scores, is_anomaly=np.arange(6) % 2 == 0)
    assert [len(found) for found in higher.regions(faulty, one_of_two)] == [1, 0] * 3
    images = open_source(root, "test").load(detector.image_format)
    assert list(images.sizes) == [(48, 32)] * 6 and list(images[np.array([2, 3])].sizes) == [(48, 32)] * 2
    larger = detector.regions(images.images, called, sizes=images.sizes)
    for one, other in zip(larger, detector.regions(images.images, called), strict=True):
        assert [(r.x, r.y, r.width, r.height) for r in one] == [
            (2 * r.x, 3 * r.y, 2 * r.width, 3 * r.height) for r in other
        ]
    assert detector.regions(faulty[:0]) == []
    with pytest.raises(DataError, match=r"regions need the maps .* score\(images, maps=True\)"):
        detector.regions(faulty, detector.score(faulty))
