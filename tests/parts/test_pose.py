"""Parts on plain ground, seen the same way up: where they lie, turning there and back, and when nothing is turned."""

import numpy as np
import pytest
import torch

import alocc
from alocc.config import preset, with_settings
from alocc.data.resizing import ImageFormat
from alocc.export import export
from alocc.export.parity import OF_MAPS, TURNED_TOLERANCE, difference
from alocc.parts.cells import Cells
from alocc.parts.part import Normals, View
from alocc.parts.pose import Pose, otsu
from alocc.runtime import Runtime


def wedge(size, angle, middle, light=0.0, depth=0):
    """A wedge, 60 × 20 pixels at its thick end, which points to ``angle`` on ground that is lit from the left: uint8.

    Args:
        depth: of a pit of 7 pixels in it, 15 pixels from its middle.
    """
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    right, down = x - middle[0], y - middle[1]
    along, beside = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
    inside = np.clip(10 * (0.75 + along / 120) - np.abs(beside) + 0.5, 0, 1) * np.clip(30.5 - np.abs(along), 0, 1)
    ground = 190 - light * x / size[1]
    image = ground * (1 - inside) + (90 + 15 * np.sin(along / 3)) * inside
    image = image - depth * np.clip(4 - np.hypot(along - 15, beside), 0, 1)
    return torch.from_numpy(image.round().clip(0, 255).astype(np.uint8))[None, None]


def wedges(n, seed, size=(104, 136), depth=0):
    rng = np.random.default_rng(seed)
    middle = np.array(size[::-1]) / 2
    drawn = [
        wedge(size, rng.uniform(0, 2 * np.pi), middle + rng.uniform(-8, 8, 2), rng.uniform(0, 60), depth)
        for _ in range(n)
    ]
    return torch.cat(drawn)


def fitted(size):
    pose = Pose(ImageFormat(*size, 1))
    assert pose.fit(wedges(30, 0, size))
    return pose


def in_unit_range(images):
    return images.float() / 255


@pytest.mark.parametrize("size", [(104, 136), (136, 104)])
@pytest.mark.parametrize("degrees", [0, 33, 90, 135, 200, 301])
def test_it_finds_where_a_part_lies_and_which_way(size, degrees):
    """The axis of the longer side follows the wedge, whichever end of it that points to."""
    pose, angle = fitted(size), np.deg2rad(degrees)
    middle = np.array(size[::-1]) / 2 + [5, -4]
    lie = pose.lie(in_unit_range(wedge(size, angle, middle, light=60)))
    straight = pose.lie(in_unit_range(wedge(size, 0.0 if size[1] > size[0] else np.pi / 2, middle)))
    turned = np.arctan2(*lie.towards[0].numpy()[::-1]) - np.arctan2(*straight.towards[0].numpy()[::-1])
    expected = angle - (0.0 if size[1] > size[0] else np.pi / 2)
    assert abs((np.rad2deg(turned - expected) + 180) % 360 - 180) < 2
    along = np.array([np.cos(angle), np.sin(angle)])
    offset = lie.centre[0].numpy() + np.array(size[::-1]) / 2 - middle  # of the centre of mass, on the axis
    assert abs(offset @ [-along[1], along[0]]) < 0.7
    assert 0 < offset @ along < 8


