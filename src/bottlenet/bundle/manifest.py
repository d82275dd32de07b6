"""What a ladder says about itself: `Contents`, read from and written to ladder.json, every value checked.

What a bundle says about itself: `Manifest`, read from and written to JSON, every value checked.

A bundle's id is the SHA-256 of the manifest's canonical JSON (keys sorted, no white space, UTF-8). As the manifest
holds the SHA-256 of every other file, the id stands for the whole content.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bottlenet.bundle.store import MAX_STORE_BYTES, STORE, Stretch
from bottlenet.errors import InputError
from bottlenet.files import read_bounded
from bottlenet.records import (
    check_choice,
    check_fields,
    check_integer,
    check_number,
    check_text,
    parse_versioned,
    shown,
)
from bottlenet.task import NAMED, Classification, Port, Task, parse_task, task_values
from bottlenet.wire.codecs import Codec, make_codec
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import Tables

FORMAT_VERSION = 2
TABLES = "tables.bin"  # the file that the codec `entropy` needs, and no other has
MAX_CLASSES = 65536  # a class index travels as u16
MAX_EXTRA = 100
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Preprocess:
    """How a photo becomes pixels: a centre crop, then one resize. InputError: a value out of range."""

    size: int  # side of the square that the head takes, pixels, 8..4096
    crop_fraction: float  # side of the centre crop as a share of the photo's short side, above 0, at most 1
    interpolation: str  # "bicubic" or "bilinear"

    def __post_init__(self) -> None:
        check_integer("preprocess.size", self.size, 8, 4096)
        check_number("preprocess.crop_fraction", self.crop_fraction, 0, 1)
        if self.crop_fraction == 0:
            raise InputError("preprocess.crop_fraction is 0; give a number above 0 and at most 1")
        check_choice("preprocess.interpolation", self.interpolation, INTERPOLATIONS)


@dataclass(frozen=True)
class Manifest:
    """What a bundle is. InputError: a value of the wrong type or out of range."""

    name: str  # what people call it
    model: str  # the classifier that was cut
    cut: str  # where: a module of the model, such as "layer1.0"
    unit: str  # the bottleneck unit, in words
    preprocess: Preprocess  # from a photo to the pixels of head.onnx
    uncut_preprocess: Preprocess  # the same for uncut.onnx, which may take another size
    latent: tuple[int, int, int]  # (C, H, W) of the symbols
    align: int  # of the mosaic
    codec: str  # a name in wire.codecs.CODECS
    setting: int  # the codec's quality or level
    head_flops_share: float  # FLOPs on the device, the unit included, over the uncut network's
    num_classes: int
    budget_bytes: int = 0  # no payload is larger unless the device is told otherwise; 0: none is cut
    files: dict[str, str] = field(default_factory=dict)  # file name -> SHA-256, hex
    extra: dict[str, str | float | int] = field(default_factory=dict)  # where it comes from: command, licence, ...
    task: Task = field(default_factory=Classification)  # what it answers with
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        check_integer("format_version", self.format_version, FORMAT_VERSION, FORMAT_VERSION)
        for name in ("name", "model", "cut", "unit", "codec"):
            check_text(name, getattr(self, name))
        for name in ("preprocess", "uncut_preprocess"):
            if not isinstance(getattr(self, name), Preprocess):
                raise InputError(f"{name} is {shown(getattr(self, name))}; give a Preprocess")
        latent: object = self.latent  # the annotations promise what JSON may not have kept
        if not isinstance(latent, tuple) or len(latent) != 3:
            raise InputError(f"latent is {shown(self.latent)}; give (channels, height, width)")
        check_integer("setting", self.setting, 0, 255)
        # A unit may be larger than a small network, so the device may do more than the whole of it.
        check_number("head_flops_share", self.head_flops_share, 0, 1000)
        check_integer("num_classes", self.num_classes, 1, MAX_CLASSES)
        if not isinstance(self.task, (Classification, *NAMED.values())):
            raise InputError(f"task is {shown(self.task)}; give a task of bottlenet.task")
        self.task.check(self.num_classes)
        check_integer("budget_bytes", self.budget_bytes, 0, 2**24)
        check_files(self.files)
        check_extra(self.extra)
        mosaic = self.mosaic  # checks latent and align
        if self.codec == Entropy.name:
            check_integer("setting", self.setting, Entropy.setting, Entropy.setting)
        else:
            make_codec(self.codec, mosaic, self.setting)

    @property
    def mosaic(self) -> Mosaic:
        """Shape of the latent, and how it is laid out as a picture."""
        channels, height, width = self.latent
        return Mosaic(channels, height, width, self.align)

    @property
    def output(self) -> Port:
        """What tail.onnx and uncut.onnx give for a photo."""
        return self.task.output(self.num_classes)

    @property
    def needs_tables(self) -> bool:
        """Whether the codec can't be made without tables.bin."""
        return self.codec == Entropy.name

    def make_codec(self, tables: Tables | None = None) -> Codec:
        """The codec for this latent. InputError: it needs tables and gets none, or those of another latent."""
        return make_codec(self.codec, self.mosaic, self.setting, tables)

    def to_json(self, indent: int | None = None) -> bytes:
        """UTF-8 JSON with sorted keys; without `indent` the canonical form, whose SHA-256 is the bundle's id."""
        separators = (",", ":") if indent is None else None
        values = dataclasses.asdict(self)
        del values["task"]
        if self.task != Classification():  # without the word, so that what there was before keeps its id
            values["task"] = task_values(self.task)
        return json.dumps(values, sort_keys=True, indent=indent, separators=separators, ensure_ascii=False).encode()


