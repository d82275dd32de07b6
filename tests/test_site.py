"""The documentation as a site: the reference says what the package says, and a link to nothing ends the build."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
WEBSITE = ROOT / "website"
MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"  # `make docs` makes it, which CI does first
MODULE = '''"""A module: `x` and <b>.

    drawn -> here

    and *here*

Not drawn.
"""


class Thing(Base):
    """A thing."""

    size: int  # bytes
    _hidden: int

    def grow(self, by: int = 1) -> "Thing":
        """More of it."""

    def _shrink(self) -> None: ...


def outer(
    a: dict[str, int], *, b: tuple[int, ...] = (1, 2), c: str = "a rather long default, so that lines are broken"
) -> int:
    """Sum."""
'''


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(WEBSITE))
    import reference

    return reference


class TestReference:
    def test_every_public_name_is_in_it(self, reference: ModuleType) -> None:
        package = ROOT / "src" / "bottlenet"
        text = "\n".join(reference.pages(package).values())
        for part in ("edge", "wire", "plan", "net"):
            for file in sorted((package / part).glob("*.py")):
                module = reference.dotted(file.relative_to(package).as_posix())
                assert f"{{ #{module} }}" in text
                for node in ast.parse(file.read_text(encoding="utf-8")).body:
                    if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                        assert f"### {node.name} {{ #{module}.{node.name} }}" in text
        anchors = re.findall(r"\{ #(\S+) \}", text)
        assert len(anchors) == len(set(anchors))
        assert text.count("````") % 2 == 0

    def test_what_a_module_looks_like(self, reference: ModuleType, tmp_path: Path) -> None:
        (tmp_path / "thing.py").write_text(MODULE)
        (tmp_path / "__main__.py").write_text("")
        made = reference.pages(tmp_path)["reference/bottlenet.md"]
        assert "A module: `x` and \\<b\\>." in made
        assert "````text\n    drawn -> here\n\n    and *here*\n````" in made
        assert "class Thing(Base):\n    size: int  # bytes\n````" in made
        assert "def grow(self, by: int=1) -> 'Thing'" in made
        assert "    *,\n    b: tuple[int, ...] = (1, 2),\n    c: str = 'a rather long default, so that" in made
        assert "_shrink" not in made
        assert "_hidden" not in made
        assert "__main__" not in made

    @pytest.mark.parametrize(
        ("target", "part"),
        [
            ("src/bottlenet/plan/link.py", ("reference/plan.md", "bottlenet.plan.link")),
            ("src/bottlenet/bundle.py", ("reference/bottlenet.md", "bottlenet.bundle")),
            ("src/bottlenet/edge/__init__.py", ("reference/edge.md", "bottlenet.edge")),
            ("src/bottlenet/cli/show.py", None),
            ("benchmarks/record.py", None),
        ],
    )
    def test_where_a_file_is_described(self, reference: ModuleType, target: str, part: object) -> None:
        assert reference.part_of(target) == part


@pytest.mark.slow
@pytest.mark.skipif(not MKDOCS.exists(), reason="needs .venv-docs: make setup-docs")
class TestBuild:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        shutil.copytree(WEBSITE, tmp_path / "website", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in ("docs", "src/bottlenet/plan", "benchmarks"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "src/bottlenet/thing.py").write_text(MODULE)
        (tmp_path / "src/bottlenet/plan/link.py").write_text('"""Links."""\n')
        (tmp_path / "benchmarks/README.md").write_text("# Benchmarks\n\n[up](../README.md)\n")
        (tmp_path / "benchmarks/x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        (tmp_path / "README.md").write_text(
            "# Front\n\n[wire](docs/wire.md#frame), [all](benchmarks), ![drawing](benchmarks/x.svg)\n\n`[no](link.md)`"
        )
        (tmp_path / "docs/wire.md").write_text("# Wire\n\n## Frame\n\n[code](../src/bottlenet/plan/link.py)\n")
        (tmp_path / "docs/new.md").write_text("# New\n\nA page that nobody has put into the order.\n")
        return tmp_path

    def build(self, repository: Path) -> subprocess.CompletedProcess[str]:
        command = [str(MKDOCS), "build", "--strict", "--config-file", str(repository / "website" / "mkdocs.yml")]
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)

    def test_links_of_the_repository_are_links_of_the_site(self, repository: Path) -> None:
        done = self.build(repository)
        assert done.returncode == 0, done.stderr
        front = (repository / "site" / "index.html").read_text(encoding="utf-8")
        assert 'href="wire/#frame"' in front
        assert 'href="benchmarks/"' in front
        assert 'src="files/benchmarks/x.svg"' in front
        assert (repository / "site" / "files" / "benchmarks" / "x.svg").exists()
        assert "[no](link.md)" in front
        assert "New" in front
        wire = (repository / "site" / "wire" / "index.html").read_text(encoding="utf-8")
        assert 'href="../reference/plan/#bottlenet.plan.link"' in wire

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[x](nothing.md)", "docs/new.md links to nothing.md, which is not there"),
            ("[x](../src)", "links to the folder ../src, which has no README.md"),
            ("[x](wire.md#nothing)", "#nothing"),
            ('<img src="https://example.org/x.png">', "loads https://example.org/x.png from elsewhere"),
        ],
    )
    def test_a_link_to_nothing_ends_it(self, repository: Path, text: str, message: str) -> None:
        with (repository / "docs" / "new.md").open("a") as file:
            file.write(f"\n{text}\n")
        done = self.build(repository)
        assert done.returncode != 0
        assert message in done.stderr
