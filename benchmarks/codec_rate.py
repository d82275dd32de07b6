"""Does the real codec keep up with a GPU at batch 256?

A stub network of one layer on each side of the unit trains on batches of features, so that the codec's share of a step
is larger than with any real one. What is measured: the round trip (encode and decode) of a batch alone, the same one
photo at a time, and steps with and without the codec, in turn. Both ways must give the same symbols and sizes. Two
sizes of latent: the paper's 28 x 28 with one channel, and 14 x 14 with 48. Wall clock, as a GPU waits on that: see
README.md; `--threads` limits torch, and the codec itself takes one thread.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor, nn

from bottlenet.errors import BottleNetError
from bottlenet.net.model import BottleNet
from bottlenet.net.unit import PaperReduction, PaperRestoration, Quantizer, UnitSpec
from bottlenet.wire.codecs import Jpeg
from bottlenet.wire.mosaic import Mosaic
from record import Json, parser, run_script, show, write_record

TARGET_PER_S = 20_000  # photos, of 28 x 28, so that a GPU at 5,000 never waits
LATENTS = ((1, 28, 28), (48, 14, 14))
FEATURES, CLASSES = 8, 10  # of the stub; features are as many as the latent's channels, if that is more
QUALITY = 20  # the paper's


@dataclass(frozen=True)
class Times:
    """Seconds of one batch, the median."""

    together: float
    one_by_one: float
    step: float
    step_without: float


def latents(shape: tuple[int, int, int], batch: int) -> np.ndarray:
    """Make (B, C, H, W) uint8 of soft blots with a little noise: a trained latent is neither flat nor noise."""
    rng = np.random.default_rng(0)
    channels, height, width = shape
    coarse = rng.integers(0, 256, (batch * channels, 5, 5), dtype=np.uint8)
    soft = [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in coarse]
    noisy = np.stack(soft).reshape(batch, *shape) + rng.normal(0, 10, (batch, *shape))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def one_by_one(codec: Jpeg, symbols: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Make the round trip as a device and a server do it."""
    payloads = [codec.encode(one) for one in symbols]
    return np.stack([codec.decode(payload) for payload in payloads]), [len(payload) for payload in payloads]


def stub(codec: Jpeg) -> BottleNet:
    """Build one layer, the paper's unit, and one layer."""
    channels, height, width = codec.mosaic.symbols_shape
    features = max(FEATURES, channels)
    spec = UnitSpec(features, channels, 1, (height, width))
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, CLASSES))
    return BottleNet(nn.Identity(), PaperReduction(spec), Quantizer(), codec, PaperRestoration(spec), tail)


def step_of(net: BottleNet, features: Tensor) -> Callable[[bool], None]:
    """Return a training step, with or without the codec."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    labels = torch.arange(len(features)) % CLASSES

    def step(codec_in_loop: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        output = net.forward_features(features, codec_in_loop=codec_in_loop)
        nn.functional.cross_entropy(output.scores, labels).backward()
        optimizer.step()

    return step


def seconds(call: Callable[[], object]) -> float:
    """By the clock."""
    started = perf_counter()
    call()
    return perf_counter() - started


def measure(shape: tuple[int, int, int], batch: int, rounds: int) -> tuple[Times, float]:
    """Measure times and mean payload bytes. The ways take turns; the first round warms up.

    BottleNetError: the two ways differ.
    """
    codec = Jpeg(Mosaic(*shape), QUALITY)
    symbols = latents(shape, batch)
    symbols_hat, payload_bytes = codec.round_trip(symbols)
    alone, sizes = one_by_one(codec, symbols)
    if not np.array_equal(symbols_hat, alone) or payload_bytes.tolist() != sizes:
        raise BottleNetError(f"a batch of {shape} does not give what photo by photo gives")
    torch.manual_seed(0)
    step = step_of(stub(codec), torch.randn(batch, max(FEATURES, shape[0]), *shape[1:]))
    ways: tuple[Callable[[], object], ...] = (
        lambda: codec.round_trip(symbols),
        lambda: one_by_one(codec, symbols),
        lambda: step(True),
        lambda: step(False),
    )
    label = f"{shape[0]} x {shape[1]} x {shape[2]}"
    taken = [[seconds(way) for way in ways] for _ in track(range(rounds + 1), description=label)][1:]
    return Times(*(statistics.median(each) for each in zip(*taken, strict=True))), float(payload_bytes.mean())


def result(shape: tuple[int, int, int], batch: int, times: Times, payload_bytes: float) -> dict[str, Json]:
    """Summarise one size of latent. Shares are the round trip's alone, which a GPU at that rate would wait for."""
    per_s = batch / times.together
    return {
        "latent": shape,
        "batch": batch,
        "quality": QUALITY,
        "payload_bytes": payload_bytes,
        "photos_per_s": per_s,
        "photos_per_s_one_by_one": batch / times.one_by_one,
        "step_ms": times.step * 1e3,
        "step_without_codec_ms": times.step_without * 1e3,
        "round_trip_ms": times.together * 1e3,
        "codec_share_of_stub_step": times.together / times.step,
        "codec_share_at_5000_photos_per_s": 5000 / per_s,
    }


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    torch.set_num_threads(arguments.threads)
    rows = [result(shape, arguments.batch, *measure(shape, arguments.batch, arguments.rounds)) for shape in LATENTS]
    show(
        f"encode and decode at batch {arguments.batch}, JPEG {QUALITY}",
        ["latent", "photos/s", "one by one", "stub step, ms", "codec's share"],
        [
            [
                " x ".join(map(str, shape)),
                f"{row['photos_per_s']:,.0f}",
                f"{row['photos_per_s_one_by_one']:,.0f}",
                f"{row['step_ms']:.1f}",
                f"{row['codec_share_of_stub_step']:.1%}",
            ]
            for shape, row in zip(LATENTS, rows, strict=True)
        ],
    )
    met = rows[0]["photos_per_s"] >= TARGET_PER_S  # type: ignore[operator]
    results: Json = {"threads": arguments.threads, "rows": rows, "target_photos_per_s": TARGET_PER_S, "met": met}
    write_record("codec_rate", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=256)
    made.add_argument("--rounds", type=int, default=50, help="of each way that are timed")
    made.add_argument("--threads", type=int, default=2, help="of torch")
    run_script(made, run)


if __name__ == "__main__":
    main()
