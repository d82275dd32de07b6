"""The model of what one photo costs on a link, for one candidate or for all of a profile at once.

    latency  = device + [set-up + bits / uplink + rounds * round trip + answer / downlink + server * (1 + load)]
    energy   = device's computing + [bits / uplink * (alpha * uplink + beta)]
    bits     = (payload + overhead) * 8 / (1 - loss)              each packet is sent 1 / (1 - loss) times on average
    rounds   = 1 + sum over k >= 1 of 1 - (1 - loss^k)^packets    one more as often as a packet is still missing

What is in brackets falls away for edge-only, and counts by the share of photos that are sent where an exit answers the
others: all is in the mean of both. Set-up counts only where no connection is open. A load of K is K photos
ahead of ours. Energy is the paper's: the radio while it sends, not while it waits, nor its tail.

Everything is a straight line in 1 / uplink, in the round trip and in the load. So it is known exactly where the
choice changes, see planner.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError
from bottlenet.plan.link import FRAME_BYTES, Link
from bottlenet.plan.profile import Candidate
from bottlenet.records import is_number

Floats: TypeAlias = NDArray[np.float64]

NEGLIGIBLE = 1e-12  # of a round
AS_MEASURED = ("name", "kind", "cut", "top1_drop", "drop_of")  # of a candidate, on any link


@dataclass(frozen=True)
class Prices:
    """What the objective "cost" counts, in any currency. InputError: a price below 0."""

    per_megabyte: float = 0.0  # of uplink, 10^6 bytes
    per_server_hour: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("per_megabyte", self.per_megabyte), ("per_server_hour", self.per_server_hour)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is {value}; give a price, 0 or more")


@dataclass(frozen=True)
class Prediction:
    """A photo under one candidate on one link; times add up to `latency_s`, energies to `device_energy_mj`.

    Where an exit answers some photos, all figures are means over these and the others.
    """

    name: str
    kind: str
    cut: str | None
    latency_s: float
    device_s: float
    setup_s: float
    send_s: float  # bits / uplink, what is sent again included
    round_trip_s: float  # rounds * round trip
    server_s: float  # decode and tail under load
    answer_s: float
    uplink_bytes: float  # mean, one transmission: payload and overhead
    device_energy_mj: float | None  # None: computing or radio is not known
    compute_mj: float | None
    radio_mj: float | None
    energy_how: str | None  # of compute_mj: measured, modelled or given. The radio is always modelled
    top1_drop: float
    drop_of: str
    cost: float | None  # None: no prices


@dataclass(frozen=True)
class Links:
    """What `Link` says of many links, one array a field, each (L, 1)."""

    uplink_bps: Floats
    round_trip_s: Floats
    loss: Floats
    setup_s: Floats
    answer_s: Floats
    per_message_overhead_bytes: Floats
    packet_bytes: Floats
    send_mw: Floats  # NaN: not known
    max_message_bytes: Floats  # infinite: any

    @classmethod
    def of(cls, links: Sequence[Link]) -> Links:
        names = [field.name for field in fields(cls)]
        rows = [[math.inf if (value := getattr(link, name)) is None else value for name in names] for link in links]
        return cls(*np.array(rows, np.float64).reshape(len(rows), len(names)).T.copy()[..., None])


@dataclass(frozen=True)
class Columns:
    """Candidates, one array a field, each (N,)."""

    sends: Floats  # the share of photos that are sent: 0 for edge-only, 1 without an exit
    device_s: Floats  # of a photo, sent or not
    server_s: Floats  # of one that is sent, and so is a payload
    payload_mean: Floats
    payload_max: Floats
    drop: Floats
    compute_mj: Floats  # NaN: not known
    needs_bound: Floats  # 0 or 1

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Columns:
        rows = []
        for c in candidates:
            times, sizes = (c.mean_device_s, c.server_s), (c.payload_bytes_mean, c.payload_bytes_max)
            compute_mj = math.nan if c.device_mj is None else c.device_mj
            rows.append((c.sent_share, *times, *sizes, c.top1_drop, compute_mj, c.needs_bound))
        return cls(*np.array(rows, np.float64).reshape(len(rows), 8).T.copy())


@dataclass(frozen=True)
class Terms:
    """Candidates on a link, (N,), or on many, (L, N): what has to be multiplied by 1 / uplink, round trip and load."""

    fixed_s: Floats
    bits: Floats
    rounds: Floats
    server_s: Floats
    uplink_bytes: Floats
    message_bytes: Floats  # the largest payload with its frame's header
    compute_mj: Floats
    drop: Floats
    needs_bound: Floats

    @classmethod
    def of(cls, columns: Columns, link: Link | Links, *, connected: bool = True) -> Terms:
        """Compute terms for any uplink, round trip and load; the rest is the link's."""
        sends = columns.sends
        one_message = columns.payload_mean + link.per_message_overhead_bytes
        setup_s = 0.0 if connected else link.setup_s
        return cls(
            fixed_s=columns.device_s + sends * (columns.server_s + setup_s + link.answer_s),
            bits=sends * one_message * 8 / (1 - link.loss),
            rounds=sends * rounds(np.maximum(np.ceil(one_message / link.packet_bytes), 1), link.loss),
            server_s=sends * columns.server_s,
            uplink_bytes=sends * one_message,
            message_bytes=np.ceil(sends) * (columns.payload_max + FRAME_BYTES),
            compute_mj=columns.compute_mj,
            drop=columns.drop,
            needs_bound=columns.needs_bound,
        )

    def rows(self, kept: Sequence[int]) -> Terms:
        return Terms(*(getattr(self, field.name)[kept] for field in fields(self)))

    def latency_s(self, link: Link | Links, server_load: float | Floats) -> Floats:
        sent_s = self.fixed_s + self.bits / link.uplink_bps + self.rounds * link.round_trip_s
        return sent_s + self.server_s * server_load

    def radio_mj(self, link: Link | Links) -> Floats:
        """Compute (N,) mJ; NaN where the link's radio is not known, but for what sends nothing."""
        return np.where(self.bits > 0, self.bits / link.uplink_bps * link.send_mw, 0.0)

    def energy_mj(self, link: Link | Links) -> Floats:
        return self.compute_mj + self.radio_mj(link)

    def cost(self, prices: Prices) -> Floats:
        """Compute (N,) in the prices' currency. Waiting in the server's queue costs nothing."""
        sent = self.uplink_bytes / 1e6 * prices.per_megabyte
        return sent + self.server_s / 3600 * prices.per_server_hour


