"""A device that answers by itself where it is sure, and sends the rest."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from onnx import helper

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.edge import Answered, Backoff, Edge, Encoder, Sender, Spool
from bottlenet.edge.encoder import bound_of
from bottlenet.errors import BundleError, InputError
from bottlenet.measure.evaluate import evaluate
from bottlenet.photo import photo_to_pixels
from bottlenet.wire.answer import best
from bottlenet.wire.frame import STREAM_HEADER_BYTES, Frame
from conftest import CLASSES, exit_files, exit_manifest
from network import Network, class_of, make_album

COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_album(tmp_path_factory.mktemp("album"), COUNT).iterdir())


@pytest.fixture(scope="module")
def confidences(exit_bundle: Bundle, photos: list[Path]) -> list[float]:
    encoder = Encoder(exit_bundle)
    pixels = [photo_to_pixels(photo, exit_bundle.manifest.preprocess)[None] for photo in photos]
    return [best(encoder.head.look(each)[0][0])[0][1] for each in pixels]


@pytest.fixture(scope="module")
def bound(confidences: list[float]) -> float:
    """A bound that half of the photos reach."""
    return float(np.median(confidences))


def no_connection(url: str, timeout_s: float) -> NoReturn:
    raise AssertionError("a connection was opened")


class TestEncoder:
    def test_the_sure_ones_are_answered_and_the_others_sent(
        self, exit_bundle: Bundle, photos: list[Path], confidences: list[float], bound: float
    ) -> None:
        encoder, always = Encoder(exit_bundle, sure=bound), Encoder(exit_bundle, sure=1)
        results = [encoder.work(photo).result for photo in photos]
        assert [not isinstance(result, Frame) for result in results] == [each >= bound for each in confidences]
        for photo, result, confidence in zip(photos, results, confidences, strict=True):
            if isinstance(result, Frame):
                assert result == always.work(photo).result == encoder.encode(photo).frame
            else:
                assert result.top[0][1] == pytest.approx(confidence)

    def test_the_bundles_own_bound_and_the_ends(self, exit_bundle: Bundle, bundle: Bundle, photos: list[Path]) -> None:
        assert (bound_of(exit_bundle, None), bound_of(bundle, None)) == (0.5, 1.0)
        assert not isinstance(Encoder(exit_bundle, sure=0).work(photos[0]).result, Frame)
        assert isinstance(Encoder(bundle).work(photos[0]).result, Frame)

    @pytest.mark.parametrize("sure", [-0.1, 1.1, float("nan")])
    def test_refused_bounds(self, exit_bundle: Bundle, sure: float) -> None:
        with pytest.raises(InputError, match="give a confidence from 0 to 1"):
            Encoder(exit_bundle, sure=sure)

    def test_a_bundle_without_an_exit_has_no_bound(self, bundle: Bundle) -> None:
        with pytest.raises(InputError, match="tiny has no exit, so it sends every photo: leave out sure"):
            Encoder(bundle, sure=0.5)

    def test_scores_that_are_no_numbers_send_everything(self, tmp_path: Path, photos: list[Path]) -> None:
        lies = [
            helper.make_node("Sub", ["all", "all"], ["zero"]),
            helper.make_node("Div", ["zero", "zero"], ["scores"]),
        ]
        liar = write_bundle(tmp_path / "liar", exit_manifest(), exit_files(lies))
        assert all(isinstance(Encoder(liar, sure=0).work(photo).result, Frame) for photo in photos)

    def test_scores_that_are_all_the_same_send_everything(self, tmp_path: Path, photos: list[Path]) -> None:
        lies = [helper.make_node("Sub", ["all", "all"], ["scores"])]
        liar = write_bundle(tmp_path / "liar", exit_manifest(), exit_files(lies))
        assert all(isinstance(Encoder(liar).work(photo).result, Frame) for photo in photos)


class TestBundle:
    def test_an_exit_of_other_classes_is_refused(self, tmp_path: Path) -> None:
        other = write_bundle(tmp_path / "other", exit_manifest(), exit_files(classes=CLASSES - 1))
        with pytest.raises(BundleError, match=r"exit.onnx: its output has shape"):
            Encoder(other)

    @pytest.mark.parametrize("without", ["exit", "exit.onnx"])
    def test_manifest_and_files_agree(self, tmp_path: Path, files: dict[str, bytes], without: str) -> None:
        content = exit_files()
        manifest = exit_manifest()
        if without == "exit":
            object.__setattr__(manifest, "exit", None)
        else:
            del content["exit.onnx"]
        with pytest.raises(BundleError, match="must have exit and list exit.onnx, or neither"):
            write_bundle(tmp_path / "new", manifest, content)

    def test_it_loads_again_with_its_id(self, exit_bundle: Bundle) -> None:
        assert Bundle.load(exit_bundle.path).id == exit_bundle.id
        assert exit_bundle.manifest.format_version == 3


class TestEdge:
    def test_nothing_is_sent_for_a_sure_answer(
        self, exit_bundle: Bundle, photos: list[Path], confidences: list[float], bound: float
    ) -> None:
        network = Network()
        with Edge(exit_bundle, "ws://nowhere", connect=network.connect, sure=bound) as edge:
            found = [edge.classify(photo) for photo in photos]
            many = list(edge.classify_many(photos, in_flight=3))
        assert [each.answered_by for each in found] == [
            "device" if confidence >= bound else "server" for confidence in confidences
        ]
        assert [each.class_index for each in many] == [each.class_index for each in found]
        for each in (*found, *many):
            assert (each.payload_bytes == 0) == (each.frame_bytes == 0) == (each.answered_by == "device")
            assert each.times.round_trip_ms == 0 or each.answered_by == "server"

    def test_no_connection_is_opened_while_the_device_is_sure(self, exit_bundle: Bundle, photos: list[Path]) -> None:
        with Edge(exit_bundle, "ws://nowhere", connect=no_connection, sure=0) as edge:
            assert {edge.classify(photo).socket_bytes for photo in photos} == {0}


class TestSender:
    def test_each_photo_is_answered_once_whoever_answers(
        self, exit_bundle: Bundle, photos: list[Path], confidences: list[float], bound: float, tmp_path: Path
    ) -> None:
        encoder, network = Encoder(exit_bundle), Network()

        def send() -> list[Answered]:
            edge = Edge(exit_bundle, "ws://nowhere", connect=network.connect, sure=bound)
            with edge, Spool(tmp_path / "spool", exit_bundle) as spool:
                sender = Sender(edge, spool, backoff=Backoff(), sleep=lambda seconds: None)
                outcomes = list(sender.send(photos))
                assert not sender.waiting
            return [each for each in outcomes if isinstance(each, Answered)]

        first = {each.photo: each for each in send()}
        assert len(first) == len(photos)
        for photo, confidence in zip(photos, confidences, strict=True):
            answered = first[str(photo)]
            if confidence >= bound:
                assert (answered.by, answered.tries, answered.frame_bytes, answered.payload_bytes) == (
                    "device",
                    0,
                    0,
                    0,
                )
            else:
                payload = encoder.encode(photo).frame.payload
                assert (answered.by, answered.top[0].class_index) == ("server", class_of(payload))
                assert answered.frame_bytes == len(payload) + STREAM_HEADER_BYTES
        again = send()
        assert all(each.again for each in again)
        assert {each.photo: each.top for each in again} == {photo: each.top for photo, each in first.items()}


def test_evaluation_counts_what_is_sent(exit_bundle: Bundle, photos: list[Path], bound: float) -> None:
    got = evaluate(exit_bundle, photos[0].parent, sure=bound)
    always, never = (evaluate(exit_bundle, photos[0].parent, sure=each) for each in (1, 0))
    assert (got.sent_share, always.sent_share, never.sent_share) == (0.5, 1, 0)
    assert got.decision_bytes is not None
    assert got.decision_bytes.mean == pytest.approx(got.payload_bytes.mean / 2)
    assert got.mean_flops_share == pytest.approx((0.4 + 0.5) / 2)
    assert (always.decision_bytes, always.mean_flops_share) == (always.payload_bytes, 0.5)
    assert (never.payload_bytes.max, never.mean_flops_share) == (0, pytest.approx(0.4))
    assert always.agreement is not None
    assert never.agreement is not None
