"""Frozen dataclasses that check their fields, and how JSON becomes one of them.

    @record                                      pydantic checks types and bounds, in constructors and in `parse`
    class Link:
        uplink_bps: Annotated[float, Field(gt=0)]

    parse(Link, b'{"uplink_bps": 0}', "link", advice="measure again")
    InputError: its link.uplink_bps is 0; it should be greater than 0

Every error is one line that says what was given and what is allowed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import PydanticCustomError
from typing_extensions import dataclass_transform  # pydantic needs it, too

from bottlenet.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
reader: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
Version: TypeAlias = int | tuple[int, ...]  # of a format: the one that is read, or several
Marks: TypeAlias = tuple[str, ...]  # fields by which a document is recognised
MARKS = ("format_version",)
MAX_BYTES = 2**24  # of a document
CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def record(kind: type[T]) -> type[T]:
    """Make `kind` a frozen dataclass that checks its fields. InputError: a value of another type or out of bounds."""
    made = checked_dataclass(frozen=True, config=CONFIG)(kind)
    construct, names = made.__init__, [each.name for each in dataclasses.fields(made)]

    @functools.wraps(construct)
    def __init__(self: Any, *values: Any, **named: Any) -> None:
        try:
            construct(self, *values, **named)
        except ValidationError as error:
            raise InputError(problem(error, names)) from None

    made.__init__ = __init__  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


def parse(
    kind: type[T], data: bytes, what: str, *, version: Version, advice: str, marks: Marks = MARKS, only: bool = False
) -> T:
    """Read a JSON document as a record of this `kind` and format `version`, or one of several. The fields `marks`
    identify the document.

    With `only` it may have other fields, which are ignored.

    InputError: larger than 16 MiB, not JSON, another document or version, or fields that don't fit.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"it is larger than the {MAX_BYTES:,} bytes that are allowed, so it is no {what}; {advice}")
    values = parse_versioned(data, what, version, advice, marks=marks)
    if only:
        names = {each.name for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
        data = json.dumps({name: value for name, value in values.items() if name in names}).encode()
    return convert(kind, data, advice)


def convert(kind: type[T], values: object, advice: str) -> T:
    """Make a dataclass of this `kind` from a JSON object, or from its bytes. InputError: fields that don't fit."""
    try:
        data = values if isinstance(values, bytes) else json.dumps(values, allow_nan=False)
        made: T = reader(kind).validate_json(data, strict=True, extra="forbid")
    except ValidationError as error:
        raise InputError(f"{problem(error)}; {advice}") from None
    except ValueError as error:
        raise InputError(f"it has a number that is not finite; {advice}") from error
    return made


def problem(error: ValidationError, names: Sequence[str] = ()) -> str:
    """Describe the first problem in one line. `names` are those of arguments that have only a position."""
    problems = error.errors(include_url=False)
    if missing := [".".join(map(str, each["loc"])) for each in problems if each["type"] == "missing"]:
        return f"it lacks {', '.join(missing[:4])}{' and more' * (len(missing) > 4)}"
    first = problems[0]
    kind, place = first["type"], ".".join(map(str, first["loc"])).removesuffix(".[key]")
    if names and isinstance(position := first["loc"][0], int):
        place = ".".join([names[position], *map(str, first["loc"][1:])])
    if kind in ("unexpected_keyword_argument", "extra_forbidden", "unexpected_property"):
        return f"it has an unknown field {shown(place)}"
    context = first.get("ctx", {})
    if kind == "json_invalid":
        return f"it is not JSON ({context['error']})"
    remedy = REMEDIES[kind].format(**context) if kind in REMEDIES else first["msg"]
    return f"{place or 'it'} is {shown(first['input'])}; {remedy}"


REMEDIES = {  # by pydantic's types of errors
    "int_type": "give an integer",
    "int_from_float": "give an integer",
    "string_type": "give text",
    "bool_type": "give true or false",
    "tuple_type": "give a list",
    "dict_type": "give an object",
    "dataclass_type": "give an object",
    "dataclass_exact_type": "give an object",
    "literal_error": "choose one of {expected}",
    "greater_than": "give a number above {gt:g}",
    "greater_than_equal": "give a number of {ge:g} or more",
    "less_than_equal": "give a number of {le:g} or less",
    "too_short": "give {min_length} or more",
    "too_long": "give {max_length} or fewer",
}


def refused(allowed: str) -> PydanticCustomError:
    return PydanticCustomError("not_allowed", f"give {allowed}")


def one_line(text: str, limit: int = 200) -> str:
    # isprintable also refuses lone surrogates, which JSON can spell and UTF-8 can't.
    if not 1 <= len(text) <= limit or not text.isprintable():
        raise refused(f"one line of 1 to {limit} printable characters")
    return text


def finite_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise refused("a finite number")
    return value


def fitting(fits: Callable[[str], object], remedy: str) -> AfterValidator:
    """Make an annotation of text for which `fits` is true."""

    def check(value: str) -> str:
        if not fits(value):
            raise PydanticCustomError("not_allowed", remedy)
        return value

    return AfterValidator(check)


def one_of(*allowed: str) -> AfterValidator:
    """Make an annotation of text that is one of these."""
    return fitting(allowed.__contains__, f"choose one of {', '.join(allowed)}")


Text = Annotated[str, AfterValidator(one_line)]
Sha256 = Annotated[str, fitting(re.compile(r"[0-9a-f]{64}").fullmatch, "give 64 lower-case hex digits")]
Number = Annotated[int | float, BeforeValidator(finite_number)]  # an integer stays one, so a document keeps its bytes
Share = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(ge=0, le=10**12)]
Count = Annotated[int, Field(ge=0, le=10**12)]


