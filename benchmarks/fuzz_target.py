"""What fuzz.py runs: in a module of its own, which brings no code of bottlenet that is to be instrumented."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What is run, on what, and how long inputs may be."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    longest_bytes: int = 4096
    peak_bytes: int = 2**23  # that Python and numpy may hold at once for one input, above what they held before
