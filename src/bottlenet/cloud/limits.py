"""How much a server takes, of everything: nothing is unbounded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bottlenet.errors import InputError
from bottlenet.wire.frame import DEFAULT_MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES

HIGHEST = {"max_payload_bytes": MAX_PAYLOAD_BYTES, "max_photo_bytes": MAX_PAYLOAD_BYTES}


@dataclass(frozen=True)
class Limits:
    """Sizes, numbers and times. InputError: one that is below 1, or a time that is not above 0."""

    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES  # Of one frame
    max_photo_bytes: int = 2**22  # Of a whole photo that is posted
    max_photos: int = 16  # Whole photos that are posted at once; further ones are told to come later
    max_in_flight: int = 32  # Frames of one connection at once; then it is not read until one is answered
    max_waiting: int = 256  # Frames of a bundle that wait for the network; further ones are told to come later
    max_connections: int = 4096  # Requests and streams at once; further ones are told to come later
    max_per_address: int = 256  # Connections of one address that have shown no token; further ones are to come later
    idle_s: float = 3600.0  # Seconds without a message after which a stream is closed
    first_byte_s: float = 10.0  # Seconds from connecting, and encrypting, to the first byte
    request_s: float = 30.0  # Seconds for the header of a request, for its body, and to take an answer
    grace_s: float = 20.0  # Seconds to finish what was taken when the server is told to stop

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, is_time = getattr(self, field.name), isinstance(field.default, float)
            high = HIGHEST.get(field.name, 10**9)
            if not (0 < value <= high if is_time else 1 <= value <= high):  # so refuses NaN
                allowed = f"a number above 0, at most {high}" if is_time else f"1 or more, at most {high}"
                raise InputError(f"{field.name} is {value}; give {allowed}")
