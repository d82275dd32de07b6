from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.cloud import Decoder
from bottlenet.edge import Encoder
from bottlenet.errors import BundleError, FrameError, PayloadError, WireError
from bottlenet.wire.answer import Answer, best, parse_answer
from bottlenet.wire.codecs import make_codec
from bottlenet.wire.frame import Frame
from conftest import CLASSES, LATENT, MakeBundle, graph_bytes, tiny_manifest


@pytest.fixture(scope="module")
def decoder(bundle: Bundle) -> Decoder:
    return Decoder(bundle)


@pytest.fixture(scope="module")
def frames(bundle: Bundle, photo: np.ndarray) -> list[Frame]:
    """Of four different photos."""
    encoder = Encoder(bundle)
    return [encoder.encode(np.roll(photo, 15 * number, axis=1), number).frame for number in range(4)]


def test_decode(decoder: Decoder, bundle: Bundle, frames: list[Frame]) -> None:
    for frame in frames:
        symbols = decoder.decode(frame)
        assert symbols.shape == LATENT
        assert symbols.dtype == np.uint8
        np.testing.assert_array_equal(symbols, bundle.codec.decode(frame.payload))


def test_scores_are_those_of_the_tail(decoder: Decoder, bundle: Bundle, frames: list[Frame]) -> None:
    scored = decoder.scores(frames)
    session = onnxruntime.InferenceSession(str(bundle.path / "tail.onnx"), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"symbols": np.stack([decoder.decode(frame) for frame in frames])})[0]
    np.testing.assert_allclose(scored.scores, expected, rtol=1e-4, atol=1e-4)
    assert scored.scores.dtype == np.float32
    assert scored.errors == (None,) * 4
    assert scored.decode_us > 0
    assert scored.tail_us > 0


def test_lossless_edge_to_cloud_is_the_uncut_network(make_bundle: MakeBundle, photo: np.ndarray) -> None:
    bundle = make_bundle(codec="deflate", setting=9)
    frame = Encoder(bundle).encode(photo).frame
    session = onnxruntime.InferenceSession(str(bundle.uncut_path), providers=["CPUExecutionProvider"])
    from bottlenet.edge import prepare

    expected = session.run(None, {"pixels": prepare(photo, bundle.manifest.preprocess)[None]})[0]
    np.testing.assert_allclose(Decoder(bundle).scores([frame]).scores, expected, rtol=1e-4, atol=1e-4)


def test_one_photo_scores_the_same_alone_and_in_a_batch(decoder: Decoder, frames: list[Frame]) -> None:
    together = decoder.scores(frames).scores
    for number, frame in enumerate(frames):
        np.testing.assert_allclose(decoder.scores([frame]).scores[0], together[number], rtol=1e-5, atol=1e-5)


class TestBadFrames:
    def test_they_do_not_spoil_the_batch(self, decoder: Decoder, frames: list[Frame]) -> None:
        good = decoder.scores(frames).scores
        batch = [
            dataclasses.replace(frames[0], payload=b""),
            frames[0],
            dataclasses.replace(frames[1], payload=b"\xff\xd9 no scan"),
            dataclasses.replace(frames[1], bundle_tag=b"xyz"),
            frames[1],
            dataclasses.replace(frames[2], codec=9),
            dataclasses.replace(frames[2], setting=0),
            frames[2],
        ]
        scored = decoder.scores(batch)
        kinds = [type(error) for error in scored.errors]
        nothing = type(None)
        assert kinds == [
            PayloadError, nothing, PayloadError, FrameError, nothing, FrameError, FrameError, nothing,
        ]  # fmt: skip
        np.testing.assert_allclose(scored.scores[[1, 4, 7]], good[:3], rtol=1e-5, atol=1e-5)
        assert np.isnan(scored.scores[[0, 2, 3, 5, 6]]).all()
        answers = decoder.answers(batch)
        for number, answer in enumerate(answers):
            assert isinstance(answer, Answer if kinds[number] is nothing else WireError)

    def test_nothing_but_bad_ones(self, decoder: Decoder, frames: list[Frame]) -> None:
        scored = decoder.scores([dataclasses.replace(frames[0], payload=b"")] * 2)
        assert all(isinstance(error, PayloadError) for error in scored.errors)
        assert scored.tail_us == 0
        assert decoder.answers([]) == []

    def test_decode_raises(self, decoder: Decoder, frames: list[Frame]) -> None:
        with pytest.raises(FrameError, match="frame is for bundle 78797a"):
            decoder.decode(dataclasses.replace(frames[1], bundle_tag=b"xyz"))

    def test_messages(self, decoder: Decoder, frames: list[Frame]) -> None:
        errors = decoder.scores(
            [dataclasses.replace(frames[0], codec=9), dataclasses.replace(frames[0], setting=0)]
        ).errors
        assert "codec 9; this side knows 0 (raw), 1 (deflate)" in str(errors[0])
        assert "quality is 0" in str(errors[1])


