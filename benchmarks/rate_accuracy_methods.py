"""What rate_accuracy.py trains: every method with its configuration, its network and what it is measured with."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

import baselines
from bottlenet.lab.config import TrainConfig
from bottlenet.lab.objective import objective_of
from bottlenet.lab.runs import some_pixels
from bottlenet.lab.train import ObjectiveFor
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier
from bottlenet.wire.codecs import Jpeg
from bottlenet.wire.fitting import DEFAULT_BINS
from bottlenet.wire.tables import Bins
from rate_accuracy_rows import Coding

BUDGETS = (32, 64, 128, 200, 316, 450, 600, 800, 1000)
QUALITIES = (3, 5, 10, 20, 30, 50, 70, 90)
EMBEDDED = "entropy embedded"
WORTH = 0.5  # nats of distillation that e times the bytes save, about
MATCH_PHOTOS = 64  # whose payloads say how large a latent should start


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
    """The embedded entropy codec's."""
    return TrainConfig(
        model=arguments.model,
        data=tuple(arguments.train),
        out="",
        cut=arguments.cut,
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
        cache=arguments.cache,
    )


def methods(base: TrainConfig, arguments: argparse.Namespace) -> dict[str, Method]:
    """All that is trained, by the name of its run; `base` is the embedded entropy codec's configuration."""
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
    """Whole payloads of that mean size. Steering starts where a byte weighs what it is about worth there."""
    return replace(base, target_bytes=target_bytes, largest_bytes=0.0, lmbda=WORTH / target_bytes)


@torch.no_grad()
def matched(classifier: Classifier, config: TrainConfig) -> TrainConfig:
    """The same with the amplitude whose payloads start at twice the target, which is where steering starts.

    From the codec's usual start, ten times as large, a short run does not come down to its target: the weight of a byte
    rises until nothing else counts.
    """
    net = ours(classifier, config).eval()
    pixels = np.stack(list(some_pixels(config, classifier.preprocess, MATCH_PHOTOS)))
    features = [net.head(torch.from_numpy(pixels[start : start + 16])) for start in range(0, len(pixels), 16)]
    low, high, amplitude = 0.05, 50.0, 0.0
    for _ in range(12):
        amplitude = math.sqrt(low * high)
        start_from_components(net, features, amplitude=amplitude)
        found = [net.forward_within(one, one.new_full((len(one),), math.inf)).payload_bytes for one in features]
        size = torch.cat([one for one in found if one is not None]).mean().item()
        low, high = (amplitude, high) if size < 2 * config.target_bytes else (low, amplitude)
    return replace(config, amplitude=round(amplitude, 3))


def ours(classifier: Classifier, config: TrainConfig) -> BottleNet:
    """The project's own."""
    return insert(classifier, **config.unit_numbers())


def cr_bq_of(bits: int) -> Callable[[Classifier, TrainConfig], BottleNet]:
    """A network that is quantised to so many bits."""
    return lambda classifier, config: baselines.cr_bq(classifier, config, bits)


def codings(method: Method, net: BottleNet) -> list[Coding]:
    """What the trained network is measured with."""
    codec = net.codec
    if isinstance(codec, Jpeg):
        return [Coding(f"quality {quality}", replace(codec, quality=quality)) for quality in QUALITIES]
    if method.curve == EMBEDDED:
        return [Coding("whole", codec, (*BUDGETS, None))]
    return [Coding(method.setting, codec)]
