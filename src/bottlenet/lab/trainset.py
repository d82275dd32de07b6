"""What a run trains on: features of its photos, and the uncut network's scores for them; `Cached`, from disk.

`direct.Direct` gives the same without a cache. Where several processes train together each asks for its own parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from bottlenet.errors import InputError
from bottlenet.lab.config import TrainConfig
from bottlenet.lab.crops import is_held_out
from bottlenet.lab.data import LABELS_CSV, Photo, count_sub_folders, list_samples
from bottlenet.lab.evaluate import choose
from bottlenet.lab.features import FeatureCache, Frozen
from bottlenet.lab.frozen import frozen_network
from bottlenet.lab.team import Team
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, load_model
from bottlenet.task import is_dense

COMPONENT_PHOTOS = 1024  # whose features the principal components are of
LARGE_PHOTOS = 128  # the same where an answer is about places: photos are larger, and each has thousands of them
REPORTED = 64  # held-out photos that go through the network together


@dataclass(frozen=True)
class Batch:
    """Photos to learn from, or a part of a step's."""

    features: Tensor  # (B, c, H, W) float32, channels last
    uncut_scores: Tensor  # (B, classes) float32; (B, 0) where an answer is about places
    labels: list[int | None]
    pixels: Tensor | None = None  # (B, S, S, 3) uint8 as the head had them; None where only features are kept


@dataclass(frozen=True)
class Wanted:
    """Positions of photos in the source's list, and of what the first may be mixed with: the one before it."""

    positions: NDArray[np.int64]
    before: int


class Source(Protocol):
    """Photos of `train_set` and `held_out`, which are positions in its list."""

    train_set: NDArray[np.int64]
    held_out: NDArray[np.int64]

    def batches(self, epoch: int, wanted: Iterable[Wanted]) -> Iterator[Batch]:
        """Random crops, other ones in each epoch, in the order of `wanted`."""

    def reported(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        """The same crops of the same photos at each call. A photo that is damaged may be missing."""


class Cached:
    """From a cache on disk, which the main process fills where it lacks something."""

    def __init__(self, config: TrainConfig, classifier: Classifier, net: BottleNet, team: Team, bar: Progress) -> None:
        self.config, self.team, self.bar = config, team, bar
        self.cache = open_cache(config, classifier, net)
        self.filled(0)
        self.train_set, self.held_out = divided(self.cache)

    def filled(self, crop_set: int) -> None:
        with self.team.main_first():
            fill(self.cache, crop_set, self.config, self.bar)

    def batches(self, epoch: int, wanted: Iterable[Wanted]) -> Iterator[Batch]:
        crop_set = epoch % self.config.crops
        self.filled(crop_set)
        return (self.batch(crop_set, each.positions) for each in wanted)

    def reported(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        return (self.batch(0, positions) for positions in chunks)

    def batch(self, crop_set: int, positions: NDArray[np.int64]) -> Batch:
        features, uncut_scores = read(self.cache, crop_set, positions)
        device = self.team.device
        return Batch(
            features.to(device), uncut_scores.to(device), [self.cache.photos[i].label for i in positions.tolist()]
        )


def components_of(train_set: NDArray[np.int64], classifier: Classifier) -> list[NDArray[np.int64]]:
    """Photos whose principal components a run starts at, 64 at a time."""
    most = LARGE_PHOTOS if is_dense(classifier.task) else COMPONENT_PHOTOS
    chosen = np.random.default_rng(0).permutation(train_set)[:most]
    return [chosen[first : first + 64] for first in range(0, len(chosen), 64)]


def listed(config: TrainConfig, classifier: Classifier) -> list[Photo]:
    """All folders' photos, in the order they were given. InputError: labels that can't be the model's."""
    photos: list[Photo] = []
    for folder in config.data:
        found = list_samples(folder)
        if config.label_weight:
            check_labels(found, folder, len(classifier.labels), config.model)
        photos += found
    return list(choose(photos, config.photos or None))


def open_cache(config: TrainConfig, classifier: Classifier, net: BottleNet) -> FeatureCache:
    """The cache of all folders' photos, in the order they were given. InputError: labels that can't be the model's."""
    photos = listed(config, classifier)
    size = net.head_size
    with torch.no_grad():
        device = next(net.parameters()).device
        _, *shape = net.head(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=device)).shape
    return FeatureCache(
        Path(config.cache),
        photos,
        (classifier.preprocess.size, size),
        network=f"{config.frozen_to} {fingerprint(classifier)}",
        shape=tuple(shape),
        classes=0 if is_dense(classifier.task) else len(classifier.labels),
        seed=config.seed,
        blended=config.blend,
        held_out=config.held_out,
    )


def fingerprint(classifier: Classifier) -> str:
    """Of weights and normalisation: features of the same name from other weights are other features."""
    digest = hashlib.sha256(f"{classifier.mean} {classifier.std}".encode())
    for name, value in classifier.module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_labels(photos: Sequence[Photo], folder: str, classes: int, model: str) -> None:
    """InputError: sub-folders that are not as many as the model's classes, or a label beyond those."""
    knows = f"{model} knows 0 to {classes - 1}"
    sub_folders = count_sub_folders(photos, folder)
    if sub_folders is not None and sub_folders != classes:
        raise InputError(
            f"{folder}: its {sub_folders} sub-folders would be label 0 to label {sub_folders - 1}; {knows}: "
            f"give one sub-folder for each class, a {LABELS_CSV}, or label_weight 0"
        )
    for photo in photos:
        if photo.label is not None and photo.label >= classes:
            raise InputError(f"{photo.path} has label {photo.label}; {knows}: give its classes, or label_weight 0")


def fill(
    cache: FeatureCache,
    crop_set: int,
    config: TrainConfig,
    progress: Progress,
    frozen: Callable[[], Frozen] | None = None,
) -> None:
    """Head features and uncut scores of one set of crops, where they are not on disk yet.

    `frozen` gives the network that makes them, if the caller has it.
    """
    if cache.has(crop_set):
        return
    network = frozen() if frozen else frozen_network(load_model(config.model), config.frozen_to, cache.sizes[1])
    task = progress.add_task(f"head features, crops {crop_set + 1} of {config.crops}", total=len(cache.photos))
    for done in cache.fill(crop_set, network):
        progress.update(task, completed=done)
    progress.remove_task(task)


def divided(cache: FeatureCache) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Photos to train on, and those held out."""
    readable = np.asarray(cache.positions(0), np.int64)
    out = np.asarray([is_held_out(cache.photos[i], cache.held_out) for i in readable], bool)
    return readable[~out], readable[out]


def read(cache: FeatureCache, crop_set: int, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """features (B, c, H, W) and the uncut network's scores (B, classes)."""
    features, uncut = (torch.from_numpy(array) for array in cache.read(crop_set, positions.tolist()))
    return laid_out(features), uncut


def laid_out(features: Tensor) -> Tensor:
    """Maps of features as convolutions are fastest on; rows of tokens as they are."""
    return features.to(memory_format=torch.channels_last) if features.ndim == 4 else features
