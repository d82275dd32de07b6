"""Frames through a real broker, with real servers: none is lost, none is taken for another, nobody sees too much."""

from __future__ import annotations

import json
import queue
import re
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from starlette.applications import Starlette

from bottlenet.broker import broker_at
from bottlenet.bundle import Bundle
from bottlenet.cloud import Decoder, Limits, create_app
from bottlenet.edge import Answered, Edge, Encoder, Outcome, Sender, Spool
from bottlenet.edge.client import opener_of
from bottlenet.edge.mqtt import MAX_REPLY_BYTES
from bottlenet.errors import BusyError, FrameError, LinkError
from bottlenet.wire.answer import Answer, parse_answer
from bottlenet.wire.frame import Frame
from bottlenet.wire.mqtt import MAX_MESSAGE_BYTES, shared_filter
from brokers import ACL, Mosquitto, broker, needs_mosquitto
from conftest import Server, until
from network import make_album
from processes import Process, frame_of, refused_to_start, serving, write_certificate
from test_cli import Run, run

__all__ = ["run"]  # a fixture

COUNT = 60
MQTT_BYTES = 10  # before a frame of up to 119 bytes, once the broker knows the topic; of longer ones 11
PASSWORDS = {"server": "correct horse", "camera-1": "battery staple", "camera-2": "a token 0123456789"}

pytestmark = needs_mosquitto


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_album(tmp_path_factory.mktemp("album"), COUNT).iterdir())


@pytest.fixture(scope="module")
def open_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One that asks nobody who he is."""
    with broker(tmp_path_factory.mktemp("broker")) as made:
        yield made


@pytest.fixture
def serve_mqtt() -> Iterator[Callable[..., Starlette]]:
    """`serve_mqtt(broker, bundle, ...)`: an application in this process, which takes frames when it is returned."""
    with ExitStack() as stack:

        def start(at: Mosquitto, *bundles: Bundle, user: str = "", limits: Limits | None = None) -> Starlette:
            where = broker_at(at.url(user), password=PASSWORDS[user] if user else None)
            app = create_app(bundles, limits, broker=where)
            stack.callback(Server(app).stop)
            takes_frames(app)
            return app

        yield start


@pytest.fixture
def served(open_broker: Mosquitto, bundle: Bundle, serve_mqtt: Callable[..., Starlette]) -> str:
    """The broker's URL; a server takes frames from there."""
    serve_mqtt(open_broker, bundle)
    return open_broker.url()


def value_of(server: Starlette | Process, name: str, **labels: str) -> float:
    """Of a metric, by MQTT."""
    if isinstance(server, Process):
        text = httpx.get(f"{server.http_url}/metrics").text
    else:
        text = server.state.service.metrics.text()[0].decode()
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
        if found and all(f'{key}="{value}"' in found[1] for key, value in {"via": "mqtt", **labels}.items()):
            return float(found[2])
    return 0


def takes_frames(server: Starlette | Process) -> None:
    until(lambda: value_of(server, "bottlenet_open") == 1, "it takes no frames")


class Raw:
    """A client of the broker that does what it likes."""

    def __init__(self, at: Mosquitto, user: str = "", listen: str = "") -> None:
        self.messages: queue.Queue[MQTTMessage] = queue.Queue()
        self.codes: queue.Queue[int] = queue.Queue()  # of acknowledgements
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.max_inflight_messages_set(1000)
        if user:
            self.client.username_pw_set(user, PASSWORDS[user])
        self.client.on_message = lambda _client, _data, message: self.messages.put(message)
        self.client.on_publish = lambda _client, _data, _mid, code, _properties: self.codes.put(code.value)
        self.client.on_subscribe = lambda _client, _data, _mid, codes, _properties: self.codes.put(codes[0].value)
        self.client.connect("127.0.0.1", at.port)
        self.client.loop_start()
        if listen:
            self.listened = self.subscribe(listen)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, what: str) -> int:
        self.client.subscribe(what, 1)
        return self.codes.get(timeout=30)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> int:
        """What the broker says to it."""
        self.client.publish(topic, payload, qos)
        return self.codes.get(timeout=30)

    def next(self) -> MQTTMessage:
        return self.messages.get(timeout=30)


