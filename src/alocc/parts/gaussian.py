"""A Gaussian of normal images' descriptions: mean, and a whitening matrix from a shrunk covariance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST_SCALE = 1e-3
"""Added to a standard deviation: what is the same in all normal images must not count without bounds."""
JITTER = 1e-6
"""Added to the diagonal of a covariance, in variances."""
ROBUST_ROUNDS, ROBUST_FOLDS = 4, 5


class Gaussian(nn.Module):
    """The squared Mahalanobis distance from normal descriptions, divided by their length p: about 1 for normal ones.

    Args:
        shape: of a mean: (p,), or (h, w, p) where each place has a mean of its own.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("whitening", torch.eye(shape[-1]))

    def fit(self, rows: Tensor) -> None:
        """Learn mean and covariance of rows (n, p)."""
        mean, whitening = gaussian(rows)
        self.mean.copy_(mean)
        self.whitening.copy_(whitening)

    def forward(self, rows: Tensor) -> Tensor:
        """Distance of each description, (N, …, p) → (N, …)."""
        return mahalanobis(rows, self.mean, self.whitening)


def mahalanobis(rows: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Squared Mahalanobis distance over the number of dimensions, (N, …, p) → (N, …)."""
    return ((rows - mean) @ whitening).square().mean(-1)


def gaussian(rows: Tensor, weight: Tensor | None = None, least_shrinkage: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean (p,) and whitening matrix (p, p), float64, of rows (n, p), each with its weight; float32 rows are quick.

    The covariance is of standardised rows, shrunk after Ledoit & Wolf (2004), so that it can be inverted even for
    n < p. With LLᵀ = covariance, L⁻ᵀ whitens: its product with its own transpose is the covariance's inverse.
    """
    weight = torch.ones(len(rows)).to(rows) if weight is None else weight
    weight = weight[:, None] / weight.mean()  # (n, 1)
    mean = (weight * rows).mean(0)
    centred = (rows - mean) * weight.sqrt()
    scale = centred.square().mean(0).sqrt() + SMALLEST_SCALE
    return mean, whitening(shrunk_covariance(centred / scale, least_shrinkage).double(), scale)


def whitening(standard: Tensor, scale: Tensor) -> Tensor:
    """L⁻ᵀ of each covariance LLᵀ of standardised rows, (…, p, p), for rows that are not, by their scale (…, p)."""
    factor = torch.linalg.cholesky(standard)
    identity = torch.eye(factor.shape[-1]).to(factor).expand_as(factor)
    whitens: Tensor = torch.linalg.solve_triangular(factor.mT, identity, upper=True)
    return whitens / scale[..., :, None]


def shrunk_covariance(x: Tensor, least_shrinkage: float = 0.0) -> Tensor:
    """Covariance of centred rows (n, p), moved towards a multiple of the identity (Ledoit & Wolf 2004).

    The less the rows say about it, the further it is moved. It is ``sklearn.covariance.ledoit_wolf``, and a test
    compares the two; that one multiplies three times where this multiplies once, and fitting is mostly this.
    """
    n, p = x.shape
    covariance = x.T @ x / n
    mean_variance = covariance.trace() / p
    distance = covariance.square().sum() / p - mean_variance**2
    noise = (x.square().sum(1).square().sum() / n - covariance.square().sum()) / (n * p)
    share = (noise / distance.clamp(min=1e-12)).clamp(least_shrinkage, 1.0)
    shrunk: Tensor = (1 - share) * covariance + (share * mean_variance + JITTER) * torch.eye(p).to(x)
    return shrunk


def robust_distance(rows: Tensor) -> Tensor:
    """Squared Mahalanobis distance of each row (n, p) from the rest, far rows counting less from round to round.

    The first round starts from medians, which a group of rows far out cannot drag along. A row's distance is from the
    other folds alone: among few rows, each would be as near to itself as to all others.
    """
    offset = (rows - rows.median(0).values).abs()
    distance = (offset / (offset.median(0).values + SMALLEST_SCALE)).square().mean(1)
    fold = torch.arange(len(rows)) % ROBUST_FOLDS
    for _ in range(ROBUST_ROUNDS):
        weight = (distance.median() / distance.clamp(min=1e-12)).clamp(max=1).square()
        distance = torch.empty_like(distance)
        for own in (fold == k for k in range(ROBUST_FOLDS)):
            distance[own] = mahalanobis(rows[own], *gaussian(rows[~own], weight[~own]))
    return distance
