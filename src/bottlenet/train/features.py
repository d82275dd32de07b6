"""What a run trains on: features of its photos at the cut, and the uncut network's scores for them.

`Cached` computes them once for each set of random crops and keeps them on disk, a file a crop set: a record for each
photo, features and scores in float16. Records are read one by one: memory does not depend on how many there are.

`Direct` computes them anew in every pass, so there is no limit on how many photos there are:

    files or shards -> workers: crop, mix -> pixels -> frozen head and uncut network -> features, scores

All that is random comes from (seed, epoch, position), so that neither workers nor processes nor an interruption change
what a run learns from. With `end_to_end` nothing is frozen: the features are the photos themselves, normalised.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError, PhotoError
from bottlenet.files import part_of, read_records, write_whole
from bottlenet.net.cut import split
from bottlenet.net.export import to_onnx
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, Normalize, fingerprint, load_model
from bottlenet.photo import read_photo
from bottlenet.photos.crops import HELD_OUT, Damaged, Views, blend, centre_views, is_held_out, random_views, read_views
from bottlenet.photos.folders import LABELS_CSV, Photo, choose, count_sub_folders, list_samples
from bottlenet.runtime import InferenceSession, open_session, run_all, run_graph
from bottlenet.train.config import TrainConfig
from bottlenet.train.team import Team

COMPONENT_PHOTOS = 1024  # whose features the principal components are of
FEW_PHOTOS = 128  # the same where each has thousands of places, or where features are whole photos
REPORTED = 64  # held-out photos that go through the network together
ONE_A_CLASS = f"give one sub-folder for each class, a {LABELS_CSV}, or label_weight 0"


@dataclass(frozen=True)
class Batch:
    """Photos to learn from, or a slice of a step's."""

    features: Tensor  # (B, c, H, W) float32, channels last
    uncut_scores: Tensor  # (B, classes) float32, or a detector's rows in one; (B, 0) where nothing learns from them
    labels: list[int | None]
    pixels: Tensor | None = None  # (B, S, S, 3) uint8 as the head had them; None where only features are kept


@dataclass(frozen=True)
class Selection:
    """Positions of photos in the source's list, and of the one that the first may be mixed with."""

    positions: NDArray[np.int64]
    before: int


