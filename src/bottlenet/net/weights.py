"""Weights in a quarter of the bytes: int8 with a float32 scale for each output channel; computed with in float32.

Only storage changes: a graph casts each stored weight back and multiplies it by its scale, which onnxruntime does once,
when it loads the graph. Rounding to 8 bits moves the scores a little; whoever asks for it measures what that costs.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 1024  # elements; smaller tensors, such as biases, stay float32


def store_as_int8(graph: bytes) -> bytes:
    """An ONNX graph -> the same graph with its large float32 weights as int8."""
    model = onnx.load_model_from_string(graph)
    transposed = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    initializers: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.dtype == np.float32 and weight.ndim >= 2 and weight.size >= SMALLEST:
            axis = 1 if tensor.name in transposed else 0
            tensors, restoring = _stored(tensor.name, weight, axis)
            initializers += tensors
            nodes += restoring
        else:
            initializers.append(tensor)
    nodes += list(model.graph.node)
    for field, values in ((model.graph.initializer, initializers), (model.graph.node, nodes)):
        del field[:]
        field.extend(values)
    data: bytes = model.SerializeToString()
    return data


def _stored(name: str, weight: np.ndarray, axis: int) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """What replaces one weight: its integers and scales, and the two nodes that make it again under its old name."""
    integers, scale = to_int8(weight, axis)
    tensors = [numpy_helper.from_array(integers, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
    nodes = [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
    ]
    return tensors, nodes


def to_int8(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 -> int8 in -127..127 and float32 scales, one an index of `axis`: weight = int8 * scale, nearly."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.round(weight / scale), -127, 127).astype(np.int8), scale