def right(bundle: Bundle, photos: list[Path]) -> dict[str, list[int]]:
    """The classes of each photo, best first, without a network."""
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    answers = decoder.answers([encoder.encode(photo).frame for photo in photos])
    return {
        str(photo): [index for index, _ in answer.top]
        for photo, answer in zip(photos, answers, strict=True)
        if isinstance(answer, Answer)
    }


def check_all(outcomes: list[Outcome], bundle: Bundle, photos: list[Path]) -> None:
    """Each photo has one answer, the right one, from a server."""
    assert len(outcomes) == len(photos)
    given = {}
    for outcome in outcomes:
        assert isinstance(outcome, Answered), outcome
        assert outcome.by == "server"
        given[outcome.photo] = [choice.class_index for choice in outcome.top]
    assert given == right(bundle, photos)


class TestRoundTrip:
    def test_photos(self, served: str, bundle: Bundle, album: list[Path]) -> None:
        expected = right(bundle, album)
        with Edge(bundle, served) as edge:
            predictions = list(edge.classify_many(album, in_flight=30))
            predictions.append(edge.classify(album[0]))
        for photo, prediction in zip([*album, album[0]], predictions, strict=True):
            assert [choice.class_index for choice in prediction.top] == expected[str(photo)]

    def test_bytes(self, served: str, bundle: Bundle, photo: np.ndarray) -> None:
        """What the socket counted is what MQTT's format says: up to 15 above the payload."""
        with Edge(bundle, served) as edge:
            edge.connect()
            edge.classify(photo)
            again = edge.classify(photo)
        assert again.socket_bytes == again.frame_bytes + MQTT_BYTES == again.payload_bytes + 4 + MQTT_BYTES

    def test_reports(
        self, open_broker: Mosquitto, exit_bundle: Bundle, photo: np.ndarray, serve_mqtt: Callable[..., Starlette]
    ) -> None:
        app = serve_mqtt(open_broker, exit_bundle)
        for audit in (0, 1):
            with Edge(exit_bundle, open_broker.url(), sure=0, report_answers=True, audit=audit) as edge:
                edge.connect()
                found = [edge.classify(photo) for _ in range(2)]
            assert {each.answered_by for each in found} == {"device"}
            assert found[1].socket_bytes == found[1].frame_bytes + MQTT_BYTES
        counts = app.state.service.bundles.by_tag(exit_bundle.tag).reported
        assert (counts["reports"], counts["audits"]) == (4, 2)

    def test_large_frames(self, open_broker: Mosquitto, make_bundle: Callable[..., Bundle], serve_mqtt: Any) -> None:
        """Two bytes more for the length, and nobody minds."""
        raw = make_bundle(codec="raw", setting=0)
        serve_mqtt(open_broker, raw)
        frame = Frame(0, 0, raw.tag, 7, bytes(256))
        with Raw(open_broker, listen="bottlenet/v1/answers/me/00000007") as me:
            me.publish(f"bottlenet/v1/frames/{raw.id.hex()}/me/00000007", frame.to_stream_bytes())
            assert parse_answer(me.next().payload).sequence == 7

    def test_several_bundles(self, open_broker: Mosquitto, make_bundle: Callable[..., Bundle], serve_mqtt: Any) -> None:
        one, two = make_bundle(name="one"), make_bundle(name="two", setting=80)
        app = serve_mqtt(open_broker, one, two)
        photo = np.zeros((40, 40, 3), np.uint8)
        for each in (one, two, one):
            with Edge(each, open_broker.url()) as edge:
                assert edge.classify(photo).answered_by == "server"
        assert value_of(app, "bottlenet_requests_total") == 3

    def test_nobody_takes_frames(self, open_broker: Mosquitto, make_bundle: Callable[..., Bundle]) -> None:
        """The broker knows at once, so nobody waits for a deadline."""
        other = make_bundle(name="other")
        photo = np.zeros((40, 40, 3), np.uint8)
        started = time.monotonic()
        said = (
            f"no server takes frames of bundle {other.id.hex()[:12]} from {open_broker.url()}; is one running with it"
        )
        with Edge(other, open_broker.url(), timeout_s=60) as edge, pytest.raises(LinkError, match=said):
            edge.classify(photo)
        with Edge(other, open_broker.url(), timeout_s=60, fallback="local") as edge:
            assert edge.classify(photo).answered_by == "local"
        assert time.monotonic() < started + 30

    def test_no_broker(self, bundle: Bundle, photo: np.ndarray) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            url = f"mqtt://127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(LinkError, match=f"can't connect to {url}: connection refused; is the broker running"):
            Edge(bundle, url).classify(photo)


