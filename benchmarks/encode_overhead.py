"""What do codec and framing add to the device's network, and to the server's?

Device: head.onnx alone and head.onnx + codec.encode + frame take turns on the same photos, one photo at a time. Server:
codec.decode beside tail.onnx, one payload and batches of 8. One thread; medians are compared. The codec `entropy` is
also measured in Python alone. Processor time: see README.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from unittest import mock

import numpy as np

from bottlenet.bundle import Bundle
from bottlenet.demo.run import PHOTOS as DEMO_PHOTOS
from bottlenet.edge.encoder import Encoder
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.folders import list_photos
from bottlenet.runtime import open_session, run_graph
from bottlenet.wire import entropy
from bottlenet.wire.codecs import encode_within
from bottlenet.wire.frame import Frame
from record import Json, parser, run_script, show, write_record
from timing import processor_ms

TARGET_RATIO = 1.1  # times the head alone, at most
TARGETS = {"encode_share": 0.1, "decode_share": 0.2, "decode_of_8_share": 0.1}  # of the head's or the tail's time
BATCH = 8
PHOTOS = 50  # that take turns
WARM_UP = 5


def measure(bundle: Bundle, folder: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of the head, of head to frame, of the last part alone, and of reading a photo."""
    head = open_session(bundle.path / "head.onnx")
    codec = bundle.codec
    paths = [photo.path for photo in list_photos(folder)[:PHOTOS]]
    pixels = [photo_to_pixels(path, bundle.manifest.preprocess)[None] for path in paths]

    def to_frame(symbols: np.ndarray) -> bytes:
        return Frame(codec.code, codec.setting, bundle.tag, 0, payload_of(bundle, symbols)).to_bytes()

    times: dict[str, list[float]] = {"head": [], "head_to_frame": [], "codec_and_frame": [], "prepare": []}
    for number, (photo, path) in enumerate(islice(cycle(zip(pixels, paths, strict=True)), repeats + WARM_UP)):
        calls: dict[str, Callable[[], object]] = {
            "head": partial(run_graph, head, pixels=photo),
            "head_to_frame": lambda photo=photo: to_frame(run_graph(head, pixels=photo)[0]),
        }
        for name in calls if number % 2 else reversed(calls):
            taken = processor_ms(calls[name])
            if number >= WARM_UP:
                times[name].append(taken)
        if number >= WARM_UP:
            symbols = run_graph(head, pixels=photo)[0]
            times["codec_and_frame"].append(processor_ms(partial(to_frame, symbols)))
            times["prepare"].append(processor_ms(partial(photo_to_pixels, path, bundle.manifest.preprocess)))
    return times


