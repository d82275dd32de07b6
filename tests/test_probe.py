"""What a link is like, from exchanges over it: made-up ones, and real ones over a shaped link."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bottlenet.bundle import Bundle
from bottlenet.cloud import create_app
from bottlenet.edge.connection import Stream, open_websocket
from bottlenet.edge.pilot import KEPT, RUN, Estimate, LinkProbe, RoundTrip
from bottlenet.errors import InputError
from bottlenet.measure.link import ShapedLink
from bottlenet.plan.link import PRESETS, STREAM_OVERHEAD_BYTES, Link
from bottlenet.wire.frame import PHOTO, PROBE, STREAM_PATH, Frame
from conftest import Server

WIFI, THREE_G, NB_IOT = PRESETS["wifi"], PRESETS["3g"], PRESETS["nb-iot"]
STREAMS = [link for link in PRESETS.values() if link.max_message_bytes is None]


def exchanges(link: Link, sizes: list[int], jitter_s: float = 0.0003, seed: int = 0) -> Iterator[RoundTrip]:
    rng = random.Random(seed)
    for size in sizes:
        yield RoundTrip(size, link.exchange_s(size) + rng.uniform(0, jitter_s))


def feed(probe: LinkProbe, link: Link, sizes: list[int], jitter_s: float = 0.0003, seed: int = 0) -> Estimate:
    for exchange in exchanges(link, sizes, jitter_s, seed):
        probe.add(exchange)
    assert probe.estimate is not None
    return probe.estimate


def test_nothing_is_known_at_first() -> None:
    probe = LinkProbe()
    assert probe.estimate is None
    assert not probe.settled


@pytest.mark.parametrize("link", STREAMS, ids=lambda link: link.name)
def test_sizes_that_differ_tell_uplink_and_round_trip(link: Link) -> None:
    found = feed(LinkProbe(), link, [20_000, 4_000, 52, 12_000, 8_000])
    assert found.round_trip_s == pytest.approx(link.round_trip_s, rel=0.1, abs=0.001)
    if found.sure:  # on 4G and 5G 20 kB take no longer than their round trip may differ
        assert found.uplink_bps == pytest.approx(link.uplink_bps, rel=0.2)
    else:
        assert 20_000 * 8 / link.uplink_bps < link.round_trip_s
        assert found.link().exchange_s(10_000) == pytest.approx(link.exchange_s(10_000), rel=0.1)


@settings(max_examples=30, deadline=None)
@example(4.0, 0.0, [2769, 3007, 200, 201])
@given(st.floats(4, 8), st.floats(-3, 0.3), st.lists(st.integers(200, 40_000), min_size=4, max_size=12, unique=True))
def test_what_is_kept_is_predicted(log_bps: float, log_round_trip: float, sizes: list[int]) -> None:
    """Whatever the link: what was seen on it, less one or two odd round trips at the end, is what is expected of it."""
    link = Link("any", 10**log_bps, 10**log_round_trip)
    probe = LinkProbe()
    found = feed(probe, link, sizes).link()
    kept = [each.sent_bytes for each in probe._kept]
    assert len(kept) >= 2
    off = [abs(found.exchange_s(size) - link.exchange_s(size)) / link.exchange_s(size) for size in kept]
    assert sorted(off)[len(off) // 2] < 0.2


@pytest.mark.parametrize("link", STREAMS, ids=lambda link: link.name)
def test_from_pings_alone_the_uplink_is_that_of_such_links(link: Link) -> None:
    found = feed(LinkProbe(), link, [52, 52, 52])
    assert found.round_trip_s == pytest.approx(link.round_trip_s, rel=0.1, abs=0.001)
    assert abs(math.log10(found.uplink_bps / link.uplink_bps)) < 0.8
    assert not found.sure


def test_what_this_device_had_counts_more() -> None:
    own = Link("own", 300e3, 0.02)
    probe = LinkProbe()
    before = feed(probe, own, [52] * 3).uplink_bps
    probe.forget()
    assert feed(probe, own, [20_000, 4_000, 9_000, 15_000]).sure
    probe.forget()
    assert probe.estimate is None
    after = feed(probe, own, [52] * 3)
    assert not after.sure
    assert abs(math.log10(after.uplink_bps / 300e3)) < 0.5
    assert abs(math.log10(before / 300e3)) > 1


@pytest.mark.parametrize("times", [0.1, 3, 30])
def test_one_odd_exchange_changes_nothing(times: float) -> None:
    probe = LinkProbe()
    before = feed(probe, THREE_G, [600, 5_000, 8_000, 700, 9_000])
    for number in range(6):
        (exchange,) = exchanges(THREE_G, [5_000], seed=number)
        probe.add(dataclasses.replace(exchange, seconds=exchange.seconds * times))
        assert not probe.settled
        (good,) = exchanges(THREE_G, [5_000], seed=number)
        probe.add(good)
        assert probe.settled
    assert probe.estimate is not None
    assert probe.estimate.uplink_bps == pytest.approx(before.uplink_bps, rel=0.1)
    assert probe.estimate.round_trip_s == pytest.approx(before.round_trip_s, rel=0.1)


def test_a_beginning_is_never_odd() -> None:
    probe = LinkProbe()
    probe.begin([RoundTrip(52, seconds) for seconds in (0.03, 0.005, 0.006, 0.02, 0.0055)])
    assert probe.settled
    assert probe.estimate is not None
    assert probe.estimate.round_trip_s == pytest.approx(0.006, rel=0.2)


def test_odd_in_both_directions_is_no_other_link() -> None:
    probe = LinkProbe()
    feed(probe, THREE_G, [5_000, 12_000, 3_000, 8_000])
    for number in range(10):
        probe.add(RoundTrip(5_000, 0.01 if number % 2 else 3.0))
    assert probe.estimate is not None
    assert probe.estimate.link().exchange_s(5_000) == pytest.approx(THREE_G.exchange_s(5_000), rel=0.1)
    assert not probe.settled


@pytest.mark.parametrize(("one", "other"), [(WIFI, THREE_G), (THREE_G, WIFI), (WIFI, NB_IOT), (NB_IOT, THREE_G)])
@pytest.mark.parametrize("sizes", [[9_000, 7_000, 11_000, 6_500], [600, 640, 620, 610]])
def test_three_in_a_row_are_another_link(one: Link, other: Link, sizes: list[int]) -> None:
    probe = LinkProbe()
    feed(probe, one, sizes * 3)
    for exchange in exchanges(other, sizes[: RUN - 1]):
        probe.add(exchange)
    assert probe.estimate is not None
    assert not probe.settled
    assert probe.estimate.round_trip_s == pytest.approx(one.round_trip_s, rel=0.2, abs=0.001)
    found = feed(probe, other, sizes[RUN - 1 : RUN])
    assert probe.settled
    assert found.samples == RUN
    assert found.link().exchange_s(sizes[0]) == pytest.approx(other.exchange_s(sizes[0]), rel=0.1)


def test_a_measured_uplink_stays_known_while_only_small_messages_go() -> None:
    probe = LinkProbe()
    feed(probe, THREE_G, [5_000, 9_000, 12_000, 7_000])
    found = feed(probe, THREE_G, [600] * (2 * KEPT))
    assert found.sure
    assert found.uplink_bps == pytest.approx(THREE_G.uplink_bps, rel=0.15)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4)), max_size=30))
def test_any_exchanges_give_a_link_that_the_planner_takes(made: list[tuple[float, float]]) -> None:
    probe = LinkProbe()
    for sent_bytes, seconds in made:
        probe.add(RoundTrip(sent_bytes, seconds))
        assert probe.estimate is not None
        link = probe.estimate.link()
        assert link.uplink_bps > 0
        assert link.round_trip_s > 0
        assert 1 <= probe.estimate.samples <= KEPT


@pytest.mark.parametrize(
    ("sent_bytes", "seconds"), [(-1, 0), (0, -1), (math.nan, 0), (0, math.nan), (math.inf, 0), (0, math.inf)]
)
def test_no_exchange(sent_bytes: float, seconds: float) -> None:
    with pytest.raises(InputError, match="give numbers, 0 or more"):
        RoundTrip(sent_bytes, seconds)


def test_over_a_shaped_link(serve: Callable[..., Server], bundle: Bundle) -> None:
    """Real sockets: refused photos are as good as others, as the server says at once that they are none."""
    server = serve(create_app([bundle]))
    probe, link = LinkProbe(), Link("slow enough for a busy machine", 100e3, 0.4)
    with ShapedLink("127.0.0.1", server.port, link) as shaped:
        stream = Stream(lambda: open_websocket(f"{shaped.url}{STREAM_PATH}?bundle={bundle.id.hex()}", 30))
        for size in (0, 1_500, 0, 3_000, 0, 2_200, 0, 900, 2_700):
            frame = Frame(PHOTO if size else PROBE, 0, bundle.tag, 0, b"x" * size)
            stream.send(frame)
            reply = stream.receive(30)
            probe.add(RoundTrip(size + STREAM_OVERHEAD_BYTES, reply.round_trip_ms / 1e3))
            time.sleep(0.01)
        stream.close()
    assert probe.estimate is not None
    assert probe.estimate.round_trip_s == pytest.approx(link.round_trip_s, rel=0.35)
    assert probe.estimate.uplink_bps == pytest.approx(link.uplink_bps, rel=0.35)
    assert probe.estimate.sure
