"""Brokers' addresses, topics, and what is no broker at all. With a real one: test_mqtt.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import string
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlenet.broker import broker_at
from bottlenet.bundle import Bundle
from bottlenet.cli import options as arguments
from bottlenet.cloud import create_app
from bottlenet.cloud.admission import Mqtt
from bottlenet.cloud.mqtt import BrokerConnection, check_broker
from bottlenet.edge import Edge
from bottlenet.edge.mqtt import open_mqtt
from bottlenet.errors import InputError, LinkError, MissingExtraError, WireError
from bottlenet.wire.mqtt import Address, new_address, parse_frames_topic, shared_filter
from conftest import Server
from processes import refused_to_start

CONNACK, SUBACK = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x00"
ALIASES = b"\x20\x06\x00\x00\x03\x22\x00\x0a"  # as CONNACK, with room for ten topics' numbers
GOODBYE = b"\xe0\x00"
ID = "0123456789abcdef" * 4


class TestTopics:
    @given(st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64))
    def test_there_and_back(self, device: str) -> None:
        address = new_address(device)
        assert parse_frames_topic(address.frames(ID)) == (ID, address)
        assert address.answers == f"bottlenet/v1/answers/{device}/{address.session}"

    @given(st.text(max_size=80), st.text(max_size=20))
    def test_of_no_device(self, device: str, session: str) -> None:
        """What can't be answered, as its address would be none: wildcards, other levels, anything long."""
        try:
            _, address = parse_frames_topic(f"bottlenet/v1/frames/{ID}/{device}/{session}")
        except WireError as error:
            assert "\n" not in str(error)
        else:
            assert address == Address(device, session)
            assert address.answers.isascii()
            assert not set("+#$\0") & set(address.answers)
            assert address.answers.count("/") == 4

    def test_as_in_the_documentation(self) -> None:
        address = Address("camera-1", "0a1b2c3d")
        assert address.frames(ID) == f"bottlenet/v1/frames/{ID}/camera-1/0a1b2c3d"
        assert address.answers == "bottlenet/v1/answers/camera-1/0a1b2c3d"
        assert shared_filter(ID) == f"$share/bottlenet/bottlenet/v1/frames/{ID}/+/+"

    def test_another_session_each_time(self) -> None:
        assert len({new_address(None).session for _ in range(100)}) == 100
        assert new_address(None).device == "anonymous"


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "mqtt://",
            "mqtt://:1883",
            "mqtt://x:99999",
            "mqtt://x:0",
            "mqtt://x/path",
            "mqtt://me:secret@x",
            "mqtts://me@x#y",
            "mqtt://a b@x",
            "mqtt://a+b@x",
            f"mqtt://{'x' * 65}@x",
            "mqtt://@x",
        ],
    )
    def test_that_is_none(self, bundle: Bundle, url: str) -> None:
        for use in (lambda: Edge(bundle, url), lambda: broker_at(url)):
            with pytest.raises(InputError, match="give ") as refused:
                use()
            assert "secret" not in str(refused.value)

    def test_what_it_says(self) -> None:
        broker = broker_at("mqtts://camera-1@[::1]", password="secret")
        assert (broker.name, broker.host, broker.port, broker.user) == ("mqtts://[::1]:8883", "::1", 8883, "camera-1")
        assert broker.tls is not None
        assert "secret" not in repr(broker)
        assert broker_at("mqtt://x").port == 1883

    def test_a_password_without_a_user(self, bundle: Bundle) -> None:
        for use in (lambda: Edge(bundle, "mqtt://x", token="secret"), lambda: broker_at("mqtt://x", password="secret")):
            with pytest.raises(InputError, match="a password, and no user whose it is; give mqtt://USER@HOST"):
                use()

    def test_options_of_the_server(self, tmp_path: Path) -> None:
        assert Mqtt().broker() is None
        (tmp_path / "two lines").write_text("a\nb\n")
        (tmp_path / "empty").touch()
        os.mkfifo(tmp_path / "pipe")  # opened as a file is, it would wait for a writer
        for options, says in (
            (Mqtt(mqtt_ca="x"), "give --mqtt mqtt://USER@HOST"),
            (Mqtt(mqtt="x:1883"), "no broker's address"),
            (
                Mqtt(mqtt="mqtt://me@x", mqtt_password=str(tmp_path / "nowhere")),
                "can't read the password: No such file",
            ),
            (Mqtt(mqtt="mqtt://me@x", mqtt_password=str(tmp_path / "two lines")), "holds no password; one line of"),
            (Mqtt(mqtt="mqtt://me@x", mqtt_password=str(tmp_path / "empty")), "holds no password"),
            (Mqtt(mqtt="mqtt://me@x", mqtt_password="/dev/null"), "can't read the password: it is not a file"),
            (
                Mqtt(mqtt="mqtt://me@x", mqtt_password=str(tmp_path / "pipe")),
                "can't read the password: it is not a file",
            ),
            (Mqtt(mqtt="mqtt://x", mqtt_group="a/b"), "group is 'a/b'; give 1 to 64"),
            (Mqtt(mqtt="mqtts://x", mqtt_ca="/dev/null"), "can't use the certificates in /dev/null"),
            (Mqtt(mqtt="mqtts://x", mqtt_ca=str(tmp_path / "pipe")), "pipe: it is not a file; give a PEM file"),
        ):
            with pytest.raises(InputError, match=says):
                options.broker()

    def test_a_server_that_gets_a_wrong_one(self, bundle: Bundle) -> None:
        assert "no broker's address" in refused_to_start(bundle.path, "--mqtt", "x:1883")


