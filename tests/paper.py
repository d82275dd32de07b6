"""The paper's Tables 4 and 5 (arXiv 1902.01000v1), and a profile made of them."""

from __future__ import annotations

import dataclasses

from bottlenet.net.build import BYTES  # RB1..RB16
from bottlenet.plan.link import LINKS, Link
from bottlenet.plan.profile import Candidate, Energy, Profile

LATENCY_MS = {
    "3g": [3.1, 4.1, 4.9, 5.2, 6.3, 7.5, 8.2, 9.6, 10.7, 11.6, 12.8, 13.4, 14.8, 15.1, 16.0, 17.1],
    "4g": [1.8, 2.5, 3.3, 4.2, 5.0, 5.9, 6.9, 8.6, 9.4, 10.3, 11.9, 12.7, 14.1, 15.0, 15.7, 16.9],
    "wifi": [1.6, 2.4, 3.0, 4.1, 4.9, 5.8, 6.8, 8.5, 9.3, 10.1, 11.8, 12.6, 14.0, 14.9, 15.7, 16.9],
}
ENERGY_MJ = {
    "3g": [6.6, 7.6, 8.1, 9.7, 10.8, 11.9, 12.6, 13.9, 14.1, 15.8, 16.1, 17.6, 18.5, 19.8, 20.7, 21.9],
    "4g": [4.1, 6.8, 7.0, 8.9, 10.6, 11.3, 12.9, 13.1, 14.0, 15.6, 16.0, 17.1, 18.3, 19.1, 20.3, 21.2],
    "wifi": [3.5, 5.6, 6.1, 7.4, 9.5, 10.8, 12.3, 12.5, 13.8, 14.9, 15.6, 16.9, 18.1, 19.0, 20.1, 21.0],
}
CLOUD_BYTES = 26_766
CLOUD_MS = {"3g": 196.2, "4g": 37.9, "wifi": 13.1}
CLOUD_MJ = {"3g": 310.1, "4g": 168.3, "wifi": 110.7}
MOBILE_MS, MOBILE_MJ = 15.7, 20.5
SPEEDUP = 30  # of the server over the device
DROP = 2.0


def sending_ms(payload_bytes: int, link: str) -> float:
    return payload_bytes * 8 / LINKS[link].uplink_bps * 1e3


def bare(name: str, round_trip_s: float = 0.0) -> Link:
    """The paper's link: bytes over bandwidth and nothing else, and a round trip for those who ask."""
    return dataclasses.replace(LINKS[name], round_trip_s=round_trip_s, setup_s=0.0, per_message_overhead_bytes=0)


def computing_ms(index: int) -> float:
    """Device and server of RB(index + 1): what Wi-Fi, where sending takes least, leaves of the paper's latency."""
    return LATENCY_MS["wifi"][index] - sending_ms(BYTES[index], "wifi")


def candidate(index: int) -> Candidate:
    """RB(index + 1). What device and server do adds up to the whole network, which takes the server a 30th."""
    computing = computing_ms(index)
    device_ms = min(computing, (computing - MOBILE_MS / SPEEDUP) / (1 - 1 / SPEEDUP))
    return Candidate(
        f"RB{index + 1}",
        "split",
        f"RB{index + 1}",
        device_ms / 1e3,
        max(0.0, computing - device_ms) / 1e3,
        float(BYTES[index]),
        BYTES[index],
        DROP,
        "top1",
        energy(device_ms),
    )


def energy(device_ms: float) -> Energy:
    """At the power that mobile-only has in the paper."""
    return Energy("modelled", "paper, mobile-only", energy_mj=MOBILE_MJ * device_ms / MOBILE_MS)


def profile() -> Profile:
    cloud_ms = CLOUD_MS["3g"] - sending_ms(CLOUD_BYTES, "3g")
    mobile = Candidate("mobile-only", "edge-only", None, MOBILE_MS / 1e3, 0.0, 0.0, 0, 0.0, "top1", energy(MOBILE_MS))
    cloud = Candidate(
        "cloud-only", "cloud-only", None, 0.0, cloud_ms / 1e3, CLOUD_BYTES, CLOUD_BYTES, 0.0, "top1", energy(0.0)
    )
    splits = [candidate(index) for index in range(len(BYTES))]
    return Profile("0" * 64, "resnet50", "Jetson TX2", "GTX 1080 Ti", 9000, 9000, (mobile, cloud, *splits))
