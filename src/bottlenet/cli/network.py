"""Commands for whoever makes a split network: `cuts`, `train`, `export`, `evaluate`.

Commands for what is in a folder: `ladder`, `show`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.options import BundleArgument, Json, LadderArgument, require

if TYPE_CHECKING:
    from rich.table import Table

    from bottlenet.bundle import Bundle
    from bottlenet.bundle.ladder import Ladder
    from bottlenet.net.models import Classifier
    from bottlenet.train.train import TrainConfig


def ladder(
    bundle: Annotated[list[str], typer.Argument(help="Folders of bundles or ladders, of one network, each cut once.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="LADDER", help="The ladder's folder.")],
    name: Annotated[str | None, typer.Option("--name", help="What people call it; the network's if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Put bundles of one network into one folder, in which each weight is stored once.

    Each stays a bundle, with its id: [bold]LADDER/CUT[/] goes wherever a
    bundle does. A ladder that is there already is replaced, anything else is
    not. Needs no torch.

    Example:
      bottlenet ladder shallow.bundle deep.bundle -o my.ladder
    """
    from bottlenet.bundle.ladder import load_rungs, write_ladder
    from bottlenet.cli.show import print_json, stdout

    made = write_ladder(output, [rung for one in bundle for rung in load_rungs(one)], name)
    if as_json:
        print_json(ladder_document(made))
    else:
        stdout().print(ladder_table(made))


def show(bundle: LadderArgument, as_json: Json = False) -> None:
    """Say what is in a bundle or a ladder, after checking every file of it.

    Examples:
      bottlenet show demo
      bottlenet show my.ladder --json
    """
    from bottlenet.bundle.ladder import Ladder, load_any
    from bottlenet.cli.show import print_json, stdout

    loaded = load_any(bundle)
    if isinstance(loaded, Ladder):
        if as_json:
            print_json(ladder_document(loaded))
        else:
            stdout().print(ladder_table(loaded))
    elif as_json:
        print_json(bundle_document(loaded))
    else:
        stdout().print(bundle_table(loaded))


def bundle_document(bundle: Bundle) -> dict[str, object]:
    """The manifest, the id, and the bytes of all files."""
    import json

    values: dict[str, object] = json.loads(bundle.manifest.to_json())
    return {"bundle": str(bundle.path), "id": bundle.id.hex(), "bytes": bundle.size, **values}


def bundle_table(bundle: Bundle) -> Table:
    """The same for people."""
    from bottlenet.cli.show import facts_table

    manifest = bundle.manifest
    budget = f", at most {manifest.budget_bytes:,} bytes" if manifest.budget_bytes else ""
    extra = [(name, str(value)) for name, value in sorted(manifest.extra.items())]
    return facts_table(
        [
            ("bundle", f"{manifest.name}: {bundle.path}"),
            ("id", bundle.id.hex()),
            ("cut", f"{manifest.model} at {manifest.cut}, unit {manifest.unit}"),
            ("task", manifest.task.name),
            ("takes", f"photos at {manifest.preprocess.size} pixels; knows {manifest.num_classes:,} classes"),
            ("sends", f"{latent_of(bundle)}, codec {manifest.codec}, setting {manifest.setting}{budget}"),
            ("device", f"{manifest.head_flops_share:.0%} of the FLOPs"),
            ("uncut network", "there too" if bundle.uncut_path else "not there"),
            ("bytes", f"{bundle.size:,}"),
            *extra,
        ]
    )


def ladder_document(ladder: Ladder) -> dict[str, object]:
    """Its rungs, and what it takes up."""
    return {
        "ladder": str(ladder.path),
        "name": ladder.name,
        "model": ladder.model,
        "id": ladder.id.hex(),
        "bytes": ladder.size,
        "rungs": [bundle_document(rung) for rung in ladder.rungs],
    }


