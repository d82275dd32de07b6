"""Which files and functions of the package a call goes through."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import bottlenet

PACKAGE = str(Path(bottlenet.__file__).parent)


def walked(call: Callable[[], object]) -> dict[str, set[str]]:
    """File, below the package -> the functions that `call` enters in it, in any thread it starts; no imports."""
    entered: dict[str, set[str]] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            entered.setdefault(code.co_filename[len(PACKAGE) + 1 :], set()).add(f"{code.co_name}:{code.co_firstlineno}")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return entered
