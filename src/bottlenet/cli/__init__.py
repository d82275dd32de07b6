"""The command line: one function a command. Each imports what it needs inside, so that `--help` is quick and a device
needs no torch.

    main -> command -> the library -> tables for people, or one JSON document

device.py     demo, classify, send, encode; sending.py sends
server.py     serve, decode; serving.py runs the server, access.py says who may; replicas.py, cluster.py and engines.py
              run many of it on Ray
network.py    cuts, train, export, evaluate
sweeping.py   sweep; sweep_tables.py what it shows
ladders.py    ladder, show
planning.py   profile, plan; plan_tables.py, profile_tables.py and plan_files.py what they show and write
bench.py      bench; bench_tables.py what it shows
report.py     report
privacy.py    privacy
arguments.py  options in common
options.py    a command from a dataclass
usage.py      from arguments to an exit code
files.py      what is written: whole or not at all
show.py       tables, JSON, progress; demo_tables.py those of the demo; answers.py of other tasks than one label

Exit codes: 0, done; 2, wrong usage, or a BottleNetError or what the system refused, which is one line on stderr; 130,
interrupted; send has codes of its own, see its help.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from bottlenet.cli import bench, device, network, planning, privacy, report, server
from bottlenet.cli import network as ladders
from bottlenet.cli import sweep as sweeping
from bottlenet.cli.show import run_app
from bottlenet.errors import BottleNetError

app = typer.Typer(
    name="bottlenet",
    help="A photo classifier cut in two: the device sends a few hundred bytes, the server answers.\n\n"
    "Start with [bold]bottlenet demo[/]. Each command has a [bold]--help[/] of its own, with examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def bottlenet(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from bottlenet.records import program_version

        print(f"bottlenet {program_version()}")
        raise typer.Exit


def main() -> None:
    """The entry point."""
    try:
        run_app(app, name="bottlenet")
    except BottleNetError as error:
        from bottlenet.cli.show import print_error

        print_error(error)
        sys.exit(2)
    except OSError as error:  # what has no better words by now: the disk is full, the terminal is gone
        from bottlenet.cli.show import print_error

        print_error(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "On the device": (device.demo, device.classify, device.send, device.encode),
    "On the server": (server.serve, server.decode),
    "Choosing what runs where": (planning.profile, planning.plan, bench.bench),
    "Making a split network": (
        *(network.cuts, sweeping.sweep, network.export, network.evaluate),
        *(ladders.ladder, ladders.show),
    ),
    "Showing results": (report.report, privacy.privacy),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
# It hands its arguments on to a command that is made from TrainConfig, which torch has to be there for.
app.command(
    rich_help_panel=panel,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(network.train)
