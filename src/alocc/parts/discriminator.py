"""What D says: ALOCC's own score, D(R(x)), or that of the config's input of D."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from alocc.config import Config
from alocc.data.resizing import ImageFormat
from alocc.errors import ConfigError
from alocc.networks.architecture import Discriminator
from alocc.parts.part import Evidence, Part, View, mean_of, values_to_grid


class D(Part):
    """−logit of D; of several, the mean. The networks themselves are trained, and put in here."""

    meaning = "how unlike real normal images D finds it"
    of_places = True

    def __init__(self, image_format: ImageFormat, config: Config) -> None:
        super().__init__(image_format, config)
        self.networks = nn.ModuleList()

    @classmethod
    def check(cls, config: Config) -> None:
        if not (config.training.adversarial or config.training.discrimination):
            raise ConfigError(
                "part d needs a trained D, and no phase of the training trains it; leave it out of scoring and maps"
            )

    def of(self, networks: Iterable[Discriminator]) -> D:
        """The part with these networks, one for each R."""
        self.networks = nn.ModuleList(networks)
        return self

    def forward(self, view: View) -> Evidence:
        maps = [
            network.logit_map(network.input_of(view.x, x_hat))  # type: ignore[operator]  # (N, h, w)
            for network, x_hat in zip(self.networks, view.x_hats, strict=True)
        ]
        return Evidence(-mean_of([logits.mean((1, 2)) for logits in maps]), -mean_of([values_to_grid(m) for m in maps]))


def p_real(d: Tensor) -> Tensor:
    """D's probability that its input is a real normal image, from the part's evidence of images."""
    return torch.sigmoid(-d)
