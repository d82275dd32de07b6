from __future__ import annotations

import io
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.files import CHUNK_BYTES, read_at_most, read_bounded
from bottlenet.wire.frame import BEARER


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
@pytest.mark.parametrize("limit", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * CHUNK_BYTES])
def test_no_more_than_the_limit_is_read(size: int, limit: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    file = io.BytesIO(data[:size])
    assert read_at_most(file, limit) == data[: min(size, limit)]
    assert file.tell() == min(size, limit)


def peak_bytes_of(action: object) -> int:
    assert callable(action)
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_limit_is_not_set_aside(tmp_path: Path) -> None:
    """`file.read(limit)` would."""
    (tmp_path / "small").write_bytes(b"few")
    with open(tmp_path / "small", "rb") as file:
        assert peak_bytes_of(lambda: read_at_most(file, 2**30)) < 2**18


def test_a_small_bundle_takes_little(bundle: Bundle) -> None:
    """Found by fuzzing: loading it set aside 16 MiB for labels, and 64 for tables."""
    assert peak_bytes_of(lambda: Bundle.load(bundle.path)) < 2**22


class TestRegular:
    """A file that may be replaced at any time: what takes its place must not hold the program."""

    def test_a_file_and_a_link_to_it(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"four")
        (tmp_path / "link").symlink_to("file")  # as Kubernetes lays out secrets
        for name in ("file", "link"):
            assert read_bounded(tmp_path / name, 4) == b"four"
            with pytest.raises(InputError, match="larger than the 3 bytes"):
                read_bounded(tmp_path / name, 3)

    def test_anything_else(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        writer = os.open(tmp_path / "pipe", os.O_RDWR)  # one that writes nothing
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))
        try:
            for path in (tmp_path / "pipe", tmp_path / "socket", tmp_path, Path("/dev/zero")):
                with pytest.raises((InputError, OSError)):
                    read_bounded(path, 100)
                with pytest.raises(InputError, match="can't read the token: .*; give a text file"):
                    BEARER.read(path)
        finally:
            listener.close()
            os.close(writer)

    def test_a_pipe_that_nobody_writes_to(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="can't read the token: it is not a file"):
            BEARER.read(tmp_path / "pipe")
