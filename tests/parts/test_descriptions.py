"""Descriptions of images and their Gaussians, against their definitions."""

import copy

import numpy as np
import pytest
import torch

from alocc.config import preset
from alocc.data.frame import thinned
from alocc.data.resizing import ImageFormat
from alocc.parts import STATISTICS
from alocc.parts.descriptions import GRIDS, Descriptions, Texture, most_unusual
from alocc.parts.gaussian import gaussian, shrunk_covariance
from alocc.parts.part import Normals


def noise(n=40, channels=1, size=(20, 24)):
    return torch.rand((n, channels, *size), generator=torch.Generator().manual_seed(n))


def test_training_images_are_about_one_deviation_away_and_others_more(statistics):
    fitted = statistics(noise(400))
    normal, flat = fitted(noise(400)), fitted(torch.full((3, 1, 20, 24), 0.5))
    assert set(normal) == set(STATISTICS)
    for name in ("spectrum", "texture"):
        assert 0.5 < float(normal[name].mean()) < 1.5
    for name in GRIDS:
        assert (flat[name] > 5 * normal[name].max()).all()


def test_distance_is_mahalanobis(statistics):
    images = noise(300)
    described = Descriptions(ImageFormat(20, 24, 1))(images)["spectrum"].double()
    centred = (described - described.mean(0)) / (described.std(0, correction=0) + 1e-3)
    precision = torch.linalg.inv(shrunk_covariance(centred))
    expected = ((centred[:5] @ precision) * centred[:5]).sum(1) / described.shape[1]
    found = statistics(images)(images[:5])["spectrum"].double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_spectrum_is_the_fourier_transforms_power():
    describe, x = Descriptions(ImageFormat(20, 24, 1)), noise(3)
    grey = x[:, 0] - x.mean((1, 2, 3)).view(-1, 1, 1)
    power = torch.fft.fft2(grey * describe.window).abs().square().flatten(1)
    expected = (power @ describe.bands + 1e-5).log()
    found = describe(x)["spectrum"][:, : expected.shape[1]]  # grey levels follow
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert torch.allclose(describe.bands.sum(0), torch.ones(describe.bands.shape[1]))


def test_direction_of_stripes_is_seen():
    stripes = torch.zeros(1, 1, 24, 24)
    stripes[..., ::4] = 1.0
    describe = Descriptions(ImageFormat(24, 24, 1))
    upright, lying = (describe(x)["spectrum"] for x in (stripes, stripes.transpose(2, 3)))
    assert (upright - lying).abs().max() > 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (28, 28), (17, 33), (64, 48)])
def test_any_size_and_few_images(channels, size, statistics):
    scores = statistics(noise(5, channels, size))(noise(3, channels, size))
    assert set(scores) == set(STATISTICS)
    assert all(score.shape == (3,) and score.isfinite().all() for score in scores.values())


def test_identical_images_give_finite_scores(statistics):
    fitted = statistics(torch.full((20, 1, 16, 16), 0.3))
    assert all(score.isfinite().all() for score in fitted(noise(4, 1, (16, 16))).values())


def test_state_is_all_there_is(statistics):
    fitted = statistics(noise(30, 3, (16, 16)))
    again = statistics(noise(8, 3, (16, 16)))  # a memory of another length, too
    x = noise(4, 3, (16, 16))
    before = again(x)
    for name, part in again.parts.items():
        part.load_state_dict(fitted[name].state_dict())
    assert all(torch.equal(fitted(x)[name], again(x)[name]) for name in STATISTICS)
    assert not any(torch.equal(before[name], again(x)[name]) for name in STATISTICS)


