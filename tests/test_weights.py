from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch

from bottlenet.net.export import store_as_int8, to_int8, to_onnx
from small import classifier


def test_rounding_is_off_by_half_a_step_of_its_channel():
    weight = np.random.default_rng(0).normal(size=(5, 7, 3, 3)).astype(np.float32) * np.arange(5)[:, None, None, None]
    integers, scale = to_int8(weight, axis=0)
    assert integers.dtype == np.int8
    assert np.abs(integers).max() <= 127
    assert (np.abs(integers * scale - weight) <= scale / 2 + 1e-7).all()
    assert (integers[0] == 0).all()  # a channel of zeros


def test_a_graph_gets_smaller_and_computes_nearly_the_same():
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1024, 9)
    )
    example = torch.randn(4, 3, 8, 8)
    graph = to_onnx(module.eval(), example, inputs=["x"], outputs=["y"])
    small = store_as_int8(graph)
    assert len(small) < len(graph) / 3
    exact, rounded = (
        onnxruntime.InferenceSession(each).run(None, {"x": example.numpy()})[0] for each in (graph, small)
    )
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, atol=0.02 * np.abs(exact).max())


def test_graphs_tell_nothing_of_the_machine_that_made_them():
    graph = to_onnx(classifier().module, torch.zeros(2, 3, 32, 32), inputs=["x"], outputs=["y"])
    assert b".py" not in graph
    assert not onnx.load_model_from_string(graph).metadata_props
