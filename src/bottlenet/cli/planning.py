"""Commands for choosing a partition: `profile`, `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.arguments import Force, Json, LadderArgument

if TYPE_CHECKING:
    from bottlenet.plan.predict import Prices
    from bottlenet.plan.profile import Profile


def profile(
    bundle: LadderArgument,
    data: Annotated[str, typer.Option("--data", help="A folder of photos; labels.csv or sub-folders say the classes.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="PROFILE", help="The profile to write, JSON.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="So many photos, spread over the folder.")] = None,
    device_power_mw: Annotated[
        float | None, typer.Option("--device-power-mw", help="The device's power while it computes, if you know it.")
    ] = None,
    meter: Annotated[
        str | None, typer.Option("--meter", help="What measures energy: rapl, jetson, nvml, model, auto.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Points that JPEG, WebP and AVIF of the input may lose.")
    ] = 2.0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure each partition of a bundle on this machine: time, bytes, energy, accuracy.

    Edge-only, cloud-only with JPEG, WebP and AVIF of the network's input, and
    the split, or each split of a ladder; one photo at a time, one thread. [bold]bottlenet plan[/] chooses
    among them. Needs no torch.

    Examples:
      bottlenet profile demo --data photos -o my.profile.json
      bottlenet profile my.bundle --data photos -o my.profile.json --limit 50
      bottlenet profile my.bundle --data photos -o my.profile.json --meter auto
    """
    from bottlenet.cli.files import check_target, write_whole
    from bottlenet.cli.plan_files import PROFILE
    from bottlenet.cli.plan_tables import profile_document
    from bottlenet.cli.profile_tables import detail_table, profile_table
    from bottlenet.cli.show import print_json, progress, say, stdout
    from bottlenet.lab.profile import profile as measure
    from bottlenet.ladder import load_any

    target = check_target(output, PROFILE, force=force)
    loaded = load_any(bundle)
    with progress("measuring") as step:
        made = measure(
            loaded,
            data,
            limit=limit,
            device_power_mw=device_power_mw,
            meter=meter,
            max_drop=max_drop,
            on_progress=step,
        )
    write_whole(target, made.to_json())
    if as_json:
        print_json({"profile": str(target), **profile_document(made)})
    else:
        stdout().print(profile_table(made))
        stdout().print(detail_table(made))
        say(f"profile: {target}\nnext: bottlenet plan {output} --link 3g")


def plan(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="As [bold]bottlenet profile[/] writes it.")],
    link: Annotated[
        str,
        typer.Option(
            "--link",
            metavar="NAME|BPS,RTT,LOSS",
            help="3g, 4g, wifi, 5g, lte-m, nb-iot, lorawan, iridium-sbd; or such as [bold]1.1M,100ms,1%[/].",
        ),
    ],
    objective: Annotated[str, typer.Option("--objective", help="latency, energy, bytes or cost.")] = "latency",
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="Points of top-1 that may be lost.")] = None,
    deadline: Annotated[float | None, typer.Option("--deadline", metavar="MS", help="ms for a photo.")] = None,
    budget: Annotated[float | None, typer.Option("--budget", metavar="BYTES", help="Uplink bytes a photo.")] = None,
    server_load: Annotated[float, typer.Option("--server-load", help="Photos ahead of ours on the server.")] = 0.0,
    cold: Annotated[bool, typer.Option("--cold", help="No connection is open yet: count its set-up.")] = False,
    price_mb: Annotated[float | None, typer.Option("--price-mb", help="For cost: a megabyte of uplink.")] = None,
    price_hour: Annotated[float | None, typer.Option("--price-hour", help="For cost: an hour of the server.")] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Refuse a profile that is not of this bundle.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="FILE", help="A sweep's candidates.json: take bytes and accuracy from there."),
    ] = None,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the candidates over the bandwidth.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Choose a partition for a link: what runs here, what runs on the server.

    Says why in one sentence, and where the choice would change. Nothing is
    measured: it computes from the profile and what is known of the link.

    Examples:
      bottlenet plan my.profile.json --link 3g --max-drop 2
      bottlenet plan my.profile.json --link 1.1M,100ms,1% --deadline 250 --json
      bottlenet plan my.profile.json --sweep sweeps/first/candidates.json --link 3g
    """
    from bottlenet.cli.files import check_target, write_whole
    from bottlenet.cli.plan_files import PLOT, PLOT_MARK, read_trained
    from bottlenet.cli.plan_tables import plan_document, plan_renderables
    from bottlenet.cli.show import print_json, stdout
    from bottlenet.lab.chart.flips import draw_flips
    from bottlenet.plan.planner import choose
    from bottlenet.plan.trained import with_trained

    target = None if plot is None else check_target(plot, PLOT, force=force)
    loaded = load_profile(profile, bundle)
    if sweep is not None:
        loaded = with_trained(loaded, read_trained(Path(sweep)))
    made = choose(
        loaded,
        link,
        objective=objective,
        max_drop=max_drop,
        deadline_s=None if deadline is None else deadline / 1e3,
        budget_bytes=budget,
        server_load=server_load,
        connected=not cold,
        prices=prices_of(price_mb, price_hour),
    )
    if target is not None:
        write_whole(target, draw_flips(loaded, made, connected=not cold).document(PLOT_MARK).encode())
    if as_json:
        print_json({**plan_document(loaded, made), "plot": None if target is None else str(target)})
        return
    for part in plan_renderables(loaded, made):
        stdout().print(part)


def load_profile(path: str, bundle: str | None) -> Profile:
    """InputError: can't be read, no profile, or of another bundle."""
    from bottlenet.cli.plan_files import read_profile

    loaded = read_profile(Path(path))
    if bundle is not None:
        from bottlenet.ladder import load_any

        loaded.check_bundle(load_any(bundle).id.hex())
    return loaded


def prices_of(price_mb: float | None, price_hour: float | None) -> Prices | None:
    """None where neither is given."""
    from bottlenet.plan.predict import Prices

    return None if price_mb is None and price_hour is None else Prices(price_mb or 0.0, price_hour or 0.0)
