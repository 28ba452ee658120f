"""Where an image is unusual: a grid of numbers an image, each on a scale of its own place.

| part             | what, at each place of a 16×16 grid                                              |
|------------------|----------------------------------------------------------------------------------|
| `places`         | logit of a small network that something is pasted in there (:mod:`alocc.model.places`) |
| `statistics`     | how unusual the answers of random filters are there, and the grey or colours      |
| `reconstruction` | mean squared difference of x and R(x) there                                       |
| `d`              | −logit of D at the deepest feature maps' places, brought to the grid             |

Each part is standardised at each place on held-out normal images: an edge that R never draws well is no news. (`places`
is standardised alike at all places: its logit means the same everywhere.) The map is
the signed root of the weighted mean of the signed squares, as in :class:`alocc.model.calibration.Fusion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.data.images import to_unit_range
from alocc.model.networks import Discriminator, Networks, Reconstructor
from alocc.model.places import Places
from alocc.model.statistics import FILTER_SIZE, FLOOR, gaussian, random_filters, scales, thinned
from alocc.seeding import generator

GRID = 16
MOST_IMAGES = 1_000
"""As many training images, evenly spread, have 256,000 places: enough."""
BATCH = 128
OWN_PLACE_FROM = 10
"""So many images weigh as much as the mean over all places, when a place's own mean is taken."""
OWN_SCALE_FROM = 20
"""The same for a place's own mean and deviation of a part."""
SMALLEST_SCALE = 1e-3
FOLDS = 10
"""Tenths of the held-out images, each of which is put on the scale of the other nine for the map's threshold."""
MOST_PLACES = 50_000
"""As many places are enough for a covariance."""
WEIGHTS = {"places": 8.0, "statistics": 2.0, "reconstruction": 1.0, "d": 1.0}