def rounds(packets: Floats, loss: float | Floats) -> Floats:
    """Compute how often a message of so many packets waits for a round trip, on average: in the shape of `packets`."""
    if not np.any(loss):
        return np.ones_like(packets)
    pairs = list(zip(packets.ravel().tolist(), np.broadcast_to(loss, packets.shape).ravel().tolist(), strict=True))
    # Few pairs are different, and equal ones must come out equal to the last bit: ties are ties.
    found = {pair: expected_rounds(*pair) for pair in set(pairs)}
    return np.array([found[pair] for pair in pairs]).reshape(packets.shape)


def expected_rounds(packets: float, loss: float) -> float:
    """1 + sum over k >= 1 of 1 - (1 - loss^k)^packets."""
    total, missing = 1.0, loss
    while missing * packets > NEGLIGIBLE:
        # log1p and expm1 keep what the formula as it stands would round away.
        total -= math.expm1(packets * math.log1p(-missing))
        missing *= loss
    return total


def predict(
    candidate: Candidate, link: Link, server_load: float = 0.0, *, connected: bool = True, prices: Prices | None = None
) -> Prediction:
    """Predict one photo with `server_load` photos ahead of it. InputError: a load below 0."""
    check_load(server_load)
    terms = Terms.of(Columns.of([candidate]), link, connected=connected)
    return predictions([candidate], terms, link, server_load, connected, prices)[0]


def predictions(
    candidates: Sequence[Candidate], terms: Terms, link: Link, load: float, connected: bool, prices: Prices | None
) -> list[Prediction]:
    """Predict one photo for each candidate, whose `terms` are in the same order."""
    latency_s, radio_mj = terms.latency_s(link, load).tolist(), terms.radio_mj(link).tolist()
    costs = [None] * len(candidates) if prices is None else terms.cost(prices).tolist()
    made = []
    for i, each in enumerate(candidates):
        sends = each.sent_share
        radio, compute = known(radio_mj[i]), each.device_mj
        made.append(
            Prediction(
                **{name: getattr(each, name) for name in AS_MEASURED},
                latency_s=latency_s[i],
                device_s=each.mean_device_s,
                setup_s=0.0 if connected else sends * link.setup_s,
                send_s=float(terms.bits[i]) / link.uplink_bps,
                round_trip_s=float(terms.rounds[i]) * link.round_trip_s,
                server_s=sends * each.server_s * (1 + load),
                answer_s=sends * link.answer_s,
                uplink_bytes=float(terms.uplink_bytes[i]),
                device_energy_mj=None if compute is None or radio is None else compute + radio,
                compute_mj=compute,
                radio_mj=radio,
                energy_how=None if each.energy is None else each.energy.how,
                cost=costs[i],
            )
        )
    return made


def known(value: float) -> float | None:
    return None if math.isnan(value) else value


def check_load(server_load: Any) -> None:
    """Raise InputError unless the load is a number, 0 or more."""
    if not is_number(server_load) or not 0 <= server_load < math.inf:
        raise InputError(f"server load is {server_load!r}; give the number of photos ahead of ours, 0 or more")