@pytest.mark.parametrize("size", [(104, 136), (136, 104)])
def test_turned_parts_look_alike(size):
    pose, images = fitted(size), in_unit_range(wedges(12, 1, size))
    inner = (
        slice(None),
        slice(None),
        slice(size[0] // 2 - 8, size[0] // 2 + 8),
        slice(size[1] // 2 - 8, size[1] // 2 + 8),
    )
    spread = pose(images)[inner].std(0).mean()
    assert float(spread) < 0.3 * float(images[inner].std(0).mean())


def test_what_is_turned_back_is_where_it_was():
    pose, image = fitted((104, 136)), in_unit_range(wedge((104, 136), 0.7, (70, 50)))
    marked = image.clone()
    marked[:, :, 40:48, 64:72] = 1.0  # one place of the map, row 5, column 8
    lie = pose.lie(image)
    change = (pose.turned(marked, lie) - pose.turned(image, lie)).abs()
    places = torch.nn.functional.avg_pool2d(change, 8)[:, 0]
    back = pose.turned_back(places, lie)[0]
    total = back.sum()
    row, column = ((back.sum(1 - i) * (torch.arange(back.shape[i]) + 0.5)).sum() / total for i in (0, 1))
    assert float(row) == pytest.approx(5.5, abs=0.3)
    assert float(column) == pytest.approx(8.5, abs=0.3)


def test_an_image_without_a_part_stays_as_it_is():
    pose = fitted((104, 136))
    images = torch.full((3, 1, 104, 136), 0.7)
    images[1] += torch.linspace(-0.2, 0.2, 136)
    images[2, :, 20:23, 30:33] = 0.2  # dirt, smaller than any part
    torch.testing.assert_close(pose(images), images, atol=2e-4, rtol=0)


def test_only_parts_that_lie_differently_on_plain_ground_are_turned():
    rng = np.random.default_rng(0)
    alike = torch.cat([wedge((104, 136), 0.5 + rng.normal(0, 0.02), (68, 52)) for _ in range(20)])
    surface = torch.from_numpy(rng.integers(80, 180, (20, 1, 104, 136)).astype(np.uint8))
    striped = wedges(20, 0) // 2 + (torch.arange(136) % 16 * 8).byte()
    round_ones = torch.cat([disc(rng) for _ in range(20)])
    for images in (alike, surface, striped, round_ones):
        pose = Pose(ImageFormat(104, 136, 1))
        assert not pose.fit(images)
        assert not pose.is_fitted
        assert pose(in_unit_range(images[:2])).tolist() == in_unit_range(images[:2]).tolist()


def disc(rng):
    y, x = np.mgrid[:104, :136]
    inside = np.hypot(y - rng.uniform(45, 60), x - rng.uniform(55, 80)) < 25
    return torch.from_numpy(np.where(inside, 90, 190).astype(np.uint8))[None, None]


def test_otsu_by_hand():
    """Two heaps, at 0 and at 1: any threshold between parts them; the first is taken."""
    threshold = float(otsu(torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])))
    assert 0 < threshold < 1


def cells(images, size=(104, 136)):
    part = Cells(ImageFormat(*size, 1), preset("robust"))
    with torch.no_grad():
        part.fit(Normals(images))
    return part


def evidence(part, images):
    x = in_unit_range(images)
    with torch.no_grad():
        return part(View(x, x, ()))


def test_a_pit_in_a_part_that_turns_is_found_where_it_is():
    part = cells(wedges(80, 0))
    assert part.pose.is_fitted and part.by_place
    normal, faulty = evidence(part, wedges(20, 1)), evidence(part, wedges(20, 2, depth=60))
    assert float((faulty.image[:, None] > normal.image).float().mean()) > 0.95
    sound = in_unit_range(wedges(20, 2))
    pit = (in_unit_range(wedges(20, 2, depth=60)) - sound).abs() > 0.05
    near = torch.nn.functional.max_pool2d(pit.float(), 8, ceil_mode=True)
    near = torch.nn.functional.max_pool2d(near, 3, 1, 1)[:, 0]  # its places, and those around
    at_peak = near.flatten(1).gather(1, faulty.grid[:, : near.shape[1], : near.shape[2]].flatten(1).argmax(1)[:, None])
    assert float(at_peak.mean()) > 0.85


