"""A unit without training: principal components of the features at a cut, and tables counted on some hundred photos.

    photos -> head -> features --components--> reduction, restoration --symbols--> tables of the entropy codec

Payloads can be truncated anywhere, so one unit shows how many bytes a cut needs: at each budget some of the uncut
network's answers stay. Photos on which that is measured are not those that the unit is fitted to.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bottlenet.bundle import Bundle, Preprocess
from bottlenet.errors import InputError
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.cut import Cut, Layout, layout_at, split
from bottlenet.net.export import Fidelity, answer_layer, export, origin_of
from bottlenet.net.model import BottleNet, to_uint8
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.photos.crops import Damaged, centre_views
from bottlenet.photos.folders import Photo, choose, list_photos
from bottlenet.task import same_answers
from bottlenet.train.runs import COMPARED_PHOTOS, TABLE_BINS
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.frame import DEFAULT_MAX_PAYLOAD_BYTES
from bottlenet.wire.tables import fit_tables

MEASURED_ON = 4  # one photo in so many is kept out of the fit
BUDGETS = (100, 200, 400, 800, 1600, 3200, 6400)  # bytes of a payload
SHARES = (0.9, 0.95)  # of the answers, for which bytes are reported
MOST_CHANNELS, MOST_NUMBERS, LEAST_SIDE = 256, 640, 7  # of a unit: c', a patch, the latent's side
STRIDES = (4, 2, 1)
BATCH = 16


def divide(data: str, limit: int) -> tuple[Sequence[Photo], Sequence[Photo]]:
    """Choose `limit` photos of a folder: those to fit to, and those to measure on. InputError: too few."""
    photos = choose(list_photos(data), limit)
    measured = photos[MEASURED_ON - 1 :: MEASURED_ON]
    fitted = [photo for at, photo in enumerate(photos, 1) if at % MEASURED_ON]
    if len(measured) < 2:
        raise InputError(
            f"{data}: {len(photos)} photos are too few to fit a unit to and to measure it; give 20 or more"
        )
    return fitted, measured


def pixels_of(photos: Sequence[Photo], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Read centre crops (N, S, S, 3). InputError: fewer than 2 can be read, or most are damaged."""
    views = [each for _, (each,) in centre_views(photos, [preprocess.size], Damaged(len(photos)), preprocess)]
    if len(views) < 2:
        raise InputError(f"{len(views)} of {len(photos)} photos can be read; give more of them")
    return np.stack(views)


def usual_unit(layout: Layout) -> tuple[int, int]:
    """Return c' and s: patches as large as their components can be found from some hundred photos."""
    c, height, width = layout.grid
    fits = (s for s in STRIDES if c * s**2 <= MOST_NUMBERS and min(height, width) >= LEAST_SIDE * s)
    stride = next(fits, 1)
    return min(c * stride**2, MOST_CHANNELS), stride


def fitted(
    classifier: Classifier, cut: Cut, pixels: NDArray[np.uint8], *, channels: int = 0, stride: int = 0
) -> BottleNet:
    """Insert a unit for the entropy codec at a cut, fitted to photos as the head takes them; 0: what is usual there.

    InputError: a cut without a grid of channels, or numbers that no unit has.
    """
    usual_channels, usual_stride = usual_unit(layout_at(cut))
    stride = stride or usual_stride
    channels = channels or min(usual_channels, layout_at(cut).grid[0] * stride**2)
    net = insert(classifier, cut=cut.name, channels=channels, stride=stride, codec="entropy").eval()
    assert isinstance(net.codec, Entropy)
    features = list(features_of(net, pixels))
    start_from_components(net, features)
    tables = fit_tables(symbols_of(net, features), net.codec.tables.passes, bins=TABLE_BINS)
    net.codec = Entropy(net.codec.mosaic, tables)
    return net


def make_bundle(
    model: str,
    cut: str,
    photos: Sequence[Photo],
    output: str,
    channels: int = 0,
    stride: int = 0,
    say: Callable[[str], None] = lambda what: None,
) -> tuple[Bundle, Fidelity]:
    """Fit a unit at a cut to photos, and write its bundle, whose budget is what a server takes unless told otherwise.

    InputError, BundleError: as `fitted` and `export`.
    """
    classifier = load_model(model)
    place = split(classifier.module, cut, classifier.input_size).cut
    say("fitting")
    pixels = pixels_of(photos, classifier.preprocess)
    net = fitted(classifier, place, pixels, channels=channels, stride=stride)
    extra = {"steps": 0, "photos_fitted": len(pixels)}
    budget_bytes = DEFAULT_MAX_PAYLOAD_BYTES  # components alone may need more at a cut with large features
    return export(net, output, pixels=pixels[:COMPARED_PHOTOS], budget_bytes=budget_bytes, extra=extra, say=say)


