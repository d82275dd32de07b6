"""The shaped link: against the sums, over real sockets."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bottlenet.errors import InputError
from bottlenet.measure import link as module
from bottlenet.measure.link import BUFFER_BYTES, Lane, ShapedLink
from bottlenet.plan.link import Link
from bottlenet.plan.predict import expected_rounds
from conftest import until
from processes import everything


class Sink:
    """A server that answers each `size` bytes with one, and knows when they came."""

    def __init__(self, size: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.size = size
        self.came: list[float] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        count = 0
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                count += len(data)
                while count >= self.size:
                    self.came.append(time.perf_counter())
                    count -= self.size
                    connection.sendall(b"!")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def through(link: Link, size: int, **options: float) -> Iterator[tuple[socket.socket, Sink, ShapedLink]]:
    sink = Sink(size)
    with (
        ShapedLink("127.0.0.1", sink.port, link, **options) as shaped,  # type: ignore[arg-type]
        socket.create_connection(("127.0.0.1", shaped.port), 10) as device,
    ):
        yield device, sink, shaped
    sink.close()


def exchange(device: socket.socket, size: int) -> float:
    started = time.perf_counter()
    device.sendall(bytes(size))
    assert device.recv(1) == b"!"
    return time.perf_counter() - started


def least(measure: Callable[[], float], bound: float) -> float:
    """Measure seconds a few times, and for up to a minute until they are below `bound` once; return the least."""
    times, deadline = [measure() for _ in range(3)], time.monotonic() + 60
    while min(times) >= bound and time.monotonic() < deadline:
        times.append(measure())
    return min(times)


class TestLane:
    """The sums, with a clock of our own."""

    LINK = Link("l", 8000.0, 0.5, downlink_bps=16_000.0)

    def test_rate_and_delay(self) -> None:
        lane, rng = Lane(self.LINK, up=True, jitter_s=0), random.Random(0)
        assert lane.arrival(10.0, 1000, rng) == pytest.approx(10 + 1 + 0.25)
        assert lane.arrival(10.0, 1000, rng) == pytest.approx(10 + 2 + 0.25)  # behind the first
        assert lane.arrival(20.0, 500, rng) == pytest.approx(20 + 0.5 + 0.25)  # an idle link saves nothing up
        assert Lane(self.LINK, up=False, jitter_s=0).arrival(0, 1000, rng) == pytest.approx(0.5 + 0.25)

    def test_a_downlink_of_which_nothing_is_known_takes_no_time(self) -> None:
        lane = Lane(Link("l", 8000.0, 0.5), up=False, jitter_s=0)
        assert lane.arrival(1.0, 10**6, random.Random(0)) == pytest.approx(1.25)

    def test_jitter_is_within_its_bound(self) -> None:
        lane, rng = Lane(Link("l", 1e12, 1.0), up=True, jitter_s=0.2), random.Random(0)
        delays = [lane.arrival(0.0, 1, rng) for _ in range(1000)]
        assert 0.5 <= min(delays) < 0.51
        assert 0.69 < max(delays) <= 0.7001

    def test_loss_is_what_the_planner_expects(self) -> None:
        """Rounds until the last of 7 packets is there, and bits that are sent for it."""
        link, rng = Link("l", 1e12, 1.0, loss=0.3), random.Random(3)
        runs = 5000
        lane = Lane(link, up=True, jitter_s=0)
        rounds = [max(lane.arrival(0.0, 1, rng) for _ in range(7)) + 0.5 for _ in range(runs)]
        assert statistics.fmean(rounds) == pytest.approx(expected_rounds(7, 0.3), rel=0.02)
        slow = Lane(Link("l", 8.0, 0.0, loss=0.3), up=True, jitter_s=0)
        last = [slow.arrival(0.0, 1, rng) for _ in range(runs)][-1]
        assert last == pytest.approx(runs / 0.7, rel=0.05)

    def test_the_same_seed_is_the_same_fate(self) -> None:
        def fates(seed: int) -> list[float]:
            lane, rng = Lane(Link("l", 1e6, 1.0, loss=0.3), up=True, jitter_s=0.1), random.Random(seed)
            return [lane.arrival(0.0, 100, rng) for _ in range(50)]

        assert fates(1) == fates(1) != fates(2)


class TestOverSockets:
    """A busy machine makes things late, never early; so the best of some is what counts, and it may be a bit late."""

    LATE_S = 0.015

    @pytest.mark.parametrize(
        ("bps", "round_trip_s", "size"), [(1.1e6, 0.1, 1000), (1.1e6, 0.1, 10_000), (375e3, 0.02, 3000)]
    )
    def test_an_exchange(self, bps: float, round_trip_s: float, size: int) -> None:
        link = Link("l", bps, round_trip_s)
        expected = link.exchange_s(size)
        bound = expected * 1.03 + self.LATE_S
        with through(link, size) as (device, _, _):
            assert expected * 0.999 <= least(lambda: exchange(device, size), bound) < bound

    def test_the_rate(self) -> None:
        """100 kB at 2 Mbit/s, and half a round trip: 0.405 s."""

        def measure() -> float:
            with through(Link("l", 2e6, 0.01), 1000) as (device, sink, _):
                exchange(device, 1000)  # is open
                started = time.perf_counter()
                device.sendall(bytes(100_000))
                for _ in range(100):
                    assert device.recv(1) == b"!"
            return sink.came[-1] - started

        expected = 100_000 * 8 / 2e6 + 0.005
        bound = expected * 1.03 + self.LATE_S
        assert expected * 0.999 <= least(measure, bound) < bound

    def test_two_connections_share_it(self) -> None:
        link = Link("l", 1e6, 0.0)
        with through(link, 10_000) as (one, _, shaped), socket.create_connection(("127.0.0.1", shaped.port)) as two:
            exchange(two, 10_000)  # is open

            def measure() -> float:
                started = time.perf_counter()
                one.sendall(bytes(10_000))
                two.sendall(bytes(10_000))
                for device in (one, two):
                    assert device.recv(1) == b"!"
                return time.perf_counter() - started

            bound = 0.17 + self.LATE_S
            assert 0.159 < least(measure, bound) < bound

    def test_what_arrives_is_what_was_sent(self) -> None:
        """In order, whatever jitter and loss do."""
        sent = random.Random(1).randbytes(200_000)
        listener = socket.create_server(("127.0.0.1", 0))
        link = Link("l", 50e6, 0.004, loss=0.2)
        with (
            ShapedLink("127.0.0.1", listener.getsockname()[1], link, jitter_s=0.003) as shaped,
            socket.create_connection(("127.0.0.1", shaped.port)) as device,
        ):
            server, _ = listener.accept()
            device.sendall(sent)
            device.shutdown(socket.SHUT_WR)
            assert everything(server) == sent
            server.sendall(sent[:1000])
            server.close()
            assert everything(device) == sent[:1000]
            assert shaped.carried_bytes == (len(sent), 1000)  # lost ones once
            assert 5 < shaped.lost_packets[0] < 100  # of 137 packets, a quarter more than a fifth
        listener.close()

    def test_set_up(self) -> None:
        """TCP's handshake; WebSocket's goes through the link itself."""

        def measure() -> float:
            with through(Link("l", 1e9, 0.05, setup_s=0.1), 1) as (device, _, _):
                return exchange(device, 1)

        bound = 0.1 + 4 * self.LATE_S  # in which threads start and another connection is opened
        assert 0.099 < least(measure, bound) < bound

    def test_another_link_and_none(self) -> None:
        with through(Link("slow", 1e5, 0.0), 1000) as (device, sink, shaped):
            bound = 0.08 + 2 * self.LATE_S
            assert 0.079 < least(lambda: exchange(device, 1000), bound) < bound
            shaped.change(Link("fast", 1e7, 0.0))
            assert least(lambda: exchange(device, 1000), 0.05) < 0.05
            before = len(sink.came)
            shaped.change(None)
            device.sendall(bytes(1000))
            device.settimeout(0.1)
            with pytest.raises(TimeoutError):
                device.recv(1)
            assert len(sink.came) == before
            device.settimeout(10)
            shaped.change(Link("fast", 1e7, 0.0))
            assert device.recv(1) == b"!"  # it waited, and was not lost

    def test_a_sender_waits_when_the_link_is_full(self) -> None:
        with through(Link("slow", 1000, 0.0), 1) as (device, _, _):
            device.setblocking(False)
            accepted = 0
            with contextlib.suppress(BlockingIOError):
                for _ in range(300):
                    accepted += device.send(bytes(65536))
                    time.sleep(0.001)
            assert accepted < BUFFER_BYTES + 15 * 2**20  # and what the system's own buffers take

    def test_no_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with (
            ShapedLink("127.0.0.1", port, Link("l", 1e6, 0.0)) as shaped,
            socket.create_connection(("127.0.0.1", shaped.port), 10) as device,
        ):
            assert device.recv(1) == b""

    def test_it_ends_while_all_is_under_way(self) -> None:
        before = threading.active_count()
        with through(Link("slow", 1000, 5.0), 1) as (device, _, shaped):
            device.sendall(bytes(100_000))
            shaped.change(None)
            device.sendall(bytes(1000))
            started = time.perf_counter()
            shaped.close()
            shaped.close()
            assert time.perf_counter() - started < 4
        deadline = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before

    def test_to_cut_what_is_under_way_is_no_error(self, caplog: pytest.LogCaptureFixture) -> None:
        with through(Link("slow", 8000, 5.0), 100) as (device, _, link):
            device.sendall(bytes(100))
            until(lambda: link._connections == 1, "it is not served")
            link.close()
        assert not caplog.records

    @pytest.mark.filterwarnings("error::ResourceWarning")
    def test_it_ends_while_bytes_wait_that_nobody_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BUFFER_BYTES", 2**30)
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as device:
            device.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with ShapedLink("127.0.0.1", server.getsockname()[1], Link("l", 1e9, 0.0)) as shaped:
                device.connect(("127.0.0.1", shaped.port))
                device.shutdown(socket.SHUT_WR)
                connection, _ = server.accept()
                with connection:
                    assert connection.recv(1) == b""  # the device's end came through
                    connection.sendall(bytes(2**24))
                time.sleep(0.5)  # the link has it all, and has closed its own ends
            del shaped
            gc.collect()

    def test_one_that_has_hardly_begun_ends(self) -> None:
        for _ in range(100):
            ShapedLink("127.0.0.1", 1, Link("l", 1000, 0.1)).close()

    @pytest.mark.parametrize("jitter_s", [-1, float("nan"), float("inf")])
    def test_no_jitter(self, jitter_s: float) -> None:
        with pytest.raises(InputError, match="jitter is (-1000|nan|inf) ms; give 0 or more"):
            ShapedLink("127.0.0.1", 1, Link("l", 1, 0), jitter_s=jitter_s)

    def test_many_connections_one_after_the_other_and_few_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
        with through(Link("l", 1e9, 0.0), 1) as (first, _, shaped):
            address = ("127.0.0.1", shaped.port)
            exchange(first, 1)
            for _ in range(10):
                with socket.create_connection(address, 10) as device:
                    exchange(device, 1)
                time.sleep(0.02)  # its end is under way
            with socket.create_connection(address, 10) as one, socket.create_connection(address, 10) as two:
                exchange(one, 1)
                exchange(two, 1)
                with socket.create_connection(address, 10) as three:
                    assert three.recv(1) == b""
            exchange(first, 1)
