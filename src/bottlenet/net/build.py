"""The one place that knows numbers: from a classifier and a cut to a BottleNet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bottlenet.errors import InputError
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, Normalize
from bottlenet.net.split import Split, split
from bottlenet.net.unit import (
    PaperReduction,
    PaperRestoration,
    Quantizer,
    ResidualReduction,
    ResidualRestoration,
    UnitSpec,
)
from bottlenet.wire.codecs import make_codec
from bottlenet.wire.mosaic import Mosaic


@dataclass(frozen=True)
class UnitConfig:
    """Which unit goes into a cut, and which codec into the unit."""

    cut: str  # a name from `bottlenet cuts MODEL`
    unit: str = "residual"  # residual | paper
    channels: int = 48  # c', channels of the latent
    stride: int = 1  # s, spatial reduction of the latent
    codec: str = "jpeg"  # jpeg | webp | deflate | raw
    quality: int = 50  # of jpeg and webp; level of deflate
    bits: int = 8  # of the quantizer


def insert(classifier: Classifier, config: UnitConfig) -> BottleNet:
    """Cuts `classifier` and puts an untrained unit into the cut. Its weights are shared, not copied."""
    if config.unit not in UNITS:
        raise InputError(f"unit {config.unit!r}: one of {', '.join(UNITS)} is possible")
    size = classifier.preprocess.size
    parts = split(classifier.module, config.cut, (3, size, size))
    if len(parts.cut.shape) != 3:
        raise InputError(f"cut {config.cut!r} has shape {parts.cut.shape}: a unit needs channels, height and width")
    c, height, width = parts.cut.shape
    spec = UnitSpec(c, config.channels, config.stride, (height, width))
    return UNITS[config.unit](classifier, parts, spec, config)


def _paper(classifier: Classifier, parts: Split, spec: UnitSpec, config: UnitConfig) -> BottleNet:
    codec = make_codec(config.codec, Mosaic(*spec.latent_shape), config.quality)
    head = nn.Sequential(Normalize(classifier.mean, classifier.std), parts.head)
    quantizer = Quantizer(config.bits)
    return BottleNet(head, PaperReduction(spec), quantizer, codec, PaperRestoration(spec), parts.tail)


def _residual(classifier: Classifier, parts: Split, spec: UnitSpec, config: UnitConfig) -> BottleNet:
    codec = make_codec(config.codec, Mosaic(*spec.latent_shape), config.quality)
    head = nn.Sequential(Normalize(classifier.mean, classifier.std), parts.head)
    # 8 levels a unit, and zero is level 128: what an empty block costs JPEG nothing to say
    quantizer = Quantizer(config.bits, fixed=(-16.0, 15.875))
    return BottleNet(head, ResidualReduction(spec), quantizer, codec, ResidualRestoration(spec), parts.tail)


@torch.no_grad()
def start_from_components(net: BottleNet, batches: Iterable[Tensor], *, amplitude: float = 2.0) -> None:
    """Sets a residual unit's linear paths to the principal components of `batches` of features (B, c, H, W).

    A unit of random weights learns nothing for an epoch; one that starts as a projection and its transpose starts with
    what a linear code keeps. `amplitude` is the standard deviation of the first component.
    """
    reduction, restoration = net.reduction, net.restoration
    if not isinstance(reduction, ResidualReduction) or not isinstance(restoration, ResidualRestoration):
        return
    s = reduction.linear.stride[0]
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for features in batches:
        patches = nn.functional.unfold(features, s, stride=s).transpose(1, 2).flatten(0, 1).double()  # (n, c*s*s)
        count += len(patches)
        total = total + patches.sum(0)
        products = products + patches.T @ patches
    mean = total / count
    variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    order = variances.argsort(descending=True)[: reduction.linear.out_channels]
    scale = amplitude / variances[order[0]].sqrt()
    projection = (vectors[:, order] * scale).T  # (c', c*s*s)
    kernel = projection.reshape(reduction.linear.weight.shape)
    reduction.linear.weight.copy_(kernel)
    reduction.linear.bias.copy_(-projection @ mean)  # type: ignore[union-attr]
    restoration.linear.weight.copy_(kernel / scale**2)
    restoration.linear.bias.copy_(mean.reshape(-1, s * s).mean(1))  # type: ignore[union-attr]


UNITS = {"paper": _paper, "residual": _residual}
