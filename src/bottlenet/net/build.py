"""The paper's Table 4 beside the structure of a network: `paper_cuts(classifier)`.

BottleNet (arXiv 1902.01000v1) cuts ResNet-50 after each of its 16 residual blocks and states c', s and the bytes of the
payload. Of VGG-19 it has no figures: cut after each pooling, its units take the c' that the paper has for features of
that side, and there is none for the first, whose 112 pixels ResNet-50 does not have.

The one place that knows numbers: from a classifier and a cut to a BottleNet.

A paper's unit that starts as a projection to principal components and back, as nearly as its shape allows.

    convolution -> norm -> ReLU6 -> 1x1 -> norm -> ReLU6 ~~~ 1x1 -> norm -> ReLU6 -> transposed convolution
    components     to 3 +- 1        pass   3 +- share        pass   to 3 +- 1        components, as loud as they were

A norm that gives 3 +- 1 puts three standard deviations on either side inside ReLU6's 0 to 6, where it is linear. The
paper starts from random weights, and trains 90 epochs on 51,000 photos; so does anybody who has the time. On a few
thousand photos such a unit learns next to nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bottlenet.errors import InputError
from bottlenet.net.cut import Cut, GridReduction, GridRestoration, Layout, count_flops, cuts, split
from bottlenet.net.model import BottleNet, Origin
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.net.unit import (
    Enlarged,
    LearnedReduction,
    NestedQuantizer,
    PaperReduction,
    PaperRestoration,
    Prior,
    Quantizer,
    ResidualReduction,
    ResidualRestoration,
    UnitSpec,
    pad_to_multiple,
)
from bottlenet.task import is_dense
from bottlenet.wire.codecs import Codec, make_codec
from bottlenet.wire.entropy import ZERO, Entropy
from bottlenet.wire.fitting import fit_tables
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import STEPS

USUAL_CHANNELS = 48
MAX_PATCH = 8192  # numbers of a patch: the covariance of more has gigabytes


@dataclass(frozen=True)
class UnitConfig:
    """What `insert` may be told, what it means, and what holds unless told otherwise; training takes these over."""

    cut: str  # a name from `bottlenet cuts MODEL`
    unit: str = "residual"  # residual | paper
    channels: int = 0  # c', channels of the latent; 0: 48, or where the features have fewer, as many as those
    stride: int = 1  # s, spatial reduction of the latent
    codec: str = "jpeg"  # jpeg | webp | deflate | raw | entropy
    quality: int = 50  # of jpeg and webp; level of deflate
    head_size: int = 0  # side of the photo that the head takes, pixels; 0: as the uncut network
    tail_size: int = 0  # side of the photo whose features the tail takes, pixels; 0: as the head
    learn_from: str = ""  # the head learns behind this cut, and becomes part of the unit; empty: none of it does


def insert(
    model: Classifier | str,
    *,
    cut: str,
    unit: str = UnitConfig.unit,
    channels: int = UnitConfig.channels,
    stride: int = UnitConfig.stride,
    codec: str = UnitConfig.codec,
    quality: int = UnitConfig.quality,
    head_size: int = UnitConfig.head_size,
    tail_size: int = UnitConfig.tail_size,
    learn_from: str = UnitConfig.learn_from,
) -> BottleNet:
    """A trainable BottleNet around a copy of `model`, which stays as it is.

    The numbers are those of `UnitConfig`. InputError: an unknown model, cut, unit or codec, or numbers out of range.
    """
    config = UnitConfig(cut, unit, channels, stride, codec, quality, head_size, tail_size, learn_from)
    return build(load_model(model) if isinstance(model, str) else model, config)


def build(classifier: Classifier, config: UnitConfig) -> BottleNet:
    """What `insert` does, told in one piece."""
    if config.unit not in UNITS:
        raise InputError(f"unit {config.unit!r}: one of {', '.join(UNITS)} is possible")
    size = config.head_size or classifier.preprocess.size
    own = f"0 for the {classifier.preprocess.size} of {classifier.name}"
    for name, given, none in (("head_size", size, own), ("tail_size", config.tail_size or size, "0 for the head's")):
        if not 8 <= given <= 4096:
            raise InputError(f"{name} is {given}; give 8 to 4096 pixels, or {none}")
        if given != classifier.preprocess.size and is_dense(classifier.task):
            raise InputError(f"{name} is {given}; a {classifier.task.name} is about places in one size: give {none}")
    whole = copy.deepcopy(classifier.module)
    halves = split(whole, config.cut, (3, size, size))
    layout = halves.cut.layout
    if layout is None:
        raise InputError(f"cut {config.cut!r} has shape {halves.cut.shape}: a unit needs channels, height and width")
    c, height, width = layout.grid
    channels = config.channels or min(USUAL_CHANNELS, c * config.stride**2)
    spec = UnitSpec(c, channels, config.stride, (height, width))
    head, learned = divided(halves.head, config, size)
    reduction, restoration = UNITS[config.unit](spec)
    if layout.kind != "planes":
        reduction, restoration = GridReduction(layout, reduction), GridRestoration(layout, restoration)
    tail = halves.tail
    if config.tail_size not in (0, size):
        restoration, tail = enlarged(restoration, whole, config, layout)
    mosaic = Mosaic(*spec.latent_shape)
    net = BottleNet(
        nn.Sequential(Normalize(classifier.mean, classifier.std), head),
        reduction if learned is None else LearnedReduction(learned, reduction),
        quantizer_of(config),
        codec_of(config, mosaic),
        restoration,
        tail,
        Prior(torch.ones(channels)) if config.codec == "entropy" else None,
    )
    net.head_size = size
    net.origin = Origin(classifier, halves.cut, config.unit)
    return net


def enlarged(
    restoration: nn.Module, whole: nn.Module, config: UnitConfig, layout: Layout
) -> tuple[nn.Module, nn.Module]:
    """The restoration of features as large as those of a photo of `tail_size`, and the tail that takes them.

    InputError: the features are no maps.
    """
    size = config.tail_size
    if layout.kind != "planes":
        raise InputError(f"tail_size is {size}, but the features at cut {config.cut!r} are no maps; give 0")
    halves = split(whole, config.cut, (3, size, size))
    channels, height, width = halves.cut.shape
    return Enlarged(restoration, channels, (height, width)), halves.tail


def codec_of(config: UnitConfig, mosaic: Mosaic) -> Codec:
    """The entropy codec's tables are counted on the trained network's symbols; until then they expect silence."""
    if config.codec != "entropy":
        return make_codec(config.codec, mosaic, config.quality)
    silence = np.full((1, *mosaic.symbols_shape), ZERO, np.uint8)
    return Entropy(mosaic, fit_tables([silence], all_passes(mosaic.channels)))


def all_passes(channels: int) -> list[tuple[int, int]]:
    """(channel, plane) as `nested` has them: step by step, and within a step channel by channel."""
    return [(channel, plane) for plane in range(len(STEPS)) for channel in range(channels)]


def divided(head: nn.Module, config: UnitConfig, size: int) -> tuple[nn.Module, nn.Module | None]:
    """What of the head stays as it is, and what learns with the unit.

    InputError: `learn_from` is no cut before `cut`.
    """
    if not config.learn_from:
        return head, None
    if config.learn_from == config.cut:
        raise InputError(f"learn_from is the cut itself, {config.cut}; give a cut before it, or none")
    try:
        halves = split(head, config.learn_from, (3, size, size))
    except InputError as error:
        raise InputError(f"learn_from must be a cut before {config.cut}: {error}") from error
    return halves.head, halves.tail


def _paper(spec: UnitSpec) -> tuple[nn.Module, nn.Module]:
    return PaperReduction(spec), PaperRestoration(spec)


def _residual(spec: UnitSpec) -> tuple[nn.Module, nn.Module]:
    return ResidualReduction(spec), ResidualRestoration(spec)


def quantizer_of(config: UnitConfig) -> Quantizer | NestedQuantizer:
    """The entropy codec's is nested; another codec's has the range of its unit."""
    if config.codec == "entropy":
        return NestedQuantizer()
    if config.unit == "paper":
        return Quantizer()
    # zero lies on a level, so that what is silent decodes to silence: 8 levels a unit, and zero is 128
    return Quantizer(fixed_range=(-16.0, 15.875))


@torch.no_grad()
def start_from_components(
    net: BottleNet, batches: Iterable[Tensor], *, amplitude: float = 0.0, paper: bool = False
) -> None:
    """Sets a residual unit's linear paths to the principal components of `batches`, what its frozen head gives.

    A unit of random weights learns nothing for an epoch; one that starts as a projection and its transpose starts with
    what a linear code keeps. `amplitude` is the standard deviation of the first component; 0: 4, or 20 for the entropy
    codec, whose finest step is 1 and whose coarser ones must say something too. With `paper` a paper's unit starts
    there as well, as nearly as it can; else it keeps its random weights.
    """
    learned: nn.Module = nn.Identity()
    reduction = net.reduction
    if isinstance(reduction, LearnedReduction):
        learned, reduction = reduction.learned, reduction.reduction
    grids: Iterable[Tensor] = (learned(batch) for batch in batches)
    restoration = net.restoration
    if isinstance(restoration, Enlarged):
        restoration = restoration.restoration
    if isinstance(reduction, GridReduction) and isinstance(restoration, GridRestoration):
        grids = restoration.started(grids)
        reduction, restoration = reduction.reduction, restoration.restoration
    if paper and isinstance(reduction, PaperReduction) and isinstance(restoration, PaperRestoration):
        start_paper_unit(reduction, restoration, components(grids, reduction.stride, reduction.channels))
    if not isinstance(reduction, ResidualReduction) or not isinstance(restoration, ResidualRestoration):
        return
    s = reduction.linear.stride[0]
    mean, variances, vectors = components(grids, s, reduction.linear.out_channels)
    scale = (amplitude or (4.0 if net.prior is None else 20.0)) / variances[0].sqrt()
    projection = (vectors * scale).T  # (c', c*s*s)
    kernel = projection.reshape(reduction.linear.weight.shape)
    reduction.linear.weight.copy_(kernel)
    reduction.linear.bias.copy_(-projection @ mean)  # type: ignore[union-attr]
    restoration.linear.weight.copy_(kernel / scale**2)
    restoration.linear.bias.copy_(mean.reshape(-1, s * s).mean(1))  # type: ignore[union-attr]
    if net.prior is not None:
        net.prior.start_at((variances.sqrt() * scale).float())


def components(batches: Iterable[Tensor], stride: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of patches of `stride` of the features (B, c, H, W): mean (d,), the `count` largest variances (count,) and their
    directions (d, count), where d is c * stride * stride. All float64.

    InputError: features that are no numbers, or as `check_patch`.
    """
    patches_seen, total, products = 0, torch.zeros(()), torch.zeros(())
    for features in batches:
        check_patch(features.shape[1], stride)
        padded = pad_to_multiple(features, stride)
        patches = nn.functional.unfold(padded, stride, stride=stride).transpose(1, 2).flatten(0, 1).double()
        patches_seen += len(patches)
        total = total + patches.sum(0)
        products = products + patches.T @ patches
    if not bool(total.isfinite().all()):
        raise InputError(
            "the features at the cut are not all numbers; give another cut, or a network that gives numbers"
        )
    mean = total / patches_seen
    variances, vectors = torch.linalg.eigh(products / patches_seen - torch.outer(mean, mean))
    order = variances.argsort(descending=True)[:count]
    # Of features that do not span their space, such as those of dead channels, some are 0 but for rounding.
    return mean, variances[order].clamp_min(0), vectors[:, order]


