"""What a link between device and server is like: `Link`, and three that the paper computes with, in `LINKS`.

Uplink bandwidths: BottleNet (ISLPED 2019), the table of the uplink power model, after Huang et al., "A Close
Examination of Performance and Power Characteristics of 4G LTE Networks", MobiSys 2012. The paper has no round trip:
bytes / bandwidth alone is its latency. Real links have one, which nearly decides on a fast link, so the round trips
here are assumptions of ours: 100 ms for 3G, 50 ms for 4G, 5 ms for Wi-Fi.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bottlenet.errors import InputError


@dataclass(frozen=True)
class Link:
    """One link. InputError: a bandwidth that isn't above 0, or a round trip below 0."""

    name: str  # for people
    uplink_bps: float  # device to server, bits a second
    round_trip_s: float  # of a packet with nothing in it

    def __post_init__(self) -> None:
        if not 0 < self.uplink_bps < math.inf:
            raise InputError(f"link {self.name}: uplink_bps is {self.uplink_bps}; give bits a second, above 0")
        if not 0 <= self.round_trip_s < math.inf:
            raise InputError(f"link {self.name}: round_trip_s is {self.round_trip_s}; give seconds, 0 or more")

    def exchange_s(self, sent_bytes: float) -> float:
        """Seconds from sending so many bytes to a short answer, without computing at either end."""
        return self.round_trip_s + sent_bytes * 8 / self.uplink_bps


LINKS = {
    "3g": Link("3G", uplink_bps=1.1e6, round_trip_s=0.100),
    "4g": Link("4G", uplink_bps=5.85e6, round_trip_s=0.050),
    "wifi": Link("Wi-Fi", uplink_bps=18.88e6, round_trip_s=0.005),
}
