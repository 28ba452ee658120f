"""Pseudo-anomalies: each differs from normal images in what its name says, and in nothing else."""

import pytest
import torch

from alocc.seeding import generator
from alocc.synthesis.deformation import jitter
from alocc.synthesis.negatives import NEGATIVES, make_negatives


def stream(name="negatives"):
    return generator(0, name)


def pictures(n=12, channels=1, height=24, width=24):
    """Smooth pictures with light and dark."""
    coarse = torch.rand((n, channels, 4, 4), generator=stream("pictures"))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True).clamp(0, 1)


def discs(n, size=32):
    """Smooth round spots in the middle: no rotation and no mirror changes them."""
    side = torch.arange(size) - (size - 1) / 2
    return torch.exp(-(side[:, None] ** 2 + side[None, :] ** 2) / (2 * 4.0**2)).expand(n, 1, size, size)


def change(x, y):
    return (x - y).square().mean((1, 2, 3))


@pytest.mark.parametrize("kind", NEGATIVES)
@pytest.mark.parametrize("shape", [(7, 1, 16, 16), (7, 3, 17, 22), (1, 3, 64, 40)])
def test_shape_and_range_stay_and_the_stream_decides(kind, shape):
    x = pictures(*shape)
    before = x.clone()
    changed = NEGATIVES[kind](x, stream())
    assert changed.shape == x.shape and changed.dtype == torch.float32
    assert changed.min() >= -1e-6 and changed.max() <= 1 + 1e-6
    assert torch.equal(x, before)
    assert torch.equal(changed, NEGATIVES[kind](x, stream()))
    assert not torch.equal(changed, NEGATIVES[kind](x, stream("other")))


@pytest.mark.parametrize("kind", NEGATIVES)
def test_changes_more_than_jitter(kind):
    x = pictures(60)
    assert change(NEGATIVES[kind](x, stream()), x).mean() > 1.5 * change(jitter(x, stream()), x).mean()


@pytest.mark.parametrize("kind", ["turned", "mirrored"])
def test_direction_is_all_that_changes(kind):
    assert torch.allclose(NEGATIVES[kind](discs(20), stream()), discs(20), atol=0.2)  # blur, and the shift of a jitter


@pytest.mark.parametrize("kind", ["swirled", "patched", "tinted"])
def test_local_kinds_leave_most_of_the_image(kind):
    x = pictures(40)
    # without the jitter that they share with normal images, what is outside the spot would be the same
    moved = (NEGATIVES[kind](x, stream()) - x).abs().amax(1) > 0.2
    assert 0 < moved.double().mean() < 0.3


def test_blur_takes_and_sharpening_gives_contrast():
    x = pictures(60)
    ratio = NEGATIVES["blurred"](x, stream()).flatten(1).std(1) / x.flatten(1).std(1)
    assert (ratio < 1).double().mean().item() == pytest.approx(2 / 3, abs=0.2)


def test_scrambling_keeps_the_mean_of_pictures_that_do_not_clip():
    x = 0.5 + 0.05 * (pictures() - 0.5)
    assert torch.allclose(NEGATIVES["scrambled"](x, stream()).mean((2, 3)), x.mean((2, 3)), atol=0.01)


def test_mixed_is_made_of_the_two_images():
    x = torch.cat([torch.zeros(5, 1, 24, 24), torch.ones(5, 1, 24, 24)])
    mixed = NEGATIVES["mixed"](x, stream())
    assert mixed[0].max() > 0.5  # its neighbour is white
    assert torch.allclose(mixed[3], torch.zeros(1, 24, 24))  # its neighbour is as black


def test_kinds_share_the_images_alike():
    x = pictures(9)
    both = make_negatives(x, ["shifted", "relit"], stream())
    assert both.shape == x.shape
    assert torch.equal(both[:5], NEGATIVES["shifted"](x[:5], stream()))


def test_fewer_images_than_kinds():
    assert make_negatives(pictures(2), list(NEGATIVES), stream()).shape == (2, 1, 24, 24)