def check_patch(channels: int, stride: int) -> None:
    """InputError: a patch of `stride` of so many channels has more numbers than principal components are found for."""
    if (numbers := channels * stride**2) > MAX_PATCH:
        raise InputError(
            f"stride {stride} on {channels} channels: a patch has {numbers:,} numbers, too many to find principal "
            f"components for; give a smaller stride, for {MAX_PATCH:,} or fewer"
        )


UNITS = {"paper": _paper, "residual": _residual}


MIDDLE = 3.0  # of ReLU6
Components = tuple[Tensor, Tensor, Tensor]
"""mean (d,), variances (n,), directions (d, n) of patches, d = c * s * s."""


@torch.no_grad()
def start_paper_unit(reduction: PaperReduction, restoration: PaperRestoration, found: Components) -> None:
    """`found` are the components of the features' patches of the unit's stride, c' of them or fewer, largest first."""
    s = reduction.stride
    parts: list[Any] = [*reduction, *restoration]  # the drawing above, from left to right
    spatial, norm, _, channel, latent_norm, _, back_channel, back_norm, _, back_spatial = parts
    c = spatial.in_channels
    # The convolutions have c channels in the middle; of patches one of them has to hold what all places have in common.
    count = min(found[1].numel(), c if s == 1 else c - 1)
    mean = found[0].float().reshape(c, s, s)
    scales = found[1][:count].clamp_min(1e-12).sqrt().float()
    patches = found[2][:, :count].T.float().reshape(count, c, s, s)
    middle = slice(spatial.padding[0], spatial.padding[0] + s)

    spatial.weight[:count] = 0
    spatial.weight[:count, :, middle, middle] = patches
    pass_through(channel, count)
    for each in (norm, latent_norm, back_norm):
        each.weight.fill_(1)
        each.bias.fill_(MIDDLE)
    latent_norm.weight[:count] = scales / scales[0]  # what is loud stays loud, so the codec hears it

    pass_through(back_channel, count)
    loud = scales[:, None, None, None] * patches
    offset = mean - MIDDLE * loud.sum(0)  # (c, s, s): what is there where every component is silent
    back_spatial.weight.zero_()
    back_spatial.bias.zero_()
    back_spatial.weight[:count, :, middle, middle] = loud
    if s > 1:  # a channel that hears nothing is 3 behind its norm
        back_channel.weight[count] = 0
        back_spatial.weight[count, :, middle, middle] = offset / MIDDLE
    else:
        back_spatial.bias.copy_(offset[:, 0, 0])