@torch.no_grad()
def features_of(net: BottleNet, pixels: NDArray[np.uint8]) -> Iterator[Tensor]:
    """Run the head; on a copy, as it lies in memory otherwise while it runs fast."""
    fast = copy.deepcopy(net)
    fast.use_channels_last()
    for batch in batches(pixels):
        yield fast.head(batch).contiguous()


@torch.no_grad()
def symbols_of(net: BottleNet, features: Sequence[Tensor]) -> Iterator[NDArray[np.uint8]]:
    for batch in features:
        yield to_uint8(net.quantizer.quantize(net.reduction(batch)))


def batches(pixels: NDArray[np.uint8]) -> Iterator[Tensor]:
    for at in range(0, len(pixels), BATCH):
        yield torch.from_numpy(pixels[at : at + BATCH])


@torch.no_grad()
def answers_of(classifier: Classifier, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the uncut network's output (N, ...), as its task has it."""
    whole = nn.Sequential(Normalize(classifier.mean, classifier.std), copy.deepcopy(classifier.module))
    whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    finish = answer_layer(classifier)
    return np.concatenate([finish(whole(batch)).numpy() for batch in batches(pixels)])


@dataclass(frozen=True)
class Point:
    """Photos within a budget."""

    payload_bytes: float  # mean
    agreement: float  # share of the uncut network's answers that stay, 0..1; of the cells of maps, and of boxes


@torch.no_grad()
def curve(
    net: BottleNet, pixels: NDArray[np.uint8], answers: NDArray[Any], budgets: Sequence[int] = BUDGETS
) -> list[Point]:
    """Measure a unit at rising budgets, until enough answers stay, and at last with whole payloads."""
    assert isinstance(net.codec, Entropy)
    symbols = np.concatenate(list(symbols_of(net, list(features_of(net, pixels)))))
    payloads = [net.codec.encode(each) for each in symbols]
    finish = answer_layer(origin_of(net).classifier)
    points = []
    for budget in (*budgets, max(map(len, payloads))):
        cut = [payload[:budget] for payload in payloads]
        right = 0.0
        for at in range(0, len(cut), BATCH):
            known = torch.from_numpy(np.stack([net.codec.decode(each) for each in cut[at : at + BATCH]])).float()
            given = finish(net.scores(net.restoration(net.quantizer.dequantize(known)))).numpy()
            right += same_answers(net.task, answers[at : at + BATCH], given)
        points.append(Point(float(np.mean([len(each) for each in cut])), right / len(cut)))
        if points[-1].agreement >= max(SHARES) or budget >= max(map(len, payloads)):
            break
    return points


def bytes_for(points: Sequence[Point], share: float) -> float | None:
    """Return the bytes at which a share of the answers stays, between two budgets; None where it never does."""
    before: Point | None = None
    for point in points:
        if point.agreement >= share:
            if before is None:
                return point.payload_bytes
            part = (share - before.agreement) / (point.agreement - before.agreement)
            low, high = math.log(before.payload_bytes), math.log(point.payload_bytes)
            return math.exp(low + part * (high - low))
        if before is None or point.agreement >= before.agreement:
            before = point
    return None


@dataclass(frozen=True)
class Rated:
    """A cut, and the bytes of a unit without training there."""

    cut: Cut
    bytes_90: float | None  # at which 90 % of the answers stay; None: at no budget
    bytes_95: float | None
    points: tuple[Point, ...]


def rate(
    classifier: Classifier,
    cuts: Sequence[Cut],
    data: str,
    limit: int,
    on_cut: Callable[[int], None] = lambda done: None,
) -> list[Rated]:
    """Fit and measure a unit at each cut that takes one. InputError: too few photos."""
    to_fit, to_measure = (pixels_of(photos, classifier.preprocess) for photos in divide(data, limit))
    answers, found = answers_of(classifier, to_measure), []
    for number, cut in enumerate(cuts):
        on_cut(number)
        try:
            net = fitted(classifier, cut, to_fit)
        except InputError:  # as `train` would say: no unit goes there
            continue
        points = curve(net, to_measure, answers)
        bytes_90, bytes_95 = (bytes_for(points, share) for share in SHARES)
        found.append(Rated(cut, bytes_90, bytes_95, tuple(points)))
    on_cut(len(cuts))
    return found


def promising(cuts: Sequence[Cut]) -> list[Cut]:
    """Leave out cuts with more elements than an earlier one: as a rule more bytes, for more work on the device.

    Sets stay, as what their tensors have in common is sent once: all that a U-Net's skips say, the first of them says.
    """
    least, found = math.inf, []
    for cut in cuts:
        if cut.elements <= least or cut.tensors:
            least = min(least, cut.elements)
            found.append(cut)
    return found


def best(rated: Sequence[Rated], most_share: float) -> Rated | None:
    """Choose the cut with the fewest bytes for 95 % of those with at most a share of the FLOPs on the device."""
    allowed = [each for each in rated if each.cut.head_flops_share <= most_share and each.bytes_95 is not None]
    return min(allowed, key=lambda each: each.bytes_95 or math.inf, default=None)
