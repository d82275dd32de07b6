"""What the page's JavaScript has to give, byte by byte, as Python gives it: page_vectors.json.

    python tests/page_vectors.py          writes it anew; a test holds that it is what Python gives now

page_check.js compares, in Node.js and in Chromium.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle, Preprocess
from bottlenet.photo import prepare
from bottlenet.plan.link import PRESETS
from bottlenet.wire.answer import Answer, Box, Boxes, best, busy_bytes, refusal_bytes
from bottlenet.wire.codecs import Jpeg
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.frame import Frame
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.pictures import jpeg_header
from bottlenet.wire.tables import Bins
from latents import GOLDEN_SYMBOLS, flat_tables, golden_tables, random_tables

FILE = Path(__file__).with_name("page_vectors.json")
Json = dict[str, object]


def vectors() -> Json:
    """All that is committed. Nothing in it comes from a random generator, whose numbers may change."""
    return {
        "entropy": [
            entropy_case(Entropy(Mosaic(2, 4, 4), golden_tables()), GOLDEN_SYMBOLS, [1, 8]),
            entropy_case(
                Entropy(Mosaic(3, 5, 6), flat_tables(3, 5, 6, Bins((), (), (), ()))), noise((3, 5, 6)), [1, 9]
            ),
            entropy_case(Bundle.load("demo").codec, latent((192, 7, 7)), [600], shipped=True),
        ],
        "jpeg": [
            jpeg_case(shape, align, quality)
            for shape, align in (((2, 8, 8), 8), ((5, 7, 7), 8), ((3, 5, 9), 1))
            for quality in (1, 20, 60, 95, 96, 100)
        ],
        "resize": [
            resize_case(width, height, Preprocess(size, fraction, how))
            for width, height, size, fraction, how in (
                (100, 75, 16, 0.875, "bicubic"),
                (75, 100, 16, 0.875, "bilinear"),
                (12, 12, 9, 0.875, "bicubic"),  # 10.5 rounds to 10
                (20, 20, 9, 0.875, "bicubic"),  # 17.5 rounds to 18
                (8, 11, 16, 1.0, "bicubic"),
                (640, 64, 16, 1.0, "bicubic"),
                (227, 227, 12, 0.3, "bilinear"),
            )
        ],
        "frames": [frame_case(4, 0, 258, b"\x01\x02\xff"), frame_case(2, 20, 65535, bytes(7))],
        "answers": answers(),
        "fits": fits(),
        "boxes": [boxes_case()],
        "scores": [scores_case([0.5, -1.0, 7.25, 7.25, 3.0, -2.0]), scores_case([1000.0, 999.0])],
        "links": links(),
    }


def random_vectors(seed: int, count: int) -> Json:
    """More of what has most ways to go wrong: any tables, any symbols."""
    generator = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        shape = tuple(int(each) for each in generator.integers(1, (7, 9, 9)))
        codec = Entropy(Mosaic(*shape), random_tables(generator, *shape))
        spread = generator.choice([0, 1, 4, 20, 60])
        symbols = np.clip(generator.normal(128, spread, shape), 7, 249).astype(np.uint8)
        cases.append(entropy_case(codec, symbols, [1, 2, 5, 11]))
    return {"entropy": cases}


def noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """From 7 to 249, without any pattern, and always the same."""
    data = np.frombuffer(hashlib.shake_256(repr(shape).encode()).digest(int(np.prod(shape))), np.uint8)
    return (7 + data % 243).astype(np.uint8).reshape(shape)


def latent(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """As a network's: few channels reach far, the rest hardly."""
    reach = 120 // (1 + np.arange(shape[0]) // 2)
    return (128 + (noise(shape).astype(int) - 128) * reach[:, None, None] // 121).astype(np.uint8)


def entropy_case(codec: object, symbols: NDArray[np.uint8], cuts: list[int], *, shipped: bool = False) -> Json:
    """Payload, and what its first bytes decode to. `shipped`: the tables are in the bundle."""
    assert isinstance(codec, Entropy)
    payload = codec.encode(symbols)
    lengths = sorted({min(cut, len(payload)) for cut in [*cuts, len(payload)]})
    return {
        "tables": None if shipped else text(codec.tables.to_bytes()),
        "latent": list(symbols.shape),
        "symbols": text(symbols.tobytes()),
        "payload": text(payload),
        "prefixes": [[cut, text(codec.decode(payload[:cut]).tobytes())] for cut in lengths],
    }


def jpeg_case(shape: tuple[int, int, int], align: int, quality: int) -> Json:
    """Picture, scan, and what comes before the scan in a file."""
    codec = Jpeg(Mosaic(*shape, align), quality)
    symbols = noise(shape)
    return {
        "latent": list(shape),
        "align": align,
        "quality": quality,
        "symbols": text(symbols.tobytes()),
        "picture": text(codec.mosaic.tile(symbols).tobytes()),
        "payload": text(codec.encode(symbols)),
        "header": text(jpeg_header(codec.mosaic.picture_shape, quality)),
    }


def photo(width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3); page_check.js makes the same one."""
    y, x, channel = np.indices((height, width, 3))
    return ((37 * x + 91 * y + 53 * channel + 7 * (x * y >> 3)) & 255).astype(np.uint8)


def resize_case(width: int, height: int, preprocess: Preprocess) -> Json:
    pixels = prepare(photo(width, height), preprocess)
    return {
        "width": width,
        "height": height,
        "preprocess": dataclasses.asdict(preprocess),
        "pixels": text(pixels.tobytes()),
    }


def frame_case(code: int, setting: int, sequence: int, payload: bytes) -> Json:
    frame = Frame(code, setting, b"abc", sequence, payload)
    message = text(frame.to_stream_bytes())
    return {"code": code, "setting": setting, "sequence": sequence, "payload": text(payload), "message": message}


def answers() -> list[Json]:
    """Bytes, and what is in them."""
    top = ((285, 0.75), (281, 0.125))
    steps = [[index, round(share * 65535)] for index, share in top]
    times = {"sequence": 258, "waitUs": 700, "decodeUs": 41, "tailUs": 1843}
    answered = {**times, "top": steps}
    rows = [[one.class_index, *(round(each * 65535) for each in astuple(one)[1:])] for one in boxes().boxes]
    found = {**times, "boxes": rows}
    longer = Answer(258, 41, 1843, (), result=boxes()).to_bytes() + b"\0"
    return [
        {"data": text(Answer(258, 41, 1843, top, queue_us=700, load=4.0).to_bytes()), "means": answered},
        {"data": text(Answer(258, 41, 1843, (), queue_us=700, load=4.0, result=boxes()).to_bytes()), "means": found},
        {"data": text(refusal_bytes(7, "no such bundle")), "means": {"sequence": 7, "refused": "no such bundle"}},
        {
            "data": text(busy_bytes(9, 1.5, "line is full")),
            "means": {"sequence": 9, "busy": "line is full", "retryMs": 1500},
        },
        *(
            {"data": text(data), "means": None}
            for data in (b"", b"\x10", b"\x20\x00\x00\x00", b"\x13" * 20, b"\x10" * 16, b"\x23" + bytes(15), longer)
        ),
    ]


def boxes() -> Boxes:
    return Boxes((Box(18, 0.75, 0.25, 0.125, 0.5, 1.0), Box(3, 0.5, 0.0, 0.0, 1.0, 1.0)))


def fits() -> list[Json]:
    """Answers for networks with so many classes, and for others."""
    two = text(Answer(258, 41, 1843, ((1, 0.75), (3, 0.125))).to_bytes())
    three, none = (text(Answer(258, 41, 1843, (), result=each).to_bytes()) for each in (boxes(), Boxes(())))
    return [
        {"data": two, "classes": 4, "fit": True},
        {"data": two, "classes": 3, "fit": False},
        {"data": text(Answer(258, 41, 1843, ()).to_bytes()), "classes": 4, "fit": False},
        *({"data": there, "classes": 19, "fit": True, "detects": True} for there in (three, none)),
        {"data": three, "classes": 18, "fit": False, "detects": True},
        {"data": three, "classes": 19, "fit": False},
        {"data": two, "classes": 4, "fit": False, "detects": True},
    ]


def boxes_case() -> Json:
    """A graph's rows, of which the last is no box, and the one before not worth a word."""
    rows = [[0.25, 0.125, 0.5, 1, 0.75, 1], [0, 0, 1, 1, 0.5, 0], [0, 0, 0.5, 1, 0.375, 1], [0.5, 0, 1, 1, 0.25, 0]]
    rows.append([0.0] * 6)
    found = [[round(index), *(round(each * 65535) for each in (score, *edges))] for *edges, score, index in rows[:4]]
    return {"rows": rows, "threshold": 0.0, "boxes": found, "words": "green (2), red"}


def scores_case(scores: list[float]) -> Json:
    top = best(np.array(scores, np.float32))
    return {"scores": scores, "top": [[index, round(share * 65535)] for index, share in top]}


def links() -> dict[str, Json]:
    """What the planner says of payloads of 100 and 210 bytes, ms."""
    return {
        name: {
            "name": link.name,
            "largest": None if link.max_message_bytes is None else link.max_message_bytes - 12,
            "ms": [
                1e3 * (link.exchange_s(payload + link.per_message_overhead_bytes) + link.answer_s)
                for payload in (100, 210)
            ],
        }
        for name, link in PRESETS.items()
    }


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def as_file(made: Json) -> str:
    return json.dumps(made, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_file(vectors()), encoding="utf-8")
