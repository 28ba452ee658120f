"""Deformations against what torch does exactly: rotations by right angles, flips and whole-pixel shifts."""

import pytest
import torch

from alocc.data.deformation import FIXED_JITTERS, deform, elastic, fixed_jitters, jitter, turn, warp
from alocc.seeding import generator


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


def bars(n, size=32):
    """A horizontal bar: every rotation but one by 180° changes it."""
    x = torch.zeros((n, 1, size, size))
    x[:, :, size // 2 - 2 : size // 2 + 2, 4:-4] = 1.0
    return x


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


@pytest.mark.parametrize("change", [jitter, deform, turn, lambda x, g: elastic(x, 0.1, 10.0, g)])
@pytest.mark.parametrize("shape", [(7, 1, 16, 16), (7, 3, 17, 12)])
def test_values_and_shapes_stay_and_the_stream_decides(change, shape):
    x = pictures(*shape)
    before = x.clone()
    changed = change(x, stream())
    assert changed.shape == x.shape
    assert changed.min() >= 0 and changed.max() <= 1 + 1e-6
    assert torch.equal(x, before)
    assert not close(changed, x)
    assert torch.equal(changed, change(x, stream()))
    assert not torch.equal(changed, change(x, stream("other")))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_any_number_of_images_is_deformed(n):
    assert deform(pictures(n), stream()).shape == (n, 1, 16, 16)


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


def test_jitter_is_milder_than_every_deformation():
    x = bars(90)

    def change(y):
        return (y - x).square().mean((1, 2, 3))

    strong, mild, turned = change(deform(x, stream())).tensor_split(3)
    slight = change(jitter(x, stream())).mean()
    assert slight < mild.mean() < strong.mean() < turned.mean()


def test_turn_changes_direction_alone():
    assert torch.allclose(turn(discs(20), stream()), discs(20), atol=0.05)  # the blur of a resampling
    # 40° at least: a bar 24 long and 4 wide shares at most a middle piece of 4 / sin 40° with itself, or lies reversed
    difference = (turn(bars(60), stream()) - bars(60)).abs().mean((1, 2, 3))
    assert difference.median() > 0.5 * 2 * bars(1).mean()


def test_turn_mirrors_half_of_the_images():
    x = torch.zeros((400, 1, 32, 32))  # an L, which no rotation makes its mirror image
    x[:, :, 8:24, 10:13] = 1.0
    x[:, :, 21:24, 10:20] = 1.0
    side = torch.arange(32) - 15.5
    rows, columns = side[:, None].expand(32, 32), side[None, :].expand(32, 32)

    def handedness(images):
        """Sign of a third moment of the complex plane that a rotation keeps and a mirror turns round."""
        weights = images[:, 0].to(torch.complex64)
        z = torch.complex(columns.clone(), rows.clone())
        centre = (weights * z).sum((1, 2)) / weights.sum((1, 2))
        w = z - centre[:, None, None]
        second, skewed = (weights * w**2).sum((1, 2)), (weights * w.abs() * w).sum((1, 2))
        return (second * skewed.conj() ** 2).imag.sign()

    plain = handedness(x[:1])
    share = (handedness(turn(x, stream())) != plain).double().mean().item()
    assert share == pytest.approx(0.5, abs=0.1)


def test_fixed_jitters_are_four_and_always_the_same():
    x = pictures()
    copies = fixed_jitters(x)
    assert len(copies) == 4
    for copy, again, (angle, dx, dy) in zip(copies, fixed_jitters(x), FIXED_JITTERS, strict=True):
        assert torch.equal(copy, again)
        assert close(copy, warp(x, angles(x, angle), shift=torch.tensor([[dx, dy]] * 3)))
        assert not close(copy, x)
    assert close(fixed_jitters(x[1:2])[2], copies[2][1:2])


def test_elastic_without_amplitude_is_the_identity():
    x = pictures()
    assert close(elastic(x, 0.0, 0.0, stream()), x)
