"""Bandwidths and round trips."""

from __future__ import annotations

import pytest

from bottlenet.errors import InputError
from bottlenet.plan.link import LINKS, Link


def test_the_papers_uplinks() -> None:
    assert {name: link.uplink_bps for name, link in LINKS.items()} == {"3g": 1.1e6, "4g": 5.85e6, "wifi": 18.88e6}
    assert {name: link.round_trip_s for name, link in LINKS.items()} == {"3g": 0.1, "4g": 0.05, "wifi": 0.005}


def test_an_exchange_is_a_round_trip_and_the_bytes() -> None:
    link = Link("slow", uplink_bps=8000, round_trip_s=0.5)
    assert link.exchange_s(0) == 0.5
    assert link.exchange_s(1000) == pytest.approx(1.5)
    # The paper's cloud-only time on 3G, 196.2 ms, is 26,766 bytes without a round trip.
    assert LINKS["3g"].exchange_s(26_766) - LINKS["3g"].round_trip_s == pytest.approx(0.1947, abs=1e-3)


@pytest.mark.parametrize(
    ("uplink_bps", "round_trip_s"), [(0, 0), (-1, 0), (float("nan"), 0), (1, -1), (1, float("inf"))]
)
def test_what_is_no_link(uplink_bps: float, round_trip_s: float) -> None:
    with pytest.raises(InputError, match="link odd"):
        Link("odd", uplink_bps, round_trip_s)
