"""What reads documents from outside, for fuzz.py: manifests, bundles, profiles, requests of protocol version 2."""

from __future__ import annotations

import atexit
import binascii
import copy
import hashlib
import json
import random
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bottlenet.bundle import DEMO, MANIFEST, REQUIRED_FILES, Bundle
from bottlenet.bundle.manifest import TABLES, Contents, Rung, parse_contents, parse_manifest
from bottlenet.cloud.protocol_v2 import asked_outputs, frames_of, pack, parse_request, response_of
from bottlenet.plan.profile import Candidate, Detail, Energy, Profile, Row, Spread, parse_profile
from bottlenet.task import Detection, Multilabel, Segmentation, task_values
from bottlenet.wire.answer import Answer
from bottlenet.wire.codecs import CODECS
from bottlenet.wire.frame import Frame, parse_frame
from fuzz_target import Target
from fuzz_wire import DEMO_BUNDLE, MOSAICS, SETTINGS, TAG, small_tables

MAX_FRAMES = 4
MAX_CHANGES = 16
LONGEST_COPY = 1000  # characters
# What a value in JSON may be replaced with. None of it is what anybody expects.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 65536, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"),
    float("inf"), "", "a", "a\nb", "\ud800", "\u2028", "x" * 300, "../up", "demo", "entropy", "raw", "0" * 64,
    [], {}, [1, 2, 3], [[[]]], {"a": 1}, ["a", None], 2**24, 4097, 1.5, -(10**400),
)  # fmt: skip


def mutated(document: Any, script: bytes) -> Any:
    """Replace, take away, add and double values of a document: four bytes for each change."""
    document = copy.deepcopy(document)
    for where, what, value in struct.iter_unpack(">HBB", script[: len(script) // 4 * 4][: 4 * MAX_CHANGES]):
        slots = list(slots_of(document))
        if not slots:
            break
        holder, key = slots[where % len(slots)]
        chosen = copy.deepcopy(VALUES[value % len(VALUES)])
        if what % 4 == 0:
            holder[key] = chosen
        elif what % 4 == 1:
            del holder[key]
        elif what % 4 == 2 and isinstance(holder, dict):
            holder[f"k{value}"] = chosen
        else:
            other, other_key = slots[value % len(slots)]
            if len(repr(other[other_key])) <= LONGEST_COPY:  # else it could double each time
                holder[key] = copy.deepcopy(other[other_key])
    return document


def slots_of(document: Any) -> Iterator[tuple[Any, Any]]:
    """List every place in a document where a value is."""
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])


def json_of(document: Any, data: bytes) -> bytes:
    """Half of the inputs are JSON, or are meant to be; the others say how to change `document`."""
    if data[:1] <= b"\x7f":
        return data[1:]
    return json.dumps(mutated(document, data[1:])).encode()


def json_seeds(document: Any) -> Iterator[bytes]:
    yield b"\0" + json.dumps(document).encode()
    yield b"\0[]"
    source = random.Random(1)
    for length in (0, 4, 4, 4, 8, 8, 16):
        yield b"\xff" + source.randbytes(length)


MANIFEST_DOCUMENT = json.loads((DEMO / MANIFEST).read_text(encoding="utf-8"))
MANIFESTS = {"manifest.json": MANIFEST_DOCUMENT} | {
    f"manifest.json, {task.name}": {**MANIFEST_DOCUMENT, "num_classes": 3, "task": task_values(task)}
    for task in (Multilabel((0.5, 0.25, 0.0)), Segmentation(8, 6), Detection(20, 0.5))
}
EXIT = {"preprocess": MANIFEST_DOCUMENT["preprocess"], "flops_share": 0.5, "sure": 0.7, "temperature": 1.5}
WITH_EXIT = {"format_version": 3, "exit": {**EXIT, "features": None}}
MANIFESTS["manifest.json, exit"] = MANIFEST_DOCUMENT | WITH_EXIT
MANIFESTS["manifest.json, features"] = {**MANIFEST_DOCUMENT, **WITH_EXIT, "exit": {**EXIT, "features": [24, 7, 7]}}


def manifest(document: Any, data: bytes) -> None:
    """Check that what is accepted survives being written."""
    parsed = parse_manifest(json_of(document, data))
    assert parse_manifest(parsed.to_json()) == parsed
    assert parsed.mosaic.symbol_count > 0


