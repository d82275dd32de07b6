"""The compiled entropy codec: only a library of the source beside it is used, and none has to be there."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from bottlenet.wire import entropy
from bottlenet.wire.entropy import SOURCE, load_library

HOOK = Path(__file__).parent.parent / "hatch_build.py"
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_compiler
def test_it_is_here_and_of_this_source() -> None:
    assert entropy.LIBRARY is not None, "python hatch_build.py"


@needs_compiler
def test_one_of_another_source_is_not_taken(hook: ModuleType, tmp_path: Path) -> None:
    source, built = tmp_path / "entropy.c", tmp_path / "entropy.so"
    source.write_bytes(SOURCE.read_bytes())
    assert hook.compile_library(source, built) is None
    assert load_library(built, source) is not None
    source.write_bytes(SOURCE.read_bytes() + b"\n")
    assert load_library(built, source) is None


@needs_compiler
def test_without_warnings(hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -std=c99 -Wall -Wextra -Wpedantic -Werror")
    assert hook.compile_library(SOURCE, tmp_path / "entropy.so") is None


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF", b"no library" * 100])
def test_what_is_no_library_is_not_taken(content: bytes | None, tmp_path: Path) -> None:
    built = tmp_path / "entropy.so"
    if content is not None:
        built.write_bytes(content)
    assert load_library(built) is None


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_where_it_can_not_be_built_an_old_one_goes(
    compiler: str, hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    built = tmp_path / "entropy.so"
    built.write_bytes(b"old")
    failed = hook.compile_library(SOURCE, built)
    assert failed
    assert "\n" not in failed
    assert list(tmp_path.iterdir()) == []
