"""The one place that knows numbers: from a classifier and a cut to a BottleNet, and where its unit starts.

A unit of random weights learns nothing for an epoch; `start_from_components` starts it as a projection to the principal
components of the features and back. A paper's unit does so as nearly as its shape allows:

    convolution -> norm -> ReLU6 -> 1x1 -> norm -> ReLU6 ~~~ 1x1 -> norm -> ReLU6 -> transposed convolution
    components     to 3 +- 1        pass   3 +- share        pass   to 3 +- 1        components, as loud as they were

A norm that gives 3 +- 1 puts three standard deviations on either side inside ReLU6's 0 to 6, where it is linear.

`paper_cuts` sets the paper's Table 4 (arXiv 1902.01000v1) beside a network: ResNet-50 after each of its 16 residual
blocks, with c', s and bytes; VGG-19 after each pooling, with the c' that the paper has for features of that side.
"""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bottlenet.errors import InputError, reason
from bottlenet.net import unit as units
from bottlenet.net.cut import Cut, Layout, Split, cuts, layout_at, split
from bottlenet.net.model import BottleNet, Origin
from bottlenet.net.models import Classifier, Normalize, check_classifier, load_model
from bottlenet.net.trace import count_flops
from bottlenet.records import is_number
from bottlenet.task import Classification, is_dense
from bottlenet.wire.codecs import Codec, make_codec
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import STEPS, ZERO, fit_tables

USUAL_CHANNELS = 48
USUAL_QUALITY = {"deflate": 9, "raw": 0}  # of the others 50
MAX_PATCH = 8192  # numbers of a patch: the covariance of more has gigabytes


def insert(
    model: Classifier | str,
    *,
    cut: str,
    unit: str = "residual",
    channels: int = 0,
    stride: int = 1,
    codec: str = "jpeg",
    quality: int | None = None,
    head_size: int = 0,
    tail_size: int = 0,
    learn_from: str = "",
    learn_to: str = "",
    end_to_end: bool = False,
    exit: bool = False,
    exit_without: str = "",
) -> BottleNet:
    """Put a trainable bottleneck unit into a copy of `model`, which stays as it is.

    cut: where the network is cut, a name from `cuts` or `bottlenet cuts MODEL`.
    unit: "residual" or "paper".
    channels: c', channels of the latent; 0: 48, or where the features have fewer, as many as those.
    stride: s, the spatial reduction of the latent, 1 or more.
    codec: "jpeg", "webp", "deflate", "raw" or "entropy".
    quality: 1 to 100 of jpeg and webp, the level 1 to 9 of deflate, 0 of raw; None: 50, 9, 0.
    head_size: side of the photo that the head takes, 8 to 4096 pixels; 0: as the uncut network.
    tail_size: side of the photo whose features the tail takes, pixels; 0: as the head.
    learn_from: the head learns behind this cut, and becomes part of the unit; empty: none of it does.
    learn_to: the tail learns up to this cut, and is the classifier's own behind it; empty: all of it learns.
    end_to_end: all of the head learns, and becomes part of the unit.
    exit: the device gets the rest of the classifier, too, to answer by itself where it is sure.
    exit_without: blocks that the exit leaves out, such as "blocks.10", with commas between them.

    InputError: an unknown model, cut, unit or codec, a classifier that gives no answer, or numbers out of range.
    """
    classifier = load_model(model) if isinstance(model, str) else check_classifier(model)
    if unit not in UNITS:
        raise InputError(f"unit {unit!r}: one of {', '.join(UNITS)} is possible")
    for name, value in (("channels", channels), ("stride", stride)):
        if not is_number(value, Integral):
            raise InputError(f"{name} is {value!r}; give an integer")
    size = head_size or classifier.preprocess.size
    check_sizes(classifier, size, tail_size or size)
    whole = copy_of(classifier)
    halves = split(whole, cut, (3, size, size))
    layout = layout_at(halves.cut)
    c, height, width = layout.grid
    channels = channels or min(USUAL_CHANNELS, c * stride**2)
    spec = units.UnitSpec(c, channels, stride, (height, width))
    if exit and layout.parts:
        raise InputError(f"an exit needs a cut at which one tensor crosses, and {len(layout.parts)} do at {cut}")
    head, learned = (nn.Identity(), halves.head) if end_to_end else split_head(halves.head, learn_from, cut, size)
    reduction, restoration = unit_of(unit, spec, layout)
    back = halves
    if tail_size not in (0, size):
        back = split(whole, cut, (3, tail_size, tail_size))
        restoration = enlarged(restoration, back, layout)
    tail = back.tail if not learn_to else split_tail(back, learn_to)
    net = BottleNet(
        nn.Sequential(Normalize(classifier.mean, classifier.std), head),
        reduction if learned is None else units.LearnedReduction(learned, reduction),
        quantizer_of(codec, unit),
        codec_of(codec, quality, Mosaic(*spec.latent_shape)),
        restoration,
        tail,
        units.Prior(torch.ones(channels)) if codec == "entropy" else None,
    )
    if exit:
        net.exit = exit_of(classifier, cut, size, exit_without)
    net.head_size = size
    net.origin = Origin(classifier, halves.cut, unit)
    net.keep_strides()
    return net


