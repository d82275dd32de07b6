"""Tiny bundles of every other task than one label, made by hand: 32 x 32 pixels -> 4 x 8 x 8 symbols -> ..."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.task import Detection, Multilabel, Segmentation, Task
from conftest import CLASSES, LATENT, PIXELS, SCORES, SYMBOLS, graph_bytes, head_nodes, tail_nodes, tiny_manifest

COLOURS = ("red", "green", "blue", "grey")
EDGES = np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.25, 0.25, 0.75, 0.75]], np.float32)
TASKS: dict[str, Task] = {
    "multilabel": Multilabel((0.5,) * (CLASSES - 1) + (0.0,)),
    "segmentation": Segmentation(8, 8),
    "detection": Detection(4, 0.2),
}


def map_nodes() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The brightest of four channels."""
    nodes = [
        helper.make_node("Cast", ["symbols"], ["latent"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["latent"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["map"], to=TensorProto.UINT8),
    ]
    return nodes, {}


def box_nodes() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Four boxes that are always there, each as sure as one channel is bright in its middle."""
    nodes = [
        helper.make_node("Cast", ["symbols"], ["latent"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["latent", "four", "five", "rows"], ["middle"]),
        helper.make_node("Reshape", ["middle", "column"], ["bright"]),  # (B, 4, 1)
        helper.make_node("Mul", ["bright", "scale"], ["score"]),
        helper.make_node("Mul", ["bright", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "edges"], ["all_edges"]),
        helper.make_node("Add", ["nothing", "indices"], ["all_indices"]),
        helper.make_node("Concat", ["all_edges", "score", "all_indices"], ["boxes"], axis=2),
    ]
    constants = {
        "four": np.array([4, 4]),
        "five": np.array([5, 5]),
        "rows": np.array([2, 3]),
        "column": np.array([-1, 4, 1]),
        "scale": np.array(1 / 255, np.float32),
        "zero": np.array(0, np.float32),
        "edges": EDGES[None],
        "indices": np.arange(4, dtype=np.float32).reshape(1, 4, 1),
    }
    return nodes, constants


OUTPUTS = {
    "multilabel": (tail_nodes, SCORES, tuple(f"class {number}" for number in range(CLASSES))),
    "segmentation": (map_nodes, helper.make_tensor_value_info("map", TensorProto.UINT8, ["batch", 8, 8]), COLOURS),
    "detection": (box_nodes, helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 4, 6]), COLOURS),
}


def other_bundle(path: Path, name: str, **changes: object) -> Bundle:
    """Of the task of that name, with the raw codec."""
    make, output, labels = OUTPUTS[name]
    head, tail = head_nodes(), make()
    files = {
        "head.onnx": graph_bytes(head[0], [PIXELS], [SYMBOLS], head[1]),
        "tail.onnx": graph_bytes(tail[0], [SYMBOLS], [output], tail[1]),
        "uncut.onnx": graph_bytes(head[0] + tail[0], [PIXELS], [output], head[1] | tail[1]),
        "labels.txt": "".join(f"{label}\n" for label in labels).encode(),
    }
    values: dict[str, object] = {"codec": "raw", "setting": 0, "task": TASKS[name], "num_classes": len(labels)}
    assert LATENT == (4, 8, 8)
    return write_bundle(path, tiny_manifest(**{**values, **changes}), files)