@pytest.mark.parametrize("n", [80, 300])
def test_the_most_unusual_of_a_set_are_found_without_fitting(n):
    stream = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.avg_pool2d(torch.rand((n // 10, 1, 24, 28), generator=stream), 5, stride=1)
    is_smooth = torch.randperm(n + n // 10, generator=stream) >= n
    images = torch.empty(n + n // 10, 1, 20, 24)
    images[~is_smooth], images[is_smooth] = noise(n), smooth
    found = most_unusual(images, ImageFormat(20, 24, 1), float(is_smooth.float().mean()))
    assert torch.equal(found, is_smooth)
    assert not most_unusual(images, ImageFormat(20, 24, 1), 0.0).any()


def test_many_images_are_thinned_out_evenly_with_their_sources():
    images = torch.arange(10.0)
    assert torch.equal(thinned(images, 12), images)
    assert thinned(images, 4).tolist() == [0.0, 2.0, 5.0, 7.0]
    some = Normals(torch.arange(20_000), torch.arange(20_000) + 7).some()
    assert len(some) == 10_000
    assert torch.equal(some.source, some.images + 7)


def noise_images(n, seed):
    return torch.rand((n, 1, 16, 16), generator=torch.Generator().manual_seed(seed)) ** 2


def tenths(n, seed=2):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)) % 10


def test_images_that_were_fitted_look_like_fresh_ones_when_they_are_left_out(statistics):
    images, fresh = noise_images(150, 0), noise_images(150, 1)
    fitted = statistics(images)
    own, others = fitted(images), fitted(fresh)
    for name, part in fitted.parts.items():
        left_out = part.cross_fitted(Normals(images), Normals(images), tenths(150))
        assert 0.8 < float(left_out.median() / others[name].median()) < 1.25, name
        assert float(own[name].median()) < 0.95 * float(others[name].median()), name


def test_an_image_is_left_out_with_its_tenth_by_hand(statistics):
    images, tenth = noise_images(40, 0), tenths(40)
    fit = torch.arange(5, 40)  # the first five calibrate only
    fitted = statistics(images[fit])
    learned, measured = Normals(images[fit], fit), Normals(images)
    texture, nearest = (fitted[name].cross_fitted(learned, measured, tenth) for name in ("texture", "neighbours"))
    describe = Descriptions(ImageFormat(16, 16, 1))
    small = torch.nn.functional.adaptive_avg_pool2d(images, 14).flatten(1)
    for i in (2, 20):
        others = [j for j in fit.tolist() if tenth[j] != tenth[i]]
        mean, whitening = gaussian(describe(images[others])["texture"].double())
        row = describe(images[[i]])["texture"].double()
        torch.testing.assert_close(texture[i], ((row - mean) @ whitening).square().mean(), rtol=1e-3, atol=0)
        away = [float((small[i] - small[j]).norm()) for j in fit.tolist() if j != i]
        assert float(nearest[i]) == pytest.approx(np.mean(sorted(away)[:5]), rel=1e-4)


def test_an_images_own_copies_are_left_out_too(statistics):
    images = noise_images(30, 0)
    learned = Normals(torch.cat([images, images]), torch.arange(30).repeat(2))  # each twice
    nearest = statistics(images)["neighbours"].cross_fitted(learned, Normals(images), tenths(30))
    small = torch.nn.functional.adaptive_avg_pool2d(images, 14).flatten(1)
    distances = torch.cdist(small, small).fill_diagonal_(torch.inf).sort(1).values
    expected = distances[:, [0, 0, 1, 1, 2]].mean(1).double()  # of the others, each twice
    torch.testing.assert_close(nearest, expected, rtol=1e-4, atol=0)


def test_descriptions_are_computed_once_for_all_parts(statistics, monkeypatch):
    described = []
    forward = Descriptions.forward
    fitted = statistics(noise(20))
    monkeypatch.setattr(Descriptions, "forward", lambda self, x: described.append(len(x)) or forward(self, x))
    fitted(noise(3))
    assert described == [3]


def test_a_copy_shares_nothing_that_is_fitted():
    part = Texture(ImageFormat(20, 24, 1), preset("robust"))
    other = copy.deepcopy(part)
    part.fit(Normals(noise(30)))
    assert part.gaussian.mean.any() and not other.gaussian.mean.any()
