"""One trial of a sweep: the features of its cut, its training, and what it is worth on photos that it never saw.

data --held_out--> photos to train on -> features of random crops -> train  -> unit and tail
`-------> photos to measure  -> features of centre crops -----------> Figures
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from bottlenet.errors import InputError
from bottlenet.net.build import UnitConfig, check_patch, codec_of, insert
from bottlenet.net.cut import split
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, load_model
from bottlenet.net.unit import UnitSpec
from bottlenet.photos.crops import is_held_out
from bottlenet.photos.folders import Photo, choose, known_labels, list_photos
from bottlenet.records import percent, sizes
from bottlenet.task import needs_one_label
from bottlenet.train.config import TrainConfig
from bottlenet.train.features import FeatureCache, fill, fingerprint, frozen_network, open_cache, read
from bottlenet.train.objective import distillation
from bottlenet.train.runs import CHECKPOINT, load_averaged, saved_position
from bottlenet.train.sweep.folder import Result, Search, SweepConfig, SweepFolder
from bottlenet.train.sweep.grid import Figures, Trial
from bottlenet.train.train import AstrayError, forward, train
from bottlenet.wire.mosaic import Mosaic

log = logging.getLogger(__name__)

ENOUGH_LABELS = 100  # photos with a label: with fewer, top-1 is known to ten points, and agreement is better
FEWEST_MEASURED = 20
BATCH = 64


def find_trials(config: SweepConfig, search: Search) -> tuple[str, tuple[Trial, ...]]:
    """The network's fingerprint, and all trials. InputError: an unknown model or cut, or a unit that can't be there."""
    classifier = load_model(config.model)
    needs_one_label(classifier.task, "`bottlenet sweep`")
    grids = {}
    for name in search.cuts:
        cut = split(classifier.module, name, classifier.input_size).cut
        if cut.layout is None:
            raise InputError(f"cut {name!r} has shape {cut.shape}: a unit needs channels, height and width")
        grids[name] = cut.layout.grid
    trials = search.trials(grids)
    for trial in trials:
        check_trial(config, trial, grids[trial.cut])
    train_config(config, trials[0], SweepFolder(""))
    return fingerprint(classifier), trials


def check_trial(config: SweepConfig, trial: Trial, grid: tuple[int, int, int]) -> None:
    """InputError: no such unit for features whose grid is (C, H, W), or no such codec for its latent."""
    c, height, width = grid
    try:
        spec = UnitSpec(c, trial.channels, trial.stride, (height, width))
        check_patch(c, trial.stride)
    except InputError as error:
        raise InputError(f"trial {trial.name}: {error}") from error
    if config.codec != "entropy":  # whose tables are made later
        codec_of(unit_config(config, trial), Mosaic(*spec.latent_shape))


def unit_config(config: SweepConfig, trial: Trial) -> UnitConfig:
    """What `insert` is told."""
    quality = UnitConfig.quality if config.codec == "entropy" else trial.quality
    return UnitConfig(trial.cut, config.unit, trial.channels, trial.stride, config.codec, quality)


def train_config(config: SweepConfig, trial: Trial, folder: SweepFolder) -> TrainConfig:
    """What `train` is told. InputError: numbers that can't be."""
    unit = unit_config(config, trial)
    return TrainConfig(
        model=config.model,
        data=config.data,
        out=str(folder.run(trial)),
        cut=unit.cut,
        unit=unit.unit,
        channels=unit.channels,
        stride=unit.stride,
        codec=unit.codec,
        quality=unit.quality,
        target_bytes=float(trial.quality) if config.codec == "entropy" else 0.0,
        epochs=config.epochs,
        crops=config.crops,
        blend=config.blend,
        batch=config.batch,
        lr=config.lr,
        tail_lr=config.tail_lr,
        photos=config.photos,
        held_out=config.held_out,
        components=True,
        seed=config.seed,
        cache=str(folder.features),
    )


def prepare(config: SweepConfig, trial: Trial, folder: SweepFolder, progress: Progress) -> None:
    """Compute the features that all trials at this trial's cut start from, where they are not on disk yet.

    InputError: as `train`, or too few photos to measure on.
    """
    told = train_config(config, trial, folder)
    classifier = load_model(config.model)
    cache = open_cache(told, classifier, insert(classifier, **told.unit_numbers()))
    centres = list(centre_caches(config, classifier, cache))
    for each in (cache, *centres):
        each.remove_parts()  # of a sweep that was killed; nobody else is at this cut
    frozen = lru_cache(partial(frozen_network, classifier, told.frozen_to, cache.sizes[1]))
    for crop_set in range(min(config.crops, config.epochs)):
        fill(cache, crop_set, told, progress, frozen)
    for centre in centres:
        fill(centre, 0, told, progress, frozen)


