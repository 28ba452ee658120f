"""A small network that learns where something was pasted into normal images: no real anomaly is needed.

It is the discriminator's idea, pseudo-anomalies made of normal images, asked of places instead of whole images. It is
trained in a phase of its own (:func:`alocc.training.step.places_iteration`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alocc.config import Config
from alocc.data.resizing import ImageFormat
from alocc.errors import ConfigError
from alocc.parts.part import Evidence, Part, View, values_to_grid

WIDTH = 32
COARSE_FROM = 48
"""Images with both sides at least so long are seen at a quarter of their size by the last layers; others at half."""


class PlacesNetwork(nn.Module):
    """Images (N, C, H, W) in [0, 1] → logit that a place is not normal, (N, H/4, W/4), or H/2 for small images."""

    def __init__(self, image_format: ImageFormat) -> None:
        super().__init__()
        last_stride = 2 if min(image_format.size) >= COARSE_FROM else 1
        with torch.random.fork_rng(devices=[]):  # PyTorch's own initialisation draws from the global stream: undo that
            self.layers = nn.Sequential(
                *_layer(image_format.channels, WIDTH // 2, 5, 1),
                *_layer(WIDTH // 2, WIDTH, 3, 2),
                *_layer(WIDTH, WIDTH, 3, last_stride),
                *_layer(WIDTH, WIDTH, 3, 1),
                *_layer(WIDTH, WIDTH, 3, 1),
                nn.Conv2d(WIDTH, 1, 1),
            )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs lack it

    def initialise(self, stream: torch.Generator) -> None:
        """Draw fresh weights."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(3 * module.weight[0].numel()) ** -0.5, generator=stream)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(4 * x - 2)[:, 0]  # (N, h, w)
        return logits


class Places(Part):
    """Logit that a place is not normal. The network is trained in a phase of its own."""

    meaning = "places, by a network trained to find pasted anomalies"
    of_images, of_places = False, True
    own_places = False  # its logit means the same at all places

    def __init__(self, image_format: ImageFormat, config: Config) -> None:
        super().__init__(image_format, config)
        self.network = PlacesNetwork(image_format)

    @classmethod
    def check(cls, config: Config) -> None:
        if config.training.places is None:
            raise ConfigError("part places needs the phase training.places; leave it out of maps, or set the phase")

    def forward(self, view: View) -> Evidence:
        return Evidence(grid=values_to_grid(self.network(view.x)))


def _layer(n_in: int, n_out: int, size: int, stride: int) -> list[nn.Module]:
    # padded with zeros: a reflected border looks like a pasted one
    convolution = nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]
