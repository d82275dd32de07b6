"""Measure a photo over a slow link on one machine: a device, a server process, and a shaped link in between.

The link has the rate and the round trip of `--link` of `bottlenet plan`, and needs no root.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bottlenet import Bundle, Edge
from bottlenet.demo.run import shipped_photos
from bottlenet.measure.bench import split_server
from bottlenet.measure.link import ShapedLink
from bottlenet.plan.link import parse_link

LINKS = ("wifi", "3g", "100k,300ms")


def main(photos: list[Path]) -> None:
    """Try each photo on each link; the round trip is from sending to the answer."""
    bundle = Bundle.load("demo")
    with split_server([bundle.path]) as port:
        for name in LINKS:
            link = parse_link(name)
            with ShapedLink("127.0.0.1", port, link) as shaped, Edge(bundle, shaped.url, timeout_s=30) as edge:
                edge.connect()
                for photo in photos:
                    answer = edge.classify(photo)
                    took, bound = answer.times.round_trip_ms, link.exchange_s(answer.socket_bytes) * 1e3
                    assert took >= bound * 0.99
                    print(f"{link.name}, {photo.name}: {answer.label}, {took:.0f} ms, of them the link {bound:.0f}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or shipped_photos()[:2])
