"""What does a photo cost on the network, beside its payload, and is what the device says of it true?

`bottlenet serve` runs in a process of its own; between device and server is a relay that counts what it carries. The
connection is open before the first photo. Bytes are those of the TCP payload, without TLS.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bottlenet.bundle import Bundle
from bottlenet.demo.run import PHOTOS
from bottlenet.edge import Edge
from bottlenet.edge.prediction import Prediction
from bottlenet.measure.bench import split_server
from bottlenet.measure.link import ShapedLink
from bottlenet.photos.folders import list_photos
from bottlenet.plan.link import Link
from bottlenet.wire.frame import parse_frame
from record import Json, parser, run_script, show, write_record

TARGET_BYTES = 16  # upstream, above the payload of a photo
NO_LIMIT = Link("loopback", 1e12, 0.0)
BUDGETS = (51, 222, 340, None)  # LoRaWAN at its slowest and its fastest, Iridium SBD, the bundle's own
IN_FLIGHT = 8


@dataclass(frozen=True)
class Row:
    """One way to send; means over photos."""

    way: str
    photos: int
    payload_bytes: float
    frame_bytes: float  # as one message or body
    sent_bytes: float | None  # on the socket, as the device says; None: it doesn't
    carried_up_bytes: float  # as the relay counted
    received_bytes: float | None
    carried_down_bytes: float
    agree: bool  # of every photo, or of all together where several are in flight

    @property
    def overhead_bytes(self) -> float:
        """Upstream, above the payload."""
        return self.carried_up_bytes - self.payload_bytes


def one_by_one(edge: Edge, link: ShapedLink, photos: Sequence[str]) -> Row:
    """Send each photo when the one before is answered."""
    edge.connect()
    told, agree = [], True
    first = before = link.carried_bytes
    for photo in photos:
        told.append(edge.classify(photo))
        after = link.carried_bytes
        agree &= carried(before, after) == (told[-1].socket_bytes, told[-1].received_bytes)
        before = after
    return row_of("stream, one by one", told, carried(first, before), agree)


def pipelined(edge: Edge, link: ShapedLink, photos: Sequence[str]) -> Row:
    """Several on the way at once."""
    edge.connect()
    before = link.carried_bytes
    told = list(edge.classify_many(photos, in_flight=IN_FLIGHT))
    bytes_carried = carried(before, link.carried_bytes)
    stated = sum(one.socket_bytes for one in told), sum(one.received_bytes for one in told)
    return row_of(f"stream, {IN_FLIGHT} in flight", told, bytes_carried, stated == bytes_carried)


def posted(edge: Edge, link: ShapedLink, photos: Sequence[str]) -> Row:
    """Self-contained frames over HTTP, on a connection that is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", link.port, timeout=60)
    connection.connect()
    before, sizes = link.carried_bytes, []
    for photo in photos:
        body = edge.encode(photo)
        connection.request("POST", "/v1/classify", body)
        connection.getresponse().read()
        sizes.append((len(parse_frame(body).payload), len(body)))
    up, down = carried(before, link.carried_bytes)
    connection.close()
    payload, frame = (statistics.fmean(each) for each in zip(*sizes, strict=True))
    count = len(photos)
    return Row("POST", count, payload, frame, None, up / count, None, down / count, True)


def carried(before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
    """Up and down, in between."""
    return after[0] - before[0], after[1] - before[1]


def row_of(way: str, told: Sequence[Prediction], total: tuple[int, int], agree: bool) -> Row:
    """Average the photos."""

    def mean(field: str) -> float:
        return statistics.fmean(getattr(one, field) for one in told)

    return Row(
        way,
        len(told),
        mean("payload_bytes"),
        mean("frame_bytes"),
        mean("socket_bytes"),
        total[0] / len(told),
        mean("received_bytes"),
        total[1] / len(told),
        agree,
    )


WAYS: tuple[Callable[[Edge, ShapedLink, Sequence[str]], Row], ...] = (one_by_one, pipelined, posted)


def run(arguments: argparse.Namespace) -> None:
    """Send, compare, show, write."""
    bundle = Bundle.load(arguments.bundle)
    photos = [str(photo.path) for photo in list_photos(arguments.data)]
    rows: list[tuple[int | None, Row]] = []
    with split_server([bundle.path]) as port, ShapedLink("127.0.0.1", port, NO_LIMIT) as link:
        for budget in BUDGETS:
            for way in WAYS:
                with Edge(bundle, link.url, budget_bytes=budget, timeout_s=60) as edge:
                    rows.append((budget, way(edge, link, photos)))
    show(
        f"bytes of a photo, means of {len(photos)}; up: device to server; carried: as the relay counted",
        ["how, budget", "payload", "frame", "up, stated", "up, carried", "over payload", "down, carried", "agree"],
        [
            [
                f"{row.way}, {budget or 'own'}",
                f"{row.payload_bytes:.1f}",
                f"{row.frame_bytes:.1f}",
                "" if row.sent_bytes is None else f"{row.sent_bytes:.1f}",
                f"{row.carried_up_bytes:.1f}",
                f"{row.overhead_bytes:.1f}",
                f"{row.carried_down_bytes:.1f}",
                "" if row.sent_bytes is None else str(row.agree),
            ]
            for budget, row in rows
        ],
    )
    streamed = [row for _, row in rows if row.sent_bytes is not None]
    largest = max(row.overhead_bytes for row in streamed)
    results: dict[str, Json] = {
        "bundle_id": bundle.id.hex(),
        "rows": [{"budget_bytes": budget, **asdict(row), "overhead_bytes": row.overhead_bytes} for budget, row in rows],
        "agree": all(row.agree for row in streamed),
        "stream_overhead_bytes": largest,
        "target_overhead_bytes": TARGET_BYTES,
        "met": largest <= TARGET_BYTES and all(row.agree for row in streamed),
    }
    write_record("socket_bytes", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--data", default=str(PHOTOS), help="folder of photos; those of the demo")
    run_script(made, run)


if __name__ == "__main__":
    main()