def test_without_the_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "paho" or name == "bottlenet.edge.mqtt"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "paho", None)
    with pytest.raises(MissingExtraError, match=r'^mqtt:// needs an optional part: pip install "\.\[mqtt\]" in'):
        Edge(bundle, "mqtt://x")
    monkeypatch.setitem(arguments.PACKAGES, "mqtt", ("no_such_package",))
    with pytest.raises(MissingExtraError, match=r'^bottlenet serve --mqtt needs .*"\.\[mqtt\]" in'):
        arguments.require("serve --mqtt", "mqtt")


@pytest.fixture
def listen() -> Iterator[Callable[..., str]]:
    """`listen(*parts)`: a URL where these bytes are sent, each after something came, and nothing else happens."""
    with contextlib.ExitStack() as stack:

        def start(*parts: bytes, close: bool = False) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        sock, _ = listener.accept()
                        with sock, contextlib.suppress(OSError):
                            for part in parts:
                                sock.recv(4096)
                                sock.sendall(part)
                            while not close and sock.recv(4096):
                                pass

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"mqtt://127.0.0.1:{listener.getsockname()[1]}"

        yield start


def test_golden_bytes() -> None:
    """What a device sends, as a broker sees it: docs/wire.md."""
    golden = "32 15 0000 0003 03 23 0001 12 14 0102 ad15afb5588ad7dabf".replace(" ", "")
    spec = "".join((Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8").split())
    assert golden in spec
    message = bytes.fromhex("12140102ad15afb5588ad7dabf")
    came = b""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            nonlocal came
            sock, _ = listener.accept()
            with sock:
                sock.recv(4096)
                sock.sendall(ALIASES)
                sock.recv(4096)
                sock.sendall(SUBACK)
                while data := sock.recv(4096):
                    came += data

        thread = threading.Thread(target=run)
        thread.start()
        url = f"mqtt://camera-1@127.0.0.1:{listener.getsockname()[1]}?bundle={ID}"
        transport = open_mqtt(url, 30)
        for _ in range(2):
            transport.send(message)
        transport.close()
        thread.join(30)
    topic = transport._address.frames(ID).encode()
    first = len(topic).to_bytes(2, "big") + topic + bytes.fromhex("0002 03 23 0001") + message
    assert came == bytes((0x32, len(first))) + first + bytes.fromhex(golden) + GOODBYE


HUGE = b"\x30\xff\xff\xff\x7f\x00\x01x"  # a message of 256 MB begins
NOT_ALLOWED = b"\x20\x03\x00\x8a\x00"  # banned
OLD = b"\x20\x02\x00\x01"  # MQTT 3.1.1: another version of the protocol, please
FOES: list[tuple[tuple[bytes, ...], bool, str]] = [
    ((), False, "did not answer within 0.3 s; is it a broker for MQTT 5?"),
    ((), True, "closed the connection; try again"),
    ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), True, "127.0.0.1"),
    ((NOT_ALLOWED,), False, r"takes no connection \(Banned\)"),
    ((OLD,), False, r"takes no connection \(Unsupported protocol version\); is it a broker for MQTT 5?"),
    ((CONNACK,), False, "did not answer within 0.3 s"),
    ((CONNACK, b"\x90\x04\x00\x01\x00\x87"), False, r"listen to bottlenet/v1/answers/anonymous/.* \(Not authorized\)"),
    ((CONNACK, SUBACK, HUGE), False, "closed the connection"),
    ((CONNACK, SUBACK, b"\xe0\x02\x8b\x00"), False, r"closed the connection \(Server shutting down\)"),
]


