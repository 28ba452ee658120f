"""R and D, the article's networks and the paper's, for any image size.

Shapes in the comments are those of the article's networks at width 16 on 28×28 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from alocc.config import NetworksConfig
from alocc.errors import ConfigError


class ConvSpec(NamedTuple):
    """One convolution of an encoder: ``width_multiple × width`` maps out."""

    kernel: int
    stride: int
    padding: int
    width_multiple: int


ENCODERS: dict[str, tuple[ConvSpec, ...]] = {
    # 28×28 → 14×14 → 7×7 → 7×7 → 5×5
    "article": (ConvSpec(4, 2, 1, 1), ConvSpec(4, 2, 1, 2), ConvSpec(3, 1, 1, 4), ConvSpec(3, 1, 0, 8)),
    # 28×28 → 14×14 → 7×7 → 4×4 → 2×2; the paper prints the kernel and the widths, not the strides
    "paper": (ConvSpec(5, 2, 2, 1), ConvSpec(5, 2, 2, 2), ConvSpec(5, 2, 2, 4), ConvSpec(5, 2, 2, 8)),
}


class Encoder(nn.Module):
    """Four blocks of convolution, batch normalisation and leaky ReLU; shared in shape by R and D."""

    def __init__(self, specs: Sequence[ConvSpec], in_channels: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for spec in specs:
            out_channels = spec.width_multiple * width
            conv = nn.Conv2d(in_channels, out_channels, spec.kernel, spec.stride, spec.padding, bias=False)
            self.blocks.append(_normalised(conv, out_channels))
            in_channels = out_channels
        self.out_channels = in_channels

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Decoder(nn.Module):
    """The encoder in reverse, with transposed convolutions, ending in a sigmoid: images in [0, 1]."""

    def __init__(self, specs: Sequence[ConvSpec], out_channels: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for spec, below in zip(reversed(specs[1:]), reversed(specs[:-1]), strict=True):
            maps_in, maps_out = spec.width_multiple * width, below.width_multiple * width
            deconv = nn.ConvTranspose2d(maps_in, maps_out, spec.kernel, spec.stride, spec.padding, bias=False)
            self.blocks.append(_normalised(deconv, maps_out))
        first = specs[0]
        self.to_image = nn.ConvTranspose2d(width, out_channels, first.kernel, first.stride, first.padding)

    def forward(self, features: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Decode ``features``; ``sizes`` are the heights and widths to reach, one for each layer.

        Naming the size settles which of two sizes a stride of 2 came from, so odd sizes come back exact.
        """
        h = features
        for block, size in zip(self.blocks, sizes[:-1], strict=True):
            deconv, norm, activation = cast(nn.Sequential, block)
            h = activation(norm(deconv(h, output_size=size)))
        return torch.sigmoid(self.to_image(h, output_size=sizes[-1]))


class Bottleneck(nn.Module):
    """feature maps → z = tanh(linear) → feature maps: R can only redraw what ``latent_dim`` numbers can say.

    In training, Gaussian noise of standard deviation ``noise`` is added to z, so that neighbouring z decode alike.
    """

    def __init__(self, shape: tuple[int, int, int], latent_dim: int, noise: float) -> None:
        super().__init__()
        self.shape, self.noise = shape, noise
        features = shape[0] * shape[1] * shape[2]
        self.to_latent = nn.Linear(features, latent_dim)
        self.to_features = nn.Linear(latent_dim, features)

    def forward(self, features: Tensor, latent_noise: Tensor | None = None) -> Tensor:
        z = torch.tanh(self.to_latent(features.flatten(1)))  # (N, latent_dim)
        if latent_noise is not None:
            z = z + self.noise * latent_noise
        decoded: Tensor = self.to_features(z).unflatten(1, self.shape)
        return decoded


class Reconstructor(nn.Module):
    """R: noisy image → restored image, both (N, C, H, W) in [0, 1]."""

    def __init__(self, networks: NetworksConfig, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        specs = ENCODERS[networks.architecture]
        self.sizes = feature_sizes(specs, image_size)
        self.encoder = Encoder(specs, channels, networks.width)
        self.bottleneck: Bottleneck | None = None
        if networks.latent_dim:
            deepest = (self.encoder.out_channels, *self.sizes[-1])
            self.bottleneck = Bottleneck(deepest, networks.latent_dim, networks.latent_noise)
        self.decoder = Decoder(specs, channels, networks.width)

    def forward(self, x: Tensor, latent_noise: Tensor | None = None) -> Tensor:
        features = self.encoder(x)  # (N, 128, 5, 5)
        if self.bottleneck is not None:
            features = self.bottleneck(features, latent_noise)
        x_hat: Tensor = self.decoder(features, self.sizes[-2::-1])  # (N, C, 28, 28)
        return x_hat


class Discriminator(nn.Module):
    """D: image → one logit, ``p_real = sigmoid(logit)``.

    The article's head gives two logits to a softmax; class 1 is "real". ``softmax(l)[1] = sigmoid(l[1] − l[0])``, so
    the difference of the two is the logit and the cross-entropy of both is the same number.
    """

    def __init__(self, networks: NetworksConfig, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        specs = ENCODERS[networks.architecture]
        feature_sizes(specs, image_size)
        self.input = networks.discriminator_input
        self.encoder = Encoder(specs, 2 * channels if self.input == "pair" else channels, networks.width)
        self.head = nn.Conv2d(self.encoder.out_channels, networks.discriminator_logits, kernel_size=1)

    def input_of(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """What D sees of images x and their reconstructions: the reconstruction, the image, or both as channels."""
        if self.input == "pair":
            return torch.cat([x, x_hat], dim=1)
        return x if self.input == "image" else x_hat

    def logit_map(self, x: Tensor) -> Tensor:
        """Logit at each position of the deepest feature maps, (N, 5, 5)."""
        maps: Tensor = self.head(self.encoder(x))  # (N, 2 or 1, 5, 5)
        return maps[:, 1] - maps[:, 0] if maps.shape[1] == 2 else maps[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.logit_map(x).mean((1, 2))  # (N,)


class Networks(NamedTuple):
    """R and D that were trained together."""

    R: Reconstructor
    D: Discriminator


def feature_sizes(specs: Sequence[ConvSpec], image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width before the first and after each convolution.

    Raises:
        ConfigError: if nothing would be left of an image of this size.
    """
    sizes = [image_size]
    for spec in specs:
        height, width = sizes[-1]
        after = [(side + 2 * spec.padding - spec.kernel) // spec.stride + 1 for side in (height, width)]
        if min(after) < 1:
            raise ConfigError(
                f"images of {image_size[1]}×{image_size[0]} pixels are too small for these networks; "
                "set images.size to at least 12"
            )
        sizes.append((after[0], after[1]))
    return sizes


def build_networks(
    networks: NetworksConfig, channels: int, image_size: tuple[int, int], generator: torch.Generator
) -> Networks:
    """Make R and D with fresh weights drawn from ``generator``.

    Weights are LeCun normal, ``N(0, 1 / fan_in)``, Chainer's default; biases 0; batch normalisation starts as the
    identity.
    """
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialisation draws from the global stream: undo that
        R = Reconstructor(networks, channels, image_size)
        D = Discriminator(networks, channels, image_size)
    for module in (*R.modules(), *D.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for network in (R, D):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs lack it
    return Networks(R, D)


def _normalised(conv: nn.Module, maps: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(maps, eps=1e-5), nn.LeakyReLU(0.2, inplace=True))