def unit_of(kind: str, spec: units.UnitSpec, layout: Layout) -> tuple[nn.Module, nn.Module]:
    """Make reduction and restoration for features of that layout."""
    if layout.parts:
        most, pairs = layout.grid[0] * spec.stride**2, []
        for part, side in zip(layout.parts, layout.patches, strict=True):
            own = units.UnitSpec(part.grid[0], spec.channels, side * spec.stride, part.grid[1:], most)
            pairs.append(unit_of(kind, own, part))
        reductions, restorations = zip(*pairs, strict=True)
        return units.SetReduction(layout, reductions), units.SetRestoration(layout, restorations)
    reduction, restoration = (half(spec) for half in UNITS[kind])
    if layout.kind == "planes":
        return reduction, restoration
    return units.GridReduction(layout, reduction), units.GridRestoration(layout, restoration)


def check_sizes(classifier: Classifier, head_size: int, tail_size: int) -> None:
    """Raise InputError for sides that no network takes, or that the classifier's task does not allow."""
    own = f"0 for the {classifier.preprocess.size} of {classifier.name}"
    for name, size, none in (("head_size", head_size, own), ("tail_size", tail_size, "0 for the head's")):
        if not 8 <= size <= 4096:
            raise InputError(f"{name} is {size}; give 8 to 4096 pixels, or {none}")
        if size != classifier.preprocess.size and is_dense(classifier.task):
            raise InputError(f"{name} is {size}; a {classifier.task.name} is about places in one size: give {none}")


def copy_of(classifier: Classifier) -> nn.Module:
    """Copy the network. InputError: it holds something that can't be copied, such as an old `weight_norm`."""
    try:
        return copy.deepcopy(classifier.module)
    except Exception as error:  # code that is not ours
        advice = "in place of torch.nn.utils.weight_norm take that of torch.nn.utils.parametrizations"
        raise InputError(f"{classifier.name}: the network can't be copied ({reason(error)}); {advice}") from error


def enlarged(restoration: nn.Module, larger: Split, layout: Layout) -> units.Enlarged:
    """Enlarge the restoration to the features of a larger photo. InputError: the features are no maps."""
    if layout.kind != "planes":
        raise InputError(f"the features at cut {larger.cut.name!r} are no maps, so tail_size can't differ; give 0")
    channels, height, width = larger.cut.shape
    return units.Enlarged(restoration, channels, (height, width))


def split_tail(halves: Split, learn_to: str) -> units.DividedTail:
    """Divide the tail at a cut. InputError: `learn_to` is no cut behind the cut."""
    try:
        if len(halves.cut.shape) != 3:
            raise InputError("its features are no maps")
        channels, height, width = halves.cut.shape
        parts = split(halves.tail, learn_to, (channels, height, width))
    except InputError as error:
        raise InputError(f"learn_to must be a cut behind {halves.cut.name}: {error}") from error
    return units.DividedTail(parts.head, parts.tail)


