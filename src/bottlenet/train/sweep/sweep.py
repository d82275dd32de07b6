"""The paper's training phase (Algorithm 1, step 1): train units at several cuts, and keep of each cut the smallest.

    Search -> next_trial -> Job -> engine: this process, or Ray -> Result -> trials/NAME.json
                 ^--- ruled_out, by what is finished ---'
    winners -> export -> ladder, candidates.json

    data --held_out--> photos to train on -> features of random crops -> train  -> unit and tail
    `-------> photos to measure  -> features of centre crops -----------> Figures

Everything that is finished is on disk, so a sweep that was killed goes on with the same command, and its trial from the
last checkpoint. With Ray every machine needs bottlenet and Ray, and data and folder under the same paths.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import Ladder, write_ladder
from bottlenet.bundle.manifest import LADDER
from bottlenet.errors import BottleNetError, InputError, LinkError, MissingExtraError, reason
from bottlenet.net.build import check_patch, codec_of, insert
from bottlenet.net.cut import layout_at, split
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, fingerprint, load_model
from bottlenet.net.unit import UnitSpec
from bottlenet.photos.crops import is_held_out
from bottlenet.photos.folders import Photo, choose, known_labels, label_array, list_photos
from bottlenet.records import check_choice, percent, sizes
from bottlenet.task import needs_one_label
from bottlenet.train.config import TrainConfig
from bottlenet.train.features import FeatureCache, fill_cache, frozen_network, open_cache, read_features
from bottlenet.train.objective import distillation
from bottlenet.train.runs import CHECKPOINT, export_run, load_averaged, saved_position
from bottlenet.train.sweep import (
    FORMAT_VERSION,
    Figures,
    Result,
    Search,
    SweepConfig,
    SweepFolder,
    Trial,
    beaten,
    next_trial,
    open_trials,
    ruled_out,
    winners,
)
from bottlenet.train.train import AstrayError, forward, train
from bottlenet.wire.mosaic import Mosaic

log = logging.getLogger(__name__)

KIND = "bottlenet sweep"
ENOUGH_LABELS = 100  # photos with a label: with fewer, top-1 is known to ten points, and agreement is better
BATCH = 64

Say = Callable[[str], None]  # called with a line about each trial that is finished


def sweep(
    config: SweepConfig, search: Search, out: str | Path, engine: Local | RayTasks, *, say: Say = lambda line: None
) -> Report:
    """Run what is not finished yet, in the folder `out`, and write the ladder and candidates.json there.

    InputError: a model, a cut or a unit that can't be, a folder of another sweep, or as `train`. BundleError: a kept
    trial can't be exported.
    """
    folder = SweepFolder(out)
    fingerprint, trials = find_trials(config, search)
    handle = folder.claim(config, fingerprint)
    try:
        state = State(config, search, trials, folder, folder.results(trials))
        run_jobs(state, engine, say)
        report = report_of(state)
        folder.write(folder.candidates, document_of(report))
        return report
    finally:
        os.close(handle)


@dataclass
class State:
    """Where a sweep is."""

    config: SweepConfig
    search: Search
    trials: tuple[Trial, ...]
    folder: SweepFolder
    results: dict[Trial, Result]
    prepared: set[str] = field(default_factory=set)  # cuts whose features are on disk
    running: list[Job] = field(default_factory=list)

    def job(self, trial: Trial, *, features: bool) -> Job:
        """Make a job with absolute paths: an engine's workers may be in other folders than this process."""
        evaluate = os.path.abspath(self.config.evaluate) if self.config.evaluate else ""
        config = replace(self.config, data=tuple(map(os.path.abspath, self.config.data)), evaluate=evaluate)
        return Job(config, trial, os.path.abspath(self.folder.path), self.search.threads, features)


def run_jobs(state: State, engine: Local | RayTasks, say: Say) -> None:
    """Run all that is needed, or all that there is time for."""
    ends = time.monotonic() + 60 * state.search.minutes
    while True:
        while len(state.running) < engine.slots and time.monotonic() < ends:
            job = next_job(state)
            if job is None:
                break
            state.running.append(job)
            engine.submit(job)
        if not state.running:
            return
        job, result = engine.wait()
        state.running.remove(job)
        if result is None:
            state.prepared.add(job.trial.cut)
            continue
        state.folder.save(result)
        state.results[result.trial] = result
        state.folder.forget_runs(beaten(figures_of(state.results)))
        measured = result.figures
        say(
            f"{result.trial.name}: {measured.payload_bytes.mean:,.0f} bytes, {measured.top1_drop:.1f} points of "
            f"{measured.drop_of} lost, {result.seconds:.0f} s"
        )


