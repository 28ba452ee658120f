"""The training step, as the formulas.

The article and the paper (x̃ is ``x_noisy``, R(x̃) is ``x_hat``):

    L_{R+D} = E[log D(x)] + E[log(1 − D(R(x̃)))]         D maximises it, R minimises it
    L_R     = E[ ‖x − R(x̃)‖² ]                            the target is the clean image
    R minimises   adversarial part + λ · L_R

A D that sees pairs takes (x, x) for real here, and (x, R(x̃)) for fake.

The robust preset trains R by L_R alone, then D on pairs, against pseudo-anomalies x⁻ made of normal images x⁺:

    L_D     = −E[log D(x⁺, R(x⁺))] − E[log(1 − D(x⁻, R(x⁻)))]

Each function is one iteration. ``draw()`` gives a fresh batch of clean images, (N, C, H, W) in [0, 1], and
``draw_noisy()`` another with fresh noise on a copy; ``update_R`` and ``update_D`` take a loss and do backward and the
optimiser's step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.data.corruption import corrupt_each
from alocc.data.deformation import jitter
from alocc.data.negatives import make_negatives
from alocc.model.losses import discriminator_loss, reconstructor_loss

Losses = dict[str, Tensor]
Draw = Callable[[], Tensor]
DrawNoisy = Callable[[], tuple[Tensor, Tensor]]
Update = Callable[[Tensor], None]


def adversarial_iteration(
    R: nn.Module,
    D: nn.Module,
    draw_noisy: DrawNoisy,
    update_R: Update,
    update_D: Update,
    *,
    sees_pair: bool,
    n_dis: int,
    mse_weight: float,
    fresh_batches: bool,
) -> Losses:
    """D learns to tell x from R(x_noisy), then R learns to restore x so well that D says real.

    Without fresh batches, R's update is on the images of D's last one, and R runs once for both.
    """

    def judged(x: Tensor, y: Tensor) -> Tensor:
        logit: Tensor = D(torch.cat([x, y], dim=1) if sees_pair else y)
        return logit

    for _ in range(n_dis):
        x, x_noisy = draw_noisy()
        with torch.set_grad_enabled(not fresh_batches):
            x_hat = R(x_noisy)
        d_loss = discriminator_loss(judged(x, x), judged(x, x_hat.detach()))
        update_D(d_loss.total)

    if fresh_batches:
        x, x_noisy = draw_noisy()
        x_hat = R(x_noisy)
    D.requires_grad_(False)  # the gradient passes through D, but D stays
    r_loss = reconstructor_loss(judged(x, x_hat), x, x_hat, mse_weight)
    update_R(r_loss.total)
    D.requires_grad_(True)

    return {"d_real": d_loss.real, "d_fake": d_loss.fake, "r_adversarial": r_loss.adversarial, "r_mse": r_loss.mse}


def reconstruction_iteration(
    R: nn.Module, draw_noisy: DrawNoisy, update_R: Update, *, latent_dim: int, generator: torch.Generator
) -> Losses:
    """R learns to restore x, with noise on its bottleneck."""
    x, x_noisy = draw_noisy()
    latent_noise = torch.randn((len(x), latent_dim), generator=generator).to(x.device)
    mse = F.mse_loss(R(x_noisy, latent_noise), x)
    update_R(mse)
    return {"r_mse": mse}


def old_is_gold_iteration(
    R: nn.Module, R_old: nn.Module, D: nn.Module, draw: Draw, update_D: Update, *, real_weight: float, old_weight: float
) -> Losses:
    """D learns to tell good reconstructions from poor ones: OGNet's second phase, R and its younger self frozen.

    Pseudo-anomalies are what R makes of the mean of two of the old R's images.
    """
    x = draw()
    with torch.no_grad():
        x_hat, x_old = R(x), R_old(x)
        x_pseudo = R((x_old + x_old.roll(1, 0)) / 2)
    good, old = discriminator_loss(D(x), D(x_old)), discriminator_loss(D(x_hat), D(x_pseudo))
    real = real_weight * good.real + (1 - real_weight) * old.real
    fake = old_weight * good.fake + (1 - old_weight) * old.fake
    update_D(real + fake)
    return {"d_real": real, "d_fake": fake}


def discrimination_iteration(
    R: nn.Module,
    D: nn.Module,
    draw: Draw,
    update_D: Update,
    *,
    sees_pair: bool,
    kinds: Sequence[str],
    jittered: bool,
    sigma_max: float,
    noisy: float,
    generator: torch.Generator,
) -> Losses:
    """D learns to tell normal images from pseudo-anomalies, seeing each beside what R (frozen) makes of it.

    A D with a single input sees R's image alone: D(R(x)), as in ALOCC.
    """
    x_normal, x_other = draw(), draw()
    x_kept = jitter(x_normal, generator) if jittered else x_normal
    x = torch.cat([x_kept, make_negatives(x_other, kinds, generator)])
    x = corrupt_each(x, sigma_max, noisy, generator)
    with torch.no_grad():
        x_hat = R(x)
    logits = D(torch.cat([x, x_hat], dim=1) if sees_pair else x_hat)
    logit_normal, logit_negative = logits.split([len(x_normal), len(x_other)])
    d_loss = discriminator_loss(logit_normal, logit_negative)
    update_D(d_loss.total)
    return {"d_real": d_loss.real, "d_fake": d_loss.fake}
