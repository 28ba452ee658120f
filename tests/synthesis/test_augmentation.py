"""Copies of normal images that are normal too."""

import numpy as np
import pytest
import torch

import alocc
from alocc.config import AugmentationConfig, preset, with_ignored, with_settings
from alocc.synthesis.augmentation import augmented


def stream():
    return torch.Generator().manual_seed(0)


def images(n=6):
    return torch.randint(0, 256, (n, 3, 16, 20), dtype=torch.uint8, generator=stream())


def test_nothing_happens_unless_it_is_asked_for():
    x = images()
    same, source = augmented(x, AugmentationConfig(), stream())
    assert same is x and source.tolist() == list(range(6))


def test_flips_are_exact_and_copies_follow_the_images():
    x = images()
    more, source = augmented(x, AugmentationConfig(flip_horizontal=True, flip_vertical=True, copies=9), stream())
    assert more.dtype == torch.uint8 and more.shape == (60, 3, 16, 20)
    assert torch.equal(more[:6], x) and source.tolist() == list(range(6)) * 10
    found = set()
    for image, i in zip(more, source, strict=True):
        ways = {"": x[i], "h": x[i].flip(2), "v": x[i].flip(1), "hv": x[i].flip(1).flip(2)}
        found |= {name for name, way in ways.items() if torch.equal(image, way)}
    assert found == {"", "h", "v", "hv"}


def spots(n, column=16):
    """A small spot in the middle row of 33×33 pixels."""
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    return torch.exp(-((rows - 16) ** 2 + (columns - column) ** 2) / 4).expand(n, 1, 33, 33)


def centres(images):
    """Row and column of the centre of mass, from the middle."""
    side = torch.arange(33.0) - 16
    weights = images[:, 0] / images.sum((1, 2, 3))[:, None, None]
    return (weights.sum(2) * side).sum(1), (weights.sum(1) * side).sum(1)


def changed(x, **settings):
    more, source = augmented(x, AugmentationConfig(copies=1, **settings), stream())
    assert more.min() >= 0 and more.max() <= 1 and more.dtype == torch.float32
    assert torch.equal(more[: len(x)], x) and source.tolist() == 2 * list(range(len(x)))
    return more[len(x) :]


def test_brightness_changes_all_of_an_image_by_at_most_what_is_asked_for():
    x = 0.5 + 0.1 * torch.rand((50, 1, 16, 16), generator=stream())
    change = (changed(x, brightness=0.1) - x).flatten(1)
    assert torch.allclose(change, change[:, :1], atol=1e-6)
    assert 0.09 < change.max() <= 0.1 + 1e-6 and -0.1 - 1e-6 <= change.min() < -0.09


def test_noise_has_a_deviation_of_at_most_what_is_asked_for():
    x = torch.full((50, 1, 32, 32), 0.5)
    change = (changed(x, noise=0.02) - x).flatten(1)
    deviations = change.std(1)  # U(0, 0.02), each found to within 1 / √2048, some 2 %
    assert 0.018 < deviations.max() < 0.0215 and deviations.min() < 0.002
    assert abs(float(deviations.mean()) - 0.01) < 0.0025 and abs(float(change.mean())) < 0.0005


def test_shift_moves_by_at_most_this_share_of_the_side():
    for moved in centres(changed(spots(60), shift=0.2)):  # 6.6 of 33 pixels
        assert 6 < moved.max() < 6.7 and -6.7 < moved.min() < -6


def test_rotation_turns_by_at_most_these_degrees():
    rows, columns = centres(changed(spots(60, column=26), rotate=20))  # 10 pixels right of the middle
    angles = torch.rad2deg(torch.atan2(rows, columns))
    assert 18 < angles.max() < 20.2 and -20.2 < angles.min() < -18
    assert torch.allclose(torch.hypot(rows, columns), torch.tensor(10.0), atol=0.1)


def test_mirrored_images_become_normal_where_mirroring_is_asked_for():
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 200, 16)[None, None] * rng.uniform(0.8, 1.2, (120, 1, 1)) + rng.normal(0, 5, (120, 16, 16))
    normal = np.clip(ramp, 0, 255).astype(np.uint8)
    small = ["networks.width=4", "training.batch_size=16"]
    plain, mirrored = (
        alocc.train(normal[:90], config=with_settings(preset("robust"), [*small, *extra]), iterations=10)
        for extra in ([], ["training.augmentation.flip_horizontal=true"])
    )
    fresh = normal[90:, :, ::-1]
    assert plain.score(fresh).parts["neighbours"].min() > 3 * mirrored.score(fresh).parts["neighbours"].max()
    # an image's own copies do not vouch for it: held-out images look like fresh ones
    assert mirrored.score(normal[90:]).p_value.mean() == pytest.approx(0.5, abs=0.2)


def test_gain_scales_all_pixels_alike_and_blur_keeps_their_sum():
    x = torch.full((50, 1, 8, 8), 0.4)
    x[:, :, 2, 2] = 0.5
    brighter, _ = augmented(x, AugmentationConfig(gain=0.2, copies=1), stream())
    gain = brighter[50:, 0, 0, 0] / 0.4
    assert torch.allclose(brighter[50:, 0, 2, 2], 0.5 * gain) and 0.8 <= gain.min() < 0.85 and 1.15 < gain.max() <= 1.2
    blurred, _ = augmented(x, AugmentationConfig(blur=1.0, copies=1), stream())
    assert torch.allclose(blurred[50:].sum((1, 2, 3)), x.sum((1, 2, 3)), atol=1e-4)
    share = (0.5 - blurred[50:, 0, 2, 2]) / (0.1 * 8 / 9)  # of the mean over 3×3, which is .4 + .1 / 9
    assert torch.allclose(blurred[50:, 0, 2, 3] - 0.4, share * 0.1 / 9, atol=1e-6)
    assert 0 <= share.min() < 0.1 and 0.9 < share.max() <= 1


def test_what_is_told_to_be_ignored_stands_out_less_and_is_no_anomaly():
    rng = np.random.default_rng(0)

    def parts(n, light):
        pixels = 90 + rng.normal(0, 6, (n, 24, 24))
        pixels[:, 6:14, 8:18] += 60
        return (pixels * light).clip(0, 255).astype(np.uint8)

    settings = ["networks.width=4", "training.batch_size=16"]
    tuned = with_settings(preset("robust"), settings)
    dimmer, shares, notes = parts(60, 0.9), [], []
    for config in (tuned, with_ignored(tuned, ["light"])):
        detector = alocc.train(parts(150, 1.0), config=config, iterations=60, alpha=0.05)
        shares.append(detector.score(dimmer).is_anomaly.mean())
        notes.append(detector.training.get("looks_normal", []))
    assert shares[0] > 0.9 and shares[1] < 0.3
    assert "relit" in notes[1] and "relit" not in notes[0]
    assert "tinted" not in notes[1]  # a spot in another light is a fault
