"""The files of a spool, one at a time: how they are named, written, read and checked. No state.

NUMBER-KEY.frame:  {"photo": NAME, "sha256": DIGEST, "bundle": ID}, a line feed, a self-contained frame
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from bottlenet.edge.prediction import Photo, fields
from bottlenet.errors import FrameError, InputError
from bottlenet.files import LEFTOVER, lock_file, read_at_most, sync_folder
from bottlenet.wire.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, TAG_BYTES, Frame, parse_frame

FOLDERS = ("frames", "answers", "failed", "aside")
LOCK = "lock"
MAX_LINE_BYTES = 2**16  # a name of 4,096 bytes, each spelled in 6 characters
MAX_ENTRY_BYTES = MAX_LINE_BYTES + HEADER_BYTES + MAX_PAYLOAD_BYTES
NAME = re.compile(r"(\d{12})-([0-9a-f]{32})\.frame")
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # say nothing about the file
HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A frame that waits in a spool."""

    number: int  # those that came earlier have smaller ones
    photo: Photo
    bundle: str  # id, 64 hex digits
    file_bytes: int


def entry_name(number: int, photo: Photo) -> str:
    return f"{number:012d}-{photo.key}.frame"


def entry_bytes(photo: Photo, bundle: str, frame: Frame) -> bytes:
    line = json.dumps({"photo": photo.name, "sha256": photo.sha256, "bundle": bundle})
    return line.encode() + b"\n" + frame.to_bytes()


def parse_entry(path: Path) -> tuple[Entry, Frame]:
    """A file in frames/. InputError: not named or made as one, damaged, or it can't be read."""
    name = NAME.fullmatch(path.name)
    if name is None:
        raise InputError("not the name of a frame in a spool")
    try:
        data = read_bounded(path, MAX_ENTRY_BYTES)
        line, _, rest = data.partition(b"\n")
        told = fields(json.loads(line), {"photo": str, "sha256": str, "bundle": str})
        photo, bundle = Photo(told["photo"], told["sha256"]), told["bundle"]
        if photo.key != name[2] or HEX.fullmatch(bundle) is None:
            raise InputError("its first line is damaged")
        tag = bytes.fromhex(bundle)[:TAG_BYTES]
        frame = parse_frame(rest, max_payload_bytes=MAX_PAYLOAD_BYTES, bundle_tag=tag)
    except (OSError, ValueError, RecursionError, FrameError) as error:
        if isinstance(error, OSError) and error.errno in PASSING:
            raise
        raise InputError(f"damaged, or no frame of a spool ({error})") from error
    return Entry(int(name[1]), photo, bundle, len(data)), frame


def read_bounded(path: Path, limit: int) -> bytes:
    """All of a regular file. InputError: it is none, or larger than `limit` bytes. OSError: as `open` has it."""
    # Neither a link, which may lead out of the spool, nor a pipe, which may never end.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        os.close(handle)
        raise InputError(f"no regular file of at most {limit} bytes")
    with open(handle, "rb") as file:
        return read_at_most(file, limit)


def remove_leftovers(folder: Path) -> None:
    """What `write_whole` leaves where the power goes. OSError: the folder can't be read, or not written to."""
    with os.scandir(folder) as found:
        for each in found:
            if LEFTOVER.fullmatch(each.name) and each.is_file(follow_symlinks=False):
                os.unlink(each.path)


def lock_folder(path: Path) -> int | None:
    """Make the folder, and hold it for this process: an open file, which the system closes with the process.

    InputError: another process holds it, it is full of other things, or it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)
        if not (path / FOLDERS[0]).is_dir() and any(each.name != LOCK for each in path.iterdir()):
            raise InputError(f"{path} is full of other things; give a new folder for the spool")
        handle = lock_file(path / LOCK)
    except OSError as error:
        raise InputError(f"{path} can't be a spool: {error.strerror}; give another folder") from error
    if handle is None:
        raise InputError(f"{path} is in use by another process; stop that one, or give another spool")
    return handle


def prepare_folders(path: Path) -> None:
    """Make those that are missing, and clear up. InputError: one can't be made or used."""
    try:
        for folder in FOLDERS:
            (path / folder).mkdir(exist_ok=True)
            remove_leftovers(path / folder)
        sync_folder(path)
    except OSError as error:
        raise InputError(f"{path} can't be a spool: {error.strerror}; give another folder") from error
