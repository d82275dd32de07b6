"""JSON from anywhere -> frozen dataclasses: every field there, of its type, and no other."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from bottlenet.check import check_fields, shown
from bottlenet.errors import InputError
from bottlenet.files import read_at_most

MOST_ITEMS = 100_000  # of a list
LARGEST = 1e300
AGAIN = "make the file again with this version of bottlenet"


def read_json(path: Path, limit_bytes: int) -> Any:
    """What a file says. InputError: can't be read, larger than that, no JSON, or a number that is none."""
    try:
        with open(path, "rb") as file:
            data = read_at_most(file, limit_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}; give another file") from error
    if len(data) > limit_bytes:
        raise InputError(f"{path}: it has more than the {limit_bytes:,} bytes that are allowed; give another file")
    try:
        return parse_json(data.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is no text in UTF-8, so no JSON; give another file") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_json(text: str) -> Any:
    """InputError: no JSON, nested too deeply, or NaN and its like in it."""

    def refused(name: str) -> float:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(text, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({' '.join(str(error).split()):.100}); give another file") from error


def typed(record: type[Any], values: object, what: str) -> Any:
    """`record(...)` of a JSON object. InputError: not of its types, or `record` refuses it."""
    check_fields(what, values, record, AGAIN)
    assert isinstance(values, dict)
    hints = get_type_hints(record)
    return record(**{name: converted(hints[name], value, f"{what}.{name}") for name, value in values.items()})


def converted(hint: Any, value: object, what: str) -> Any:
    """One value. InputError: of another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (wanted,) = [each for each in arguments if each is not type(None)]
        return None if value is None else converted(wanted, value, what)
    if origin is tuple:
        if not isinstance(value, list) or len(value) > MOST_ITEMS:
            raise InputError(f"{what} is {shown(value)}; give a list of at most {MOST_ITEMS}")
        return tuple(converted(arguments[0], each, f"{what}[{number}]") for number, each in enumerate(value))
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return typed(hint, value, what)
    if hint is float and is_number(value):
        return value
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise InputError(f"{what} is {shown(value)}; {AGAIN}")


def is_number(value: object) -> bool:
    """Whether it is one, and finite."""
    return not isinstance(value, bool) and isinstance(value, int | float) and -LARGEST < value < LARGEST
