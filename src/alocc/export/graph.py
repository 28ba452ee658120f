"""The scorer as an ONNX graph, and that graph as a file of ONNX or OpenVINO."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from alocc.export.scorer import Scorer
from alocc.runtime import METADATA_KEY

OPSET = 20
OUTPUTS = ("anomaly_score", "p_value", "is_anomaly")
PACKET = 4
"""Numbers that ONNX Runtime takes the logarithm of together."""


def build(scorer: Scorer) -> onnx.ModelProto:
    """Trace the scorer for any number of images, and of any size if it resizes."""
    height, width = (side + 5 * scorer.any_size for side in scorer.size)
    shape = (3, height, width, scorer.channels) if scorer.layout == "nhwc" else (3, scorer.channels, height, width)
    first_side = 1 if scorer.layout == "nhwc" else 2
    dynamic = {0: torch.export.Dim("batch")}
    if scorer.any_size:
        dynamic |= {first_side: torch.export.Dim("height"), first_side + 1: torch.export.Dim("width")}
    before = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                scorer, (torch.zeros(shape, dtype=torch.uint8),), input_names=["images"], output_names=OUTPUTS,
                dynamic_shapes=(dynamic,), dynamo=True, opset_version=OPSET, verbose=False,
            )  # fmt: skip
    finally:
        logging.getLogger("torch.onnx").setLevel(before)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_where_it_was_made(model)
    _even_logarithms(model.graph)
    return model


def write(model: onnx.ModelProto, notes: Mapping[str, Any], path: Path) -> None:
    """Write ONNX, or, where the name ends in ``.xml``, OpenVINO, with the notes in its metadata."""
    text = json.dumps(notes, sort_keys=True)
    if path.suffix == ".onnx":
        del model.metadata_props[:]
        helper.set_model_props(model, {METADATA_KEY: text})
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    import openvino

    source = path.with_suffix(".onnx")
    source.write_bytes(model.SerializeToString(deterministic=True))
    converted = openvino.convert_model(source)
    source.unlink()
    converted.set_rt_info(text, [METADATA_KEY])
    openvino.save_model(converted, path, compress_to_fp16=False)


def set_held_out(model: onnx.ModelProto, scores: NDArray[np.float64]) -> None:
    """Put other held-out scores, as many, into the graph."""
    [held_out] = [tensor for tensor in model.graph.initializer if tensor.name == "held_out"]
    held_out.CopyFrom(numpy_helper.from_array(scores.astype(np.float32), "held_out"))


def library_versions() -> dict[str, str]:
    """Versions that decide what a graph looks like."""
    found = {}
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    """The tracer notes files and lines of this machine at every node."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]


def _even_logarithms(graph: onnx.GraphProto) -> None:
    """Take each logarithm four times where an image has a number of them that four does not divide.

    ONNX Runtime computes the last one to three of a batch by another function than the rest, and so a score's last bit
    would depend on the number of images.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        of_an_image = math.prod(dim.dim_value or 1 for dim in shapes.get(node.input[0], ()))
        if node.op_type != "Log" or of_an_image % PACKET == 0:
            nodes.append(node)
            continue
        source, result = node.input[0], node.output[0]
        nodes += [
            helper.make_node("Unsqueeze", [source, "last_axis"], [f"{result}_column"]),
            helper.make_node("Expand", [f"{result}_column", "packet"], [f"{result}_repeated"]),
            helper.make_node("Log", [f"{result}_repeated"], [f"{result}_packets"]),
            helper.make_node("Gather", [f"{result}_packets", "first"], [result], axis=-1),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    for name, value in (("last_axis", [-1]), ("packet", [PACKET]), ("first", 0)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
