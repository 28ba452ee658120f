"""Deformations against what torch does exactly: rotations by right angles, flips and whole-pixel shifts."""

import pytest
import torch

from alocc.seeding import generator
from alocc.synthesis.deformation import jitter, warp


def stream(name="deformation"):
    return generator(0, name)


def pictures(n=3, channels=1, height=16, width=16):
    return torch.rand((n, channels, height, width), generator=stream("pictures"))


def angles(x, degrees):
    return torch.full((len(x),), float(degrees))


def close(x, y):
    return torch.allclose(x, y, atol=1e-4)


def discs(n, size=32):
    """Smooth round spots in the middle: no rotation and no mirror changes them."""
    side = torch.arange(size) - (size - 1) / 2
    spot = torch.exp(-(side[:, None] ** 2 + side[None, :] ** 2) / (2 * 4.0**2))
    return spot.expand(n, 1, size, size)


@pytest.mark.parametrize("shape", [(16, 16), (15, 15), (12, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_angle_0_is_the_identity(shape, channels):
    x = pictures(3, channels, *shape)
    assert close(warp(x, angles(x, 0)), x)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1, 4])
def test_quarter_turns_are_exact(quarters):
    x = pictures()
    assert close(warp(x, angles(x, 90 * quarters)), torch.rot90(x, quarters, (2, 3)))


def test_half_turn_of_a_rectangle_flips_both_ways():
    x = pictures(3, 1, 12, 20)
    assert close(warp(x, angles(x, 180)), x.flip(2, 3))


@pytest.mark.parametrize(("height", "width"), [(12, 20), (20, 12)])
def test_quarter_turn_of_a_rectangle_keeps_lengths(height, width):
    x = pictures(3, 1, height, width)
    top, left = (height - 12) // 2, (width - 12) // 2
    middle = (..., slice(top, top + 12), slice(left, left + 12))
    assert close(warp(x, angles(x, 90))[middle], torch.rot90(x[middle], 1, (2, 3)))


def test_mirrored_is_a_flip_of_those_images_alone():
    x = pictures()
    mirrored = torch.tensor([True, False, True])
    warped = warp(x, angles(x, 0), mirrored=mirrored)
    assert close(warped[mirrored], x[mirrored].flip(3))
    assert close(warped[1], x[1])


@pytest.mark.parametrize(("columns", "rows"), [(3, 0), (0, 2), (-1, 4)])
def test_shift_by_whole_pixels_moves_them(columns, rows):
    x = pictures(2, 1, 10, 20)
    shift = torch.tensor([[columns / 20, rows / 10]]).expand(2, 2)
    moved = warp(x, angles(x, 0), shift=shift)
    expected = x.roll((-rows, -columns), (2, 3))  # each pixel is taken from `shift` further on
    inside = (..., slice(max(0, -rows), 10 - max(0, rows)), slice(max(0, -columns), 20 - max(0, columns)))
    assert close(moved[inside], expected[inside])


def test_outside_is_the_reflection():
    x = pictures(1)
    moved = warp(x, angles(x, 0), shift=torch.tensor([[4 / 16, 0.0]]))
    assert close(moved[..., -4:], x[..., -4:].flip(3))


def test_constant_displacement_is_a_shift():
    x = pictures(2, 3, 10, 20)
    shift = torch.tensor([[0.13, -0.07], [0.0, 0.21]])
    displacement = shift[:, None, None, :].expand(2, 10, 20, 2)
    assert close(warp(x, angles(x, 20), displacement=displacement), warp(x, angles(x, 20), shift=shift))


def test_each_image_has_its_own_angle():
    x = pictures(1).expand(2, 1, 16, 16)
    warped = warp(x, torch.tensor([0.0, 90.0]))
    assert close(warped[0], x[0])
    assert close(warped[1], torch.rot90(x[1], 1, (1, 2)))


@pytest.mark.parametrize("shape", [(7, 1, 16, 16), (7, 3, 17, 12)])
def test_values_and_shapes_stay_and_the_stream_decides(shape):
    x = pictures(*shape)
    before = x.clone()
    changed = jitter(x, stream())
    assert changed.shape == x.shape
    assert changed.min() >= 0 and changed.max() <= 1 + 1e-6
    assert torch.equal(x, before)
    assert not close(changed, x)
    assert torch.equal(changed, jitter(x, stream()))
    assert not torch.equal(changed, jitter(x, stream("other")))


def test_jitter_moves_the_centre_of_mass_by_at_most_its_shift():
    x = discs(200)
    weights = jitter(x, stream())[:, 0]
    side = torch.arange(32) - 15.5
    moved_rows = (weights.sum(2) * side).sum(1) / weights.sum((1, 2))
    moved_columns = (weights.sum(1) * side).sum(1) / weights.sum((1, 2))
    limit = 0.025 * 32
    for moved in (moved_rows, moved_columns):
        assert limit / 2 < moved.abs().max() < limit * 1.05
        assert moved.min() < 0 < moved.max()


def test_scale_below_1_enlarges_the_middle():
    x = discs(2)
    scaled = warp(x, angles(x, 0), scale=torch.tensor([[0.5, 0.5], [1.0, 1.0]]))
    wide = discs(1)[0, 0, 15, 8:24].repeat_interleave(2)  # twice as wide: each pixel stands for two
    assert (scaled[0, 0, 15] - wide).abs().max() < 0.08
    assert close(scaled[1], x[1])
