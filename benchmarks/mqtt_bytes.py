"""What does a photo cost on the network through an MQTT broker, and is what the device says of it true?

`bottlenet serve --mqtt` runs in a process of its own and takes frames from a broker that is running already; between
device and broker is a relay that counts what it carries. The first photo of a connection is counted alone, with what
opening it takes: it brings the topic. Bytes are those of the TCP payload, without TLS.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from bottlenet.bundle import Bundle
from bottlenet.demo.run import PHOTOS
from bottlenet.edge import Edge
from bottlenet.errors import LinkError
from bottlenet.measure.bench import server_process
from bottlenet.measure.link import ShapedLink
from bottlenet.photos.folders import list_photos
from bottlenet.wire.mqtt import check_broker_url
from record import Json, parser, run_script, show, write_record
from socket_bytes import BUDGETS, NO_LIMIT, TARGET_BYTES, Row, one_by_one, pipelined

WAIT_S = 60.0  # for the server to be there


def wait_for_server(bundle: Bundle, url: str, photo: str) -> None:
    """LinkError: it takes no frames."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with Edge(bundle, url) as edge:
                edge.classify(photo)
            return
        except LinkError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def run(arguments: argparse.Namespace) -> None:
    """Send, compare, show, write."""
    where = check_broker_url(arguments.broker)
    bundle = Bundle.load(arguments.bundle)
    photos = [str(photo.path) for photo in list_photos(arguments.data)]
    serve = ["bottlenet.cli", "serve", "--port", "0", "--json", "--stop-with-input", "--mqtt", arguments.broker]
    rows: list[tuple[int | None, Row]] = []
    first: dict[str, Json] = {}
    with (
        server_process(["-m", *serve, "--", str(bundle.path.resolve())]),
        ShapedLink(where.hostname or "", where.port or 1883, NO_LIMIT) as link,
    ):
        url = f"mqtt://127.0.0.1:{link.port}"
        wait_for_server(bundle, url, photos[0])
        for budget in BUDGETS:
            for way in (one_by_one, pipelined):
                with Edge(bundle, url, budget_bytes=budget, timeout_s=60) as edge:
                    told = edge.classify(photos[0])
                    rows.append((budget, way(edge, link, photos)))
            payload = {"payload_bytes": told.payload_bytes}
            first[str(budget or "own")] = {**payload, "up": told.socket_bytes, "down": told.received_bytes}
    show(
        f"bytes of a photo through a broker, means of {len(photos)}; up: to the broker; carried: as the relay counts",
        ["how, budget", "payload", "up, stated", "up, carried", "over payload", "down, carried", "agree"],
        [
            [
                f"{row.way}, {budget or 'own'}",
                f"{row.payload_bytes:.1f}",
                f"{row.sent_bytes:.1f}",
                f"{row.carried_up_bytes:.1f}",
                f"{row.overhead_bytes:.1f}",
                f"{row.carried_down_bytes:.1f}",
                str(row.agree),
            ]
            for budget, row in rows
        ],
    )
    largest = max(row.overhead_bytes for _, row in rows)
    agree = all(row.agree for _, row in rows)
    results: dict[str, Json] = {
        "bundle_id": bundle.id.hex(),
        "rows": [{"budget_bytes": budget, **asdict(row), "overhead_bytes": row.overhead_bytes} for budget, row in rows],
        "first_with_opening": first,
        "agree": agree,
        "overhead_bytes": largest,
        "target_overhead_bytes": TARGET_BYTES,
        "met": agree and largest <= TARGET_BYTES,
    }
    write_record("mqtt_bytes", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--broker", required=True, help="mqtt://HOST:PORT, which asks for no user; `mosquitto -p PORT`")
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--data", default=str(PHOTOS), help="folder of photos; those of the demo")
    run_script(made, run)


if __name__ == "__main__":
    main()
