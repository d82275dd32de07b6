"""Commands for making a split network: from `cuts` and `quick` to `evaluate`; and `ladder`, `show`."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from bottlenet.cli.options import BundleArgument, Json, LadderArgument, Limit, PhotoFolder, Sure, needs, with_configs
from bottlenet.cli.planning import DROP_NAMES
from bottlenet.cli.show import Cell, Grid, clean, facts, number, print_json, progress, progress_bar, say, stdout
from bottlenet.errors import InputError
from bottlenet.train.config import TrainConfig, read_config
from bottlenet.train.sweep import Search, SweepConfig, check_photos

if TYPE_CHECKING:
    from bottlenet.bundle import Bundle
    from bottlenet.bundle.ladder import Ladder
    from bottlenet.measure.evaluate import Evaluation
    from bottlenet.net.build import PaperCut
    from bottlenet.net.cut import Cut
    from bottlenet.net.models import Classifier
    from bottlenet.records import Sizes
    from bottlenet.train.quick import Rated
    from bottlenet.train.sweep.sweep import Report

MAX_RECORD_BYTES = 65536
USUAL_QUALITIES = {"raw": (0,), "deflate": (9,)}  # of the other codecs the paper's


@needs("train")
def cuts(
    model: Annotated[
        str,
        Argument(
            help="efficientnet_lite0, torchvision/NAME, timm/NAME, hf:FOLDER, FILE.onnx, or package.module:function."
        ),
    ],
    everything: Annotated[bool, Option("--all", help="Also list cuts inside modules that are cuts.")] = False,
    tensors: Annotated[
        int, Option(min=1, max=4, help="Also list sets of up to this many tensors that cross together: A+B+C.")
    ] = 1,
    paper: Annotated[
        bool, Option("--paper", help="List the paper's cuts of ResNet-50 or VGG-19, with its bytes.")
    ] = False,
    data: Annotated[
        str | None, Option(help="Folder of photos, to find out how many bytes each cut needs without training.")
    ] = None,
    limit: Annotated[int, Option(min=20, help="Use only this many of the photos.")] = 256,
    share: Annotated[
        float, Option(min=0, max=1, help="Most of the network's FLOPs that the recommended cut has on the device.")
    ] = 0.5,
    as_json: Json = False,
) -> None:
    r"""List where a network can be cut: the places where exactly one tensor crosses.

    With --tensors several may cross, such as the skips of a U-Net or the
    scales of a detector's neck. Such a set is shown where nothing else within
    the same tenth of the FLOPs has fewer elements; --all shows all of them.

    A unit needs channels with height and width there; other places are not
    listed. --json lists all cuts. With --data it fits a unit to photos at
    each cut, as [bold]bottlenet quick[/] does, and says at how many bytes
    90 % and 95 % of the answers stay on other photos, and which cut it would
    take. Networks of torchvision, timm and transformers
    need the optional part of that name. Weights may follow the name, and
    options that the weights do not say: labels, size. An ONNX file says few:
    mean, std, crop, interpolation and labels follow its name.

    Examples:
      bottlenet cuts efficientnet_lite0
      bottlenet cuts torchvision/resnet50:IMAGENET1K_V2
      bottlenet cuts torchvision/resnet50:random --paper
      bottlenet cuts torchvision/lraspp_mobilenet_v3_large --tensors 2
      bottlenet cuts timm/vit_tiny_patch16_224
      bottlenet cuts timm/resnet18:pets.safetensors,labels=pets.txt,size=224
      bottlenet cuts efficientnet_lite0 --data photos
      bottlenet cuts pets.onnx,size=224,labels=pets.txt
      bottlenet cuts my_package.models:resnet
    """
    from bottlenet.net.build import can_have_unit, paper_cuts
    from bottlenet.net.cut import cuts as find_cuts
    from bottlenet.net.models import load_model

    if paper and data is not None:
        raise InputError("--paper lists the paper's figures, which need no photos: leave out --data, or --paper")
    classifier = load_model(model)
    network: dict[str, object] = {"model": model, "input": classifier.input_size}
    if paper:
        rows = paper_cuts(classifier)
        document, table = {**network, "paper": [asdict(cut) for cut in rows]}, paper_table(rows)
    else:
        places = find_cuts(classifier.module, classifier.input_size, tensors=tensors)
        found = [cut for cut in places if can_have_unit(cut)]
        rated: list[Rated] = []
        if data is not None:
            rated, refused = rate_cuts(classifier, found if everything else outermost(found), data, limit, everything)
            found = [cut for cut in found if cut not in refused]
        shown = found if everything else outermost(found)
        document, table = {**network, "cuts": [asdict(cut) for cut in found]}, cuts_table(shown, rated, len(found))
        if data is not None:
            from bottlenet.train.quick import best

            taken = best(rated, share)
            document |= {"rated": [asdict(each) for each in rated], "recommended": taken.cut.name if taken else None}
    if as_json:
        return print_json(document)
    stdout().print(table)
    if data is not None:
        say(recommendation(taken, share))


def outermost(cuts: Sequence[Cut]) -> list[Cut]:
    """Leave out what is inside a listed module, and sets with more elements than another cut in the same tenth."""
    inside = tuple(f"{name}." for cut in cuts for name in cut.tensors or [cut.name])
    shown = [cut for cut in cuts if not any(name.startswith(inside) for name in cut.tensors or [cut.name])]
    least: dict[int, Cut] = {}
    for cut in shown:
        tenth = int(10 * cut.head_flops_share)
        least[tenth] = min(least.get(tenth, cut), cut, key=lambda each: each.elements)
    return [cut for cut in shown if not cut.tensors or cut in least.values()]


def rate_cuts(
    classifier: Classifier, cuts: Sequence[Cut], data: str, limit: int, everything: bool
) -> tuple[list[Rated], list[Cut]]:
    """Rate cuts, and list those that no unit can go to; without `everything` leave out what an earlier one beats."""
    from bottlenet.train.quick import promising, rate

    tried = cuts if everything else promising(cuts)
    with progress_bar() as bar:
        task = bar.add_task("fitting units", total=len(tried))
        rated = rate(classifier, tried, data, limit, lambda done: bar.update(task, completed=done))
    return rated, [cut for cut in tried if cut not in [each.cut for each in rated]]


def recommendation(taken: Rated | None, share: float) -> str:
    allowed = f"with at most {100 * share:g} % of the FLOPs on the device"
    if taken is None:
        return f"at no cut {allowed} 95 % of the answers stay: give a larger --share, or train"
    why = f"of the cuts {allowed} it needs the fewest bytes for 95 % of the answers, {taken.bytes_95:,.0f}"
    return f"take {taken.cut.name}: {why}; a trained unit needs fewer"


def cuts_table(shown: Sequence[Cut], rated: Sequence[Rated], count: int) -> Grid:
    """List cuts, of `count` there are, from the photo to the scores, with their bytes where these are known."""
    within = "inside these, or sets with more elements" if any(cut.tensors for cut in shown) else "inside these"
    hidden = f" {count - len(shown)} more are {within}: --all." if count > len(shown) else ""
    rows: list[list[Cell]] = []
    for cut in shown:
        shape = shape_of(cut)
        flops = f"{cut.head_flops / 1e6:,.0f}"
        rows.append([clean(cut.name, "bold"), shape, f"{cut.elements:,}", flops, f"{cut.head_flops_share:.1%}"])
    caption = f"Share: of the network's FLOPs, run on the device.{hidden}"
    columns = ["cut", ">shape", ">elements", ">head MFLOPs", ">share"]
    if rated:
        columns += [">bytes for\n90 %", ">bytes for\n95 %"]
        known = {each.cut.name: (each.bytes_90, each.bytes_95) for each in rated}
        for row, cut in zip(rows, shown, strict=True):
            sizes = known.get(cut.name)
            row += ["-"] * 2 if sizes is None else ["never" if size is None else f"{size:,.0f}" for size in sizes]
        caption += " Bytes: of a unit without training, for that share of the uncut network's answers; never: not even"
        caption += " with the whole payload; -: not tried, as an earlier cut has fewer elements."
    return Grid(columns, rows, caption=caption)


def shape_of(cut: Cut) -> str:
    assert cut.layout is not None, "other cuts are not listed"
    text = " + ".join("x".join(map(str, each.shape)) for each in cut.layout.parts or [cut])
    if cut.layout.kind != "planes":
        text += " as " + "x".join(map(str, cut.layout.grid))
    return text


def paper_table(cuts: Sequence[PaperCut]) -> Grid:
    rows: list[list[Cell]] = []
    for cut in cuts:
        flops = f"{cut.head_flops / 1e6:,.0f}", f"{cut.head_flops_share:.1%}"
        latent = "x".join(map(str, cut.latent or ())) or "-"
        sizes = (number(value, 0) for value in (cut.latent_elements, cut.raw_bytes, cut.paper_bytes))
        rows.append([clean(cut.name, "bold"), cut.cut, "x".join(map(str, cut.shape)), *flops, latent, *sizes])
    numbers = (">features", ">device\nMFLOPs", ">share", ">latent", ">elements", ">raw\nbytes", ">paper's\nbytes")
    return Grid(
        ("after", "cut", *numbers),
        rows,
        caption="FLOPs of head and unit, and their share of the uncut network's. Raw: a byte an element, before any "
        "codec. Paper: Table 4 of arXiv 1902.01000v1, with JPEG at quality 20.",
    )


@needs("train")
@with_configs(config=TrainConfig)
def train(as_json: Json = False, *, config: TrainConfig) -> None:
    r"""Train the bottleneck for a cut, with the real codec in the loop.

    The bottleneck is called the unit. No labels are needed: the uncut network
    is the teacher. Run the same command again to resume an interrupted run.
    [bold]bottlenet export[/] makes a bundle of the result.

    Example:
      bottlenet train --model efficientnet_lite0 --cut blocks.8 \
        --data photos --out runs/first --target-bytes 1000
    """
    config.check_folders()
    from bottlenet.train.runs import LOG, summary
    from bottlenet.train.team import is_main_process, launch, launched, main_reports_first
    from bottlenet.train.train import train as run

    if config.processes > 1 and not launched():
        if code := launch(config.processes, [sys.executable, "-m", "bottlenet.cli", *sys.argv[1:]]):
            raise typer.Exit(code)
        return
    with progress_bar(hidden=not is_main_process()) as bar, main_reports_first():
        run(config, bar)
    if not is_main_process():
        return
    with open(Path(config.out) / LOG, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_RECORD_BYTES))
        last = json.loads(file.read(MAX_RECORD_BYTES).splitlines()[-1])  # how good it was at the end
    text, reached = summary(config, last["held_out"])
    if as_json:
        print_json({"run": config.out, "last": last, "reached": reached})
    else:
        say(f"trained: {config.out}\n{text}\nnext: bottlenet export {config.out} -o my.bundle")


@needs("train")
@with_configs(config=SweepConfig)
def sweep(
    model: Annotated[str, Argument(help="efficientnet_lite0, _lite1, _lite2, or package.module:function.")],
    out: Annotated[str, Option("--out", "-o", metavar="FOLDER", help="Folder of the sweep.")],
    cuts: Annotated[list[str], Option(help="Names from [bold]bottlenet cuts[/]: A,B,C.")],
    channels: Annotated[
        list[str] | None, Option(help="c' of the units: 4,8; or 1/8,1/4 of the cut's channels.")
    ] = None,
    strides: Annotated[list[str] | None, Option(help="s of the units: 1,2.")] = None,
    qualities: Annotated[list[str] | None, Option(help="Qualities of the codec: 20. For entropy: mean bytes.")] = None,
    max_drop: Annotated[float, Option(help="Most points of top-1 that a kept unit may lose.")] = Search.max_drop,
    everything: Annotated[bool, Option("--all", help="Also train what can't win.")] = False,
    minutes: Annotated[float | None, Option(help="Start no trial after this time.")] = None,
    weights: Annotated[str, Option(help="Weights of the ladder's bundles: float32 or int8.")] = Search.weights,
    threads: Annotated[int, Option(min=1, help="Threads for each trial.")] = Search.threads,
    engine: Annotated[str, Option(help="local; or ray, for all cores of all machines.")] = "local",
    address: Annotated[str | None, Option(help="Address of a Ray cluster. Default: this machine's cores.")] = None,
    as_json: Json = False,
    *,
    config: SweepConfig,
) -> None:
    r"""Train bottlenecks at several cuts, and keep the smallest good enough one of each cut.

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
        raise InputError(nothing_kept(report))


