"""How few bytes does each cut need? The paper's Table 4 for this network.

Trains a unit for each cut, c' and s, in as few steps as the time allows, and measures each twice: on photos that are
held out of the training folders, by which the smallest within the bound is kept for each cut, and on `--eval`, by which
nothing is chosen. All of them are trained, also those that `bottlenet sweep` would have skipped, so the record says
whether skipping them would have been right.

Everything is kept in `--work`; the same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from rich.progress import Progress

from bottlenet.errors import InputError
from bottlenet.train.sweep import (
    Figures,
    Result,
    Search,
    SweepConfig,
    Trial,
    next_trial,
    open_trials,
    ruled_out,
    winners,
)
from bottlenet.train.sweep.sweep import Report, figures_of, nothing_kept, open_engine, sweep
from record import Json, parser, run_script, show, write_record

CUTS = ("blocks.2", "blocks.4", "blocks.7", "blocks.10")
CHANNELS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
STRIDES = (1, 2)
SETTINGS = ("unit", "codec", "photos", "epochs", "crops", "blend", "batch", "lr", "tail_lr", "held_out", "measured")


def searched(trials: Sequence[Trial], all_figures: Mapping[Trial, Figures], max_drop: float) -> dict[Trial, Figures]:
    """Return the trials that `bottlenet sweep` would have trained without --all."""
    found: dict[Trial, Figures] = {}
    while (trial := next_trial(open_trials(trials, found, max_drop))) is not None:
        found[trial] = all_figures[trial]
    return found


def skipping(report: Report) -> dict[str, Json]:
    """Count the trials that it would have taken, and how often its rule was wrong; compare what it keeps."""
    figures, bound = figures_of(report.results), report.search.max_drop
    found = searched(report.trials, figures, bound)
    pairs = [pair for pair in itertools.permutations(report.trials, 2) if pair[0].is_less_than(pair[1])]
    return {
        "trained": len(found),
        "skipped": len(report.trials) - len(found),
        "same_kept": winners(report.trials, found, bound) == dict(report.kept),
        "reasons": {trial.name: ruled_out(trial, found, bound) for trial in report.trials if trial not in found},
        "pairs": len(pairs),
        "pairs_with_fewer_bytes_for_more": sum(
            figures[less].payload_bytes.mean > figures[more].payload_bytes.mean for less, more in pairs
        ),
        "pairs_with_more_accuracy_for_less": sum(
            figures[less].top1_drop < figures[more].top1_drop for less, more in pairs
        ),
    }


def row(report: Report, trial: Trial, result: Result) -> dict[str, Json]:
    figures, evaluated = result.figures, result.evaluated
    assert evaluated is not None
    return {
        **asdict(trial),
        "status": report.status(trial),
        "payload_bytes": evaluated.payload_bytes.mean,
        "payload_bytes_p95": evaluated.payload_bytes.p95,
        "top1": evaluated.top1,
        "top1_uncut": evaluated.top1_uncut,
        "top1_drop": evaluated.top1_drop,
        "agreement": evaluated.agreement,
        "held_out_bytes": figures.payload_bytes.mean,
        "held_out_drop": figures.top1_drop,
        "held_out_drop_of": figures.drop_of,
        "held_out_photos": figures.photos,
        "steps": result.steps,
        "seconds": result.seconds,
    }


def ladder_facts(report: Report) -> dict[str, Json] | None:
    """Measure what sharing weights saves; None: nothing is kept."""
    if report.ladder is None:
        return None
    rungs = report.ladder.rungs
    return {
        "bytes": report.ladder.size,
        "bytes_as_bundles": sum(rung.size for rung in rungs),
        "rungs": {rung.manifest.cut: rung.manifest.head_flops_share for rung in rungs},
    }


def run(arguments: argparse.Namespace) -> None:
    """Sweep, show, write."""
    config = SweepConfig(
        model=arguments.model,
        data=tuple(arguments.data),
        unit=arguments.unit,
        photos=arguments.photos,
        epochs=arguments.epochs,
        batch=arguments.batch,
        lr=arguments.lr,
        held_out=arguments.held_out,
        measured=arguments.measured,
        evaluate=arguments.eval,
    )
    search = Search(
        cuts=tuple(arguments.cuts),
        channels=tuple(arguments.channels),
        strides=tuple(arguments.strides),
        qualities=tuple(arguments.qualities),
        max_drop=arguments.max_drop,
        everything=True,
        weights="int8",
        threads=arguments.threads,
    )
    with Progress() as progress:
        engine = open_engine("local", progress, threads=arguments.threads)
        report = sweep(config, search, arguments.work, engine, say=lambda line: progress.console.print(line))
    if any(result.evaluated is None or result.evaluated.top1 is None for result in report.results.values()):
        raise InputError(f"{arguments.eval}: no photo has a label; give labelled photos")
    rows = [row(report, trial, report.results[trial]) for trial in report.trials]
    show(
        f"{config.model}, {config.unit} units, JPEG; {config.photos} photos x {config.epochs}",
        ["cut", "c'", "s", "quality", "bytes", "top-1", "drop", "held out: drop", "what of it"],
        [
            [
                *(str(each[name]) for name in ("cut", "channels", "stride", "quality")),
                *(f"{each[name]:.1f}" for name in ("payload_bytes", "top1", "top1_drop", "held_out_drop")),
                str(each["status"]),
            ]
            for each in rows
        ],
    )
    if report.ladder is None:
        print(nothing_kept(report))
    results: dict[str, Json] = {
        "model": config.model,
        "settings": {name: getattr(config, name) for name in SETTINGS},
        "max_drop": search.max_drop,
        "rows": rows,
        "kept": {cut: trial.name for cut, trial in report.kept.items()},
        "skipping": skipping(report),
        "ladder": ladder_facts(report),
        "seconds": sum(result.seconds for result in report.results.values()),
    }
    write_record("sweep", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", action="append", required=True, help="folder of photos to train on; can be repeated")
    made.add_argument("--eval", required=True, help="folder of labelled photos")
    made.add_argument("--work", type=Path, default=Path("runs/sweep"), help="the sweep's folder")
    made.add_argument("--model", default="efficientnet_lite0", help="efficientnet_lite0, or package.module:function")
    made.add_argument("--cuts", nargs="+", default=CUTS)
    made.add_argument("--channels", nargs="+", type=Fraction, default=CHANNELS, help="c', or shares of the cut's")
    made.add_argument("--strides", nargs="+", type=int, default=STRIDES)
    made.add_argument("--qualities", nargs="+", type=int, default=[50], help="of JPEG; the paper's is 20")
    made.add_argument("--max-drop", type=float, default=30.0, help="points that what is kept may lose, held out")
    made.add_argument("--unit", default="residual")
    made.add_argument("--photos", type=int, default=1500, help="to train on, evenly spread over the folders")
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--batch", type=int, default=SweepConfig.batch)
    made.add_argument("--lr", type=float, default=1e-3)
    made.add_argument("--held-out", type=int, default=SweepConfig.held_out, help="one photo of so many")
    made.add_argument("--measured", type=int, default=SweepConfig.measured, help="photos held out, at most")
    made.add_argument("--threads", type=int, default=1)
    run_script(made, run)


if __name__ == "__main__":
    main()