def exit_of(classifier: Classifier, cut: str, size: int, without: str) -> nn.Module:
    """Copy the classifier behind `cut`, for a photo of `size`, less the blocks `without`. InputError: they can't go."""
    if not isinstance(classifier.task, Classification):
        raise InputError(f"an exit needs a network that gives one label, and this one's task is {classifier.task.name}")
    whole = copy_of(classifier)
    names = [*filter(None, without.split(","))]
    behind = dict(split(whole, cut, (3, size, size)).tail.named_modules()) if names else {}
    for name in names:
        parent, _, last = name.rpartition(".")
        try:
            whole.get_submodule(name)
            setattr(whole.get_submodule(parent), last, nn.Identity())
        except AttributeError as error:
            raise InputError(f"exit_without names {name!r}, and {classifier.name} has no such block") from error
        if name not in behind:
            raise InputError(f"exit_without names {name}, which is not behind the cut, {cut}; give blocks that are")
    try:
        halves = split(whole, cut, (3, size, size))
    except InputError as error:
        raise InputError(f"without {without} the network can't be cut: {error}") from error
    with torch.no_grad():
        gives = tuple(halves.tail(torch.zeros(1, *halves.cut.shape)).shape)
    if gives != (1, len(classifier.labels)):
        raise InputError(f"without {without} the network gives {gives}, not a score for each class; leave out less")
    return halves.tail


def split_head(head: nn.Module, learn_from: str, cut: str, size: int) -> tuple[nn.Module, nn.Module | None]:
    """Divide the head into a frozen part and one that learns. InputError: `learn_from` is no cut before `cut`."""
    if not learn_from:
        return head, None
    if learn_from == cut:
        raise InputError(f"learn_from is the cut itself, {cut}; give a cut before it, or none")
    try:
        halves = split(head, learn_from, (3, size, size))
    except InputError as error:
        raise InputError(f"learn_from must be a cut before {cut}: {error}") from error
    return halves.head, halves.tail


def quantizer_of(codec: str, unit: str) -> units.Quantizer | units.NestedQuantizer:
    """Make the quantizer: nested for the entropy codec, else with the range of its unit."""
    if codec == "entropy":
        return units.NestedQuantizer()
    if unit == "paper":
        return units.Quantizer()
    # zero lies on a level, so that what is silent decodes to silence: 8 levels a unit, and zero is 128
    return units.Quantizer(fixed_range=(-16.0, 15.875))


def codec_of(name: str, quality: int | None, mosaic: Mosaic) -> Codec:
    """Make the codec. Tables of the entropy codec expect silence until they are counted on a trained network."""
    if name != "entropy":
        return make_codec(name, mosaic, USUAL_QUALITY.get(name, 50) if quality is None else quality)
    silence = np.full((1, *mosaic.symbols_shape), ZERO, np.uint8)
    passes = [(channel, plane) for plane in range(len(STEPS)) for channel in range(mosaic.channels)]
    return Entropy(mosaic, fit_tables([silence], passes))


UNITS: dict[str, tuple[Callable[[units.UnitSpec], nn.Module], Callable[[units.UnitSpec], nn.Module]]] = {
    "paper": (units.PaperReduction, units.PaperRestoration),
    "residual": (units.ResidualReduction, units.ResidualRestoration),
}