def ladder_table(ladder: Ladder) -> Table:
    """One line a rung."""
    from bottlenet.cli.show import clean, number_columns, plain_table, text_columns

    apart = sum(rung.size for rung in ladder.rungs)
    table = plain_table(
        f"Ladder {ladder.id.hex()[:12]}: {ladder.model}",
        f"{ladder.size:,} bytes; as bundles of their own they would have {apart:,}. Share: of the network's FLOPs, "
        f"run on the device. A rung goes wherever a bundle does: {ladder.path}/{ladder.rungs[0].path.name}",
    )
    text_columns(table, "rung", "bundle")
    number_columns(table, "latent", "codec", "setting", "share")
    for rung in ladder.rungs:
        manifest = rung.manifest
        table.add_row(
            clean(rung.path.name, "bold"),
            rung.id.hex()[:12],
            latent_of(rung),
            manifest.codec,
            str(manifest.setting),
            f"{manifest.head_flops_share:.1%}",
        )
    return table


def latent_of(bundle: Bundle) -> str:
    """Channels, height and width."""
    return "x".join(map(str, bundle.manifest.latent))


MAX_RECORD_BYTES = 65536
TRAIN_HELP = r"""Train the unit that goes into a cut, through the real codec.

No labels are needed: the uncut network is the teacher. The same command goes
on where an interrupted run stopped, and [bold]bottlenet export[/] makes a
bundle of the result.

Example:
  bottlenet train --model efficientnet_lite0 --cut blocks.8 --data photos \
    --out runs/first --target-bytes 1000
"""


def cuts(
    model: Annotated[
        str, typer.Argument(help="efficientnet_lite0, torchvision/NAME, timm/NAME, hf:FOLDER, package.module:function.")
    ],
    everything: Annotated[bool, typer.Option("--all", help="Also the cuts inside of modules that are cuts.")] = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="Of ResNet-50 or VGG-19: the paper's cuts, beside its bytes.")
    ] = False,
    as_json: Json = False,
) -> None:
    r"""List where a network can be cut: the places where just one tensor crosses.

    With --json always all of them. Needs [bold]pip install "bottlenet\[train]"[/], and
    [bold]\[torchvision][/], [bold]\[timm][/] or [bold]\[transformers][/] for networks from there.
    Behind their names can stand weights, and what the weights don't say.

    Examples:
      bottlenet cuts efficientnet_lite0
      bottlenet cuts torchvision/resnet50:IMAGENET1K_V2
      bottlenet cuts torchvision/resnet50:random --paper
      bottlenet cuts timm/vit_tiny_patch16_224
      bottlenet cuts timm/resnet18:pets.safetensors,labels=pets.txt,size=224
      bottlenet cuts my_package.models:resnet
    """
    require("cuts", "train")
    from bottlenet.cli.show import cuts_table, print_json, stdout
    from bottlenet.net.cut import cuts as find
    from bottlenet.net.models import load_model

    classifier = load_model(model)
    if paper:
        return print_paper(model, classifier, as_json)
    found = find(classifier.module, classifier.input_size)
    if as_json:
        print_json({"model": model, "input": classifier.input_size, "cuts": [asdict(cut) for cut in found]})
    else:
        stdout().print(cuts_table(found, everything=everything))


def print_paper(model: str, classifier: Classifier, as_json: bool) -> None:
    """Structure and raw bytes beside the paper's Table 4."""
    from bottlenet.cli.show import paper_table, print_json, stdout
    from bottlenet.net.build import paper_cuts

    found = paper_cuts(classifier)
    if as_json:
        print_json({"model": model, "input": classifier.input_size, "paper": [asdict(cut) for cut in found]})
    else:
        stdout().print(paper_table(found))


def train(context: typer.Context) -> None:
    """Train the unit that goes into a cut, through the real codec."""
    require("train", "train")
    from bottlenet.cli.options import run_command
    from bottlenet.train.train import TrainConfig

    run_command(TrainConfig, run_training, context.args, name="train", text=TRAIN_HELP)