def run_trial(config: SweepConfig, trial: Trial, folder: SweepFolder, progress: Progress) -> Result:
    """Train, or go on training, and measure. InputError: as `prepare`."""
    started = time.process_time()
    told = train_config(config, trial, folder)
    net, steps = trained(told, progress)
    classifier = load_model(config.model)
    caches = list(centre_caches(config, classifier, open_cache(told, classifier, net)))
    for centre in caches:
        fill(centre, 0, told, progress)
    figures = [measure(net, centre) for centre in caches]
    return Result(trial, figures[0], figures[1] if config.evaluate else None, steps, time.process_time() - started)


def trained(told: TrainConfig, progress: Progress) -> tuple[BottleNet, int]:
    """The network, and its steps. One that went astray is taken from before, so that it is measured as all others."""
    run = Path(told.out)
    try:
        return train(told, progress), saved_position(run).steps
    except AstrayError as error:
        log.warning("%s: %s", told.out, error)
    net = insert(load_model(told.model), **told.unit_numbers())
    steps = load_averaged(run, net) if (run / CHECKPOINT).exists() else 0
    return net.eval(), steps


def centre_caches(config: SweepConfig, classifier: Classifier, cache: FeatureCache) -> Iterator[FeatureCache]:
    """Centre crops of the photos to measure on, and of those of `config.evaluate`, at the cut of `cache`."""
    for photos in (held_out_photos(config, classifier), evaluation_photos(config, classifier)):
        if photos:
            yield FeatureCache(
                Path(cache.folder).parent,
                photos,
                cache.sizes,
                network=cache.network,
                shape=cache.shape,
                classes=cache.classes,
                seed=0,
                centre=classifier.preprocess,
            )


def held_out_photos(config: SweepConfig, classifier: Classifier) -> Sequence[Photo]:
    """Of all folders, each once, those that no trial is trained on; `config.measured` of them at most.

    InputError: fewer than 20.
    """
    known: dict[Path, Photo] = {}
    for data in config.data:
        for photo in known_labels(list_photos(data), data, len(classifier.labels), config.model):
            if known.get(photo.path) is None or photo.label is not None:  # one folder may know what another doesn't
                known[photo.path] = photo
    held_out = [photo for photo in known.values() if is_held_out(photo, config.held_out)]
    if len(held_out) < FEWEST_MEASURED:
        raise InputError(
            f"{', '.join(config.data)}: {len(held_out)} of {len(known)} photos are held out, too few to measure on; "
            f"give more photos, or a smaller held_out than {config.held_out}"
        )
    return choose(held_out, config.measured)


def evaluation_photos(config: SweepConfig, classifier: Classifier) -> Sequence[Photo]:
    """Those of `config.evaluate`; none where that is empty."""
    if not config.evaluate:
        return ()
    return known_labels(list_photos(config.evaluate), config.evaluate, len(classifier.labels), config.model)


@torch.no_grad()
def measure(net: BottleNet, cache: FeatureCache) -> Figures:
    """`net` on the centre crops in `cache`, with its real codec, beside the uncut network on the same crops.

    Payloads of the entropy codec are estimated, as its tables are made when it is exported.
    """
    positions = np.asarray(cache.positions(0), np.int64)
    labels = np.array([-1 if (label := cache.photos[i].label) is None else label for i in positions])
    answers, uncut, lengths, distilled = [], [], [], 0.0
    for start in range(0, len(positions), BATCH):
        features, scores = read(cache, 0, positions[start : start + BATCH])
        output = forward(net, features, None)
        assert output.payload_bytes is not None
        answers.append(output.scores.argmax(1).numpy())
        uncut.append(scores.argmax(1).numpy())
        lengths.append(output.payload_bytes.ceil().long().numpy())
        distilled += distillation(output.scores, scores).sum().item()
    found = (np.concatenate(each) for each in (answers, uncut, lengths))
    return summarise(labels, *found, distilled=distilled / len(positions))


def summarise(
    labels: NDArray[np.int64],
    answers: NDArray[np.int64],
    uncut: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    distilled: float,
) -> Figures:
    """All (N,); a label of -1 is not known. The drop is in top-1 where enough photos have labels."""
    known = labels >= 0
    agreement = percent(answers == uncut)
    assert agreement is not None
    top1, top1_uncut = (percent((each == labels)[known]) for each in (answers, uncut))
    by_labels = top1 is not None and top1_uncut is not None and int(known.sum()) >= ENOUGH_LABELS
    return Figures(
        photos=len(labels),
        labelled=int(known.sum()),
        payload_bytes=sizes(lengths),
        agreement=agreement,
        top1=top1,
        top1_uncut=top1_uncut,
        top1_drop=top1_uncut - top1 if by_labels and top1 is not None and top1_uncut is not None else 100 - agreement,
        drop_of="top1" if by_labels else "agreement",
        distillation=distilled if math.isfinite(distilled) else None,
    )
