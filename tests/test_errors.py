"""One except clause catches everything that is meant to be caught."""

from __future__ import annotations

import copy
import dataclasses
import errno
import os
import re
from pathlib import Path

import pytest

from bottlenet import errors
from bottlenet.bundle import Bundle, write_bundle
from bottlenet.bundle.ladder import write_ladder
from bottlenet.errors import BRINGS, BottleNetError, BundleError, MissingExtraError, how_to_install

ROOT = Path(__file__).parent.parent
TEXTS = {".py", ".md", ".html", ".yaml", ".service"}


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) == 11
    for kind in kinds:
        assert issubclass(kind, BottleNetError)
        assert kind.__name__ in (errors.__doc__ or "")


def test_a_missing_extra_says_what_to_install() -> None:
    error = MissingExtraError("training", "train")
    assert str(error).startswith('training needs an optional part: pip install ".[train]" in a checkout')
    assert "\n" not in str(error)


@pytest.mark.parametrize("extra", BRINGS)
def test_every_part_that_is_named_can_be_installed(extra: str) -> None:
    """From a checkout or a wheel: no package index has BottleNet, and somebody else may take the name there."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\n{extra} = [" in project.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
    assert BRINGS[extra] in how_to_install(extra)


def test_nothing_names_a_package_that_no_index_has() -> None:
    folders = ("src", "docs", "examples", "recipes", "benchmarks", "deploy", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    for path in (*files, *ROOT.glob("*.md"), *(ROOT / "deploy").glob("*Dockerfile")):
        text = path.read_text(encoding="utf-8").replace("\\[", "[")
        assert not re.search(r"pip install [^\n]*bottlenet\[" + "[a-z]", text), path


def test_a_full_disk_is_not_called_none(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    manifest = dataclasses.replace(bundle.manifest, files={})
    with pytest.raises(BundleError, match="No space left") as caught:
        write_bundle(tmp_path / "new", manifest, files)
    assert "None" not in str(caught.value)
    with pytest.raises(BundleError, match="No space left") as caught:
        write_ladder(tmp_path / "ladder", [bundle])
    assert "None" not in str(caught.value)


def test_a_missing_extra_can_be_copied() -> None:
    error = copy.copy(MissingExtraError("training", "train"))
    assert (error.needs, error.extra) == ("training", "train")
    with pytest.raises(MissingExtraError, match="training needs"):
        raise error
