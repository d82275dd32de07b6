"""Does it pay to pad the mosaic's tiles to whole 8x8 blocks?

The same symbols of the same photos, laid out with and without padding, through JPEG at several qualities: bytes and
top-1. The bundle was trained with its own padding, so a difference in top-1 of a point is no surprise; what is asked is
which layout needs fewer bytes for the same top-1.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace

import numpy as np
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import InputError
from bottlenet.photos.folders import photos_for
from bottlenet.runtime import open_session, run_graph
from bottlenet.wire.codecs import Jpeg
from record import parser, run_script, show, write_record

OFFSETS = (-30, -15, 0, 15, 30)  # added to the bundle's own quality


@dataclass(frozen=True)
class Row:
    """One layout at one quality."""

    align: int
    quality: int
    payload_bytes: float  # mean
    top1: float  # percent


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    bundle = Bundle.load(arguments.bundle)
    encoder, tail = Encoder(bundle), open_session(bundle.path / "tail.onnx")
    photos = [photo for photo in photos_for(bundle, arguments.data, arguments.limit) if photo.label is not None]
    if not photos or bundle.manifest.codec != "jpeg":
        raise InputError("labelled photos and a bundle with the jpeg codec are needed")
    own = bundle.manifest.setting
    qualities = sorted({min(100, max(1, own + offset)) for offset in OFFSETS})
    codecs = [Jpeg(replace(bundle.mosaic, align=align), quality) for align in (8, 1) for quality in qualities]
    right, sizes = np.zeros(len(codecs)), np.zeros(len(codecs))
    with Progress() as progress:
        for photo in progress.track(photos):
            symbols = encoder.symbols(photo.path)
            decoded, payload_bytes = zip(*(codec.round_trip(symbols[None]) for codec in codecs), strict=True)
            scores = run_graph(tail, symbols=np.concatenate(decoded))
            right += scores.argmax(1) == photo.label
            sizes += np.concatenate(payload_bytes)
    rows = [
        Row(codec.mosaic.align, codec.setting, size / len(photos), 100 * hits / len(photos))
        for codec, size, hits in zip(codecs, sizes, right, strict=True)
    ]
    show(
        f"{bundle.manifest.name}, {len(photos)} photos",
        ["padded to multiples of, JPEG quality", "payload bytes", "top-1, %"],
        [[f"{row.align}, {row.quality}", f"{row.payload_bytes:.0f}", f"{row.top1:.1f}"] for row in rows],
    )
    results = {"photos": len(photos), "quality": own, "rows": [asdict(row) for row in rows]}
    write_record("tile_padding", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of labelled photos")
    made.add_argument("--bundle", default="demo")
    made.add_argument("--limit", type=int, help="take this many of the photos")
    run_script(made, run)


if __name__ == "__main__":
    main()
