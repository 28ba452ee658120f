"""A whole detector as one network: uint8 images of any size in, verdicts out. What is written to a file.

It resizes as :mod:`alocc.data.resizing` does, bit by bit, and computes by the very :class:`~alocc.scorer.Scorer` of the
detector; batch normalisation is folded into the convolutions.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from alocc.data.resizing import ONE
from alocc.detector import Detector
from alocc.export.convolutions import AsConvolution
from alocc.networks.architecture import Reconstructor

Layout = Literal["nhwc", "nchw"]
Network = TypeVar("Network", bound=nn.Module)
NETWORKS = ("scorer.R.", "scorer.parts.d.")
"""How the names of R's and D's weights begin."""


class Verdicts(nn.Module):
    """Images (N, H, W, C), uint8 → anomaly_score (N,) float32, p_value (N,) float32, is_anomaly (N,) bool.

    Args:
        detector: what it is made of; it stays as it is.
        layout: "nchw" for images (N, C, H, W).
        any_size: resize images to the detector's size; else they must have it.
        maps: give anomaly_map (N, H, W), float32, at the detector's size, too.
    """

    held_out: Tensor

    def __init__(self, detector: Detector, layout: Layout = "nhwc", any_size: bool = True, maps: bool = False) -> None:
        super().__init__()
        self.layout, self.any_size, self.maps, self.image_format = layout, any_size, maps, detector.image_format
        scorer = copy.deepcopy(detector.scorer).cpu()
        scorer.R = nn.ModuleList(map(_folded, scorer.R))
        if "d" in scorer.parts:
            scorer.parts["d"].networks = nn.ModuleList(map(_folded, scorer.parts["d"].networks))  # type: ignore[arg-type]
        self.scorer = scorer.float()  # scales of the parts too, which the detector computes with in float64
        self.register_buffer("held_out", torch.from_numpy(detector.held_out_scores).float())
        self.rank = detector.calibration.rank  # the rule in whole numbers: no rounding decides
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = (images if self.layout == "nchw" else images.permute(0, 3, 1, 2)).float()
        if self.any_size:
            x = resized(x, self.image_format.size)
        scorer, frame = self.scorer, self.scorer.frame
        view = scorer.view(frame.cut(x / 255))
        fused = scorer.fusion(scorer.image_evidence(view))
        anomaly_score = fused if frame.n_crops == 1 else frame.worst(fused)
        at_least = (self.held_out >= anomaly_score[:, None]).sum(1)
        p_value = (1 + at_least).float() / (len(self.held_out) + 1)
        verdicts = anomaly_score, p_value, at_least < self.rank
        if not self.maps:
            return verdicts
        return *verdicts, frame.join(scorer.anomaly_map(scorer.grid_evidence(view)))[:, 0]


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
    """A copy with each batch normalisation folded into the convolution before it, and none of these transposed."""
    network = copy.deepcopy(network).eval()
    for block in [block for block in network.modules() if isinstance(block, nn.Sequential)]:
        transposed = isinstance(block[0], nn.ConvTranspose2d)
        fused = fuse_conv_bn_eval(cast(nn.Conv2d, block[0]), cast(nn.BatchNorm2d, block[1]), transposed)
        block[0] = AsConvolution(cast(nn.ConvTranspose2d, fused)) if transposed else fused
        block[1] = nn.Identity()
    if isinstance(network, Reconstructor):
        network.decoder.to_image = AsConvolution(network.decoder.to_image)  # type: ignore[assignment]
    return cast(Network, network.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