@torch.no_grad()
def start_from_components(
    net: BottleNet, batches: Iterable[Tensor], *, amplitude: float = 0.0, paper: bool = False
) -> None:
    """Set a residual unit's linear paths to the principal components of `batches`, the output of its frozen head.

    A unit of random weights learns nothing for an epoch; one that starts as a projection and its transpose starts with
    what a linear code keeps. `amplitude` is the standard deviation of the first component; 0: 4, or 20 for the entropy
    codec, whose finest step is 1 and whose coarser ones must say something too. With `paper` a paper's unit starts
    there as well, as nearly as it can; else it keeps its random weights.
    """
    learned, reduction = net.learned_and_reduction
    grids: Iterable[Tensor] = (learned(batch) for batch in batches)
    restoration = net.restoration
    if isinstance(restoration, units.Enlarged):
        restoration = restoration.restoration
    if isinstance(restoration, units.GridRestoration | units.SetRestoration):
        grids = restoration.note_extra_tokens(grids)
    (first, last), *others = pairs = pairs_of(reduction, restoration)
    if paper and not others and isinstance(first, units.PaperReduction) and isinstance(last, units.PaperRestoration):
        init_paper_unit(first, last, components(grids, first.stride, first.channels))
    linear = [
        (into.linear, back.linear)
        for into, back in pairs
        if isinstance(into, units.ResidualReduction) and isinstance(back, units.ResidualRestoration)
    ]
    if linear:
        deviation = start_linear(linear, grids, amplitude or (4.0 if net.prior is None else 20.0))
        if net.prior is not None:
            net.prior.load_state_dict(units.Prior(deviation).state_dict())