def next_job(state: State) -> Job | None:
    """Choose what to start; features before trials, and another cut's before what a running trial may rule out."""
    search, figures = state.search, figures_of(state.results)
    waiting = open_trials(state.trials, figures, search.max_drop, everything=search.everything)
    trials = {job.trial for job in state.running if not job.features}
    preparing = {job.trial.cut for job in state.running if job.features}
    trial = next_trial([each for each in waiting if each.cut in state.prepared], trials)
    unprepared = [each for each in waiting if each.cut not in state.prepared and each.cut not in preparing]
    if unprepared and (trial is None or trial.cut in {each.cut for each in trials}):
        return state.job(unprepared[0], features=True)
    return None if trial is None else state.job(trial, features=False)


def report_of(state: State) -> Report:
    """Put what is kept into the ladder, and report."""
    search, figures = state.search, figures_of(state.results)
    best = winners(state.trials, figures, search.max_drop)
    unfinished = [] if search.everything else [trial for trial in state.trials if trial not in figures]
    skipped = {trial: why for trial in unfinished if (why := ruled_out(trial, figures, search.max_drop)) is not None}
    state.folder.forget_runs(skipped)  # one of them may have been running when the last time ended
    ladder = build_ladder(best, search.weights, state.folder) if best else None
    return Report(state.config, search, state.trials, state.results, best, skipped, ladder)


def build_ladder(best: Mapping[str, Trial], weights: str, folder: SweepFolder) -> Ladder:
    """Write the ladder of these trials. A rung that is in it already is not exported again."""
    there = Ladder.load(folder.ladder) if (folder.ladder / LADDER).is_file() else None
    rungs: Sequence[Bundle] = () if there is None else there.rungs
    bundles = [bundle_of(trial, weights, folder, rungs) for trial in best.values()]
    if there is None or {rung.id for rung in rungs} != {bundle.id for bundle in bundles}:
        there = write_ladder(folder.ladder, bundles)
    for trial in best.values():
        shutil.rmtree(folder.bundle(trial), ignore_errors=True)
    return there


def bundle_of(trial: Trial, weights: str, folder: SweepFolder, rungs: Sequence[Bundle]) -> Bundle:
    """Return a trial's bundle: one of `rungs`, or a new one."""
    origin = {"trial": trial.name, "weights": weights}
    for rung in rungs:
        if origin.items() <= rung.manifest.extra.items():
            return rung
    bundle, _ = export_run(folder.run(trial), folder.bundle(trial), weights=weights, extra=origin)
    return bundle


@dataclass(frozen=True)
class Report:
    """A sweep as far as it came."""

    config: SweepConfig
    search: Search
    trials: tuple[Trial, ...]  # all of them, cut by cut
    results: Mapping[Trial, Result]  # of those that are finished
    kept: Mapping[str, Trial]  # cut -> trial
    skipped: Mapping[Trial, str]  # why it can't win
    ladder: Ladder | None  # of what is kept; None: nothing is

    def status(self, trial: Trial) -> str:
        """Say what became of a trial."""
        if trial in self.skipped:
            return f"skipped: {self.skipped[trial]}"
        if trial not in self.results:
            return "not reached: the time was up"
        if trial in self.kept.values():
            return "kept"
        if self.results[trial].figures.top1_drop <= self.search.max_drop:
            return "within the bound, with more bytes"
        return "loses too much"


def figures_of(results: Mapping[Trial, Result]) -> dict[Trial, Figures]:
    return {trial: result.figures for trial, result in results.items()}


def document_of(report: Report) -> dict[str, object]:
    """Collect all trials, and of the kept ones what `bottlenet plan --sweep` needs."""
    search, figures = report.search, figures_of(report.results)
    rungs: Sequence[Bundle] = () if report.ladder is None else report.ladder.rungs
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "model": report.config.model,
        "config": asdict(report.config),
        "search": {
            **asdict(search),
            "channels": [str(each) for each in search.channels],
            "minutes": None if math.isinf(search.minutes) else search.minutes,
        },
        "ladder_id": None if report.ladder is None else report.ladder.id.hex(),
        "candidates": [candidate(rung, figures[report.kept[rung.manifest.cut]]) for rung in rungs],
        "trials": [row(report, trial) for trial in report.trials],
    }


