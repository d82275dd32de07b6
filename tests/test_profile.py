"""Profiles: JSON there and back, every value checked; and measuring one."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import paper
from bottlenet.bundle import Bundle, write_bundle
from bottlenet.cloud.decoder import Photos
from bottlenet.edge.encoder import EDGE_ONLY, Device, cloud_only, partition_of
from bottlenet.edge.meter import PAPER_DEVICE_MW
from bottlenet.errors import BottleNetError, BundleError, InputError, PayloadError
from bottlenet.measure import memory as footprint
from bottlenet.measure import profile as detail
from bottlenet.measure.profile import BATCHES, LOADS, Server, answers_with, profile, read, smallest, threads_here
from bottlenet.photos.folders import photos_for
from bottlenet.plan.profile import (
    MAX_PROFILE_BYTES,
    Candidate,
    Detail,
    Energy,
    Exit,
    Profile,
    Row,
    Spread,
    parse_profile,
)
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame
from bottlenet.wire.pictures import FIXED, QUALITIES, InputCodec, available, decode
from conftest import CLASSES, pooling_files, tiny_manifest

seconds = st.floats(0, 100)
shares = st.floats(0, 1)
names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@st.composite
def energies(draw: st.DrawFn) -> Energy:
    field = draw(st.sampled_from(["power_mw", "energy_mj"]))
    return Energy(
        draw(st.sampled_from(["measured", "modelled", "given"])), draw(names), **{field: draw(st.floats(0, 1e6))}
    )


ROWS = (Row(1, 0.5, 0.75), Row(16, 3, 3))
DETAILS = (
    None,
    Detail(Spread(1, 2), ROWS, Spread(0, 0), Spread(0.25, 1e6), ROWS[:1], ROWS, 10**9),
    Detail(Spread(0, 0), (), None, None, (), (), 0),
)


@st.composite
def candidates(draw: st.DrawFn, name: str) -> Candidate:
    kind = draw(st.sampled_from(["edge-only", "cloud-only", "split"]))
    mean = 0.0 if kind == "edge-only" else draw(st.floats(0, 1e5))
    largest = 0 if kind == "edge-only" else math.ceil(mean) + draw(st.integers(0, 1000))
    return Candidate(
        name,
        kind,
        draw(names) if kind == "split" else None,
        draw(seconds),
        0.0 if kind == "edge-only" else draw(seconds),
        mean,
        largest,
        draw(st.floats(-100, 100)),
        draw(st.sampled_from(["top1", "agreement"])),
        draw(st.none() | energies()),
        draw(st.none() | st.integers(0, largest)),
        draw(st.sampled_from(DETAILS)),
        draw(st.none() | st.builds(Exit, shares, shares, seconds)) if kind == "split" else None,
        draw(st.booleans()),
    )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    chosen = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    made = tuple(draw(candidates(name)) for name in chosen)
    return Profile(
        "ab" * 32,
        draw(names),
        draw(names),
        draw(names),
        draw(st.integers(0, 10**6)),
        0,
        made,
        *(draw(st.none() | st.floats(0, 100)) for _ in range(3)),
    )


def test_a_profile_from_before_there_were_exits() -> None:
    document = json.loads(paper.profile().to_json())
    del document["budget_bytes"]
    for each in document["candidates"]:
        del each["exit"], each["needs_bound"]
    assert parse_profile(json.dumps(document).encode()) == paper.profile()


@given(profiles())
def test_json_there_and_back(made: Profile) -> None:
    assert parse_profile(made.to_json()) == made


def test_energy_of_power_and_of_a_photo() -> None:
    assert Energy("measured", "RAPL", power_mw=5000).of(0.010) == 50
    assert Energy("measured", "RAPL", energy_mj=7).of(0.010) == 7


def changed(**values: object) -> bytes:
    document = json.loads(paper.profile().to_json())
    return json.dumps({**document, **values}).encode()


def changed_candidate(index: int = 2, **values: object) -> bytes:
    document = json.loads(paper.profile().to_json())
    document["candidates"][index].update(values)
    return json.dumps(document).encode()


def changed_detail(**values: object) -> bytes:
    detail = dataclasses.asdict(Detail(Spread(1, 2), (Row(1, 1, 2),), None, None, (), (), 5))
    return changed_candidate(detail={**detail, **values})


def lacking(name: str) -> bytes:
    document = json.loads(paper.profile().to_json())
    del document["candidates"][0][name]
    return json.dumps(document).encode()


BAD: list[tuple[bytes, str]] = [
    (b"", "it is not JSON"),
    (b"\xff", "it is not JSON"),
    (b"[" * 100_000, "it is not JSON"),
    (b" " * (MAX_PROFILE_BYTES + 1), "larger than the 16,777,216 bytes"),
    (b"[]", "no profile of BottleNet"),
    (b'{"format_version": 2}', "no profile of BottleNet"),
    (changed(format_version=1), "format version 1 and this program reads version 2"),
    (changed(format_version=True), "format version True"),
    (changed(more=1), "unknown field 'more'"),
    (changed(bundle_id="x"), "bundle_id is 'x'; give 64 lower-case hex digits"),
    (changed(model=""), "model is ''"),
    (changed(device="a\nb"), "device is"),
    (changed(photos=-1), "photos is -1"),
    (changed(photos=1.5), "photos is 1.5; give an integer"),
    (changed(max_drop="2"), "max_drop is '2'; give a finite number"),
    (changed(server_load=-1), "server_load is -1"),
    (changed(candidates={}), "candidates is {}"),
    (changed(candidates=[]), "candidates is []; give 1 or more"),
    (changed(candidates=[1]), "candidates.0 is 1; give an object"),
    (lacking("device_s"), "it lacks candidates.0.device_s"),
    (changed_candidate(extra=1), "it has an unknown field 'candidates.2.extra'"),
    (changed_candidate(name="mobile-only"), "two candidates are named 'mobile-only'"),
    (changed_candidate(name="\ud800"), "it is not JSON"),
    (changed_candidate(kind="cloud"), "kind is 'cloud'; choose one of edge-only, cloud-only, split"),
    (changed_candidate(kind=["split"]), "kind is ['split']"),
    (changed_candidate(cut=None), "cut is None; give a split its cut"),
    (changed_candidate(cut=3), "cut is 3"),
    (changed_candidate(0, cut="layer"), "cut is 'layer'"),
    (changed_candidate(device_s=-1), "device_s is -1; give a number of 0 or more"),
    (changed_candidate(device_s=math.nan), "device_s is nan"),
    (changed_candidate(device_s=math.inf), "device_s is inf"),
    (changed_candidate(server_s="1"), "server_s is '1'"),
    (changed_candidate(payload_bytes_mean=True), "payload_bytes_mean is True"),
    (changed_candidate(payload_bytes_max=1), "payload_bytes_max is 1 with a mean of 316.0"),
    (changed_candidate(payload_bytes_max=400.5), "give an integer"),
    (changed_candidate(top1_drop=101), "top1_drop is 101"),
    (changed_candidate(drop_of="luck"), "drop_of is 'luck'; choose one of top1, agreement"),
    (changed_candidate(0, payload_bytes_max=3), "edge-only sends nothing"),
    (changed_candidate(payload_bytes_p95=317), "payload_bytes_p95 is above payload_bytes_max, 316"),
    (changed_candidate(payload_bytes_p95=3.5), "payload_bytes_p95 is 3.5; give an integer"),
    (changed_candidate(detail=3), "detail is 3; give an object"),
    (changed_candidate(detail={"prepare": None}), "it lacks candidates.2.detail.compute"),
    (changed_detail(prepare=None), "prepare is None; give an object"),
    (changed_detail(prepare={"median_s": 2, "p95_s": 1}), "p95_s is 1, below median_s, 2"),
    (changed_detail(encode={"median_s": 2}), "it lacks candidates.2.detail.encode.p95_s"),
    (changed_detail(compute={}), "compute is {}; give a list"),
    (changed_detail(tail=[{}]), "it lacks candidates.2.detail.tail.0.count"),
    (changed_detail(server=[{"count": 0.5, "median_s": 0, "p95_s": 0}]), "count is 0.5; give an integer"),
    (changed_detail(peak_rss_bytes=-1), "peak_rss_bytes is -1"),
    (changed_candidate(energy=3), "energy is 3; give an object"),
    (changed_candidate(energy={}), "it lacks candidates.2.energy.how"),
    (
        changed_candidate(energy={"how": "guessed", "meter": "m", "power_mw": 1, "energy_mj": None}),
        "energy.how is 'guessed'; choose one of measured, modelled, given",
    ),
    (
        changed_candidate(energy={"how": "given", "meter": "m", "power_mw": 1, "energy_mj": 1}),
        "energy has both power_mw and energy_mj, or none",
    ),
    (
        changed_candidate(energy={"how": "given", "meter": "m", "power_mw": -1, "energy_mj": None}),
        "energy.power_mw is -1",
    ),
    (changed_candidate(energy={"how": "given", "meter": "", "power_mw": 1, "energy_mj": None}), "energy.meter is ''"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_what_is_no_profile(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_profile(data)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_what_python_could_give() -> None:
    with pytest.raises(InputError, match="energy is 3; give an object"):
        dataclasses.replace(paper.profile().candidates[0], energy=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="candidates is .*; give a list"):
        dataclasses.replace(paper.profile(), candidates=list(paper.profile().candidates))  # type: ignore[arg-type]


def test_of_another_bundle() -> None:
    made = paper.profile()
    made.check_bundle("0" * 64)
    with pytest.raises(InputError, match="the profile is of bundle 000000000000, not of 111111111111"):
        made.check_bundle("1" * 64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 photos, each in the folder of its class."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for number in range(12):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        (folder / str(number % CLASSES)).mkdir(exist_ok=True)
        small.resize((64, 48), Image.Resampling.BICUBIC).save(folder / str(number % CLASSES) / f"{number:02}.png")
    return folder


@pytest.fixture
def no_footprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory takes a process for each partition, which one test is enough for."""
    monkeypatch.setattr(detail, "peak_rss_bytes", lambda bundle, partition, photo: 20_000_000)