class Cached:
    """A source with a cache that the main process fills; `train_set` and `held_out` are positions of its photos."""

    def __init__(self, config: TrainConfig, classifier: Classifier, net: BottleNet, team: Team, bar: Progress) -> None:
        self.config, self.team, self.bar = config, team, bar
        self.cache = open_cache(config, classifier, net)
        self.fill(0)
        self.train_set, self.held_out = train_and_held_out(self.cache)

    def fill(self, crop_set: int) -> None:
        with self.team.state.main_process_first():  # the others find it done
            fill_cache(self.cache, crop_set, self.config, self.bar)

    def batches(self, epoch: int, wanted: Iterable[Selection]) -> Iterator[Batch]:
        """Yield random crops, others in each epoch, in the order of `wanted`."""
        crop_set = epoch % self.config.crops
        self.fill(crop_set)
        return (self.batch(crop_set, each.positions) for each in wanted)

    def reported(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        """Yield the same crops of the same photos at each call. A photo that is damaged may be missing."""
        return (self.batch(0, positions) for positions in chunks)

    def batch(self, crop_set: int, positions: NDArray[np.int64]) -> Batch:
        features, scores = (each.to(self.team.device) for each in read_features(self.cache, crop_set, positions))
        return Batch(features, scores, [self.cache.photos[i].label for i in positions.tolist()])


PREFETCHED = 2  # batches that each worker has ready


class Direct:
    """A source without a cache."""

    def __init__(self, config: TrainConfig, classifier: Classifier, net: BottleNet, team: Team) -> None:
        self.photos = training_photos(config, classifier)
        self.team = team
        out = np.asarray([is_held_out(photo, config.held_out) for photo in self.photos], bool)
        self.train_set, self.held_out = np.flatnonzero(~out), np.flatnonzero(out)
        self.damaged, self.counted = Damaged(len(self.photos)), set[int]()
        sizes = (classifier.preprocess.size, net.head_size)
        self.shared = sizes[0] == sizes[1]  # one size of pixels serves both
        self.frozen = frozen_of(config, classifier, net.head_size, team)
        taught = config.distillation_weight > 0  # else the uncut network runs for the reports alone
        self.head = self.frozen if taught else frozen_of(config, classifier, net.head_size, team, scores=False)
        self.requests = Requests()
        workers = config.workers
        self.loader: DataLoader[Decoded] = DataLoader(
            PhotoDataset(self.photos, sizes[: 1 if self.shared else 2], config.seed, config.blend),
            batch_size=None,
            sampler=self.requests,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCHED if workers else None,
        )

    def batches(self, epoch: int, wanted: Iterable[Selection]) -> Iterator[Batch]:
        return self.loaded((Request(epoch, each, mixed=True) for each in wanted), self.head)

    def reported(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        requests = (Request(0, Selection(positions, 0), mixed=False) for positions in chunks)
        return self.loaded(requests, self.frozen)

    def loaded(self, requests: Iterable[Request], frozen: FrozenHere) -> Iterator[Batch]:
        """Yield batches. InputError: most of the photos are damaged."""
        self.requests.next = requests
        for decoded in self.loader:
            for position, what in decoded.damaged:
                if position not in self.counted:
                    self.counted.add(position)
                    self.damaged.add(self.photos[position].path, PhotoError(what))
            if decoded.positions:
                features, scores = frozen(decoded.pixels[0], decoded.pixels[-1])
                labels = [self.photos[i].label for i in decoded.positions]
                yield Batch(features, scores, labels, decoded.pixels[-1])


Source = Cached | Direct


@dataclass(frozen=True)
class Request:
    """A worker's next task."""

    epoch: int
    wanted: Selection
    mixed: bool  # some with the one before


class Requests:
    """The loader's sampler: hands the next requests to its workers."""

    def __init__(self) -> None:
        self.next: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.next)


@dataclass(frozen=True)
class Decoded:
    """A worker's result. A damaged photo is left out, or where photos are mixed, the one before it stands in."""

    pixels: tuple[Tensor, ...]  # (n, S, S, 3) uint8, for each size
    positions: list[int]
    damaged: list[tuple[int, str]]  # position, and what is wrong


class PhotoDataset(Dataset[Decoded]):
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
        """Crop at random; None where the photo can't be read."""
        rng = np.random.default_rng((self.seed, request.epoch, position))
        try:
            return random_views(read_photo(self.photos[position].source()), self.sizes, rng)
        except PhotoError as error:
            damaged.append((position, str(error)))
            return None

    def mixed(self, request: Request, position: int, views: Views, before: Views | None) -> Views:
        """Mix with the one before, perhaps."""
        if not request.mixed or before is None:
            return views
        rng = np.random.default_rng((self.seed, request.epoch, position, 1))
        return blend(views, before, rng.uniform(0.5, 1)) if rng.random() < self.blended else views


def training_photos(config: TrainConfig, classifier: Classifier) -> list[Photo]:
    """List all folders' photos, in the order of the folders. InputError: labels that can't be the model's."""
    photos: list[Photo] = []
    for folder in config.data:
        found = list_samples(folder)
        if config.label_weight:
            check_labels(found, folder, len(classifier.labels), config.model)
        photos += found
    if config.label_weight and all(photo.label is None for photo in photos):
        raise InputError(f"{', '.join(config.data)}: no photo has a label; {ONE_A_CLASS}")
    return list(choose(photos, config.photos or None))


def check_labels(photos: Sequence[Photo], folder: str, classes: int, model: str) -> None:
    """Raise InputError where sub-folders are not as many as the model's classes, or a label is beyond those."""
    knows = f"{model} knows 0 to {classes - 1}"
    sub_folders = count_sub_folders(photos, folder)
    if sub_folders is not None and sub_folders != classes:
        what = f"its {sub_folders} sub-folders would be label 0 to label {sub_folders - 1}; {knows}"
        raise InputError(f"{folder}: {what}: {ONE_A_CLASS}")
    for photo in photos:
        if photo.label is not None and photo.label >= classes:
            raise InputError(f"{photo.path} has label {photo.label}; {knows}: give its classes, or label_weight 0")


def components_of(train_set: NDArray[np.int64], *, few: bool) -> list[NDArray[np.int64]]:
    """Select the photos whose principal components a run starts at, 64 at a time."""
    most = FEW_PHOTOS if few else COMPONENT_PHOTOS
    chosen = np.random.default_rng(0).permutation(train_set)[:most]
    return [chosen[first : first + 64] for first in range(0, len(chosen), 64)]


def open_cache(config: TrainConfig, classifier: Classifier, net: BottleNet) -> FeatureCache:
    """Open the cache of all folders' photos. InputError: labels that can't be the model's."""
    photos = training_photos(config, classifier)
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
        classes=0 if classifier.features_alone else scores_of(classifier),
        seed=config.seed,
        blended=config.blend,
        held_out=config.held_out,
    )


