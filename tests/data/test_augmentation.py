"""Copies of normal images that are normal too."""

import numpy as np
import pytest
import torch

import alocc
from alocc.config import AugmentationConfig, preset, with_settings
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


@pytest.mark.parametrize(
    ("settings", "largest"), [({"brightness": 0.1}, 0.1), ({"noise": 0.02}, 0.12), ({"shift": 0.2}, 1.0)]
)
def test_changes_are_as_large_as_asked_for(settings, largest):
    x = torch.full((50, 1, 16, 16), 0.5) + 0.1 * torch.rand((50, 1, 16, 16), generator=stream())
    more, source = augmented(x, AugmentationConfig(copies=1, **settings), stream())
    change = (more[50:] - x[source[50:]]).abs().flatten(1).amax(1)
    assert 0 < float(change.max()) <= largest + 1e-6
    assert more.min() >= 0 and more.max() <= 1 and more.dtype == torch.float32


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
