"""What a camera shows, in Home Assistant: announced by MQTT discovery. Needs bottlenet[mqtt].

    homeassistant/device/ID/config    the entities; retained, and empty to take them back
    bottlenet/v1/cameras/ID/status    online; offline by the broker's last will
    bottlenet/v1/cameras/ID/state     JSON: label, score, at, bytes_today, link, by; retained

A thread keeps the connection, and opens it again when it is lost; a camera never waits for it. The payload is that of
"Device discovery payload" in https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt.reasoncodes import ReasonCode

from bottlenet.broker import BoundedClient, Broker, refused
from bottlenet.edge.connection import Backoff
from bottlenet.edge.prediction import DEVICE, SERVER, Answered
from bottlenet.errors import InputError, reason
from bottlenet.records import program_version

PREFIX = "homeassistant"
CAMERAS = "bottlenet/v1/cameras"
ONLINE, OFFLINE = "online", "offline"
TIMEOUT_S = 10.0
KEEPALIVE_S = 60
CLOSE_S = 2.0
MAX_STATE = 255  # characters, of Home Assistant
MAX_PACKET_BYTES = 2**16
ENTITIES: dict[str, dict[str, str]] = {
    "label": {"name": "Seen", "icon": "mdi:eye"},
    "score": {"name": "Confidence", "unit_of_measurement": "%", "state_class": "measurement", "icon": "mdi:percent"},
    "at": {"name": "Seen at", "device_class": "timestamp"},
    "bytes_today": {
        "name": "Bytes today",
        "device_class": "data_size",
        "unit_of_measurement": "B",
        "state_class": "total_increasing",
        "entity_category": "diagnostic",
    },
    "link": {"name": "Link", "device_class": "connectivity", "entity_category": "diagnostic"},
    "by": {"name": "Answered by", "icon": "mdi:server-network", "entity_category": "diagnostic"},
}


class HomeAssistant:
    """Entities for one camera. `tell` gets a line for people when the broker is lost.

    with closing(HomeAssistant(broker_at("mqtt://broker"), "porch")) as home:
        home.answered(outcome, "2026-12-01T04:20:11.212Z")
    """

    def __init__(self, broker: Broker, name: str, *, tell: Callable[[str], None] = lambda line: None) -> None:
        self._broker, self._name, self._tell = broker, name, tell
        self._id = id_of(name)
        self._topic = f"{CAMERAS}/{self._id}"
        self._state: dict[str, Any] = {}
        self._day: tuple[int, int] | None = None
        self._bytes_today = 0
        self._client: BoundedClient | None = None  # while it is connected
        self._why = ""  # it is not connected, or the broker takes no message, as it was told last
        self._lock = threading.Lock()  # of what follows from an answer
        self._opened, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="bottlenet-home-assistant", daemon=True)
        self._thread.start()

    def answered(self, answered: Answered, at: str | None = None) -> None:
        """Show an answer; `at` is when its frame came, if that is a time."""
        day = time.localtime()[:3]
        when = at or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(answered.unix_s))
        with self._lock:
            if day[1:] != self._day:
                self._day, self._bytes_today = day[1:], 0
            self._bytes_today += answered.sent_bytes
            link = self._state.get("link") if answered.by == DEVICE else "ON" if answered.by == SERVER else "OFF"
            score = round(100 * answered.top[0].score, 1) if answered.top else None
            self._state = {
                "label": (answered.label or "nothing")[:MAX_STATE],
                "score": score,
                "at": when,
                "bytes_today": self._bytes_today,
                "link": link,
                "by": answered.by,
            }
            self._publish_state()

    def lost(self) -> None:
        """Show that there is no server just now."""
        with self._lock:
            if self._state.get("link") != "OFF":
                self._state = {
                    **dict.fromkeys(ENTITIES),
                    "bytes_today": self._bytes_today,
                    **self._state,
                    "link": "OFF",
                }
                self._publish_state()

    def forget(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Take the entities back, and end; tell whether the broker knows."""
        if not self._opened.wait(timeout_s):
            return False
        self._closed.set()  # else they were announced again
        with self._lock:
            client, self._client = self._client, None
        topics = (f"{PREFIX}/device/{self._id}/config", f"{self._topic}/state", f"{self._topic}/status")
        if client is None:
            return False
        with contextlib.suppress(RuntimeError):  # of paho-mqtt: the broker is gone just now
            done = [client.publish(topic, b"", 1, retain=True) for topic in topics]
            for each in done:
                each.wait_for_publish(timeout_s)
            client.disconnect()
            return all(each.is_published() for each in done) and not self._why
        return False

    def close(self) -> None:
        """Say that the camera is offline, and end."""
        self._closed.set()
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(RuntimeError):  # as in `forget`
                client.publish(f"{self._topic}/status", OFFLINE, 1, retain=True).wait_for_publish(CLOSE_S)
            client.disconnect()
        self._thread.join(CLOSE_S)

    def discovery(self) -> dict[str, Any]:
        """Describe the device and its entities."""
        version = program_version()
        entities = {
            key: {
                "platform": "binary_sensor" if key == "link" else "sensor",
                "unique_id": f"{self._id}_{key}",
                "value_template": f"{{{{ value_json.{key} }}}}",
                **about,
            }
            for key, about in ENTITIES.items()
        }
        return {
            "device": {
                "identifiers": [self._id],
                "name": self._name,
                "manufacturer": "BottleNet",
                "sw_version": version,
            },
            "origin": {"name": "bottlenet", "sw_version": version},
            "components": entities,
            "state_topic": f"{self._topic}/state",
            "availability_topic": f"{self._topic}/status",
            "qos": 1,
        }

    def _publish_state(self) -> None:
        if self._client is not None and self._state:
            self._client.publish(f"{self._topic}/state", json.dumps(self._state), 1, retain=True)

    def _run(self) -> None:
        backoff = Backoff()
        while not self._closed.is_set():
            refusals: list[str] = []
            try:
                client = BoundedClient(self._broker, f"{self._id[:40]}-{secrets.token_hex(4)}", MAX_PACKET_BYTES)
                client.will_set(f"{self._topic}/status", OFFLINE, 1, retain=True)

                def connected(client: Any, data: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
                    if code.is_failure:
                        refusals.append(str(refused(self._broker, code)))  # noqa: B023  # it is called in this turn
                        client.disconnect()
                    else:
                        backoff.worked()
                        self._greet(client)

                client.on_connect, client.on_publish = connected, self._published
                client.dial(TIMEOUT_S, KEEPALIVE_S)
                client.loop_forever()
                why = refusals[0] if refusals else f"{self._broker.name} closed the connection"
            except InputError as error:  # the password's file is being replaced
                why = str(error)
            except Exception as error:  # paho-mqtt raises anything on bytes that are no MQTT
                why = f"can't connect to {self._broker.name}: {reason(error)}"
            with self._lock:
                self._client = None
            if not self._closed.is_set():
                wait_s = backoff.failed()
                self._say(why, f"the latest answer is shown there when it is back (next try in {wait_s:.1f} s)")
                self._closed.wait(wait_s)

    def _published(self, client: Any, data: Any, number: int, code: ReasonCode, properties: Any) -> None:
        if code.is_failure:
            what = f"{self._broker.name} takes no message of this user ({code})"
            self._say(what, f"let it write to {PREFIX}/device/{self._id}/config and below {self._topic}")

    def _say(self, why: str, advice: str) -> None:
        """Tell once, until it is for another reason or over."""
        if why != self._why:
            self._why = why
            self._tell(f"Home Assistant: {why}; {advice}")

    def _greet(self, client: BoundedClient) -> None:
        """Announce the entities, and what they are now."""
        with self._lock:
            if self._closed.is_set():
                client.disconnect()
                return
            self._why = ""
            client.publish(f"{PREFIX}/device/{self._id}/config", json.dumps(self.discovery()), 1, retain=True)
            client.publish(f"{self._topic}/status", ONLINE, 1, retain=True)
            self._client = client
            self._publish_state()
        self._opened.set()


def id_of(name: str) -> str:
    """Make what can be part of a topic: the name, if it can, and what tells it from others."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:48].strip("_")
    own = plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("_")
    return f"bottlenet_{own}"
