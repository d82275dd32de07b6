"""Time of the processor, which on a busy machine is the same as on an idle one."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time


def processor_ms(call: Callable[[], object]) -> float:
    """Measure the processor milliseconds that a call takes."""
    started = process_time()
    call()
    return (process_time() - started) * 1e3
