"""Commands as they were typed, without what names a machine: records and reports are passed on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def command_line(arguments: Sequence[str]) -> str:
    """`bottlenet ...` of what `sys.argv` holds; of a path that starts at the root, or at home, only its last part."""
    return " ".join(["bottlenet", *(shlex.quote(without_root(each)) for each in arguments[1:])])


def without_root(argument: str) -> str:
    """`--out=/home/me/x` -> `--out=x`."""
    option, equals, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    return option + equals + (Path(value).name if value.startswith("~") or Path(value).is_absolute() else value)


def program_version() -> str:
    """Of the installed package."""
    try:
        return metadata.version("bottlenet")
    except metadata.PackageNotFoundError:
        return "run from its source, without a version"
