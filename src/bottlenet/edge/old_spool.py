"""The files of a spool that a version before 0.2 made, which `Spool` moves into its database.

frames/NUMBER-KEY.frame   {"photo": NAME, "sha256": DIGEST, "bundle": ID}, a line feed, a self-contained frame
answers/KEY.json          an answer
failed/KEY.json           why there is none; failed/KEY.frame beside it if the photo was refused
"""

import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bottlenet.edge.prediction import REFUSED, Failed, Outcome, Photo, fields, parse_outcome
from bottlenet.errors import FrameError, InputError
from bottlenet.files import LEFTOVER, read_at_most
from bottlenet.wire.answer import one_line
from bottlenet.wire.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, TAG_BYTES, parse_frame

OLD_FOLDERS = ("answers", "failed", "frames")  # answers first: a frame that has one is done
ASIDE = "aside"
MAX_OUTCOME_BYTES = 2**23  # of a thousand boxes whose labels are as long as they can be
MAX_LINE_BYTES = 2**16  # a name of 4,096 bytes, each spelled in 6 characters
MAX_ENTRY_BYTES = MAX_LINE_BYTES + HEADER_BYTES + MAX_PAYLOAD_BYTES
KEY = re.compile(r"[0-9a-f]{32}")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class OldPhoto:
    """A photo that waits, or has an outcome, and its files."""

    key: str
    name: str
    sha256: str | None  # None: only the key was kept, as for `bundle`
    bundle: str | None
    frame: bytes | None
    outcome: Outcome | None
    paths: tuple[Path, ...]


def old_photos(folder: Path, note: Callable[[str], None]) -> Iterator[OldPhoto]:
    """Read all of a spool; what is damaged, or not its own, goes to aside/. OSError: a file can't be read just now."""
    folders = [folder / name for name in OLD_FOLDERS if (folder / name).is_dir()]
    for path in (path for each in folders for path in sorted(each.iterdir())):
        try:
            if LEFTOVER.fullmatch(path.name):
                path.unlink()
            elif path.suffix == ".json" and path.parent.name != "frames":
                yield read_outcome(path)
            elif path.suffix == ".frame" and path.parent.name == "failed" and path.with_suffix(".json").exists():
                continue  # it comes with that
            else:
                yield read_frame(path)
        except InputError as error:
            (folder / ASIDE).mkdir(mode=0o700, exist_ok=True)
            target = free_name(folder / ASIDE / path.name)
            os.rename(path, target)
            note(f"{path}: {error}; it is in {target.parent} now")


def free_name(path: Path) -> Path:
    others = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return next(each for each in itertools.chain([path], others) if not os.path.lexists(each))


def read_outcome(path: Path) -> OldPhoto:
    """Read an answer or a failure, with the frame of one that was refused. InputError: it is damaged, or none."""
    if not KEY.fullmatch(path.stem):
        raise InputError("not the name of an answer in a spool")
    try:
        outcome = parse_outcome(read_regular(path, MAX_OUTCOME_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"damaged, or no answer of a spool ({one_line(str(error))})") from error
    beside = path.with_suffix(".frame")
    if isinstance(outcome, Failed) and outcome.why == REFUSED and beside.exists():
        return replace(read_frame(beside), outcome=outcome, paths=(path, beside))
    return OldPhoto(path.stem, outcome.photo, None, None, None, outcome, (path,))


def read_frame(path: Path) -> OldPhoto:
    """Read what waits, whatever number it has. InputError: it is damaged, or no frame of a spool."""
    line, _, frame = read_regular(path, MAX_ENTRY_BYTES).partition(b"\n")
    try:
        found = fields(json.loads(line), {"photo": str, "sha256": str, "bundle": str})
        if not (DIGEST.fullmatch(found["sha256"]) and DIGEST.fullmatch(found["bundle"])):
            raise ValueError("its first line is damaged")
        photo, tag = Photo(found["photo"], found["sha256"]), bytes.fromhex(found["bundle"])[:TAG_BYTES]
        parse_frame(frame, max_payload_bytes=MAX_PAYLOAD_BYTES, bundle_tag=tag)
        if path.stem[-len(photo.key) :] != photo.key:
            raise ValueError("its first line is damaged, or its name is another photo's")
    except (ValueError, RecursionError, FrameError, InputError) as error:
        raise InputError(f"damaged, or no frame of a spool ({one_line(str(error))})") from error
    return OldPhoto(photo.key, photo.name, photo.sha256, found["bundle"], frame, None, (path,))


def read_regular(path: Path, limit: int) -> bytes:
    """Read a file. InputError: it is a link, a pipe or the like, or larger than `limit` bytes."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        raise InputError(f"no regular file of at most {limit} bytes")
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        return read_at_most(file, limit)
