"""Frames: payloads with what it takes to decode them. docs/wire.md specifies each byte; network byte order.

    frame     version | codec, setting, bundle tag (3 bytes), sequence number (2), N (3), CRC-16 (2), payload (N)
    stream    version | codec, setting, sequence number (2), payload to the end

The payload of a report is what a device with an exit answered by itself, so that the server can count it:

    report    class index (2), confidence (2)
    audit     class index (2), confidence (2), codec (1), setting (1), payload to the end

A frame of 12 + N bytes stands for itself, over any transport. The stream form is for a connection that agreed on the
bundle and keeps messages whole, such as a WebSocket: there the transport answers for length and integrity.

Nothing is allocated before version, length, bundle and checksum are right.

The constants are what device and server agree on beside these bytes: docs/wire.md, "Transport".
"""

import binascii
import re
import struct
from dataclasses import dataclass

from bottlenet.errors import FrameError, InputError
from bottlenet.files import Secret

STREAM_PATH = "/v1/stream"  # WebSocket; the query says which bundle: ?bundle=<id, 64 hex digits>
CLASSIFY_PATH = "/v1/classify"  # POST
PHOTO_PATH = "/v1/photo"  # POST; the query says which bundle, as above

# In a frame's header, in place of a codec:
REPORT = 13  # the payload is what the device answered by itself; the setting says what follows it:
ALONE = 0  # nothing
AUDIT = 1  # codec, setting and payload of the frame that an unsure device would have sent; the server answers that
PROBE = 14  # no payload; answered at once with the load and no choice
PHOTO = 15  # the payload is a picture file, for the whole network; the setting says what is in the picture:
WHOLE_PHOTO = 0  # a photo as it was taken
NETWORK_INPUT = 1  # what the network takes: cropped, and of its size

# Where tokens are asked for, each request and each opening of a stream has the header Authorization: Bearer <token>.
BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}={0,2}")  # RFC 6750
BEARER = Secret("token", BEARER_TOKEN, "16 to 512 of the characters A-Z a-z 0-9 - . _ ~ + /")

# A browser can't set that header on a stream, but the list of subprotocols. It names the first of these, which is then
# the stream's, and behind the second the token in base64url, without "=".
SUBPROTOCOL = "bottlenet.v1"
TOKEN_SUBPROTOCOL = "bottlenet.token."

# Close codes of a stream:
GOING_AWAY = 1001  # nothing came for too long; open another when there is something to send (RFC 6455)
MESSAGE_TOO_BIG = 1009  # a frame above what the server takes (RFC 6455)
RESTARTING = 1012  # the server stops; what was sent and not answered may be sent again (registered with IANA)
TRY_LATER = 1013  # too many connections; the reason says when (registered with IANA)
UNAUTHORIZED = 4401  # no token that the server knows
UNKNOWN_BUNDLE = 4404  # the server doesn't have the bundle that was asked for, or not any more

VERSION = 1
HEADER_BYTES = 12
CHECKSUM_AT = 10
STREAM_HEADER_BYTES = 4
TAG_BYTES = 3
MAX_PAYLOAD_BYTES = 2**24 - 1  # what the length field can say
DEFAULT_MAX_PAYLOAD_BYTES = 65536  # what a receiver accepts unless told otherwise
OWN_ANSWER = struct.Struct("!HH")  # class index, confidence in steps
STEPS = 65535  # of a confidence
AUDIT_BYTES = OWN_ANSWER.size + 2  # of an audit's payload, before the inner payload


@dataclass(frozen=True)
class Frame:
    """One payload with what it takes to decode it. InputError: a field that its place in the header can't hold."""

    codec: int  # a key of wire.codecs.CODES, 0..15
    setting: int  # 0..255
    bundle_tag: bytes  # 3 bytes
    sequence: int  # 0..65535
    payload: bytes

    def __post_init__(self) -> None:
        fits = 0 <= self.codec <= 15 and 0 <= self.setting <= 255 and 0 <= self.sequence <= 65535
        if not (fits and len(self.payload) <= MAX_PAYLOAD_BYTES and len(self.bundle_tag) == TAG_BYTES):
            self._refuse()

    def _refuse(self) -> None:
        """Say what does not fit. A server makes many frames, and needs this for none that came."""
        for name, value, high in (
            ("codec", self.codec, 15),
            ("setting", self.setting, 255),
            ("sequence", self.sequence, 65535),
            ("payload length", len(self.payload), MAX_PAYLOAD_BYTES),
        ):
            if not 0 <= value <= high:
                raise InputError(f"frame: {name} is {value}; the header holds 0 to {high}")
        has = f"{len(self.bundle_tag)} bytes"
        raise InputError(f"frame: bundle_tag has {has}; give the first {TAG_BYTES} of the bundle's id")

    def to_bytes(self) -> bytes:
        """Encode the self-contained form, 12 + N bytes."""
        sizes = self.sequence.to_bytes(2, "big") + len(self.payload).to_bytes(3, "big")
        head = bytes((VERSION << 4 | self.codec, self.setting)) + self.bundle_tag + sizes
        return head + checksum(head, self.payload).to_bytes(2, "big") + self.payload

    def to_stream_bytes(self) -> bytes:
        """Encode the stream form, 4 + N bytes."""
        head = bytes((VERSION << 4 | self.codec, self.setting)) + self.sequence.to_bytes(2, "big")
        return head + self.payload


