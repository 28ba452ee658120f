"""Gaussians of any four fifths of the images are those that their places give by themselves."""

import pytest
import torch
from sklearn.covariance import OAS

from alocc.parts.moments import ALIKE, FIFTHS, OWN_PLACE_FROM, SHRINKAGE, Moments, whitening_matrix


def described(n=40, height=7, width=8, p=4, seed=0):
    """Places that differ: each has a mean of its own, and the columns another spread than the rest."""
    stream = torch.Generator().manual_seed(seed)
    mean = 3 * torch.randn((height, width, p), generator=stream)
    spread = 0.5 + torch.rand((1, width, p), generator=stream)
    return mean + spread * torch.randn((n, height, width, p), generator=stream)


@pytest.mark.parametrize("without", [None, 0, 3])
@pytest.mark.parametrize("zone", [None, 3])
@pytest.mark.parametrize("own_means", [False, True])
def test_means_and_covariances_are_those_of_the_images_that_are_kept(without, zone, own_means):
    places, fifth = described(), torch.arange(40) % FIFTHS
    mean, whitening = Moments(places, fifth, zone).gaussians(own_means, without)
    kept = places[fifth != without] if without is not None else places
    n, everywhere = len(kept), kept.mean((0, 1, 2))
    by_hand = (n * kept.mean(0) + OWN_PLACE_FROM * everywhere) / (n + OWN_PLACE_FROM) if own_means else everywhere
    torch.testing.assert_close(mean, by_hand.expand_as(mean), rtol=1e-4, atol=1e-5)
    assert whitening.shape == ((3, 3, 4, 4) if zone else (1, 1, 4, 4))
    # the last zone down is row 6, with row 5; the one in the middle across has a column more at each side
    block = (kept - mean)[:, 5:7, 2:7] if zone else kept - mean
    rows = block.flatten(0, 2).double()
    covariance = torch.cov(rows.T, correction=0)[None, None]
    told = n * max(1.0, len(rows) / n / ALIKE)
    by_hand = whitening_matrix(covariance, torch.tensor([[told]]).double()).float()[0, 0]
    torch.testing.assert_close(whitening[2, 1] if zone else whitening[0, 0], by_hand, rtol=1e-3, atol=1e-4)


def test_a_whitening_matrix_inverts_the_shrunk_covariance_of_standardised_rows():
    covariance = torch.tensor([[4.0, 1.0], [1.0, 1.0]]).double()
    whitening = whitening_matrix(covariance, torch.tensor(1e9).double())
    scale = covariance.diagonal().sqrt() + 1e-3
    standard = covariance / torch.outer(scale, scale)
    shrunk = (1 - SHRINKAGE) * standard + (SHRINKAGE * standard.trace() / 2 + 1e-6) * torch.eye(2)
    inverse = torch.linalg.inv(shrunk) / torch.outer(scale, scale)
    torch.testing.assert_close(whitening @ whitening.T, inverse)


def test_few_rows_are_shrunk_about_as_far_as_scikit_learn_does():
    """Its OAS is the limit of the same paper's iterations, and near Rao–Blackwell's share."""
    rows = torch.randn((30, 12), generator=torch.Generator().manual_seed(0)).double()
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    whitening = whitening_matrix(torch.cov(rows.T, correction=0), torch.tensor(30.0).double())
    ours = torch.linalg.inv(whitening @ whitening.T)
    theirs = torch.from_numpy(OAS(assume_centered=True).fit(rows.numpy()).covariance_)
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


def test_places_that_are_the_same_in_all_images_are_no_division_by_zero():
    places = torch.full((10, 3, 3, 2), 0.5)
    mean, whitening = Moments(places, torch.arange(10) % FIFTHS, 3).gaussians(True)
    assert mean.isfinite().all() and whitening.isfinite().all()
