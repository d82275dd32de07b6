"""Photos decoded by workers and run through the frozen network in every pass: no cache, so no limit on how many.

    files or shards -> workers: crop, mix -> pixels -> frozen head and uncut network -> features, scores

All that is random comes from (seed, epoch, position): a photo's crop is the same whoever decodes it, and whenever. So
neither workers nor processes nor an interruption change what a run learns from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bottlenet.errors import PhotoError
from bottlenet.lab.config import TrainConfig
from bottlenet.lab.crops import Damaged, Views, blend, is_held_out, random_views
from bottlenet.lab.data import Photo
from bottlenet.lab.features import Frozen
from bottlenet.lab.frozen import FeaturesAndScores, frozen_network
from bottlenet.lab.team import Team
from bottlenet.lab.trainset import Batch, Wanted, laid_out, listed
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, Normalize
from bottlenet.net.split import split
from bottlenet.photo import read_photo
from bottlenet.task import is_dense

PREFETCHED = 2  # batches that each worker has ready


@dataclass(frozen=True)
class Request:
    """What a worker is asked for."""

    epoch: int
    wanted: Wanted
    mixed: bool  # some with the one before


@dataclass(frozen=True)
class Decoded:
    """What it gives back. A damaged photo is left out, or where photos are mixed, the one before it stands in."""

    pixels: tuple[Tensor, ...]  # (n, S, S, 3) uint8, for each size
    positions: list[int]
    damaged: list[tuple[int, str]]  # position, and what is wrong


class Photos(Dataset[Decoded]):
    """Requests -> pixels, in a worker."""

    def __init__(self, photos: Sequence[Photo], sizes: Sequence[int], seed: int, blended: float) -> None:
        self.photos, self.sizes, self.seed, self.blended = photos, sizes, seed, blended

    def __getitem__(self, request: Request) -> Decoded:
        damaged: list[tuple[int, str]] = []
        views, positions = [], []
        # Damaged, it counts where it is itself asked for.
        before = self.views(request, request.wanted.before, []) if request.mixed else None
        for position in request.wanted.positions.tolist():
            mine = self.views(request, position, damaged)
            if mine is not None:
                views.append(self.mixed(request, position, mine, before))
                positions.append(position)
                before = mine
            elif request.mixed and before is not None:
                views.append(before)
                positions.append(position)
        stacked = tuple(torch.from_numpy(np.stack(each)) for each in zip(*views, strict=True))
        return Decoded(stacked, positions, damaged)

    def views(self, request: Request, position: int, damaged: list[tuple[int, str]]) -> Views | None:
        """A random crop; None where the photo can't be read."""
        rng = np.random.default_rng((self.seed, request.epoch, position))
        try:
            return random_views(read_photo(self.photos[position].source()), self.sizes, rng)
        except PhotoError as error:
            damaged.append((position, str(error)))
            return None

    def mixed(self, request: Request, position: int, views: Views, before: Views | None) -> Views:
        """As it is, or with the one before."""
        if not request.mixed or before is None:
            return views
        rng = np.random.default_rng((self.seed, request.epoch, position, 1))
        return blend(views, before, rng.uniform(0.5, 1)) if rng.random() < self.blended else views


class Requests:
    """What the loader's workers are asked for next."""

    def __init__(self) -> None:
        self.next: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.next)


class Direct:
    """A source without a cache."""

    def __init__(self, config: TrainConfig, classifier: Classifier, net: BottleNet, team: Team) -> None:
        self.photos = listed(config, classifier)
        self.team = team
        out = np.asarray([is_held_out(photo, config.held_out) for photo in self.photos], bool)
        self.train_set, self.held_out = np.flatnonzero(~out), np.flatnonzero(out)
        self.damaged, self.seen = Damaged(len(self.photos)), set[int]()
        sizes = (classifier.preprocess.size, net.head_size)
        self.shared = sizes[0] == sizes[1]  # one size of pixels serves both
        self.frozen = frozen_of(config, classifier, net.head_size, team)
        self.requests = Requests()
        workers = config.workers
        self.loader: DataLoader[Decoded] = DataLoader(
            Photos(self.photos, sizes[: 1 if self.shared else 2], config.seed, config.blend),
            batch_size=None,
            sampler=self.requests,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCHED if workers else None,
        )

    def batches(self, epoch: int, wanted: Iterable[Wanted]) -> Iterator[Batch]:
        return self.asked(Request(epoch, each, mixed=True) for each in wanted)

    def reported(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        return self.asked(Request(0, Wanted(positions, 0), mixed=False) for positions in chunks)

    def asked(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """InputError: more than 1 % of the photos are damaged."""
        self.requests.next = requests
        for decoded in self.loader:
            for position, what in decoded.damaged:
                if position not in self.seen:
                    self.seen.add(position)
                    self.damaged.add(self.photos[position].path, PhotoError(what))
            if decoded.positions:
                features, scores = self.frozen(decoded.pixels[0], decoded.pixels[-1])
                labels = [self.photos[i].label for i in decoded.positions]
                yield Batch(features, scores, labels, decoded.pixels[-1])


class FrozenOnDevice(nn.Module):
    """The frozen network in torch, for a GPU: features at the cut, and the uncut network's scores."""

    def __init__(self, config: TrainConfig, classifier: Classifier, head_size: int) -> None:
        super().__init__()
        whole = copy.deepcopy(classifier.module).eval()
        halves = split(whole, config.frozen_to, (3, head_size, head_size))
        self.head = nn.Sequential(Normalize(classifier.mean, classifier.std), halves.head)
        self.both = FeaturesAndScores(self.head, halves.tail) if head_size == classifier.preprocess.size else None
        self.whole = nn.Sequential(Normalize(classifier.mean, classifier.std), whole)
        self.dense = is_dense(classifier.task)

    def forward(self, uncut_pixels: Tensor, head_pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `features.Frozen`, of tensors."""
        if self.dense:
            return self.head(head_pixels), head_pixels.new_empty(len(head_pixels), 0, dtype=torch.float32)
        if self.both is not None:
            features, scores = self.both(uncut_pixels)
            return features, scores
        return self.head(head_pixels), self.whole(uncut_pixels)


class OnCpu:
    """The same by onnxruntime, which is three times as fast there."""

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen

    def __call__(self, uncut_pixels: Tensor, head_pixels: Tensor) -> tuple[Tensor, Tensor]:
        features, scores = self.frozen(uncut_pixels.numpy(), head_pixels.numpy())
        return laid_out(torch.from_numpy(features)), torch.from_numpy(scores)


class OnGpu:
    """Takes pixels there, and computes in the precision that the run was told."""

    def __init__(self, module: FrozenOnDevice, team: Team) -> None:
        self.module, self.team = module.to(team.device).to(memory_format=torch.channels_last), team  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, uncut_pixels: Tensor, head_pixels: Tensor) -> tuple[Tensor, Tensor]:
        uncut_pixels, head_pixels = (pixels.to(self.team.device) for pixels in (uncut_pixels, head_pixels))
        with self.team.precision():
            features, scores = self.module(uncut_pixels, head_pixels)
        return laid_out(features.float()), scores.float()


def frozen_of(config: TrainConfig, classifier: Classifier, head_size: int, team: Team) -> OnCpu | OnGpu:
    """What does not learn, where this process computes."""
    if team.device.type == "cpu":
        return OnCpu(frozen_network(classifier, config.frozen_to, head_size))
    return OnGpu(FrozenOnDevice(config, classifier, head_size), team)
