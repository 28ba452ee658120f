"""The memory of small copies, against scikit-learn."""

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors


def noise(n, size=(20, 24)):
    return torch.rand((n, 1, *size), generator=torch.Generator().manual_seed(n))


def test_neighbours_are_scikit_learns(statistics):
    fitted = statistics(noise(60))
    small, other = (torch.nn.functional.adaptive_avg_pool2d(noise(n), 14).flatten(1) for n in (60, 7))
    expected = NearestNeighbors(n_neighbors=5).fit(small).kneighbors(other)[0].mean(1)
    np.testing.assert_allclose(fitted(noise(7))["neighbours"].numpy(), expected, rtol=1e-4)


def test_what_is_remembered_are_small_copies(statistics):
    images = noise(9)
    remembered = statistics(images)["neighbours"].remembered()
    assert remembered.shape == (9, 1, 14, 14)
    torch.testing.assert_close(remembered, torch.nn.functional.adaptive_avg_pool2d(images, 14))


def test_fewer_than_five_are_all_asked(statistics):
    images, new = noise(3), noise(2)
    small, other = (torch.nn.functional.adaptive_avg_pool2d(one, 14).flatten(1) for one in (images, new))
    torch.testing.assert_close(statistics(images)(new)["neighbours"], torch.cdist(other, small).mean(1))