def test_footprint(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    photo = next(photos.rglob("*.png"))
    device = Device(bundle)
    edge, cloud, *_ = device.whole()
    (split,) = device.cuts()
    taken = [footprint.peak_rss_bytes(bundle.path, each, photo) for each in (edge, cloud, split)]
    assert all(10e6 < each < 1e9 for each in taken)
    assert taken[1] < taken[0]  # without onnxruntime's session
    with pytest.raises(BundleError, match="the memory of edge-only can't be measured: .*there is no such folder"):
        footprint.peak_rss_bytes(tmp_path / "none", edge, photo)


def test_by_load() -> None:
    """One is at work and the others wait in line: a server that takes 4 ms for each photo takes 4 ms for each ahead."""

    def answers(frames: Sequence[Frame]) -> list[Answer]:
        time.sleep(0.004 * len(frames))
        return [Answer(frame.sequence, 0, 0, ()) for frame in frames]

    found = {row.count: row.median_s for row in detail.by_load(answers, [Frame(0, 0, b"abc", 0, b"")])}
    assert list(found) == list(LOADS)
    for load, seconds in found.items():
        # The first began a moment before ours came; a busy machine takes longer.
        assert 0.004 * (0.5 + load) < seconds < 0.004 * (1 + load) * 1.5 + 0.2


@pytest.mark.usefixtures("no_footprint")
class TestMeasuring:
    def test_labelled(self, bundle: Bundle, photos: Path) -> None:
        steps: list[tuple[int, int]] = []
        made = profile(bundle, photos, on_progress=lambda done, total: steps.append((done, total)))
        assert steps == [(number, 12) for number in range(1, 13)]
        assert made.bundle_id == bundle.id.hex()
        assert (made.photos, made.labelled) == (12, 12)
        assert parse_profile(made.to_json()) == made
        edge, *clouds, split = made.candidates
        assert (edge.kind, edge.payload_bytes_max, edge.server_s, edge.top1_drop) == ("edge-only", 0, 0, 0)
        assert [cloud.name for cloud in clouds[:3]] == [f"cloud-only, {codec.name}" for codec in FIXED]
        assert all(cloud.top1_drop <= made.max_drop for cloud in clouds[3:])  # type: ignore[operator]
        assert clouds[0].payload_bytes_mean < clouds[1].payload_bytes_mean  # JPEG 75, 95
        assert (split.kind, split.cut, split.name) == ("split", "patches", "split at patches")
        assert all(each.drop_of == "top1" and each.device_s > 0 and each.energy is None for each in made.candidates)
        assert all(each.server_s > 0 for each in made.candidates if each.kind != "edge-only")
        assert all(each.payload_bytes_mean * 0.5 <= each.payload_bytes_p95 for each in made.candidates)  # type: ignore[operator]
        assert made.device_load is not None
        assert made.device_load >= 0

    def test_smaller_photos(self, photos: Path, tmp_path: Path) -> None:
        pooling = write_bundle(tmp_path / "pooling", tiny_manifest(), pooling_files())
        edge, *smaller = [each for each in profile(pooling, photos).candidates if each.kind == "edge-only"]
        assert (edge.name, edge.needs_bound, edge.top1_drop) == ("edge-only", False, 0)
        assert [each.name for each in smaller] == ["edge-only, 24 px", "edge-only, 16 px"]
        assert all(each.needs_bound and each.sent_share == 0 and each.detail is not None for each in smaller)
        device, known = Device(pooling), photos_for(pooling, photos, None)
        for each in smaller:
            partition = partition_of(each)
            hits = [device.run(partition, photo.path) == photo.label for photo in known]
            whole = [device.run(EDGE_ONLY, photo.path) == photo.label for photo in known]
            assert each.top1_drop == pytest.approx(100 * (sum(whole) - sum(hits)) / len(known))

    def test_step_by_step(self, bundle: Bundle, photos: Path) -> None:
        edge, *clouds, split = (each.detail for each in profile(bundle, photos, limit=3).candidates)
        assert edge is not None
        assert split is not None
        assert [row.count for row in split.compute] == [row.count for row in edge.compute] == threads_here()
        assert (edge.encode, edge.decode, edge.tail, edge.server) == (None, None, (), ())
        for each in (split, *clouds):
            assert each is not None
            assert [row.count for row in each.tail] == list(BATCHES)
            assert [row.count for row in each.server] == list(LOADS)
            assert each.encode is not None
            assert each.decode is not None
        assert all(each is not None and each.peak_rss_bytes == 20_000_000 for each in (edge, *clouds, split))
        assert all(each is not None and each.compute == () for each in clouds)

    def test_bytes_are_those_that_are_sent(self, bundle: Bundle, photos: Path) -> None:
        from bottlenet.measure.evaluate import evaluate

        split = profile(bundle, photos).candidates[-1]
        evaluated = evaluate(bundle, photos)
        assert split.payload_bytes_mean == pytest.approx(evaluated.payload_bytes.mean)
        assert split.payload_bytes_max == evaluated.payload_bytes.max
        assert split.top1_drop == pytest.approx(evaluated.top1_drop)

    def test_unlabelled(self, bundle: Bundle, photos: Path) -> None:
        made = profile(bundle, photos / "0", limit=1)
        assert (made.photos, made.labelled) == (1, 0)
        assert {each.drop_of for each in made.candidates} == {"agreement"}
        assert all(0 <= each.top1_drop <= 100 for each in made.candidates)

    def test_a_given_power_is_named_so(self, bundle: Bundle, photos: Path) -> None:
        made = profile(bundle, photos, limit=2, device_power_mw=4000)
        assert {each.energy for each in made.candidates} == {Energy("given", "--device-power-mw", power_mw=4000)}

    def test_a_modelled_energy_never_looks_measured(self, bundle: Bundle, photos: Path) -> None:
        made = profile(bundle, photos, limit=2, meter="model")
        energies = [each.energy for each in made.candidates]
        assert {(each.how, each.meter) for each in energies if each} == {("modelled", "the paper's device, 1,306 mW")}
        for each in made.candidates:
            assert each.device_mj == pytest.approx(each.device_s * PAPER_DEVICE_MW, rel=0.9)

    def test_a_meter_that_cannot_be_read(self, bundle: Bundle, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from bottlenet.edge import meter

        monkeypatch.setitem(meter.METERS, "rapl", lambda root: meter.open_rapl(photos))
        with pytest.raises(InputError, match="meter rapl can't be read"):
            profile(bundle, photos, meter="rapl")
        with pytest.raises(InputError, match="both a power and the meter 'rapl' are given"):
            profile(bundle, photos, meter="rapl", device_power_mw=3)

    @pytest.mark.parametrize("power", [0, -1, math.nan])
    def test_no_power(self, bundle: Bundle, photos: Path, power: float) -> None:
        with pytest.raises(InputError, match="device power is"):
            profile(bundle, photos, device_power_mw=power)

    @pytest.mark.parametrize("points", [-101, 101, math.nan])
    def test_no_bound(self, bundle: Bundle, photos: Path, points: float) -> None:
        with pytest.raises(InputError, match="max_drop is .*; give points of top-1, -100 to 100"):
            profile(bundle, photos, limit=1, max_drop=points)

    def test_damaged_photos(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "one.jpg").write_bytes(b"nothing")
        with pytest.raises(InputError, match="damaged"):
            profile(bundle, tmp_path)

    def test_without_the_uncut_network(
        self, make_bundle: Any, files: dict[str, bytes], photos: Path, tmp_path: Path
    ) -> None:
        from bottlenet.bundle import write_bundle
        from conftest import tiny_manifest

        bare = write_bundle(tmp_path / "bare", tiny_manifest(), {k: v for k, v in files.items() if k != "uncut.onnx"})
        with pytest.raises(InputError, match=r"has no uncut\.onnx"):
            profile(bare, photos)


BLACK = np.zeros((32, 32, 3), np.uint8)


class TestInputCodecs:
    def test_the_lowest_quality_within_the_bound(self, bundle: Bundle, photos: Path) -> None:
        from bottlenet.photos.folders import photos_for

        device = Device(bundle)
        known = read(device, photos_for(bundle, photos, None))
        for codec in smallest(device, known, 10.0):
            assert known.drop(answers_with(device, codec, known.paths)) <= 10
            for quality in QUALITIES[: QUALITIES.index(codec.quality)]:
                worse = InputCodec(codec.format, quality)
                assert known.drop(answers_with(device, worse, known.paths)) > 10
        assert smallest(device, known, -100.0) == []

    @pytest.mark.parametrize("name", available())
    def test_there_and_back(self, name: str) -> None:
        pixels = np.full((32, 32, 3), 77, np.uint8)
        assert np.abs(decode(InputCodec(name, 90).encode(pixels), 32).astype(int) - 77).max() < 4

    @pytest.mark.parametrize(
        "file", [b"", b"nothing", InputCodec("JPEG", 75).encode(np.zeros((32, 32, 3), np.uint8))[:99]]
    )
    def test_no_picture(self, file: bytes) -> None:
        with pytest.raises(PayloadError, match="are no picture"):
            decode(file, 32)

    def test_another_size(self) -> None:
        with pytest.raises(PayloadError, match="32x32 pixels, not 48x48"):
            decode(InputCodec("JPEG", 75).encode(BLACK), 48)

    def test_none(self) -> None:
        with pytest.raises(InputError, match="input codec 'GIF' is not there; choose one of JPEG"):
            InputCodec("GIF", 3)
        with pytest.raises(InputError, match="quality is 101"):
            InputCodec("JPEG", 101)

    def test_a_bad_file_costs_nobody_else_the_answer(self, bundle: Bundle, photos: Path) -> None:
        partition = cloud_only(InputCodec("JPEG", 75))
        good = Device(bundle).run(partition, next(photos.rglob("*.png")), 7)
        assert not isinstance(good, int)
        bad = dataclasses.replace(good, payload=b"?")
        first, second, third = Photos(bundle).answers([good, bad, good])
        assert first == dataclasses.replace(third, decode_us=first.decode_us)  # type: ignore[union-attr, type-var]
        assert isinstance(second, BottleNetError)
        with pytest.raises(PayloadError):
            Server(bundle).answers([bad])
