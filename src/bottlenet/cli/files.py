"""Files that the user names: written whole or not at all, and never over a file of another kind.

check_target, before the work -> bytes -> write_whole
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bottlenet import files
from bottlenet.errors import FrameError, InputError
from bottlenet.wire.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, Frame, parse_frame

MAX_FRAME_BYTES = HEADER_BYTES + MAX_PAYLOAD_BYTES
PAGE_MARK = b'<meta name="generator" content="BottleNet demo">'
MARK_WITHIN_BYTES = 4096


@dataclass(frozen=True)
class Kind:
    """What a file is, as far as overwriting goes."""

    name: str  # for messages: "a frame"
    read_bytes: int  # enough to tell
    is_one: Callable[[bytes], bool]


def check_target(path: str | Path, kind: Kind, *, force: bool = False) -> Path:
    """The path to write to, with links followed; asked before the work, so that none is lost.

    InputError: its folder isn't there, it is no regular file, or a file of another kind without `force`.
    """
    target = Path(os.path.realpath(path))
    try:
        if not target.parent.is_dir():
            raise InputError(f"{path}: there is no folder {target.parent}; make it first")
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: it is no file that can be written; give another name")
        if target.exists() and not force:
            with open(target, "rb") as file:
                if not kind.is_one(files.read_at_most(file, kind.read_bytes)):
                    raise InputError(f"{path}: a file is there that is not {kind.name}; give another name, or --force")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give another name") from error
    return target


def write_whole(target: Path, data: bytes) -> None:
    """Write a file, or leave what was there as it was. InputError: the system does not let it."""
    try:
        files.write_whole(target, data)
    except OSError as error:
        raise InputError(f"{target}: can't be written: {error.strerror}; give another name") from error


def read_frame(path: str | Path, bundle_tag: bytes) -> Frame:
    """The frame in a file. InputError: can't be read, no frame, damaged, or of another bundle."""
    try:
        with open(path, "rb") as file:
            data = files.read_at_most(file, MAX_FRAME_BYTES + 1)
        return parse_frame(data, max_payload_bytes=MAX_PAYLOAD_BYTES, bundle_tag=bundle_tag)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; give a file that bottlenet encode made") from error
    except FrameError as error:
        raise InputError(f"{path}: {error}") from error


def is_frame(data: bytes) -> bool:
    """Whether `data` is one whole frame."""
    try:
        parse_frame(data, max_payload_bytes=MAX_PAYLOAD_BYTES)
    except FrameError:
        return False
    return True


FRAME = Kind("a frame", MAX_FRAME_BYTES + 1, is_frame)
PAGE = Kind("a page of bottlenet demo", MARK_WITHIN_BYTES, lambda data: PAGE_MARK in data)
