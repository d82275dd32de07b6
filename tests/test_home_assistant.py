"""A camera in Home Assistant, through a real broker; what is announced is held against the documentation."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from bottlenet.broker import BoundedClient, broker_at
from bottlenet.bundle import Bundle
from bottlenet.cli.sending import Report
from bottlenet.cloud import create_app
from bottlenet.edge import Backoff
from bottlenet.edge import home_assistant as module
from bottlenet.edge.camera import Camera
from bottlenet.edge.home_assistant import HomeAssistant, id_of
from bottlenet.edge.prediction import Answered, Choice
from bottlenet.files import PASSWORD
from brokers import Mosquitto, broker, needs_mosquitto
from cameras import picture, write_video
from conftest import Server, until
from processes import BOTTLENET, LIMIT_S
from test_camera import watched, watching

pytestmark = needs_mosquitto

# https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload and .../sensor.mqtt, .../binary_sensor.mqtt
AVAILABILITY = {"availability", "availability_mode", "availability_template", "availability_topic"}
AVAILABILITY |= {"payload_available", "payload_not_available"}
WHOLE = AVAILABILITY | {"device", "components", "origin", "state_topic", "command_topic", "qos", "encoding"}
DEVICE = {"identifiers", "connections", "manufacturer", "model", "model_id", "name", "hw_version", "serial_number"}
DEVICE |= {"sw_version", "via_device", "suggested_area", "configuration_url"}
ORIGIN = {"name", "sw_version", "support_url"}
ENTITY = AVAILABILITY | {
    "platform",
    "unique_id",
    "name",
    "icon",
    "entity_category",
    "device_class",
    "enabled_by_default",
}
ENTITY |= {"value_template", "state_topic", "json_attributes_topic", "json_attributes_template", "expire_after"}
ENTITY |= {"force_update", "qos", "encoding", "default_entity_id"}
SENSOR = ENTITY | {
    "unit_of_measurement",
    "state_class",
    "suggested_display_precision",
    "options",
    "last_reset_value_template",
}
BINARY_SENSOR = ENTITY | {"payload_on", "payload_off", "off_delay"}
DEVICE_CLASSES = {
    "sensor": {"timestamp": {None}, "data_size": {"bit", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB"}},
    "binary_sensor": {"connectivity": {None}},
}
STATE_CLASSES = {"measurement", "total", "total_increasing"}


class Listener:
    """What a broker has retained, and what else it is told: a client as Home Assistant is one."""

    def __init__(self, mosquitto: Mosquitto) -> None:
        self.now: dict[str, bytes] = {}
        self.heard: list[tuple[str, bytes]] = []
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.connect("127.0.0.1", mosquitto.port)
        self._client.loop_start()

    def _on_message(self, client: object, data: object, message: MQTTMessage) -> None:
        self.heard.append((message.topic, message.payload))
        self.now[message.topic] = message.payload

    def json(self, topic: str) -> dict:
        until(lambda: bool(self.now.get(topic)), f"nothing comes for {topic}")
        return json.loads(self.now[topic])

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    made = Listener(mosquitto)
    yield made
    made.stop()


def answered(label: str = "cat", by: str = "server") -> Answered:
    return Answered("porch@x", by, (Choice(label, 1, 0.8125),), 600, 604, 1, 1767225600.0)


CONFIG = "homeassistant/device/bottlenet_porch/config"
STATE, STATUS = "bottlenet/v1/cameras/bottlenet_porch/state", "bottlenet/v1/cameras/bottlenet_porch/status"


def test_what_is_announced_is_as_documented(mosquitto: Mosquitto, listener: Listener) -> None:
    with closing(HomeAssistant(broker_at(mosquitto.url()), "porch")):
        config = listener.json(CONFIG)
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", CONFIG)
    assert set(config) <= WHOLE
    assert {"device", "origin", "components"} <= set(config)
    assert set(config["device"]) <= DEVICE
    assert config["device"]["identifiers"]
    assert set(config["origin"]) <= ORIGIN
    assert config["origin"]["name"]
    assert "availability_topic" in config
    assert config["state_topic"] == STATE
    assert config["availability_topic"] == STATUS
    assert list(config["components"]) == ["label", "score", "at", "bytes_today", "link", "by"]
    assert len({entity["unique_id"] for entity in config["components"].values()}) == 6
    for key, entity in config["components"].items():
        platform = entity["platform"]
        assert set(entity) <= {"sensor": SENSOR, "binary_sensor": BINARY_SENSOR}[platform]
        assert entity["value_template"] == f"{{{{ value_json.{key} }}}}"
        if "device_class" in entity:
            assert entity.get("unit_of_measurement") in DEVICE_CLASSES[platform][entity["device_class"]]
        assert entity.get("state_class", "measurement") in STATE_CLASSES
        assert entity.get("entity_category", "diagnostic") in {"config", "diagnostic"}


def test_what_is_seen(mosquitto: Mosquitto, listener: Listener) -> None:
    with closing(HomeAssistant(broker_at(mosquitto.url()), "porch")) as home:
        until(lambda: listener.now.get(STATUS) == b"online", "it is not announced")
        home.answered(answered(), "2026-12-01T04:20:11.212Z")
        state = listener.json(STATE)
        assert state == {
            "label": "cat",
            "score": 81.2,
            "at": "2026-12-01T04:20:11.212Z",
            "bytes_today": 604,
            "link": "ON",
            "by": "server",
        }
        home.answered(answered("dog", "local"))
        until(lambda: listener.json(STATE)["label"] == "dog", "it is not told")
        assert listener.json(STATE) | {
            "at": "2026-01-01T00:00:00Z",
            "bytes_today": 1208,
            "link": "OFF",
        } == listener.json(STATE)
        home.answered(answered("x" * 999, "device"))
        until(lambda: listener.json(STATE)["by"] == "device", "it is not told")
        assert len(listener.json(STATE)["label"]) == 255
        assert listener.json(STATE)["link"] == "OFF"  # which an answer of the device says nothing about
        home.answered(answered())
        home.lost()
        home.lost()
        until(lambda: listener.json(STATE) | {"label": "cat", "link": "OFF"} == listener.json(STATE), "it is not told")
    until(lambda: listener.now[STATUS] == b"offline", "it does not say that it ends")
    assert not [thread for thread in threading.enumerate() if thread.name == "bottlenet-home-assistant"]


def test_bytes_start_again_each_day(mosquitto: Mosquitto, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(HomeAssistant(broker_at(mosquitto.url()), "porch")) as home:
        for day, count in ((1, 604), (1, 1208), (2, 604)):
            monkeypatch.setattr(time, "localtime", lambda day=day: time.struct_time((2026, 1, day, 0, 0, 0, 0, day, 0)))
            home.answered(answered())
            until(lambda count=count: listener.json(STATE)["bytes_today"] == count, "the count is another")


def test_a_broker_that_restarts_learns_all_again(mosquitto: Mosquitto) -> None:
    told: list[str] = []
    with closing(HomeAssistant(broker_at(mosquitto.url()), "porch", tell=told.append)) as home:
        home.answered(answered())
        first = Listener(mosquitto)
        first.json(STATE)
        first.stop()
        mosquitto.kill()
        home.answered(answered("dog"))  # nobody waits for the broker
        until(lambda: bool(told), "nothing is said")
        mosquitto.start()  # it has kept nothing
        again = Listener(mosquitto)
        assert again.json(STATE)["label"] == "dog"
        assert again.json(CONFIG)["origin"]["name"] == "bottlenet"
        again.stop()
    assert told[0].startswith(f"Home Assistant: mqtt://127.0.0.1:{mosquitto.port} closed the connection; ")


def test_a_password_that_is_wrong_is_named_and_never_shown(tmp_path: Path) -> None:
    told: list[str] = []
    with broker(tmp_path, users={"porch": "right"}) as mosquitto:
        address = broker_at(mosquitto.url("porch"), password="wr0ng")
        with closing(HomeAssistant(address, "porch", tell=told.append)):
            until(lambda: bool(told), "nothing is said")
    assert "lets user porch not in with a password" in told[0]
    assert "wr0ng" not in told[0]


def test_why_a_broker_is_away_is_said_once(mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Backoff", lambda: Backoff(first_s=0.01, cap_s=0.05))
    told: list[str] = []
    with closing(HomeAssistant(broker_at(mosquitto.url()), "porch", tell=told.append)) as home:
        assert home._opened.wait(30)
        mosquitto.kill()
        until(lambda: len(told) == 2, "nothing is said")  # it has closed the connection, and there is none
        home.answered(answered())
        time.sleep(0.5)
        assert len(told) == 2
        mosquitto.start()
        again = Listener(mosquitto)
        again.json(STATE)
        again.stop()
        mosquitto.kill()
        until(lambda: len(told) == 4, "nothing is said of the next time")


def test_a_broker_that_takes_no_message_is_named(tmp_path: Path) -> None:
    told: list[str] = []
    with broker(tmp_path, users={"porch": "right"}) as mosquitto:
        address = broker_at(mosquitto.url("porch"), password="right")
        with closing(HomeAssistant(address, "porch", tell=told.append)) as home:
            until(lambda: bool(told), "nothing is said")
            for _ in range(3):
                home.answered(answered())
            assert not home.forget()
    assert len(told) == 1
    assert "takes no message of this user (Not authorized); let it write to homeassistant/device/" in told[0]


def test_a_password_whose_file_is_being_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Backoff", lambda: Backoff(first_s=0.01, cap_s=0.05))
    told: list[str] = []
    path = tmp_path / "password"
    with broker(tmp_path / "broker", users={"porch": "right"}) as mosquitto:
        address = broker_at(mosquitto.url("porch"), password=lambda: PASSWORD.read(path))
        with closing(HomeAssistant(address, "porch", tell=told.append)) as home:
            until(lambda: bool(told), "nothing is said")
            path.write_text("right\n")
            assert home._opened.wait(30)
    assert "can't read the password" in told[0]


def test_a_broker_that_goes_at_the_end(mosquitto: Mosquitto) -> None:
    home = HomeAssistant(broker_at(mosquitto.url()), "porch")
    assert home._opened.wait(30)
    gone = BoundedClient(broker_at(mosquitto.url()), "x", 2**16)  # as between the loss and its being noticed
    connected, home._client = home._client, gone
    assert not home.forget(0.1)
    home._client = gone
    home._closed.set()
    assert connected is not None
    connected.disconnect()
    home.close()


def test_the_answers_of_another_camera_in_the_same_spool_are_not_shown(
    mosquitto: Mosquitto, listener: Listener
) -> None:
    with (
        closing(HomeAssistant(broker_at(mosquitto.url()), "porch")) as home,
        closing(Camera("http://127.0.0.1:1/", name="porch")) as camera,
    ):
        report = Report(as_json=False)
        report.camera, report.home = camera, home
        for name in ("garden@2026-12-01T04:20:11.212Z", "/photos/cat.jpg", "porch@2026-12-01T04:20:12.000Z"):
            report.outcome(replace(answered(), photo=name))
        assert listener.json(STATE)["at"] == "2026-12-01T04:20:12.000Z"
        assert listener.json(STATE)["bytes_today"] == 604


def test_names_that_can_be_no_topic() -> None:
    names = ["porch", "front porch", "front_porch", "10.0.0.5:554", "#", "ä" * 200, "a/b", "videos/x.mp4"]
    ids = [id_of(name) for name in names]
    assert all(re.fullmatch(r"bottlenet_[A-Za-z0-9_-]{1,60}", each) for each in ids), ids
    assert len(set(ids)) == len(names)


def test_a_camera_comes_and_goes_and_vanishes(
    mosquitto: Mosquitto, listener: Listener, bundle: Bundle, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "v.mp4", [picture(i // 25) for i in range(75)])
    options = ["--when", "1", "--name", "porch", "--home-assistant", mosquitto.url()]
    server = Server(create_app([bundle]))
    try:
        code, lines, _ = watched(video, bundle, server.url, *options)
    finally:
        server.stop()
    assert code == 0
    until(lambda: listener.json(STATE)["label"] == lines[-1]["label"], "the last one is not there")
    assert listener.json(STATE)["bytes_today"] == sum(line["frame_bytes"] for line in lines)
    assert listener.now[STATUS] == b"offline"
    with watching("-", bundle, "ws://127.0.0.1:1", *options, stdin=subprocess.PIPE) as popen:
        until(lambda: listener.now[STATUS] == b"online", "it is not announced again")
        popen.kill()
        until(lambda: listener.now[STATUS] == b"offline", "its last will is not known")
    command = [*BOTTLENET, "watch", "-", "--to", "ws://127.0.0.1:1", "--bundle", bundle.path, *options, "--forget"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert (done.stdout, done.stderr) == ("porch: taken out of Home Assistant\n", "")
    until(lambda: listener.now[CONFIG] == b"", "it stays")
    until(lambda: listener.now[STATE] == listener.now[STATUS] == b"", "something stays")
    fresh = Listener(mosquitto)
    time.sleep(0.5)
    assert not fresh.now
    fresh.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--forget"], "give --home-assistant, too"),
        (["--broker-password", "x"], "is for --home-assistant"),
        (["--home-assistant", "http://me:s3cret@x"], "that is no broker's address"),
        (["--home-assistant", "mqtt://x", "--broker-password", "nowhere"], "can't read the password"),
    ],
)
def test_options_that_do_not_fit(options: list[str], words: str, bundle: Bundle) -> None:
    code, lines, err = watched("-", bundle, "ws://127.0.0.1:1", *options)
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert words in err
    assert "s3cret" not in err
