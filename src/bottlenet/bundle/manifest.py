"""What a bundle and a ladder say about themselves: `Manifest` (manifest.json) and `Contents` (ladder.json).

A bundle's id is the SHA-256 of the manifest's canonical JSON (keys sorted, no white space, UTF-8). As the manifest
holds the SHA-256 of every other file, the id stands for the whole content.
"""

import dataclasses
import json
import math
import re
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from bottlenet.bundle.graph import MAX_STORE_BYTES, STORE
from bottlenet.errors import BundleError, InputError
from bottlenet.files import read_bounded
from bottlenet.records import Number, Sha256, Share, Text, finite_number, fitting, one_line, one_of, parse, record
from bottlenet.task import Classification, Port, Task, needs_one_label, parse_task, task_values
from bottlenet.wire.codecs import Codec, make_codec
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import Tables

FORMAT_VERSION: Literal[2] = 2
EXIT_VERSION: Literal[3] = 3  # of bundles with an exit, which older programs refuse
LADDER_VERSION: Literal[1] = 1
TABLES = "tables.bin"  # the file that the codec `entropy` needs, and no other has
LADDER = "ladder.json"
MAX_CLASSES = 65536  # a class index travels as u16
MAX_LADDER_BYTES = 2**24
MAX_FEATURES = 2**28  # of one photo, 1 GiB

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def text_or_number(value: object) -> object:
    if isinstance(value, str):
        return one_line(value, 4000)
    return value if isinstance(value, bool) else finite_number(value)


# A name that can't lead out of the folder, and is the same file on every system.
FileName = Annotated[str, fitting(PLAIN_NAME.fullmatch, "give a plain file name of letters, digits, '.', '_', '-'")]
Extra = Annotated[str | float | int, PlainValidator(text_or_number)]
StoreByte = Annotated[int, Field(ge=0, le=MAX_STORE_BYTES)]
StoreBytes = Annotated[int, Field(ge=1, le=MAX_STORE_BYTES)]


@record
class Preprocess:
    """How a photo becomes pixels: a centre crop, then one resize. InputError: a value out of range."""

    size: Annotated[int, Field(ge=8, le=4096)]  # side of the square that the head takes, pixels
    crop_fraction: Annotated[Number, Field(gt=0, le=1)]  # side of the centre crop as a share of the short side
    interpolation: Annotated[str, one_of("bicubic", "bilinear")]


@record
class Exit:
    """How the device answers by itself, from exit.onnx, if the largest of softmax(scores / temperature) is `sure`."""

    preprocess: Preprocess  # from a photo to the pixels of exit.onnx
    flops_share: Annotated[Number, Field(ge=0, le=1000)]  # FLOPs of exit.onnx over the uncut network's
    # (c, H, W) float32 that exit.onnx gives beside its scores, and head.onnx takes; None: head.onnx takes pixels
    features: tuple[int, int, int] | None = None
    sure: Share = 1.0  # the confidence from which on the answer counts, 0..1; at 1 every photo is sent
    temperature: Annotated[Number, Field(ge=0.01, le=100)] = 1.0

    def __post_init__(self) -> None:
        if self.features is not None and (min(self.features) < 1 or math.prod(self.features) > MAX_FEATURES):
            what = f"features of an exit are {self.features}; give three numbers, each 1 or more"
            raise InputError(f"{what}, of at most {MAX_FEATURES:,} together")