@torch.no_grad()
def scores_of(classifier: Classifier) -> int:
    """Count the numbers that the network gives for a photo: one a class, or those of a detector's rows."""
    if classifier.answer is None:
        return len(classifier.labels)
    rows: Tensor = classifier.module(torch.zeros(1, *classifier.input_size))
    return rows.numel()


def fill_cache(
    cache: FeatureCache, crop_set: int, config: TrainConfig, bar: Progress, frozen: Callable[[], Frozen] | None = None
) -> None:
    """Compute what the cache lacks of a set of crops, with the network of `frozen`, if the caller has it."""
    if cache.has(crop_set):
        return
    network = frozen() if frozen else frozen_network(load_model(config.model), config.frozen_to, cache.sizes[1])
    task = bar.add_task(f"head features, crops {crop_set + 1} of {config.crops}", total=len(cache.photos))
    try:
        for done in cache.fill(crop_set, network):
            bar.update(task, completed=done)
    except OSError as error:
        why, do = f"features can't be kept there ({error.strerror})", "make room, or give another cache or no_cache"
        raise InputError(f"{cache.folder}: {why}; {do}") from error
    bar.remove_task(task)


def train_and_held_out(cache: FeatureCache) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide the photos into those to train on, and those held out."""
    readable = np.asarray(cache.positions(0), np.int64)
    out = np.asarray([is_held_out(cache.photos[i], cache.held_out) for i in readable], bool)
    return readable[~out], readable[out]


def read_features(cache: FeatureCache, crop_set: int, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Read features (B, c, H, W) and the uncut network's scores (B, classes) as tensors."""
    features, uncut = (torch.from_numpy(array) for array in cache.read(crop_set, positions.tolist()))
    return features, uncut


