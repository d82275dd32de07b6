"""The paper's training phase (Algorithm 1, step 1): trains units at several cuts, and keeps of each cut the smallest.

    Search -> next_trial -> Job -> Engine -> Result -> trials/NAME.json
                 ^--- ruled_out, by what is finished ---'
    kept -> export -> ladder, candidates.json

Everything that is finished is on disk, so a sweep that was killed goes on with the same command; the trial that was
running goes on from its last checkpoint. `Search` may differ from one time to the next: what is finished counts.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bottlenet.bundle import Bundle
from bottlenet.contents import LADDER
from bottlenet.lab.engines import Engine, Job
from bottlenet.lab.grid import Trial, beaten, kept, next_trial, open_trials, ruled_out
from bottlenet.lab.runs import export_run
from bottlenet.lab.sweepconfig import Search, SweepConfig
from bottlenet.lab.sweepfolder import Result, SweepFolder
from bottlenet.lab.sweepreport import Report, figures_of, line_of
from bottlenet.lab.trial import find_trials
from bottlenet.ladder import Ladder, write_ladder

Say = Callable[[str], None]
"""Called with a line about each trial that is finished."""


def sweep(
    config: SweepConfig, search: Search, out: str | Path, engine: Engine, *, say: Say = lambda line: None
) -> Report:
    """Runs what is not finished yet, in the folder `out`, and writes the ladder and candidates.json there.

    InputError: a model, a cut or a unit that can't be, a folder of another sweep, or as `train`. BundleError: a kept
    trial can't be exported.
    """
    folder = SweepFolder(out)
    fingerprint, trials = find_trials(config, search)
    handle = folder.claim(config, fingerprint)
    try:
        state = State(config, search, trials, folder, folder.results(trials))
        run(state, engine, say)
        report = summarise(state)
        folder.write(folder.candidates, report.to_json())
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
        """For an engine, whose workers may be in other folders than this process."""
        evaluate = os.path.abspath(self.config.evaluate) if self.config.evaluate else ""
        config = replace(self.config, data=tuple(map(os.path.abspath, self.config.data)), evaluate=evaluate)
        return Job(config, trial, os.path.abspath(self.folder.path), self.search.threads, features)


def run(state: State, engine: Engine, say: Say) -> None:
    """All that is needed, or all that there is time for."""
    ends = time.monotonic() + 60 * state.search.minutes
    while True:
        while len(state.running) < engine.slots and time.monotonic() < ends:
            job = next_job(state)
            if job is None:
                break
            state.running.append(job)
            engine.start(job)
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
        say(line_of(result))


def next_job(state: State) -> Job | None:
    """What to start now; None: nothing, until something is finished or for good.

    A cut's features come before its trials, and another cut's features before a trial that one that is running may
    rule out.
    """
    search, figures = state.search, figures_of(state.results)
    waiting = open_trials(state.trials, figures, search.max_drop, everything=search.everything)
    trials = {job.trial for job in state.running if not job.features}
    preparing = {job.trial.cut for job in state.running if job.features}
    trial = next_trial([each for each in waiting if each.cut in state.prepared], trials)
    unprepared = [each for each in waiting if each.cut not in state.prepared and each.cut not in preparing]
    if unprepared and (trial is None or trial.cut in {each.cut for each in trials}):
        return state.job(unprepared[0], features=True)
    return None if trial is None else state.job(trial, features=False)


def summarise(state: State) -> Report:
    """What is kept goes into the ladder."""
    search, figures = state.search, figures_of(state.results)
    best = kept(state.trials, figures, search.max_drop)
    skipped = {}
    for trial in state.trials:
        why = ruled_out(trial, figures, search.max_drop)
        if trial not in state.results and not search.everything and why is not None:
            skipped[trial] = why
    state.folder.forget_runs(skipped)  # one of them may have been running when the last time ended
    ladder = export(best, search.weights, state.folder) if best else None
    return Report(state.config, search, state.trials, state.results, best, skipped, ladder)


def export(best: Mapping[str, Trial], weights: str, folder: SweepFolder) -> Ladder:
    """The ladder of these trials. What is in it already is not exported again."""
    there = Ladder.load(folder.ladder) if (folder.ladder / LADDER).is_file() else None
    rungs: Sequence[Bundle] = () if there is None else there.rungs
    bundles = [exported(trial, weights, folder, rungs) for trial in best.values()]
    if there is None or {rung.id for rung in rungs} != {bundle.id for bundle in bundles}:
        there = write_ladder(folder.ladder, bundles)
    for trial in best.values():
        shutil.rmtree(folder.bundle(trial), ignore_errors=True)
    return there


def exported(trial: Trial, weights: str, folder: SweepFolder, rungs: Sequence[Bundle]) -> Bundle:
    """A trial's bundle: one of `rungs`, or made now."""
    told = {"trial": trial.name, "weights": weights}
    for rung in rungs:
        if told.items() <= rung.manifest.extra.items():
            return rung
    bundle, _ = export_run(folder.run(trial), folder.bundle(trial), weights=weights, extra=told)
    return bundle