def parse_frame(
    data: bytes | memoryview, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES, bundle_tag: bytes | None = None
) -> Frame:
    """Parse a whole frame.

    With `bundle_tag` given, a frame of another bundle is refused; without, compare `Frame.bundle_tag` yourself.

    FrameError: shorter than a header, another version, another bundle, a payload above `max_payload_bytes`, a
    length that isn't the header's, or a wrong checksum.
    """
    check_start(data, HEADER_BYTES, "frame")
    told = data[7] << 16 | data[8] << 8 | data[9]
    check_size(told, max_payload_bytes)
    if len(data) != HEADER_BYTES + told:
        what = f"frame of {len(data)} bytes, but its header says {HEADER_BYTES + told}"
        raise FrameError(f"{what}: it was cut or added to; send one whole frame")
    payload, tag = bytes(data[HEADER_BYTES:]), bytes(data[2:5])
    if checksum(data[:CHECKSUM_AT], payload) != data[10] << 8 | data[11]:
        raise FrameError(f"frame of {len(data)} bytes has a wrong checksum: it was damaged on the way; send it again")
    if bundle_tag is not None and tag != bundle_tag:
        what = f"frame is for bundle {tag.hex()}, but this is bundle {bundle_tag.hex()}"
        raise FrameError(f"{what}; use the same bundle on both sides")
    return Frame(data[0] & 15, data[1], tag, data[5] << 8 | data[6], payload)


def parse_stream_frame(
    data: bytes | memoryview, *, bundle_tag: bytes, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
) -> Frame:
    """Parse a whole message as a frame, on a connection that agreed on the bundle of `bundle_tag`.

    FrameError: shorter than a header, another version, or a payload above `max_payload_bytes`.
    """
    check_start(data, STREAM_HEADER_BYTES, "stream frame")
    check_size(len(data) - STREAM_HEADER_BYTES, min(max_payload_bytes, MAX_PAYLOAD_BYTES))
    sequence = data[2] << 8 | data[3]
    return Frame(data[0] & 15, data[1], bundle_tag, sequence, bytes(data[STREAM_HEADER_BYTES:]))


@dataclass(frozen=True)
class Report:
    """What a device answered by itself, for the server to count."""

    class_index: int  # 0..65535
    confidence: float  # 0..1
    audit: Frame | None = None  # for the server to answer, and to compare

    def to_frame(self, bundle_tag: bytes, sequence: int = 0) -> Frame:
        """Wrap it in a frame. InputError: class or confidence out of range, or an audit that is too large."""
        if not (0 <= self.class_index <= 65535 and 0 <= self.confidence <= 1):
            raise InputError(f"{self}: give a class index of 0 to 65535, and a confidence of 0 to 1")
        own = OWN_ANSWER.pack(self.class_index, round(self.confidence * STEPS))
        if self.audit is None:
            return Frame(REPORT, ALONE, bundle_tag, sequence, own)
        inner = bytes((self.audit.codec, self.audit.setting)) + self.audit.payload
        return Frame(REPORT, AUDIT, bundle_tag, sequence, own + inner)


def parse_report(frame: Frame) -> Report:
    """Parse the payload of a frame whose codec is `REPORT`. FrameError: an unknown setting, or another length."""
    payload = frame.payload
    if frame.setting not in (ALONE, AUDIT):
        raise FrameError(f"report of setting {frame.setting}; this side knows {ALONE} (alone) and {AUDIT} (audit)")
    if frame.setting == ALONE and len(payload) != OWN_ANSWER.size:
        raise FrameError(f"report of {len(payload)} bytes, but it should have {OWN_ANSWER.size}")
    if frame.setting == AUDIT and len(payload) < AUDIT_BYTES:
        raise FrameError(f"audit of {len(payload)} bytes, but it should have {AUDIT_BYTES} or more")
    class_index, steps = OWN_ANSWER.unpack_from(payload)
    if frame.setting == ALONE:
        return Report(class_index, steps / STEPS)
    codec, setting = payload[OWN_ANSWER.size : AUDIT_BYTES]
    if codec >= REPORT:
        raise FrameError(f"audit with codec {codec}, which is none of a payload; send it in a frame of its own")
    inner = Frame(codec, setting, frame.bundle_tag, frame.sequence, payload[AUDIT_BYTES:])
    return Report(class_index, steps / STEPS, inner)


def checksum(head: bytes | memoryview, payload: bytes | memoryview) -> int:
    """Compute the CRC-16/IBM-3740 of both; the low half of a CRC-32 would miss single flipped bits."""
    return binascii.crc_hqx(payload, binascii.crc_hqx(head, 0xFFFF))


def check_start(data: bytes | memoryview, header_bytes: int, what: str) -> None:
    """Raise FrameError for data shorter than its header, or of another version."""
    if len(data) < header_bytes:
        raise FrameError(f"{what} of {len(data)} bytes is shorter than its header of {header_bytes}; send all of it")
    if data[0] >> 4 != VERSION:
        raise FrameError(f"{what} is of version {data[0] >> 4}, or no frame; this side speaks version {VERSION}")


def check_size(payload_bytes: int, allowed: int) -> None:
    """Raise FrameError for more bytes than the receiver takes."""
    if payload_bytes > allowed:
        raise FrameError(f"payload of {payload_bytes} bytes; this side takes up to {allowed}: reduce more")