class TestCommand:
    def test_send(self, run: Run, served: str, album: list[Path], bundle: Bundle, tmp_path: Path) -> None:
        command = ("send", *album, "--to", served, "--spool", tmp_path / "spool", "--bundle", bundle.path)
        done = run(*command, "--json", "--in-flight", "16")
        assert (done.code, done.err) == (0, "")
        lines = [json.loads(line) for line in done.out.splitlines()]
        assert {line["photo"]: [one["class_index"] for one in line["top"]] for line in lines} == right(bundle, album)
        done = run(*command)
        assert (done.code, done.out.count("from before")) == (0, COUNT)

    def test_budget(self, run: Run, served: str, album: list[Path], bundle: Bundle, tmp_path: Path) -> None:
        command = ("send", *album[:5], "--to", served, "--spool", tmp_path, "--bundle", bundle.path)
        done = run(*command, "--budget", "100", "--json")
        assert done.code == 0
        assert all(json.loads(line)["payload_bytes"] + 12 <= 100 for line in done.out.splitlines())

    def test_classify_without_a_server(
        self, run: Run, open_broker: Mosquitto, album: list[Path], bundle: Bundle
    ) -> None:
        command = ("classify", album[0], "--to", open_broker.url(), "--bundle", bundle.path)
        assert run(*command).error.startswith("error: no server takes frames of bundle ")
        done = run(*command, "--fallback", "local", "--json")
        assert (done.code, done.json["photos"][0]["answered_by"]) == (0, "local")


def send_all(edge: Edge, spool: Path, photos: list[Path], happened: list[Outcome]) -> threading.Thread:
    """In a thread; what becomes of each is added to `happened`."""

    def run() -> None:
        with Spool(spool, edge.bundle) as opened:
            for outcome in Sender(edge, opened, in_flight=8).send(photos):
                happened.append(outcome)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