def test_a_device_may_choose_another_codec(decoder: Decoder, bundle: Bundle, frames: list[Frame]) -> None:
    symbols = decoder.decode(frames[0])
    for name, setting in (("raw", 0), ("deflate", 1), ("jpeg", 100)):
        codec = make_codec(name, bundle.mosaic, setting)
        frame = Frame(codec.code, setting, bundle.tag, 0, codec.encode(symbols))
        assert np.abs(decoder.decode(frame).astype(int) - symbols).max() <= (1 if name == "jpeg" else 0)


class TestAnswers:
    def test_best_first_and_what_they_took(self, decoder: Decoder, frames: list[Frame]) -> None:
        scores = decoder.scores(frames).scores
        for number, answer in enumerate(decoder.answers(frames)):
            assert isinstance(answer, Answer)
            assert answer.sequence == number
            assert answer.decode_us > 0
            assert answer.tail_us > 0
            assert [index for index, _ in answer.top] == list(np.argsort(-scores[number]))[:5]
            assert parse_answer(answer.to_bytes()).top[0][0] == answer.top[0][0]

    def test_probabilities(self) -> None:
        top = best(np.log(np.array([0.1, 0.2, 0.7], np.float32)))
        assert [index for index, _ in top] == [2, 1, 0]
        np.testing.assert_allclose([share for _, share in top], [0.7, 0.2, 0.1], rtol=1e-6)

    def test_probabilities_of_large_scores(self) -> None:
        top = best(np.array([-3e38, 3e38, 0], np.float32))
        assert top[0] == (1, 1.0)
        assert sum(share for _, share in top) == 1.0

    def test_the_first_of_equals_wins(self) -> None:
        assert [index for index, _ in best(np.zeros(CLASSES, np.float32))] == [0, 1, 2, 3, 4]

    def test_scores_that_are_no_numbers(
        self, decoder: Decoder, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nan = np.full((2, CLASSES), np.nan, np.float32)
        nan[1] = 0
        monkeypatch.setattr("bottlenet.cloud.decoder.run_graph", lambda session, **inputs: nan)
        first, second = decoder.answers(frames[:2])
        assert isinstance(first, BundleError)
        assert isinstance(second, Answer)


def test_a_tail_that_is_another_graph(files: dict[str, bytes], tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "new", tiny_manifest(), {**files, "tail.onnx": files["head.onnx"]})
    with pytest.raises(BundleError, match="input is pixels"):
        Decoder(bundle)


def test_a_tail_of_other_classes_where_the_graph_leaves_it_open(files: dict[str, bytes], tmp_path: Path) -> None:
    symbols = helper.make_tensor_value_info("symbols", TensorProto.UINT8, ["batch", "c", "h", "w"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "classes"])
    nodes = [
        helper.make_node("Cast", ["symbols"], ["latent"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["latent"], ["scores"]),
    ]
    tail = graph_bytes(nodes, [symbols], [scores], {})
    bundle = write_bundle(tmp_path / "new", tiny_manifest(), {**files, "tail.onnx": tail})
    with pytest.raises(BundleError, match=r"tail\.onnx: it gives scores of shape \(1, 256\), not .* 10\)"):
        Decoder(bundle)