class TestDeadlines:
    """What a server waits for at a broker has a time as a whole, as at a device: test_client.py."""

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bottlenet.cloud.mqtt.CONNECT_S", 0.5)

    def test_a_tls_handshake_that_trickles(self, caplog: pytest.LogCaptureFixture) -> None:
        ended = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def run() -> None:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    for byte in b"\x16\x03\x03\x3f\xff" + bytes(2000):
                        sock.sendall(bytes([byte]))
                        if ended.wait(0.05):
                            break

            thread = threading.Thread(target=run)
            thread.start()
            broker = broker_at(f"mqtts://127.0.0.1:{listener.getsockname()[1]}")
            try:
                with caplog.at_level(logging.WARNING):
                    asyncio.run(asyncio.wait_for(check_broker(broker), 30))
            finally:
                ended.set()
                thread.join(30)
        assert "it took too long" in caplog.text

    def test_a_name_server_that_does_not_answer(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered = threading.Event()

        def getaddrinfo(*arguments: object, **options: object) -> list:
            answered.wait(20)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", getaddrinfo)
            asyncio.run(asyncio.wait_for(check_broker(broker_at("mqtt://host")), 10))
        answered.set()
        assert "the name server does not answer" in caplog.text

    def test_an_address_that_is_dead(
        self, listen: Callable[..., str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next one is tried a quarter of a second later, and not when all the time is over."""
        live = int(listen(NOT_ALLOWED).rpartition(":")[2])
        nowhere = ("2001:db8::1", 80, 0, 0)  # for documentation (RFC 3849)

        def getaddrinfo(*arguments: object, **options: object) -> list:
            found = [(socket.AF_INET6, nowhere), (socket.AF_INET, ("127.0.0.1", live))]
            return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(InputError, match="takes no connection"):
            asyncio.run(check_broker(broker_at("mqtt://host")))


class TestFoes:
    @pytest.mark.parametrize(("parts", "close", "says"), FOES)
    def test_a_device(
        self, listen: Callable[..., str], bundle: Bundle, parts: tuple[bytes, ...], close: bool, says: str
    ) -> None:
        started, threads = time.monotonic(), threading.active_count()
        with (
            Edge(bundle, listen(*parts, close=close), timeout_s=0.3) as edge,
            pytest.raises(LinkError, match=says) as e,
        ):
            edge.classify(np.zeros((40, 40, 3), np.uint8))
        assert "\n" not in str(e.value)
        assert time.monotonic() < started + 10
        assert threading.active_count() <= threads + 1  # the one that plays the broker

    def test_a_device_and_noise(self, listen: Callable[..., str], bundle: Bundle) -> None:
        rng = random.Random(5)
        for number in range(20):
            noise = rng.randbytes(rng.randint(1, 40))
            url = listen(CONNACK, SUBACK, noise) if number % 2 else listen(noise)
            with Edge(bundle, url, timeout_s=0.1) as edge, pytest.raises((LinkError, WireError)) as e:
                edge.classify(np.zeros((40, 40, 3), np.uint8))
            assert "\n" not in str(e.value)

    @pytest.mark.parametrize(("parts", "close", "says"), FOES[:5])
    def test_a_server(
        self,
        listen: Callable[..., str],
        parts: tuple[bytes, ...],
        close: bool,
        says: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It is told at the start if it will never be let in; all else may pass."""
        monkeypatch.setattr(BrokerConnection._answer, "__defaults__", (0.3,))
        broker = broker_at(listen(*parts, close=close))
        with caplog.at_level(logging.WARNING):
            if parts in ((NOT_ALLOWED,), (OLD,)):
                with pytest.raises(InputError, match=says):
                    asyncio.run(check_broker(broker))
            else:
                asyncio.run(check_broker(broker))
                (record,) = [each for each in caplog.records if each.name == "bottlenet.cloud.mqtt"]
                assert broker.name in record.getMessage()
        assert "never retrieved" not in caplog.text

    def test_a_server_stops_whatever_the_broker_does(self, listen: Callable[..., str], bundle: Bundle) -> None:
        for parts in ((), (CONNACK,)):
            server = Server(create_app([bundle], broker=broker_at(listen(*parts))))
            with Edge(bundle, server.url) as edge:
                edge.classify(np.zeros((40, 40, 3), np.uint8))
            started = time.monotonic()
            server.stop()
            assert time.monotonic() < started + 8
