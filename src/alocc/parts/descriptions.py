"""Descriptions φ(x) of an image, four vectors of a few hundred numbers, and what the parts make of them.

| part         | φ(x)                                                                                      |
|--------------|-------------------------------------------------------------------------------------------|
| `spectrum`   | strength of each spatial frequency, by length and direction; and the grey levels or colours |
| `texture`    | the same, and what fixed random filters at three scales answer, over the whole image       |
| `quarters`   | the same, with the filters' answers over each quarter of the image too                      |
| `sixteenths` | the same, with half as many filters over each sixteenth of the image too                    |

The score of a part is the squared Mahalanobis distance of φ(x) from normal images, divided by the length of φ: about 1
for normal images, more for unusual ones, whatever they are unusual in.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.config import Config
from alocc.data.frame import averages
from alocc.data.resizing import ImageFormat
from alocc.parts.gaussian import Gaussian, gaussian, mahalanobis, robust_distance
from alocc.parts.part import Evidence, Normals, Part, View
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
GRIDS: dict[str, tuple[tuple[int, ...], int]] = {
    "spectrum": ((), 0),
    "texture": ((1,), FILTERS),
    "quarters": ((1, 2), FILTERS),
    "sixteenths": ((1, 4), FILTERS // 2),
}
"""Description → the grids over which the filters' answers are averaged, and how many filters."""
ALL_GRIDS = (1, 2, 4)
TENTHS = 10
"""Parts of the images that are measured by the other nine, where all were fitted."""
ROBUST_DESCRIPTIONS = ("spectrum", "texture", "quarters")
"""The descriptions in which anomalies among the training images are looked for."""


class GaussianPart(Part):
    """A Gaussian of a description of normal images."""

    floor = 1e-4
    gaussian: Gaussian

    def described(self, view: View) -> Tensor:
        """φ(x), (N, p)."""
        raise NotImplementedError

    def all_described(self, normals: Normals) -> Tensor:
        """φ of images of any number, (n, p), float64."""
        raise NotImplementedError

    def fit(self, normals: Normals) -> None:
        self.gaussian.fit(self.all_described(normals))

    def forward(self, view: View) -> Evidence:
        return Evidence(image=self.gaussian(self.described(view)))

    def cross_fitted(self, fitted: Normals, images: Normals, tenth: Tensor) -> Tensor:
        rows, learned = self.all_described(images), self.all_described(fitted)
        distance = torch.empty(len(rows)).double()
        for own in (tenth == k for k in range(TENTHS)):
            distance[own] = mahalanobis(rows[own], *gaussian(learned[~own[fitted.source]]))
        return distance


class DescriptionPart(GaussianPart):
    """A Gaussian of one of the descriptions above."""

    description: ClassVar[str]

    def __init__(self, image_format: ImageFormat, config: Config) -> None:
        super().__init__(image_format, config)
        self.describe = Descriptions(image_format)
        self.gaussian = Gaussian(self.describe.lengths[self.description])

    def described(self, view: View) -> Tensor:
        descriptions = view.once("descriptions", lambda: self.describe(view.x))
        described: Tensor = descriptions[self.description]
        return described

    def all_described(self, normals: Normals) -> Tensor:
        described: Tensor = self.describe.all_of(normals)[self.description]
        return described

    def shift(self, x: Tensor, n_fit: int) -> float:
        """How far the mean description of images is from that of normal images.

        The squared Mahalanobis distance of the two means, without the part that chance adds when means are of few
        images: about 0 if both are from one source. The mean of images from one of k equal clusters is k − 1 away
        from the mean of all.

        Args:
            x: images, (n, C, H, W), float32 in [0, 1], n > 1.
            n_fit: how many images the part was fitted to.
        """
        rows = torch.cat([self.describe(batch)[self.description] for batch in Normals(x).batches()])
        whitened = ((rows - self.gaussian.mean) @ self.gaussian.whitening).double()  # (n, p)
        by_chance = whitened.var(0).sum() / len(x) + whitened.shape[1] / n_fit
        return float(whitened.mean(0).square().sum() - by_chance)


class Spectrum(DescriptionPart):
    """Frequencies, and grey levels or colours."""

    meaning = "frequencies, and grey levels or colours"
    description = "spectrum"


