"""Files and folders that are written whole or not at all, whenever the power goes; bounded reads; secrets in files.

bytes -> .bottlenet-xxxxxxxx.part beside it -> flushed to the disk -> renamed to NAME -> the folder flushed
files -> write_new, each, in the folder that `replacing` gives, beside it -> renamed
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bottlenet.errors import InputError, WireError

CHUNK_BYTES = 2**16
MAX_SECRET_BYTES = 4096
LEFTOVER = re.compile(r"\.bottlenet-[0-9a-f]{8}\.part")  # what `write_whole` leaves where the power goes


def write_whole(path: Path, data: bytes) -> None:
    """Write all of it, for good, or leave what was there before. OSError: it can't."""
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


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """Yield this process's own name beside `path`, whose place the file takes, synced, when the block succeeds."""
    part = path.with_suffix(f".part{os.getpid()}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_at_most(file: BinaryIO, limit: int) -> bytes:
    """Read `limit` bytes, or all there are. Python's own `read` sets aside `limit` first, however few there are."""
    data = bytearray()
    while chunk := file.read(min(CHUNK_BYTES, limit - len(data))):
        data += chunk
    return bytes(data)


def read_bounded(path: str | Path, limit: int) -> bytes:
    """Read a file. InputError: no regular file (a pipe could block for ever), or larger than `limit`. OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputError("it is not a file")
        data = read_at_most(file, limit + 1)
    if len(data) > limit:
        raise InputError(f"it is larger than the {limit} bytes that are allowed")
    return data


def read_records(path: Path, size: int, positions: Iterable[int]) -> bytearray:
    """Read a file's records of `size` bytes at `positions`, so that memory does not depend on how many there are."""
    with path.open("rb") as file:
        return bytearray().join(os.pread(file.fileno(), size, position * size) for position in positions)


@contextmanager
def reading(path: str | Path, advice: str) -> Iterator[None]:
    """Name the file in what goes wrong in the block. InputError: it can't be read, or is refused."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}; {advice}") from error
    except (InputError, WireError) as error:
        raise InputError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Secret:
    """A token or a password: one line of a file, read again each time, never in a message. InputError: it is none."""

    what: str
    pattern: re.Pattern[str]
    characters: str  # that it may have, for messages

    def read(self, path: str | Path) -> str:
        """Read the one secret that is alone in a file. InputError: can't be read."""
        try:
            data = read_bounded(path, MAX_SECRET_BYTES)
        except (OSError, InputError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: can't read the {self.what}: {why}; give a text file") from error
        return self.check(data.decode("latin-1").strip(), str(path))

    def check(self, value: str, where: str) -> str:
        """Pass a value that may be one."""
        if self.pattern.fullmatch(value) is None:
            raise InputError(f"{where} holds no {self.what}; one line of {self.characters} is one")
        return value


# Of a user at a broker: whatever its operator chose.
PASSWORD = Secret("password", re.compile(r"[!-~]([ -~]{0,510}[!-~])?"), "1 to 512 ASCII characters")


def lock_file(path: Path) -> int | None:
    """Make and hold a file until the process ends; None: another process does. OSError: it can't be made."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
    return handle


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` last. OSError: it can't. Only POSIX can open a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_new(path: Path, content: bytes | Path) -> str:
    """Write or copy, flush to the disk, and give the SHA-256 in hex."""
    hasher = hashlib.sha256()
    with open(path, "xb") as file:
        for chunk in file_chunks(content) if isinstance(content, Path) else (content,):
            hasher.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return hasher.hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` when the block succeeds. OSError: it can't."""
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    old = fresh.with_suffix(".old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if aside := target.exists():  # a folder can't be renamed over a full one
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if aside:
                old.rename(target)
            raise
        sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def file_chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