def pairs_of(into: nn.Module, back: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """List each tensor's reduction and restoration, without what deals with their layouts."""
    if isinstance(into, units.SetReduction) and isinstance(back, units.SetRestoration):
        each = zip(into.reductions, back.restorations, strict=True)
        return [pair for both in each for pair in pairs_of(*both)]
    if isinstance(into, units.GridReduction) and isinstance(back, units.GridRestoration):
        return [(into.reduction, back.restoration)]
    return [(into, back)]


Linear = tuple[nn.Conv2d, nn.ConvTranspose2d]


def start_linear(linear: Sequence[Linear], grids: Iterable[Tensor], amplitude: float) -> Tensor:
    """Set linear paths to the components of the grids that their tensors have in common; return the latent's (c',)
    standard deviations, the first of which is `amplitude`.

    Of several tensors each counts alike, however large its numbers are and however many.
    """
    stride = min(into.stride[0] for into, _ in linear)  # of the smallest tensor, whose patches are single places
    mean, covariance = moments(grids, stride)
    sizes = [into.weight[0].numel() for into, _ in linear]
    weights = torch.ones_like(mean)
    if len(linear) > 1:
        loud = torch.stack([variances.sum() for variances in torch.split(covariance.diagonal(), sizes)])
        weights = loud.clamp_min(1e-12).rsqrt().repeat_interleave(torch.tensor(sizes))
    variances, vectors = largest(covariance * torch.outer(weights, weights), linear[0][0].out_channels)
    scale = amplitude / variances[0].sqrt()
    projection = (vectors * scale).T  # (c', d)
    ways = (projection * weights, projection / scale**2 / weights)
    apart = zip(linear, *(torch.split(way, sizes, 1) for way in ways), torch.split(mean, sizes), strict=True)
    for (into, out), forth, back, middle in apart:
        into.weight.copy_(of_patches(forth, into.stride[0], stride).reshape(into.weight.shape))
        into.bias.copy_(-forth @ middle)
        out.weight.copy_(of_patches(back, into.stride[0], stride).reshape(out.weight.shape))
        out.bias.copy_(middle.reshape(into.in_channels, -1).mean(1))
    return (variances.sqrt() * scale).float()


def of_patches(projection: Tensor, across: int, stride: int) -> Tensor:
    """Arrange patches of `stride` places, of patches of places, as (c', c, across, across) places."""
    count, side = len(projection), across // stride
    apart = projection.reshape(count, -1, side, side, stride, stride)
    return apart.permute(0, 1, 4, 2, 5, 3).reshape(count, -1, across, across)


def components(batches: Iterable[Tensor], stride: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find patches' principal components, float64: mean (d,), the `count` largest variances, directions (d, count)."""
    mean, covariance = moments(batches, stride)
    return mean, *largest(covariance, count)


def moments(batches: Iterable[Tensor], stride: int) -> tuple[Tensor, Tensor]:
    """Compute mean (d,) and covariance (d, d) of patches, float64."""
    count_of_patches, total, products = 0, torch.zeros(()), torch.zeros(())
    for features in batches:
        check_patch(features.shape[1], stride)
        padded = units.pad_to_multiple(features, stride)
        patches = nn.functional.unfold(padded, stride, stride=stride).transpose(1, 2).flatten(0, 1).double()
        count_of_patches += len(patches)
        total = total + patches.sum(0)
        products = products + patches.T @ patches
    if not bool(total.isfinite().all()):
        raise InputError("features at the cut are not all numbers; give another cut, or a network that gives numbers")
    mean = total / count_of_patches
    return mean, products / count_of_patches - torch.outer(mean, mean)


def largest(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest variances, and their directions (d, count)."""
    variances, vectors = torch.linalg.eigh(covariance)
    order = variances.argsort(descending=True)[:count]
    # Of features that do not span their space, such as those of dead channels, some are 0 but for rounding.
    return variances[order].clamp_min(0), vectors[:, order]


def can_have_unit(cut: Cut) -> bool:
    """Tell if a unit can go to a cut, at least with a stride of 1."""
    return cut.layout is not None and cut.layout.grid[0] <= MAX_PATCH


def check_patch(channels: int, stride: int) -> None:
    """Raise InputError where a patch of `stride` has more numbers than principal components are found for."""
    if (numbers := channels * stride**2) > MAX_PATCH:
        what = f"stride {stride} on {channels} channels: a patch has {numbers:,} numbers, too many for components"
        instead = "a smaller stride" if stride > 1 else "another cut"
        raise InputError(f"{what}; give {instead}, for {MAX_PATCH:,} or fewer")


MIDDLE = 3.0  # of ReLU6
Components = tuple[Tensor, Tensor, Tensor]  # mean (d,), variances (n,), directions (d, n) of patches, d = c * s * s


@torch.no_grad()
def init_paper_unit(reduction: units.PaperReduction, restoration: units.PaperRestoration, found: Components) -> None:
    """Start a paper's unit at the components of patches of its stride, at most c' of them, largest first."""
    s = reduction.stride
    layers: list[Any] = [*reduction, *restoration]  # the drawing above, from left to right
    spatial, norm, _, channel, latent_norm, _, back_channel, back_norm, _, back_spatial = layers
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
    """Describe ResNet-50 at RB1 to RB16, or VGG-19 at its five poolings, with the paper's unit. InputError: others."""
    kind = re.match(r"(?:\w+/)?([a-z0-9_]+)", classifier.name)
    if kind is None or kind[1] not in PLACES:
        advice = "give torchvision/resnet50 or torchvision/vgg19, with :random where no weights are at hand"
        raise InputError(f"{classifier.name}: the paper's table is for {' and '.join(PLACES)}; {advice}")
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
    """Describe one of them: count its reduction's FLOPs, and encode its symbols."""
    total = cut.head_flops / cut.head_flops_share
    c, height, width = cut.shape
    channels = CHANNELS.get(height)
    if channels is None:
        return PaperCut(name, cut.name, cut.shape, cut.head_flops, cut.head_flops_share, None, None, None, paper_bytes)
    spec = units.UnitSpec(c, channels, STRIDE, (height, width))
    flops = cut.head_flops + count_flops(units.PaperReduction(spec).eval(), torch.zeros(1, *cut.shape))
    latent, count = spec.latent_shape, Mosaic(*spec.latent_shape).symbol_count
    return PaperCut(name, cut.name, cut.shape, flops, flops / total, latent, count, count, paper_bytes)


def residual_blocks() -> dict[str, str]:
    """Map RB1 .. RB16 to the blocks, as torchvision and timm call them: a stage's last is the stage."""
    paths = []
    for stage, blocks in enumerate(BLOCKS, 1):
        paths += [f"layer{stage}.{block}" for block in range(blocks - 1)] + [f"layer{stage}"]
    return {f"RB{number}": path for number, path in enumerate(paths, 1)}


PLACES = {
    "resnet50": residual_blocks(),
    # The last pooling is where the features end.
    "vgg19": {f"pool{number}": f"features{place}" for number, place in enumerate((".4", ".9", ".18", ".27", ""), 1)},
}
