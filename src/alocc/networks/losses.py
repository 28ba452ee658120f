"""The losses of ALOCC: pure functions of logits and images.

D's output is a logit: ``p_real = sigmoid(logit)``. With it, for logit ℓ,

    −log p_real       = softplus(−ℓ)
    −log(1 − p_real)  = softplus(ℓ)

Both are computed from the logit, so they stay finite where p_real itself rounds to 0 or 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class DiscriminatorLoss(NamedTuple):
    """D's objective with its two terms; all scalars."""

    total: Tensor
    real: Tensor
    fake: Tensor


class ReconstructorLoss(NamedTuple):
    """R's objective with its two terms, the MSE before its weight; all scalars."""

    total: Tensor
    adversarial: Tensor
    mse: Tensor


def discriminator_loss(logit_real: Tensor, logit_fake: Tensor) -> DiscriminatorLoss:
    """``−E[log D(x)] − E[log(1 − D(x_hat))]``: D maximises L_{R+D} (paper, eq. 1).

    Args:
        logit_real: D's logits on real normal images, (N,).
        logit_fake: D's logits on R's images or other negatives, (M,).
    """
    real = F.softplus(-logit_real).mean()
    fake = F.softplus(logit_fake).mean()
    return DiscriminatorLoss(real + fake, real, fake)


def reconstructor_loss(logit_fake: Tensor, x: Tensor, x_hat: Tensor, mse_weight: float) -> ReconstructorLoss:
    """``−E[log D(x_hat)] + λ · E[(x − x_hat)²]``: R wants D to say real, and to restore the clean image.

    The adversarial term is the article's (cross-entropy towards "real"), not the paper's ``log(1 − D)``: both have
    the same fixed point, but this one still has a gradient while D wins.

    Args:
        logit_fake: D's logits on ``x_hat``, (N,).
        x: the clean images, (N, C, H, W).
        x_hat: R's reconstructions of the noisy images, (N, C, H, W).
        mse_weight: λ, the weight of the mean over all pixels.
    """
    adversarial = F.softplus(-logit_fake).mean()
    mse = F.mse_loss(x_hat, x)
    return ReconstructorLoss(adversarial + mse_weight * mse, adversarial, mse)
