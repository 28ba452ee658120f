"""What normal images are like, learned without gradients: Gaussians of their statistics, and a memory of small copies.

Four descriptions of an image, each a vector φ(x) of a few hundred numbers:

| part         | φ(x)                                                                                      |
|--------------|-------------------------------------------------------------------------------------------|
| `spectrum`   | strength of each spatial frequency, by length and direction; and the grey levels or colours |
| `texture`    | the same, and what fixed random filters at three scales answer, over the whole image       |
| `quarters`   | the same, with the filters' answers over each quarter of the image too                      |
| `sixteenths` | the same, with half as many filters over each sixteenth of the image too                    |

The score of a part is the squared Mahalanobis distance of φ(x) from normal images, divided by the length of φ: about 1
for normal images, more for unusual ones, whatever they are unusual in. A covariance from few images is shrunk
(Ledoit & Wolf 2004).

A fifth part, `neighbours`, is the mean Euclidean distance to the five nearest normal images, all at 14×14 pixels.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.data.images import to_unit_range
from alocc.seeding import generator

FILTERS = 24
FILTER_SIZE = 5
SCALES = (1, 2, 4)
"""Filters see the image, the image at half its size, and at a quarter."""
FREQUENCY_RINGS, FREQUENCY_SECTORS = 4, 6
LEVELS = 6
"""Grey levels, or levels of each colour, whose shares of the image are counted, softly."""
FLOOR = 1e-5
"""Added to a power before its logarithm: below it, there is nothing to see in images of 256 levels."""
SMALLEST_SCALE = 1e-3
"""Added to a standard deviation: what is the same in all normal images must not count without bounds."""
NEIGHBOURS = 5
SMALL_SIDE = 14
MOST_REMEMBERED = 3_000
MOST_IMAGES = 10_000
"""As many normal images are enough for a covariance; more are thinned out evenly."""
BATCH = 256
GRIDS: dict[str, tuple[tuple[int, ...], int]] = {
    "spectrum": ((), 0),
    "texture": ((1,), FILTERS),
    "quarters": ((1, 2), FILTERS),
    "sixteenths": ((1, 4), FILTERS // 2),
}
"""Part → the grids over which the filters' answers are averaged, and how many filters."""
ALL_GRIDS = (1, 2, 4)
PARTS = (*GRIDS, "neighbours")
FOLDS = 10
"""Tenths of the images that are measured by the other nine tenths, where all were fitted."""
ROBUST_PARTS, ROBUST_ROUNDS, ROBUST_FOLDS = ("spectrum", "texture", "quarters"), 4, 5
"""What images of another kind are looked for by, among the training images."""