def run_training(config: TrainConfig, as_json: bool) -> None:
    """With a progress bar on stderr."""
    from bottlenet.cli.show import print_json, say, training_progress
    from bottlenet.train.team import launch, started_by_launcher, this_is_main
    from bottlenet.train.train import train as run

    if config.processes > 1 and not started_by_launcher():
        if code := launch(config.processes, [sys.executable, "-m", "bottlenet.cli", *sys.argv[1:]]):
            raise typer.Exit(code)
        return
    with training_progress(shown=this_is_main()) as bar:
        run(config, bar)
    if not this_is_main():
        return
    if as_json:
        print_json({"run": config.out, "last": last_record(Path(config.out) / "log.jsonl")})
    else:
        say(f"trained: {config.out}\nnext: bottlenet export {config.out} -o my.bundle")


def last_record(log: Path) -> object:
    """The last line of a run's log: how good it was at the end."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_RECORD_BYTES))
        lines = file.read(MAX_RECORD_BYTES).splitlines()
    return json.loads(lines[-1]) if lines else None


def export(
    run: Annotated[str, typer.Argument(help="The folder that [bold]bottlenet train --out[/] filled.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="BUNDLE", help="The bundle's folder.")],
    weights: Annotated[
        str, typer.Option("--weights", help="float32, or int8 for a server's half of a quarter of the bytes.")
    ] = "float32",
    align: Annotated[
        int | None,
        typer.Option("--align", min=1, help="Pad the mosaic's tiles to multiples of this; 1: not. As trained: 8."),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget", metavar="BYTES", min=1, help="The bundle's own: no payload is larger, unless told so."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    r"""Make a bundle of a training run: all that device and server need, without torch.

    Compares the exported graphs with torch on real photos and writes nothing
    where they differ. A bundle that is there already is replaced, anything else
    is not. Needs [bold]pip install "bottlenet\[train]"[/].

    Example:
      bottlenet export runs/first -o my.bundle
    """
    require("export", "train")
    from bottlenet.cli.show import print_json, say
    from bottlenet.train.runs import export_run

    bundle, fidelity = export_run(run, output, weights=weights, align=align, budget_bytes=budget)
    if as_json:
        print_json({"bundle": str(bundle.path), "id": bundle.id.hex(), "fidelity": asdict(fidelity)})
    else:
        say(f"bundle {bundle.id.hex()[:12]}: {bundle.path}")
        say(f"compared with torch on {fidelity.photos} photos: {fidelity.symbols_equal:.3%} of the symbols are equal")
        if weights == "int8":
            kept, uncut = fidelity.rounded_agreement, fidelity.rounded_uncut_agreement
            say(f"with int8 weights {kept:.0%} of the answers stay the same, {uncut:.0%} of the uncut network's")


def evaluate(
    bundle: BundleArgument,
    data: Annotated[str, typer.Option("--data", help="A folder of photos; labels.csv or sub-folders say the classes.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="So many photos, spread over the folder.")] = None,
    budget: Annotated[
        int | None, typer.Option("--budget", metavar="BYTES", min=1, help="No payload has more bytes than this.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle on a folder of photos: accuracy and bytes, beside the uncut network.

    A folder without labels gives the agreement with the uncut network, and
    bytes. Needs no torch.

    Examples:
      bottlenet evaluate demo --data photos
      bottlenet evaluate demo --data photos --budget 316
      bottlenet evaluate my.bundle --data photos --limit 500 --json
    """
    from bottlenet.bundle import Bundle
    from bottlenet.cli.show import evaluation_document, evaluation_table, print_json, progress, stdout
    from bottlenet.measure.evaluate import evaluate as measure

    loaded = Bundle.load(bundle)
    with progress("evaluating") as step:
        result = measure(loaded, data, limit=limit, budget=budget, on_progress=step)
    if as_json:
        print_json(evaluation_document(loaded, result, budget))
    else:
        stdout().print(evaluation_table(loaded, result))