def candidate(rung: Bundle, figures: Figures) -> dict[str, object]:
    """Describe one of a profile's splits, as far as the sweep knows it."""
    return {
        "name": f"split at {rung.manifest.cut}",
        "cut": rung.manifest.cut,
        "bundle_id": rung.id.hex(),
        "payload_bytes_mean": figures.payload_bytes.mean,
        "payload_bytes_p95": figures.payload_bytes.p95,
        "payload_bytes_max": figures.payload_bytes.max,
        "top1_drop": figures.top1_drop,
        "drop_of": figures.drop_of,
    }


def row(report: Report, trial: Trial) -> dict[str, object]:
    result = report.results.get(trial)
    known = {} if result is None else {key: value for key, value in asdict(result).items() if key != "trial"}
    return {"name": trial.name, **asdict(trial), "status": report.status(trial), **known}


def nothing_kept(report: Report) -> str:
    """Say what to do where no trial is within the bound."""
    figures = figures_of(report.results)
    losses = [(measured.top1_drop, trial.name) for trial, measured in figures.items()]
    if not losses:
        return "no trial was finished; give more minutes"
    drop, name = min(losses)
    return (
        f"no trial is within {report.search.max_drop:g} points; {name} is nearest with {drop:.1f}: give --max-drop "
        f"{math.ceil(drop * 10) / 10:g}, more channels, or more photos and epochs"
    )


@dataclass(frozen=True)
class Job:
    """A trial, or the features that the trials of a cut have in common."""

    config: SweepConfig
    trial: Trial  # of features: any of the cut
    folder: str  # of the sweep
    threads: int
    features: bool  # not the trial

    def run(self, progress: Progress) -> Result | None:
        """Run it; None for features. InputError: as `train.train`."""
        torch.set_num_threads(self.threads)
        folder = SweepFolder(self.folder)
        if self.features:
            prepare(self.config, self.trial, folder, progress)
            return None
        return run_trial(self.config, self.trial, folder, progress)


def open_engine(name: str, progress: Progress, *, address: str | None = None, threads: int = 1) -> Local | RayTasks:
    """Open an engine. InputError: an unknown name, or an address for a local engine. Errors as for `RayTasks`."""
    check_choice("--engine", name, ("local", "ray"))
    if name == "ray":
        return RayTasks(address, threads)
    if address is not None:
        raise InputError(f"--address {address!a:.80} is for --engine ray; leave it out, or give both")
    return Local(progress)


class Local:
    """Runs jobs in this process, one at a time."""

    slots = 1

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        """Start a job, while fewer than `slots` run."""
        self._jobs.append(job)

    def wait(self) -> tuple[Job, Result | None]:
        """Wait for the next that is finished. BottleNetError: what it failed with."""
        job = self._jobs.pop()
        return job, job.run(self._progress)

    def close(self) -> None:
        """End everything that runs."""


CONNECT_S = 10.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or Ray warns that it will be so
}


class RayTasks:
    """Runs jobs on a Ray cluster, or on this machine. MissingExtraError, LinkError: no Ray, or no cluster."""

    def __init__(self, address: str | None, threads: int) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise MissingExtraError("--engine ray", "ray") from error
        self._ray = ray
        check_address(address)
        try:
            # "local": without an address Ray would join any cluster that was ever started here
            ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = address or "this machine"
            raise LinkError(f"no Ray cluster at {where}: {reason(error)}; give another address") from error
        self._run = ray.remote(num_cpus=threads, max_retries=-1)(run_job)
        self._threads = threads
        self._running: dict[Any, Job] = {}

    @property
    def slots(self) -> int:
        """How many jobs can run; asked for anew each time, as machines may join a cluster."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)

    def submit(self, job: Job) -> None:
        self._running[self._run.remote(job)] = job

    def wait(self) -> tuple[Job, Result | None]:
        (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        job = self._running.pop(done)
        try:
            result: Result | None = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BottleNetError):
                raise error.cause from error
            raise
        return job, result

    def close(self) -> None:
        self._ray.shutdown()


def check_address(address: str | None) -> None:
    """Raise LinkError where nobody answers at HOST:PORT. Ray itself would try for an hour."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # such as "auto"
    try:
        with socket.create_connection((host, int(port)), CONNECT_S):
            pass
    except (OSError, OverflowError) as error:
        raise LinkError(f"no Ray cluster at {address}: {error}; start one, or give another address") from error


