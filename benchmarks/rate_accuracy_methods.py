"""What rate_accuracy.py trains: every method with its configuration, its network and what it is measured with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import baselines
from bottlenet.net.build import insert
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier
from bottlenet.train.config import TrainConfig
from bottlenet.train.objective import objective_of
from bottlenet.train.train import ObjectiveFor
from bottlenet.wire.codecs import Jpeg
from bottlenet.wire.tables import DEFAULT_BINS, Bins
from rate_accuracy_rows import Coding

BUDGETS = (32, 64, 128, 200, 316, 450, 600, 800, 1000, 1500, 2000)
QUALITIES = (3, 5, 10, 20, 30, 50, 70, 90)
EMBEDDED = "entropy embedded"


@dataclass(frozen=True)
class Method:
    """Something to train and measure."""

    curve: str  # methods of one name are points of one curve
    config: TrainConfig
    make: Callable[[Classifier, TrainConfig], BottleNet]
    objective: ObjectiveFor = objective_of
    setting: str = "whole"
    bins: Bins = DEFAULT_BINS  # of the entropy codec's tables


def base_config(arguments: argparse.Namespace) -> TrainConfig:
    """Configure the embedded entropy codec."""
    return TrainConfig(
        model=arguments.model,
        data=tuple(arguments.train),
        out="",
        cut=arguments.cut,
        head_size=arguments.head_size,
        learn_from=arguments.learn_from,
        channels=arguments.channels,
        stride=arguments.stride,
        codec="entropy",
        crops=arguments.crops,
        blend=arguments.blend,
        batch=arguments.batch,
        lr=arguments.lr,
        tail_lr=arguments.tail_lr,
        smallest_bytes=arguments.smallest_bytes,
        largest_bytes=arguments.largest_bytes,
        photos=arguments.photos,
        cache=arguments.cache,
    )


def methods(base: TrainConfig, arguments: argparse.Namespace) -> dict[str, Method]:
    """List all that is trained, by the name of its run; `base` configures the embedded entropy codec."""
    jpeg = replace(base, codec="jpeg", channels=arguments.jpeg_channels, stride=arguments.jpeg_stride)
    found = {"embedded": Method(EMBEDDED, base, ours)}
    for target in arguments.targets:
        fixed = at_rate(base, target)
        found[f"fixed-{target:g}"] = Method("entropy fixed rate", fixed, ours, setting=f"target {target:g}")
    found["jpeg-aware"] = Method("JPEG features, aware", replace(jpeg, target_bytes=arguments.jpeg_target), ours)
    found["jpeg-naive"] = Method("JPEG features, naive", replace(jpeg, naive=True), ours)
    for channels, bits in arguments.cr_bq:
        config, name = replace(base, codec="raw", quality=0, channels=channels), f"{channels} channels, {bits} bits"
        found[f"crbq-{channels}x{bits}"] = Method("CR+BQ", config, cr_bq_of(bits), baselines.Reduced, name)
    for target in arguments.targets:
        found[f"entropic-{target:g}"] = Method(
            "Entropic-Student-like",
            at_rate(base, target),
            ours,
            baselines.Entropic,
            f"target {target:g}",
            baselines.FACTORISED,
        )
    return {name: replace(m, config=replace(m.config, out=str(arguments.work / name))) for name, m in found.items()}


def at_rate(base: TrainConfig, target_bytes: float) -> TrainConfig:
    """Whole payloads of that mean size."""
    return replace(base, target_bytes=target_bytes, largest_bytes=0.0)


def ours(classifier: Classifier, config: TrainConfig) -> BottleNet:
    """Return the project's own objective."""
    return insert(classifier, **config.unit_numbers())


def cr_bq_of(bits: int) -> Callable[[Classifier, TrainConfig], BottleNet]:
    """Build a network that is quantised to so many bits."""
    return lambda classifier, config: baselines.cr_bq(classifier, config, bits)


def codings(method: Method, net: BottleNet) -> list[Coding]:
    """List what the trained network is measured with."""
    codec = net.codec
    if isinstance(codec, Jpeg):
        return [Coding(f"quality {quality}", replace(codec, setting=quality)) for quality in QUALITIES]
    if method.curve == EMBEDDED:
        return [Coding("whole", codec, (*BUDGETS, None))]
    return [Coding(method.setting, codec)]
