"""ONNX files as models: what is read from them, that they become the same network in torch, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.progress import Progress
from torch import nn

import small
from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.net.build import insert
from bottlenet.net.cut import cuts, split
from bottlenet.net.detectors import RowsToBoxes, grid_of
from bottlenet.net.export import export, to_onnx
from bottlenet.net.models import Classifier, load_model, pinned
from bottlenet.runtime import open_session
from bottlenet.task import Detection
from bottlenet.train import runs
from bottlenet.train.config import TrainConfig
from bottlenet.train.objective import rows_error
from bottlenet.train.train import train

REST = ",mean=0.5,std=0.25,crop=0.875,interpolation=bilinear"
CLASSES = 4


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with labels."""
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("\n".join(small.LABELS))
    return tmp_path


def write(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = ("n", 3, 16, 16),
    *,
    values: dict[str, Any] | None = None,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("scores",),
    said: dict[str, str] | None = None,
) -> str:
    """Write net.onnx, which takes `photo`, and return its name with settings."""
    given = [numpy_helper.from_array(np.asarray(value), name) for name, value in (values or {}).items()]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("photo", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        given,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, said or {})
    onnx.save_model(model, "net.onnx")
    return f"net.onnx{REST},labels=labels.txt"


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 0.3, shape).astype(np.float32)


def ends(taken: str, channels: int, *, axes: Sequence[int] = (2, 3)) -> list[onnx.NodeProto]:
    """Make scores of maps; their weights are `last`."""
    return [
        helper.make_node("ReduceMean", [taken], ["mean"], axes=list(axes), keepdims=0, name="head/mean"),
        helper.make_node("MatMul", ["mean", "last"], ["scores"], name="head/scores"),
    ]


def simple(**more: Any) -> str:
    """A convolution, and scores."""
    convolution = helper.make_node("Conv", ["photo", "first"], ["maps"], name="body/conv/Conv", pads=[1, 1, 1, 1])
    values = {"first": weights(8, 3, 3, 3), "last": weights(8, CLASSES)}
    return write([convolution, *ends("maps", 8)], values=values, **more)


def both(name: str, count: int = 3) -> tuple[torch.Tensor, np.ndarray]:
    """Run a file as the loaded network and by onnxruntime."""
    classifier = load_model(name)
    side = classifier.preprocess.size
    photos = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    session = open_session(Path("net.onnx").read_bytes())
    expected = [session.run(None, {"photo": photos[at : at + 1].numpy()})[0] for at in range(count)]
    with torch.no_grad():
        return classifier.module(photos), np.concatenate(expected)


def exported(classifier: Classifier) -> str:
    """Write a torch network as `net.onnx`, by torch's exporter."""
    example = torch.zeros(2, *classifier.input_size)
    Path("net.onnx").write_bytes(to_onnx(classifier.module, example, inputs=["photo"], outputs=["scores"]))
    return f"net.onnx{REST},labels=labels.txt"


