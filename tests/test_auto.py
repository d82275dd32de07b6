"""`Edge(partition="auto")`: real sockets, a shaped link, a server that comes and goes."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from bottlenet.bundle import Bundle
from bottlenet.cloud import Limits, create_app
from bottlenet.edge import Edge, Policy
from bottlenet.edge.auto import profile_of
from bottlenet.edge.encoder import EDGE_ONLY, Device, Processed, partition_of, sides_of
from bottlenet.edge.pilot import Pilot
from bottlenet.edge.prediction import LOCAL, SERVER
from bottlenet.errors import InputError, PhotoError
from bottlenet.measure.link import ShapedLink
from bottlenet.plan.link import Link
from bottlenet.plan.profile import Candidate, Profile, merged
from bottlenet.wire.frame import HEADER_BYTES
from bottlenet.wire.pictures import InputCodec
from conftest import MakeBundle, Server, until

QUICK = Policy(patience_s=2.0, ping_s=0.2, longest_ping_s=0.4, longest_away_s=0.2)
CLOUD = "cloud-only, JPEG 75"


def profile(bundle: Bundle, *, edge_s: float = 1.0, split_s: float = 0.3, cloud_s: float = 0.01) -> Profile:
    """As if the device took so long for each: cloud-only is best on fast links, the split on slow ones."""
    cut = bundle.manifest.cut
    return Profile(
        bundle.id.hex(),
        "means",
        "a slow device",
        "this machine",
        1,
        0,
        (
            Candidate("edge-only", "edge-only", None, edge_s, 0.0, 0.0, 0, 0.0, "agreement"),
            Candidate(CLOUD, "cloud-only", None, cloud_s, 0.001, 1_000.0, 5_000, 0.0, "agreement"),
            Candidate(f"split at {cut}", "split", cut, split_s, 0.001, 100.0, 100, 1.0, "agreement"),
        ),
    )


@pytest.fixture(autouse=True)
def slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device takes is what the profile says, whatever the machine is like: nobody has to wait for it."""

    def computed(pilot: Pilot, name: str, processed: Processed) -> None:
        device_s = next(each.device_s for each in pilot.candidates if each.name == name)
        measured(pilot, name, dataclasses.replace(processed, prepare_ms=0.0, compute_ms=device_s * 1e3, encode_ms=0.0))

    measured = Pilot.computed
    monkeypatch.setattr(Pilot, "computed", computed)


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    server = Server(create_app([bundle]))
    yield server
    server.stop()


def auto(bundle: Bundle, url: str, made: Profile | None = None, policy: Policy = QUICK) -> Edge:
    return Edge(bundle, url, partition="auto", profile=made or profile(bundle), policy=policy)


def test_a_photo_is_answered_before_anything_is_known(bundle: Bundle, photo: np.ndarray) -> None:
    with auto(bundle, "ws://127.0.0.1:1") as edge:
        assert edge.partition == "edge-only"
        prediction = edge.classify(photo)
    assert prediction.answered_by == LOCAL
    assert prediction.partition == "edge-only"
    assert prediction.class_index == Device(bundle).run(EDGE_ONLY, photo)
    assert len(prediction.top) == 5
    assert (prediction.payload_bytes, prediction.frame_bytes) == (0, 0)
    assert edge.moves == ()


