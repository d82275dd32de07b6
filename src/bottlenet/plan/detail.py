"""Where the time of one candidate goes, and what it takes of memory: `Detail`, every value checked.

    device   prepare -> compute, by threads -> encode          peak memory of the process
    server   decode -> tail, by batch size; and by how many photos are ahead

By a clock, in seconds; the planner's figures are medians of processor time, see `profile.Candidate`. What a kind of
candidate does not do is null, or an empty list.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bottlenet.check import check_fields, check_number, shown
from bottlenet.errors import InputError

MEASURE_AGAIN = "measure again with bottlenet profile"
LONGEST_S = 1e6
MOST = 1e12
MAX_ROWS = 64


@dataclass(frozen=True)
class Spread:
    """One step, over photos."""

    median_s: float
    p95_s: float  # 95 of 100 photos take at most this

    def __post_init__(self) -> None:
        check_number("median_s", self.median_s, 0, LONGEST_S)
        check_number("p95_s", self.p95_s, self.median_s, LONGEST_S)


@dataclass(frozen=True)
class Row:
    """One step at one number of threads, photos in a batch, or photos ahead."""

    count: int
    median_s: float
    p95_s: float

    def __post_init__(self) -> None:
        check_whole("count", self.count)
        Spread(self.median_s, self.p95_s)


@dataclass(frozen=True)
class Detail:
    """InputError: a value of the wrong type or out of range."""

    prepare: Spread  # photo to pixels
    compute: tuple[Row, ...]  # head, or the whole network; by threads
    encode: Spread | None  # symbols to payload, or pixels to a picture file
    decode: Spread | None  # back again
    tail: tuple[Row, ...]  # the whole batch; by its size
    server: tuple[Row, ...]  # all of it, until ours is answered; by K, the photos ahead of ours
    peak_rss_bytes: int  # of a device's process that does nothing else

    def __post_init__(self) -> None:
        check_whole("peak_rss_bytes", self.peak_rss_bytes)
        for name in ("compute", "tail", "server"):
            rows: object = getattr(self, name)  # the annotations promise what JSON may not have kept
            if not isinstance(rows, tuple) or len(rows) > MAX_ROWS or not all(isinstance(each, Row) for each in rows):
                raise InputError(f"{name} is {shown(rows)}; give at most {MAX_ROWS} rows")
        for name, optional in (("prepare", False), ("encode", True), ("decode", True)):
            value: object = getattr(self, name)
            if not isinstance(value, Spread) and not (optional and value is None):
                raise InputError(f"{name} is {shown(value)}; give median_s and p95_s{', or null' if optional else ''}")


def parse_detail(values: Any) -> Detail:
    """Of JSON. InputError: a field missing, unknown, of the wrong type or out of range."""
    check_fields("detail", values, Detail, MEASURE_AGAIN)
    made: dict[str, object] = dict(values)
    for name in ("compute", "tail", "server"):
        rows = values[name]
        if not isinstance(rows, list) or len(rows) > MAX_ROWS:
            raise InputError(f"{name} is {shown(rows)}; give a list of at most {MAX_ROWS} rows")
        for row in rows:
            check_fields(f"row of {name}", row, Row, MEASURE_AGAIN)
        made[name] = tuple(Row(**row) for row in rows)
    for name in ("prepare", "encode", "decode"):
        if values[name] is not None:
            check_fields(name, values[name], Spread, MEASURE_AGAIN)
            made[name] = Spread(**values[name])
    return dataclasses.replace(EMPTY, **made)  # type: ignore[arg-type]  # which checks them


def check_whole(what: str, value: object) -> None:
    """InputError unless `value` is a whole number, 0 or more."""
    check_number(what, value, 0, MOST)
    if not isinstance(value, int):
        raise InputError(f"{what} is {shown(value)}; give a whole number")


EMPTY = Detail(Spread(0.0, 0.0), (), None, None, (), (), 0)
