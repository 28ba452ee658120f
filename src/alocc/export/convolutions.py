"""A transposed convolution as an ordinary one: the same numbers, for which engines have far quicker code."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AsConvolution(nn.Module):
    """(N, C, H, W) → (N, C', H', W'): what ``transposed`` makes of it.

    With stride s, output pixel s·q + r is a sum over a few inputs around q, with weights of its own for each of the
    s × s remainders r. So one convolution with s × s times as many maps has all pixels, and a pixel shuffle puts them
    in place.

    Args:
        transposed: with one kernel size, stride and padding for both sides, no dilation and one group.
    """

    def __init__(self, transposed: nn.ConvTranspose2d) -> None:
        super().__init__()
        kernel, padding = transposed.kernel_size[0], cast(tuple[int, int], transposed.padding)[0]
        s = self.stride = transposed.stride[0]
        # out[s·q + r] = Σ_d x[q + d] · w[r + padding − s·d], as far as the kernel reaches
        first, last = -((kernel - 1 - padding) // s), (s - 1 + padding) // s
        self.before, self.after = -first, last
        weight = torch.zeros((transposed.out_channels, s, s, transposed.in_channels, *(last - first + 1,) * 2))
        taps = [(r, d, r + padding - s * d) for r in range(s) for d in range(first, last + 1)]
        taps = [tap for tap in taps if 0 <= tap[2] < kernel]
        for r, d, k in taps:
            for r2, d2, k2 in taps:
                weight[:, r, r2, :, d - first, d2 - first] = transposed.weight.detach()[:, :, k, k2].T
        self.weight = nn.Parameter(weight.flatten(0, 2), requires_grad=False)
        bias = torch.zeros(transposed.out_channels) if transposed.bias is None else transposed.bias.detach()
        self.bias = nn.Parameter(bias.repeat_interleave(s * s), requires_grad=False)

    def forward(self, x: Tensor, output_size: tuple[int, int]) -> Tensor:
        """The result at the height and width that are named, as ``transposed(x, output_size=…)``."""
        quotients = [-(-side // self.stride) for side in output_size]
        after = [n_out - n_in + self.after for n_out, n_in in zip(quotients, x.shape[2:], strict=True)]
        if after == [self.before, self.before]:
            maps = F.conv2d(x, self.weight, self.bias, padding=self.before)
        else:
            maps = F.conv2d(F.pad(x, (self.before, after[1], self.before, after[0])), self.weight, self.bias)
        if self.stride > 1:
            maps = F.pixel_shuffle(maps, self.stride)
        return maps if maps.shape[2:] == output_size else maps[:, :, : output_size[0], : output_size[1]]
