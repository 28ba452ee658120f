"""Where an image is unusual: maps of real detectors, and their arithmetic by hand."""

import numpy as np
import pytest
import torch

import alocc
from alocc.config import preset, with_settings, with_values
from alocc.data.resizing import ImageFormat
from alocc.parts.cells import Cells
from alocc.parts.part import GRID, Normals, at_full_size, values_to_grid
from alocc.parts.places import Places
from alocc.seeding import generator
from alocc.synthesis.pasting import pasted

SMALL = ["networks.width=4", "training.batch_size=16"]


def weave(n, seed=0, side=32):
    """Stripes in two directions that start anywhere, with noise, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side]
    start = rng.uniform(0, 6, (2, n, 1, 1))
    images = 0.5 + 0.2 * np.sin(y + start[0]) + 0.2 * np.sin(x + start[1]) + rng.normal(0, 0.03, (n, side, side))
    return (np.clip(images, 0, 1) * 255).astype(np.uint8)


def stained(images, place=(20, 10), radius=4):
    y, x = np.mgrid[0:32, 0:32]
    mask = np.hypot(y - place[0], x - place[1]) < radius
    spoiled = images.copy()
    spoiled[:, mask] = 128
    return spoiled, mask


@pytest.fixture(scope="module", params=["robust", "article"])
def detector(request):
    return alocc.train(weave(150), config=with_settings(preset(request.param), SMALL), iterations=20)


@pytest.fixture(scope="module")
def robust():
    return alocc.train(weave(150), config=with_settings(preset("robust"), SMALL), iterations=20)


def test_the_spot_stands_out(robust):
    spoiled, mask = stained(weave(20, seed=1))
    maps = robust.anomaly_map(spoiled)
    assert maps.shape == (20, 32, 32) and maps.dtype == np.float32
    assert maps[:, mask].mean() > maps[:, ~mask].mean() + 2
    peak = np.unravel_index(maps.mean(0).argmax(), (32, 32))
    assert np.hypot(peak[0] - 20, peak[1] - 10) < 5
    assert (maps.max((1, 2)) > robust.map_threshold).all()


def test_normal_images_stay_below_the_threshold_and_near_nothing(robust):
    maps = robust.anomaly_map(weave(100, seed=2))
    assert abs(np.median(maps)) < 1
    assert (maps.max((1, 2)) > robust.map_threshold).mean() < 0.1


def test_a_map_depends_on_its_image_alone(detector):
    images = weave(70, seed=3)
    together = detector.anomaly_map(images)
    assert np.array_equal(together[[5]], detector.anomaly_map(images[[5]]))
    assert np.array_equal(together[60:], detector.anomaly_map(images[60:]))
    assert detector.anomaly_map(images[:0]).shape == (0, 32, 32)


def test_a_saved_detector_draws_the_same_maps(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    again = alocc.Detector.load(tmp_path / "d.safetensors")
    assert np.array_equal(again.anomaly_map(weave(5)), detector.anomaly_map(weave(5)))
    assert again.map_threshold == detector.map_threshold


def test_the_map_has_the_configs_parts_and_weights(detector):
    assert detector.scorer.map_fusion.weights == detector.config.maps


@pytest.mark.parametrize(("channels", "size"), [(1, (16, 16)), (3, (17, 33)), (1, (64, 48))])
def test_any_size(channels, size):
    images = torch.rand((30, channels, *size), generator=torch.Generator().manual_seed(0))
    cells = Cells(ImageFormat(*size, channels), preset("robust"))
    cells.fit(Normals(images))
    described = cells.describe(images)
    assert described.shape[1:3] == (GRID, GRID)
    # a place's own mean, and the mean over all places as if of ten images more
    expected = (30 * described.mean(0) + 10 * described.mean((0, 1, 2))) / 40
    torch.testing.assert_close(cells.mean, expected, rtol=1e-4, atol=1e-4)


def trained_places(images, iterations, seed=0):
    """The network of places, trained in its phase; all else in the training is as short as it can be."""
    values = {
        "seed": seed,
        "networks": {"width": 4},
        "training": {
            "batch_size": 16,
            "reconstruction": {"iterations": 1},
            "discrimination": None,
            "places": {"iterations": iterations},
        },
        "scoring": {"texture": 1.0},
        "maps": {"places": 1.0},
        "calibration": {"folds": 0, "weights": "fixed"},
    }
    config = with_values(preset("robust"), values, source="test")
    return alocc.train(images, config=config).scorer.parts["places"].network


@pytest.mark.parametrize("size", [(32, 32), (60, 48)])
def test_places_learn_where_something_was_pasted(size):
    images = weave(60, side=60)[:, : size[0], : size[1]]
    network = trained_places(images, 60)
    x, is_pasted = pasted(torch.from_numpy(images[:40])[:, None].float() / 255, generator(7, "test"))
    with torch.inference_mode():
        logits = at_full_size(network(x), size)
    assert logits[is_pasted].mean() > logits[~is_pasted].mean() + 1
    assert not network.training


def test_places_are_decided_by_their_seed():
    first, second, other = (trained_places(weave(20), 3, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_what_is_pasted_is_where_it_says():
    x = torch.full((200, 3, 24, 30), 0.5)
    changed, where = pasted(x, generator(0, "test"))
    assert changed.shape == x.shape and where.shape == (200, 1, 24, 30)
    assert changed.min() >= 0 and changed.max() <= 1
    untouched = ~where.flatten(1).any(1)
    assert 0.2 < untouched.float().mean() < 0.45  # three in ten, and the spots that are smaller than a pixel
    change = (changed - x).abs().amax(1, keepdim=True)
    assert change[where].mean() > 10 * change[~where].mean()


def test_making_places_leaves_the_global_stream_alone(robust, tmp_path):
    before = torch.get_rng_state()
    Places(ImageFormat(32, 32, 1), robust.config).network.initialise(generator(0, "places"))
    robust.save(tmp_path / "d.safetensors")
    alocc.Detector.load(tmp_path / "d.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finer_grid_of_logits_is_averaged_not_sampled():
    logits = torch.zeros((1, 128, 128))
    logits[0, 60:63, 60:63] = 64.0  # nine of the 64 places behind one place of the grid
    assert float(values_to_grid(logits)[0, 7, 7]) == pytest.approx(9.0)


@pytest.mark.slow
def test_the_maps_threshold_is_as_rare_as_alpha_on_fresh_images_of_few():
    """Calibrated on images that it learned from, it would be exceeded two or three times as often."""
    images = weave(340, seed=5)
    shares = []
    for start in range(0, 160, 40):
        detector = alocc.train(
            images[start : start + 40], config=with_settings(preset("robust"), [*SMALL, "calibration.alpha=0.1"]),
            iterations=20,
        )  # fmt: skip
        shares.append((detector.anomaly_map(images[160:]).max((1, 2)) > detector.map_threshold).mean())
    assert np.mean(shares) < 0.2
