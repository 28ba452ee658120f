"""What a part is: one producer of evidence, fitted on normal images: how unusual an image is, and where.

A new part is a class in a file of its own and a line in :data:`alocc.parts.PARTS`; its weights stand in the config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.data.frame import GRID, thinned
from alocc.data.images import to_unit_range
from alocc.data.resizing import ImageFormat

if TYPE_CHECKING:
    from alocc.config import Config

BATCH = 256
MOST_IMAGES = 10_000
Computed = TypeVar("Computed")


class _Memo:
    """Computes what several parts need once."""

    def __init__(self) -> None:
        self._computed: dict[str, Any] = {}

    def once(self, name: str, compute: Callable[[], Computed]) -> Computed:
        """What ``compute`` gives, computed when it is first asked for under this name."""
        if name not in self._computed:
            self._computed[name] = compute()
        found: Computed = self._computed[name]
        return found

    def forget(self, beginning: str) -> None:
        """Let go of what was computed under names that begin so."""
        self._computed = {name: value for name, value in self._computed.items() if not name.startswith(beginning)}


class View(_Memo):
    """Images as the parts see them.

    Args:
        x: images, or thumbnails of large ones, (N, C, H, W), float32 in [0, 1].
        x_noisy: what R is given: x, or x with the preset's noise.
        reconstructors: each R; several where folds trained several.
        full: the images with all their pixels; none: x has them.
    """

    def __init__(
        self, x: Tensor, x_noisy: Tensor, reconstructors: Iterable[nn.Module], full: Tensor | None = None
    ) -> None:
        super().__init__()
        self.x, self.x_noisy, self._reconstructors = x, x_noisy, reconstructors
        self.full = x if full is None else full

    @property
    def x_hats(self) -> list[Tensor]:
        """What each R makes of x_noisy, (N, C, H, W) each; R runs when a part first asks."""
        return self.once("x_hats", lambda: [R(self.x_noisy) for R in self._reconstructors])


class Normals(_Memo):
    """Normal images that parts are fitted to.

    Args:
        images: or thumbnails of large ones, (n, C, H, W), uint8 or float32 in [0, 1].
        source: index of the image that each is made from, (n,), where crops and changed copies are among them.
        full: the images with all their pixels; none: ``images`` has them.
    """

    def __init__(self, images: Tensor, source: Tensor | None = None, full: Tensor | None = None) -> None:
        super().__init__()
        self.images, self.full = images, images if full is None else full
        self.source = torch.arange(len(images)) if source is None else source

    def some(self) -> Normals:
        """At most 10,000 of the images, evenly spread: enough for a covariance."""
        if len(self) <= MOST_IMAGES:
            return self
        return Normals(*(thinned(each, MOST_IMAGES) for each in (self.images, self.source, self.full)))

    def __len__(self) -> int:
        return len(self.images)

    def batches(self) -> Iterator[Tensor]:
        """All images, (N, C, H, W) each, float32 in [0, 1]."""
        return map(to_unit_range, torch.split(self.images, BATCH))


class Evidence(NamedTuple):
    """What a part says; higher = more anomalous. It gives one of the two, or both."""

    image: Tensor | None = None
    """One number an image, (N,)."""
    grid: Tensor | None = None
    """One number a place, (N, h, w); the fusion brings all parts to one grid."""


class Part(nn.Module):
    """One producer of evidence; what it learns is in parameters and buffers, which are saved and moved with it.

    Args:
        image_format: of the images that it sees.
        config: of the training.
    """

    meaning: ClassVar[str]
    """What it looks at, in words for those who read its figures."""
    floor: ClassVar[float | None] = None
    """Of an error or a distance, which is positive and skewed: what is added before its logarithm is compared, below
    which differences are rounding. None: evidence is compared as it is."""
    of_images: ClassVar[bool] = True
    """Whether it gives one number an image, and so can have a weight in the score."""
    of_places: ClassVar[bool] = False
    """Whether it gives a grid of numbers, and so can have a weight in the map."""
    own_places: ClassVar[bool] = True
    """Whether each place of the grid has a scale of its own, since normal images differ there."""
    sees_all_pixels: ClassVar[bool] = False
    """Whether it looks at ``View.full`` and ``Normals.full``, not at thumbnails."""

    def __init__(self, image_format: ImageFormat, config: Config) -> None:
        super().__init__()
        self.image_format = image_format

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse a config that this part cannot go with.

        Raises:
            ConfigError: saying what to change.
        """

    @classmethod
    def check_installed(cls) -> None:
        """Refuse to train without what it needs and a fitted one holds.

        Raises:
            ConfigError: saying what to install.
        """

    def fit(self, normals: Normals) -> None:
        """Learn from normal images, if there is something to learn without gradients."""

    def fit_like(self, other: Part, normals: Normals) -> None:
        """Learn from normal images with the decisions that another one took when it was fitted, if there are any."""
        self.fit(normals)

    def forward(self, view: View) -> Evidence:
        """What it says of images."""
        raise NotImplementedError

    def cross_fitted(self, fitted: Normals, images: Normals, tenth: Tensor) -> Tensor | None:
        """What it would say of images that it was fitted to, had it not been, (n,); none if it is not fitted.

        Args:
            fitted: what it was fitted to: some of the images, and changed copies of them.
            images: those to be measured, each by what is made from others than itself.
            tenth: number of each image's tenth, (n,), for parts that have no groups of their own.
        """
        return None


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """The mean of what several networks say, element by element."""
    return torch.stack(list(values)).mean(0)


def values_to_grid(values: Tensor, grid: tuple[int, int] = (GRID, GRID)) -> Tensor:
    """(N, h, w) at the grid's size: means where there are more places, else bilinear between them."""
    if values.shape[1] >= grid[0] and values.shape[2] >= grid[1]:
        return F.adaptive_avg_pool2d(values, grid)
    return F.interpolate(values[:, None], size=grid, mode="bilinear", align_corners=False)[:, 0]


def pixels_to_grid(x: Tensor, grid: tuple[int, int] = (GRID, GRID), around: bool = True) -> Tensor:
    """(N, C, H, W) → (N, C, h, w): mean around each place of the grid, over three places each way, or in it alone."""
    height, width = x.shape[2:]
    if height < grid[0] or width < grid[1]:
        x = F.interpolate(x, size=(max(height, grid[0]), max(width, grid[1])), mode="bilinear", align_corners=False)
    if height % grid[0] or width % grid[1]:
        places = F.adaptive_avg_pool2d(x, grid)
    else:  # the same, in a form that can be exported
        places = F.avg_pool2d(x, (height // grid[0], width // grid[1]))
    return mean_around(places) if around else places


def mean_around(places: Tensor) -> Tensor:
    """(N, C, h, w): mean over three places each way."""
    return F.avg_pool2d(F.pad(places, (1,) * 4, mode="replicate"), 3, 1)


def enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) → (N, C, H, W), bilinear."""
    same = tuple(images.shape[2:]) == size
    return images if same else F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def at_full_size(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) → (N, 1, H, W)."""
    return F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)


Score = Callable[[Tensor], Mapping[str, Tensor]]
"""Images (N, C, H, W) in [0, 1] → for each name, (N,), higher = more anomalous."""
