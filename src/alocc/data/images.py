"""One image, or many of one size, as tensors: the only place that knows the value range.

An image is an array (H, W) or (H, W, C), uint8 or float in [0, 1], until :func:`prepare_batch` makes it a tensor
(C, H, W) of uint8, and that until a network sees it (:func:`to_unit_range`): a quarter of the size.
Files are decoded in :mod:`alocc.data.decoding`, sizes and colours are changed in :mod:`alocc.data.resizing`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alocc.data.decoding import Header, read_header, read_image
from alocc.data.resizing import ImageFormat, brought_to

__all__ = ["Header", "ImageFormat", "is_grey", "prepare_batch", "read_header", "read_image", "to_unit_range"]


def prepare_batch(images: NDArray[np.generic], to: ImageFormat) -> Tensor:
    """Images of one size, (n, H, W) or (n, H, W, C), in a detector's format: (n, C, H, W), uint8; errors of brought_to.

    Grey becomes colour by repetition, colour becomes grey by ITU-R 601 luma, and the size changes by bilinear
    interpolation with an antialiasing filter.
    """
    array = np.ascontiguousarray(brought_to(images, to).transpose(0, 3, 1, 2))
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # from_numpy of a read-only array warns


def to_unit_range(x: Tensor) -> Tensor:
    """uint8 0…255 → float32 0…1; a float tensor is in that range already and comes back as it is."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


def is_grey(image: NDArray[np.generic]) -> bool:
    """Whether an image has one channel, or three that say the same."""
    return image.ndim == 2 or image.shape[2] == 1 or bool((image == image[..., :1]).all())
