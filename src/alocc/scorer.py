"""The detector's computation, as one module: images in, evidence, anomaly scores and anomaly maps out.

What is saved, moved, exported and scored with is this module.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from alocc.config import Config
from alocc.data.frame import Frame
from alocc.data.images import to_unit_range
from alocc.networks.architecture import Discriminator, Reconstructor
from alocc.parts import build_parts
from alocc.parts.fusion import OF_GRID, Fusion
from alocc.parts.part import Evidence, View, at_full_size
from alocc.scores import Progress
from alocc.seeding import generator


class Scorer(nn.Module):
    """Crops of images → evidence of each part → anomaly score and map. Fitted, trained and calibrated from outside.

    Args:
        config: of the training.
        frame: how images are cut.
    """

    noise: Tensor | None

    def __init__(self, config: Config, frame: Frame) -> None:
        super().__init__()
        self.frame = frame
        self.R = nn.ModuleList()
        self.parts = build_parts(config, frame)
        self.fusion = Fusion(config.scoring, self.parts)
        self.map_fusion = Fusion(config.maps, self.parts, frame.grid)
        noise = noise_pattern(config, frame) if config.corruption.at_scoring else None
        self.register_buffer("noise", noise, persistent=False)
        self.eval()

    def add_networks(self, R: Reconstructor, D: Discriminator) -> None:
        """Put in a trained pair; evidence is the mean over all pairs."""
        self.R.append(R)
        if "d" in self.parts:
            self.parts["d"].networks.append(D)  # type: ignore[operator, union-attr]

    def view(self, crops: Tensor) -> View:
        """What parts are given of crops (N, C, h, w), uint8 or float32 in [0, 1]."""
        full = to_unit_range(crops)
        x = self.frame.thumbnails(full)
        return View(x, x if self.noise is None else (x + self.noise).clamp(0, 1), self.R, full)

    def image_evidence(self, view: View, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """What each part of the score, or those with these names, say of each crop, (N,)."""
        names = self.fusion.scales if names is None else names
        return {name: cast(Tensor, self._of(name, view).image) for name in names}

    def grid_evidence(self, view: View) -> dict[str, Tensor]:
        """What each part of the map says of each place of each crop, (N, h, w), as "part.grid"."""
        return {f"{name}{OF_GRID}": cast(Tensor, self._of(name, view).grid) for name in self.map_fusion.scales}

    def _of(self, name: str, view: View) -> Evidence:
        """What a part says, computed once for score and map."""
        said: Evidence = view.once(f"part {name}", lambda: self.parts[name](view))
        return said

    def forward(self, crops: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Anomaly score of each crop, (N,), and the evidence behind it."""
        evidence = self.image_evidence(self.view(crops))
        return self.fusion(evidence), evidence

    def anomaly_map(self, evidence: Mapping[str, Tensor]) -> Tensor:
        """Where crops are unusual, (N, 1, h, w), by :meth:`grid_evidence`."""
        height, width, _ = self.frame.crop_format
        return at_full_size(self.map_fusion(evidence), self.frame.covered)[:, :, :height, :width]

    def compute_on(self, device: torch.device | str) -> Scorer:
        """Move what computes evidence; it is fused on the CPU, in float64, by the same arithmetic everywhere."""
        self.R.to(device)
        self.parts.to(device)
        self.noise = None if self.noise is None else self.noise.to(device)
        return self

    def of_crops(self) -> Scorer:
        """The same computation, for which each crop is an image of its own."""
        scorer = copy.copy(self)
        scorer.frame = self.frame.of_crops
        return scorer

    def of_thumbnails(self) -> Scorer:
        """The same computation of thumbnails, each an image of its own; not of parts that see all pixels."""
        scorer = copy.copy(self)
        scorer.frame = self.frame.of_thumbnails
        return scorer

    def over(
        self, images: Tensor, compute: Callable[[View], Mapping[str, Tensor]], progress: Progress | None = None
    ) -> dict[str, Tensor]:
        """What ``compute`` makes of all crops of images of any number, brought to the CPU; nothing of no images.

        Batches are filled up to one fixed size, so that the same arithmetic meets a crop whatever it is scored with:
        numerical libraries pick another order of summation for another batch size.

        Args:
            images: (n, C, H, W), uint8 or float32 in [0, 1], in the frame's format.
            compute: view of a batch → for each name, (N, …).
            progress: told of the number of images that are done.
        """
        device = next(self.R.parameters()).device
        batches: list[dict[str, Tensor]] = []
        with torch.inference_mode():
            for chunk in self.frame.chunks(images):
                for crops in torch.split(self.frame.cut(chunk), n := self.frame.batch_size):
                    filled = torch.cat([crops, crops[-1:].expand(n - len(crops), -1, -1, -1)]).to(device)
                    view = self.view(filled.contiguous(memory_format=torch.channels_last))
                    batches.append({name: value[: len(crops)].cpu() for name, value in compute(view).items()})
                if progress:
                    progress(len(chunk))
        return {name: torch.cat([batch[name] for batch in batches]) for name in (batches[0] if batches else ())}


def noise_pattern(config: Config, frame: Frame) -> Tensor:
    """What a preset adds before it scores: one pattern for all images, so that a score is a function of the image."""
    shape = (1, frame.thumbnail_format.channels, *frame.thumbnail_format.size)
    return config.corruption.sigma * torch.randn(shape, generator=generator(config.seed, "scoring_noise"))
