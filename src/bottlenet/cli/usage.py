"""A command from its arguments to its exit code. What was typed wrongly is one line, as every other error is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

# UsageError: typer's versions have it from other packages, and under no name of their own.
WRONG_USAGE: Any = typer.BadParameter.__mro__[1]


def run_app(app: typer.Typer, *, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Ends with SystemExit. `arguments` are those of the process unless given."""
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except WRONG_USAGE as error:
        if what := error.format_message().strip().rstrip("."):  # nothing where help was shown
            from bottlenet.cli.show import print_error

            command_name = error.ctx.info_name if error.ctx is not None and error.ctx.parent is not None else None
            whose = name if command_name is None else f"{name} {command_name}"
            print_error(f"{what[0].lower()}{what[1:]}; see {whose} --help")
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)  # Ctrl-C, as a shell counts it
    sys.exit(code or 0)