def measure_server(bundle: Bundle, folder: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds a photo of decoding and of the tail, one by one and in batches; of both ways in Python alone."""
    head, tail, codec = open_session(bundle.path / "head.onnx"), open_session(bundle.path / "tail.onnx"), bundle.codec
    pixels = [photo_to_pixels(each.path, bundle.manifest.preprocess) for each in list_photos(folder)[:PHOTOS]]
    symbols = [run_graph(head, pixels=photo[None])[0] for photo in pixels]
    payloads = [payload_of(bundle, one) for one in symbols]
    times: dict[str, list[float]] = {}

    def take(name: str, call: Callable[[], object], photos: int = 1) -> None:
        times.setdefault(name, []).append(processor_ms(call) / photos)

    for number in range(repeats + WARM_UP):
        if number == WARM_UP:
            times.clear()
        which = [(number + more) % len(symbols) for more in range(BATCH)]
        batch = [payloads[each] for each in which]
        take("tail", partial(run_graph, tail, symbols=symbols[which[0]][None]))
        take("decode", partial(codec.decode, batch[0]))
        take("encode", partial(payload_of, bundle, symbols[which[0]]))
        take("tail_of_8", partial(run_graph, tail, symbols=np.stack([symbols[each] for each in which])), BATCH)
        take("decode_of_8", partial(lambda batch: [codec.decode(each) for each in batch], batch), BATCH)
        with mock.patch.object(entropy, "LIBRARY", None):
            take("decode_in_python", partial(codec.decode, batch[0]))
            take("encode_in_python", partial(payload_of, bundle, symbols[which[0]]))
    return times


def payload_of(bundle: Bundle, symbols: np.ndarray) -> bytes:
    """Within the bundle's own budget, where it has one."""
    budget = bundle.manifest.budget_bytes
    return encode_within(bundle.codec, symbols, budget).payload if budget else bundle.codec.encode(symbols)


def mean_frame_bytes(bundle: Bundle, folder: str) -> float:
    """What the device's own encoder makes; an AssertionError where it is not what is timed here."""
    encoder, head = Encoder(bundle), open_session(bundle.path / "head.onnx")
    lengths = []
    for photo in list_photos(folder)[:PHOTOS]:
        encoded = encoder.encode(photo.path)
        pixels = photo_to_pixels(photo.path, bundle.manifest.preprocess)[None]
        assert payload_of(bundle, run_graph(head, pixels=pixels)[0]) == encoded.frame.payload
        lengths.append(len(encoded.frame.to_bytes()))
    return statistics.mean(lengths)


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    bundle = Bundle.load(arguments.bundle)
    frame_bytes = mean_frame_bytes(bundle, arguments.data)
    times = {
        **measure(bundle, arguments.data, arguments.repeats),
        **measure_server(bundle, arguments.data, arguments.repeats),
    }
    medians = {name: statistics.median(each) for name, each in times.items()}
    ratio = medians["head_to_frame"] / medians["head"]
    shares = {
        "encode_share": medians["encode"] / medians["head"],
        "decode_share": medians["decode"] / medians["tail"],
        "decode_of_8_share": medians["decode_of_8"] / medians["tail_of_8"],
    }
    manifest = bundle.manifest
    show(
        f"{manifest.model} cut at {manifest.cut}, {manifest.codec}, {frame_bytes:.0f} bytes a frame",
        [f"median of {arguments.repeats}", "ms", "times the head"],
        [
            ["head.onnx", f"{medians['head']:.3f}", "1"],
            ["head.onnx, codec, frame", f"{medians['head_to_frame']:.3f}", f"{ratio:.3f}"],
            ["codec and frame alone", f"{medians['codec_and_frame']:.3f}", ""],
            ["photo file to pixels, before all that", f"{medians['prepare']:.3f}", ""],
            ["encode", f"{medians['encode']:.3f}", f"{shares['encode_share']:.3f}"],
            ["encode, in Python alone", f"{medians['encode_in_python']:.3f}", ""],
            ["tail.onnx", f"{medians['tail']:.3f}", ""],
            ["decode", f"{medians['decode']:.3f}", f"{shares['decode_share']:.3f} of the tail"],
            ["decode, in Python alone", f"{medians['decode_in_python']:.3f}", ""],
            [f"tail.onnx, a photo of {BATCH}", f"{medians['tail_of_8']:.3f}", ""],
            [
                f"decode, a photo of {BATCH}",
                f"{medians['decode_of_8']:.3f}",
                f"{shares['decode_of_8_share']:.3f} of it",
            ],
        ],
    )
    results: Json = {
        "bundle": manifest.name,
        "bundle_id": bundle.id.hex(),
        "model": manifest.model,
        "cut": manifest.cut,
        "codec": manifest.codec,
        "setting": manifest.setting,
        "repeats": arguments.repeats,
        "frame_bytes": frame_bytes,
        **{f"{name}_ms": value for name, value in medians.items()},
        "ratio": ratio,
        "target_ratio": TARGET_RATIO,
        **shares,
        "targets": TARGETS,
        "compiled": entropy.LIBRARY is not None,
        "met": ratio <= TARGET_RATIO and all(shares[name] <= most for name, most in TARGETS.items()),
    }
    write_record("encode_overhead", results, arguments.out)


def main() -> None:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--data", default=str(DEMO_PHOTOS), help="folder of photos; the package's demo photos")
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--repeats", type=int, default=200)
    run_script(made, run)


if __name__ == "__main__":
    main()
