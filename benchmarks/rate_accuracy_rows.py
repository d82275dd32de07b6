"""What a network that is cut costs and what it keeps, for rate_accuracy.py: payloads as they are sent, then decoded.

    photo -> pixels --symbols--> symbols --Coding--> payload, whole and cut --Coding--> symbols_hat --scores--> answer

The first half runs once a photo, for all codings and budgets. One batch of photos is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from bottlenet.bundle import Bundle, Preprocess
from bottlenet.errors import InputError
from bottlenet.net.model import BottleNet, to_uint8
from bottlenet.net.models import Classifier, Normalize
from bottlenet.photos.crops import Damaged, centre_views
from bottlenet.photos.folders import Photo
from bottlenet.runtime import Head, open_session, open_tail, run_graph
from bottlenet.train.config import TrainConfig
from bottlenet.train.features import graph_of
from bottlenet.train.runs import some_pixels
from bottlenet.wire.codecs import Codec
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.tables import Bins, fit_tables

BATCH = 8

Symbols = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One way to send, on all photos. Rates in percent."""

    setting: str
    payload_bytes: float  # mean
    largest_bytes: int
    top1: float
    agreement: float  # photos with the uncut network's answer
    drop: float  # points of top-1 below the uncut network


@dataclass(frozen=True)
class Result:
    """All rows of one network."""

    name: str
    curve: str  # networks of one name are points of one curve
    head_flops_share: float  # of the uncut network's, 0..1
    trained_photos: int | None  # repeated ones counted again; None: not known
    rows: tuple[Row, ...]
    bundle_id: str = ""


@dataclass(frozen=True)
class Coding:
    """A codec, and where its payloads are cut: None leaves them whole."""

    setting: str
    codec: Codec
    budgets: tuple[int | None, ...] = (None,)

    def names(self) -> list[str]:
        return [self.setting if budget is None else f"{budget} bytes" for budget in self.budgets]

    def payloads(self, symbols: Symbols) -> Iterator[list[bytes]]:
        """Encode (B, C, h, w): for each budget the payloads of the batch."""
        whole = [self.codec.encode(one) for one in symbols]
        for budget in self.budgets:
            yield [payload[:budget] for payload in whole]


@dataclass(frozen=True)
class Halves:
    """A network that was cut, ready to run."""

    preprocess: Preprocess
    symbols: Callable[[NDArray[np.uint8]], Symbols]  # pixels (B, S, S, 3) -> (B, C, h, w)
    scores: Callable[[Symbols], NDArray[np.float32]]  # -> (B, classes)


@dataclass(frozen=True)
class Uncut:
    """What the uncut network says of the photos; those that could not be read are in neither."""

    labels: list[int]
    answers: list[int]

    @property
    def top1(self) -> float:
        return percent(np.array(self.labels) == np.array(self.answers))


def of_net(net: BottleNet, classifier: Classifier) -> Halves:
    """Run a network in evaluation mode, by torch; it may take smaller photos than the classifier."""
    preprocess = replace(classifier.preprocess, size=net.head_size)

    @torch.no_grad()
    def symbols(pixels: NDArray[np.uint8]) -> Symbols:
        return to_uint8(net.quantizer.quantize(net.reduction(net.head(torch.from_numpy(pixels)))))

    @torch.no_grad()
    def scores(symbols_hat: Symbols) -> NDArray[np.float32]:
        latent = net.quantizer.dequantize(torch.from_numpy(symbols_hat).float())
        return np.asarray(net.tail(net.restoration(latent)))

    return Halves(preprocess, symbols, scores)


def of_bundle(bundle: Bundle) -> Halves:
    """Run a bundle's two graphs."""
    head, tail = Head(bundle), open_tail(bundle)
    return Halves(
        bundle.manifest.preprocess,
        head,
        lambda symbols: run_graph(tail, symbols=symbols),
    )


def uncut_answers(classifier: Classifier, photos: Sequence[Photo], progress: Progress) -> Uncut:
    """Run the uncut network on all photos."""
    whole = nn.Sequential(Normalize(classifier.mean, classifier.std), classifier.module)
    session = open_session(graph_of(whole, classifier.preprocess.size, "scores"))
    labels, answers = [], []
    for pixels, known in batches(photos, classifier.preprocess, progress, "uncut network"):
        answers += run_graph(session, pixels=pixels).argmax(1).tolist()
        labels += known.tolist()
    return Uncut(labels, answers)


def batches(
    photos: Sequence[Photo], preprocess: Preprocess, progress: Progress, name: str
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield (pixels (B, S, S, 3), labels (B,)) of all photos that can be read."""
    task = progress.add_task(f"evaluating: {name}", total=len(photos))
    crops = centre_views(photos, (preprocess.size,), Damaged(len(photos)), preprocess)
    while batch := list(islice(crops, BATCH)):
        labels = [photos[position].label for position, _ in batch]
        yield np.stack([pixels for _, (pixels,) in batch]), np.array(labels, np.int64)
        progress.advance(task, len(batch))
    progress.remove_task(task)


def measure(
    halves: Halves, codings: Sequence[Coding], photos: Sequence[Photo], uncut: Uncut, progress: Progress, name: str
) -> list[Row]:
    """Measure a row for each coding and budget."""
    names = [one for coding in codings for one in coding.names()]
    sizes: list[list[int]] = [[] for _ in names]
    answers: list[list[int]] = [[] for _ in names]
    for pixels, _ in batches(photos, halves.preprocess, progress, name):
        symbols = halves.symbols(pixels)
        number = 0
        for coding in codings:
            for payloads in coding.payloads(symbols):
                decoded = np.stack([coding.codec.decode(payload) for payload in payloads])
                sizes[number] += map(len, payloads)
                answers[number] += halves.scores(decoded).argmax(1).tolist()
                number += 1
    return [row(*found, uncut) for found in zip(names, sizes, answers, strict=True)]


def row(name: str, sizes: Sequence[int], answers: Sequence[int], uncut: Uncut) -> Row:
    """InputError: photos that the uncut network could read, and this one not, or the reverse."""
    if len(answers) != len(uncut.answers):
        raise InputError(f"{len(answers)} photos can be read, {len(uncut.answers)} could before; give a new folder")
    top1 = percent(np.array(answers) == np.array(uncut.labels))
    agreement = percent(np.array(answers) == np.array(uncut.answers))
    return Row(name, float(np.mean(sizes)), max(sizes), top1, agreement, uncut.top1 - top1)


def percent(hits: NDArray[np.bool_]) -> float:
    """Share of True."""
    return float(hits.mean()) * 100


def with_tables(net: BottleNet, config: TrainConfig, classifier: Classifier, bins: Bins, count: int) -> None:
    """Give the entropy codec of a trained network tables, counted on `count` of its training photos."""
    codec = net.codec
    assert isinstance(codec, Entropy)
    halves = of_net(net, classifier)
    pixels = some_pixels(config, halves.preprocess, count)

    def symbols() -> Iterator[Symbols]:
        while batch := list(islice(pixels, BATCH)):
            yield halves.symbols(np.stack(batch))

    net.codec = Entropy(codec.mosaic, fit_tables(symbols(), codec.tables.passes, bins=bins))
