"""A whole detector as one network: uint8 images of any size in, scores out. What is written to a file.

It resizes as :mod:`alocc.data.resizing` does, bit by bit, and judges by the very functions by which the
:class:`~alocc.detector.Detector` does; batch normalisation is folded into the convolutions.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from alocc.conformal import rank_at
from alocc.data import tiles
from alocc.data.resizing import ONE
from alocc.detector import Detector, network_format, scoring_noise
from alocc.model.networks import Networks
from alocc.model.scoring import score_parts
from alocc.model.statistics import Statistics

Layout = Literal["nhwc", "nchw"]
Network = TypeVar("Network", bound=nn.Module)


class Scorer(nn.Module):
    """Images (N, H, W, C), uint8 → anomaly_score (N,) float32, p_value (N,) float32, is_anomaly (N,) bool.

    Args:
        detector: what it is made of; it stays as it is.
        layout: "nchw" for images (N, C, H, W).
        any_size: resize images to the detector's size; else they must have it.
    """

    held_out: Tensor
    noise: Tensor | None
    statistics: Statistics | None

    def __init__(self, detector: Detector, layout: Layout = "nhwc", any_size: bool = True) -> None:
        super().__init__()
        config, judged = detector.config, network_format(detector.config, detector.image_format)
        self.layout, self.size, self.tile = layout, detector.image_format.size, config.images.tile
        self.any_size, self.channels = any_size, detector.image_format.channels
        folded = [Networks(_folded(pair.R), _folded(pair.D)) for pair in detector.networks]
        self.networks = nn.ModuleList([nn.ModuleList(pair) for pair in folded])
        self.statistics = copy.deepcopy(detector.statistics)
        self.fusion, self.parts = detector.fusion, tuple(config.weights)
        noise = scoring_noise(config, judged) if config.corruption.at_scoring else None
        self.register_buffer("noise", noise)
        held_out = detector.held_out_scores
        self.register_buffer("held_out", torch.from_numpy(held_out).float())
        self.rank = rank_at(detector.alpha, len(held_out))  # the rule in whole numbers: no rounding decides
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (images if self.layout == "nchw" else images.permute(0, 3, 1, 2)).float()
        if self.any_size:
            x = resized(x, self.size)
        anomaly_score = self.judged(x / 255)
        at_least = (self.held_out >= anomaly_score[:, None]).sum(1)
        p_value = (1 + at_least).float() / (len(self.held_out) + 1)
        return anomaly_score, p_value, at_least < self.rank

    def judged(self, x: Tensor) -> Tensor:
        """Anomaly score of images (N, C, height, width) in [0, 1], or that of their most anomalous tiles."""
        n_tiles = 1
        if self.tile:
            n_tiles = len(tiles.places(self.size, self.tile))
            x = tiles.cut(x, self.tile)
        x_input = x if self.noise is None else (x + self.noise).clamp(0, 1)
        networks = [Networks(*pair) for pair in self.networks]  # type: ignore[misc]
        fused = self.fusion(score_parts(networks, self.statistics, x, x_input, self.parts))
        return fused.view(-1, n_tiles).amax(1) if self.tile else fused


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Whole numbers 0…255 as float32, (N, C, H, W), of any size → the same of one size; see alocc.data.resizing."""
    narrow = _rounded(x @ filter_matrix(x.shape[3], size[1]).T)
    return _rounded(filter_matrix(x.shape[2], size[0]) @ narrow)


def _rounded(sums: Tensor) -> Tensor:
    return ((sums + ONE / 2) / ONE).floor().clamp(0, 255)


def filter_matrix(n_in: int, n_out: int) -> Tensor:
    """Weights of :mod:`alocc.data.resizing`, (n_out, n_in), float32, in arithmetic of 32 bits."""
    i, j = torch.arange(n_out)[:, None], torch.arange(n_in)[None]
    middle = (2 * i + 1) * n_in
    s = torch.sym_max(n_in, n_out)  # type: ignore[no-untyped-call]
    a = (2 * s - ((2 * j + 1) * n_out - middle).abs()).clamp(min=0)
    total = a.sum(1, keepdim=True)
    weights = _quotient(a * ONE + _quotient(total, 2), total)
    lacking = ONE - weights.sum(1, keepdim=True)
    return (weights + lacking * (j == _quotient(middle, 2 * n_out))).float()


def _quotient(a: Tensor, b: Tensor | int) -> Tensor:
    """A div b of whole numbers ≥ 0: some engines divide whole numbers as floats, which is off by one at times."""
    guess = (a.float() / b).floor().to(torch.int64)
    rest = a - guess * b
    return guess + (rest >= b).to(torch.int64) - (rest < 0).to(torch.int64)


def _folded(network: Network) -> Network:
    """A copy with each batch normalisation folded into the convolution before it."""
    network = copy.deepcopy(network).eval()
    for block in network.modules():
        if isinstance(block, nn.Sequential) and isinstance(block[1], nn.BatchNorm2d):
            transposed = isinstance(block[0], nn.ConvTranspose2d)
            block[0] = fuse_conv_bn_eval(cast(nn.Conv2d, block[0]), block[1], transposed)
            block[1] = nn.Identity()
    return cast(Network, network.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
