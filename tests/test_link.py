"""Bandwidths, round trips, losses, radios; presets, and links in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bottlenet.errors import InputError
from bottlenet.plan.link import FRAME_BYTES, LINKS, PRESETS, STREAM_OVERHEAD_BYTES, Link, Radio, parse_link
from bottlenet.wire.frame import HEADER_BYTES, STREAM_HEADER_BYTES


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", -0.1),
        ("loss", 0.95),
        ("loss", float("nan")),
        ("downlink_bps", 0),
        ("setup_s", -1),
        ("per_message_overhead_bytes", -1),
        ("packet_bytes", 0),
        ("max_message_bytes", 0),
    ],
)
def test_what_else_is_no_link(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"link odd: {name} is"):
        Link("odd", 1e6, 0.1, **{name: value})  # type: ignore[arg-type]


class TestRadio:
    def test_the_papers_power(self) -> None:
        """Huang et al.: alpha * uplink + beta, in mW."""
        power = {name: link.radio.power_mw(link.uplink_bps) for name, link in LINKS.items() if link.radio}
        assert power == pytest.approx({"3g": 1773.758, "4g": 3852.6215, "wifi": 5479.1096})

    @pytest.mark.parametrize("values", [(-1, 0), (0, -1), (float("nan"), 0)])
    def test_none(self, values: tuple[float, float]) -> None:
        with pytest.raises(InputError, match="radio: "):
            Radio(*values)


class TestPresets:
    def test_all_of_them(self) -> None:
        assert list(PRESETS) == ["3g", "4g", "wifi", "5g", "lte-m", "nb-iot", "lorawan", "iridium-sbd"]
        assert LINKS.items() <= PRESETS.items()

    def test_every_one_has_a_line_with_sources(self) -> None:
        docs = (Path(__file__).parent.parent / "docs" / "planning.md").read_text(encoding="utf-8")
        for name, link in PRESETS.items():
            (line,) = re.findall(rf"^\| `{name}` \|(.*)\|$", docs, re.MULTILINE)
            uplink, downlink, round_trip, setup, overhead, largest, _ = (cell.strip() for cell in line.split("|"))
            assert all(": " in cell for cell in (uplink, round_trip, setup))
            assert (downlink == "-") == (link.downlink_bps is None)
            assert int(overhead) == link.per_message_overhead_bytes
            assert (largest == "-") == (link.max_message_bytes is None)
        sources = docs[docs.index("\nSources:") :]
        for source in ("The paper", "Ookla 2021", "Ookla\n  2024", "Cat-M1", "Cat-NB1", "EU868, DR5", "Semtech"):
            assert f"**{source}**" in sources

    def test_only_the_paper_gives_a_radio_power(self) -> None:
        assert {name for name, link in PRESETS.items() if link.radio} == set(LINKS)

    def test_the_largest_messages(self) -> None:
        limits = {name: link.max_message_bytes for name, link in PRESETS.items() if link.max_message_bytes}
        assert limits == {"lorawan": 222, "iridium-sbd": 340}

    def test_headers_are_those_of_the_wire(self) -> None:
        assert FRAME_BYTES == HEADER_BYTES
        assert STREAM_OVERHEAD_BYTES == STREAM_HEADER_BYTES + 48


class TestParse:
    @pytest.mark.parametrize("name", PRESETS)
    def test_a_name(self, name: str) -> None:
        assert parse_link(name) is PRESETS[name]
        assert parse_link(f" {name.upper()} ") is PRESETS[name]

    @pytest.mark.parametrize(
        "text", ["1.1e6,0.1,0.01", "1100000, 0.1, 0.01", "1.1M,100ms,1%", "1100k,0.1s,1%", "0.0011G,100MS,0.01"]
    )
    def test_figures(self, text: str) -> None:
        link = parse_link(text)
        assert (link.uplink_bps, link.round_trip_s, link.loss) == pytest.approx((1.1e6, 0.1, 0.01))
        assert link.name == text
        assert link.radio is None
        assert link.setup_s == 2 * link.round_trip_s

    def test_without_loss(self) -> None:
        assert parse_link("5M,0").loss == 0

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("6g", "unknown; give 3g, 4g, wifi, 5g, lte-m, nb-iot, lorawan, iridium-sbd, or bps,rtt,loss"),
            ("", "unknown"),
            ("1e6,0,0,0", "has 4 parts"),
            ("0,0.1,0", "uplink_bps is 0.0; give bits a second, above 0"),
            ("-1M,0.1", "above 0"),
            ("nan,0.1", "above 0"),
            ("inf,0.1", "above 0"),
            ("fast,0.1", "bandwidth 'fast' is no number"),
            ("1M,soon", "round trip 'soon' is no number; units are ms, s, or none"),
            ("1M,-5ms", "0 or more"),
            ("1M,100", "round trip 100 would be seconds; write 100ms, or 100s"),
            ("1M,0.1,half", "loss 'half' is no number"),
            ("1M,0.1,100%", "give a share of packets, 0 to 0.9"),
            ("1M,,", "round trip '' is no number"),
        ],
    )
    def test_no_link(self, text: str, message: str) -> None:
        with pytest.raises(InputError) as error:
            parse_link(text)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
