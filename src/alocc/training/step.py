"""The training step, as the formulas.

The article and the paper (x̃ is ``x_noisy``, R(x̃) is ``x_hat``):

    L_{R+D} = E[log D(x)] + E[log(1 − D(R(x̃)))]         D maximises it, R minimises it
    L_R     = E[ ‖x − R(x̃)‖² ]                            the target is the clean image
    R minimises   adversarial part + λ · L_R

A D that sees pairs takes (x, x) for real here, and (x, R(x̃)) for fake.

The robust preset trains R by L_R alone, then D on pairs, against pseudo-anomalies x⁻ made of normal images x⁺:

    L_D     = −E[log D(x⁺, R(x⁺))] − E[log(1 − D(x⁻, R(x⁻)))]

Each function is one iteration. ``draw()`` gives a fresh batch of clean images, (N, C, H, W) in [0, 1], ``draw_noisy()``
another with fresh noise on a copy, ``draw_both()`` x⁺ and x⁻, ``draw_pasted()`` images and which of their pixels were
pasted over; an ``update`` takes a loss and does backward and the optimiser's step; ``input_of(x, x_hat)`` is what D
sees; ``previous(x)`` is, of each image of a batch, the one before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.config import AdversarialConfig, OldIsGoldConfig
from alocc.networks.losses import discriminator_loss, reconstructor_loss

Losses = dict[str, Tensor]
Draw = Callable[[], Tensor]
DrawNoisy = Callable[[], tuple[Tensor, Tensor]]
DrawBoth = Callable[[], tuple[Tensor, Tensor]]
InputOf = Callable[[Tensor, Tensor], Tensor]
Update = Callable[[Tensor], None]


def adversarial_iteration(
    R: nn.Module,
    D: nn.Module,
    draw_noisy: DrawNoisy,
    update_R: Update,
    update_D: Update,
    *,
    config: AdversarialConfig,
    sees_pair: bool,
) -> Losses:
    """D learns to tell x from R(x_noisy), then R learns to restore x so well that D says real.

    Without fresh batches, R's update is on the images of D's last one, and R runs once for both.
    """

    def logit(x: Tensor, y: Tensor) -> Tensor:
        of_y: Tensor = D(torch.cat([x, y], dim=1) if sees_pair else y)  # (N,)
        return of_y

    for _ in range(config.discriminator_updates):
        x, x_noisy = draw_noisy()
        with torch.set_grad_enabled(not config.fresh_batches):
            x_hat = R(x_noisy)
        d_loss = discriminator_loss(logit(x, x), logit(x, x_hat.detach()))
        update_D(d_loss.total)

    if config.fresh_batches:
        x, x_noisy = draw_noisy()
        x_hat = R(x_noisy)
    D.requires_grad_(False)  # the gradient passes through D, but D stays
    r_loss = reconstructor_loss(logit(x, x_hat), x, x_hat, config.mse_weight)
    update_R(r_loss.total)
    D.requires_grad_(True)

    return {"d_real": d_loss.real, "d_fake": d_loss.fake, "r_adversarial": r_loss.adversarial, "r_mse": r_loss.mse}


def reconstruction_iteration(R: nn.Module, draw_noisy: DrawNoisy, draw_latent_noise: Draw, update_R: Update) -> Losses:
    """R learns to restore x, with noise on its bottleneck."""
    x, x_noisy = draw_noisy()
    mse = F.mse_loss(R(x_noisy, draw_latent_noise()), x)
    update_R(mse)
    return {"r_mse": mse}


def old_is_gold_iteration(
    R: nn.Module,
    R_old: nn.Module,
    D: nn.Module,
    draw: Draw,
    previous: Callable[[Tensor], Tensor],
    update_D: Update,
    *,
    config: OldIsGoldConfig,
) -> Losses:
    """D learns to tell good reconstructions from poor ones: OGNet's second phase, R and its younger self frozen.

    Pseudo-anomalies are what R makes of the mean of two of the old R's images.
    """
    x = draw()
    with torch.no_grad():
        x_hat, x_old = R(x), R_old(x)
        x_pseudo = R((x_old + previous(x_old)) / 2)
    good, old = discriminator_loss(D(x), D(x_old)), discriminator_loss(D(x_hat), D(x_pseudo))
    real = config.real_weight * good.real + (1 - config.real_weight) * old.real
    fake = config.old_weight * good.fake + (1 - config.old_weight) * old.fake
    update_D(real + fake)
    return {"d_real": real, "d_fake": fake}


def discrimination_iteration(
    R: nn.Module, D: nn.Module, draw_both: DrawBoth, update_D: Update, *, input_of: InputOf
) -> Losses:
    """D learns to tell normal images from pseudo-anomalies, seeing of each what it sees when it scores; R is frozen."""
    x_normal, x_negative = draw_both()
    x = torch.cat([x_normal, x_negative])
    with torch.no_grad():
        x_hat = R(x)
    logit_normal, logit_negative = D(input_of(x, x_hat)).split([len(x_normal), len(x_negative)])
    d_loss = discriminator_loss(logit_normal, logit_negative)
    update_D(d_loss.total)
    return {"d_real": d_loss.real, "d_fake": d_loss.fake}


def places_iteration(places: nn.Module, draw_pasted: DrawBoth, update: Update) -> Losses:
    """The network of places learns which share of each place, (N, 1, H, W), was pasted over."""
    x, is_pasted = draw_pasted()
    logits = places(x.contiguous(memory_format=torch.channels_last))  # (N, h, w)
    share = F.adaptive_avg_pool2d(is_pasted.float(), logits.shape[1:])[:, 0]
    loss = F.binary_cross_entropy_with_logits(logits, share)
    update(loss)
    return {"places": loss}