@record
class Manifest:
    """What a bundle is. InputError: a value of the wrong type or out of range."""

    name: Text  # what people call it
    model: Text  # the classifier that was cut
    cut: Text  # where: a module of the model, such as "layer1.0"
    unit: Text  # the bottleneck unit, in words
    preprocess: Preprocess  # from a photo to the pixels of head.onnx
    uncut_preprocess: Preprocess  # the same for uncut.onnx, which may take another size
    latent: tuple[int, int, int]  # (C, H, W) of the symbols
    align: int  # of the mosaic
    codec: Text  # a name in wire.codecs.CODECS
    setting: Annotated[int, Field(ge=0, le=255)]  # the codec's quality or level
    # FLOPs of head.onnx, with exit.onnx where that gives its features, over the uncut network's: above 1 where the unit
    # is larger than it
    head_flops_share: Annotated[Number, Field(ge=0, le=1000)]
    num_classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]
    # no payload is larger, unless the device is told so; 0: any
    budget_bytes: Annotated[int, Field(ge=0, le=2**24)] = 0
    files: dict[FileName, Sha256] = field(default_factory=dict)  # SHA-256 by name
    extra: Annotated[dict[Text, Extra], Field(max_length=100)] = field(default_factory=dict)  # command, licence, ...
    task: Annotated[Task, PlainValidator(parse_task)] = field(default_factory=Classification)  # what it answers with
    exit: Exit | None = None
    format_version: Literal[2, 3] = FORMAT_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "format_version", FORMAT_VERSION if self.exit is None else EXIT_VERSION)
        if self.exit is not None:
            needs_one_label(self.task, "an exit")
            if self.exit.features is not None and self.exit.preprocess != self.preprocess:
                raise InputError("an exit whose features are sent takes the head's pixels: give both one preprocess")
        if "manifest.json" in self.files:
            raise InputError("files names manifest.json, which can't hold its own SHA-256; name the other files")
        self.task.check(self.num_classes)
        mosaic = self.mosaic  # checks latent and align
        if self.codec != Entropy.name:
            make_codec(self.codec, mosaic, self.setting)
        elif self.setting != Entropy.setting:
            raise InputError(f"setting is {self.setting}; the codec {Entropy.name} has {Entropy.setting}")

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
        """Make the codec for this latent. InputError: it needs tables and gets none, or those of another latent."""
        return make_codec(self.codec, self.mosaic, self.setting, tables)

    def to_json(self, indent: int | None = None) -> bytes:
        """Write UTF-8 JSON with sorted keys; without `indent` the canonical form, whose SHA-256 is the bundle's id."""
        separators = (",", ":") if indent is None else None
        values = dataclasses.asdict(self)
        del values["task"]
        if self.task != Classification():  # left out, so that bundles from before there were tasks keep their id
            values["task"] = task_values(self.task)
        if self.exit is None:  # the same
            del values["exit"]
        return json.dumps(values, sort_keys=True, indent=indent, separators=separators, ensure_ascii=False).encode()


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.json. InputError: not JSON, another version, or a field missing, unknown or out of range."""
    return parse(Manifest, data, "manifest", version=(FORMAT_VERSION, EXIT_VERSION), advice="export the bundle again")


@record
class Rung:
    """One bundle of a ladder."""

    folder: FileName  # in the ladder's folder
    id: Sha256  # the bundle's

    def __post_init__(self) -> None:
        if self.folder in (LADDER, STORE):
            raise InputError(f"a rung's folder is named {self.folder}, as a file of the ladder is; give another name")


@record
class Contents:
    """What is in a ladder. InputError: a value of the wrong type or out of range, or two rungs in one folder."""

    name: Text  # what people call it
    model: Text  # the classifier that was cut
    rungs: Annotated[tuple[Rung, ...], Field(min_length=1, max_length=100)]  # from the shallowest to the deepest cut
    # a graph's SHA-256 -> the stretches of the store that it consists of: (first byte, number of bytes)
    graphs: dict[Sha256, Annotated[tuple[tuple[StoreByte, StoreBytes], ...], Field(max_length=100_000)]]
    format_version: Literal[1] = LADDER_VERSION

    def __post_init__(self) -> None:
        if len({rung.folder.lower() for rung in self.rungs}) < len(self.rungs):
            raise InputError("two rungs are in one folder; give each a folder of its own")

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_contents(folder: Path) -> Contents:
    """Read the ladder.json in a folder. BundleError: it can't be used. OSError: it can't be read."""
    try:
        return parse_contents(read_bounded(folder / LADDER, MAX_LADDER_BYTES))
    except InputError as error:
        raise BundleError(f"ladder {folder}: {LADDER} can't be used: {error}") from error


def parse_contents(data: bytes) -> Contents:
    """Read ladder.json. InputError: not JSON, another version, or a field missing, unknown or out of range."""
    return parse(Contents, data, "ladder", version=LADDER_VERSION, advice="write the ladder again")