class Texture(DescriptionPart):
    """The same, and the filters' answers over the whole image."""

    meaning = "frequencies, colours, and the structure of the whole image"
    description = "texture"


class Quarters(DescriptionPart):
    """The same, and the answers over each quarter."""

    meaning = "frequencies, colours, and the structure of each quarter"
    description = "quarters"


class Sixteenths(DescriptionPart):
    """The same, and the answers over each sixteenth."""

    meaning = "frequencies, colours, and the structure of each sixteenth"
    description = "sixteenths"


def most_unusual(images: Tensor, image_format: ImageFormat, share: float) -> Tensor:
    """Which images of a set are least like the others of the same set, (n,) bool.

    Nothing that was fitted is used: the set is measured by itself, in rounds, the unusual images counting less and
    less, so that a few of another source cannot pass as normal by being there.

    Args:
        images: (n, C, H, W), uint8 or float32 in [0, 1].
        image_format: of the images.
        share: of the images that are to be found.
    """
    described = Descriptions(image_format).all_of(Normals(images))
    distance = torch.stack([robust_distance(described[name]).log() for name in ROBUST_DESCRIPTIONS]).sum(0)  # (n,)
    found = torch.zeros(len(images), dtype=torch.bool)
    found[distance.topk(round(share * len(images))).indices] = True
    return found


class Descriptions(nn.Module):
    """φ of images. Nothing in it is learned, so nothing is saved.

    Args:
        image_format: of the images.
    """

    filters: Tensor
    window: Tensor
    rows_cos: Tensor
    rows_sin: Tensor
    columns_cos: Tensor
    columns_sin: Tensor
    bands: Tensor
    cells_0: Tensor

    def __init__(self, image_format: ImageFormat) -> None:
        super().__init__()
        constants = {"filters": random_filters(image_format.channels), **_fourier(image_format.size)}
        blank = torch.zeros((1, image_format.channels, *image_format.size))
        for scale, image in enumerate(scales(blank)):
            constants[f"cells_{scale}"] = _cells(image.shape[2], image.shape[3])
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.lengths = {name: description.shape[1] for name, description in self(blank).items()}

    def all_of(self, normals: Normals) -> dict[str, Tensor]:
        """φ of images of any number, (n, length of φ) each, float64; computed once for all parts."""

        def compute() -> dict[str, Tensor]:
            batches = [self(batch) for batch in normals.batches()]
            return {name: torch.cat([batch[name] for batch in batches]).double() for name in GRIDS}

        return normals.once("descriptions", compute)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """φ of images (N, C, H, W), float32 in [0, 1]: (N, length of φ) each."""
        whole = torch.cat([self._spectrum(x), _levels(x)], 1)
        pooled = [self._pooled(image, scale) for scale, image in enumerate(scales(x))]
        colours = _by_grid(x.flatten(2) @ self.cells_0)
        descriptions = {}
        for name, (grids, n_filters) in GRIDS.items():
            answers = [answer[grid][:, :n_filters].flatten(1) for grid in grids for of in pooled for answer in of]
            descriptions[name] = torch.cat([whole, *answers, *(colours[grid].flatten(1) for grid in grids)], 1)
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


def random_filters(channels: int) -> Tensor:
    """The same fixed filters everywhere, (24, C, 5, 5): mean 0, length 1."""
    filters = torch.randn((FILTERS, channels, FILTER_SIZE, FILTER_SIZE), generator=generator(0, "filters"))
    filters = filters - filters.mean((1, 2, 3), keepdim=True)
    unit: Tensor = filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return unit


def scales(x: Tensor) -> list[Tensor]:
    """The image, smaller and smaller, as long as the filters fit in."""
    images = [F.avg_pool2d(x, scale) if scale > 1 else x for scale in SCALES]
    return [image for image in images if min(image.shape[2:]) > FILTER_SIZE]


def _cells(height: int, width: int) -> Tensor:
    """Means over the cells of all grids as one matrix, (H · W, cells), grid after grid."""
    products = [torch.kron(averages(height, grid), averages(width, grid)) for grid in ALL_GRIDS]
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
