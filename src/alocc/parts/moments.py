"""Sums over normal images' places, from which the Gaussians of any four fifths of the images follow cheaply.

What a part says of images that it learned from is measured fifth by fifth, by the other four; adding up products of
descriptions is nearly all the work of a Gaussian, and is done once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alocc.parts.gaussian import JITTER, SMALLEST_SCALE, whitening

FIFTHS = 5
OWN_PLACE_FROM = 10
"""So many images weigh as much as the mean over all places, when a place's own mean is taken."""
ALIKE = 9
"""So many neighbouring places count as one, since a description is of what is around a place too."""
SHRINKAGE = 0.005
"""At least, of covariances: what many places say of directions in which they hardly differ is rounding."""


class Moments:
    """Means of places and scatter of zones of places, of each fifth of the images.

    Args:
        described: descriptions of places, (n, h, w, p).
        fifth: number of each image's fifth, (n,).
        zone: places along a side of a zone, whose covariance is made of these and of the places around them; none: one
            covariance for all places.
    """

    def __init__(self, described: Tensor, fifth: Tensor, zone: int | None) -> None:
        height, width = described.shape[1:3]
        self.centre = described.mean(0)  # (h, w, p); sums of what is left are exact enough in float32
        self.counts = torch.bincount(fifth, minlength=FIFTHS)
        of_fifths = [described[fifth == k] - self.centre for k in range(FIFTHS)]
        self.sums = torch.stack([rest.sum(0) for rest in of_fifths])  # (5, h, w, p)
        sides = [_along(side, zone) for side in (height, width)]
        self.zones = [[(row, column) for column in sides[1]] for row in sides[0]]
        self.scatter = torch.stack(
            [
                torch.stack([torch.stack([_scatter(rest[:, y, x]) for y, x in row]) for row in self.zones])
                for rest in of_fifths
            ]
        )  # (5, zones down, zones across, p, p)

    def gaussians(self, own_means: bool, without: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean of each place, (h, w, p), and whitening matrix of each zone, (zones down, zones across, p, p).

        Args:
            own_means: whether each place has a mean of its own; else the mean of all is everywhere.
            without: the fifth to leave out.
        """
        kept = [k for k in range(FIFTHS) if k != without]
        n = int(self.counts[kept].sum())
        moved = self.sums[kept].sum(0) / n  # mean of each place, seen from the centre
        places = self.centre + moved
        mean = places.mean((0, 1)).expand_as(places)
        if own_means:
            mean = (n * places + OWN_PLACE_FROM * mean) / (n + OWN_PLACE_FROM)
        matrices = []
        for i, row in enumerate(self.zones):  # one by one: all in float64 would be large
            covariance = self.scatter[kept, i].sum(0).double()  # (zones across, p, p)
            n_places = torch.empty(len(row), 1, 1).double()
            for j, (y, x) in enumerate(row):
                off, rest = moved[y, x].flatten(0, 1), (places - mean)[y, x].flatten(0, 1)  # (places, p)
                rest = rest - rest.mean(0)
                covariance[j] += n * (rest.T @ rest - off.T @ off)
                n_places[j] = len(rest)
            n_told = n * (n_places[:, 0, 0] / ALIKE).clamp(min=1)
            matrices.append(whitening_matrix(covariance / (n * n_places), n_told).float())
        return mean.clone(), torch.stack(matrices)


def whitening_matrix(covariance: Tensor, n: Tensor) -> Tensor:
    """Matrix that whitens, of each covariance (…, p, p) of n (…) rows, standardised and shrunk; float64.

    Shrunk after Chen, Wiesel, Eldar & Hero (2010): Ledoit & Wolf's share for Gaussian rows, which needs no more than
    the covariance.
    """
    p = covariance.shape[-1]
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt() + SMALLEST_SCALE  # (…, p)
    standard = covariance / (scale[..., :, None] * scale[..., None, :])
    trace, square = standard.diagonal(dim1=-2, dim2=-1).sum(-1), standard.square().sum((-2, -1))
    share = ((n - 2) / n * square + trace.square()) / ((n + 2) * (square - trace.square() / p)).clamp(min=1e-12)
    share = share.clamp(SHRINKAGE, 1.0)[..., None, None]
    identity = torch.eye(p).to(standard)
    return whitening((1 - share) * standard + (share * trace[..., None, None] / p + JITTER) * identity, scale)


def _along(side: int, zone: int | None) -> list[slice]:
    """Each zone's places along a side, with one more at each end."""
    return [slice(max(0, i - 1), i + zone + 1) for i in range(0, side, zone)] if zone else [slice(0, side)]


def _scatter(rest: Tensor) -> Tensor:
    """(n, h, w, p) → (p, p): the sum of outer products."""
    rows = rest.flatten(0, 2)
    return rows.T @ rows
