"""Does the codec `entropy` give the same bytes compiled and in Python, and what does it take?

Thousands of small latents with random tables, whole and cut, through both; and for the time one of a real size.
The digest stands for every payload and every decoded symbol: it must not depend on the machine, on Python's version
or on numpy's. Inputs come from the standard library's generator, whose numbers are the same everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from bottlenet.errors import InputError
from bottlenet.wire import entropy
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import PLANES, Bins, Pass, Tables, fit_tables
from record import parser, run_script, show, write_record
from timing import processor_ms

REAL = (64, 12, 12)
REAL_BYTES = 600
REPEATS = 15


@dataclass(frozen=True)
class Identity:
    """What was compared."""

    latents: int
    payload_bytes: int  # of all of them
    different: int  # latents with another payload, or other symbols
    digest: str  # SHA-256


@dataclass(frozen=True)
class Times:
    """Of one latent of 64 x 12 x 12 and a payload cut to 600 bytes, median."""

    coder: str
    encode_ms: float
    decode_ms: float


def random_tables(source: random.Random, shape: tuple[int, int, int]) -> Tables:
    """Any order of passes, any bins, frequencies from even to extreme."""
    waiting = [channel for channel in range(shape[0]) for _ in range(source.randint(channel == 0, PLANES))]
    source.shuffle(waiting)
    passes: list[Pass] = []
    for channel in waiting:
        passes.append((channel, sum(channel == other for other, _ in passes)))
    bins = Bins(*(tuple(sorted(source.sample(range(1, 9), source.randint(0, 3)))) for _ in range(4)))
    power = source.choice((1, 4, 20))

    def distribution(outcomes: int) -> list[int]:
        weights = [source.randint(1, 255) ** power for _ in range(outcomes)]
        values = [1 + 65000 * weight // sum(weights) for weight in weights]
        return [*values[:-1], 65536 - sum(values[:-1])]

    flags = [distribution(2) for _ in passes]
    frequencies = [[distribution(3) for _ in range(bins.rows)] for _ in passes]
    return Tables(*shape, tuple(passes), bins, np.array(flags, np.uint16), np.array(frequencies, np.uint16))


def random_symbols(source: random.Random, shape: tuple[int, int, int]) -> np.ndarray:
    """(C, H, W) uint8, 7..249, most of them near 128, less so in the first channels."""
    channels, height, width = shape
    values = []
    for channel in range(channels):
        spread = source.randint(0, 60) // (1 + 16 * channel // channels)
        values += [
            128 + source.randint(-spread, spread) + source.randint(-spread, spread) for _ in range(height * width)
        ]
    # integers alone, so that no mathematical library has a say
    return np.array(values, np.uint8).reshape(shape)


def coded(codec: Entropy, symbols: np.ndarray, cut: float) -> tuple[bytes, bytes]:
    """The payload; and the symbols from all of it and from a part of it, as bytes."""
    payload = codec.encode(symbols)
    part = codec.encode(symbols, max(1, int(cut * len(payload))))
    return payload, codec.decode(payload).tobytes() + codec.decode(part).tobytes()


def identity(count: int) -> Identity:
    source, digest, total, different = random.Random(0), hashlib.sha256(), 0, 0
    library = entropy.LIBRARY
    for _ in range(count):
        shape = (source.randint(1, 3), source.randint(1, 4), source.randint(1, 4))
        codec = Entropy(Mosaic(*shape), random_tables(source, shape))
        symbols, cut = random_symbols(source, shape), source.random()
        found = []
        for chosen in (library, None):
            entropy.LIBRARY = chosen
            found.append(coded(codec, symbols, cut))
        entropy.LIBRARY = library
        different += found[0] != found[1]
        payload, decoded = found[1]
        total += len(payload)
        digest.update(len(payload).to_bytes(4, "big") + payload + decoded)
    return Identity(count, total, different, digest.hexdigest())


def times() -> list[Times]:
    source = random.Random(0)
    latents = np.stack([random_symbols(source, REAL) for _ in range(8)])
    passes = [(channel, plane) for plane in range(PLANES) for channel in range(REAL[0])]
    codec = Entropy(Mosaic(*REAL), fit_tables([latents[1:]], passes))
    payload = codec.encode(latents[0], REAL_BYTES)
    library, rows = entropy.LIBRARY, []
    for name, chosen in (("compiled", library), ("Python", None)):
        entropy.LIBRARY = chosen
        assert codec.encode(latents[0], REAL_BYTES) == payload  # and what is made once is made
        taken = [
            [processor_ms(action) for _ in range(REPEATS)]
            for action in (partial(codec.encode, latents[0], REAL_BYTES), partial(codec.decode, payload))
        ]
        rows.append(Times(name, *(float(np.median(each)) for each in taken)))
    entropy.LIBRARY = library
    return rows


def run(arguments: argparse.Namespace) -> None:
    """Compare, show, write."""
    if entropy.LIBRARY is None:
        raise InputError("the codec is not compiled here: install a C compiler, then python hatch_build.py")
    compared, timed = identity(arguments.latents), times()
    show(
        f"{compared.latents} latents, {compared.payload_bytes} bytes: {compared.different} differ; {compared.digest}",
        ("coder", "encode, ms", "decode, ms"),
        [(each.coder, f"{each.encode_ms:.2f}", f"{each.decode_ms:.2f}") for each in timed],
    )
    write_record("entropy_identity", {**asdict(compared), "times": [asdict(each) for each in timed]}, arguments.out)
    if compared.different:
        raise InputError(f"{compared.different} of {compared.latents} latents differ: mend entropy.c or entropy.py")


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--latents", type=int, default=10_000, help="how many small latents to compare")
    run_script(made, run)
