"""Payload to frame and back. docs/wire.md is the specification.

A frame of 12 + N bytes stands for itself, over any transport; network byte order:

    byte    what                  values
    0       version | codec       high 4 bits: 1; low 4 bits: the codec's code
    1       setting               of the codec: quality, level; 0 for raw
    2-4     bundle tag            the first 3 bytes of the bundle's id
    5-6     sequence number       0..65535, chosen by the sender, comes back in the answer
    7-9     payload length N      0..2**24 - 1, and not above what the receiver allows (64 KiB)
    10-11   checksum              CRC-16 of bytes 0-9 and the payload
    12-     payload               N bytes

The stream form of 4 + N bytes is for a connection that agreed on the bundle and keeps messages whole, such as a
WebSocket: there the transport answers for length and integrity.

    byte    what
    0       version | codec
    1       setting
    2-3     sequence number
    4-      payload

Nothing is allocated before version, length, bundle and checksum are right.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from bottlenet.errors import FrameError, InputError

VERSION = 1
HEADER_BYTES = 12
STREAM_HEADER_BYTES = 4
TAG_BYTES = 3
MAX_PAYLOAD_BYTES = 2**24 - 1  # what the length field can say
DEFAULT_MAX_PAYLOAD_BYTES = 65536  # what a receiver accepts unless told otherwise


@dataclass(frozen=True)
class Frame:
    """One payload with what it takes to decode it. InputError: a field that its place in the header can't hold."""

    codec: int  # a key of wire.codecs.CODES, 0..15
    setting: int  # 0..255
    bundle_tag: bytes  # 3 bytes
    sequence: int  # 0..65535
    payload: bytes

    def __post_init__(self) -> None:
        for name, value, high in (
            ("codec", self.codec, 15),
            ("setting", self.setting, 255),
            ("sequence", self.sequence, 65535),
            ("payload length", len(self.payload), MAX_PAYLOAD_BYTES),
        ):
            if not 0 <= value <= high:
                raise InputError(f"frame: {name} is {value}; the header holds 0 to {high}")
        if len(self.bundle_tag) != TAG_BYTES:
            raise InputError(
                f"frame: bundle_tag has {len(self.bundle_tag)} bytes; give the first {TAG_BYTES} of the bundle's id"
            )

    def to_bytes(self) -> bytes:
        """The self-contained form, 12 + N bytes."""
        head = b"".join(
            (
                bytes((VERSION << 4 | self.codec, self.setting)),
                self.bundle_tag,
                self.sequence.to_bytes(2, "big"),
                len(self.payload).to_bytes(3, "big"),
            )
        )
        return b"".join((head, checksum(head, self.payload).to_bytes(2, "big"), self.payload))

    def to_stream_bytes(self) -> bytes:
        """The stream form, 4 + N bytes."""
        head = bytes((VERSION << 4 | self.codec, self.setting)) + self.sequence.to_bytes(2, "big")
        return head + self.payload


def parse_frame(
    data: bytes | memoryview, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES, bundle_tag: bytes | None = None
) -> Frame:
    """The frame that `data` is, all of it.

    With `bundle_tag` given, a frame of another bundle is refused; without, compare `Frame.bundle_tag` yourself.

    FrameError: shorter than a header, another version, another bundle, a payload above `max_payload_bytes`, a
    length that isn't the header's, or a wrong checksum.
    """
    view = memoryview(data)
    check_start(view, HEADER_BYTES, "frame")
    tag = bytes(view[2:5])
    told = int.from_bytes(view[7:10], "big")
    check_size(told, max_payload_bytes)
    if len(view) != HEADER_BYTES + told:
        raise FrameError(
            f"frame of {len(view)} bytes, but its header says {HEADER_BYTES + told}: it was cut or added to; "
            f"send one whole frame"
        )
    if checksum(view[:10], view[HEADER_BYTES:]) != int.from_bytes(view[10:12], "big"):
        raise FrameError(f"frame of {len(view)} bytes has a wrong checksum: it was damaged on the way; send it again")
    if bundle_tag is not None and tag != bundle_tag:
        raise FrameError(
            f"frame is for bundle {tag.hex()}, but this is bundle {bundle_tag.hex()}; use the same bundle on both sides"
        )
    return Frame(view[0] & 15, view[1], tag, int.from_bytes(view[5:7], "big"), bytes(view[HEADER_BYTES:]))


def parse_stream_frame(
    data: bytes | memoryview, *, bundle_tag: bytes, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
) -> Frame:
    """The frame that the message `data` is, on a connection that agreed on the bundle of `bundle_tag`.

    FrameError: shorter than a header, another version, or a payload above `max_payload_bytes`.
    """
    view = memoryview(data)
    check_start(view, STREAM_HEADER_BYTES, "stream frame")
    check_size(len(view) - STREAM_HEADER_BYTES, max_payload_bytes)
    sequence = int.from_bytes(view[2:4], "big")
    return Frame(view[0] & 15, view[1], bundle_tag, sequence, bytes(view[STREAM_HEADER_BYTES:]))


def checksum(head: bytes | memoryview, payload: bytes | memoryview) -> int:
    """CRC-16/IBM-3740 of both, one after the other. The low half of a CRC-32 would miss some single flipped bits."""
    return binascii.crc_hqx(payload, binascii.crc_hqx(head, 0xFFFF))


def check_start(view: memoryview, header_bytes: int, what: str) -> None:
    """FrameError: shorter than its header, or of another version."""
    if len(view) < header_bytes:
        raise FrameError(f"{what} of {len(view)} bytes is shorter than its header of {header_bytes}; send all of it")
    if view[0] >> 4 != VERSION:
        raise FrameError(f"{what} is of version {view[0] >> 4}, or no frame; this side speaks version {VERSION}")


def check_size(payload_bytes: int, allowed: int) -> None:
    """FrameError: more than the receiver takes."""
    if payload_bytes > allowed:
        raise FrameError(f"payload of {payload_bytes} bytes; this side takes up to {allowed}: reduce more")
