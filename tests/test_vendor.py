"""Fetching from npm, with an npm that copies an archive of ours."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from bottlenet.cloud import vendor
from bottlenet.cloud.vendor import RUNTIME, Package, fetch
from bottlenet.errors import InputError

NPM = """#!{python}
import pathlib, shutil, sys
if {fails}:
    sys.exit("npm error 404\\nnot found")
assert sys.argv[1:4] == ["pack", "thing@1.2.3", "--ignore-scripts"]
shutil.copy({archive!r}, pathlib.Path(sys.argv[-1]) / "thing-1.2.3.tgz")
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "thing.tgz"
    with tarfile.open(path, "w:gz") as file:
        for name, data in (("package/a.js", b"let a;"), ("package/b.wasm", b"\0asm" * 100), ("../../evil", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def package(archive: Path) -> Package:
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    return Package("thing", "1.2.3", digest, {"package/a.js": "a.js", "package/b.wasm": "b.wasm.gz"})


def install(folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> None:
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(NPM.format(python=sys.executable, archive=str(archive), fails=fails))
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_its_files(package: Package, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", archive, monkeypatch)
    fetch(package, tmp_path / "vendor")
    assert sorted(path.name for path in (tmp_path / "vendor").iterdir()) == ["a.js", "b.wasm.gz"]
    assert (tmp_path / "vendor" / "a.js").read_bytes() == b"let a;"
    assert gzip.decompress((tmp_path / "vendor" / "b.wasm.gz").read_bytes()) == b"\0asm" * 100


def test_another_package(package: Package, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", archive, monkeypatch)
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"thing@1\.2\.3 has the SHA-512 .*: it is another package"):
        fetch(package, tmp_path / "vendor")
    assert not (tmp_path / "vendor").exists()


def test_npm_fails(package: Package, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", archive, monkeypatch, fails=True)
    with pytest.raises(InputError, match=r"npm can't fetch thing@1\.2\.3 \(npm error 404 not found\)"):
        fetch(package, tmp_path / "vendor")


def test_no_npm(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm is not installed"):
        fetch(package, tmp_path / "vendor")
    with pytest.raises(SystemExit, match=r"error: npm is not installed, and fetches onnxruntime-web@"):
        vendor.main()
    assert capsys.readouterr().out == ""


def test_what_is_pinned() -> None:
    assert len(base64.b64decode(RUNTIME.sha512)) == 64
    assert set(RUNTIME.files.values()) == {"ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm.gz"}
