"""A ladder's store: the graphs of several bundles in one file, and each weight in it once.

    head.onnx of one rung        [names][A][names][B][names]
    head.onnx of a deeper one    [names][A][names][B][names][C][names]
    store.bin                    [names][A][names][B][names][names][C] ...

A graph is the stretches of the store that it is made of, one behind the other, so what comes out is, byte for byte,
what went in: its SHA-256 in the rung's manifest stays right, and so does the bundle's id. onnxruntime gets the bytes.
References from one ONNX file to another ("external data") would change both, and are refused (`graph.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

from bottlenet.bundle.graph import pieces
from bottlenet.errors import BundleError

STORE = "store.bin"
MAX_STORE_BYTES = 2**33
CHUNK_BYTES = 2**20

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
        """Return where a piece is, and write it if it is new."""
        key = hashlib.sha256(piece).digest()
        if key not in self._places:
            place = self.file.tell()
            if place + len(piece) > MAX_STORE_BYTES:
                raise BundleError(f"the graphs have more than {MAX_STORE_BYTES} bytes; give fewer bundles")
            self.file.write(piece)
            self._places[key] = place
        return self._places[key]
