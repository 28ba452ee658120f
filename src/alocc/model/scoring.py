"""Images → the parts of the anomaly score, each one number an image, higher = more anomalous.

| part               | what                                                          |
|--------------------|---------------------------------------------------------------|
| `d_image`          | −logit of D(x)                                                |
| `d_reconstruction` | −logit of D(R(x)), ALOCC's own score                          |
| `d_pair`           | −logit of D(x, R(x)), averaged over x and four jittered copies |
| `mse`              | mean squared difference of x and R(x)                         |
| `ssim`             | 1 − SSIM of x and R(x), 11×11 window                          |
| `ssim_half`        | the same at half the resolution, 7×7 window                   |
| `features`         | 1 − cosine of R's deepest feature maps of x and of R(x)       |
| `spectrum`, `texture`, `quarters`, `sixteenths` | how unusual the image's statistics are            |
| `neighbours`       | distance to the nearest normal images, at 14×14 pixels        |

The last five are described in :mod:`alocc.model.statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from alocc.data.deformation import fixed_jitters
from alocc.model.networks import Discriminator, Networks, Reconstructor
from alocc.model.statistics import PARTS as STATISTICS_PARTS
from alocc.model.statistics import Statistics

D_PARTS = ("d_pair", "d_reconstruction", "d_image")
LOGARITHMIC = frozenset({"mse", "ssim", "ssim_half", "features", *STATISTICS_PARTS})
"""Parts that are errors or distances: positive and skewed, so they are compared by their logarithm."""
FLOOR = 1e-4
"""Added to an error before its logarithm: below it, differences are rounding."""


def score_parts(
    networks: Sequence[Networks],
    statistics: Statistics | None,
    x: Tensor,
    x_input: Tensor,
    parts: Collection[str],
) -> dict[str, Tensor]:
    """Compute the named parts; R and D must be in evaluation mode.

    Args:
        networks: one or several; a part is the mean of what each says.
        statistics: of normal images; none if no part needs them.
        x: images, (N, C, H, W), float32 in [0, 1].
        x_input: what R is given: x, or x with the preset's noise.
        parts: names from the table above.

    Returns:
        For each part, (N,) float32.
    """
    unusual = statistics(x) if statistics is not None and not set(STATISTICS_PARTS).isdisjoint(parts) else {}
    judged = [network_parts(R, D, x, x_input, set(parts) - set(unusual)) for R, D in networks]
    return {
        part: unusual[part] if part in unusual else torch.stack([one[part] for one in judged]).mean(0) for part in parts
    }


def network_parts(
    R: Reconstructor, D: Discriminator, x: Tensor, x_input: Tensor, parts: Collection[str]
) -> dict[str, Tensor]:
    """The named parts, as far as R and D have a say in them: see :func:`score_parts`."""
    x_hat = R(x_input)
    compute: dict[str, Callable[[], Tensor]] = {
        "d_image": lambda: -D(x),
        "d_reconstruction": lambda: -D(x_hat),
        "d_pair": lambda: _d_pair(R, D, x, x_hat),
        "mse": lambda: (x - x_hat).square().mean((1, 2, 3)),
        "ssim": lambda: 1 - ssim(x, x_hat, window=11),
        "ssim_half": lambda: 1 - ssim(F.avg_pool2d(x, 2), F.avg_pool2d(x_hat, 2), window=7),
        "features": lambda: _feature_distance(R, x, x_hat),
    }
    return {part: compute[part]() for part in parts}


def transformed(part: str, values: Tensor) -> Tensor:
    """A part on the scale on which it is standardised: its logarithm if it is an error, else itself."""
    return (values.clamp(min=0) + FLOOR).log() if part in LOGARITHMIC else values


def ssim(x: Tensor, y: Tensor, window: int) -> Tensor:
    """Structural similarity (Wang et al. 2004) with a Gaussian window of SD 1.5: mean over pixels and channels, (N,).

    Images are in [0, 1]. Where an image is smaller than the window, the window shrinks to it.
    """
    c1, c2 = 0.01**2, 0.03**2
    kernels = [_gaussian(min(window, side - (side + 1) % 2)).to(x) for side in x.shape[2:]]

    def blur(image: Tensor) -> Tensor:
        channels = image.shape[1]
        rows = kernels[0].view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        columns = kernels[1].view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        return F.conv2d(F.conv2d(image, rows, groups=channels), columns, groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity.mean((1, 2, 3))


def _gaussian(size: int) -> Tensor:
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    return weights / weights.sum()


def _d_pair(R: Reconstructor, D: Discriminator, x: Tensor, x_hat: Tensor) -> Tensor:
    copies = fixed_jitters(x).flatten(0, 1)  # (4 · N, C, H, W): one large batch is quicker than four
    pairs = torch.cat([torch.cat([x, copies]), torch.cat([x_hat, R(copies)])], 1)
    logits: Tensor = D(pairs).view(-1, x.shape[0])
    return -logits.mean(0)


def _feature_distance(R: Reconstructor, x: Tensor, x_hat: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(R.encoder(x).flatten(1), R.encoder(x_hat).flatten(1))
