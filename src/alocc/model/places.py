"""A small network that learns where something was pasted into normal images: no real anomaly is needed.

It is the discriminator's idea, pseudo-anomalies made of normal images, asked of places instead of whole images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.data.images import to_unit_range
from alocc.data.pasting import pasted

WIDTH = 32
BATCH = 16
LEARNING_RATE = 3e-3
COARSE_FROM = 48
"""Images with both sides at least so long are seen at a quarter of their size by the last layers; others at half."""


def updates(d_iterations: int, image_size: tuple[int, int]) -> int:
    """As many updates as D has; twice as many for images that D is slow on, which have more to show."""
    return (2 if min(image_size) >= COARSE_FROM else 1) * d_iterations


class Places(nn.Module):
    """Images (N, C, H, W) in [0, 1] → logit that a place is not normal, (N, H/4, W/4), or H/2 for small images.

    Args:
        channels: 1 or 3.
        image_size: height and width.
    """

    def __init__(self, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        last_stride = 2 if min(image_size) >= COARSE_FROM else 1
        self.layers = nn.Sequential(
            *_layer(channels, WIDTH // 2, 5, 1),
            *_layer(WIDTH // 2, WIDTH, 3, 2),
            *_layer(WIDTH, WIDTH, 3, last_stride),
            *_layer(WIDTH, WIDTH, 3, 1),
            *_layer(WIDTH, WIDTH, 3, 1),
            nn.Conv2d(WIDTH, 1, 1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs lack it

    def forward(self, x: Tensor) -> Tensor:
        """Logits, higher = less normal."""
        logits: Tensor = self.layers(4 * x - 2)[:, 0]
        return logits

    def fit(
        self,
        images: Tensor,
        iterations: int,
        stream: torch.Generator,
        progress: Callable[[int], None] | None = None,
        bfloat16: bool = False,
    ) -> Places:
        """Learn from normal images with something pasted in.

        Args:
            images: normal images, (n, C, H, W), uint8 or float32 in [0, 1].
            iterations: updates, of 16 images each.
            stream: of weights, batches and what is pasted where.
            progress: told of each update.
            bfloat16: whether convolutions compute in bfloat16.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(3 * module.weight[0].numel()) ** -0.5, generator=stream)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        optimizer = torch.optim.AdamW(self.parameters(), LEARNING_RATE, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=max(2, iterations), cycle_momentum=False
        )
        self.train()
        for done in range(1, iterations + 1):
            batch = images[torch.randint(len(images), (BATCH,), generator=stream)]
            x, where = pasted(to_unit_range(batch), stream)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
                logits = self(x.contiguous(memory_format=torch.channels_last)).float()
            share = F.adaptive_avg_pool2d(where.float(), logits.shape[1:])[:, 0]  # of each place that was pasted over
            loss = F.binary_cross_entropy_with_logits(logits, share)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress:
                progress(done)
        return self.eval()


def _layer(n_in: int, n_out: int, size: int, stride: int) -> list[nn.Module]:
    # padded with zeros: a reflected border looks like a pasted one
    convolution = nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]
