from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bottlenet.bundle import Bundle
from bottlenet.cloud import admission as module
from bottlenet.cloud import create_app
from bottlenet.cloud.admission import Tokens
from bottlenet.errors import InputError
from processes import frame_of

ONE, TWO = "abcdefghijklmnop", "ABC.DEF-GHI_JKL~+/MN=="


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with two tokens, looked at each time."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    path = tmp_path / "tokens"
    path.write_text(f"# cameras\n\n  {ONE}  \n{TWO}\n")
    return path


@pytest.mark.parametrize(
    ("header", "good"),
    [
        (f"Bearer {ONE}", True),
        (f"bearer   {TWO} ", True),
        (f"Bearer {ONE[:-1]}", False),
        (f"Bearer {ONE}x", False),
        (f"Bearer {ONE} {TWO}", False),
        (f"Basic {ONE}", False),
        (ONE, False),
        ("Bearer # cameras", False),
        ("Bearer", False),
        ("", False),
        ("\xff" * 5000, False),
    ],
)
def test_who_gets_in(path: Path, header: str, good: bool) -> None:
    assert Tokens(path).allows(header.encode("latin-1")) is good


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "has no token in it"),
        (b"# none\n", "has no token in it"),
        (b"good-enough-to-be-one\nshort\n", "line 2 of .* is no token"),
        (b"secret secret secret secret", "line 1"),
        (b"\xff" * 20, "is no list of tokens"),
        (b"#" * 2**21, "larger than the 1048576 bytes"),
        (b"".join(b"token-number-%06d\n" % number for number in range(10_001)), "too large"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "tokens").write_bytes(content)
    with pytest.raises(InputError, match=says) as refused:
        Tokens(tmp_path / "tokens")
    assert "secret" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_another_file_counts_as_a_new_generation(path: Path) -> None:
    tokens = Tokens(path)
    before = tokens.generation
    path.write_text(f"{TWO}\n")
    assert tokens.generation == before + 1
    assert not tokens.allows(f"Bearer {ONE}".encode())
    assert tokens.allows(f"Bearer {TWO}".encode())
    path.write_text(f"# the same\n{TWO}\n")
    assert tokens.generation == before + 1


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("not one\n")])
def test_a_file_that_breaks_changes_nothing(
    path: Path, change: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    tokens = Tokens(path)
    change(path)
    with caplog.at_level(logging.ERROR):
        assert tokens.allows(f"Bearer {ONE}".encode())
    assert "tokens stay as they were" in caplog.text
    assert "not one" not in caplog.text
    path.write_text("")  # on purpose
    assert not tokens.allows(f"Bearer {ONE}".encode())


def test_one_that_goes_while_its_stream_is_opened(path: Path, bundle: Bundle) -> None:
    """It let the stream in, and is out of the file before the first frame."""
    app = create_app([bundle], tokens=path)
    sent: list[dict[str, object]] = []
    come: list[dict[str, object]] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "bytes": frame_of(bundle).to_stream_bytes()},
        {"type": "websocket.disconnect", "code": 1000},
    ]

    async def receive() -> dict[str, object]:
        return come.pop(0)

    async def send(message: dict[str, object]) -> None:
        sent.append(message)
        if message["type"] == "websocket.accept":
            path.write_text(f"{TWO}\n")

    query = f"bundle={bundle.id.hex()}".encode()
    headers = [(b"authorization", f"Bearer {ONE}".encode())]
    scope = {"type": "websocket", "path": "/v1/stream", "query_string": query, "headers": headers}
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 4401


def test_one_that_is_taken_away_while_the_file_cannot_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look reads the file, although it has not changed again."""
    tokens = Tokens(path)
    path.write_text(f"{TWO}\n")

    def fails(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_bounded", fails)
        assert tokens.allows(f"Bearer {ONE}".encode())
    assert not tokens.allows(f"Bearer {ONE}".encode())


def test_one_that_is_replaced_in_place_at_the_same_time(path: Path) -> None:
    """Size, time and inode say nothing then; nor do they on some file systems."""
    status, tokens = path.stat(), Tokens(path)
    path.write_text(path.read_text().replace(ONE, ONE.upper()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not tokens.allows(f"Bearer {ONE}".encode())
    assert tokens.allows(f"Bearer {ONE.upper()}".encode())


def test_a_pipe_in_its_place(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Opened as a file is, it would keep the server waiting for a writer."""
    tokens = Tokens(path)
    path.unlink()
    os.mkfifo(path)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert tokens.allows(f"Bearer {ONE}".encode())
    assert caplog.text.count("it is not a file") == 1
    with pytest.raises(InputError, match="it is not a file"):
        Tokens(path)