def split_list(values: Sequence[str]) -> list[str]:
    """Split at commas: ["a,b", "c"] -> ["a", "b", "c"]."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{text!a:.40} is no whole number; give one, or several as in 1,2") from error


def share(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{text!a:.40} is no number of channels; give such as 8, or 1/8 of the cut's") from error


def report_table(report: Report) -> Grid:
    figures = [result.figures for result in report.results.values()]
    photos = f"{max(each.photos for each in figures):,} photos held out" if figures else "nothing measured"
    drop = "; ".join(DROP_NAMES[kind] for kind in sorted({each.drop_of for each in figures}))
    estimated = " Bytes of the entropy codec are estimated." if report.config.codec == "entropy" else ""
    evaluated = (">top-1", ">its\ndrop") if report.config.evaluate else ()
    rows: list[list[Cell]] = []
    for trial in report.trials:
        result = report.results.get(trial)
        cells = [trial.cut, str(trial.channels), str(trial.stride), str(trial.quality), *["-"] * 3]
        if result is not None:
            sizes = result.figures.payload_bytes
            cells[-3:] = number(sizes.mean, 0), number(sizes.p95, 0), number(result.figures.top1_drop)
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


@needs("train")
def quick(
    model: Annotated[str, Argument(help="A network, as for [bold]bottlenet cuts[/].")],
    cut: Annotated[str, Option(help="A name from [bold]bottlenet cuts[/]; A+B+C where several tensors cross.")],
    data: PhotoFolder,
    output: Annotated[str, Option("--output", "-o", metavar="BUNDLE", help="Folder of the bundle to write.")],
    evaluate: Annotated[
        str | None, Option(help="Folder of photos to measure on. Default: a quarter of --data, which is not fitted to.")
    ] = None,
    limit: Annotated[int, Option(min=20, help="Use only this many of the photos of a folder.")] = 256,
    channels: Annotated[int, Option(min=0, help="c', channels of the latent; 0: as many as are usual there.")] = 0,
    stride: Annotated[int, Option(min=0, help="s, spatial reduction of the unit; 0: what is usual there.")] = 0,
    budgets: Annotated[
        str, Option(metavar="BYTES,BYTES", help="Payloads to measure at.")
    ] = "100,200,400,800,1600,3200,6400",
    as_json: Json = False,
) -> None:
    r"""Make a bundle in a minute, without training, and measure how many bytes it needs.

    The bottleneck is a projection on the principal components of the features
    of some hundred photos. Its payload can be cut to any budget; a device
    cuts it to what a server takes, 65,536 bytes, unless it gets another
    [bold]--budget[/]. Training needs fewer bytes for the same answers, often
    several times fewer: this shows whether a cut is worth it. Replaces a
    bundle, but nothing else.

    Example:
      bottlenet quick efficientnet_lite0 --cut blocks.8 --data photos \
        -o quick.bundle
    """
    from bottlenet.bundle import check_replaceable

    sizes = sorted({whole(each) for each in split_list([budgets])})
    if not sizes or sizes[0] < 1:
        raise InputError(f"budgets are {budgets!r}; give bytes such as 200,400")
    check_replaceable(Path(output).resolve())
    from bottlenet.measure.evaluate import evaluate_budgets
    from bottlenet.photos.folders import choose, list_photos, photos_for
    from bottlenet.train.quick import divide, make_bundle

    to_fit, to_measure = divide(data, limit) if evaluate is None else (choose(list_photos(data), limit), [])
    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)
        bundle, fidelity = make_bundle(
            model, cut, to_fit, output, channels, stride, lambda what: bar.update(task, description=what)
        )
    if evaluate is not None:
        to_measure = photos_for(bundle, evaluate, limit)
    with progress("evaluating") as step:
        results = evaluate_budgets(bundle, to_measure, sizes, on_progress=step)
    rows = list(zip([*sizes, None], results, strict=True))
    if as_json:
        curve = [{"budget_bytes": size, **asdict(result)} for size, result in rows]
        document = {"bundle": str(bundle.path), "id": bundle.id.hex(), "fidelity": asdict(fidelity)}
        return print_json({**document, "photos_fitted": len(to_fit), "curve": curve})
    stdout().print(budgets_table(bundle, rows))
    budget = f"payloads have at most {bundle.manifest.budget_bytes:,} bytes unless a device gets another --budget"
    say(f"bundle {bundle.id.hex()[:12]}: {bundle.path}\n{budget}")


def budgets_table(bundle: Bundle, rows: Sequence[tuple[int | None, Evaluation]]) -> Grid:
    labelled = rows[0][1].labelled > 0
    cells: list[list[Cell]] = []
    for size, each in rows:
        row: list[Cell] = ["whole" if size is None else f"{size:,}", number(each.payload_bytes.mean, 0)]
        row += [f"{number(value)} %" for value in (each.agreement, *([each.top1] if labelled else []))]
        cells.append(row)
    columns = (">budget", ">payload\nbytes", ">agreement", *([">top-1"] if labelled else []))
    return Grid(
        columns,
        cells,
        title=f"{bundle.manifest.name}, not trained",
        caption=f"{rows[0][1].photos:,} photos that it was not fitted to. Agreement: with the uncut network.",
    )


@needs("train")
def export(
    run: Annotated[str, Argument(help="Folder of a run of [bold]bottlenet train[/].")],
    output: Annotated[str, Option("--output", "-o", metavar="BUNDLE", help="Folder of the bundle to write.")],
    weights: Annotated[str, Option(help="float32; or int8, which makes the tail four times smaller.")] = "float32",
    align: Annotated[
        int | None, Option(min=1, help="Pad the mosaic's tiles to multiples of this. Default: as trained.")
    ] = None,
    budget: Annotated[
        int | None, Option(metavar="BYTES", min=1, help="Largest payload by default; a device may set another.")
    ] = None,
    mean_bytes: Annotated[
        float | None,
        Option(
            metavar="BYTES",
            min=0,
            help="With an exit: mean payload; a photo that is not sent counts as 0. Default: a quarter of --budget.",
        ),
    ] = None,
    exit_from: Annotated[
        str | None,
        Option(
            "--exit",
            metavar="RUN|NAME:SIZE",
            help="What the device answers with where it is sure: a run with an exit, or a network and its input side.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle of a training run: all that device and server need to run without torch.

    Compares the exported graphs with torch on real photos, and writes nothing
    if they differ. Replaces a bundle, but nothing else.

    Example:
      bottlenet export runs/first -o my.bundle
    """
    from bottlenet.bundle import check_replaceable

    read_config(Path(run))  # both before torch comes, which takes many seconds
    check_replaceable(Path(output).resolve())
    from bottlenet.train.runs import export_run

    with progress_bar() as bar:
        task = bar.add_task("exporting", total=None)
        bundle, fidelity = export_run(
            run,
            output,
            weights=weights,
            align=align,
            budget_bytes=budget,
            mean_bytes=mean_bytes,
            exit_from=exit_from,
            say=lambda what: bar.update(task, description=f"exporting: {what}"),
        )
    if as_json:
        return print_json({"bundle": str(bundle.path), "id": bundle.id.hex(), "fidelity": asdict(fidelity)})
    say(f"bundle {bundle.id.hex()[:12]}: {bundle.path}")
    say(f"compared with torch on {fidelity.photos} photos: {fidelity.symbols_equal:.3%} of the symbols are equal")
    if weights == "int8":
        kept, uncut = fidelity.rounded_agreement, fidelity.rounded_uncut_agreement
        say(f"with int8 weights {kept:.0%} of the answers stay the same, {uncut:.0%} of the uncut network's")
    if (own := bundle.manifest.exit) is not None:
        say(f"the device answers by itself where its confidence is {own.sure:.2f} or more")


