"""The page's JavaScript gives Python's bytes. Here in Node.js; test_page_browser.py asks Chromium."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

import bottlenet
from bottlenet.bundle import DEMO
from page_vectors import FILE, Json, as_file, random_vectors, vectors

PAGE = Path(bottlenet.__file__).parent / "cloud" / "page"
MODULES = sorted(PAGE.glob("*.js"))
NODE = shutil.which("node") or ""
needs_node = pytest.mark.skipif(not NODE, reason="node is not installed")


def check(cases: Json) -> tuple[int, list[str]]:
    """How many comparisons there were, and what failed."""
    tables = base64.b64encode((DEMO / "tables.bin").read_bytes()).decode()
    told = json.dumps({"vectors": cases, "shippedTables": tables})
    command = [NODE, Path(__file__).with_name("page_node.mjs"), PAGE]
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return int(result["count"]), list(result["failed"])


def test_the_vectors_are_what_python_gives() -> None:
    assert FILE.read_text(encoding="utf-8") == as_file(vectors()), "run python tests/page_vectors.py"


@needs_node
def test_the_page_gives_the_same() -> None:
    count, failed = check(json.loads(FILE.read_text(encoding="utf-8")))
    assert failed == []
    assert count > 100


@needs_node
def test_with_any_tables_and_symbols() -> None:
    count, failed = check(random_vectors(1, 200))
    assert failed == []
    assert count > 1000


@needs_node
def test_a_difference_is_seen() -> None:
    """Of each kind: a payload, a pixel, a link's time."""
    cases = json.loads(FILE.read_text(encoding="utf-8"))
    cases["entropy"] = [{**cases["entropy"][0], "payload": cases["entropy"][1]["payload"], "prefixes": []}]
    cases["resize"][0]["pixels"] = cases["resize"][1]["pixels"]
    cases["links"]["3g"]["ms"][0] += 1
    _, failed = check(cases)
    assert [what.partition(":")[0] for what in failed] == ["entropy 0", "resize 100x75 to 16", "link 3g"]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.name)
def test_files_are_short(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 300
    assert max(map(len, lines)) <= 120
