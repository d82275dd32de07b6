"""The one place that knows numbers: from a classifier and a cut to a BottleNet."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bottlenet.errors import InputError
from bottlenet.net.model import BottleNet, Origin
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.net.split import split
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
    """What `insert` may be told, what it means, and what holds unless told otherwise; training takes these over."""

    cut: str  # a name from `bottlenet cuts MODEL`
    unit: str = "residual"  # residual | paper
    channels: int = 48  # c', channels of the latent
    stride: int = 1  # s, spatial reduction of the latent
    codec: str = "jpeg"  # jpeg | webp | deflate | raw
    quality: int = 50  # of jpeg and webp; level of deflate
    bits: int = 8  # of the quantizer


def insert(
    model: Classifier | str,
    *,
    cut: str,
    unit: str = UnitConfig.unit,
    channels: int = UnitConfig.channels,
    stride: int = UnitConfig.stride,
    codec: str = UnitConfig.codec,
    quality: int = UnitConfig.quality,
    bits: int = UnitConfig.bits,
) -> BottleNet:
    """A trainable BottleNet around a copy of `model`, which stays as it is.

    The numbers are those of `UnitConfig`. InputError: an unknown model, cut, unit or codec, or numbers out of range.
    """
    classifier = load_model(model) if isinstance(model, str) else model
    if unit not in UNITS:
        raise InputError(f"unit {unit!r}: one of {', '.join(UNITS)} is possible")
    parts = split(copy.deepcopy(classifier.module), cut, classifier.input_size)
    if len(parts.cut.shape) != 3:
        raise InputError(f"cut {cut!r} has shape {parts.cut.shape}: a unit needs channels, height and width")
    c, height, width = parts.cut.shape
    spec = UnitSpec(c, channels, stride, (height, width))
    reduction, quantizer, restoration = UNITS[unit](spec, bits)
    mosaic = Mosaic(*spec.latent_shape)
    head = nn.Sequential(Normalize(classifier.mean, classifier.std), parts.head)
    net = BottleNet(head, reduction, quantizer, make_codec(codec, mosaic, quality), restoration, parts.tail)
    net.origin = Origin(classifier, parts.cut, unit)
    return net


def _paper(spec: UnitSpec, bits: int) -> tuple[nn.Module, Quantizer, nn.Module]:
    return PaperReduction(spec), Quantizer(bits), PaperRestoration(spec)


def _residual(spec: UnitSpec, bits: int) -> tuple[nn.Module, Quantizer, nn.Module]:
    # zero lies on a level, so that what is silent decodes to silence; 8 bits: 8 levels a unit, and zero is 128
    levels = 2**bits
    quantizer = Quantizer(bits, fixed_range=(-16.0, 16.0 - 32.0 / levels))
    return ResidualReduction(spec), quantizer, ResidualRestoration(spec)


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
