"""Topics of MQTT, as devices and servers agree on them: docs/wire.md, "MQTT".

    bottlenet/v1/frames/BUNDLE/DEVICE/SESSION    device -> broker -> one of the servers; a frame in stream form
    bottlenet/v1/answers/DEVICE/SESSION          server -> broker -> that device; its answer

BUNDLE is the bundle's id, 64 hex digits. DEVICE is the device's name at the broker, so that a broker can hold each to
its own topics. SESSION is 8 hex digits, others for each connection: an answer that comes late can't be taken for one to
another connection's frame.
"""

import re
import secrets
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from bottlenet.errors import InputError, WireError

FRAMES = "bottlenet/v1/frames"
ANSWERS = "bottlenet/v1/answers"
GROUP = "bottlenet"  # of servers that share what comes: each frame goes to one of them
ANONYMOUS = "anonymous"  # DEVICE, where the broker asks for no name
MAX_MESSAGE_BYTES = 2**20  # a frame; servers take less, but then they say so
PORTS = {"mqtt": 1883, "mqtts": 8883}

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
NAME_CHARACTERS = "1 to 64 of the characters A-Z a-z 0-9 . _ -"
FRAMES_TOPIC = re.compile(FRAMES + r"/([0-9a-f]{64})/([A-Za-z0-9._-]{1,64})/([0-9a-f]{8})")


@dataclass(frozen=True)
class Address:
    """Who sent a frame and waits for its answer: one connection of one device."""

    device: str
    session: str

    @property
    def answers(self) -> str:
        """The topic that it listens to."""
        return f"{ANSWERS}/{self.device}/{self.session}"

    def frames(self, bundle: str) -> str:
        """Name the topic that it sends to; `bundle` is the id, 64 hex digits."""
        return f"{FRAMES}/{bundle}/{self.device}/{self.session}"


def new_address(device: str | None) -> Address:
    """Choose a session for one connection of a device."""
    return Address(device or ANONYMOUS, secrets.token_hex(4))


def shared_filter(bundle: str, group: str = GROUP) -> str:
    """Name what a group of servers subscribes to, for all frames of a bundle; `bundle` is the id, 64 hex digits."""
    return f"$share/{group}/{FRAMES}/{bundle}/+/+"


def parse_frames_topic(topic: str) -> tuple[str, Address]:
    """Split a frame's topic into the bundle's id and who sent it. WireError: not such a topic."""
    found = FRAMES_TOPIC.fullmatch(topic)
    if found is None:
        raise WireError(f"topic {topic[:200]!a} is none of a frame; it is {FRAMES}/BUNDLE/DEVICE/SESSION")
    return found[1], Address(found[2], found[3])


def check_broker_url(url: str, *, password: bool = False) -> SplitResult:
    """Split mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS; `password` says whether there is one for the user.

    InputError: another URL, a user that can't be a device's name, or a password and no user.
    """
    try:
        address = urlsplit(url)
        valid = address.scheme in PORTS and bool(address.hostname) and address.port != 0 and address.path in ("", "/")
        valid = valid and address.password is None and not address.fragment
    except (ValueError, AttributeError):
        valid = False
    if not valid:  # which is not shown: there may be a password in it
        advice = "give mqtt://host:port, or mqtts:// for TLS, with user@ before the host where the broker asks for one"
        raise InputError(f"that is no broker's address; {advice}; its password comes from a file")
    if address.username is not None:
        check_name("user", address.username)
    if password and not address.username:
        raise InputError("there is a password, and no user whose it is; give mqtt://USER@HOST")
    return address


def check_name(what: str, name: str) -> str:
    """Return the name of a device or a group, as it can be part of a topic. InputError: it can't."""
    if NAME.fullmatch(name) is None:
        raise InputError(f"{what} is {name[:200]!a}; give {NAME_CHARACTERS}")
    return name
