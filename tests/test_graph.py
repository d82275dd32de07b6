"""Graphs whose weights are in another file are refused wherever a graph is read."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.bundle import graph as graph_module
from bottlenet.bundle.graph import any_size, encoded, fault, varint
from bottlenet.bundle.ladder import write_ladder
from bottlenet.errors import BundleError
from bottlenet.runtime import SmallerPhotos, open_session
from conftest import pooling_files, tiny_files, tiny_manifest

GRAPH = pooling_files()["uncut.onnx"]
GRAPH_CUT = GRAPH[: len(GRAPH) // 2]
VALUES = np.arange(64, dtype=np.float32)
ELSEWHERE = "weights.bin"


def tensor(name: str = "w", *, location: str | None = ELSEWHERE) -> onnx.TensorProto:
    """64 numbers in another file, or in the graph."""
    made = numpy_helper.from_array(VALUES, name)
    if location is not None:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value=location)
    return made


def model(
    nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], **more: list[onnx.SparseTensorProto]
) -> onnx.ModelProto:
    vector = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "plus", vector[:1], vector[1:], initializers, **more)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_initializer() -> onnx.ModelProto:
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor()])


def in_constant() -> onnx.ModelProto:
    return model(
        [helper.make_node("Constant", [], ["w"], value=tensor()), helper.make_node("Add", ["x", "w"], ["y"])], []
    )


def sparse() -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(tensor(), numpy_helper.from_array(np.arange(64), "places"), [64])


def in_sparse_initializer() -> onnx.ModelProto:
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [], sparse_initializer=[sparse()])


def in_sparse_attribute() -> onnx.ModelProto:
    return model([helper.make_node("Constant", [], ["w"], sparse_value=sparse())], [])


def in_branch(depth: int = 1) -> onnx.ModelProto:
    inner = in_initializer().graph
    for _ in range(depth):
        node = helper.make_node("If", ["true"], ["y"], then_branch=inner)
        inner = helper.make_graph([node], "branch", [], [])
    return model(list(inner.node), [])


def in_function() -> onnx.ModelProto:
    made = model([helper.make_node("Plus", ["x"], ["y"], domain="own")], [])
    nodes = in_constant().graph.node
    made.functions.append(helper.make_function("own", "Plus", ["x"], ["y"], list(nodes), [helper.make_opsetid("", 17)]))
    return made


def in_training() -> onnx.ModelProto:
    made = model([helper.make_node("Identity", ["x"], ["y"])], [])
    made.training_info.add().algorithm.CopyFrom(in_constant().graph)
    return made


def in_lists() -> onnx.ModelProto:
    node = helper.make_node("Own", ["x"], ["y"], tensors=[tensor(location=None), tensor()])
    return model([node], [])


PLACES = [
    in_initializer,
    in_constant,
    in_sparse_initializer,
    in_sparse_attribute,
    in_branch,
    in_function,
    in_training,
    in_lists,
]


class TestPlaces:
    @pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
    def test_are_all_found(self, place: Callable[[], onnx.ModelProto]) -> None:
        data = place().SerializeToString()
        said = fault(lambda: [data])
        assert said is not None
        assert said.startswith("its tensor 'w' has its values in another file (external data)")
        assert "save_as_external_data=False" in said
        for size in (1, 3, 7):  # however the file comes in chunks
            assert fault(lambda size=size: [data[at : at + size] for at in range(0, len(data), size)]) == said

    def test_values_inside_are_no_fault(self) -> None:
        named = tensor("location", location=None)
        named.data_location = TensorProto.DEFAULT
        data = model([helper.make_node("Add", ["x", "location"], ["y"])], [named]).SerializeToString()
        assert fault(lambda: [data]) is None

    def test_one_field_of_the_two_is_enough(self) -> None:
        for leave_out in ("external_data", "data_location"):
            made = tensor()
            made.ClearField(leave_out)
            made.doc_string = "location"  # so that it is looked at
            data = model([helper.make_node("Add", ["x", "w"], ["y"])], [made]).SerializeToString()
            assert "its tensor 'w'" in str(fault(lambda data=data: [data]))

    def test_a_name_is_short_and_on_one_line(self) -> None:
        for name, says in (("", "its tensor without a name"), ("a\nb\x1b", r"'a\nb\x1b'"), ("x" * 10_000, "'xxx")):
            data = model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor(name)]).SerializeToString()
            said = str(fault(lambda data=data: [data]))
            assert says in said
            assert len(said) < 400
            assert said.isprintable()


class TestBounds:
    def test_graphs_in_graphs(self) -> None:
        """To any depth that protobuf reads, and no error of Python's where it is deeper."""
        assert "its tensor 'w'" in str(fault(lambda: [in_branch(20).SerializeToString()]))
        nested = in_initializer().graph.SerializeToString()
        for _ in range(5000):
            for field in (6, 5, 1):  # a graph in an attribute of a node of a graph
                nested = bytes([field << 3 | 2]) + length(nested) + nested
        deep = bytes([7 << 3 | 2]) + length(nested) + nested
        assert "more than 100 messages in one another" in str(fault(lambda: [deep]))

    def test_many_fields(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(graph_module, "MAX_FIELDS", 1000)
        crowd = in_constant().SerializeToString() + b"\x08\x01" * 1000
        assert "its tensor 'w'" in str(fault(lambda: [crowd]))  # found before
        crowd = b"\x08\x01" * 1000 + in_constant().SerializeToString()
        assert "more than 1000 fields" in str(fault(lambda: [crowd]))

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        said = fault(lambda: [b"location" + data])
        assert said is None or "\n" not in said

    @given(st.integers(0, 400), st.integers(0, 255))
    def test_one_byte_changed(self, place: int, value: int) -> None:
        """It never says that nothing is elsewhere where onnx reads otherwise."""
        data = bytearray(in_constant().SerializeToString())
        data[place % len(data)] = value
        said = fault(lambda: [bytes(data)])
        try:
            read = onnx.load_model_from_string(bytes(data))
        except Exception:
            return
        constants = [attribute.t for node in read.graph.node for attribute in node.attribute]
        outside = [one for one in constants if any(each.key == "location" for each in one.external_data)]
        assert said is not None or not outside


def length(data: bytes) -> bytes:
    """As protobuf writes it."""
    digits = []
    left = len(data)
    while left > 127:
        digits.append(left & 127 | 128)
        left >>= 7
    return bytes([*digits, left])


class TestWhereGraphsAreRead:
    @pytest.fixture(autouse=True)
    def weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The other file is where onnxruntime looks for it."""
        (tmp_path / ELSEWHERE).write_bytes(VALUES.tobytes())
        monkeypatch.chdir(tmp_path)

    def test_a_session_of_bytes_or_of_a_file(self, tmp_path: Path) -> None:
        data = in_initializer().SerializeToString()
        # Alone it reads what is in the working directory.
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        assert np.array_equal(session.run(None, {"x": VALUES})[0], 2 * VALUES)
        (tmp_path / "plus.onnx").write_bytes(data)
        for graph, called in (
            (data, "graph"),
            (tmp_path / "plus.onnx", "plus.onnx"),
            (str(tmp_path / "plus.onnx"), "plus.onnx"),
        ):
            with pytest.raises(BundleError, match=f"{called}: its tensor 'w' has its values in another file"):
                open_session(graph)

    def test_the_other_format_of_onnxruntime(self, tmp_path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "plus.ort")
        options.add_session_config_entry("session.save_model_format", "ORT")
        plain = model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor(location=None)]).SerializeToString()
        onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
        for graph in ((tmp_path / "plus.ort").read_bytes(), tmp_path / "plus.ort"):
            with pytest.raises(BundleError, match="can't load it"):
                open_session(graph)

    def test_a_bundle(self, tmp_path: Path) -> None:
        files = tiny_files()
        for name in ("head.onnx", "tail.onnx", "uncut.onnx"):
            made = onnx.load_model_from_string(files[name])
            made.graph.initializer.append(tensor("extra"))
            data = made.SerializeToString()
            with pytest.raises(BundleError, match=f"{name} can't be used: its tensor 'extra' has its values"):
                write_bundle(tmp_path / "new", tiny_manifest(), {**files, name: data})
            assert not (tmp_path / "new").exists()

    def test_a_rung_of_a_ladder(self, bundle: Bundle, tmp_path: Path) -> None:
        """Put together by hand: `Bundle.load` takes no such bundle."""
        outside = onnx.load_model_from_string(tiny_files()["head.onnx"])
        outside.graph.initializer.append(tensor("extra"))
        copied = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
        (copied / "head.onnx").write_bytes(outside.SerializeToString())
        digest = hashlib.sha256(outside.SerializeToString()).hexdigest()
        manifest = dataclasses.replace(bundle.manifest, files={**bundle.manifest.files, "head.onnx": digest})
        (copied / "manifest.json").write_bytes(manifest.to_json())
        with pytest.raises(BundleError, match=r"head.onnx can't be used: its tensor 'extra' has its values"):
            write_ladder("my.ladder", [dataclasses.replace(bundle, path=copied, manifest=manifest)])
        assert not Path("my.ladder").exists()

    def test_an_id_stands_for_all_weights(self, tmp_path: Path) -> None:
        """Two bundles of one id can't answer differently: what is beside the graph is never read."""
        files = {**tiny_files(), "tail.onnx": in_initializer().SerializeToString()}
        with pytest.raises(BundleError, match="no bundle's id covers"):
            write_bundle(tmp_path / "new", tiny_manifest(), files)
        assert os.listdir(tmp_path) == [ELSEWHERE]


class TestAnySize:
    def test_what_a_graph_says_at_another_size_is_what_one_of_that_size_says(self) -> None:
        opened = open_session(any_size(pooling_files(32)["uncut.onnx"]))
        for side in (16, 24, 32):
            pixels = np.random.default_rng(side).integers(0, 256, (2, side, side, 3), np.uint8)
            (want,) = open_session(pooling_files(side)["uncut.onnx"]).run(None, {"pixels": pixels})
            np.testing.assert_array_equal(opened.run(None, {"pixels": pixels})[0], want)

    def test_only_what_says_sizes_is_left_out(self) -> None:
        before, after = (onnx.load_from_string(each) for each in (GRAPH, any_size(GRAPH)))
        onnx.checker.check_model(after)
        assert not after.graph.value_info
        for dimension in before.graph.input[0].type.tensor_type.shape.dim:
            dimension.ClearField("dim_value")
        del before.graph.value_info[:]
        assert after == before

    @pytest.mark.parametrize("graph", [b"nothing", GRAPH_CUT])
    def test_no_graph(self, graph: bytes) -> None:
        with pytest.raises(ValueError, match="wire type 6|longer than its message"):
            any_size(graph)

    @given(st.integers(0, 2**63))
    def test_integers(self, value: int) -> None:
        assert varint(encoded(value), 0, 10) == (value, len(encoded(value)))

    def test_sizes_at_which_it_runs(self, bundle: Bundle, tmp_path: Path) -> None:
        assert SmallerPhotos(bundle).sizes == []  # its matrix is for one size
        assert SmallerPhotos(write_bundle(tmp_path / "pooling", tiny_manifest(), pooling_files())).sizes == [24, 16]