class BundleFolder:
    """A folder that holds another bundle for each input, whose hashes are right unless the input says otherwise."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def __call__(self, data: bytes) -> None:
        """Byte 0: how the manifest is changed, or an exit. 1: codec, and what is wrong. 2, 3: how many are labels."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp())
            atexit.register(shutil.rmtree, self._path, ignore_errors=True)
        head, data = data[:4].ljust(4, b"\0"), data[4:]
        cut = int.from_bytes(head[2:4], "big") % (len(data) + 1)
        codec = tuple(CODECS)[head[1] % len(CODECS)]
        files = {"head.onnx": b"head", "tail.onnx": b"tail", "labels.txt": data[:cut]}
        if codec == "entropy" or head[1] > 200:
            files[TABLES] = data[cut:]
        document = {**MANIFEST_DOCUMENT, "codec": codec, "latent": [3, 5, 7], "num_classes": 3}
        document["setting"] = SETTINGS[codec][0]
        if 64 <= head[0] <= 160:
            document |= WITH_EXIT
            files["exit.onnx"] = b"exit"
        document["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        if head[0] > 127:
            document = mutated(document, data[: head[0] - 127])
        for name in (*REQUIRED_FILES, "exit.onnx", TABLES, MANIFEST):
            (self._path / name).unlink(missing_ok=True)
        for name, content in {**files, MANIFEST: json.dumps(document).encode()}.items():
            (self._path / name).write_bytes(content)
        bundle = Bundle.load(self._path)
        assert len(bundle.labels) == bundle.manifest.num_classes
        assert len(bundle.id) == 32


def bundles() -> Iterator[bytes]:
    labels, written = b"cat\ndog\nhen\n", small_tables(MOSAICS[1]).to_bytes()
    for number, name in enumerate(CODECS):
        yield bytes([0, number, 0, len(labels)]) + labels + (written if name == "entropy" else b"")
    for first in (64, 140, 190):
        yield bytes([first, 0, 0, len(labels)]) + labels
    yield bytes([0, 204, 0, len(labels)]) + labels + written


SPREAD, ROW = Spread(0.01, 0.02), Row(1, 0.01, 0.02)
DETAIL = Detail(SPREAD, (ROW,), SPREAD, None, (ROW, Row(4, 0.1, 0.2)), (), 10**8)
PROFILE = Profile(
    "ab" * 32, "model", "device", "server", 20, 10,
    (
        Candidate("edge", "edge-only", None, 0.2, 0.0, 0.0, 0, 0.0, "top1", Energy("measured", "RAPL", 1000.0)),
        Candidate("cut", "split", "blocks.8", 0.1, 0.02, 590.5, 600, 3.5, "agreement",
                  Energy("modelled", "given", energy_mj=3.0), 600, DETAIL),
    ),
    max_drop=2.0,
)  # fmt: skip
LADDER_DOCUMENT = json.loads(
    Contents(
        "ladder", "model", (Rung("one", "ab" * 32), Rung("two", "cd" * 32)), {"ef" * 32: ((0, 9), (20, 5))}
    ).to_json()
)


def ladder(data: bytes) -> None:
    """Check that what is accepted survives being written."""
    parsed = parse_contents(json_of(LADDER_DOCUMENT, data))
    assert parse_contents(parsed.to_json()) == parsed


PROFILE_DOCUMENT = json.loads(json.dumps(asdict(PROFILE)))


def profile(data: bytes) -> None:
    """Check that what is accepted survives being written."""
    parsed = parse_profile(json_of(PROFILE_DOCUMENT, data))
    assert parse_profile(parsed.to_json()) == parsed


V2_FRAME = Frame(2, 20, TAG, 1, b"payload").to_bytes()
V2_DOCUMENT: dict[str, Any] = {
    "id": "7",
    "inputs": [
        {"name": "frame", "datatype": "BYTES", "shape": [1], "data": [binascii.b2a_base64(V2_FRAME).decode().strip()]}
    ],
    "outputs": [{"name": "labels", "parameters": {"binary_data": True}}, {"name": "scores"}],
    "parameters": {"binary_data_output": False},
}


def v2(data: bytes) -> None:
    """Parse a request of the Open Inference Protocol up to its frames, and write its answer.

    Byte 0: whether there is binary data, and where it comes from. 1, 2: its length, or what the header says.
    """
    head, data = data[:3].ljust(3, b"\0"), data[3:]
    length = int.from_bytes(head[1:3], "big")
    told: str | None = None
    if head[0] % 4 == 1:  # bytes as they are, and a header that says anything
        body, told = data, str(length)
    elif head[0] % 4 == 2:  # a good JSON object around binary data, changed
        binary = data[: length % (len(data) + 1)]
        tensor = {"name": "frame", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(binary)}}
        text = json.dumps(mutated({"inputs": [tensor]}, data[len(binary) :])).encode()
        body, told = text + binary, str(len(text))
    else:
        body = json_of(V2_DOCUMENT, head[0:1] + data)
    asked, rest = parse_request(body, told, 2**16)
    found = frames_of(asked, rest, MAX_FRAMES)
    assert 1 <= len(found) <= MAX_FRAMES
    outputs = asked_outputs(asked)
    made = [Answer(0, 1, 1, ((3, 0.5), (1, 0.25))) for _ in found]
    document, _ = response_of(asked, DEMO_BUNDLE, made, outputs)
    json.dumps(document).encode()
    for one in found:
        parse_frame(one)


def v2_requests() -> Iterator[bytes]:
    for seed in json_seeds(V2_DOCUMENT):
        yield (b"\0" if seed[0] == 0 else b"\xff") + bytes(2) + seed[1:]
    binary = pack("BYTES", ["frame"]) + struct.pack("<I", len(V2_FRAME)) + V2_FRAME
    for part in (binary, binary[9:]):
        yield b"\x02" + len(part).to_bytes(2, "big") + part
    text = json.dumps({**V2_DOCUMENT, "inputs": [{**V2_DOCUMENT["inputs"][0], "data": None}]}).encode()
    yield b"\x01" + len(text).to_bytes(2, "big") + text + binary


TARGETS = {
    **{
        name: Target(partial(manifest, document), partial(json_seeds, document)) for name, document in MANIFESTS.items()
    },
    "bundle": Target(BundleFolder(), bundles),
    "ladder.json": Target(ladder, partial(json_seeds, LADDER_DOCUMENT)),
    "profile": Target(profile, partial(json_seeds, PROFILE_DOCUMENT)),
    "v2": Target(v2, v2_requests),
}
