"""Links between device and server: `Link`; those the paper computes with, `LINKS`, and all, `PRESETS`.

docs/planning.md, "Links", has the source of each figure, and which are assumptions of ours.
"""

import math
from dataclasses import dataclass
from typing import Any

from bottlenet.errors import InputError

FRAME_BYTES = 12  # header of a frame that stands for itself; a test compares it with wire.frame
STREAM_OVERHEAD_BYTES = 4 + 8 + 40
ANSWER_BYTES = 34  # with five classes: docs/wire.md
MAX_LOSS = 0.9
PLAIN_SECONDS = 10  # a round trip without a unit above this was surely meant in ms


@dataclass(frozen=True)
class Radio:
    """Power of a sending radio, Huang et al.: alpha * uplink + beta. InputError: a value below 0."""

    alpha_mw_per_mbps: float
    beta_mw: float

    def __post_init__(self) -> None:
        for name, value in (("alpha_mw_per_mbps", self.alpha_mw_per_mbps), ("beta_mw", self.beta_mw)):
            if not 0 <= value < math.inf:
                raise InputError(f"radio: {name} is {value}; give a number, 0 or more")

    def power_mw(self, uplink_bps: float) -> float:
        return self.alpha_mw_per_mbps * uplink_bps / 1e6 + self.beta_mw


@dataclass(frozen=True)
class Link:
    """One link. InputError: a bandwidth that isn't above 0, a loss above 0.9, or anything else below 0."""

    name: str  # for people
    uplink_bps: float  # device to server, bits a second
    round_trip_s: float  # of a packet with nothing in it
    loss: float = 0.0  # share of packets that do not arrive, 0..0.9
    downlink_bps: float | None = None  # None: the answer is too short to count
    setup_s: float = 0.0  # to open a connection, where none is open
    per_message_overhead_bytes: int = 0  # what frame and transport add to a payload
    packet_bytes: int = 1460  # a message travels in packets of at most this, each lost by itself
    max_message_bytes: int | None = None  # payload with its frame's header; None: any
    radio: Radio | None = None  # None: no source

    def __post_init__(self) -> None:
        down, most = self.downlink_bps, self.max_message_bytes
        self._check("uplink_bps", 0 < self.uplink_bps < math.inf, "bits a second, above 0")
        self._check("downlink_bps", down is None or 0 < down < math.inf, "bits a second, above 0")
        self._check("round_trip_s", 0 <= self.round_trip_s < math.inf, "seconds, 0 or more")
        self._check("setup_s", 0 <= self.setup_s < math.inf, "seconds, 0 or more")
        self._check("loss", 0 <= self.loss <= MAX_LOSS, f"a share of packets, 0 to {MAX_LOSS}")
        self._check("per_message_overhead_bytes", self.per_message_overhead_bytes >= 0, "bytes, 0 or more")
        self._check("packet_bytes", self.packet_bytes >= 1, "bytes, 1 or more")
        self._check("max_message_bytes", most is None or most >= 1, "bytes, 1 or more")

    def _check(self, name: str, good: bool, allowed: str) -> None:
        if not good:
            raise InputError(f"link {self.name}: {name} is {getattr(self, name)}; give {allowed}")

    @property
    def answer_s(self) -> float:
        return 0.0 if self.downlink_bps is None else ANSWER_BYTES * 8 / self.downlink_bps

    @property
    def send_mw(self) -> float:
        """Power of the radio while it sends; NaN: not known."""
        return math.nan if self.radio is None else self.radio.power_mw(self.uplink_bps)

    def exchange_s(self, sent_bytes: float) -> float:
        """Compute the seconds from sending so many bytes to a short answer, without loss or computing at either end."""
        return self.round_trip_s + sent_bytes * 8 / self.uplink_bps


OWN_LINK = "or bps,rtt,loss such as 1.1M,100ms,1%"


def parse_link(text: str) -> Link:
    """Parse a preset's name, or "bps,round trip[,loss]": 1.1e6,0.1,0.01 is 1.1M,100ms,1%. InputError: neither."""
    name = text.strip().lower()
    if name in PRESETS:
        return PRESETS[name]
    if "," not in name:
        raise InputError(f'link "{text:.60}" is unknown; give {", ".join(PRESETS)}, {OWN_LINK}')
    parts = [part.strip() for part in name.split(",")]
    if not 2 <= len(parts) <= 3:
        raise InputError(f'link "{text:.60}" has {len(parts)} parts; give bps,rtt {OWN_LINK}')
    uplink_bps = scaled(parts[0], "bandwidth", {"k": 1e3, "m": 1e6, "g": 1e9})
    round_trip_s = scaled(parts[1], "round trip", {"ms": 1e-3, "s": 1.0})
    if not parts[1].endswith("s") and round_trip_s > PLAIN_SECONDS:
        raise InputError(f"round trip {parts[1]:.40} would be seconds; write {parts[1]:.40}ms, or {parts[1]:.40}s")
    loss = scaled(parts[2], "loss", {"%": 0.01}) if len(parts) == 3 else 0.0
    return over_stream(f"{text.strip():.60}", uplink_bps, round_trip_s, loss=loss)


def scaled(text: str, what: str, units: dict[str, float]) -> float:
    """Parse a number with one of these units behind it, or none. InputError: anything else."""
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * units.get(unit, 1.0)
    except ValueError as error:
        raise InputError(f"{what} {text!a:.40} is no number; units are {', '.join(units)}, or none") from error


def over_stream(name: str, uplink_bps: float, round_trip_s: float, **others: Any) -> Link:
    """Describe a link that carries WebSocket over TCP; `others` are fields of `Link`."""
    setup_s, overhead_bytes = 2 * round_trip_s, STREAM_OVERHEAD_BYTES
    return Link(name, uplink_bps, round_trip_s, setup_s=setup_s, per_message_overhead_bytes=overhead_bytes, **others)


def in_messages(
    name: str, bps: float, round_trip_s: float, *, setup_s: float, overhead_bytes: int, max_message_bytes: int
) -> Link:
    """Describe a link that carries whole messages of a limited size, each in one packet."""
    packet_bytes = max_message_bytes + overhead_bytes
    return Link(name, bps, round_trip_s, 0.0, bps, setup_s, overhead_bytes, packet_bytes, max_message_bytes)


LINKS = {
    "3g": over_stream("3G", 1.1e6, 0.100, radio=Radio(868.98, 817.88)),
    "4g": over_stream("4G", 5.85e6, 0.050, radio=Radio(438.39, 1288.04)),
    "wifi": over_stream("Wi-Fi", 18.88e6, 0.005, radio=Radio(283.17, 132.86)),
}
PRESETS = {
    **LINKS,
    "5g": over_stream("5G", 21.08e6, 0.047, downlink_bps=166.13e6),
    "lte-m": over_stream("LTE-M", 375e3, 0.100, downlink_bps=300e3),
    "nb-iot": over_stream("NB-IoT", 62e3, 1.6, downlink_bps=26e3),
    "lorawan": in_messages("LoRaWAN", 5470, 1.0, setup_s=5.0, overhead_bytes=FRAME_BYTES + 13, max_message_bytes=222),
    "iridium-sbd": in_messages("Iridium SBD", 1045, 10.0, setup_s=0, overhead_bytes=FRAME_BYTES, max_message_bytes=340),
}
