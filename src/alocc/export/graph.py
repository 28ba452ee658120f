"""The scorer as an ONNX graph, and that graph as a file of ONNX or OpenVINO."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from alocc.export.scorer import Verdicts
from alocc.runtime.sessions import MAP, METADATA_KEY, VERDICTS, WITH_MAPS

LIBRARIES = ("onnx", "onnxscript", "onnxruntime", "openvino")
"""Whose versions decide what a graph looks like."""
PACKET = 16
"""Numbers, at most, that ONNX Runtime computes with in one instruction."""


def build(scorer: Verdicts) -> onnx.ModelProto:
    """Trace the scorer for any number of images, and of any size if it resizes."""
    height, width = (side + 5 * scorer.any_size for side in scorer.image_format.size)
    channels, first_side = scorer.image_format.channels, 1 if scorer.layout == "nhwc" else 2
    shape = (3, height, width, channels) if scorer.layout == "nhwc" else (3, channels, height, width)
    dynamic = {0: torch.export.Dim("batch")}
    if scorer.any_size:
        dynamic |= {first_side: torch.export.Dim("height"), first_side + 1: torch.export.Dim("width")}
    before = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                scorer, (torch.zeros(shape, dtype=torch.uint8),), input_names=["images"],
                output_names=[*VERDICTS, *([MAP] if scorer.maps else [])],
                dynamic_shapes=(dynamic,), dynamo=True, opset_version=20, verbose=False,
            )  # fmt: skip
    finally:
        logging.getLogger("torch.onnx").setLevel(before)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_where_it_was_made(model)
    _in_full_packets(model.graph)
    return model


def write(model: onnx.ModelProto, notes: Mapping[str, Any], path: Path) -> None:
    """Write ONNX, or, where the name ends in ``.xml``, OpenVINO, with the notes in its metadata."""
    text = json.dumps(notes, sort_keys=True)
    if path.suffix == ".onnx":
        model = _with_maps_on_demand(model)
        del model.metadata_props[:]
        helper.set_model_props(model, {METADATA_KEY: text})
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    import openvino

    # not convert_model, which takes a path with a comma for several
    converted = openvino.Core().read_model(io.BytesIO(model.SerializeToString(deterministic=True)))
    converted.set_rt_info(text, [METADATA_KEY])
    openvino.save_model(converted, path, compress_to_fp16=False)


def set_held_out(model: onnx.ModelProto, scores: NDArray[np.float64]) -> None:
    """Put other held-out scores, as many, into the graph."""
    [held_out] = [tensor for tensor in model.graph.initializer if tensor.name == "held_out"]
    held_out.CopyFrom(numpy_helper.from_array(scores.astype(np.float32), "held_out"))


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    """The tracer notes files and lines of this machine at every node."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]


def _with_maps_on_demand(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same, where what only the map needs is computed if the input ``with_maps`` is true, as it is unless given.

    ONNX Runtime computes every output of a graph, asked for or not.
    """
    of_map = _before(model.graph, {MAP}) - _before(model.graph, set(VERDICTS))
    if not of_map:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    then, otherwise = onnx.GraphProto(name="map"), onnx.GraphProto(name="no_map")
    [output] = [value for value in graph.output if value.name == MAP]
    for branch, name in ((then, f"{MAP}_computed"), (otherwise, f"{MAP}_empty")):
        branch.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, None, None]))
    nodes, weights = list(graph.node), list(graph.initializer)
    then.node.extend(node for i, node in enumerate(nodes) if i in of_map)
    for node in then.node:
        node.output[:] = [then.output[0].name if name == MAP else name for name in node.output]
    elsewhere = {name for i, node in enumerate(nodes) if i not in of_map for name in node.input}
    then.initializer.extend(tensor for tensor in weights if tensor.name not in elsewhere)
    sides = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
    _add(otherwise, otherwise.output[0].name, np.zeros((0, *sides[1:]), np.float32))
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(node for i, node in enumerate(nodes) if i not in of_map)
    graph.node.append(helper.make_node("If", [WITH_MAPS], [output.name], then_branch=then, else_branch=otherwise))
    graph.initializer.extend(tensor for tensor in weights if tensor.name in elsewhere)
    graph.input.append(helper.make_tensor_value_info(WITH_MAPS, onnx.TensorProto.BOOL, []))
    _add(graph, WITH_MAPS, np.array(True))
    return changed


def _before(graph: onnx.GraphProto, outputs: set[str]) -> set[int]:
    """Places of the nodes that these outputs are computed from."""
    wanted, found = set(outputs), set()
    for i, node in reversed(list(enumerate(graph.node))):  # in an ONNX graph, what is used comes before
        assert not any(value.HasField("g") for value in node.attribute), "a branch may use what its node does not name"
        if not wanted.isdisjoint(node.output):
            found.add(i)
            wanted.update(node.input)
    return found


def _in_full_packets(graph: onnx.GraphProto) -> None:
    """Fill up what is summed, or taken the logarithm of, to a multiple of 16 numbers for each image.

    ONNX Runtime computes several numbers at once, beginning where the memory is aligned, and the rest one by one, in
    another order or by another function; so a score's last bit would depend on the images before it.
    """
    shapes = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        source = shapes.get(node.input[0]) if node.input else None
        if source is None or source.elem_type != onnx.TensorProto.FLOAT:
            nodes.append(node)
            continue
        sides = [dim.dim_value for dim in source.shape.dim]  # 0 where it depends on the number of images
        if node.op_type in ("ReduceMean", "ReduceSum"):
            axes = {axis % len(sides) for axis in constants[node.input[1]].ravel().tolist()}
            nodes += _filled_sum(node, sides, axes, graph)
        elif node.op_type == "Log":
            nodes += _filled_logarithm(node, sides, graph)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _filled_sum(node: onnx.NodeProto, sides: list[int], axes: set[int], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Zeros behind the last axis; a mean becomes a sum and a division."""
    n_summed = math.prod(sides[axis] for axis in axes)
    if len(sides) - 1 not in axes or n_summed % PACKET == 0:
        return [node]
    name = node.output[0]
    pads = [0] * (2 * len(sides))
    pads[-1] = -sides[-1] % PACKET
    _add(graph, f"{name}_pads", np.array(pads))
    _add(graph, f"{name}_n", np.float32(n_summed if node.op_type == "ReduceMean" else 1))
    summed = helper.make_node("ReduceSum", [f"{name}_filled", node.input[1]], [f"{name}_sum"])
    summed.attribute.extend(node.attribute)
    return [
        helper.make_node("Pad", [node.input[0], f"{name}_pads"], [f"{name}_filled"]),
        summed,
        helper.make_node("Div", [f"{name}_sum", f"{name}_n"], [name]),
    ]


def _filled_logarithm(node: onnx.NodeProto, sides: list[int], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """As many equal copies as make a multiple of 16, of which one is taken."""
    copies = PACKET // math.gcd(PACKET, math.prod(side or 1 for side in sides))
    if copies == 1:
        return [node]
    name = node.output[0]
    _add(graph, f"{name}_copies", np.array([copies] + [1] * len(sides)))
    _add(graph, f"{name}_first", np.array(0))
    return [
        helper.make_node("Expand", [node.input[0], f"{name}_copies"], [f"{name}_filled"]),
        helper.make_node("Log", [f"{name}_filled"], [f"{name}_all"]),
        helper.make_node("Gather", [f"{name}_all", f"{name}_first"], [name], axis=0),
    ]


def _add(graph: onnx.GraphProto, name: str, value: NDArray[Any] | np.generic) -> None:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