def parse_versioned(
    data: bytes, what: str, version: Version, advice: str, *, marks: Marks = MARKS
) -> dict[str, object]:
    """Parse JSON of a format version, recognised by its fields `marks`. InputError: no JSON, or another document."""
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({' '.join(str(error).split()):.100})") from error
    if not isinstance(values, dict) or not set(marks) <= set(values):
        raise InputError(f"it has no {' and '.join(marks)}, so it is no {what} of BottleNet")
    # The version comes first: what else is in there depends on it.
    given = values["format_version"]
    versions = version if isinstance(version, tuple) else (version,)
    if isinstance(given, bool) or given not in versions:
        reads = f"this program reads version {' and '.join(map(str, versions))}"
        what = f"it is of format version {shown(given)} and {reads}"
        raise InputError(f"{what}: use the BottleNet that wrote it, or {advice}")
    return values


def is_number(value: object, kind: Any = Real) -> bool:
    """Tell a number, numpy's too, from text, truth values and all else; with `kind` Integral an integer."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_number(what: str, value: object, low: float, high: float) -> None:
    """Raise InputError unless `value` is a number from `low` to `high`."""
    # NaN is not between anything.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        allowed = f"from {low:g}" + (f" to {high:g}" if math.isfinite(high) else "")
        raise InputError(f"{what} is {shown(value)}; give a number {allowed}")


def check_integer(what: str, value: object, low: int, high: int) -> None:
    """Raise InputError unless `value` is an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        allowed = f"it is always {low}" if low == high else f"give an integer from {low} to {high}"
        raise InputError(f"{what} is {shown(value)}; {allowed}")


def check_choice(what: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{what} is {shown(value)}; choose one of {', '.join(allowed)}")


def check_text(what: str, value: object, limit: int = 200) -> None:
    """Raise InputError unless `value` is one line of valid Unicode, 1 to `limit` characters long."""
    # isprintable also refuses lone surrogates, which JSON can spell and UTF-8 can't.
    if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
        raise InputError(f"{what} is {shown(value)}; give one line of 1 to {limit} printable characters")


def shown(value: object) -> str:
    """Format `value` for a message: on one line, and short whatever it is."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def command_line(arguments: Sequence[str]) -> str:
    """Quote `sys.argv` as `bottlenet ...`; of a path that starts at the root, or at home, keep the last part only."""
    return " ".join(["bottlenet", *(shlex.quote(without_root(each)) for each in arguments[1:])])


def without_root(argument: str) -> str:
    """Shorten `/home/me/x` to `x`, and `--out=/home/me/x` or `name=/home/me/x` likewise."""
    name, equals, value = argument.partition("=")
    if not equals or argument.startswith(("/", "~")):
        name, equals, value = "", "", argument
    return name + equals + (Path(value).name if value.startswith("~") or Path(value).is_absolute() else value)


def program_version() -> str:
    try:
        return metadata.version("bottlenet")
    except metadata.PackageNotFoundError:
        return "run from its source, without a version"


@record
class Sizes:
    """Bytes of a photo, over photos."""

    mean: Positive
    p95: Count  # 95 of 100 photos need at most this
    max: Count


def percent(hits: NDArray[np.bool_]) -> float | None:
    """Compute the share of True in percent; None without any hits to count."""
    return float(hits.mean()) * 100 if len(hits) else None


def sizes(lengths: NDArray[np.int64]) -> Sizes:
    """Summarise (N,) bytes; zeros where there are none. The 95th percentile is one of the lengths."""
    import numpy as np  # here, as commands take their options from files that import this one

    if not len(lengths):
        return Sizes(mean=0.0, p95=0, max=0)
    p95 = int(np.percentile(lengths, 95, method="inverted_cdf"))
    return Sizes(mean=float(lengths.mean()), p95=p95, max=int(lengths.max()))