def pass_through(convolution: nn.Conv2d, count: int) -> None:
    """Make the first `count` outputs of a 1x1 convolution its first `count` inputs."""
    convolution.weight[:count] = 0
    index = torch.arange(count)
    convolution.weight[index, index] = 1


STRIDE = 2  # s, everywhere
BLOCKS = (3, 4, 6, 3)  # residual blocks in the stages of ResNet-50
BYTES = (316, 317, 314, 166, 171, 168, 170, 96, 90, 98, 101, 101, 95, 52, 52, 53)  # Table 4: RB1..RB16
CHANNELS = {56: 1, 28: 2, 14: 5, 7: 10}  # c', by the side of the features


@dataclass(frozen=True)
class PaperCut:
    """One cut of the paper: our structure, its bytes."""

    name: str  # RB1, or pool1
    cut: str
    shape: tuple[int, ...]  # (C, H, W) of the features
    head_flops: int  # of head and unit, on the device, for one photo
    head_flops_share: float  # of the uncut network's
    latent: tuple[int, int, int] | None  # (c', h, w); None where the paper has no c'
    latent_elements: int | None
    raw_bytes: int | None  # the latent's symbols as the raw codec sends them, one byte each
    paper_bytes: int | None  # the paper's, with JPEG at quality 20


def paper_cuts(classifier: Classifier) -> tuple[PaperCut, ...]:
    """ResNet-50 cut after RB1 to RB16, or VGG-19 after its five poolings, with the paper's unit.

    InputError: another network, by its name, or one that has no such cuts or takes photos of another size.
    """
    kind = re.match(r"(?:\w+/)?([a-z0-9_]+)", classifier.name)
    if kind is None or kind[1] not in PLACES:
        raise InputError(
            f"{classifier.name}: the paper's table is for {' and '.join(PLACES)}; give torchvision/resnet50 or "
            "torchvision/vgg19, with :random where no weights are at hand"
        )
    found = {cut.name: cut for cut in cuts(classifier.module, classifier.input_size)}
    places = PLACES[kind[1]]
    if missing := [path for path in places.values() if path not in found]:
        raise InputError(f"{classifier.name} has no cut {missing[0]}, so it is not the paper's {kind[1]}")
    sizes = BYTES if kind[1] == "resnet50" else (None,) * len(places)
    return tuple(
        paper_cut(name, found[path], paper_bytes)
        for (name, path), paper_bytes in zip(places.items(), sizes, strict=True)
    )


