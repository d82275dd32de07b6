"""Commands for what is in a folder: `ladder`, `show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.arguments import Json, LadderArgument

if TYPE_CHECKING:
    from rich.table import Table

    from bottlenet.bundle import Bundle
    from bottlenet.ladder import Ladder


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
    from bottlenet.cli.show import print_json, stdout
    from bottlenet.ladder import load_rungs, write_ladder

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
    from bottlenet.cli.show import print_json, stdout
    from bottlenet.ladder import Ladder, load_any

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