def test_a_turned_part_is_saved_and_loaded_and_an_image_alone_gets_the_same():
    part, images = cells(wedges(40, 0)), wedges(4, 3)
    again = Cells(ImageFormat(104, 136, 1), preset("robust"))
    again.load_state_dict(part.state_dict())
    assert again.pose.is_fitted
    together = evidence(part, images)
    assert torch.equal(together.grid, evidence(again, images).grid)
    alone = torch.cat([evidence(part, images[i : i + 1]).image for i in range(4)])
    torch.testing.assert_close(alone, together.image, rtol=1e-4, atol=1e-4)


def test_zones_of_images_as_they_are_stay_where_turning_finds_no_more():
    """Light alone differs: the parts lie alike, nothing is turned."""
    rng = np.random.default_rng(0)
    images = torch.cat([wedge((104, 136), 0.5, (68, 52), rng.uniform(0, 60)) for _ in range(40)])
    assert not cells(images).pose.is_fitted


@pytest.mark.slow
def test_an_exported_file_turns_parts_too(tmp_path, traced_once):
    config = with_settings(preset("robust"), ["networks.width=4", "training.batch_size=16"])
    detector = alocc.train(wedges(60, 0)[:, 0].numpy(), config=config, iterations=6)
    assert detector.scorer.parts["cells"].pose.is_fitted
    images = torch.cat([wedges(6, 4), wedges(6, 5, depth=60)])[:, 0].numpy()
    expected = detector.score(images, maps=True)
    with traced_once():
        files = [export(detector, tmp_path / name, maps=True).path for name in ("model.onnx", "model.xml")]
    for file in files:
        found = Runtime(file).score(images, maps=True)
        assert difference(expected.anomaly_score, found.anomaly_score).max() <= TURNED_TOLERANCE
        assert (found.is_anomaly == expected.is_anomaly).all()
        assert difference(expected.anomaly_map, found.anomaly_map).max() <= OF_MAPS * TURNED_TOLERANCE


def bars(n, seed, size=(104, 136)):
    """Bars whose ends weigh the same: 60 × 16 pixels, in any direction."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    rng, drawn = np.random.default_rng(seed), []
    for angle in rng.uniform(0, np.pi, n):
        right, down = x - size[1] / 2, y - size[0] / 2
        along, beside = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
        inside = np.clip(30.5 - np.abs(along), 0, 1) * np.clip(8.5 - np.abs(beside), 0, 1)
        drawn.append(190 - 100 * inside + rng.normal(0, 1, size))
    return torch.from_numpy(np.array(drawn).round().clip(0, 255).astype(np.uint8))[:, None]


def test_noise_does_not_decide_which_end_of_a_part_is_up_where_both_weigh_the_same():
    pose, rng = Pose(ImageFormat(104, 136, 1)), torch.Generator().manual_seed(0)
    assert pose.fit(bars(30, 0))
    assert float(pose.ends_differ) == 0
    image = in_unit_range(bars(1, 1))
    noisy = image + 1e-4 * torch.randn((20, 1, 104, 136), generator=rng)
    assert (pose.lie(noisy).towards - pose.lie(image).towards).abs().max() < 0.01
    assert float(fitted((104, 136)).ends_differ) == 1
    alike = torch.cat([bars(1, 5) for _ in range(20)]).float() + torch.randn((20, 1, 104, 136), generator=rng)
    assert not pose.fit(alike.round().clamp(0, 255).byte())
    assert not pose.is_fitted


def test_a_part_of_all_images_takes_the_decision_of_the_first_fold():
    first, joined = cells(wedges(40, 0)), Cells(ImageFormat(104, 136, 1), preset("robust"))
    with torch.no_grad():
        joined.fit_like(first, Normals(wedges(40, 6)))
    assert torch.equal(joined.pose.threshold, first.pose.threshold) and joined.by_place
    untold = Cells(ImageFormat(104, 136, 1), preset("robust"))
    with torch.no_grad():
        joined.fit_like(untold, Normals(wedges(40, 6)))  # which was never fitted: one Gaussian, nothing turned
    assert not joined.pose.is_fitted and not joined.by_place