class Statistics(nn.Module):
    """Four Gaussians and a memory of normal images, in buffers: it is saved and moved like a network.

    Args:
        channels: 1 or 3.
        image_size: height and width.
        n_memory: how many small copies are in the memory; fitting sets it.
    """

    filters: Tensor
    texture_mean: Tensor
    texture_whitening: Tensor
    window: Tensor
    rows_cos: Tensor
    rows_sin: Tensor
    columns_cos: Tensor
    columns_sin: Tensor
    bands: Tensor
    cells_0: Tensor
    small_rows: Tensor
    small_columns: Tensor
    memory: Tensor

    def __init__(self, channels: int, image_size: tuple[int, int], n_memory: int = NEIGHBOURS) -> None:
        super().__init__()
        self.image_size = image_size
        self.register_buffer("filters", random_filters(channels))
        for name, matrix in _fourier(image_size).items():
            self.register_buffer(name, matrix, persistent=False)
        sizes = [image.shape[2:] for image in scales(torch.empty((1, 1, *image_size)))]
        for scale, (height, width) in enumerate(sizes):
            self.register_buffer(f"cells_{scale}", _cells(height, width), persistent=False)
        for side, n in zip(("rows", "columns"), image_size, strict=True):
            self.register_buffer(f"small_{side}", _averages(n, SMALL_SIDE), persistent=False)
        length = self.describe(torch.zeros((1, channels, *image_size)))
        for part, description in length.items():
            n = description.shape[1]
            self.register_buffer(f"{part}_mean", torch.zeros(n))
            self.register_buffer(f"{part}_whitening", torch.eye(n))

        self.register_buffer("memory", torch.zeros((n_memory, channels * SMALL_SIDE**2)))

    def fit(self, images: Tensor) -> Statistics:
        """Learn means and covariances, and remember.

        Args:
            images: normal images, (n, C, H, W), uint8 or float32 in [0, 1].
        """
        images = thinned(images, MOST_IMAGES)
        described = self._described(images)
        for part in GRIDS:
            mean, whitening = gaussian(described[part])
            getattr(self, f"{part}_mean").copy_(mean)
            getattr(self, f"{part}_whitening").copy_(whitening)
        self.memory = self._small(to_unit_range(thinned(images, MOST_REMEMBERED)))
        return self

    def out_of_fold(self, images: Tensor, fitted: Tensor, source: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
        """How unusual images are that were fitted themselves, (n,) for each part, as if they had not been.

        Each is measured by Gaussians of what was made from the nine tenths of the images that it is not in, and by its
        distance to what was made from other images than itself.

        Args:
            images: (n, C, H, W), uint8 or float32 in [0, 1].
            fitted: what was fitted, (m, C, H, W): some of the images, and changed copies of them.
            source: index of the image that each of those is made from, (m,).
            stream: decides the tenths.
        """
        tenth = torch.randperm(len(images), generator=stream) % FOLDS
        fitted, source = thinned(fitted, MOST_IMAGES), thinned(source, MOST_IMAGES)
        judged, learned = self._described(images), self._described(fitted)
        unusual = {part: torch.empty(len(images)).double() for part in GRIDS}
        for part, k in itertools.product(GRIDS, range(FOLDS)):
            own = tenth == k
            mean, whitening = gaussian(learned[part][~own[source]])
            unusual[part][own] = ((judged[part][own] - mean) @ whitening).square().mean(1)
        fitted, source = thinned(fitted, MOST_REMEMBERED), thinned(source, MOST_REMEMBERED)
        distances = torch.cdist(self._small(to_unit_range(images)), self._small(to_unit_range(fitted)))
        distances[torch.arange(len(images))[:, None] == source] = torch.inf
        nearest = distances.topk(min(NEIGHBOURS, len(set(source.tolist())) - 1), largest=False).values
        return unusual | {"neighbours": nearest.mean(1).double()}

    def most_unusual(self, images: Tensor, share: float) -> Tensor:
        """Which images of a set are least like the others of the same set, (n,) bool.

        Nothing that was fitted is used: the set is measured by itself, in rounds, the unusual images counting less and
        less, so that a few of another kind cannot pass as normal by being there.

        Args:
            images: (n, C, H, W), uint8 or float32 in [0, 1].
            share: of the images that are to be found.
        """
        described = self._described(images)
        distance = torch.zeros(len(images)).double()
        for part in ROBUST_PARTS:
            distance += _robust_distance(described[part]).log()
        found = torch.zeros(len(images), dtype=torch.bool)
        found[distance.topk(round(share * len(images))).indices] = True
        return found

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """How unusual images are, (N,) for each part."""
        return {"neighbours": self._neighbours(x)} | {
            part: ((description - getattr(self, f"{part}_mean")) @ getattr(self, f"{part}_whitening")).square().mean(1)
            for part, description in self.describe(x).items()
        }

    def _neighbours(self, x: Tensor) -> Tensor:
        """Mean distance to the nearest in memory: found by products, which is quick, then measured by differences."""
        small = self._small(x)
        nearness = small @ self.memory.T - self.memory.square().sum(1) / 2
        nearest = nearness.topk(min(NEIGHBOURS, len(self.memory))).indices
        distances: Tensor = (small[:, None] - self.memory[nearest]).square().sum(2).sqrt()
        return distances.mean(1)

    def _small(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C · 14 · 14), means of as many cells."""
        return (self.small_rows @ x @ self.small_columns.T).flatten(1)

    def shift(self, images: Tensor, n_fit: int) -> float:
        """How far the mean of images is from the mean of the normal images, in texture.

        The squared Mahalanobis distance of the two means, without the part that chance adds when means are of few
        images: about 0 if both are from one source. Images of one of k clusters alike are k − 1 away from all k.

        Args:
            images: (n, C, H, W), float32 in [0, 1], n > 1.
            n_fit: how many images the statistics were fitted to.
        """
        described = torch.cat([self.describe(batch)["texture"] for batch in torch.split(images, BATCH)])
        whitened = ((described - self.texture_mean) @ self.texture_whitening).double()
        by_chance = whitened.var(0).sum() / len(images) + whitened.shape[1] / n_fit
        return float(whitened.mean(0).square().sum() - by_chance)

    def _described(self, images: Tensor) -> dict[str, Tensor]:
        """φ of images of any number, uint8 or float32, in float64."""
        batches = [self.describe(to_unit_range(batch)) for batch in torch.split(images, BATCH)]
        return {part: torch.cat([batch[part] for batch in batches]).double() for part in GRIDS}

    def describe(self, x: Tensor) -> dict[str, Tensor]:
        """φ(x) of each part, (N, length of φ)."""
        whole = torch.cat([self._spectrum(x), _levels(x)], 1)
        pooled = [self._pooled(image, scale) for scale, image in enumerate(scales(x))]
        colours = _by_grid(x.flatten(2) @ self.cells_0)
        descriptions = {}
        for part, (grids, n_filters) in GRIDS.items():
            answers = [answer[grid][:, :n_filters].flatten(1) for grid in grids for of in pooled for answer in of]
            descriptions[part] = torch.cat([whole, *answers, *(colours[grid].flatten(1) for grid in grids)], 1)
        return descriptions

    def _pooled(self, image: Tensor, scale: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """What the filters answer, in each cell of each grid: logarithm of the root mean square, mean of the positive.

        Means over cells are one matrix product, which is quick in any runtime.
        """
        padded = F.pad(image, (FILTER_SIZE // 2,) * 4, mode="reflect")
        answer = F.conv2d(padded, self.filters).flatten(2)
        cells = getattr(self, f"cells_{scale}")
        power = 0.5 * (answer.square() @ cells + FLOOR).log()
        return _by_grid(power), _by_grid(answer.relu() @ cells)

    def _spectrum(self, x: Tensor) -> Tensor:
        """Logarithm of the power in each ring and sector of frequencies, of the grey image under a smooth window.

        Written as matrix products, so that it can be exported to any runtime.
        """
        grey = x.mean(1)
        grey = (grey - grey.mean((1, 2), keepdim=True)) * self.window
        rows_cos, rows_sin = self.rows_cos @ grey, self.rows_sin @ grey
        real = rows_cos @ self.columns_cos - rows_sin @ self.columns_sin
        imaginary = rows_cos @ self.columns_sin + rows_sin @ self.columns_cos
        power = (real.square() + imaginary.square()).flatten(1) @ self.bands
        return (power + FLOOR).log()


def gaussian(description: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean (p,) and whitening matrix (p, p) of rows (n, p), each with its weight."""
    weight = torch.ones(len(description)).to(description) if weight is None else weight
    weight = weight[:, None] / weight.mean()
    mean = (weight * description).mean(0)
    centred = (description - mean) * weight.sqrt()
    scale = centred.square().mean(0).sqrt() + SMALLEST_SCALE
    precision = torch.linalg.inv(shrunk_covariance(centred / scale))
    return mean, torch.linalg.cholesky(precision) / scale[:, None]


def _robust_distance(description: Tensor) -> Tensor:
    """Squared Mahalanobis distance of each row (n, p) from the rest, far rows counting less from round to round.

    The first round starts from medians, which a group of rows far out cannot drag along. A row's distance is from the
    other folds alone: among few rows, each would be as near to itself as to all others.
    """
    offset = (description - description.median(0).values).abs()
    distance = (offset / (offset.median(0).values + SMALLEST_SCALE)).square().mean(1)
    fold = torch.arange(len(description)) % ROBUST_FOLDS
    for _ in range(ROBUST_ROUNDS):
        weight = (distance.median() / distance.clamp(min=1e-12)).clamp(max=1).square()
        distance = torch.empty_like(distance)
        for own in (fold == k for k in range(ROBUST_FOLDS)):
            mean, whitening = gaussian(description[~own], weight[~own])
            distance[own] = ((description[own] - mean) @ whitening).square().mean(1)
    return distance


def random_filters(channels: int) -> Tensor:
    """The same fixed filters everywhere, (24, C, 5, 5): mean 0, length 1."""
    filters = torch.randn((FILTERS, channels, FILTER_SIZE, FILTER_SIZE), generator=generator(0, "filters"))
    filters = filters - filters.mean((1, 2, 3), keepdim=True)
    unit: Tensor = filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return unit


def shrunk_covariance(x: Tensor) -> Tensor:
    """Covariance of centred rows (n, p), moved towards a multiple of the identity (Ledoit & Wolf 2004).

    The less the rows say about it, the further it is moved; so it can be inverted even for n < p.
    """
    n, p = x.shape
    covariance = x.T @ x / n
    mean_variance = covariance.trace() / p
    distance = covariance.square().sum() / p - mean_variance**2
    noise = (x.square().sum(1).square().sum() / n - covariance.square().sum()) / (n * p)
    share = (noise / distance.clamp(min=1e-12)).clamp(0.0, 1.0)
    shrunk: Tensor = (1 - share) * covariance + (share * mean_variance + 1e-6) * torch.eye(p).to(x)
    return shrunk


def thinned(images: Tensor, most: int) -> Tensor:
    """All images, or ``most`` of them, evenly spread."""
    n = len(images)
    return images if n <= most else images[torch.arange(most) * n // most]


def scales(x: Tensor) -> list[Tensor]:
    """The image, smaller and smaller, as long as the filters fit in."""
    images = [F.avg_pool2d(x, scale) if scale > 1 else x for scale in SCALES]
    return [image for image in images if min(image.shape[2:]) > FILTER_SIZE]


def _averages(n: int, cells: int) -> Tensor:
    """Means over cells of a side as a matrix, (cells, n); where they do not divide it, cells overlap by a pixel."""
    i, j = torch.arange(cells)[:, None], torch.arange(n)
    inside = ((j >= i * n // cells) & (j < -(-(i + 1) * n // cells))).float()
    return inside / inside.sum(1, keepdim=True)


def _cells(height: int, width: int) -> Tensor:
    """Means over the cells of all grids as one matrix, (H · W, cells), grid after grid."""
    products = [torch.kron(_averages(height, grid), _averages(width, grid)) for grid in ALL_GRIDS]
    return torch.cat(products).T.contiguous()


def _by_grid(values: Tensor) -> dict[int, Tensor]:
    """(N, C, cells of all grids) → grid → (N, C, its cells)."""
    parts = torch.split(values, [grid**2 for grid in ALL_GRIDS], 2)
    return dict(zip(ALL_GRIDS, parts, strict=True))


def _levels(x: Tensor) -> Tensor:
    """Mean, contrast and soft histogram of each channel."""
    pixels = x.flatten(2)
    centres = torch.linspace(0, 1, LEVELS).to(x)
    distance = (pixels.unsqueeze(2) - centres.view(-1, 1)) * (LEVELS - 1)
    shares = torch.exp(-2 * distance.square()).mean(3).flatten(1)
    return torch.cat([pixels.mean(2), (pixels.std(2) + 1e-3).log(), (shares + 0.01).log()], 1)


def _fourier(image_size: tuple[int, int]) -> dict[str, Tensor]:
    """The Fourier transform of a window as matrices, and which frequency belongs to which band."""
    height, width = image_size
    matrices = {"window": torch.outer(torch.hann_window(height), torch.hann_window(width))}
    for name, n in (("rows", height), ("columns", width)):
        angle = 2 * math.pi / n * torch.outer(torch.arange(n), torch.arange(n)).double()
        matrices[f"{name}_cos"], matrices[f"{name}_sin"] = angle.cos().float(), angle.sin().float()
    down, across = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None]
    radius = (down.square() + across.square()).sqrt()
    ring = (radius / 0.5 * FREQUENCY_RINGS).clamp(max=FREQUENCY_RINGS - 0.01).long()
    sector = (
        (torch.atan2(down, across) % math.pi / math.pi * FREQUENCY_SECTORS).clamp(max=FREQUENCY_SECTORS - 0.01).long()
    )
    band = torch.where(radius > 0, ring * FREQUENCY_SECTORS + sector, -1).flatten()
    members = F.one_hot(band + 1, FREQUENCY_RINGS * FREQUENCY_SECTORS + 1)[:, 1:].float()
    members = members[:, members.sum(0) > 0]
    matrices["bands"] = members / members.sum(0)
    return matrices