class Localizer(nn.Module):
    """Images → a grid of numbers each, saying where they are unusual; saved and moved like a network.

    Args:
        channels: 1 or 3.
        image_size: height and width.
        parts: those of the table above that make the map.
        n_held_out: how many normal images calibrated it; calibration sets it.
    """

    mean: Tensor
    whitening: Tensor
    filters: Tensor
    held_out_maxima: Tensor

    def __init__(self, channels: int, image_size: tuple[int, int], parts: Sequence[str], n_held_out: int = 0) -> None:
        super().__init__()
        self.image_size, self.parts = image_size, tuple(parts)
        self.register_buffer("filters", random_filters(channels), persistent=False)
        length = self.describe(torch.zeros((1, channels, *image_size))).shape[1]
        self.register_buffer("mean", torch.zeros((length, GRID, GRID)))
        self.register_buffer("whitening", torch.eye(length))
        with torch.random.fork_rng(devices=[]):  # PyTorch's own initialisation draws from the global stream: undo that
            self.places = Places(channels, image_size) if "places" in self.parts else None
        for part in self.parts:
            self.register_buffer(f"{part}_mean", torch.zeros((GRID, GRID)))
            self.register_buffer(f"{part}_deviation", torch.ones((GRID, GRID)))
        self.register_buffer("held_out_maxima", torch.zeros(n_held_out))
        self.eval()

    def fit(
        self,
        images: Tensor,
        iterations: int = 0,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        bfloat16: bool = False,
    ) -> Localizer:
        """Learn a Gaussian of the filters' answers at each place, and what is pasted in and what is not.

        Args:
            images: normal images, (n, C, H, W), uint8 or float32 in [0, 1].
            iterations: updates of the network for places, if there is one.
            seed: of its stream.
            progress: told of each update; what it raises ends the fit.
            bfloat16: whether that network's convolutions learn in bfloat16.
        """
        if self.places is not None:
            self.places.fit(images, iterations, generator(seed, "places"), progress, bfloat16)
        with torch.no_grad():
            return self._fit_statistics(images)

    def _fit_statistics(self, images: Tensor) -> Localizer:
        """A mean of each place's own, one covariance for all places."""
        few = thinned(images, MOST_IMAGES)
        described = torch.cat([self.describe(to_unit_range(batch)) for batch in torch.split(few, BATCH)])
        n = len(described)
        everywhere = described.mean((0, 2, 3), keepdim=True)[0]
        self.mean.copy_((n * described.mean(0) + OWN_PLACE_FROM * everywhere) / (n + OWN_PLACE_FROM))
        rest = (described - self.mean).permute(0, 2, 3, 1).flatten(0, 2)
        self.whitening.copy_(gaussian(thinned(rest, MOST_PLACES).double())[1])
        return self

    def calibrate(self, networks: Sequence[Networks], held_out: Tensor, n_tiles: int = 1) -> Localizer:
        """Measure each part at each place on normal images that did not train.

        Args:
            networks: in evaluation mode.
            held_out: (n, C, H, W), uint8 or float32 in [0, 1].
            n_tiles: how many of them, one behind the other, make one whole image, whose map has one highest value.
        """
        values = self._parts_of(networks, held_out, n_tiles)
        n = len(values[self.parts[0]])
        tenth = torch.arange(n) // n_tiles % FOLDS
        maxima = torch.empty(n)
        for own in (tenth == k for k in range(FOLDS)):
            others = ~own if not own.all() else own  # a place's own scale would make its own image look too normal
            self._standardise({part: value[others] for part, value in values.items()})
            maxima[own] = self.fused({part: value[own] for part, value in values.items()}).flatten(1).amax(1).cpu()
        self._standardise(values)
        return self._remember(maxima, n_tiles)

    def recalibrate(self, networks: Sequence[Networks], images: Tensor, n_tiles: int = 1) -> Localizer:
        """Take the map's threshold from other normal images, that nothing was trained on."""
        return self._remember(self.fused(self._parts_of(networks, images, n_tiles)).flatten(1).amax(1), n_tiles)

    def _parts_of(self, networks: Sequence[Networks], images: Tensor, n_tiles: int) -> dict[str, Tensor]:
        """The parts of many images; of some of them, evenly spread, where no image is cut."""
        some = thinned(images, MOST_IMAGES) if n_tiles == 1 else images
        batches = [
            self.compute_parts(networks, to_unit_range(x).to(self.mean.device)) for x in torch.split(some, BATCH)
        ]
        return {part: torch.cat([batch[part] for batch in batches]) for part in self.parts}

    def _standardise(self, values: Mapping[str, Tensor]) -> None:
        """Take each part's scale at each place from normal images."""
        for part, value in values.items():
            n = 0 if part == "places" else len(value)
            mean = (n * value.mean(0) + OWN_SCALE_FROM * value.mean()) / (n + OWN_SCALE_FROM)
            square = (value - mean).square()
            variance = (n * square.mean(0) + OWN_SCALE_FROM * square.mean()) / (n + OWN_SCALE_FROM)
            getattr(self, f"{part}_mean").copy_(mean)
            getattr(self, f"{part}_deviation").copy_(variance.sqrt() + SMALLEST_SCALE)

    def _remember(self, maxima: Tensor, n_tiles: int) -> Localizer:
        """Keep the highest value of each normal image's map, from which the map's threshold is taken."""
        self.held_out_maxima = maxima.view(-1, n_tiles).amax(1).sort().values
        return self

    def forward(self, networks: Sequence[Networks], x: Tensor) -> Tensor:
        """The map of each image on the grid, (N, 16, 16): about standard deviations of normal images at that place."""
        return self.fused(self.compute_parts(networks, x))

    def fused(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Signed root of the weighted mean of the signed squares of the standardised parts."""
        total = torch.zeros_like(parts[self.parts[0]])
        for part in self.parts:
            z = (parts[part] - getattr(self, f"{part}_mean")) / getattr(self, f"{part}_deviation")
            total = total + WEIGHTS[part] * z * z.abs()
        mean = total / sum(WEIGHTS[part] for part in self.parts)
        return mean.sign() * mean.abs().sqrt()

    def compute_parts(self, networks: Sequence[Networks], x: Tensor) -> dict[str, Tensor]:
        """Each part at each place, (N, 16, 16), of images (N, C, H, W) in [0, 1]; the mean of what all networks say."""
        parts = {}
        if "statistics" in self.parts:
            rest = (self.describe(x) - self.mean).permute(0, 2, 3, 1)
            parts["statistics"] = ((rest @ self.whitening).square().mean(3) + FLOOR).log()
        if self.places is not None:
            parts["places"] = _to_grid(self.places(x))
        judged = [self._network_parts(R, D, x) for R, D in networks]
        return parts | {part: torch.stack([one[part] for one in judged]).mean(0) for part in judged[0]}

    def _network_parts(self, R: Reconstructor, D: Discriminator, x: Tensor) -> dict[str, Tensor]:
        parts = {}
        x_hat = R(x)
        if "reconstruction" in self.parts:
            error = (x - x_hat).square().mean(1, keepdim=True)
            parts["reconstruction"] = (_on_grid(error)[:, 0] + FLOOR).log()
        if "d" in self.parts:
            logits = D.logit_map(torch.cat([x, x_hat], 1) if D.input == "pair" else x_hat)
            parts["d"] = -_to_grid(logits)
        return parts

    def describe(self, x: Tensor) -> Tensor:
        """Strength and mean positive answer of each filter at each scale, and the mean colour, (N, p, 16, 16)."""
        described = []
        for image in scales(x):
            answer = F.conv2d(F.pad(image, (FILTER_SIZE // 2,) * 4, mode="reflect"), self.filters)
            described += [0.5 * (_on_grid(answer.square()) + FLOOR).log(), _on_grid(answer.relu())]
        return torch.cat([*described, _on_grid(x)], 1)


def map_parts(has_statistics: bool, has_d: bool, has_places: bool) -> tuple[str, ...]:
    """Parts of the map of a detector whose score has the first two, and whose training meets pseudo-anomalies."""
    return ("reconstruction", *["statistics"] * has_statistics, *["d"] * has_d, *["places"] * has_places)


def at_full_size(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """A map on the grid → at the size of the images, (N, H, W)."""
    return F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _to_grid(logits: Tensor) -> Tensor:
    """(N, h, w) at the grid's size: means where there are more places, else bilinear between them."""
    if min(logits.shape[1:]) >= GRID:
        return F.adaptive_avg_pool2d(logits, GRID)
    return F.interpolate(logits[:, None], size=(GRID, GRID), mode="bilinear", align_corners=False)[:, 0]


def _on_grid(x: Tensor) -> Tensor:
    """Mean around each place of the grid, over three places each way, (N, C, 16, 16)."""
    height, width = x.shape[2:]
    if min(height, width) < GRID:
        x = F.interpolate(x, size=(max(height, GRID), max(width, GRID)), mode="bilinear", align_corners=False)
    grid = F.adaptive_avg_pool2d(x, GRID)
    return F.avg_pool2d(F.pad(grid, (1,) * 4, mode="replicate"), 3, 1)
