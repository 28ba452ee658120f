"""R's and D's convolutions in 8 bits: quicker on some processors, and another detector, with its own threshold."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from alocc.errors import ConfigError, DataError
from alocc.export.scorer import NETWORKS

LEAST_CORRELATION = 0.8
"""Rank correlation of normal images' scores before and after, below which a file is not worth having."""


class Shift(NamedTuple):
    """What 8 bits changed in the scores of normal images."""

    spearman: float
    """Rank correlation of the scores before and after."""
    mean_difference: float
    """Mean absolute difference of the scores."""
    n_images: int

    def __str__(self) -> str:
        return (
            f"8 bits moved the scores of {self.n_images:,} normal images by {self.mean_difference:.2g} on average "
            f"(rank correlation {self.spearman:.3f}); the threshold is from these images"
        )

    @classmethod
    def between(cls, before: NDArray[np.float64], after: NDArray[np.float64]) -> Shift:
        """Compare scores of the same images."""
        from scipy.stats import spearmanr

        return cls(float(spearmanr(before, after).statistic), float(np.abs(after - before).mean()), len(before))


def split(fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Images for the ranges of the feature maps, and others for the threshold, which must not have set the ranges.

    Raises:
        DataError: if there are fewer than 30.
    """
    n = len(fresh)
    if n < 30:
        raise DataError(f"{n} normal images are too few for 8 bits; give at least 30 that training never saw")
    n_ranges = min(200, n // 3)
    is_range = np.zeros(n, np.bool_)
    is_range[np.arange(n_ranges) * n // n_ranges] = True
    return fresh[is_range], fresh[~is_range]


def quantized(model: onnx.ModelProto, ranges: Tensor, layout: str) -> onnx.ModelProto:
    """The same graph with R's and D's convolutions in 8 bits, weights by channel; those at images stay as they are."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            images = ranges if layout == "nchw" else ranges.permute(0, 2, 3, 1)
            self.batches = (np.ascontiguousarray(batch.numpy()) for batch in images.split(16))  # type: ignore[no-untyped-call]

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    theirs = [node.name for node in model.graph.node if node.op_type == "Conv" and _is_within(node, shapes)]
    if not theirs:  # ONNX Runtime would take all nodes
        raise ConfigError("--int8 is for the convolutions of R and D, and none has a say in this detector's score")
    logging.disable(logging.WARNING)  # it advises what the exporter has done already
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "int8.onnx"
            quantize_static(
                model, target, Images(), quant_format=QuantFormat.QDQ, per_channel=True, nodes_to_quantize=theirs,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            return onnx.load(target)
    finally:
        logging.disable(logging.NOTSET)


def _is_within(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Of R or D, and between feature maps: next to images 8 bits cost most and bring least."""
    weight = node.input[1]
    return weight.startswith(NETWORKS) and min(shapes[weight][:2]) >= 8  # images have fewer maps
