"""Statistics of normal images, against their definitions and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors

from alocc.parts.descriptions import PARTS, Statistics, _robust_distance, gaussian, shrunk_covariance, thinned

STREAM = torch.Generator().manual_seed(0)


def noise(n=40, channels=1, size=(20, 24)):
    return torch.rand((n, channels, *size), generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize(("n", "p"), [(200, 10), (30, 10), (12, 40)])
def test_covariance_is_ledoit_and_wolfs(n, p):
    x = torch.randn((n, p), generator=STREAM, dtype=torch.float64) @ torch.diag(torch.linspace(0.1, 2, p).double())
    x = x - x.mean(0)
    expected, _ = ledoit_wolf(x.numpy(), assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(x).numpy(), expected + 1e-6 * np.eye(p), rtol=1e-8)


def test_training_images_are_about_one_deviation_away_and_others_more():
    statistics = Statistics(1, (20, 24)).fit(noise(400))
    normal, flat = statistics(noise(400)), statistics(torch.full((3, 1, 20, 24), 0.5))
    assert set(normal) == set(PARTS)
    for part in ("spectrum", "texture"):
        assert 0.5 < float(normal[part].mean()) < 1.5
    for part in PARTS[:-1]:
        assert (flat[part] > 5 * normal[part].max()).all()


def test_distance_is_mahalanobis():
    images = noise(300)
    statistics = Statistics(1, (20, 24)).fit(images)
    described = statistics.describe(images)["spectrum"].double()
    centred = (described - described.mean(0)) / (described.std(0, correction=0) + 1e-3)
    precision = torch.linalg.inv(shrunk_covariance(centred))
    expected = ((centred[:5] @ precision) * centred[:5]).sum(1) / described.shape[1]
    torch.testing.assert_close(statistics(images[:5])["spectrum"].double(), expected, rtol=1e-3, atol=1e-4)


def test_spectrum_is_the_fourier_transforms_power():
    statistics = Statistics(1, (20, 24))
    x = noise(3)
    grey = x[:, 0] - x.mean((1, 2, 3)).view(-1, 1, 1)
    power = torch.fft.fft2(grey * statistics.window).abs().square().flatten(1)
    expected = (power @ statistics.bands + 1e-5).log()
    torch.testing.assert_close(statistics._spectrum(x), expected, rtol=1e-3, atol=1e-3)
    assert torch.allclose(statistics.bands.sum(0), torch.ones(statistics.bands.shape[1]))


def test_direction_of_stripes_is_seen():
    stripes = torch.zeros(1, 1, 24, 24)
    stripes[..., ::4] = 1.0
    spectrum = Statistics(1, (24, 24))._spectrum
    upright, lying = spectrum(stripes), spectrum(stripes.transpose(2, 3))
    assert (upright - lying).abs().max() > 3


def test_neighbours_are_scikit_learns():
    images = noise(60)
    statistics = Statistics(1, (20, 24)).fit(images)
    small = torch.nn.functional.adaptive_avg_pool2d(images, 14).flatten(1)
    other = torch.nn.functional.adaptive_avg_pool2d(noise(7), 14).flatten(1)
    expected = NearestNeighbors(n_neighbors=5).fit(small).kneighbors(other)[0].mean(1)
    np.testing.assert_allclose(statistics(noise(7))["neighbours"].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (28, 28), (17, 33), (64, 48)])
def test_any_size_and_few_images(channels, size):
    statistics = Statistics(channels, size).fit(noise(5, channels, size))
    scores = statistics(noise(3, channels, size))
    assert all(score.shape == (3,) and score.isfinite().all() for score in scores.values())


def test_identical_images_give_finite_scores():
    statistics = Statistics(1, (16, 16)).fit(torch.full((20, 1, 16, 16), 0.3))
    assert all(score.isfinite().all() for score in statistics(noise(4, 1, (16, 16))).values())


def test_state_is_all_there_is():
    fitted = Statistics(3, (16, 16)).fit(noise(30, 3, (16, 16)))
    again = Statistics(3, (16, 16), n_memory=len(fitted.memory))
    again.load_state_dict(fitted.state_dict())
    x = noise(4, 3, (16, 16))
    assert all(torch.equal(fitted(x)[part], again(x)[part]) for part in PARTS)


@pytest.mark.parametrize("n", [80, 300])
def test_the_most_unusual_of_a_set_are_found_without_fitting(n):
    stream = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.avg_pool2d(torch.rand((n // 10, 1, 24, 28), generator=stream), 5, stride=1)
    is_smooth = torch.randperm(n + n // 10, generator=stream) >= n
    images = torch.empty(n + n // 10, 1, 20, 24)
    images[~is_smooth], images[is_smooth] = noise(n), smooth
    statistics = Statistics(1, (20, 24))
    found = statistics.most_unusual(images, float(is_smooth.float().mean()))
    assert torch.equal(found, is_smooth)
    assert not statistics.texture_mean.any()  # nothing was fitted
    assert not statistics.most_unusual(images, 0.0).any()


def test_rows_far_out_of_line_hardly_move_what_they_are_measured_by():
    rows = torch.randn((500, 6), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    spoiled = rows.clone()
    spoiled[:50] += 6
    distance = _robust_distance(spoiled)
    assert distance[:50].min() > distance[50:].max()
    clean = _robust_distance(rows[50:])
    plain_mean, plain_whitening = gaussian(spoiled)
    plain = ((spoiled - plain_mean) @ plain_whitening).square().mean(1)
    ratio = distance[50:].mean() / distance[:50].mean(), plain[50:].mean() / plain[:50].mean()
    assert ratio[0] < ratio[1] / 5
    assert clean.isfinite().all()


def test_many_images_arethinned_out_evenly():
    images = torch.arange(10.0)
    assert torch.equal(thinned(images, 12), images)
    assert thinned(images, 4).tolist() == [0.0, 2.0, 5.0, 7.0]


def noise_images(n, seed):
    return torch.rand((n, 1, 16, 16), generator=torch.Generator().manual_seed(seed)) ** 2


def test_images_that_were_fitted_look_like_fresh_ones_out_of_their_fold():
    images, fresh = noise_images(150, 0), noise_images(150, 1)
    statistics = Statistics(1, (16, 16)).fit(images)
    out_of_fold = statistics.out_of_fold(images, images, torch.arange(150), torch.Generator().manual_seed(2))
    own, others = statistics(images), statistics(fresh)
    for part, unusual in out_of_fold.items():
        ratio = float(unusual.median() / others[part].median())
        assert 0.8 < ratio < 1.25, part
        assert float(own[part].median()) < 0.95 * float(others[part].median()), part


def test_an_image_is_left_out_of_its_tenth_by_hand():
    images = noise_images(40, 0)
    fit = torch.arange(5, 40)  # the first five calibrate only
    statistics = Statistics(1, (16, 16)).fit(images[fit])
    unusual = statistics.out_of_fold(images, images[fit], fit, torch.Generator().manual_seed(2))
    tenth = torch.randperm(40, generator=torch.Generator().manual_seed(2)) % 10
    for i in (2, 20):
        others = [j for j in fit.tolist() if tenth[j] != tenth[i]]
        mean, whitening = gaussian(statistics.describe(images[others])["texture"].double())
        row = statistics.describe(images[[i]])["texture"].double()
        torch.testing.assert_close(unusual["texture"][i], ((row - mean) @ whitening).square().mean(), rtol=1e-3, atol=0)
        small = torch.nn.functional.adaptive_avg_pool2d(images, 14).flatten(1)
        away = [float((small[i] - small[j]).norm()) for j in fit.tolist() if j != i]
        assert float(unusual["neighbours"][i]) == pytest.approx(np.mean(sorted(away)[:5]), rel=1e-4)