def run_job(job: Job) -> Result | None:
    with Progress(disable=True) as progress:
        return job.run(progress)


def find_trials(config: SweepConfig, search: Search) -> tuple[str, tuple[Trial, ...]]:
    """List the network's fingerprint, and all trials. InputError: an unknown model or cut, or no such unit."""
    classifier = load_model(config.model)
    needs_one_label(classifier.task, "`bottlenet sweep`")
    places = [split(classifier.module, name, classifier.input_size).cut for name in search.cuts]
    grids = {place.name: layout_at(place).grid for place in places}  # a cut may have been given by another of its names
    trials = replace(search, cuts=tuple(grids)).trials(grids)
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
    """Translate to the options of `train`, most of which have the same names. InputError: numbers that can't be."""
    shared = {name: value for name, value in vars(config).items() if name not in ("measured", "evaluate")}
    steered = config.codec == "entropy"
    return TrainConfig(
        **shared,
        out=str(folder.run(trial)),
        cut=trial.cut,
        channels=trial.channels,
        stride=trial.stride,
        quality=-1 if steered else trial.quality,
        target_bytes=float(trial.quality) if steered else 0.0,
        components=True,
        cache=str(folder.features),
    )


def prepare(config: SweepConfig, trial: Trial, folder: SweepFolder, progress: Progress) -> None:
    """Compute what a cut's trials start from. InputError: as `train`, or too few photos to measure on."""
    training = train_config(config, trial, folder)
    classifier = load_model(config.model)
    cache = open_cache(training, classifier, insert(classifier, **training.unit_numbers()))
    centres = list(centre_caches(config, classifier, cache))
    for each in (cache, *centres):
        for unfinished in each.folder.glob("*.part*"):  # of a sweep that was killed; nobody else is at this cut
            unfinished.unlink(missing_ok=True)
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
    """Train, and return the network and its steps; one that went astray is taken from before that."""
    run = Path(training.out)
    try:
        return train(training, progress), saved_position(run).steps
    except AstrayError as error:
        log.warning("%s: %s", training.out, error)
    net = insert(load_model(training.model), **training.unit_numbers())
    steps = load_averaged(run, net) if (run / CHECKPOINT).exists() else 0
    return net.eval(), steps


def centre_caches(config: SweepConfig, classifier: Classifier, cache: FeatureCache) -> Iterator[FeatureCache]:
    """Open caches, at the cut of `cache`, of the photos to measure on and of those of `config.evaluate`."""
    evaluated: Sequence[Photo] = ()
    if config.evaluate:
        there = list_photos(config.evaluate)
        evaluated = known_labels(there, config.evaluate, len(classifier.labels), config.model)
    for photos in (held_out_photos(config, classifier), evaluated):
        if photos:
            yield replace(cache, photos=photos, centre=classifier.preprocess)


def held_out_photos(config: SweepConfig, classifier: Classifier) -> Sequence[Photo]:
    """List those of all folders, each once, that no trial is trained on; `config.measured` of them at most."""
    known: dict[Path, Photo] = {}
    for data in config.data:
        for photo in known_labels(list_photos(data), data, len(classifier.labels), config.model):
            if known.get(photo.path) is None or photo.label is not None:  # one folder may know what another doesn't
                known[photo.path] = photo
    held_out = [photo for photo in known.values() if is_held_out(photo, config.held_out)]
    return choose(held_out, config.measured)


@torch.no_grad()
def figures_on(net: BottleNet, cache: FeatureCache) -> Figures:
    """Measure `net`, its codec and the uncut network on the crops in `cache`; entropy's bytes are estimated."""
    positions = np.asarray(cache.positions(0), np.int64)
    labels = label_array(cache.photos[i] for i in positions)
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
    agreement = 100 * float((answers == uncut).mean())
    top1, top1_uncut = (percent((each == labels)[known]) for each in (answers, uncut))
    drop = None if top1 is None or top1_uncut is None or known.sum() < ENOUGH_LABELS else top1_uncut - top1
    return Figures(
        photos=len(labels),
        labelled=int(known.sum()),
        payload_bytes=sizes(lengths),
        agreement=agreement,
        top1=top1,
        top1_uncut=top1_uncut,
        top1_drop=100 - agreement if drop is None else drop,
        drop_of="agreement" if drop is None else "top1",
        distillation=distilled if math.isfinite(distilled) else None,
    )
