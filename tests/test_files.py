from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pytest

from bottlenet.bundle import Bundle
from bottlenet.files import CHUNK_BYTES, read_at_most


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