def paper_cut(name: str, cut: Cut, paper_bytes: int | None) -> PaperCut:
    """One of them, its reduction counted and its symbols encoded."""
    total = cut.head_flops / cut.head_flops_share
    c, height, width = cut.shape
    channels = CHANNELS.get(height)
    if channels is None:
        return PaperCut(name, cut.name, cut.shape, cut.head_flops, cut.head_flops_share, None, None, None, paper_bytes)
    spec = UnitSpec(c, channels, STRIDE, (height, width))
    flops = cut.head_flops + count_flops(PaperReduction(spec).eval(), torch.zeros(1, *cut.shape))
    mosaic = Mosaic(*spec.latent_shape)
    symbols = np.zeros(mosaic.symbols_shape, np.uint8)
    raw_bytes = len(make_codec("raw", mosaic, 0).encode(symbols))
    return PaperCut(
        name, cut.name, cut.shape, flops, flops / total, spec.latent_shape, symbols.size, raw_bytes, paper_bytes
    )


def residual_blocks() -> dict[str, str]:
    """RB1 .. RB16 -> the blocks, as torchvision and timm call them: a stage's last is the stage."""
    paths = []
    for stage, blocks in enumerate(BLOCKS, 1):
        paths += [f"layer{stage}.{block}" for block in range(blocks - 1)] + [f"layer{stage}"]
    return {f"RB{number}": path for number, path in enumerate(paths, 1)}


PLACES = {
    "resnet50": residual_blocks(),
    "vgg19": {
        "pool1": "features.4",
        "pool2": "features.9",
        "pool3": "features.18",
        "pool4": "features.27",
        "pool5": "features",  # which ends with it
    },
}