class TestFaults:
    def test_two_servers_share_and_one_is_killed(self, bundle: Bundle, album: list[Path], tmp_path: Path) -> None:
        with (
            broker(tmp_path / "broker") as at,
            serving(bundle.path, "--mqtt", at.url()) as one,
            serving(bundle.path, "--mqtt", at.url()) as two,
        ):
            for each in (one, two):
                takes_frames(each)
            happened: list[Outcome] = []
            thread = send_all(Edge(bundle, at.url(), timeout_s=2), tmp_path / "spool", album, happened)
            until(lambda: len(happened) > COUNT // 4, "no answers")
            shares = [value_of(each, "bottlenet_requests_total") for each in (one, two)]
            one.popen.kill()
            thread.join(60)
            assert not thread.is_alive()
            assert min(shares) > 0
            check_all(happened, bundle, album)

    def test_a_server_dies_with_frames_in_its_hands(
        self, bundle: Bundle, album: list[Path], tmp_path: Path, serve_mqtt: Any
    ) -> None:
        """It took some and answers none; they are sent again, to the others."""
        with broker(tmp_path / "broker") as at:
            app = serve_mqtt(at, bundle)
            happened: list[Outcome] = []
            with Raw(at) as dying:
                dying.subscribe(shared_filter(bundle.id.hex()))
                thread = send_all(Edge(bundle, at.url(), timeout_s=1.5), tmp_path / "spool", album[:12], happened)
                assert dying.next().payload
                assert dying.next().payload
            thread.join(60)
            check_all(happened, bundle, album[:12])
            assert value_of(app, "bottlenet_requests_total") >= 12

    def test_the_broker_is_restarted_in_the_middle(
        self, bundle: Bundle, album: list[Path], tmp_path: Path, serve_mqtt: Any
    ) -> None:
        with broker(tmp_path / "broker") as at:
            app = serve_mqtt(at, bundle)
            happened: list[Outcome] = []
            thread = send_all(Edge(bundle, at.url(), timeout_s=2), tmp_path / "spool", album, happened)
            for part in (4, 2):
                until(lambda part=part: len(happened) > COUNT // part, "no answers")  # type: ignore[misc]
                at.kill()
                until(lambda: value_of(app, "bottlenet_open") == 0, "it did not notice")
                at.start()
                takes_frames(app)  # else the next kill would be no trouble of its own
            thread.join(60)
            assert not thread.is_alive()
            check_all(happened, bundle, album)
            assert value_of(app, "bottlenet_errors_total", kind="broker") >= 2

    def test_a_broker_that_comes_late(self, bundle: Bundle, photo: np.ndarray, tmp_path: Path) -> None:
        with broker(tmp_path / "broker") as at:
            at.kill()
            with serving(bundle.path, "--mqtt", at.url()) as process:
                at.start()
                takes_frames(process)
                with Edge(bundle, at.url()) as edge:
                    edge.classify(photo)
                code, err = process.end(signal.SIGTERM)
        assert code == 0
        assert f"can't connect to {at.url()}" in err
        assert err.count("\n") <= 2  # the same trouble is told once

    def test_answers_twice_and_in_another_order(self, bundle: Bundle, album: list[Path], tmp_path: Path) -> None:
        """QoS 1 may bring a frame twice, to two servers even: the first answer counts."""
        photos, decoder = album[:12], Decoder(bundle)
        with broker(tmp_path) as at, Raw(at, listen=shared_filter(bundle.id.hex())) as server:

            def answer() -> None:
                held: list[tuple[str, bytes]] = []
                for _ in photos:
                    message = server.next()
                    _, _, _, _, device, session = message.topic.split("/")
                    code, setting, sequence = message.payload[0] & 15, message.payload[1], message.payload[2:4]
                    frame = Frame(code, setting, bundle.tag, int.from_bytes(sequence, "big"), message.payload[4:])
                    (answered,) = decoder.answers([frame])
                    assert isinstance(answered, Answer)
                    held.append((f"bottlenet/v1/answers/{device}/{session}", answered.to_bytes()))
                    if len(held) == 3:
                        for topic, data in (*reversed(held), *held):
                            server.client.publish(topic, data, 1)
                        held.clear()

            thread = threading.Thread(target=answer)
            thread.start()
            with Edge(bundle, at.url()) as edge:
                predictions = list(edge.classify_many(photos, in_flight=6))
            thread.join(30)
        expected = right(bundle, photos)
        for photo, prediction in zip(photos, predictions, strict=True):
            assert [choice.class_index for choice in prediction.top] == expected[str(photo)]

    def test_a_late_answer_to_another_connection(self, bundle: Bundle, photo: np.ndarray, tmp_path: Path) -> None:
        """A device that starts again counts from 0 again; what comes for the one before has another address."""
        with broker(tmp_path) as at, Raw(at, listen=shared_filter(bundle.id.hex())) as server:
            topics = []
            for _ in range(2):
                with pytest.raises(LinkError, match="no answer"), Edge(bundle, at.url(), timeout_s=0.3) as edge:
                    edge.classify(photo)
                topics.append(server.next().topic)
        assert topics[0] != topics[1]
        assert topics[0].rpartition("/")[0] == topics[1].rpartition("/")[0]


class Slow:
    """Makes decoders wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        answers = Decoder.answers

        def slow(decoder: Decoder, frames: Any) -> Any:
            time.sleep(seconds)
            return answers(decoder, frames)

        monkeypatch.setattr(Decoder, "answers", slow)


class TestLimits:
    def test_busy(
        self,
        open_broker: Mosquitto,
        bundle: Bundle,
        album: list[Path],
        tmp_path: Path,
        serve_mqtt: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A full line is told, with a time to come again; nobody is lost."""
        Slow(monkeypatch, 0.05)
        app = serve_mqtt(open_broker, bundle, limits=Limits(max_waiting=2))
        with Edge(bundle, open_broker.url()) as edge:
            with pytest.raises(BusyError, match="2 photos are waiting already") as busy:
                list(edge.classify_many(album, in_flight=30))
            assert 0 < busy.value.retry_after_s < 10
            happened: list[Outcome] = []
            send_all(edge, tmp_path, album[:20], happened).join(60)
        check_all(happened, bundle, album[:20])
        assert value_of(app, "bottlenet_errors_total", kind="busy") > 0

    def test_a_payload_above_the_limit(
        self, open_broker: Mosquitto, make_bundle: Callable[..., Bundle], serve_mqtt: Any
    ) -> None:
        raw = make_bundle(codec="raw", setting=0)
        app = serve_mqtt(open_broker, raw, limits=Limits(max_payload_bytes=100))
        photo = np.zeros((40, 40, 3), np.uint8)
        with Edge(raw, open_broker.url()) as edge:
            for _ in range(2):  # the connection is as good as before
                with pytest.raises(FrameError, match="payload of 256 bytes; this side takes up to 100: reduce more"):
                    edge.classify(photo)
        assert value_of(app, "bottlenet_errors_total", kind="frame") == 2

    def test_a_message_above_all_limits(self, open_broker: Mosquitto, bundle: Bundle, serve_mqtt: Any) -> None:
        """The device doesn't send it; from whoever does, the broker passes nothing on."""
        app = serve_mqtt(open_broker, bundle)
        opened = opener_of("mqtt://")(f"{open_broker.url()}?bundle={bundle.id.hex()}", 30)
        before = opened.sent_bytes
        opened.send(b"\x12\x14\x00\x05" + bytes(MAX_MESSAGE_BYTES))
        assert opened.sent_bytes == before
        with pytest.raises(FrameError, match="refused frame 5: a frame of .* takes up to 1048576: reduce more"):
            parse_answer(opened.receive(30))
        opened.close()
        topic = f"bottlenet/v1/frames/{bundle.id.hex()}/me/00000001"
        with Raw(open_broker, listen="bottlenet/v1/answers/me/+") as me:
            assert me.publish(topic, bytes(2 * MAX_MESSAGE_BYTES)) == 0
            me.publish(topic, frame_of(bundle, 6).to_stream_bytes())
            assert parse_answer(me.next().payload).sequence == 6
        assert value_of(app, "bottlenet_requests_total") == 1

    @pytest.mark.parametrize(("count", "size"), [(5000, 1), (80, 2**20)])
    def test_more_answers_than_anybody_asked_for(
        self, count: int, size: int, open_broker: Mosquitto, bundle: Bundle, served: str
    ) -> None:
        """They are not kept, however many and however large they are."""
        with Raw(open_broker, listen=f"bottlenet/v1/frames/{bundle.id.hex()}/#") as other:
            opened = opener_of("mqtt://")(f"{served}?bundle={bundle.id.hex()}", 30)
            opened.send(Frame(2, 20, bundle.tag, 7, b"x").to_stream_bytes())
            topic = other.next().topic.replace(f"frames/{bundle.id.hex()}", "answers")
            for _ in range(count):
                other.client.publish(topic, bytes(size), 0)
            until(lambda: opened._failure is not None, "it keeps them")
        kept: list[bytes] = []
        with pytest.raises(LinkError, match="brings answers that nobody asked for"):
            kept.extend(opened.receive(30) for _ in range(count))
        assert 0 < sum(map(len, kept)) <= MAX_REPLY_BYTES
        opened.close()

    def test_a_broker_with_a_limit_of_its_own(self, bundle: Bundle, photo: np.ndarray, tmp_path: Path) -> None:
        with broker(tmp_path, lines="max_packet_size 220") as at, Edge(bundle, at.url()) as edge:
            for _ in range(2):
                with pytest.raises(FrameError, match=f"{at.url()} takes up to 20: reduce more"):
                    edge.classify(photo)

    def test_topics_and_messages_that_are_none(self, open_broker: Mosquitto, bundle: Bundle, serve_mqtt: Any) -> None:
        app = serve_mqtt(open_broker, bundle)
        topic = f"bottlenet/v1/frames/{bundle.id.hex()}"
        with Raw(open_broker, listen="bottlenet/v1/answers/#") as me:
            for who in (
                "me/0000000g",
                "me/000000001",
                "/00000001",
                "m e/00000001",
                f"{'x' * 65}/00000001",
                "é/00000001",
            ):
                assert me.publish(f"{topic}/{who}", frame_of(bundle).to_stream_bytes()) == 0
            for message in (b"", b"\x12", b"\x92\x14\x00\x01x", b"{}"):
                me.publish(f"{topic}/me/00000002", message)
                answer = me.next()
                assert answer.topic == "bottlenet/v1/answers/me/00000002"
                with pytest.raises(FrameError):
                    parse_answer(answer.payload)
        assert value_of(app, "bottlenet_errors_total", kind="topic") == 6


def test_stopping_answers_what_came(bundle: Bundle, tmp_path: Path) -> None:
    """Frames are sent as fast as they go, and SIGTERM comes in the middle: each is answered, put off, or not taken."""
    sent = 600
    with broker(tmp_path) as at, serving(bundle.path, "--mqtt", at.url(), "--max-waiting", "1000") as process:
        takes_frames(process)
        with Raw(at, listen="bottlenet/v1/answers/me/+") as me:
            for number in range(sent):
                message = frame_of(bundle, number).to_stream_bytes()
                me.client.publish(f"bottlenet/v1/frames/{bundle.id.hex()}/me/00000001", message, 1)
                if number == sent // 4:
                    process.popen.send_signal(signal.SIGTERM)
            taken = sum(me.codes.get(timeout=30) == 0 for _ in range(sent))
            statuses = Counter(me.next().payload[0] & 15 for _ in range(taken))
            out, err = process.popen.communicate(timeout=30)
            assert (process.popen.returncode, out, err) == (0, "", "")
            assert me.messages.empty()
    assert 0 < taken <= sent  # all, where the signal is slow
    assert statuses[0] > 0
    assert statuses.keys() <= {0, 2}
    assert re.search(r"Received DISCONNECT from bottlenet-server", at.log)  # it said goodbye


def test_bundles_come_and_go(
    bundle: Bundle, make_bundle: Callable[..., Bundle], photo: np.ndarray, tmp_path: Path, open_broker: Mosquitto
) -> None:
    watched, other = tmp_path / "watched", make_bundle(name="comes and goes")
    watched.mkdir()
    with (
        serving(bundle.path, "--mqtt", open_broker.url(), "--watch", watched),
        Edge(other, open_broker.url(), timeout_s=2) as edge,
    ):

        def works() -> bool:
            try:
                return bool(edge.classify(photo))
            except LinkError:
                return False

        assert not works()
        shutil.copytree(other.path, watched / "other")
        until(works, "it is not served")
        shutil.rmtree(watched / "other")
        until(lambda: not works(), "it is served")

        def told() -> str:
            with pytest.raises(LinkError) as refused:
                edge.classify(photo)
            return str(refused.value)

        until(lambda: "no server takes frames" in told(), "the broker does not know")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One that knows who may do what."""
    with broker(tmp_path_factory.mktemp("guarded"), users=PASSWORDS) as made:
        yield made


class TestAccess:
    def test_who_is_known(self, guarded: Mosquitto, bundle: Bundle, photo: np.ndarray, serve_mqtt: Any) -> None:
        serve_mqtt(guarded, bundle, user="server")
        for user in ("camera-1", "camera-2"):
            with Edge(bundle, guarded.url(user), token=lambda user=user: PASSWORDS[user]) as edge:  # type: ignore[misc]
                assert edge.classify(photo).answered_by == "server"
        assert f"bottlenet/v1/frames/{bundle.id.hex()}/camera-1/" in guarded.log

    def test_who_is_not(self, guarded: Mosquitto, bundle: Bundle, photo: np.ndarray) -> None:
        for user, token in (
            ("camera-1", "wrong password"),
            ("camera-3", "battery staple"),
            ("camera-1", None),
            ("", None),
        ):
            with pytest.raises(LinkError, match=f"127.0.0.1:{guarded.port} lets .* not in") as refused:
                Edge(bundle, guarded.url(user), token=token).classify(photo)
            assert "\n" not in str(refused.value)
            assert str(token) not in str(refused.value)

    def test_a_server_that_is_not(self, guarded: Mosquitto, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("wrong password\n")
        said = refused_to_start(bundle.path, "--mqtt", guarded.url("server"), "--mqtt-password", tmp_path / "password")
        assert "lets user server not in" in said
        assert "wrong password" not in said

    def test_a_device_that_plays_server(self, guarded: Mosquitto, bundle: Bundle, photo: np.ndarray) -> None:
        """It sees nothing, and if it does not know the servers' group, it takes nothing away from them."""
        group = "known-to-servers-alone"
        where = broker_at(guarded.url("server"), password=PASSWORDS["server"], group=group)
        app = create_app([bundle], broker=where)
        server = Server(app)
        try:
            takes_frames(app)
            with Raw(guarded, "camera-2", listen=shared_filter(bundle.id.hex())) as evil:
                evil.subscribe("#")
                with Edge(bundle, guarded.url("camera-1"), token=PASSWORDS["camera-1"]) as edge:
                    assert len(list(edge.classify_many([photo] * 10))) == 10
                assert evil.messages.empty()
            assert value_of(app, "bottlenet_requests_total") == 10
        finally:
            server.stop()

    def test_who_may_send_and_listen_where(self, guarded: Mosquitto, bundle: Bundle) -> None:
        """The list in the documentation: a device has its own topics, and no others."""
        page = (Path(__file__).parent.parent / "docs" / "operating.md").read_text(encoding="utf-8")
        assert ACL.strip() in page
        frames, denied = f"bottlenet/v1/frames/{bundle.id.hex()}", 0x87
        with Raw(guarded, "camera-1", listen="#") as device:  # whoever subscribes gets what he may read
            assert device.publish(f"{frames}/camera-1/00000001", b"") in (0, 0x10)
            for topic in (
                f"{frames}/camera-2/00000001",
                *(f"bottlenet/v1/answers/camera-{n}/00000001" for n in (1, 2)),
            ):
                assert device.publish(topic, b"") == denied, topic
            with Raw(guarded, "server") as server:
                server.publish("bottlenet/v1/answers/camera-2/00000001", b"for another")
                assert server.publish("bottlenet/v1/answers/camera-1/00000001", b"for this one") == 0
                assert server.publish(f"{frames}/camera-1/00000001", b"") == denied
            assert device.next().payload == b"for this one"

    def test_a_device_that_may_not_send(self, bundle: Bundle, photo: np.ndarray, tmp_path: Path) -> None:
        with broker(tmp_path, users=PASSWORDS) as at:
            at.kill()
            (tmp_path / "acl").write_text("topic read bottlenet/v1/answers/#\n")
            at.start()
            with pytest.raises(LinkError, match="does not let this device send its frames"):
                Edge(bundle, at.url("camera-1"), token=PASSWORDS["camera-1"]).classify(photo)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls(bundle: Bundle, photo_path: Path, tmp_path: Path, run: Run) -> None:
    cert, key = write_certificate(tmp_path)
    (tmp_path / "server").write_text(PASSWORDS["server"])
    (tmp_path / "camera").write_text(PASSWORDS["camera-1"])
    with broker(tmp_path / "broker", users=PASSWORDS, tls=(cert, key)) as at:
        options = ("--mqtt", at.url("server"), "--mqtt-password", tmp_path / "server", "--mqtt-ca", cert)
        with serving(bundle.path, *options) as process:
            takes_frames(process)

            command = ("classify", photo_path, "--to", at.url("camera-1"), "--bundle", bundle.path)
            command += ("--token-file", tmp_path / "camera", "--json")
            done = run(*command, "--ca", cert)
            assert (done.code, done.err) == (0, "")
            (answered,) = done.json["photos"]
            assert answered["answered_by"] == "server"
            assert answered["socket_bytes"] > answered["frame_bytes"] + MQTT_BYTES  # encryption is counted
            assert "certificate verify failed" in run(*command).error
            assert run(*command, "--ca", tmp_path / "nowhere").error.startswith("error: can't use the certificates in")
            assert process.end(signal.SIGTERM) == (0, "")
