"""Command line: one function for each command, in the file of the machine that it is for.

    main -> command -> the library -> tables for people, or one JSON document

Commands import what they need inside, so that `--help` is quick and a device needs no torch. Exit codes: 0, done; 2,
wrong usage, or a BottleNetError or an error of the system, in one line on stderr; 130, interrupted; send has codes of
its own, see its help.
"""

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer import Option

from bottlenet.cli import demo, device, network, planning, results, server
from bottlenet.cli.show import print_error, say
from bottlenet.errors import BottleNetError, InputError, how_to_install

app = typer.Typer(
    name="bottlenet",
    help="Photo classifiers cut in two: the device sends a few hundred bytes, the server answers.\n\n"
    "Start with [bold]bottlenet demo[/]. Each command has a [bold]--help[/] of its own, with examples.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def bottlenet(version: Annotated[bool, Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from bottlenet.records import program_version

        say(f"bottlenet {program_version()}")
        raise typer.Exit


COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "On the device": (demo.demo, device.classify, device.send, device.watch, device.spool, device.encode),
    "On the server": (server.serve, server.decode),
    "Choosing what runs where": (planning.profile, planning.plan, planning.bench),
    "Making a split network": (
        *(network.cuts, network.quick, network.train, network.sweep, network.export, network.evaluate),
        *(network.ladder, network.show),
    ),
    "Showing results": (results.report, results.privacy),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        extra = getattr(command, "needs", None)
        epilog = None if extra is None else f"Needs {how_to_install(extra)}.".replace("[", r"\[")
        app.command(rich_help_panel=panel, epilog=epilog)(command)

# typer's versions have it from other packages, and under no name of their own.
WRONG_USAGE: Any = typer.BadParameter.__mro__[1]


def main() -> None:
    try:
        prepare_streams()
        group: Any = typer.main.get_command(app)
        code = group.main(prog_name="bottlenet", standalone_mode=False) or 0
    except WRONG_USAGE as error:
        code = error.exit_code
        if message := error.format_message().strip().rstrip("."):  # none where help was shown
            command = error.ctx.command_path if error.ctx is not None else "bottlenet"
            print_error(f"{message[0].lower()}{message[1:]}; see {command} --help")
    except BottleNetError as error:
        code = 2
        print_error(error)
    except OSError as error:  # what has no better words by now: the disk is full, the terminal is gone
        code = 2
        print_error(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    sys.exit(code)


def prepare_streams() -> None:
    """Let stdout write every name, and open closed streams on /dev/null. InputError: stdout, for answers, is closed."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    closed = sys.stdout is None
    if closed:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if closed:
        raise InputError("standard output is closed, and answers go there; redirect it to a file, or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
