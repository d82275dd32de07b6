"""What a ladder says about itself: `Contents`, read from and written to ladder.json, every value checked."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottlenet.check import check_fields, check_integer, check_text, parse_versioned, shown
from bottlenet.errors import InputError
from bottlenet.files import read_bounded
from bottlenet.manifest import FILE_NAME, SHA256_HEX
from bottlenet.store import MAX_STORE_BYTES, STORE, Stretch

LADDER = "ladder.json"
FORMAT_VERSION = 1
MAX_LADDER_BYTES = 2**24
MAX_RUNGS = 100
MAX_STRETCHES = 100_000  # of one graph
ADVICE = "write the ladder again"


@dataclass(frozen=True)
class Rung:
    """One bundle of a ladder. InputError: a value that can't be."""

    folder: str  # its name in the ladder's folder
    id: str  # the bundle's, 64 hex digits

    def __post_init__(self) -> None:
        folder: object = self.folder  # the annotations promise what JSON may not have kept
        if not isinstance(folder, str) or not FILE_NAME.fullmatch(folder) or folder in (LADDER, STORE):
            raise InputError(f"a rung's folder is {shown(folder)}; give letters, digits, '.', '_', '-'")
        bundle_id: object = self.id
        if not isinstance(bundle_id, str) or not SHA256_HEX.fullmatch(bundle_id):
            raise InputError(f"the id of rung {self.folder} is {shown(self.id)}; give 64 lower-case hex digits")


@dataclass(frozen=True)
class Contents:
    """What is in a ladder. InputError: a value of the wrong type or out of range, or two rungs in one folder."""

    name: str  # what people call it
    model: str  # the classifier that was cut
    rungs: tuple[Rung, ...]  # from the shallowest to the deepest cut
    graphs: dict[str, tuple[Stretch, ...]]  # a graph's SHA-256, hex -> where it is in the store
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        check_integer("format_version", self.format_version, FORMAT_VERSION, FORMAT_VERSION)
        check_text("name", self.name)
        check_text("model", self.model)
        if not 1 <= len(self.rungs) <= MAX_RUNGS:
            raise InputError(f"there are {len(self.rungs)} rungs; give 1 to {MAX_RUNGS}")
        if len({rung.folder.lower() for rung in self.rungs}) < len(self.rungs):
            raise InputError("two rungs are in one folder; give each a folder of its own")
        for digest, stretches in self.graphs.items():
            check_stretches(digest, stretches)

    def to_json(self) -> bytes:
        """UTF-8 JSON, which `parse_contents` reads."""
        values = dataclasses.asdict(self)
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_contents(folder: Path) -> Contents:
    """Of the ladder in that folder. InputError: its ladder.json can't be used. OSError: it can't be read."""
    return parse_contents(read_bounded(folder / LADDER, MAX_LADDER_BYTES))


def parse_contents(data: bytes) -> Contents:
    """JSON -> Contents. InputError: not JSON, another version, a field missing, unknown or out of range."""
    values: Any = parse_versioned(data, "ladder", FORMAT_VERSION, ADVICE)
    check_fields("ladder", values, Contents, ADVICE)
    rungs, graphs = values["rungs"], values["graphs"]
    if not isinstance(rungs, list) or not isinstance(graphs, dict):
        raise InputError(f"its rungs are {shown(rungs)}, its graphs {shown(graphs)}; give a list, and an object")
    for rung in rungs:
        check_fields("rung", rung, Rung, ADVICE)
    made = {digest: stretches_of(digest, rows) for digest, rows in graphs.items()}
    return Contents(**{**values, "rungs": tuple(Rung(**rung) for rung in rungs), "graphs": made})


def stretches_of(digest: str, rows: Any) -> tuple[Stretch, ...]:
    """InputError: no list of pairs."""
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise InputError(f"graph {shown(digest)} is {shown(rows)}; give a list of [first byte, how many]")
    return tuple((row[0], row[1]) for row in rows)


def check_stretches(digest: object, stretches: tuple[Stretch, ...]) -> None:
    """InputError unless these are places in a store, for a graph of that SHA-256."""
    if not isinstance(digest, str) or not SHA256_HEX.fullmatch(digest):
        raise InputError(f"graphs names {shown(digest)}; give a SHA-256 as 64 lower-case hex digits")
    if len(stretches) > MAX_STRETCHES:
        raise InputError(f"graph {digest[:12]} has {len(stretches)} stretches; {MAX_STRETCHES} are allowed")
    for offset, count in stretches:
        check_integer("a stretch's first byte", offset, 0, MAX_STORE_BYTES)
        check_integer("a stretch's bytes", count, 1, MAX_STORE_BYTES)
