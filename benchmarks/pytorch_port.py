"""The Chainer program (``chainer/article.py``) line by line in PyTorch: what a port alone gains.

Plain on purpose: NCHW float32, eager, Adam as it comes. R runs once for D's update and again for its own, and R's
update computes gradients of D that nobody uses. What alocc has beyond this can be switched on piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_SIZE = 128
N_DIS = 1
MSE_WEIGHT = 0.2
SIGMA = 0.155
ADAM = {"lr": 2e-4, "betas": (0.5, 0.9), "weight_decay": 1e-5}
FAKE, REAL = 0, 1

N_PARAMETERS_R, N_PARAMETERS_D = 201_921, 101_346

Draw = Callable[[], tuple[Tensor, Tensor]]


class GlobalAveragePooling(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def normalised(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels, eps=1e-5), nn.LeakyReLU(0.2))


def encoder() -> list[nn.Module]:
    return [
        normalised(nn.Conv2d(1, 16, 4, 2, 1, bias=False)),  # (N, 16, 14, 14)
        normalised(nn.Conv2d(16, 32, 4, 2, 1, bias=False)),  # (N, 32, 7, 7)
        normalised(nn.Conv2d(32, 64, 3, 1, 1, bias=False)),  # (N, 64, 7, 7)
        normalised(nn.Conv2d(64, 128, 3, 1, 0, bias=False)),  # (N, 128, 5, 5)
    ]


def make_reconstructor(generator: torch.Generator) -> nn.Sequential:
    """R: (N, 1, 28, 28) → (N, 1, 28, 28) in [0, 1]."""
    R = nn.Sequential(
        *encoder(),
        normalised(nn.ConvTranspose2d(128, 64, 3, 1, 0, bias=False)),  # (N, 64, 7, 7)
        normalised(nn.ConvTranspose2d(64, 32, 3, 1, 1, bias=False)),  # (N, 32, 7, 7)
        normalised(nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False)),  # (N, 16, 14, 14)
        nn.ConvTranspose2d(16, 1, 4, 2, 1),
        nn.Sigmoid(),
    )
    assert count_parameters(R) == N_PARAMETERS_R, count_parameters(R)
    return initialised(R, generator)


def make_discriminator(generator: torch.Generator) -> nn.Sequential:
    """D: (N, 1, 28, 28) → logits of "fake" and "real", (N, 2)."""
    D = nn.Sequential(*encoder(), nn.Conv2d(128, 2, 1), GlobalAveragePooling())
    assert count_parameters(D) == N_PARAMETERS_D, count_parameters(D)
    return initialised(D, generator)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def initialised(network: nn.Sequential, generator: torch.Generator) -> nn.Sequential:
    """LeCun normal weights and zero biases, which Chainer has by default and PyTorch has not."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def drawing(images: Tensor, generator: torch.Generator) -> Draw:
    """A fresh batch, and fresh noise on it, at each call; ``images`` are uint8 (n, 1, 28, 28)."""
    images = images.float() / 255
    order = torch.empty(0, dtype=torch.int64)

    def draw() -> tuple[Tensor, Tensor]:
        nonlocal order
        if len(order) < BATCH_SIZE:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        x = images[batch]
        return x, (x + SIGMA * torch.randn(x.shape, generator=generator)).clamp(0, 1)

    return draw


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return F.cross_entropy(logits, torch.full((len(logits),), label))


def update_discriminator(R: nn.Module, D: nn.Module, optimizer: torch.optim.Optimizer, draw: Draw) -> None:
    x, x_noisy = draw()
    with torch.no_grad():
        x_hat = R(x_noisy)
    loss = cross_entropy(D(x), REAL) + cross_entropy(D(x_hat), FAKE)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def update_reconstructor(
    R: nn.Module, D: nn.Module, optimizer: torch.optim.Optimizer, draw: Draw, frozen_d: bool
) -> None:
    x, x_noisy = draw()
    D.requires_grad_(not frozen_d)
    x_hat = R(x_noisy)
    loss = cross_entropy(D(x_hat), REAL) + MSE_WEIGHT * F.mse_loss(x_hat, x)
    optimizer.zero_grad()
    loss.backward()  # gives a D that is not frozen gradients too, which its next update clears
    optimizer.step()
    D.requires_grad_(True)


def make_iteration(
    images: Tensor,
    generator: torch.Generator,
    *,
    frozen_d: bool = False,
    fused: bool = False,
    channels_last: bool = False,
) -> Callable[[], None]:
    """Fresh R and D; each call is one iteration of their training.

    Args:
        images: uint8 (n, 1, 28, 28).
        generator: draws weights, batches and noise.
        frozen_d: compute no gradients of D in R's update.
        fused: PyTorch's Adam as one operation a network.
        channels_last: memory in the order (N, H, W, C).
    """
    R, D = make_reconstructor(generator), make_discriminator(generator)
    for network in (R, D):
        network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    optimizer_R, optimizer_D = (torch.optim.Adam(network.parameters(), **ADAM, fused=fused) for network in (R, D))
    draw = drawing(images, generator)

    def iterate() -> None:
        for _ in range(N_DIS):
            update_discriminator(R, D, optimizer_D, draw)
        update_reconstructor(R, D, optimizer_R, draw, frozen_d)

    return iterate
