"""Cells of large images: what each place usually is, or all of them, as the images themselves have it."""

import numpy as np
import pytest
import torch

from alocc.config import preset, with_settings
from alocc.data.frame import Frame, grid_of
from alocc.data.resizing import ImageFormat
from alocc.parts.cells import Cells
from alocc.parts.part import Normals, View

SIZE = (140, 170)


def drawn(n, seed, aligned):
    """A pattern, half of it rough, which lies the same way in each image or is moved from one to the next, uint8."""
    rng = np.random.default_rng(seed)
    pattern = np.zeros(SIZE, np.float32)
    pattern[30:70, 40:90] = 90
    pattern[90:94] = -70
    roughness = np.where(np.arange(SIZE[1]) < 85, 3, 16)
    images = pattern + roughness * rng.normal(0, 1, (n, *SIZE))
    if not aligned:
        images = np.stack([np.roll(image, rng.integers(0, 100, 2), (0, 1)) for image in images])
    return torch.from_numpy((110 + images).clip(0, 255).astype(np.uint8))[:, None]


def fitted(images):
    part = Cells(ImageFormat(*SIZE, 1), preset("robust"))
    with torch.no_grad():
        part.fit(Normals(images))
    return part


def evidence(part, images):
    x = images.float() / 255
    with torch.no_grad():
        return part(View(x, x, ()))


@pytest.mark.parametrize("aligned", [True, False])
def test_normals_say_whether_places_differ(aligned):
    part = fitted(drawn(60, 0, aligned))
    assert part.by_place is aligned
    fresh, faulty = drawn(20, 1, aligned), drawn(20, 1, aligned)
    faulty[:, :, 100:112, 60:72] = (torch.arange(12)[:, None] + torch.arange(12)).fmod(2).mul(255).byte()  # checks
    normal, anomalous = evidence(part, fresh), evidence(part, faulty)
    assert normal.grid.shape == (20, *grid_of(SIZE)) == (20, 18, 22)
    assert float((anomalous.image[:, None] > normal.image).float().mean()) > 0.95
    at = anomalous.grid.flatten(1).argmax(1)
    row, column = at // 22, at % 22
    assert (((row - 13).abs() <= 2) & ((column - 8).abs() <= 2)).float().mean() > 0.9


