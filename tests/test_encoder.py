from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.edge import Encoder, prepare
from bottlenet.errors import BundleError, InputError, PhotoError
from bottlenet.runtime import open_session, run_graph
from bottlenet.wire.frame import parse_frame
from conftest import LATENT, SIZE, MakeBundle, graph_bytes, head_nodes, tiny_manifest


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> Encoder:
    return Encoder(bundle)


def test_symbols_are_the_means_of_patches(encoder: Encoder, bundle: Bundle, photo: np.ndarray) -> None:
    """Computed here with numpy alone."""
    symbols = encoder.symbols(photo)
    assert symbols.shape == LATENT
    assert symbols.dtype == np.uint8
    pixels = prepare(photo, bundle.manifest.preprocess).astype(np.float64)
    means = pixels.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    expected = np.concatenate([means, means.mean(axis=0, keepdims=True)])
    assert np.abs(symbols - expected).max() <= 0.5 + 1e-4


def test_encode(encoder: Encoder, bundle: Bundle, photo: np.ndarray) -> None:
    encoded = encoder.encode(photo, sequence=513)
    np.testing.assert_array_equal(encoded.symbols, encoder.symbols(photo))
    frame = encoded.frame
    assert (frame.codec, frame.setting, frame.bundle_tag, frame.sequence) == (2, 90, bundle.tag, 513)
    np.testing.assert_array_equal(
        bundle.codec.decode(frame.payload), bundle.codec.round_trip(encoded.symbols[None])[0][0]
    )
    assert parse_frame(frame.to_bytes(), bundle_tag=bundle.tag) == frame
    assert min(encoded.prepare_ms, encoded.head_ms, encoded.encode_ms) > 0


@pytest.mark.parametrize(("codec", "setting"), [("raw", 0), ("deflate", 9), ("webp", 50)])
def test_every_codec(make_bundle: MakeBundle, photo: np.ndarray, codec: str, setting: int) -> None:
    bundle = make_bundle(codec=codec, setting=setting)
    encoded = Encoder(bundle).encode(photo)
    symbols_hat = bundle.codec.decode(encoded.frame.payload)
    assert symbols_hat.shape == LATENT
    if codec != "webp":
        np.testing.assert_array_equal(symbols_hat, encoded.symbols)


def test_a_photo_that_can_not_be_used(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"gone\.jpg"):
        encoder.encode(tmp_path / "gone.jpg")


class TestGraphs:
    """A bundle whose files are whole, but whose graphs are not what the manifest says."""

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"latent": (3, 8, 8)}, r"output has shape .*\(batch, 3, 8, 8\)"),
            ({"latent": (4, 8, 4)}, r"output has shape .*\(batch, 4, 8, 4\)"),
        ],
    )
    def test_other_shape(self, files: dict[str, bytes], tmp_path: Path, changes: dict[str, object], says: str) -> None:
        with pytest.raises(BundleError, match=says):
            Encoder(write_bundle(tmp_path / "new", tiny_manifest(**changes), files))

    def test_other_shape_where_the_graph_leaves_it_open(self, files: dict[str, bytes], tmp_path: Path) -> None:
        nodes, constants = head_nodes()
        pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", "rows", "columns", 3])
        symbols = helper.make_tensor_value_info("symbols", TensorProto.UINT8, ["batch", 4, "h", "w"])
        head = graph_bytes(nodes, [pixels], [symbols], constants)
        bundle = write_bundle(tmp_path / "new", tiny_manifest(latent=(4, 8, 4)), {**files, "head.onnx": head})
        with pytest.raises(BundleError, match=r"gives symbols of shape \(1, 4, 8, 8\), not .* 4, 8, 4\)"):
            Encoder(bundle)

    @pytest.mark.parametrize(
        ("name", "says"), [("tail.onnx", "input is symbols .* not input pixels"), ("uncut.onnx", "output is scores")]
    )
    def test_another_graph(self, files: dict[str, bytes], tmp_path: Path, name: str, says: str) -> None:
        bundle = write_bundle(tmp_path / "new", tiny_manifest(), {**files, "head.onnx": files[name]})
        with pytest.raises(BundleError, match=says):
            Encoder(bundle)

    @pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x01" * 50])
    def test_no_graph(self, files: dict[str, bytes], tmp_path: Path, content: bytes) -> None:
        bundle = write_bundle(tmp_path / "new", tiny_manifest(), {**files, "head.onnx": content})
        with pytest.raises(BundleError, match="can't load it") as error:
            Encoder(bundle)
        assert "\n" not in str(error.value)

    def test_inputs_that_do_not_fit(self, bundle: Bundle) -> None:
        session = open_session(bundle.path / "head.onnx")
        with pytest.raises(BundleError, match="can't run"):
            run_graph(session, pixels=np.zeros((1, SIZE, SIZE, 4), np.uint8))


class TestSession:
    def test_bytes_and_paths(self, bundle: Bundle, files: dict[str, bytes]) -> None:
        for graph in (bundle.path / "head.onnx", str(bundle.path / "head.onnx"), files["head.onnx"]):
            assert isinstance(open_session(graph), onnxruntime.InferenceSession)

    def test_threads(self, bundle: Bundle) -> None:
        assert open_session(bundle.path / "head.onnx").get_session_options().intra_op_num_threads == 1
        assert open_session(bundle.path / "head.onnx", threads=2).get_session_options().intra_op_num_threads == 2
        with pytest.raises(InputError, match="threads is 0; give 1 or more"):
            open_session(bundle.path / "head.onnx", threads=0)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"gone\.onnx"):
            open_session(tmp_path / "gone.onnx")


MEASURE = """
import sys
from pathlib import Path
from bottlenet import Edge
edge = Edge(sys.argv[1], "ws://localhost:9")
for _ in range(3):
    edge.encode(sys.argv[2])
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(lines["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_a_device_process_stays_small(bundle: Bundle, photo_path: Path) -> None:
    """Python, numpy, onnxruntime, Pillow, websockets and a tiny network: what is left of 150 MiB is for the head."""
    command = [sys.executable, "-c", MEASURE, str(bundle.path), str(photo_path)]
    resident_mib = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert resident_mib < 110
