"""One trial of a sweep: the features of its cut, its training, and its figures on photos that it was not trained on.

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
from bottlenet.net.build import check_patch, codec_of, insert
from bottlenet.net.cut import split
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, fingerprint, load_model
from bottlenet.net.unit import UnitSpec
from bottlenet.photos.crops import is_held_out
from bottlenet.photos.folders import Photo, choose, known_labels, list_photos
from bottlenet.records import percent, sizes
from bottlenet.task import needs_one_label
from bottlenet.train.config import TrainConfig
from bottlenet.train.features import FeatureCache, fill_cache, frozen_network, open_cache, read_features
from bottlenet.train.objective import distillation
from bottlenet.train.runs import CHECKPOINT, load_averaged, saved_position
from bottlenet.train.sweep.folder import Result, Search, SweepConfig, SweepFolder
from bottlenet.train.sweep.grid import Figures, Trial
from bottlenet.train.train import AstrayError, forward, train
from bottlenet.wire.mosaic import Mosaic

log = logging.getLogger(__name__)

ENOUGH_LABELS = 100  # photos with a label: with fewer, top-1 is known to ten points, and agreement is better
BATCH = 64


def find_trials(config: SweepConfig, search: Search) -> tuple[str, tuple[Trial, ...]]:
    """List the network's fingerprint, and all trials.

    InputError: an unknown model or cut, or a unit that can't be there.
    """
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
    """Raise InputError for no such unit for features whose grid is (C, H, W), or no such codec for its latent."""
    c, height, width = grid
    try:
        spec = UnitSpec(c, trial.channels, trial.stride, (height, width))
        check_patch(c, trial.stride)
    except InputError as error:
        raise InputError(f"trial {trial.name}: {error}") from error
    if config.codec != "entropy":  # whose tables are made later
        codec_of(config.codec, trial.quality, Mosaic(*spec.latent_shape))


def train_config(config: SweepConfig, trial: Trial, folder: SweepFolder) -> TrainConfig:
    """Translate to the options of `train`. InputError: numbers that can't be."""
    return TrainConfig(
        model=config.model,
        data=config.data,
        out=str(folder.run(trial)),
        cut=trial.cut,
        unit=config.unit,
        channels=trial.channels,
        stride=trial.stride,
        codec=config.codec,
        quality=-1 if config.codec == "entropy" else trial.quality,
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
    training = train_config(config, trial, folder)
    classifier = load_model(config.model)
    cache = open_cache(training, classifier, insert(classifier, **training.unit_numbers()))
    centres = list(centre_caches(config, classifier, cache))
    for each in (cache, *centres):
        each.remove_unfinished()  # of a sweep that was killed; nobody else is at this cut
    frozen = lru_cache(partial(frozen_network, classifier, training.frozen_to, cache.sizes[1]))
    for crop_set in range(min(config.crops, config.epochs)):
        fill_cache(cache, crop_set, training, progress, frozen)
    for centre in centres:
        fill_cache(centre, 0, training, progress, frozen)


def run_trial(config: SweepConfig, trial: Trial, folder: SweepFolder, progress: Progress) -> Result:
    """Train, or go on training, and measure. InputError: as `prepare`."""
    since = time.process_time()
    training = train_config(config, trial, folder)
    net, steps = train_or_fall_back(training, progress)
    classifier = load_model(config.model)
    caches = list(centre_caches(config, classifier, open_cache(training, classifier, net)))
    for centre in caches:
        fill_cache(centre, 0, training, progress)
    figures = [figures_on(net, centre) for centre in caches]
    return Result(trial, figures[0], figures[1] if config.evaluate else None, steps, time.process_time() - since)


def train_or_fall_back(training: TrainConfig, progress: Progress) -> tuple[BottleNet, int]:
    """Train, and return the network and its steps. One that went astray is taken from before, so that it is measured as
    all others.
    """
    run = Path(training.out)
    try:
        return train(training, progress), saved_position(run).steps
    except AstrayError as error:
        log.warning("%s: %s", training.out, error)
    net = insert(load_model(training.model), **training.unit_numbers())
    steps = load_averaged(run, net) if (run / CHECKPOINT).exists() else 0
    return net.eval(), steps


def centre_caches(config: SweepConfig, classifier: Classifier, cache: FeatureCache) -> Iterator[FeatureCache]:
    """Open the caches of centre crops of the photos to measure on, and of those of `config.evaluate`, at the cut of
    `cache`.
    """
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
    """List those of all folders, each once, that no trial is trained on; `config.measured` of them at most."""
    known: dict[Path, Photo] = {}
    for data in config.data:
        for photo in known_labels(list_photos(data), data, len(classifier.labels), config.model):
            if known.get(photo.path) is None or photo.label is not None:  # one folder may know what another doesn't
                known[photo.path] = photo
    held_out = [photo for photo in known.values() if is_held_out(photo, config.held_out)]
    return choose(held_out, config.measured)


def evaluation_photos(config: SweepConfig, classifier: Classifier) -> Sequence[Photo]:
    """List those of `config.evaluate`; none where that is empty."""
    if not config.evaluate:
        return ()
    return known_labels(list_photos(config.evaluate), config.evaluate, len(classifier.labels), config.model)


@torch.no_grad()
def figures_on(net: BottleNet, cache: FeatureCache) -> Figures:
    """Measure `net` on the centre crops in `cache`, with its real codec, beside the uncut network on the same crops.

    Payloads of the entropy codec are estimated, as its tables are made when it is exported.
    """
    positions = np.asarray(cache.positions(0), np.int64)
    labels = np.array([-1 if (label := cache.photos[i].label) is None else label for i in positions])
    answers, uncut, lengths, distilled = [], [], [], 0.0
    for start in range(0, len(positions), BATCH):
        features, scores = read_features(cache, 0, positions[start : start + BATCH])
        output = forward(net, features, None)
        assert output.payload_bytes is not None
        answers.append(output.scores.argmax(1).numpy())
        uncut.append(scores.argmax(1).numpy())
        lengths.append(output.payload_bytes.ceil().long().numpy())
        distilled += distillation(output.scores, scores).sum().item()
    found = (np.concatenate(each) for each in (answers, uncut, lengths))
    return figures_from(labels, *found, distilled=distilled / len(positions))


def figures_from(
    labels: NDArray[np.int64],
    answers: NDArray[np.int64],
    uncut: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    distilled: float,
) -> Figures:
    """Summarise arrays of (N,); a label of -1 is not known. The drop is in top-1 where enough photos have labels."""
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
