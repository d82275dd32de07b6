"""What a device and a server do besides their work, in system calls: nothing on the network, nothing on disk."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bottlenet
from bottlenet.bundle import Bundle
from processes import BOTTLENET

PACKAGE = Path(bottlenet.__file__).parent
LIMIT_S = 600
IDLE_S = 5  # reports of a library that starts a thread for them come after a while
CALLS = "connect,sendto,sendmsg,sendmmsg,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,link"
REACHED = re.compile(r'sa_family=AF_(\w+), (?:sin6?_port=htons\((\d+)\)|sun_path=@?"([^"]*)")')
WRITTEN = re.compile(r'(?:openat\([^"]*|creat\(|mkdir(?:at)?\([^"]*|(?:rename|unlink|link)\w*\([^"]*)"([^"]*)"')
DEVICE = """
import sys, time
from bottlenet import Edge
with Edge(sys.argv[1], sys.argv[2]) as edge:
    edge.classify(sys.argv[3])
    time.sleep({idle_s})
    edge.classify(sys.argv[3])
"""

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, and so Linux")


def traced(log: Path, *command: object) -> list[str]:
    return ["strace", "-f", "-qq", "-s", "512", "-e", f"trace={CALLS}", "-o", str(log), *map(str, command)]


def reached(log: Path) -> set[str]:
    """Whom a process has connected to or sent to: ports, and the paths of sockets."""
    found = REACHED.findall(log.read_text(errors="replace"))
    return {port or path for family, port, path in found if family in ("INET", "INET6", "UNIX")}


def written(log: Path) -> set[str]:
    """Files and folders that a process has made, changed or removed, but for devices and /proc."""
    lines = log.read_text(errors="replace").splitlines()
    changes = [line for line in lines if "openat(" not in line or re.search(r"O_(WRONLY|RDWR|CREAT)", line)]
    paths = {found[1] for line in changes if (found := WRITTEN.search(line)) and " = -1 " not in line}
    return {path for path in paths if not path.startswith(("/dev/", "/proc/"))}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty one, which stays so. Python's cache of compiled modules is its own, and can be anywhere."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("XDG_", "ORT_", "BOTTLENET_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    yield home
    assert not list(home.iterdir())


@needs_strace
def test_nothing_but_the_frame_leaves(bundle: Bundle, photo_path: Path, home: Path, tmp_path: Path) -> None:
    command = [*BOTTLENET, "serve", bundle.path, "--json", "--port", "0", "--stop-with-input"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        traced(tmp_path / "server", *command), stdin=pipe, stdout=pipe, cwd=home, text=True
    ) as server:
        assert server.stdout is not None
        text = line = ""
        while line != "}\n":
            text += (line := server.stdout.readline())
            assert line
        url = json.loads(text)["listening"]
        device = [sys.executable, "-c", DEVICE.format(idle_s=IDLE_S), bundle.path, url, photo_path]
        subprocess.run(traced(tmp_path / "device", *device), cwd=home, check=True, timeout=LIMIT_S)
        server.communicate(timeout=LIMIT_S)
    assert server.returncode == 0
    assert reached(tmp_path / "device") == {url.rpartition(":")[2]}
    assert reached(tmp_path / "server") == set()
    for process in ("device", "server"):
        assert written(tmp_path / process) == set()


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize(
    "statement",
    [
        "import bottlenet.measure.profile, bottlenet.report.page",
        "import torch, bottlenet.net.export, bottlenet.net.from_torchvision, bottlenet.net.from_transformers",
        "import torch, bottlenet.train.train, bottlenet.privacy.run",
        "import bottlenet.cloud.ray.cluster, bottlenet.train.sweep.sweep",
        "import bottlenet.cloud.mqtt, bottlenet.edge.mqtt",
    ],
)
def test_no_library_writes_or_asks_by_itself(statement: str, home: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = f"{statement}; import time; time.sleep(1)"
    subprocess.run(traced(tmp_path / "log", sys.executable, "-c", code), cwd=home, check=True, timeout=LIMIT_S)
    assert reached(tmp_path / "log") == set()
    assert written(tmp_path / "log") == set()


@needs_strace
def test_what_is_watched_for_would_be_seen(home: Path, tmp_path: Path) -> None:
    code = f"""
import os, socket
for family, address in ((socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_INET6, ("::1", 53)), (socket.AF_UNIX, "/x/y")):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.sendto(b"x", address)
    except OSError:
        pass
os.mkdir("{tmp_path}/folder")
open("{tmp_path}/file", "w").close()
os.rename("{tmp_path}/file", "{tmp_path}/other")
"""
    subprocess.run(traced(tmp_path / "log", sys.executable, "-c", code), cwd=home, check=True, timeout=LIMIT_S)
    assert reached(tmp_path / "log") == {"9", "53", "/x/y"}
    assert written(tmp_path / "log") == {f"{tmp_path}/{name}" for name in ("folder", "file")}


def test_one_file_imports_onnxruntime() -> None:
    """Which says first that it must not report to anybody."""
    importing = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and node.module == "onnxruntime")
        or (isinstance(node, ast.Import) and any(alias.name == "onnxruntime" for alias in node.names))
    }
    assert importing == {"runtime.py"}