class TestLoad:
    def test_a_network_of_torch_is_the_same(self) -> None:
        name = exported(small.telling())
        scores, expected = both(name)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
        classifier = load_model(name)
        assert (classifier.name, classifier.labels) == ("onnx/net", small.LABELS)
        assert (classifier.preprocess.size, classifier.mean, classifier.std) == (32, (127.5,) * 3, (63.75,) * 3)

    def test_cuts_have_the_nodes_names(self) -> None:
        names = [cut.name for cut in cuts(load_model(simple()).module, (3, 16, 16))]
        assert names == ["body.conv.Conv", "head.mean"]

    def test_halves_are_the_whole(self) -> None:
        classifier = load_model(exported(small.telling()))
        photos = torch.randn(2, *classifier.input_size)
        whole = classifier.module(photos)
        for cut in cuts(classifier.module, classifier.input_size):
            halves = split(classifier.module, cut.name, classifier.input_size)
            torch.testing.assert_close(halves.tail(halves.head(photos)), whole)

    @pytest.mark.parametrize("operator", ["Softmax", "Sigmoid"])
    def test_answers_come_from_logits(self, operator: str) -> None:
        simple()
        model = onnx.load("net.onnx")
        model.graph.node[-1].output[0] = "logits"
        model.graph.node.append(helper.make_node(operator, ["logits"], ["scores"]))
        onnx.save_model(model, "net.onnx")
        logits, expected = both(f"net.onnx{REST},labels=labels.txt")
        probabilities = logits.softmax(1) if operator == "Softmax" else logits.sigmoid()
        assert logits.min() < 0
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)

    def test_channels_may_come_last_and_blue_first(self) -> None:
        values = {"first": weights(8, 3, 3, 3), "last": weights(8, CLASSES)}
        turn = helper.make_node("Transpose", ["photo"], ["turned"], perm=[0, 3, 1, 2])
        convolution = helper.make_node("Conv", ["turned", "first"], ["maps"], name="conv")
        nodes = [turn, convolution, *ends("maps", 8)]
        name = write(nodes, ("n", 16, 16, 3), values=values) + ",colours=bgr"
        classifier = load_model(name)
        photos = torch.randn(2, 3, 16, 16)
        (expected,) = open_session(Path("net.onnx").read_bytes()).run(
            None, {"photo": photos.flip(1).permute(0, 2, 3, 1).numpy()}
        )
        np.testing.assert_allclose(classifier.module(photos).detach(), expected, rtol=1e-4, atol=1e-5)

    def test_one_photo_at_a_time_becomes_any_number(self) -> None:
        flat = helper.make_node("Reshape", ["maps", "to"], ["flat"], name="flat")
        last = helper.make_node("Gemm", ["flat", "last"], ["scores"], name="scores")
        convolution = helper.make_node("Conv", ["photo", "first"], ["maps"], name="conv", strides=[4, 4])
        values = {"first": weights(8, 3, 4, 4), "last": weights(128, CLASSES), "to": np.array([1, 128])}
        name = write([convolution, flat, last], (1, 3, 16, 16), values=values)
        assert load_model(name).module(torch.randn(3, 3, 16, 16)).shape == (3, CLASSES)

    def test_what_the_file_says_need_not_be_said(self) -> None:
        said = {"Image.NominalPixelRange": "Normalized_0_1", "crop": "1", "interpolation": "bicubic"}
        simple(said=said | {"names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}"})
        classifier = load_model("net.onnx")
        assert (classifier.mean, classifier.std, classifier.labels) == ((0,) * 3, (255,) * 3, ("a", "b", "c", "d"))
        assert load_model("net.onnx,mean=0.5").mean == (127.5,) * 3

    def test_weights_may_be_inputs_as_in_old_files(self) -> None:
        nodes = [
            helper.make_node("Conv", ["photo", "first"], ["maps"], name="conv", auto_pad="VALID"),
            helper.make_node("Reshape", ["maps", "to"], ["flat"], name="flat"),
            helper.make_node("MatMul", ["flat", "last"], ["scores"], name="scores"),
        ]
        values = {
            "first": weights(8, 3, 3, 3),
            "last": weights(8 * 14 * 14, CLASSES),
            "to": np.array([-1, 8 * 14 * 14]),
        }
        name = write(nodes, values=values, opset=8)
        model = onnx.load("net.onnx")
        model.ir_version = 3
        for each in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, each.dims))
        onnx.save_model(model, "net.onnx")
        scores, expected = both(name)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("whole", [False, True])
    def test_sixteen_bits_are_computed_with_in_float32(self, whole: bool) -> None:
        """`whole` files take and give 16 bits, others turn float32 into them and back."""
        half = {
            name: value.astype(np.float16) for name, value in (("first", weights(8, 3, 3, 3)), ("last", weights(8, 4)))
        }
        ends_half = [
            helper.make_node("ReduceMean", ["maps"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "last"], ["scores" if whole else "half scores"]),
        ]
        convolution = helper.make_node("Conv", ["photo" if whole else "half photo", "first"], ["maps"], name="conv")
        nodes = [convolution, *ends_half]
        if not whole:
            nodes.insert(0, helper.make_node("Cast", ["photo"], ["half photo"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", ["half scores"], ["scores"], to=TensorProto.FLOAT))
        name = write(nodes, values=half, kind=TensorProto.FLOAT16 if whole else TensorProto.FLOAT)
        model = onnx.load("net.onnx")
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16 if whole else TensorProto.FLOAT
        onnx.save_model(model, "net.onnx")
        photos = torch.randn(2, 3, 16, 16)
        given = photos.numpy().astype(np.float16 if whole else np.float32)
        session = open_session(Path("net.onnx").read_bytes())
        expected = np.concatenate([session.run(None, {"photo": given[at : at + 1]})[0] for at in range(2)])
        classifier = load_model(name)
        assert {each.dtype for each in classifier.module.state_dict().values()} == {torch.float32}
        np.testing.assert_allclose(classifier.module(photos).detach(), expected, atol=5e-3)

    def test_scores_with_names_are_logits_and_labels(self) -> None:
        simple()
        model = onnx.load("net.onnx")
        model.graph.node[-1].output[0] = "logits"
        names = [b"ape", b"bee", b"cat", b"dog"]
        model.graph.node.extend(
            [
                helper.make_node("Softmax", ["logits"], ["shares"]),
                helper.make_node("ArgMax", ["shares"], ["best"], axis=1, keepdims=0),
                helper.make_node("ZipMap", ["shares"], ["scores"], domain="ai.onnx.ml", classlabels_strings=names),
            ]
        )
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
        del model.graph.output[:]
        shares = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
        kinds = helper.make_tensor_type_proto(TensorProto.INT64, None), helper.make_sequence_type_proto(shares)
        model.graph.output.extend(map(helper.make_value_info, ("best", "scores"), kinds))
        onnx.save_model(model, "net.onnx")
        session = open_session(Path("net.onnx").read_bytes())
        classifier = load_model(f"net.onnx{REST}")
        assert classifier.labels == ("ape", "bee", "cat", "dog")
        photo = torch.randn(1, 3, 16, 16)
        (expected,) = session.run(["scores"], {"photo": photo.numpy()})[0]
        found = classifier.module(photo).softmax(1)[0].tolist()
        np.testing.assert_allclose(found, [expected[label] for label in classifier.labels], rtol=1e-4)

    def test_one_score_is_the_second_of_two_labels(self) -> None:
        values = {"first": weights(8, 3, 3, 3), "last": weights(8, 1)}
        nodes = [helper.make_node("Conv", ["photo", "first"], ["maps"], name="conv"), *ends("maps", 8)]
        nodes[-1].output[0] = "logit"
        write([*nodes, helper.make_node("Sigmoid", ["logit"], ["scores"])], values=values)
        Path("two.txt").write_text("no\nyes\n")
        scores, expected = both(f"net.onnx{REST},labels=two.txt")
        np.testing.assert_allclose(scores.softmax(1)[:, 1:], expected, rtol=1e-4)

    def test_values_may_lie_beside_it(self) -> None:
        name = simple()
        before = load_model(name).module(torch.ones(1, 3, 16, 16))
        model = onnx.load("net.onnx")
        onnx.save_model(model, "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
        torch.testing.assert_close(load_model(name).module(torch.ones(1, 3, 16, 16)), before)

    def test_a_bundle_is_as_any_other(self, tmp_path: Path) -> None:
        classifier = load_model(exported(small.telling()))
        cut = next(cut.name for cut in cuts(classifier.module, classifier.input_size) if cut.shape == (12, 16, 16))
        net = insert(classifier, cut=cut, channels=4).eval()
        bundle, fidelity = export(net, tmp_path / "bundle", pixels=small.pixels(4))
        assert fidelity.symbols_equal > 0.999
        assert Bundle.load(bundle.path).manifest.model == "onnx/net"


class TestOperators:
    """Each against onnxruntime, on maps of 8 channels of 8 x 8 places."""

    @pytest.mark.parametrize(
        ("operator", "values", "attributes", "opset"),
        [
            ("Add", {"b": weights(8, 1, 1)}, {}, 14),
            ("Div", {"b": weights(8, 1, 1)}, {}, 14),
            ("PRelu", {"b": weights(8, 1, 1)}, {}, 16),
            ("Clip", {"b": np.float32(-0.1), "c": np.float32(0.2)}, {}, 13),
            ("Clip", {}, {"min": -0.1, "max": 0.2}, 7),
            ("LeakyRelu", {}, {"alpha": 0.2}, 16),
            ("Elu", {}, {}, 6 + 1),
            ("HardSigmoid", {}, {"alpha": 0.3}, 7),
            ("HardSwish", {}, {}, 14),
            ("Gelu", {}, {"approximate": "tanh"}, 20),
            ("Mish", {}, {}, 18),
            ("LRN", {}, {"size": 3, "alpha": 0.5}, 13),
            ("Softmax", {}, {"axis": 1}, 11),
            ("Softmax", {}, {"axis": 1}, 13),
            ("InstanceNormalization", {"b": weights(8), "c": weights(8)}, {}, 17),
            ("BatchNormalization", {"b": weights(8), "c": weights(8), "d": weights(8), "e": np.ones(8, "f")}, {}, 15),
            ("LayerNormalization", {"b": weights(8), "c": weights(8)}, {}, 17),
            ("MaxPool", {}, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, 12),
            ("AveragePool", {}, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, 11),
            ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 11),
            ("Conv", {"b": weights(8, 2, 3, 3)}, {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}, 11),
            ("ConvTranspose", {"b": weights(8, 4, 3, 3), "c": weights(4)}, {"strides": [2, 2]}, 11),
            ("GlobalAveragePool", {}, {}, 1 + 6),
            ("ReduceMean", {"b": np.array([2, 3])}, {"keepdims": 1}, 18),
            ("ReduceL2", {}, {"axes": [2, 3]}, 13),
            ("Pad", {"b": np.array([0, 0, 1, 2, 0, 0, 3, 0])}, {}, 13),
            ("Pad", {"b": np.array([0, 0, 1, 2, 0, 0, 3, 0])}, {"mode": "reflect"}, 18),
            ("Slice", {"b": np.array([1, 7]), "c": np.array([2**31, -(2**31)]), "d": np.array([2, 3]),
                       "e": np.array([2, -1])}, {}, 13),
            ("Gather", {"b": np.array([3, -1, 0])}, {"axis": 1}, 13),
            ("Gather", {"b": np.array([[3, -1, 0], [0, 1, 2]])}, {"axis": 2}, 13),
            ("ImageScaler", {}, {"bias": [0.1 * channel for channel in range(8)], "scale": 0.5}, 9),
            ("Transpose", {}, {"perm": [0, 2, 3, 1]}, 13),
            ("DepthToSpace", {}, {"blocksize": 2}, 13),
            ("DepthToSpace", {}, {"blocksize": 2, "mode": "CRD"}, 13),
            ("SpaceToDepth", {}, {"blocksize": 2}, 13),
            ("Resize", {"b": np.zeros(0, "f"), "c": np.array([1, 1, 2, 2], "f")}, {"mode": "linear"}, 13),
            ("Resize", {"b": np.zeros(0, "f"), "c": np.array([1, 1, 2, 2], "f")},
             {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 13),
            ("Upsample", {"b": np.array([1, 1, 2, 2], "f")}, {"mode": "nearest"}, 9),
            ("Flatten", {}, {"axis": 1}, 13),
            ("Unsqueeze", {"b": np.array([2])}, {}, 13),
            ("Expand", {"b": np.array([1, 8, 8, 8])}, {}, 13),
            ("MatMul", {"b": weights(8, 5)}, {}, 13),
        ],
    )  # fmt: skip
    def test_as_onnxruntime_has_it(
        self, operator: str, values: dict[str, Any], attributes: dict[str, Any], opset: int
    ) -> None:
        values = dict(values)
        body = [
            helper.make_node("Conv", ["photo", "first"], ["maps"], name="conv", strides=[2, 2]),
            helper.make_node(operator, ["maps", *values], ["more"], name="tried", **attributes),
            helper.make_node("Flatten", ["more"], ["flat"], name="flat"),
            helper.make_node("MatMul", ["flat", "last"], ["scores"], name="scores"),
        ]
        values |= {"first": weights(8, 3, 2, 2), "last": weights(1, CLASSES)}
        write(body[:2], values=values, opset=opset, outputs=["more"])
        probe = open_session(Path("net.onnx").read_bytes())
        (more,) = probe.run(None, {"photo": np.zeros((1, 3, 16, 16), np.float32)})
        name = write(body, values=values | {"last": weights(more.size, CLASSES)}, opset=opset)
        scores, expected = both(name)
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)

    def test_a_norm_may_be_of_tokens(self) -> None:
        values: dict[str, Any] = {
            "first": weights(8, 3, 2, 2),
            "last": weights(8 * 64, CLASSES),
            "to": np.array([0, 8, 64]),
        }
        values |= {"scale": weights(8), "bias": weights(8), "mean": weights(8), "variance": np.ones(8, np.float32)}
        nodes = [
            helper.make_node("Conv", ["photo", "first"], ["maps"], name="conv", strides=[2, 2]),
            helper.make_node("Reshape", ["maps", "to"], ["tokens"], name="tokens"),
            helper.make_node(
                "BatchNormalization", ["tokens", "scale", "bias", "mean", "variance"], ["norm"], name="norm"
            ),
            helper.make_node("Flatten", ["norm"], ["flat"], name="flat"),
            helper.make_node("MatMul", ["flat", "last"], ["scores"], name="scores"),
        ]
        scores, expected = both(write(nodes, values=values))
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)

    def test_a_graph_may_divide_and_join(self) -> None:
        nodes = [
            helper.make_node("Conv", ["photo", "first"], ["maps"], name="conv", strides=[2, 2]),
            helper.make_node("Split", ["maps"], ["a", "b"], name="parts", axis=1, num_outputs=2),
            helper.make_node("Concat", ["b", "extra", "a"], ["joined"], name="joined", axis=1),
            helper.make_node("GlobalMaxPool", ["joined"], ["most"], name="most"),
            helper.make_node("Squeeze", ["most", "axes"], ["row"], name="row"),
            helper.make_node("MatMul", ["row", "last"], ["scores"], name="scores"),
        ]
        values = {"first": weights(8, 3, 2, 2), "last": weights(10, CLASSES), "extra": weights(1, 2, 8, 8)}
        scores, expected = both(write(nodes, values=values | {"axes": np.array([2, 3])}, opset=18))
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


class TestRefusals:
    """One line each, that says what to do."""

    def refused(self, name: str) -> str:
        with pytest.raises(InputError) as caught:
            load_model(name)
        message = str(caught.value)
        assert "\n" not in message
        assert ";" in message
        return message

    @pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"not a network", b"\x08\x07"])
    def test_no_onnx(self, data: bytes) -> None:
        Path("net.onnx").write_bytes(data)
        assert "this is no ONNX file" in self.refused("net.onnx")

    def test_no_file(self) -> None:
        assert "No such file" in self.refused("missing.onnx")
        Path("folder.onnx").mkdir()
        assert "folder.onnx" in self.refused("folder.onnx")

    @pytest.mark.parametrize("missing", ["mean", "std", "crop", "interpolation", "labels"])
    def test_what_nobody_says(self, missing: str) -> None:
        settings = [each for each in simple().split(",") if not each.startswith(missing)]
        assert f"don't say {missing}" in self.refused(",".join(settings))

    def test_no_size_and_no_layout(self) -> None:
        assert "put behind the name ,size=" in self.refused(simple(shape=("n", 3, "h", "w")))
        assert load_model(simple(shape=("n", 3, "h", "w")) + ",size=24").preprocess.size == 24
        assert ",layout=nchw or ,layout=nhwc" in self.refused(simple(shape=("n", "c", "h", "w")) + ",size=24")
        assert load_model(simple(shape=("n", "c", "h", "w")) + ",size=24,layout=nchw").preprocess.size == 24

    def test_another_size_than_the_file_has(self) -> None:
        assert "its input is ?x3x16x16" in self.refused(simple() + ",size=24")
        assert "not nhwc" in self.refused(simple() + ",layout=nhwc")
        assert "square" in self.refused(simple(shape=("n", 3, 16, 24)))

    def test_labels_that_do_not_match(self) -> None:
        simple()
        Path("few.txt").write_text("a\nb\n")
        assert "2 labels, but the network gives 4 scores" in self.refused(f"net.onnx{REST},labels=few.txt")

    def test_scores_of_places_are_no_scores_of_classes(self) -> None:
        maps = helper.make_node("Conv", ["photo", "first"], ["scores"], name="conv")
        name = write([maps], values={"first": weights(8, 3, 3, 3)})
        assert "its output is ?x8x14x14, as of a detector or of a map" in self.refused(name)

    def test_what_is_for_one_photo_alone(self) -> None:
        nodes = [
            helper.make_node("Conv", ["photo", "first"], ["maps"], name="conv"),
            helper.make_node("Flatten", ["maps"], ["flat"], name="flat"),
            helper.make_node("Gather", ["flat", "none"], ["one"], name="one", axis=0),
            helper.make_node("MatMul", ["one", "last"], ["scores"], name="scores"),
        ]
        values = {"first": weights(8, 3, 3, 3), "last": weights(8 * 14 * 14, CLASSES), "none": np.array([0])}
        message = self.refused(write(nodes, values=values))
        assert "operator Gather of photos" in message
        assert "a number of photos that is free" in message

    def test_two_inputs_and_two_outputs(self) -> None:
        name = simple(outputs=["scores", "mean"])
        assert "2 outputs (scores, mean)" in self.refused(name)
        model = onnx.load("net.onnx")
        model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
        onnx.save_model(model, "net.onnx")
        assert "2 inputs (photo, mask)" in self.refused(name)

    def test_an_input_that_is_no_photo(self) -> None:
        cast = helper.make_node("Cast", ["photo"], ["float"], to=TensorProto.FLOAT)
        assert "its input is uint8" in self.refused(write([cast], kind=TensorProto.UINT8, outputs=["float"]))
        relu = helper.make_node("Relu", ["photo"], ["scores"])
        assert "2 dimensions" in self.refused(write([relu], ("n", 3)))

    def test_an_operator_without_a_counterpart(self) -> None:
        nodes = [
            helper.make_node("NonZero", ["photo"], ["places"], name="body/NonZero_3"),
            helper.make_node("Cast", ["places"], ["scores"], to=TensorProto.FLOAT),
        ]
        message = self.refused(write(nodes))
        assert "operator NonZero has no counterpart in torch here, at node body/NonZero_3" in message
        assert "package.module:function" in message

    def test_an_operator_of_another_maker(self) -> None:
        simple()
        model = onnx.load("net.onnx")
        model.graph.node[0].domain = "com.vendor"
        model.opset_import.append(helper.make_opsetid("com.vendor", 1))
        onnx.save_model(model, "net.onnx")
        assert "onnxruntime can't load it" in self.refused(f"net.onnx{REST},labels=labels.txt")

    def test_a_quantised_network(self) -> None:
        nodes = [helper.make_node("QuantizeLinear", ["photo", "scale"], ["q"], name="photo_q")]
        message = self.refused(write(nodes, values={"scale": np.float32(0.1)}, outputs=["q"]))
        assert "it is quantised (node photo_q, QuantizeLinear)" in message
        assert "--weights int8" in message

    def test_values_that_are_missing_or_elsewhere(self) -> None:
        name = simple()
        model = onnx.load("net.onnx")
        onnx.save_model(model, "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
        Path("net.bin").rename("other.bin")
        assert "net.bin: No such file" in self.refused(name)
        Path("net.bin").write_bytes(b"short")
        assert "can't be read" in self.refused(name)
        for place in ("../net.bin", "/etc/hostname"):
            model = onnx.load("net.onnx", load_external_data=False)
            for tensor in model.graph.initializer:
                next(each for each in tensor.external_data if each.key == "location").value = place
            onnx.save_model(model, "net.onnx")
            assert "outside its folder" in self.refused(name)

    def test_a_setting_for_another_source(self) -> None:
        with pytest.raises(InputError, match="is no setting"):
            load_model("timm/resnet18,layout=nhwc")


class TestRuns:
    @pytest.mark.slow
    def test_a_run_notices_another_file(self, here: Path) -> None:
        name = exported(small.telling())
        small.save_photos(here / "photos", 40)
        cut = next(cut.name for cut in cuts(load_model(name).module, (3, 32, 32)) if cut.shape == (12, 16, 16))
        config = replace(small.config_of(here, epochs=1, model=name), cut=cut)
        trained(config)
        assert runs.read_config(here / "run").model == pinned(name)
        trained(config)  # the same goes on
        bundle, _ = runs.export_run("run", "my.bundle")
        assert bundle.manifest.model == "onnx/net"
        exported(small.classifier())
        with pytest.raises(InputError, match="holds a run with model"):
            trained(config)
        with pytest.raises(InputError, match="it holds something else than when it was named"):
            runs.export_run("run", "my.bundle")


DETECTION = ",task=detection,threshold=0.1"


def yolo(module: nn.Module | None = None) -> str:
    """Write a YOLO as `net.onnx`."""
    module = small.yolo() if module is None else module
    example = torch.zeros(2, 3, small.SIZE, small.SIZE)
    Path("net.onnx").write_bytes(to_onnx(module, example, inputs=["photo"], outputs=["rows"]))
    return f"net.onnx,mean=0.5,std=0.25,crop=1,interpolation=bilinear,labels=labels.txt{DETECTION}"


class Others(nn.Module):
    """A YOLO whose rows something else is done to."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.module, self.change = small.yolo(), change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(self.module(x))


def in_pixels(rows: torch.Tensor) -> torch.Tensor:
    corners, cells = grid_of(small.SIZE)
    return torch.cat((rows[..., :2] * cells + corners, rows[..., 2:4].exp() * cells, rows[..., 4:]), 2)


class TestDetection:
    def test_a_row_is_a_box_and_its_scores(self) -> None:
        answer = RowsToBoxes(32, in_cells=True, most=3, least=0.05)
        rows = torch.zeros(1, 16 + 4 + 1, 5 + 2)
        rows[0, 5] = torch.tensor([0.5, 0.25, 0, math.log(2), 0.8, 0.5, 1])  # of the finest grid, row 1 and column 1
        rows[0, 20] = torch.tensor([0.5, 0.5, math.log(0.5), 0, 0.5, 0.2, 0])  # of the coarsest
        found = answer(rows)[0]
        expected = [[0.25, 0.0625, 0.5, 0.5625, 0.8, 1], [0.25, 0.0625, 0.5, 0.5625, 0.4, 0]]
        np.testing.assert_allclose(found[:2].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(found[2].numpy(), [0.25, 0, 0.75, 1, 0.1, 0], atol=1e-6)

    def test_boxes_that_cover_each_other_are_one(self) -> None:
        answer = RowsToBoxes(32, in_cells=False, most=4, least=0.05)
        rows = torch.tensor(
            [[[8, 8, 8, 8, 0.9, 1], [8, 9, 8, 8, 0.8, 1], [24, 8, 8, 8, 0.7, 1], [24, 24, 8, 8, 0.01, 1]]]
        )
        found = answer(rows)[0]
        np.testing.assert_allclose(found[:, 4].numpy(), [0.9, 0.7, 0, 0], atol=1e-6)
        assert not found[2:].any()

    @pytest.mark.parametrize("change", [lambda rows: rows, in_pixels], ids=["cells", "pixels"])
    def test_what_a_file_counts_in_is_found_out(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        classifier = load_model(yolo(Others(change)))
        photos = torch.randn(3, *classifier.input_size, generator=torch.Generator().manual_seed(0))
        expected = load_model(yolo())
        assert classifier.answer is not None
        assert expected.answer is not None
        with torch.no_grad():
            found, wanted = (each.answer(each.module(photos)) for each in (classifier, expected))
        assert classifier.task == Detection(21, 0.1)
        assert (wanted[..., 4] > 0.1).any()
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-4)

    def test_without_a_threshold_it_is_that_of_torchvisions(self) -> None:
        assert load_model(yolo().replace(",threshold=0.1", "")).task == Detection(21, 0.05)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda rows: rows.flatten(1), "its output is ?x189, and a detection's is rows of 4 + 1 + classes"),
            (lambda rows: rows[..., :-1], "its output is ?x21x8, and 4 labels need rows of 9"),
            (lambda rows: rows.transpose(1, 2), "its output is ?x9x21, and 4 labels need rows of 9"),
            (lambda rows: rows * 2, "from the fifth number of a row on there are others than 0 to 1"),
            (lambda rows: rows[:, :20], "its first four numbers are no centre and sides"),
            (
                lambda rows: (in_pixels(rows) / small.SIZE)[:, :20].clamp(max=1),
                "its first four numbers are no centre and sides",
            ),
        ],
    )
    def test_rows_that_are_no_boxes(self, change: Callable[[torch.Tensor], torch.Tensor], says: str) -> None:
        with pytest.raises(InputError) as caught:
            load_model(yolo(Others(change)))
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_several_outputs(self) -> None:
        model = onnx.load_model_from_string(Path(yolo().partition(",")[0]).read_bytes())
        model.graph.output.append(helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, None))
        onnx.save_model(model, "net.onnx")
        with pytest.raises(InputError, match="it has 2 outputs"):
            load_model(f"net.onnx{REST},labels=labels.txt{DETECTION}")

    def test_another_source_has_its_own_task(self) -> None:
        exported(small.classifier())
        with pytest.raises(InputError, match="its output is .x4, and a detection's is rows"):
            load_model(f"net.onnx{REST},labels=labels.txt{DETECTION}")

    def test_how_far_rows_are_off(self) -> None:
        answer = RowsToBoxes(32, in_cells=True, most=3, least=0.05)
        uncut = torch.rand(2, 21, 7, generator=torch.Generator().manual_seed(0))
        uncut[0, :, 4] = 0  # nothing is there, so boxes don't count
        moved = uncut.clone()
        moved[..., 0] += 0.1
        assert rows_error(answer, uncut, uncut).tolist() == pytest.approx([0, 0], abs=1e-4)
        none, some = rows_error(answer, moved, uncut).tolist()
        assert none < 1e-3 < some
        less = uncut.clone().requires_grad_()
        rows_error(answer, less * 0.5, uncut).sum().backward()
        assert less.grad is not None
        assert less.grad.isfinite().all()

    @pytest.mark.parametrize("codec", ["entropy", "raw"])
    def test_a_unit_learns_from_rows(self, codec: str, here: Path) -> None:
        name = yolo()
        small.save_photos(here / "photos", 40)
        cut = next(cut.name for cut in cuts(load_model(name).module, (3, 32, 32)) if cut.shape == (12, 16, 16))
        more = {"codec": codec, "largest_bytes": 400.0, "target_bytes": 0.0, "channels": 12, "tail_lr": 1e-4}
        config = replace(small.config_of(here, epochs=3, model=name), cut=cut, quality=-1, feature_weight=1.0, **more)
        trained(config)
        lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
        first, last = (line["held_out"][-1] for line in (lines[0], lines[-1]) if "held_out" in line)
        assert last["distillation"] <= first["distillation"]
        bundle, _ = runs.export_run("run", "my.bundle")
        assert bundle.manifest.task == Detection(21, 0.1)


def trained(config: TrainConfig) -> None:
    with Progress(disable=True) as progress:
        train(config, progress)