def evaluate(
    bundle: BundleArgument,
    data: PhotoFolder,
    limit: Limit = None,
    budget: Annotated[int | None, Option(metavar="BYTES", min=1, help="Largest payload.")] = None,
    sure: Sure = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle on a folder of photos: accuracy and bytes, compared with the uncut network.

    Without labels it measures bytes, and the agreement with the uncut network.
    Needs no torch.

    Examples:
      bottlenet evaluate demo --data photos
      bottlenet evaluate demo --data photos --budget 316
      bottlenet evaluate my.bundle --data photos --limit 500 --json
    """
    from bottlenet.bundle import Bundle
    from bottlenet.measure.evaluate import evaluate as measure

    loaded = Bundle.load(bundle)
    with progress("evaluating") as step:
        result = measure(loaded, data, limit=limit, budget=budget, sure=sure, on_progress=step)
    if as_json:
        print_json(evaluation_document(loaded, result, budget))
    else:
        stdout().print(evaluation_table(loaded, result))


def evaluation_document(bundle: Bundle, result: Evaluation, budget_bytes: int | None) -> dict[str, object]:
    from bottlenet.records import command_line

    manifest = bundle.manifest
    return {
        "kind": "bottlenet evaluate",
        "format_version": 1,
        "command": command_line(sys.argv),
        "bundle": bundle.id.hex(),
        **{name: getattr(manifest, name) for name in ("name", "model", "cut")},
        "budget_bytes": budget_bytes,
        **asdict(result),
    }


def evaluation_table(bundle: Bundle, result: Evaluation) -> Table:
    manifest = bundle.manifest
    network = f"{manifest.model} at {manifest.cut}"
    name = network if manifest.name == network else f"{manifest.name}, {network}"  # as `export` names a bundle

    def points(value: float | None, unit: str = "%") -> str:
        return "not known" if value is None else f"{value:.1f}{unit}"

    def bytes_row(sizes: Sizes) -> str:
        return f"mean {sizes.mean:,.0f}, 95 of 100 at most {sizes.p95:,}, largest {sizes.max:,}"

    skipped = f", {result.skipped:,} damaged ones skipped" if result.skipped else ""
    decisions, flops = [], f"{result.head_flops_share:.0%} of the FLOPs run on the device"
    if manifest.exit is not None and result.decision_bytes and result.sent_share is not None:
        decisions.append(("sent", f"{result.sent_share:.0%} of the photos; of the others the device is sure"))
        decisions.append(("decision bytes", bytes_row(result.decision_bytes)))
        flops = f"{result.mean_flops_share:.0%} of the FLOPs in the mean, {result.head_flops_share:.0%} where it sends"
    return facts(
        ("bundle", f"{bundle.id.hex()[:12]}: {name}"),
        ("photos", f"{result.photos:,}, {result.labelled:,} with a label{skipped}"),
        ("top-1", Text(points(result.top1), "bold")),
        ("top-1 uncut", points(result.top1_uncut)),
        ("drop", points(result.top1_drop, " points")),
        ("top-5", points(result.top5)),
        ("agreement", f"{points(result.agreement)} get the uncut network's answer"),
        *decisions,
        ("payload bytes", bytes_row(result.payload_bytes)),
        ("frame bytes", bytes_row(result.frame_bytes)),
        ("device" if decisions else "head", flops),
    )


def ladder(
    bundle: Annotated[list[str], Argument(help="Folders of bundles or ladders of one network, at different cuts.")],
    output: Annotated[str, Option("--output", "-o", metavar="LADDER", help="Folder of the ladder to write.")],
    name: Annotated[str | None, Option(help="Name of the ladder. Default: the network's.")] = None,
    as_json: Json = False,
) -> None:
    """Put bundles of one network into one folder, in which each weight is stored once.

    Each stays a bundle, with its id: [bold]LADDER/CUT[/] goes wherever a
    bundle does. Replaces a ladder, but nothing else. Needs no torch.

    Example:
      bottlenet ladder shallow.bundle deep.bundle -o my.ladder
    """
    from bottlenet.bundle.ladder import load_rungs, write_ladder

    show_ladder(write_ladder(output, [rung for one in bundle for rung in load_rungs(one)], name), as_json)


def show(bundle: LadderArgument, as_json: Json = False) -> None:
    """Check every file of a bundle or a ladder, and show what is in it.

    Examples:
      bottlenet show demo
      bottlenet show my.ladder --json
    """
    from bottlenet.bundle.ladder import Ladder, load_any

    loaded = load_any(bundle)
    if isinstance(loaded, Ladder):
        show_ladder(loaded, as_json)
    elif as_json:
        print_json(bundle_document(loaded))
    else:
        stdout().print(bundle_table(loaded))


def bundle_document(bundle: Bundle) -> dict[str, object]:
    values: dict[str, object] = json.loads(bundle.manifest.to_json())
    return {"bundle": str(bundle.path), "id": bundle.id.hex(), "bytes": bundle.size, **values}


def bundle_table(bundle: Bundle) -> Table:
    manifest = bundle.manifest
    budget = f", at most {manifest.budget_bytes:,} bytes" if manifest.budget_bytes else ""
    exits = []
    if (own := manifest.exit) is not None:
        bound = "never answers" if own.sure == 1 else f"answers from a confidence of {own.sure:.2f} on"
        exits.append(("exit", f"{bound}; {own.flops_share:.0%} of the FLOPs"))
    return facts(
        ("bundle", f"{manifest.name}: {bundle.path}"),
        ("id", bundle.id.hex()),
        ("cut", f"{manifest.model} at {manifest.cut}, unit {manifest.unit}"),
        ("task", manifest.task.name),
        ("takes", f"photos at {manifest.preprocess.size} pixels; knows {manifest.num_classes:,} classes"),
        ("sends", f"{latent_of(bundle)}, codec {manifest.codec}, setting {manifest.setting}{budget}"),
        ("device", f"{manifest.head_flops_share:.0%} of the FLOPs"),
        *exits,
        ("uncut network", "in the bundle" if bundle.uncut_path else "not in the bundle"),
        ("bytes", f"{bundle.size:,}"),
        *((name, str(value)) for name, value in sorted(manifest.extra.items())),
    )


def show_ladder(ladder: Ladder, as_json: bool) -> None:
    if not as_json:
        return stdout().print(ladder_table(ladder))
    head = {"ladder": str(ladder.path), "name": ladder.name, "model": ladder.model, "id": ladder.id.hex()}
    print_json({**head, "bytes": ladder.size, "rungs": [bundle_document(rung) for rung in ladder.rungs]})


def ladder_table(ladder: Ladder) -> Grid:
    apart = sum(rung.size for rung in ladder.rungs)
    rows: list[list[Cell]] = []
    for rung in ladder.rungs:
        name, manifest = clean(rung.path.name, "bold"), rung.manifest
        cells = rung.id.hex()[:12], latent_of(rung), manifest.codec, str(manifest.setting)
        rows.append([name, *cells, f"{manifest.head_flops_share:.1%}"])
    return Grid(
        ("rung", ">bundle", ">latent", ">codec", ">setting", ">share"),
        rows,
        title=f"Ladder {ladder.id.hex()[:12]}: {ladder.model}",
        caption=f"{ladder.size:,} bytes; as separate bundles {apart:,}. Share: of the network's FLOPs, run on the "
        f"device. A rung goes wherever a bundle does: {ladder.path}/{ladder.rungs[0].path.name}",
    )


def latent_of(bundle: Bundle) -> str:
    return "x".join(map(str, bundle.manifest.latent))
