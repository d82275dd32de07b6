"""`bottlenet sweep`: units at several cuts, trained, measured, and the smallest of each cut kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.options import Json, needs, with_configs
from bottlenet.cli.planning import DROP_NAMES
from bottlenet.cli.show import Cell, Grid, clean, number, print_error, print_json, progress_bar, say, stdout
from bottlenet.errors import InputError
from bottlenet.train.sweep.folder import Search, SweepConfig, check_photos

if TYPE_CHECKING:
    from bottlenet.train.sweep.sweep import Report


USUAL_QUALITIES = {"raw": (0,), "deflate": (9,)}  # of the others the paper's


@needs("train")
@with_configs(config=SweepConfig)
def sweep(
    model: Annotated[str, typer.Argument(help="efficientnet_lite0, _lite1, _lite2, or package.module:function.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the sweep.")],
    cuts: Annotated[list[str], typer.Option("--cuts", help="Names from [bold]bottlenet cuts[/]: A,B,C.")],
    channels: Annotated[
        list[str] | None, typer.Option("--channels", help="c' of the units: 4,8; or 1/8,1/4 of the cut's channels.")
    ] = None,
    strides: Annotated[list[str] | None, typer.Option("--strides", help="s of the units: 1,2.")] = None,
    qualities: Annotated[
        list[str] | None, typer.Option("--qualities", help="Qualities of the codec: 20. For entropy: mean bytes.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Most points of top-1 that a kept unit may lose.")
    ] = Search.max_drop,
    everything: Annotated[bool, typer.Option("--all", help="Also train what can't win.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Start no trial after this time.")] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="Weights of the ladder's bundles: float32 or int8.")
    ] = Search.weights,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads for each trial.")] = Search.threads,
    engine: Annotated[str, typer.Option("--engine", help="local; or ray, for all cores of all machines.")] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="Address of a Ray cluster. Default: this machine's cores.")
    ] = None,
    as_json: Json = False,
    *,
    config: SweepConfig,
) -> None:
    r"""Train units at several cuts, and keep of each cut the smallest that is good enough.

    Runs one trial for each cut, c', s and quality, except those that can't win
    any more: at one cut more channels, a smaller stride and a higher quality
    mean more bytes and more accuracy. Writes a ladder of the kept units, and
    candidates.json. Run the same command again to resume an interrupted sweep.
    --engine ray also needs the optional part ray.

    Examples:
      bottlenet sweep efficientnet_lite0 --data photos --cuts blocks.4,blocks.8 \
        --channels 1/8,1/4,1/2 --strides 1,2 --max-drop 5 -o sweeps/first
      bottlenet profile sweeps/first/ladder --data other_photos \
        -o my.profile.json
      bottlenet plan my.profile.json --sweep sweeps/first/candidates.json \
        --link 3g
    """
    check_photos(config)
    from bottlenet.train.sweep.sweep import document_of, nothing_kept, open_engine
    from bottlenet.train.sweep.sweep import sweep as run

    search = Search(
        cuts=tuple(split_list(cuts)),
        channels=Search.channels if channels is None else tuple(map(share, split_list(channels))),
        strides=Search.strides if strides is None else tuple(map(whole, split_list(strides))),
        qualities=USUAL_QUALITIES.get(config.codec, Search.qualities)
        if qualities is None
        else tuple(map(whole, split_list(qualities))),
        max_drop=max_drop,
        everything=everything,
        minutes=math.inf if minutes is None else minutes,
        weights=weights,
        threads=threads,
    )
    with progress_bar() as bar:
        opened = open_engine(engine, bar, address=address, threads=threads)
        try:
            report = run(config, search, out, opened, say=lambda line: bar.console.print(line, markup=False))
        finally:
            opened.close()
    if as_json:
        print_json(document_of(report))
    else:
        stdout().print(report_table(report))
        if report.ladder is not None:
            path = report.ladder.path
            say(f"ladder: {path}\nnext: bottlenet profile {path} --data PHOTOS -o my.profile.json")
    if report.ladder is None:
        print_error(nothing_kept(report))
        raise typer.Exit(2)


def split_list(values: Sequence[str]) -> list[str]:
    """Split at commas: ["a,b", "c"] -> ["a", "b", "c"]."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def whole(text: str) -> int:
    """Parse a whole number, or raise InputError."""
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{text!a:.40} is no whole number; give one, or several as in 1,2") from error


def share(text: str) -> Fraction:
    """Parse a whole number or a fraction, or raise InputError."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{text!a:.40} is no number of channels; give such as 8, or 1/8 of the cut's") from error


def report_table(report: Report) -> Grid:
    """List the trials; those that are kept are bold."""
    figures = [result.figures for result in report.results.values()]
    photos = f"{max(each.photos for each in figures):,} photos held out" if figures else "nothing measured"
    drop = "; ".join(DROP_NAMES[kind] for kind in sorted({each.drop_of for each in figures}))
    estimated = " Bytes of the entropy codec are estimated." if report.config.codec == "entropy" else ""
    evaluated = (">top-1", ">its\ndrop") if report.config.evaluate else ()
    rows: list[list[Cell]] = []
    for trial in report.trials:
        result = report.results.get(trial)
        cells = [trial.cut, str(trial.channels), str(trial.stride), str(trial.quality)]
        if result is None:
            cells += ["-"] * 3
        else:
            sizes = result.figures.payload_bytes
            cells += [number(sizes.mean, 0), number(sizes.p95, 0), number(result.figures.top1_drop)]
        if evaluated:
            other = None if result is None else result.evaluated
            cells += ["-", "-"] if other is None else [number(other.top1), number(other.top1_drop)]
        style = "bold" if trial in report.kept.values() else ""
        rows.append([clean(cell, style) for cell in (*cells, report.status(trial))])
    return Grid(
        ("cut", ">c'", ">s", ">quality", ">bytes", ">p95", ">drop", *evaluated, "outcome"),
        rows,
        title=f"{report.config.model}: {report.config.unit} units, {report.config.codec}; at most "
        f"{report.search.max_drop:g} points lost",
        caption=f"{photos}. Drop: {drop or 'not known'}.{estimated}",
    )
