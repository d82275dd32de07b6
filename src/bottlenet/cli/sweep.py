"""`bottlenet sweep`: units at several cuts, trained, measured, and the smallest of each cut kept.

What `bottlenet sweep` prints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated

import typer
from rich.table import Table

from bottlenet.cli.options import Json, require, with_configs
from bottlenet.cli.planning import DROP_NAMES
from bottlenet.cli.show import clean, number_columns, plain_table, text_columns
from bottlenet.errors import InputError
from bottlenet.train.sweep.folder import Search, SweepConfig
from bottlenet.train.sweep.grid import Figures
from bottlenet.train.sweep.sweep import Report


def report_table(report: Report) -> Table:
    """One line a trial."""
    figures = [result.figures for result in report.results.values()]
    photos = f"{max(each.photos for each in figures):,} photos held out" if figures else "nothing measured"
    drop = "; ".join(DROP_NAMES[kind] for kind in sorted({each.drop_of for each in figures}))
    entropy = " Bytes of the entropy codec are estimated." if report.config.codec == "entropy" else ""
    table = plain_table(
        f"{report.config.model}: {report.config.unit} units, {report.config.codec}; {report.search.max_drop:g} points "
        "may be lost",
        f"{photos}. Drop: {drop or 'not known'}.{entropy}",
    )
    text_columns(table, "cut")
    number_columns(table, "c'", "s", "quality", "bytes", "p95", "drop")
    if report.config.evaluate:
        number_columns(table, "top-1", "its\ndrop")
    text_columns(table, "what of it")
    for trial in report.trials:
        result = report.results.get(trial)
        style = "bold" if trial in report.kept.values() else ""
        table.add_row(
            clean(trial.cut),
            *(str(each) for each in (trial.channels, trial.stride, trial.quality)),
            *measured(None if result is None else result.figures),
            *(evaluated(None if result is None else result.evaluated) if report.config.evaluate else ()),
            clean(report.status(trial)),
            style=style,
        )
    return table


def measured(figures: Figures | None) -> tuple[str, str, str]:
    """Mean and p95 of the payload, and the drop."""
    if figures is None:
        return "-", "-", "-"
    return f"{figures.payload_bytes.mean:,.0f}", f"{figures.payload_bytes.p95:,}", f"{figures.top1_drop:.1f}"


def evaluated(figures: Figures | None) -> tuple[str, str]:
    """Top-1 and drop on the other folder."""
    if figures is None:
        return "-", "-"
    return "-" if figures.top1 is None else f"{figures.top1:.1f}", f"{figures.top1_drop:.1f}"


@with_configs(config=SweepConfig)
def sweep(
    model: Annotated[str, typer.Argument(help="efficientnet_lite0, _lite1, _lite2, or package.module:function.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="The sweep's folder; the same goes on.")],
    cuts: Annotated[list[str], typer.Option("--cuts", help="Names from [bold]bottlenet cuts[/]: A,B,C.")],
    channels: Annotated[
        list[str] | None, typer.Option("--channels", help="c' of the units: 4,8; or 1/8,1/4 of the cut's channels.")
    ] = None,
    strides: Annotated[list[str] | None, typer.Option("--strides", help="s of the units: 1,2.")] = None,
    qualities: Annotated[
        list[str] | None, typer.Option("--qualities", help="Of the codec: 20. With entropy the bytes to aim at.")
    ] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", help="Points that a kept one may lose.")] = Search.max_drop,
    everything: Annotated[bool, typer.Option("--all", help="Train what can't win, too.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", help="After these no more trial is started.")] = None,
    weights: Annotated[str, typer.Option("--weights", help="Of the ladder's bundles: float32, int8.")] = Search.weights,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of a trial.")] = Search.threads,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray: all cores, all machines.")] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="Of a Ray cluster; else this machine's cores.")
    ] = None,
    as_json: Json = False,
    *,
    config: SweepConfig,
) -> None:
    r"""Train units at several cuts, and keep of each cut the smallest that is good enough.

    One trial for each cut, c', s and quality, but for those that can't win any
    more: at one cut more channels, a smaller stride and a higher quality mean
    more bytes and more accuracy. Writes a ladder of what is kept, and
    candidates.json. The same command goes on where an interrupted one stopped.
    Needs [bold]pip install "bottlenet\[train]"[/], or for --engine ray [bold]"bottlenet\[train,ray]"[/].

    Examples:
      bottlenet sweep efficientnet_lite0 --data photos --cuts blocks.4,blocks.8 \
        --channels 1/8,1/4,1/2 --strides 1,2 --max-drop 5 -o sweeps/first
      bottlenet profile sweeps/first/ladder --data other_photos -o my.profile.json
      bottlenet plan my.profile.json --sweep sweeps/first/candidates.json --link 3g
    """
    require("sweep", "train")
    from bottlenet.cli.show import print_error, print_json, say, stdout, training_progress
    from bottlenet.train.sweep.sweep import document_of, nothing_kept, open_engine
    from bottlenet.train.sweep.sweep import sweep as run

    search = Search(
        cuts=tuple(split_list(cuts)),
        channels=Search.channels if channels is None else tuple(map(share, split_list(channels))),
        strides=Search.strides if strides is None else tuple(map(whole, split_list(strides))),
        qualities=Search.qualities if qualities is None else tuple(map(whole, split_list(qualities))),
        max_drop=max_drop,
        everything=everything,
        minutes=math.inf if minutes is None else minutes,
        weights=weights,
        threads=threads,
    )
    with training_progress() as bar:
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
    """["a,b", "c"] -> ["a", "b", "c"]."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def whole(text: str) -> int:
    """InputError: no whole number."""
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{text!a:.40} is no whole number; give one, or several as in 1,2") from error


def share(text: str) -> Fraction:
    """InputError: neither a whole number nor a fraction."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{text!a:.40} is no number of channels; give such as 8, or 1/8 of the cut's") from error
