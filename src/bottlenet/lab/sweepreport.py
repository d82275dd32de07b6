"""What a sweep came to, and candidates.json. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from bottlenet.bundle import Bundle
from bottlenet.edge.partitions import split
from bottlenet.lab.grid import Figures, Trial, nearest
from bottlenet.lab.sweepconfig import Search, SweepConfig
from bottlenet.lab.sweepfolder import Result
from bottlenet.ladder import Ladder

KIND = "bottlenet sweep"
FORMAT_VERSION = 1


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
        """In words."""
        if trial in self.skipped:
            return f"skipped: {self.skipped[trial]}"
        if trial not in self.results:
            return "not reached: the time was up"
        if trial in self.kept.values():
            return "kept"
        if self.results[trial].figures.top1_drop <= self.search.max_drop:
            return "within the bound, with more bytes"
        return "loses too much"

    def to_json(self) -> bytes:
        """candidates.json."""
        return json.dumps(document_of(self), indent=1, allow_nan=False).encode() + b"\n"


def figures_of(results: Mapping[Trial, Result]) -> dict[Trial, Figures]:
    """What trials are judged by."""
    return {trial: result.figures for trial, result in results.items()}


def document_of(report: Report) -> dict[str, object]:
    """All trials, and of the kept ones what `bottlenet plan --sweep` wants to know."""
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
    """One of a profile's splits, as far as the sweep knows it."""
    return {
        "name": split(rung).name,
        "cut": rung.manifest.cut,
        "bundle_id": rung.id.hex(),
        "payload_bytes_mean": figures.payload_bytes.mean,
        "payload_bytes_p95": figures.payload_bytes.p95,
        "payload_bytes_max": figures.payload_bytes.max,
        "top1_drop": figures.top1_drop,
        "drop_of": figures.drop_of,
    }


def row(report: Report, trial: Trial) -> dict[str, object]:
    """A trial: what it came to, or why it did not run."""
    result = report.results.get(trial)
    known = {} if result is None else {key: value for key, value in asdict(result).items() if key != "trial"}
    return {"name": trial.name, **asdict(trial), "status": report.status(trial), **known}


def line_of(result: Result) -> str:
    """About a trial, for people."""
    figures = result.figures
    return (
        f"{result.trial.name}: {figures.payload_bytes.mean:,.0f} bytes, {figures.top1_drop:.1f} points of "
        f"{figures.drop_of} lost, {result.seconds:.0f} s"
    )


def nothing_kept(report: Report) -> str:
    """What to do where no trial is within the bound."""
    figures = figures_of(report.results)
    losses = [(figures[trial].top1_drop, trial.name) for trial in nearest(report.trials, figures).values()]
    if not losses:
        return "no trial was finished; give more minutes"
    drop, name = min(losses)
    return (
        f"no trial is within {report.search.max_drop:g} points; {name} is nearest with {drop:.1f}: give --max-drop "
        f"{math.ceil(drop * 10) / 10:g}, more channels, or more photos and epochs"
    )
