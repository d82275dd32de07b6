"""What share of a training step does the real codec take?

A step is what `bottlenet train` does with a batch of cached head features: reduction, rounding, codec round trip,
restoration, tail, loss (distillation, feature matching, rate), backward, clipping, optimiser. Steps with and without
the codec take turns on the same network and batch, and the median of the differences counts; the round trip is timed
alone as well. The features are those of random crops of real photos, as bytes and time depend on what is coded. The
head is not in the step: with it, the share would be smaller. One thread, processor time: see README.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from bottlenet.demo.run import PHOTOS as DEMO_PHOTOS
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.model import BottleNet, to_uint8
from bottlenet.net.models import Classifier, load_model
from bottlenet.net.unit import JpegRate, joined_bytes
from bottlenet.photo import read_photo
from bottlenet.photos.crops import random_views
from bottlenet.photos.folders import list_photos
from bottlenet.train.objective import distillation, features_error
from bottlenet.train.runs import Averaged
from bottlenet.train.train import TrainConfig, build_optimizer, freeze
from record import Json, add_network, parser, run_script, show, write_record
from timing import processor_ms

TARGET_SHARE = 0.15  # of a step, at most
FIELDS = ("model", "cut", "unit", "channels", "stride", "codec", "quality", "batch")  # of the configuration


def crops(folder: str, size: int, count: int) -> Tensor:
    """Make (count, size, size, 3) uint8 random crops of the photos in the folder, each photo in turn."""
    rng = np.random.default_rng(0)
    photos = islice(cycle(list_photos(folder)[:count]), count)
    return torch.from_numpy(np.stack([random_views(read_photo(photo.path), (size,), rng)[0] for photo in photos]))


def make_step(net: BottleNet, config: TrainConfig, features: Tensor, uncut_scores: Tensor) -> Callable[[bool], None]:
    """Return a training step on one batch, with or without the codec."""
    optimizer = build_optimizer(net, config)
    rate = JpegRate(net.codec.mosaic, config.quality) if config.codec == "jpeg" else None
    averaged = Averaged(net)
    no_bytes = torch.ones(len(features), dtype=torch.int64)  # the rate's gradient costs the same without the codec

    def step(codec_in_loop: bool) -> None:
        output = net.forward_features(features, codec_in_loop=codec_in_loop)
        loss = distillation(output.scores, uncut_scores).mean()
        loss = loss + config.feature_weight * features_error(output.features_hat, features).mean()
        if rate is not None:
            payload_bytes = no_bytes if output.payload_bytes is None else output.payload_bytes
            loss = loss + config.first_lmbda * joined_bytes(payload_bytes, rate(output.continuous))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(averaged.live.values(), 1.0)
        optimizer.step()
        averaged.update()

    return step


def prepare(classifier: Classifier, config: TrainConfig, folder: str) -> tuple[BottleNet, Tensor, Tensor]:
    """Build a network as training starts it, with the features and uncut scores of a batch."""
    net = insert(classifier, **config.unit_numbers())
    net.eval()
    with torch.no_grad():
        features = net.head(crops(folder, classifier.preprocess.size, config.batch))
        uncut_scores = net.tail(features)
    start_from_components(net, [features], amplitude=config.amplitude)
    freeze(net, tail=config.tail_lr > 0)
    return net, features.to(memory_format=torch.channels_last), uncut_scores


def symbols_of(net: BottleNet, features: Tensor) -> np.ndarray:
    """Quantise to (B, c', h, w) uint8, as the codec gets them in training."""
    with torch.no_grad():
        return to_uint8(net.quantizer.quantize(net.reduction(features)))


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TrainConfig(
        arguments.model, data=(arguments.data,), out="", cut=arguments.cut, codec=arguments.codec, batch=arguments.batch
    )
    net, features, uncut_scores = prepare(load_model(config.model), config, arguments.data)
    config = replace(config, channels=net.codec.mosaic.channels)  # what the record says
    step = make_step(net, config, features, uncut_scores)
    times: dict[bool, list[float]] = {True: [], False: []}
    round_trips: list[float] = []
    for number in track(range(arguments.steps + 1), description="pairs of steps"):
        # The first of a pair is not always the same one; the first pair warms up.
        for codec_in_loop in (True, False) if number % 2 else (False, True):
            taken = processor_ms(partial(step, codec_in_loop))
            if number:
                times[codec_in_loop].append(taken)
        symbols = symbols_of(net, features)
        round_trips.append(processor_ms(partial(net.codec.round_trip, symbols)))
    payload_bytes = float(net.codec.round_trip(symbols_of(net, features))[1].mean())
    report(arguments, config, times, round_trips[1:], payload_bytes)


def report(
    arguments: argparse.Namespace,
    config: TrainConfig,
    times: dict[bool, list[float]],
    round_trips: list[float],
    payload_bytes: float,
) -> None:
    """Compute medians and shares, and compare them with the target."""
    with_codec, without, alone = (statistics.median(t) for t in (times[True], times[False], round_trips))
    more = statistics.median(a - b for a, b in zip(times[True], times[False], strict=True))  # of neighbours in time
    shares = {"difference": more / with_codec, "alone": alone / with_codec}
    show(
        f"{config.model} cut at {config.cut}, {config.codec}, batch {config.batch}, {payload_bytes:.0f} bytes a photo",
        ["median of steps", "ms", "share of a step"],
        [
            ["step with the codec in the loop", f"{with_codec:.1f}", ""],
            ["step without", f"{without:.1f}", ""],
            ["difference", f"{more:.1f}", f"{shares['difference']:.1%}"],
            ["codec round trip alone", f"{alone:.2f}", f"{shares['alone']:.1%}"],
        ],
    )
    results: Json = {
        **{field: getattr(config, field) for field in FIELDS},
        "pairs_of_steps": arguments.steps,
        "payload_bytes": payload_bytes,
        "step_ms": with_codec,
        "step_without_codec_ms": without,
        "difference_ms": more,
        "round_trip_ms": alone,
        "codec_share_by_difference": shares["difference"],
        "codec_share_alone": shares["alone"],
        "target_share": TARGET_SHARE,
        "met": max(shares.values()) <= TARGET_SHARE,
    }
    write_record("codec_in_loop", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", default=str(DEMO_PHOTOS), help="folder of photos; the package's demo photos")
    add_network(made)
    made.add_argument("--codec", default=TrainConfig.codec)
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--steps", type=int, default=15, help="pairs of steps that are timed")
    run_script(made, run)


if __name__ == "__main__":
    main()
