"""A file on disk, whole or not at all, whenever the power goes.

bytes -> .bottlenet-xxxxxxxx.part beside it -> flushed to the disk -> renamed to NAME -> the folder flushed
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 2**16
LEFTOVER = re.compile(r"\.bottlenet-[0-9a-f]{8}\.part")  # what `write_whole` leaves where the power goes


def write_whole(path: Path, data: bytes) -> None:
    """All of it, for good, or what was there before. OSError: it can't."""
    part = path.with_name(f".bottlenet-{secrets.token_hex(4)}.part")  # any name fits, however long NAME is
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_at_most(file: BinaryIO, limit: int) -> bytes:
    """The next `limit` bytes, or all there are. Python's own `read` first sets aside `limit`, however few there are."""
    data = bytearray()
    while chunk := file.read(min(CHUNK_BYTES, limit - len(data))):
        data += chunk
    return bytes(data)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` last. OSError: it can't. Only POSIX can open a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