def parse_manifest(data: bytes) -> Manifest:
    """JSON -> Manifest. InputError: not JSON, another version, a field missing, unknown or out of range."""
    values: Any = parse_versioned(data, "manifest", FORMAT_VERSION, "export it again")
    values["task"] = parse_task(values["task"]) if "task" in values else Classification()
    check_fields("manifest", values, Manifest, "export the bundle again")
    for name in ("preprocess", "uncut_preprocess"):
        check_fields(name, values[name], Preprocess, "export the bundle again")
        values[name] = Preprocess(**values[name])
    if isinstance(values["latent"], list):
        values["latent"] = tuple(values["latent"])
    return Manifest(**values)


def check_files(files: object) -> None:
    """InputError unless `files` maps plain file names to SHA-256 in hex."""
    if not isinstance(files, dict):
        raise InputError(f"files is {shown(files)}; give a dict of file name to SHA-256")
    for name, digest in files.items():
        # A plain name can't lead out of the folder, and is the same file on every system.
        if not isinstance(name, str) or not FILE_NAME.fullmatch(name) or name == "manifest.json":
            raise InputError(f"files names {shown(name)}; give a plain file name of letters, digits, '.', '_', '-'")
        if not isinstance(digest, str) or not SHA256_HEX.fullmatch(digest):
            raise InputError(f"files gives {shown(digest)} for {name}; give a SHA-256 as 64 lower-case hex digits")


def check_extra(extra: object) -> None:
    """InputError unless `extra` maps up to 100 names to text and finite numbers."""
    if not isinstance(extra, dict) or len(extra) > MAX_EXTRA:
        raise InputError(f"extra is {shown(extra)}; give a dict of at most {MAX_EXTRA} values")
    for name, value in extra.items():
        check_text("a name in extra", name)
        if isinstance(value, str):
            check_text(f"extra[{name!r}]", value, 4000)
        elif not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:  # so refuses NaN
            raise InputError(f"extra[{name!r}] is {shown(value)}; give text or a finite number")


LADDER = "ladder.json"
LADDER_VERSION = 1
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
    format_version: int = LADDER_VERSION

    def __post_init__(self) -> None:
        check_integer("format_version", self.format_version, LADDER_VERSION, LADDER_VERSION)
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
    values: Any = parse_versioned(data, "ladder", LADDER_VERSION, ADVICE)
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
