from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from bottlenet.cloud import tokens as module
from bottlenet.cloud.tokens import Tokens
from bottlenet.errors import InputError

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
        (b"#" * 2**21, "too large"),
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
