"""The noise: its size, its limits, its stream."""

import math

import pytest
import torch

from alocc.seeding import generator
from alocc.synthesis.corruption import corrupt, corrupt_each


def corrupt_all(x, sigma_max, stream):
    return corrupt_each(x, sigma_max, 1.0, stream)


HALF = torch.full((20, 1, 50, 50), 0.5)


def stream(name="noise"):
    return generator(0, name)


def test_noise_has_the_asked_deviation_and_no_bias():
    noise = corrupt(HALF, 0.1, stream()) - HALF  # five deviations from the limits
    assert noise.mean().item() == pytest.approx(0, abs=4 * 0.1 / math.sqrt(50_000))
    assert noise.std().item() == pytest.approx(0.1, rel=0.02)


def test_noise_is_clipped_at_both_limits():
    black, white = corrupt(HALF * 0, 0.3, stream()), corrupt(HALF * 0 + 1, 0.3, stream())
    for noisy in (black, white):
        assert noisy.min() >= 0 and noisy.max() <= 1
    # half of a black image's noise is clipped; the mean of the rest is σ / √(2π)
    assert (black == 0).double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert black.mean().item() == pytest.approx(0.3 / math.sqrt(2 * math.pi), rel=0.02)
    assert white.mean().item() == pytest.approx(1 - 0.3 / math.sqrt(2 * math.pi), rel=0.02)


def test_pixels_have_noise_of_their_own():
    noise = (corrupt(HALF, 0.1, stream()) - HALF).flatten(1)
    correlations = torch.corrcoef(noise) - torch.eye(len(noise))
    assert correlations.abs().max() < 5 / math.sqrt(2_500)


def test_same_stream_gives_the_same_noise_and_draws_fresh_at_each_call():
    one, other = stream(), stream()
    first = corrupt(HALF, 0.1, one)
    assert torch.equal(first, corrupt(HALF, 0.1, other))
    assert not torch.equal(first, corrupt(HALF, 0.1, one))


@pytest.mark.parametrize("noisy", [corrupt, corrupt_all])
def test_no_noise_leaves_the_image(noisy):
    x = torch.rand((4, 3, 8, 8), generator=stream())
    assert torch.equal(noisy(x, 0.0, stream()), x)


@pytest.mark.parametrize("noisy", [corrupt, corrupt_all])
def test_input_is_not_written_to(noisy):
    x = torch.rand((4, 3, 8, 8), generator=stream())
    before = x.clone()
    noisy(x, 0.5, stream())
    assert torch.equal(x, before)


def test_each_image_has_a_strength_between_0_and_the_largest():
    x = torch.full((1_000, 1, 24, 24), 0.5)
    deviations = (corrupt_all(x, 0.1, stream()) - x).flatten(1).std(1)
    assert deviations.max() < 0.1 * 1.15
    assert deviations.min() < 0.002
    assert deviations.mean().item() == pytest.approx(0.05, rel=0.06)  # of U(0, 0.1)
    assert deviations.square().mean().item() == pytest.approx(0.1**2 / 3, rel=0.1)


def test_each_image_is_clipped():
    noisy = corrupt_all(torch.rand((50, 1, 8, 8), generator=stream()), 2.0, stream())
    assert noisy.min() == 0 and noisy.max() == 1


def test_only_a_share_of_the_images_gets_noise():
    x = torch.full((1_000, 1, 8, 8), 0.5)
    clean = (corrupt_each(x, 0.2, 0.25, stream()) == x).flatten(1).all(1)
    assert clean.double().mean().item() == pytest.approx(0.75, abs=0.05)