def test_connect_finds_out_what_is_best(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    with auto(bundle, server.url) as edge:
        edge.connect()
        assert edge.partition == CLOUD
        prediction = edge.classify(photo)
        (move,) = edge.moves
    assert prediction.answered_by == SERVER
    assert prediction.partition == CLOUD
    assert prediction.class_index == Device(bundle).run(EDGE_ONLY, photo)
    assert prediction.payload_bytes > 0
    assert prediction.frame_bytes == prediction.payload_bytes + 4
    assert prediction.socket_bytes == prediction.frame_bytes + (6 if prediction.frame_bytes < 126 else 8)
    assert prediction.times.round_trip_ms > prediction.times.tail_ms > 0
    assert prediction.server_load >= 1
    assert move.source == "edge-only"
    assert "wins on" in move.reason


def test_in_the_background_too(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    with auto(bundle, server.url) as edge:
        edge.classify(photo)
        until(lambda: edge.partition == CLOUD, "it is not found")


def test_the_split_where_it_is_best(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    with auto(bundle, server.url, profile(bundle, cloud_s=2.0, split_s=0.01)) as edge:
        edge.connect()
        prediction = edge.classify(photo)
    with Edge(bundle, server.url) as plain:
        assert plain.classify(photo).top == prediction.top
        assert plain.partition == prediction.partition == "split at patches"
        assert plain.moves == ()


def test_a_cut_keeps_within_the_budget_of_its_profile(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    made = dataclasses.replace(profile(bundle, cloud_s=2.0, split_s=0.01), budget_bytes=50)
    with auto(bundle, server.url, made) as edge, Edge(bundle, server.url) as plain:
        edge.connect()
        prediction = edge.classify(photo)
        assert prediction.partition == plain.partition
        assert prediction.payload_bytes + HEADER_BYTES <= 50 < plain.classify(photo).payload_bytes + HEADER_BYTES
    with pytest.raises(InputError, match="the profiles were measured with different budgets"):
        merged([made, profile(bundle)])


def test_max_drop(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    made = profile(bundle, cloud_s=2.0, split_s=0.01)
    with auto(bundle, server.url, made, dataclasses.replace(QUICK, max_drop=0.5)) as edge:
        edge.connect()
        assert edge.classify(photo).partition == "edge-only"


def test_several_cuts(bundle: Bundle, make_bundle: MakeBundle, photo: np.ndarray) -> None:
    other = make_bundle(cut="elsewhere", setting=50)
    made = [profile(bundle, cloud_s=2.0, split_s=1.0), profile(other, split_s=0.01)]
    server = Server(create_app([bundle, other]))
    try:
        with Edge([bundle, other.path], server.url, partition="auto", profile=made, policy=QUICK) as edge:
            edge.connect()
            assert edge.classify(photo).partition == "split at elsewhere"
            until(lambda: edge.classify(photo).answered_by == SERVER, "no answer")
    finally:
        server.stop()


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back(bundle: Bundle, photo: np.ndarray) -> None:
    """Every photo is answered, whatever happens."""
    server = Server(create_app([bundle]))
    with ShapedLink("127.0.0.1", server.port, Link("some", 10e6, 0.01)) as link, auto(bundle, link.url) as edge:
        edge.connect()
        assert edge.classify(photo).answered_by == SERVER
        link.change(None)
        started = time.perf_counter()
        assert edge.classify(photo).answered_by == LOCAL
        assert time.perf_counter() - started < 20
        assert edge.partition == "edge-only"
        assert "there is none: no answer from ws://127.0.0.1" in edge.moves[-1].reason
        started = time.perf_counter()
        assert edge.classify(photo).partition == "edge-only"  # without waiting
        assert edge.classify(photo).answered_by == LOCAL
        link.change(Link("some", 10e6, 0.01))
        until(lambda: edge.partition == CLOUD, "the server is not found again")
        assert edge.classify(photo).answered_by == SERVER
        server.stop()
        assert edge.classify(photo).answered_by == LOCAL
        # If the first try finds the link again, the photo may have been late because the link is slow.
        targets = [move.target for move in edge.moves if move.target != "split at patches"]
        assert targets == [CLOUD, "edge-only", CLOUD, "edge-only"]
        assert len(edge.moves) <= 5


@pytest.mark.slow
def test_a_link_that_changes(bundle: Bundle, server: Server) -> None:
    """Numbers such that what a busy machine adds makes no difference; photos of which files differ in size."""
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3))
    photos = [(noise * share).astype(np.uint8) for share in (1.0, 0.05, 0.5, 0.2, 0.8)]
    made = profile(bundle, edge_s=9.0, split_s=0.5, cloud_s=0.001)
    with ShapedLink("127.0.0.1", server.port, Link("fast", 10e6, 0.01)) as link, auto(bundle, link.url, made) as edge:
        edge.connect()
        assert edge.partition == CLOUD
        link.change(Link("slow", 12e3, 0.3))  # of 1,000 bytes in 0.7 s, of 100 in 0.1 s
        predictions = []
        while edge.partition == CLOUD and len(predictions) < 20:
            predictions.append(edge.classify(photos[len(predictions) % len(photos)]))
        assert {prediction.answered_by for prediction in predictions} == {SERVER}
        assert edge.partition == "split at patches"
        assert len(edge.moves) == 2
        assert "kbit/s" in edge.moves[-1].reason


def test_a_server_that_is_busy(bundle: Bundle, photo: np.ndarray) -> None:
    server = Server(create_app([bundle], Limits(max_waiting=1)))
    service = server.app.state.service
    try:
        with auto(bundle, server.url) as edge:
            edge.connect()
            service.stopping = True  # every photo is told to come later
            assert edge.classify(photo).answered_by == LOCAL
            assert "shutting down" in edge.moves[-1].reason
            service.stopping = False
            until(lambda: edge.partition == CLOUD, "it stays away")
    finally:
        server.stop()


def test_what_a_server_refuses_is_left_alone(bundle: Bundle, photo: np.ndarray, make_bundle: MakeBundle) -> None:
    """It has one of two cuts: the other is tried three times, and each photo answered here."""
    other = make_bundle(cut="elsewhere", setting=50)
    made = [profile(bundle, cloud_s=2.0, split_s=0.2), profile(other, split_s=0.01)]
    server = Server(create_app([bundle]))
    try:
        with Edge([bundle, other], server.url, partition="auto", profile=made, policy=QUICK) as edge:
            edge.connect()
            assert edge.partition == "split at elsewhere"
            for _ in range(3):
                assert edge.classify(photo).answered_by == LOCAL
            assert "the server refuses split at elsewhere" in edge.moves[1].reason
            until(lambda: edge.classify(photo).partition == "split at patches", "the other cut is not used")
    finally:
        server.stop()


def test_a_photo_that_is_none(bundle: Bundle, server: Server) -> None:
    with auto(bundle, server.url) as edge, pytest.raises(PhotoError):
        edge.classify(b"nothing")


def test_many_photos_and_several_threads(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    with auto(bundle, server.url) as edge:
        edge.connect()
        made: list[str] = []
        threads = [
            threading.Thread(target=lambda: made.extend(p.label for p in edge.classify_many([photo] * 5)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert made == [edge.classify(photo).label] * 20
        with pytest.raises(InputError, match="in_flight is 0"):
            edge.classify_many([], 0)


@pytest.mark.slow
def test_a_photo_has_the_link_looked_at_again(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    """Nobody wanted one for long, so the next probe is far off; and a link that is another is known after three."""
    policy = dataclasses.replace(QUICK, ping_s=0.5, longest_ping_s=100.0)
    made = profile(bundle, edge_s=0.1, cloud_s=0.03, split_s=0.03)
    with (
        ShapedLink("127.0.0.1", server.port, Link("far", 10e6, 0.5)) as link,
        auto(bundle, link.url, made, policy) as edge,
    ):
        edge.connect()
        assert edge._auto is not None
        edge._auto._pings = 60  # the next in 100 seconds
        assert edge.partition == "edge-only"
        link.change(Link("near", 10e6, 0.0))
        until(lambda: edge.classify(photo).partition != "edge-only", "nobody looks")


def test_it_closes_and_opens_again(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    edge = auto(bundle, server.url)
    edge.connect()
    for _ in range(2):
        assert edge.classify(photo).answered_by == SERVER
        edge.close()
        edge.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "bottlenet-probe"]
    edge.close()


def test_probes_are_few_and_small(bundle: Bundle, photo: np.ndarray, server: Server) -> None:
    """None while photos go; when nobody wants any, ever fewer. Each is 4 bytes and 6 of WebSocket."""
    policy = dataclasses.replace(QUICK, ping_s=0.1, longest_ping_s=100.0)
    transports = []
    from bottlenet.edge.connection import Transport, open_websocket

    def connect(url: str, timeout_s: float) -> Transport:
        transports.append(open_websocket(url, timeout_s))
        return transports[-1]

    edge = Edge(bundle, server.url, partition="auto", profile=profile(bundle), policy=policy, connect=connect)
    with edge:
        edge.connect()
        (transport,) = transports
        sizes = []
        for _ in range(10):
            before = transport.sent_bytes
            sizes.append(edge.classify(photo).socket_bytes - (transport.sent_bytes - before))
        assert sum(size != 0 for size in sizes) <= 1
        before = transport.sent_bytes
        until(lambda: transport.sent_bytes > before, "no probe")
        assert (transport.sent_bytes - before) % 10 == 0
        time.sleep(1.0)
        probes = (transport.sent_bytes - before) / 10
        assert 1 <= probes <= 5  # at 0.1, 0.3, 0.7 and 1.5 s


class TestArguments:
    def test_profiles(self, bundle: Bundle, make_bundle: MakeBundle) -> None:
        other = make_bundle(cut="elsewhere", head_flops_share=0.7)
        one, two = profile(bundle), profile(other)
        assert [each.name for each in profile_of([bundle], [one]).candidates] == [
            "edge-only",
            CLOUD,
            "split at patches",
        ]
        both = profile_of([bundle, other], [one, two])
        assert [each.name for each in both.candidates][2:] == ["split at patches", "split at elsewhere"]
        ladder = dataclasses.replace(both, bundle_id=hashlib.sha256(bundle.id + other.id).hexdigest())
        assert profile_of([bundle, other], [ladder]).candidates == both.candidates
        assert profile_of([other, bundle], [ladder]).candidates == both.candidates
        with pytest.raises(InputError, match=f"the profile is of bundle {other.id.hex()[:12]}, not of"):
            profile_of([bundle], [two])
        with pytest.raises(InputError, match="no profile has the cut elsewhere"):
            profile_of([bundle, other], [one])
        with pytest.raises(InputError, match="no profile is given; measure one with bottlenet profile"):
            merged([])
        with pytest.raises(InputError, match="two candidates are named"):
            merged([one, one])

    @pytest.mark.parametrize(("options", "message"), [
        ({"partition": "best"}, "partition is 'best'; give 'auto'"),
        ({"partition": "auto"}, "no profile is given"),
        ({"partition": "auto", "fallback": "local"}, "takes no budget, no fallback and no sure"),
        ({"partition": "auto", "budget_bytes": 100}, "takes no budget, no fallback and no sure"),
        ({"policy": QUICK}, "are for partition='auto'"),
    ])  # fmt: skip
    def test_options(self, bundle: Bundle, options: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            Edge(bundle, "ws://there", **options)

    def test_bundles(self, bundle: Bundle, make_bundle: MakeBundle) -> None:
        with pytest.raises(InputError, match="several bundles"):
            Edge([bundle, bundle], "ws://there")
        with pytest.raises(InputError, match="no bundle is given"):
            Edge([], "ws://there")
        with pytest.raises(InputError, match="two bundles are cut at patches"):
            sides_of([bundle, make_bundle(setting=20)])
        assert Edge([bundle], "ws://there").bundle is bundle

    def test_codecs_come_from_the_names(self, bundle: Bundle) -> None:
        edge, cloud, _ = map(partition_of, profile(bundle).candidates)
        assert (edge, cloud.codec) == (EDGE_ONLY, InputCodec("JPEG", 75))
        for name in ("JPEG", "JPEG 75 x", "JPEG -1", "JPEG 7x", "JPEG 1000", "JPEG ²"):
            with pytest.raises(InputError, match="give a format and a quality"):
                InputCodec.parse(name)
        with pytest.raises(InputError, match="input codec 'GIF' is not there"):
            InputCodec.parse("GIF 75")
