"""The compiled form of the codec `entropy`: entropy.c produces the same bytes as entropy.py, dozens of times faster.

hatch_build.py builds the library if there is a C compiler. If it is missing, or was built from another entropy.c than
the one beside it, LIBRARY is None and entropy.py is used.
"""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottlenet.wire.range_coder import Interval, interval_before, interval_behind, leads_past, reserved_flag

SOURCE = Path(__file__).with_name("entropy.c")
BUILT = Path(__file__).with_name("_entropy.so")
POINTER, INT32, INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
COMPLETE, PAST, FLAG, FULL = 0, -2, -3, -4  # of the enum in entropy.c
PAIRS = ("state", "activity")  # one array for each half of a pass
ARRAYS: dict[str, type[np.generic]] = {  # in the order of entropy.c
    "pass_channel": np.int32,
    "pass_plane": np.int32,
    "cuts": np.uint32,
    "places": np.int32,
    "reading": np.int32,
    "known": np.int16,
    "state": np.uint16,
    "activity": np.uint16,
    "energy": np.uint16,
}


class TablesStruct(ctypes.Structure):
    """`Tables` of entropy.c."""

    _fields_ = (
        *((name, INT32) for name in ("channels", "area", "lane", "row", "passes", "pass_rows", "evens")),
        *((name, POINTER * 2 if name in PAIRS else POINTER) for name in ARRAYS),
    )


class CompiledEntropy:
    """Encoder and decoder for symbols of `shape` (C, H, W). Safe to use from several threads."""

    def __init__(self, shape: tuple[int, int, int], evens: int, arrays: dict[str, Any]) -> None:
        """Keep the ARRAYS, two for each name in PAIRS; `evens` positions of a channel are in the first half."""
        self._arguments = shape, evens, arrays
        channels, height, width = shape
        lane = (height + 2) * (width + 2)
        self._shape, self._area = shape, height * width
        self._work_size = channels * (2 * lane + 1) + 2 * lane
        passes, pass_rows = arrays["cuts"].shape[:2]
        self._struct = TablesStruct(channels, height * width, lane, width + 2, passes, pass_rows, evens)
        self._kept: list[NDArray[Any]] = []  # what the struct points to
        for name, dtype in ARRAYS.items():
            one = [np.ascontiguousarray(each, dtype) for each in (arrays[name] if name in PAIRS else [arrays[name]])]
            pointers = [each.ctypes.data for each in one]
            setattr(self._struct, name, (POINTER * 2)(*pointers) if name in PAIRS else pointers[0])
            self._kept += one
        self._tables = ctypes.addressof(self._struct)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as the arguments, because pointers can't be copied."""
        return CompiledEntropy, self._arguments

    def encode(self, symbols: NDArray[np.uint8], budget: int | None) -> Interval:
        """Encode all passes, or as many as `budget` bytes need."""
        assert LIBRARY is not None
        symbols, state = np.ascontiguousarray(symbols), np.empty(2, np.uint64)
        count, capacity = FULL, (budget or symbols.size) // 4 + 2 * self._area + 64
        while count == FULL:
            capacity *= 2
            work, words = np.zeros(self._work_size, np.int16), np.empty(capacity, np.uint32)
            pointers = symbols.ctypes.data, budget or 0, work.ctypes.data, words.ctypes.data
            count = LIBRARY.bottlenet_encode(self._tables, *pointers, capacity, state.ctypes.data)
        low, width = state.tolist()
        return interval_behind(words[:count].astype(">u4").tobytes(), low, width)

    def decode(self, payload: bytes) -> tuple[NDArray[np.uint8], Interval | None]:
        """Decode what is certain; return the interval too if no pass is missing. PayloadError: not from an encoder."""
        assert LIBRARY is not None
        symbols, work = np.empty(self._shape, np.uint8), np.zeros(self._work_size, np.int16)
        state = np.empty(4, np.uint64)
        pointers = work.ctypes.data, symbols.ctypes.data, state.ctypes.data
        status = LIBRARY.bottlenet_decode(self._tables, payload, len(payload), *pointers)
        pass_number, *window = state.tolist()
        if status == PAST:
            raise leads_past(payload)
        if status == FLAG:
            raise reserved_flag(payload, pass_number)
        return symbols, interval_before(payload, *window) if status == COMPLETE else None


def load_library(built: Path = BUILT, source: Path = SOURCE) -> ctypes.CDLL | None:
    """Load the library; return None if it is missing, for another machine, or built from another source."""
    try:
        library = ctypes.CDLL(str(built))
        digest = (ctypes.c_char * 65).in_dll(library, "bottlenet_source").value.decode()
        if digest != hashlib.sha256(source.read_bytes()).hexdigest():
            return None
    except (OSError, ValueError):  # no such file, or no such name in it
        return None
    library.bottlenet_encode.argtypes = (POINTER, POINTER, INT64, POINTER, POINTER, INT64, POINTER)
    library.bottlenet_decode.argtypes = (POINTER, ctypes.c_char_p, INT64, POINTER, POINTER, POINTER)
    library.bottlenet_encode.restype = library.bottlenet_decode.restype = INT64
    return library


LIBRARY = load_library()
