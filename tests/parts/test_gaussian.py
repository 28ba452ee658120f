"""A Gaussian of rows, against its definition and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from alocc.parts.gaussian import Gaussian, gaussian, robust_distance, shrunk_covariance


def normal_rows(n, p, seed=0):
    return torch.randn((n, p), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "p"), [(200, 10), (30, 10), (12, 40), (3, 2)])
def test_covariance_is_ledoit_and_wolfs_and_a_little_on_the_diagonal(n, p):
    x = normal_rows(n, p) @ torch.diag(torch.linspace(0.1, 2, p).double())
    x = x - x.mean(0)
    expected = ledoit_wolf(x.numpy(), assume_centered=True)[0] + 1e-6 * np.eye(p)
    np.testing.assert_allclose(shrunk_covariance(x).numpy(), expected, rtol=0, atol=1e-10)


def test_the_whitening_matrix_inverts_the_covariance_of_standardised_rows():
    rows = normal_rows(50, 4) * torch.tensor([1.0, 3.0, 0.2, 10.0]).double() + 5
    mean, whitening = gaussian(rows)
    torch.testing.assert_close(mean, rows.mean(0))
    scale = rows.std(0, correction=0) + 1e-3
    precision = torch.linalg.inv(shrunk_covariance((rows - mean) / scale))
    torch.testing.assert_close(whitening @ whitening.T, precision / torch.outer(scale, scale))


def test_a_row_of_weight_two_counts_as_two_rows():
    rows = normal_rows(9, 3)
    twice = torch.cat([rows, rows[:4]])
    weight = torch.tensor([2.0] * 4 + [1.0] * 5).double()
    torch.testing.assert_close(gaussian(rows, weight)[0], twice.mean(0))
    assert all(map(torch.equal, gaussian(rows), gaussian(rows, torch.full((9,), 7.0).double())))


def test_distance_of_each_place_is_from_the_mean_of_its_own():
    places = Gaussian(2, 1, 3)  # two places, three numbers each
    places.mean.copy_(torch.tensor([[[0.0, 0, 0]], [[1.0, 1, 1]]]))
    places.whitening.copy_(2 * torch.eye(3))
    rows = torch.ones(5, 2, 1, 3)
    torch.testing.assert_close(places(rows), torch.tensor([[4.0], [0.0]]).expand(5, 2, 1))


def test_rows_far_out_of_line_hardly_move_what_they_are_measured_by():
    rows = normal_rows(500, 6, seed=3)
    spoiled = rows.clone()
    spoiled[:50] += 6
    distance = robust_distance(spoiled)
    assert distance[:50].min() > distance[50:].max()
    mean, whitening = gaussian(spoiled)
    plain = ((spoiled - mean) @ whitening).square().mean(1)
    robust_ratio, plain_ratio = (one[50:].mean() / one[:50].mean() for one in (distance, plain))
    assert robust_ratio < plain_ratio / 5
    assert robust_distance(rows[50:]).isfinite().all()
