"""ONNX files read without the onnx package: where the weights are, and whether any of them are in another file.

    pieces      the file, cut before and behind each weight
    fault       what speaks against the file: values in another file ("external data")
    any_size    the same network for photos of any size

A bundle's id hashes the graphs, so what a graph fetches from elsewhere would be in no id: other weights, the same id.
onnxruntime looks for it in the graph's folder, and for a graph that it gets as bytes in the working directory.

A ladder's store holds the graphs of several bundles in one file, and each weight once:

    head.onnx of one rung        [names][A][names][B][names]
    head.onnx of a deeper one    [names][A][names][B][names][C][names]
    store.bin                    [names][A][names][B][names][names][C] ...

A graph is the stretches of the store that it is made of, one behind the other, so what comes out is, byte for byte,
what went in: its SHA-256 in the rung's manifest stays right, and so does the bundle's id. onnxruntime gets the bytes.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

from bottlenet.errors import BundleError

Span: TypeAlias = tuple[int, int]
"""(first byte, first byte behind it)."""
Changes: TypeAlias = Mapping[int, "Changes | None"]
"""What to change in a message, by the numbers of its fields; None: leave the field out."""

STORE = "store.bin"
MAX_STORE_BYTES = 2**33
CHUNK_BYTES = 2**20

SMALLEST_WEIGHT = 128  # bytes; what is smaller stays with what is around it
VARINT, EIGHT_BYTES, WITH_LENGTH, FOUR_BYTES = 0, 1, 2, 5  # wire types of protobuf
# Each message of onnx.proto that a tensor can be in: its fields that are messages, and which.
MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
WEIGHT = ("model", "graph")  # the messages that an initializer is in
NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 8, 9, 13, 14  # fields of a tensor
LOCATION = b"location"  # the key by which a tensor names another file: without it there is none
# What says how large the input is (a model's graph, its input, its type, tensor, shape, dimension, value), and what is
# inside the graph
SIZES: Changes = {7: {11: {2: {1: {2: {1: {1: None}}}}}, 13: None}}
MAX_DEPTH = 100  # messages in messages, as protobuf has it
MAX_FIELDS = 2**22  # a network of 5,000 nodes has 200,000
MAX_NAME_BYTES = 100  # of a tensor, in messages


def any_size(graph: bytes) -> bytes:
    """Leave open how large the input of an ONNX file is. ValueError: it is none. Not every network runs at any size."""
    return without(graph, SIZES)


def without(message: bytes, changes: Changes) -> bytes:
    """Leave out the fields of a message that map to None, and change those within it that map to more of the kind."""
    parts, place = [], 0
    for number, _, (start, end) in fields(message, (0, len(message)), iter(range(MAX_FIELDS))):
        inner = changes.get(number, {})
        if inner:
            content = without(message[start:end], inner)
            parts += [encoded(number << 3 | WITH_LENGTH), encoded(len(content)), content]
        elif inner is not None:
            parts.append(message[place:end])
        place = end
    return b"".join(parts)


def pieces(graph: bytes) -> Iterator[memoryview]:
    """Cut an ONNX file before and behind each weight; leave anything else whole. Joined, the pieces are the file."""
    whole, done, budget = memoryview(graph), 0, iter(range(MAX_FIELDS))
    try:
        inner = (fields(graph, tensor, budget) for messages, tensor in tensors(graph, budget) if messages == WEIGHT)
        found = itertools.chain.from_iterable(inner)
        weights = [span for number, wire, span in found if (number, wire) == (RAW_DATA, WITH_LENGTH)]
    except ValueError:
        weights = []  # no protobuf: nothing in it that another graph may have
    for start, end in weights:
        if end - start >= SMALLEST_WEIGHT:
            if start > done:
                yield whole[done:start]
            yield whole[start:end]
            done = end
    if done < len(whole):
        yield whole[done:]


def fault(chunks: Callable[[], Iterable[bytes]]) -> str | None:
    """Say what speaks against an ONNX file, read twice if it names a location, and what to do; None: nothing."""
    if not any_has(LOCATION, chunks()):  # the usual, and far quicker than to look through all fields
        return None
    try:
        name = tensor_elsewhere(b"".join(chunks()))
    except ValueError as error:
        return f"it is no ONNX file that can be looked through ({error}); export the bundle again"
    if name is None:
        return None
    called = repr(name.decode(errors="replace")) if name else "without a name"
    what = f"its tensor {called} has its values in another file (external data), which no bundle's id covers"
    return f"{what}; put them into the graph: onnx.save(model, path, save_as_external_data=False)"


def any_has(wanted: bytes, chunks: Iterable[bytes]) -> bool:
    """Look for bytes in a file that comes in chunks, also across two of them."""
    before = b""
    for chunk in chunks:
        both = before + chunk
        if wanted in both:
            return True
        before = both[1 - len(wanted) :]
    return False


def tensor_elsewhere(graph: bytes) -> bytes | None:
    """Find a tensor whose values are in another file, and return how its name begins. ValueError: as `tensors`."""
    budget = iter(range(MAX_FIELDS))
    for _, tensor in tensors(graph, budget):
        elsewhere, name = False, b""
        for number, wire, (start, end) in fields(graph, tensor, budget):
            if number == NAME and wire == WITH_LENGTH:
                name = graph[start : min(end, start + MAX_NAME_BYTES)]
            elsewhere |= number == EXTERNAL_DATA or (number == DATA_LOCATION and any(graph[start:end]))
        if elsewhere:
            return name
    return None


def tensors(graph: bytes, budget: Iterator[int]) -> Iterator[tuple[tuple[str, ...], Span]]:
    """Find each tensor of an ONNX file, and the messages around it. ValueError: no ONNX, too deep, too many fields."""
    messages: tuple[str, ...] = ("model",)
    waiting = [fields(graph, (0, len(graph)), budget)]
    while waiting:
        field = next(waiting[-1], None)
        if field is None:
            messages = messages[:-1]
            waiting.pop()
            continue
        number, wire, span = field
        inner = MESSAGES[messages[-1]].get(number) if wire == WITH_LENGTH else None
        if inner == "tensor":
            yield messages, span
        elif inner is not None:
            if len(messages) == MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} messages in one another")
            messages = (*messages, inner)
            waiting.append(fields(graph, span, budget))


def fields(data: bytes, message: Span, budget: Iterator[int]) -> Iterator[tuple[int, int, Span]]:
    """Read a message's fields: number, wire type, place. ValueError: it is none, or the `budget` is used up."""
    place, end = message
    while place < end:
        if next(budget, None) is None:
            raise ValueError(f"more than {MAX_FIELDS} fields")
        key, place = varint(data, place, end)
        if key >= 2**32:  # protobuf would drop what is above
            raise ValueError(f"a field {key >> 3}")
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            size = varint(data, place, end)[1] - place
        elif wire == WITH_LENGTH:
            size, place = varint(data, place, end)
        elif wire in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if wire == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > end - place:
            raise ValueError("a field that is longer than its message")
        yield number, wire, (place, place + size)
        place += size


def varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Read an integer, and return where it ends. ValueError: it does not end."""
    value = 0
    for place in range(start, min(start + 10, end)):
        value |= (data[place] & 127) << (7 * (place - start))
        if data[place] < 128:
            return value, place + 1
    raise ValueError("a number without an end")


def encoded(value: int) -> bytes:
    """Write an integer so that `varint` reads it."""
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


Stretch: TypeAlias = tuple[int, int]
"""(first byte in the store, how many)."""


@dataclass(frozen=True)
class Store:
    """Graphs by their SHA-256 in hex."""

    path: Path  # of the file
    graphs: Mapping[str, Sequence[Stretch]]

    def size(self, digest: str) -> int:
        """Return the bytes of a graph. BundleError: there is none of that SHA-256."""
        return sum(count for _, count in self._stretches(digest))

    def chunks(self, digest: str) -> Iterator[bytes]:
        """Read a graph, at most 1 MiB at a time. BundleError: as `size`, or the store is too short."""
        with open(self.path, "rb") as file:
            for offset, count in self._stretches(digest):
                file.seek(offset)
                for start in range(0, count, CHUNK_BYTES):
                    wanted = min(CHUNK_BYTES, count - start)
                    if len(chunk := file.read(wanted)) != wanted:
                        raise BundleError(f"{self.path}: it is truncated; copy the whole ladder again")
                    yield chunk

    def read(self, digest: str) -> bytes:
        """Read a whole graph. BundleError: as `chunks`, or the store was changed or can't be read."""
        try:
            content = b"".join(self.chunks(digest))
        except OSError as error:
            raise BundleError(f"{self.path}: can't be read: {error.strerror}; copy the whole ladder again") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise BundleError(f"{self.path}: it was changed; copy the whole ladder again")
        return content

    def _stretches(self, digest: str) -> Sequence[Stretch]:
        if digest not in self.graphs:
            raise BundleError(f"{self.path}: there is no graph {digest[:12]} in it; copy the whole ladder again")
        return self.graphs[digest]


@dataclass
class StoreWriter:
    """Fills a store. What is in it is not written again."""

    file: BinaryIO  # empty, open for writing
    graphs: dict[str, list[Stretch]] = field(default_factory=dict)
    _places: dict[bytes, int] = field(default_factory=dict)  # SHA-256 of a piece -> its first byte

    def add(self, graph: bytes) -> None:
        """Add a graph. BundleError: the store would be too large. OSError: it can't be written."""
        digest = hashlib.sha256(graph).hexdigest()
        if digest in self.graphs:
            return
        stretches: list[Stretch] = []
        for piece in pieces(graph):
            offset, count = self._place(piece), len(piece)
            if stretches and sum(stretches[-1]) == offset:
                offset, before = stretches.pop()
                count += before
            stretches.append((offset, count))
        self.graphs[digest] = stretches

    def _place(self, piece: memoryview) -> int:
        key = hashlib.sha256(piece).digest()
        if key not in self._places:
            place = self.file.tell()
            if place + len(piece) > MAX_STORE_BYTES:
                raise BundleError(f"the graphs have more than {MAX_STORE_BYTES} bytes; give fewer bundles")
            self.file.write(piece)
            self._places[key] = place
        return self._places[key]