# pixels for the uncut network (B, S, S, 3) uint8 and for the head (B, T, T, 3)
#   -> features (B, ...), scores (B, classes)
Frozen = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]
FrozenHere = Callable[[Tensor, Tensor], Iterable[Tensor]]  # the same on the device that computes
BATCH = 16


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Crop sets of one list of photos through one frozen network. Where any of these differs, another `folder` is."""

    root: Path  # the folder lies in it
    photos: Sequence[Photo]
    sizes: tuple[int, int]  # sides of the pixels that the uncut network and the head take
    network: str  # its name
    shape: tuple[int, ...]  # of a photo's features
    classes: int  # how many scores it has
    seed: int  # of the crops
    blended: float = 0.0  # share of the crops that are mixed with another
    held_out: int = HELD_OUT  # one photo of so many is not
    centre: Preprocess | None = None  # one set of centre crops as this says, in place of random ones

    @cached_property
    def record(self) -> np.dtype[np.void]:
        return np.dtype([("features", "<f2", self.shape), ("scores", "<f2", (self.classes,))])

    @cached_property
    def folder(self) -> Path:
        names = "\n".join(f"{photo.path} {stamp_of(photo.file)}" for photo in self.photos)
        crops = f"{self.seed} {self.blended}" + ("" if self.held_out == HELD_OUT else f" {self.held_out}")
        crops = crops if self.centre is None else f"{self.centre}"
        return self.root / hashlib.sha256(f"{self.network} {self.sizes} {crops}\n{names}".encode()).hexdigest()[:16]

    def path(self, crop_set: int) -> Path:
        """Return where a set of random crops is kept."""
        return self.folder / f"random-{crop_set:03}.f16"

    def has(self, crop_set: int) -> bool:
        """Tell if the set is there as a whole."""
        return self.path(crop_set).exists()

    def fill(self, crop_set: int, frozen: Frozen) -> Iterator[int]:
        """Compute a crop set, whole or not at all, yielding how many photos are done. InputError: most are damaged."""
        path = self.path(crop_set)
        self.folder.mkdir(parents=True, exist_ok=True)
        damaged = Damaged(len(self.photos))
        missing = set(range(len(self.photos)))
        with part_of(path) as part:
            with part.open("wb") as file:
                file.truncate(len(self.photos) * self.record.itemsize)
                for positions, records in self._records(frozen, damaged, crop_set):
                    for position, record in zip(positions, records, strict=True):
                        file.seek(position * self.record.itemsize)
                        file.write(record.tobytes())
                    missing -= set(positions)
                    yield len(self.photos) - len(missing)
            write_whole(path.with_suffix(".json"), json.dumps({"missing": sorted(missing)}).encode())

    def _records(self, frozen: Frozen, damaged: Damaged, crop_set: int) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield positions, and their records. InputError: features or scores that float16 can't hold."""
        crops = self._views(damaged, crop_set)
        while batch := list(itertools.islice(crops, BATCH)):
            positions, views = zip(*batch, strict=True)
            uncut_pixels, head_pixels = (np.stack(pixels) for pixels in zip(*views, strict=True))
            records = np.empty(len(positions), self.record)
            with np.errstate(over="ignore"):  # to infinity, which is refused below
                records["features"], records["scores"] = frozen(uncut_pixels, head_pixels)
            if not (good := np.isfinite(records.view(np.float16).reshape(len(records), -1)).all(axis=1)).all():
                path = self.photos[positions[int(good.argmin())]].path
                what = "the network's features or scores are not all numbers that float16 can hold"
                raise InputError(f"{path}: {what}; give another cut or network, or no_cache")
            yield list(positions), records

    def _views(self, damaged: Damaged, crop_set: int) -> Iterator[tuple[int, Views]]:
        if self.centre is not None:
            return centre_views(self.photos, self.sizes, damaged, self.centre)
        # a seed of 32 bits that other pairs of numbers have only by chance
        seed = int.from_bytes(hashlib.sha256(repr((self.seed, crop_set)).encode()).digest()[:4], "big")
        return read_views(self.photos, self.sizes, damaged, seed=seed, blended=self.blended, held_out=self.held_out)

    def positions(self, crop_set: int) -> list[int]:
        """List the photos of the set that could be read."""
        missing = set(json.loads(self.path(crop_set).with_suffix(".json").read_text())["missing"])
        return [i for i in range(len(self.photos)) if i not in missing]

    def read(self, crop_set: int, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Read features (n, *shape) float32 and uncut scores (n, classes) float32."""
        data = read_records(self.path(crop_set), self.record.itemsize, positions)
        records = np.frombuffer(data, self.record)
        return records["features"].astype(np.float32), records["scores"].astype(np.float32)


def stamp_of(path: Path) -> str:
    """Return size and time of a file; zeros where it is gone, as it is then damaged for whoever reads it."""
    try:
        status = path.stat()
    except OSError:
        return "0 0"
    return f"{status.st_size} {status.st_mtime_ns}"


class FrozenNetwork(nn.Module):
    """pixels for the uncut network and for the head -> features at `cut`, scores; (B, 0) without them or of places."""

    def __init__(self, classifier: Classifier, cut: str, head_size: int, *, scores: bool) -> None:
        super().__init__()
        halves = split(classifier.module, cut, (3, head_size, head_size)) if cut else None
        frozen, tail = (nn.Identity(), classifier.module) if halves is None else (halves.head, halves.tail)
        normalize = Normalize(classifier.mean, classifier.std)
        self.alone = classifier.features_alone or not scores
        self.once = head_size == classifier.preprocess.size
        self.head = nn.Sequential(normalize, frozen)
        self.both = FeaturesAndScores(self.head, tail)
        self.whole = nn.Sequential(normalize, classifier.module, nn.Flatten(1))

    def forward(self, uncut_pixels: Tensor, head_pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self.alone:
            return self.head(head_pixels), head_pixels.new_empty(len(head_pixels), 0, dtype=torch.float32)
        if self.once:
            features, scores = self.both(uncut_pixels)
            return features, scores
        return self.head(head_pixels), self.whole(uncut_pixels)


class FeaturesAndScores(nn.Module):
    """pixels (B, S, S, 3) uint8 -> features at a cut (B, c, H, W), scores (B, classes)."""

    def __init__(self, head: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.head, self.tail = head, tail

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.head(pixels)
        return features, self.tail(features).flatten(1)


def frozen_network(classifier: Classifier, cut: str, head_size: int, *, scores: bool = True) -> Frozen:
    """Run a `FrozenNetwork` through onnxruntime, which on a CPU is three times as fast as torch."""
    network, size = FrozenNetwork(classifier, cut, head_size, scores=scores), classifier.preprocess.size

    def opened(module: nn.Module, side: int, *outputs: str) -> InferenceSession:
        return open_session(graph_of(module, side, *outputs), threads=torch.get_num_threads())

    if network.once and not network.alone:
        both = opened(network.both, size, "features", "scores")
        return lambda uncut_pixels, _: run_all(both, pixels=uncut_pixels)
    head = opened(network.head, head_size, "features")
    if network.alone:
        return lambda _, pixels: (run_graph(head, pixels=pixels), np.empty((len(pixels), 0), np.float32))
    whole = opened(network.whole, size, "scores")
    return lambda uncut_pixels, pixels: (run_graph(head, pixels=pixels), run_graph(whole, pixels=uncut_pixels))


def graph_of(module: nn.Module, size: int, *outputs: str) -> bytes:
    """Convert to ONNX, for pixels of `size`."""
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    return to_onnx(module.eval(), example, inputs=["pixels"], outputs=outputs)


def frozen_of(
    config: TrainConfig, classifier: Classifier, head_size: int, team: Team, *, scores: bool = True
) -> FrozenHere:
    """Build the frozen network where this process computes, on a GPU in the precision of the run."""
    if team.device.type == "cpu":
        frozen = frozen_network(classifier, config.frozen_to, head_size, scores=scores)
        return lambda *pixels: map(torch.from_numpy, frozen(*(each.numpy() for each in pixels)))
    network = FrozenNetwork(classifier, config.frozen_to, head_size, scores=scores)
    module = copy.deepcopy(network).eval().to(team.device)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def on_gpu(*pixels: Tensor) -> list[Tensor]:
        with team.precision():
            found = module(*(each.to(team.device) for each in pixels))
        return [each.float() for each in found]

    try:
        on_gpu(*(torch.zeros(2, side, side, 3, dtype=torch.uint8) for side in (classifier.preprocess.size, head_size)))
    except RuntimeError:  # such as of a `view`, see `BottleNet.use_channels_last`
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return on_gpu
