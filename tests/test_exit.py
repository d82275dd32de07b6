"""A device that answers by itself where it is sure, and sends the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from onnx import helper, numpy_helper

from bottlenet.bundle import Bundle, manifest, write_bundle
from bottlenet.bundle.ladder import write_ladder
from bottlenet.bundle.manifest import parse_manifest
from bottlenet.cli.device import classify
from bottlenet.edge import Answered, Backoff, Edge, Encoder, Failed, Outcome, Sender, Spool
from bottlenet.edge.auto import Auto
from bottlenet.edge.encoder import Processed, bound_of, split
from bottlenet.edge.pilot import Pilot, Policy
from bottlenet.edge.prediction import Photo
from bottlenet.errors import BundleError, InputError, LinkError
from bottlenet.measure.bench import Conditions, bench
from bottlenet.measure.evaluate import Deployment, evaluate
from bottlenet.measure.profile import profile
from bottlenet.photo import photo_to_pixels
from bottlenet.plan.link import Link
from bottlenet.plan.planner import choose
from bottlenet.plan.profile import Candidate, Exit, Profile, parse_profile
from bottlenet.task import Multilabel
from bottlenet.wire.answer import Answer, best
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


def refused(url: str, timeout_s: float) -> NoReturn:
    raise LinkError("nobody is there")


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
        assert Encoder(bundle, sure=1).sure == 1

    def test_scores_that_are_no_numbers_send_everything(self, tmp_path: Path, photos: list[Path]) -> None:
        lies = [
            helper.make_node("Sub", ["all", "all"], ["zero"]),
            helper.make_node("Div", ["zero", "zero"], ["scores"]),
        ]
        liar = write_bundle(tmp_path / "liar", exit_manifest(), exit_files(lies))
        assert all(isinstance(Encoder(liar, sure=0).work(photo).result, Frame) for photo in photos)

    def test_scores_that_only_a_double_can_divide_are_answers(self, tmp_path: Path, photos: list[Path]) -> None:
        huge = numpy_helper.from_array(np.float32(1e36), "huge")
        nodes = [
            helper.make_node("Constant", [], ["huge"], value=huge),
            helper.make_node("Mul", ["all", "huge"], ["scores"]),
        ]
        manifest = exit_manifest()
        assert manifest.exit is not None
        manifest = replace(manifest, exit=replace(manifest.exit, temperature=0.01))
        liar = write_bundle(tmp_path / "liar", manifest, exit_files(nodes))
        assert not any(isinstance(Encoder(liar).work(photo).result, Frame) for photo in photos)

    def test_scores_that_hardly_differ_send_everything(self, tmp_path: Path, photos: list[Path]) -> None:
        lies = [
            helper.make_node("Constant", [], ["tiny"], value=numpy_helper.from_array(np.float32(1e-6), "tiny")),
            helper.make_node("Mul", ["all", "tiny"], ["scores"]),
        ]
        liar = write_bundle(tmp_path / "liar", exit_manifest(), exit_files(lies))
        assert all(isinstance(Encoder(liar).work(photo).result, Frame) for photo in photos)

    @pytest.mark.parametrize("confident", [False, True])
    def test_scores_that_are_the_same_for_all_photos_are_refused(self, tmp_path: Path, confident: bool) -> None:
        """With them the device would give one answer for ever, or its bound say nothing."""
        row = np.eye(CLASSES, dtype=np.float32)[:1] * 100 * confident
        lies = [
            helper.make_node("Constant", [], ["row"], value=numpy_helper.from_array(row, "row")),
            helper.make_node("Sub", ["all", "all"], ["zero"]),
            helper.make_node("Add", ["zero", "row"], ["scores"]),
        ]
        liar = write_bundle(tmp_path / "liar", exit_manifest(), exit_files(lies))
        with pytest.raises(BundleError, match=r"exit.onnx: it gives the same scores whatever it sees"):
            Encoder(liar)


class TestBundle:
    def test_an_exit_of_other_classes_is_refused(self, tmp_path: Path) -> None:
        other = write_bundle(tmp_path / "other", exit_manifest(), exit_files(classes=CLASSES - 1))
        with pytest.raises(BundleError, match=r"exit.onnx: its output has shape"):
            Encoder(other)

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("sure", 1.01, "exit.sure is 1.01; give a number of 1 or less"),
            ("sure", -0.01, "exit.sure is -0.01; give a number of 0 or more"),
            ("sure", float("nan"), "exit.sure is nan; give a finite number"),
            ("sure", "high", "exit.sure is 'high'; give a finite number"),
            ("temperature", 0, "exit.temperature is 0; give a number of 0.01 or more"),
            ("flops_share", -1, "exit.flops_share is -1; give a number of 0 or more"),
            ("bound", 0.5, "it has an unknown field 'exit.bound'"),
        ],
    )
    def test_refused_fields(self, field: str, value: object, says: str) -> None:
        document = json.loads(exit_manifest().to_json())
        document["exit"][field] = value
        with pytest.raises(InputError, match=says) as caught:
            parse_manifest(json.dumps(document).encode())
        assert "\n" not in str(caught.value)

    def test_an_older_device_says_what_it_reads(self) -> None:
        document = {**json.loads(exit_manifest().to_json()), "format_version": 4, "exits": []}
        says = "it is of format version 4 and this program reads version 2 and 3: use the BottleNet that wrote it"
        with pytest.raises(InputError, match=says):
            parse_manifest(json.dumps(document).encode())

    def test_an_exit_is_for_one_label(self) -> None:
        with pytest.raises(InputError, match="an exit is for networks that give one label, and this one's task is mul"):
            replace(exit_manifest(), task=Multilabel((0.5,) * CLASSES))

    @pytest.mark.parametrize("features", [(4, 0, 8), (2**10, 2**10, 2**9)])
    def test_refused_features(self, features: tuple[int, int, int]) -> None:
        with pytest.raises(InputError, match=r"give three numbers, each 1 or more, of at most 268,435,456 together"):
            manifest.Exit(exit_manifest().preprocess, 0.4, features)

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

    def test_a_rung_answers_as_the_bundle(self, exit_bundle: Bundle, photos: list[Path], tmp_path: Path) -> None:
        (rung,) = write_ladder(tmp_path / "ladder", [exit_bundle]).rungs
        assert rung.id == exit_bundle.id
        for sure in (0, 1):
            one, other = (Encoder(each, sure=sure).work(photos[0]).result for each in (rung, exit_bundle))
            assert one == other

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

    @pytest.mark.parametrize(("failures", "patient"), [(2, True), (1, False), (99, True)])
    def test_an_answer_that_the_disk_has_no_room_for(
        self,
        exit_bundle: Bundle,
        photos: list[Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        failures: int,
        patient: bool,
    ) -> None:
        tries, now = [], [0.0]

        def store(spool: Spool, photo: Photo, outcome: Outcome) -> None:
            tries.append(photo)
            if len(tries) <= failures:
                raise InputError("the disk is full")
            stored(spool, photo, outcome)

        def sleep(seconds: float) -> None:
            now[0] += seconds

        stored = Spool.store
        monkeypatch.setattr(Spool, "store", store)
        edge = Edge(exit_bundle, "ws://nowhere", connect=no_connection, sure=0)
        with edge, Spool(tmp_path / "spool", exit_bundle) as spool:
            disk = Backoff(deadline_s=60, clock=lambda: now[0])
            sender = Sender(edge, spool, disk=disk, sleep=sleep)
            outcomes = list(sender.send([photos[0], photos[0]], patient=patient))
            assert not sender.waiting
        if failures == 99:  # the photo is only in its file, so it does not wait in the spool
            assert [each.why for each in outcomes if isinstance(each, Failed)] == ["full", "full"]
        elif patient:
            assert [each.again for each in outcomes if isinstance(each, Answered)] == [False, True]
        else:
            assert isinstance(outcomes[0], Failed)
            assert isinstance(outcomes[1], Answered)


def candidates_by_name(profile: Profile) -> dict[str, Candidate]:
    return {each.name: each for each in profile.candidates}


def test_a_profile_has_the_exit_at_several_bounds(
    exit_bundle: Bundle,
    photos: list[Path],
    confidences: list[float],
    bound: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bottlenet.measure.profile.peak_rss_bytes", lambda *_: 1)
    monkeypatch.setattr("bottlenet.measure.profile.BOUNDS", (bound + 1e-3, 0.0001))
    content = {name: exit_bundle.path / name for name in exit_bundle.manifest.files}
    bundle = write_bundle(tmp_path / "new", exit_manifest(bound), content)
    made = profile(bundle, photos[0].parent, device_power_mw=1000)
    assert parse_profile(made.to_json()) == made
    found = candidates_by_name(made)
    alone, own, other, always = [each for each in made.candidates if each.cut is not None]
    assert [alone.name, own.name] == ["edge-only, exit at patches", split(bundle, bound).name]
    assert always.name == "split at patches"
    assert (alone.kind, alone.sent_share, alone.needs_bound) == ("edge-only", 0, True)
    assert (own.needs_bound, other.needs_bound, always.needs_bound) == (False, True, False)
    assert all(each.drop_of == "agreement" for each in found.values())
    for each, sure in ((alone, 0), (own, bound), (other, bound + 1e-3), (always, 1)):
        measured = evaluate(bundle, photos[0].parent, sure=sure)
        assert each.exit is not None
        assert (each.exit.sure, each.sent_share) == (sure, measured.sent_share)
        assert each.payload_bytes_mean == pytest.approx(measured.payload_bytes.mean)
        assert each.top1_drop == pytest.approx(100 - (measured.agreement or 0))
        assert each.payload_bytes_max == (0 if each is alone else always.payload_bytes_max)
        assert each.device_mj == pytest.approx(1000 * each.mean_device_s)
        assert each.exit.device_s <= each.mean_device_s <= each.device_s or each.exit.device_s > each.device_s
    mean = sum(confidence < bound for confidence in confidences) / COUNT * own.payload_bytes_mean
    plan = choose(made, "nb-iot", objective="bytes")
    assert plan.choice.name == "edge-only"
    sends = replace(made, candidates=tuple(each for each in made.candidates if each.kind != "edge-only"))
    plan = choose(sends, "nb-iot", objective="bytes", max_drop=100)
    assert plan.choice.name == min((own, other), key=lambda each: each.sent_share).name
    assert choose(sends, "nb-iot", objective="bytes").choice.uplink_bytes == pytest.approx(mean + own.sent_share * 52)


def test_an_exit_that_gives_no_numbers_is_no_candidate(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bottlenet.measure.profile.peak_rss_bytes", lambda *_: 1)
    lies = [helper.make_node("Sub", ["all", "all"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["scores"])]
    liar = write_bundle(tmp_path / "liar", exit_manifest(), exit_files(lies))
    (sent,) = [each for each in profile(liar, photos[0].parent, limit=3).candidates if each.cut is not None]
    assert (sent.name, sent.sent_share) == ("split at patches", 1)


@pytest.mark.slow
@pytest.mark.parametrize("sure", [0, 0.15])
def test_profile_and_bench_know_what_the_split_takes_that_sends_every_photo(
    exit_bundle: Bundle, photos: list[Path], tmp_path: Path, sure: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bottlenet.measure.profile.peak_rss_bytes", lambda *_: 1)
    manifest = exit_manifest(sure)
    content = {name: exit_bundle.path / name for name in exit_bundle.manifest.files}
    sure_bundle = write_bundle(tmp_path / "sure", manifest, content)
    folder = photos[0].parent
    split = profile(sure_bundle, folder, limit=6).candidates[-1]
    assert split.payload_bytes_mean == evaluate(sure_bundle, folder, limit=6, sure=1).payload_bytes.mean
    assert split.server_s > 0
    report = bench([sure_bundle], folder, [Conditions(Link("fast", 1e6, 0.0))], limit=3, seconds=1)
    rows = {each.partition: each for each in report.rows}
    row, alone = rows["split at patches"], rows["edge-only, exit at patches"]
    assert row.socket_bytes is not None
    assert row.socket_bytes > split.payload_bytes_mean / 2
    assert (alone.socket_bytes, alone.needs_bound) == (0, sure > 0)
    assert ("split at patches, sure 0.15" in rows) == (sure > 0)


@pytest.mark.slow
def test_bench_measures_the_mean_of_the_photos_that_are_sent_and_the_others(
    exit_bundle: Bundle, photos: list[Path], bound: float, tmp_path: Path
) -> None:
    content = {name: exit_bundle.path / name for name in exit_bundle.manifest.files}
    bundle = write_bundle(tmp_path / "new", exit_manifest(bound), content)
    report = bench([bundle], photos[0].parent, [Conditions(Link("slow", 1e6, 0.2))], limit=COUNT, seconds=60)
    rows = {each.partition: each for each in report.rows}
    mixed, always = rows[split(bundle, bound).name], rows[split(bundle).name]
    assert mixed.latency_ms is not None
    assert mixed.latency_ms >= 100  # half of the photos take a round trip
    assert mixed.agreement == pytest.approx(evaluate(bundle, photos[0].parent).agreement)
    assert mixed.socket_bytes == pytest.approx(always.socket_bytes / 2, rel=0.2)  # type: ignore[operator]
    assert mixed.photos_per_s > 0  # type: ignore[operator]


def test_auto_runs_an_exit_at_the_bound_of_its_profile(
    exit_bundle: Bundle, photos: list[Path], confidences: list[float], bound: float
) -> None:
    cut, network = exit_bundle.manifest.cut, Network()
    whole = Candidate("edge-only", "edge-only", None, 9.0, 0.0, 0.0, 0, 0.0, "agreement")
    name = split(exit_bundle, bound).name
    mixed = Candidate(name, "split", cut, 0.1, 0.001, 100.0, 100, 0.0, "agreement", exit=Exit(bound, 0.5, 0.1))
    measured = Profile(exit_bundle.id.hex(), "means", "device", "server", 1, 0, (whole, mixed))
    options: dict[str, Any] = {"connect": network.connect, "partition": "auto", "profile": measured}
    with Edge(exit_bundle, "ws://nowhere", **options) as edge:
        edge.connect()
        assert edge.partition == name
        found = [edge.classify(photo).answered_by for photo in photos]
    assert found == ["device" if confidence >= bound else "server" for confidence in confidences]


def test_auto_answers_by_the_exit_alone_where_there_is_no_server(exit_bundle: Bundle, photos: list[Path]) -> None:
    cut, name = exit_bundle.manifest.cut, "edge-only, exit at patches"
    whole = Candidate("edge-only", "edge-only", None, 9.0, 0.0, 0.0, 0, 0.0, "agreement")
    never, ever = Exit(0.0, 0.0, 0.1), Exit(1.0, 1.0, 0.1)
    alone = Candidate(name, "edge-only", cut, 0.1, 0.0, 0.0, 0, 3.0, "agreement", exit=never, needs_bound=True)
    sent = Candidate(f"split at {cut}", "split", cut, 0.1, 0.001, 100.0, 100, 0.0, "agreement", exit=ever)
    measured = Profile(exit_bundle.id.hex(), "means", "device", "server", 1, 0, (whole, sent, alone))
    for max_drop, used, by in ((None, "edge-only", "local"), (2.0, "edge-only", "local"), (3.0, name, "device")):
        options: dict[str, Any] = {"partition": "auto", "profile": measured, "policy": Policy(max_drop)}
        with Edge(exit_bundle, "ws://nowhere", connect=refused, **options) as edge:
            found = edge.classify(photos[0])
        assert (found.partition, found.answered_by, found.payload_bytes) == (used, by, 0)


def test_an_answer_of_the_exit_says_nothing_of_the_devices_speed(
    exit_bundle: Bundle, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(pilot: Pilot, name: str, processed: Processed) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(Pilot, "computed", computed)
    cut, names = exit_bundle.manifest.cut, ("edge-only", f"split at {exit_bundle.manifest.cut}")
    whole = Candidate(names[0], "edge-only", None, 9.0, 0.0, 0.0, 0, 0.0, "agreement")
    split = Candidate(names[1], "split", cut, 0.1, 0.001, 100.0, 100, 0.0, "agreement")
    measured = Profile(exit_bundle.id.hex(), "means", "device", "server", 1, 0, (whole, split))
    with Edge(exit_bundle, "ws://nowhere", connect=no_connection, partition="auto", profile=measured) as edge:
        assert edge._auto is not None
        edge._auto.encoder.sure = 0
        monkeypatch.setattr(Auto, "partition", names[1])
        found = edge.classify(photos[0])
    assert (found.answered_by, found.partition, found.socket_bytes) == ("device", names[1], 0)


def test_a_top_five_keeps_its_order_however_sure_the_exit_is(exit_bundle: Bundle) -> None:
    shares = (1.0, 1e-30, 1e-40, 1e-50, 1e-60)
    top = tuple(zip((9, 5, 7, 6, 8), shares, strict=True))
    scores = Deployment(exit_bundle)._scores_of(Answer(0, 0, 0, top))
    assert [index for index, _ in best(scores)] == [9, 5, 7, 6, 8]


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


def test_classify_needs_no_server_for_what_the_device_is_sure_of(
    exit_bundle: Bundle, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(photo) for photo in photos]
    classify(names, "ws://127.0.0.1:1", bundle=str(exit_bundle.path), sure=0.0, as_json=True)
    found = json.loads(capsys.readouterr().out)["photos"]
    assert [(each["photo"], each["answered_by"], each["socket_bytes"]) for each in found] == [
        (name, "device", 0) for name in names
    ]