def test_zones_compute_what_a_loop_over_places_does():
    part = fitted(drawn(60, 0, True))
    with torch.no_grad():
        described = part.describe(drawn(3, 2, True).float() / 255)
        distance = part._distance(described)
    for row, column in ((0, 0), (7, 11), (17, 21)):
        rest = described[:, row, column] - part.mean[row, column]
        by_hand = (rest @ part.whitening[row // 3, column // 3]).square().mean(1)
        torch.testing.assert_close(distance[:, row, column], by_hand, rtol=1e-4, atol=1e-5)


def test_zones_are_saved_and_loaded():
    part = fitted(drawn(60, 0, True))
    again = Cells(ImageFormat(*SIZE, 1), preset("robust"))
    again.load_state_dict(part.state_dict())
    images = drawn(4, 3, True)
    assert torch.equal(evidence(part, images).grid, evidence(again, images).grid)


def test_images_that_were_fitted_look_like_fresh_ones_when_they_are_left_out():
    images, fresh = drawn(60, 0, True), drawn(60, 4, True)
    part = fitted(images)
    state = {name: value.clone() for name, value in part.state_dict().items()}
    tenth = torch.arange(60) % 10
    with torch.no_grad():
        crossed = part.cross_fitted(Normals(images), Normals(images), tenth)
    assert abs(float(crossed.mean() - evidence(part, fresh).image.mean())) < 0.5
    assert float(evidence(part, images).image.mean()) < float(crossed.mean())
    assert all(torch.equal(value, state[name]) for name, value in part.state_dict().items())


def test_thumbnails_are_means_of_pixels():
    frame = Frame.of(with_settings(preset("robust"), []).images, ImageFormat(128, 256, 1))
    assert frame.thumbnail_format == ImageFormat(32, 64, 1) and frame.has_thumbnails
    x = torch.rand((2, 1, 128, 256), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frame.thumbnails(x), torch.nn.functional.avg_pool2d(x, 4))
    small = Frame.of(preset("robust").images, ImageFormat(28, 28, 1))
    assert not small.has_thumbnails and small.thumbnails(x) is x


def test_a_copy_of_a_held_out_image_does_not_set_its_scale():
    images = drawn(30, 0, True)
    copies = images.repeat_interleave(2, 0)
    told, untold = (Cells(ImageFormat(*SIZE, 1), preset("robust")) for _ in range(2))
    with torch.no_grad():
        told.fit(Normals(copies, torch.arange(30).repeat_interleave(2)))
        untold.fit(Normals(copies))  # as if each were an image of its own
    assert float(told.usual.mean()) > float(untold.usual.mean()) + 0.05


def test_an_image_is_as_unusual_as_its_most_unusual_places_the_kth_counting_1_over_k():
    """18 × 22 places: three hundredths are 12. One of 6 alone: 6 · 1 / (1 + ½ + … + 1/12); twelve of them: 6."""
    part = Cells(ImageFormat(*SIZE, 1), preset("robust"))
    one, many = torch.zeros((2, 1, 18, 22))
    one[0, 3, 4] = 6
    many[0, 3, :12] = 6
    harmonic = sum(1 / k for k in range(1, 13))
    assert part._most_unusual(one).item() == pytest.approx(6 / harmonic)
    assert part._most_unusual(many).item() == pytest.approx(6)


def test_of_large_images_the_map_is_a_mean_over_the_places_around():
    images, part = drawn(4, 2, True), fitted(drawn(60, 0, True))
    with torch.no_grad():
        alone = part._evidence(part.describe(images.float() / 255))
    around = evidence(part, images).grid
    torch.testing.assert_close(around[:, 5, 7], alone[:, 4:7, 6:9].mean((1, 2)))
    assert evidence(part, images).image.tolist() == part._most_unusual(alone).tolist()


def test_a_fault_at_one_place_leaves_the_finer_scales_of_its_neighbours_as_they_are():
    part = Cells(ImageFormat(*SIZE, 1), preset("robust"))
    clean = torch.full((1, 1, *SIZE), 0.5)
    faulty = clean.clone()
    faulty[:, :, 83:85, 83:85] = 1  # in the place of rows and columns 80 to 87, farther than a filter from its sides
    with torch.no_grad():
        change = (part.describe(faulty) - part.describe(clean)).abs()[0, :, :, :48].amax(2)  # the finest scale
    assert change[10, 10] > 0.1
    change[10, 10] = 0
    assert change.max() < 1e-5


def test_an_image_does_not_set_the_scale_that_it_is_measured_on():
    """Of few images, those held out by fifths are as unusual as fresh ones: alpha is kept, on average."""
    alarms = []
    for seed in range(6):
        images, fresh = drawn(24, seed, False), drawn(40, 100 + seed, False)
        part = fitted(images)
        with torch.no_grad():
            crossed = part.cross_fitted(Normals(images), Normals(images), torch.arange(24) % 10)
        threshold = crossed.sort().values[-3]  # alpha .1 of 24 images: the third largest
        alarms.append((evidence(part, fresh).image >= threshold).float().mean())
    assert float(torch.stack(alarms).mean()) < 0.16


def test_images_that_come_in_turn_from_several_stations_are_in_all_fifths():
    part = Cells(ImageFormat(*SIZE, 1), preset("robust"))
    fifth = part._fifths(Normals(torch.zeros((60, 1, *SIZE), dtype=torch.uint8)))
    assert torch.bincount(fifth).tolist() == [12] * 5
    assert all(len(set(fifth[station::5].tolist())) > 2 for station in range(5))


@pytest.mark.parametrize("size", [(100, 20), (100, 10), (66, 65), (70, 67)])
def test_any_shape_can_be_described(size):
    part = Cells(ImageFormat(*size, 3), preset("robust"))
    described = part.describe(torch.rand((1, 3, *size)))
    assert described.shape == (1, *grid_of(size), part.describe.length)
