"""Whatever README and docs tell people to type is run here as it is written, page by page, on little data.

Commands of bottlenet run in this process; what serves or watches runs beside, and is told to stop. The network that is
trained, `efficientnet_lite0`, is a small one of that name with the same cuts; hosts and ports are this machine's.
What can't be run says so in a comment beside it (see documents.py), and has its options checked.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from bottlenet import cli
from bottlenet.bundle import Bundle, Preprocess
from bottlenet.edge.spool import is_spool
from bottlenet.measure import profile as detail
from documents import PAGES, ROOT, Block, blocks_of, inline_commands, options_of, without_comment
from processes import BOTTLENET, Process, serving, write_certificate
from test_cli import Run, run
from test_spool import in_spool

__all__ = ["run"]  # a fixture

LIMIT_S = 60
NOT_RUN = {  # the start of a command -> why
    "pip install": "needs a package index; the gate installs all of it by make",
    "make": "the gate runs it",
    "python examples/": "tests/test_examples.py runs them",
    "bottlenet watch": "tests/test_camera.py has cameras",
    "bottlenet serve a.bundle b.bundle --engine ray": "tests/test_rayserve.py serves so, with two bundles as well",
    "python benchmarks/": "minutes to hours; tests/test_benchmarks.py and others run each on little input",
}
OWN_PHOTOS = {"tutorial.md"}  # pages that say where photos come from
ADDRESS = re.compile(r"\b(?:server:8000|127\.0\.0\.1:8000|photos\.example|sat\.example)\b")
BLOCKS = {page.relative_to(ROOT).as_posix(): list(blocks_of(page)) for page in PAGES}


def stand_in() -> Any:
    """As `efficientnet_lite0` as far as cuts and sizes at `blocks.8` go; weights are random, and always the same."""
    import torch
    from torch import nn

    from bottlenet.net.models import Classifier

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 32, 16, stride=16), nn.ReLU6())
            widths = (32, 16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 1), nn.ReLU6()) for a, b in pairwise(widths))
            self.classifier = nn.Linear(112, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)  # (B, 32, 14, 14)
            for block in self.blocks:
                x = block(x)
            return self.classifier(x.mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Network().eval()
    labels = tuple(f"class {number}" for number in range(10))
    return Classifier(
        "efficientnet_lite0", module, Preprocess(224, 0.875, "bicubic"), (127.0,) * 3, (128.0,) * 3, labels, "none"
    )


class Reader:
    """Who reads one page from top to bottom, and types what it says."""

    def __init__(self, desk: Path, server: Process, run: Run) -> None:
        self.desk, self.run = desk, run
        self.port = server.port
        self.names: dict[str, object] = {}
        self.running = contextlib.ExitStack()

    def address(self, text: str) -> str:
        """With the server that the page has started, or else one that is always there."""
        return ADDRESS.sub(f"127.0.0.1:{self.port}", text).replace("wss://127", "ws://127")

    def read(self, block: Block) -> None:
        if "" in block.not_run or block.kind == "other":
            return
        if block.kind == "python":
            code = compile("\n" * block.line + self.address(block.text), str(block.page), "exec")
            exec(code, self.names)  # noqa: S102 - our own documentation
            return
        for command in block.commands:
            more = next((added for start, added in block.more.items() if command.startswith(start)), "")
            if not any(command.startswith(start) for start in (*NOT_RUN, *block.not_run)):
                self.type(f"{command} {more}".strip())

    def type(self, command: str) -> None:
        """One command, which has to end well."""
        if command.startswith("bottlenet serve "):
            self.serve(shlex.split(command)[2:])
            return
        words = shlex.split(self.address(command))
        if words[0] != "bottlenet":
            subprocess.run(words, check=True, cwd=self.desk, timeout=LIMIT_S, capture_output=True)
        elif "--watch" in words:
            self.watch(words[1:])
        else:
            target = words[words.index(">") + 1] if ">" in words else None
            done = self.run(*(words[1 : words.index(">")] if ">" in words else words[1:]))
            assert done.code == 0, f"{command}\n{done.out}{done.err}"
            if target is not None:
                (self.desk / target).write_text(done.out, encoding="utf-8")

    def serve(self, words: list[str]) -> None:
        """Until the page ends; one that speaks TLS only until it has started, as devices here have no certificate."""
        place = words.index("--port") if "--port" in words else len(words)
        arguments = [each.removeprefix("/srv/") for each in (*words[:place], *words[place + 2 :])]
        process = self.running.enter_context(serving(*arguments))
        if "--tls-cert" in words:
            code, err = process.end(signal.SIGTERM)
            assert code == 0, err
        else:
            self.port = process.port

    def watch(self, words: list[str]) -> None:
        """Until one more photo is answered."""
        spool = self.desk / words[words.index("--spool") + 1]
        before = len(in_spool(spool, "answered")) if is_spool(spool) else 0
        with subprocess.Popen([*BOTTLENET, *words], cwd=self.desk, stderr=subprocess.PIPE, text=True) as popen:
            try:
                deadline = time.monotonic() + LIMIT_S
                while not is_spool(spool) or len(in_spool(spool, "answered")) <= before:
                    assert popen.poll() is None, popen.stderr and popen.stderr.read()
                    assert time.monotonic() < deadline, words
                    time.sleep(0.05)
                popen.send_signal(signal.SIGTERM)
                _, err = popen.communicate(timeout=LIMIT_S)
                assert popen.returncode == 0, err
            finally:
                popen.kill()


def save_photos(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(4)
    for name in ["cat", "dog", *(f"{number:02}" for number in range(count - 2))]:
        low = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(low).resize((280, 240), Image.Resampling.BICUBIC).save(folder / f"{name}.jpg")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Bundle]) -> Path:
    """What pages take to be there, and do not make."""
    kit = tmp_path_factory.mktemp("kit")
    save_photos(kit / "photos", 40)
    shutil.copytree(kit / "photos", kit / "other_photos")
    for name in ("imagenet-train", "imagenet-det"):
        shutil.copytree(kit / "photos", kit / "train" / name)
    for name in ("cat.jpg", "dog.jpg"):
        shutil.copy(kit / "photos" / name, kit / name)
    for number, name in enumerate(("my", "a", "b")):
        shutil.copytree(make_bundle(setting=80 + number).path, kit / f"{name}.bundle")
    for name, cut in (("shallow", "blocks.2"), ("deep", "blocks.8")):
        shutil.copytree(make_bundle(cut=cut).path, kit / f"{name}.bundle")
    (kit / "bundles").mkdir()
    for name in ("token", "tokens.txt"):
        (kit / name).write_text("a-camera-0123456789\n")
    write_certificate(kit)
    return kit


@pytest.fixture(scope="module")
def server(kit: Path) -> Iterator[Process]:
    with serving("demo", kit / "my.bundle") as process:
        yield process


@pytest.fixture
def reader(
    kit: Path,
    server: Process,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    run: Run,
) -> Iterator[Reader]:
    pytest.importorskip("torch")
    from bottlenet.net import models

    monkeypatch.setitem(models.MODELS, "efficientnet_lite0", stand_in)
    # A profile step by step takes ten times as long, and is tested elsewhere.
    for name, value in (("BATCHES", (1,)), ("LOADS", (0,)), ("REPEATS", 1), ("peak_rss_bytes", lambda *_: 2**24)):
        monkeypatch.setattr(detail, name, value)
    desk = tmp_path / "desk"
    shutil.copytree(kit, desk, symlinks=True)
    (desk / "src").symlink_to(ROOT / "src")
    if Path(request.getfixturevalue("page")).name in OWN_PHOTOS:
        shutil.rmtree(desk / "photos")
    monkeypatch.chdir(desk)
    monkeypatch.delenv("BOTTLENET_TOKEN", raising=False)
    reader = Reader(desk, server, run)
    with reader.running:
        yield reader


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if any(b.kind != "other" for b in blocks)])
def test_the_page_can_be_followed(page: str, reader: Reader) -> None:
    for block in BLOCKS[page]:
        reader.read(block)


def every_command() -> list[tuple[str, str]]:
    """(page, command), in blocks and in the text."""
    found = [
        (page, command)
        for page, blocks in BLOCKS.items()
        for block in blocks
        if block.kind == "shell"
        for command in block.commands
    ]
    return found + [(path.relative_to(ROOT).as_posix(), one) for path in PAGES for one in inline_commands(path)]


def test_every_command_and_option_exists() -> None:
    """Of those that are not run, too."""
    known = options_by_command()
    for page, command in every_command():
        if command.startswith("python benchmarks/"):
            script = ROOT / command.split()[1]
            assert script.is_file(), f"{page}: {command}"
            files = (script, script.parent / "record.py", script.parent / "profiles.py")
            source = "".join(file.read_text(encoding="utf-8") for file in files)
            for option in options_of(command):
                assert f'"{option}"' in source, f"{page}: {command}: {option}"
        elif command.startswith("bottlenet "):
            name = command.split()[1]
            if name.startswith("-"):
                continue
            assert name in known, f"{page}: {command}"
            for option in options_of(command):
                assert option in known[name], f"{page}: {command}: {option}"
        elif command.startswith("make "):
            targets = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{command.split()[1]}:", targets, re.MULTILINE), f"{page}: {command}"


def options_by_command() -> dict[str, set[str]]:
    """As `--help` would list them."""
    group: Any = typer.main.get_command(cli.app)
    found = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }
    return {name: options | {"--help", "-h"} for name, options in found.items()}


def test_marks_are_needed() -> None:
    """A reason for what is not there any more would be a lie."""
    commands = [command for _, command in every_command()]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in commands), start
    for page, blocks in BLOCKS.items():
        for block in blocks:
            if block.not_run or block.more:
                assert block.kind != "other", f"{page}:{block.line}"
            for start in (*block.more, *block.not_run):
                assert any(command.startswith(start) for command in block.commands), f"{page}:{block.line}: {start}"


class TestBlocks:
    def blocks(self, tmp_path: Path, text: str) -> list[Block]:
        (tmp_path / "page.md").write_text(text)
        return list(blocks_of(tmp_path / "page.md"))

    def test_what_is_found(self, tmp_path: Path) -> None:
        text = (
            "# Title\n\n```\nbottlenet a \\\n    --b 'c # d'   # said\n# nothing\nls\n```\n"
            "\n<!-- not run: takes long -->\n<!-- run with --few: bottlenet b -->\n\n    bottlenet b\n    drawn\n\n"
            "text\n\n```python\nx = 1\n```\n\n```\ndrawing -> bottlenet\n```\n- list\n    bottlenet no\n"
        )
        first, second, third, fourth = self.blocks(tmp_path, text)
        assert (first.kind, first.line, first.commands) == ("shell", 3, ["bottlenet a --b 'c # d'", "ls"])
        assert (second.kind, second.not_run, second.more) == ("shell", {"": "takes long"}, {"bottlenet b": "--few"})
        assert second.lines == ["bottlenet b", "drawn"]
        assert (third.kind, third.text) == ("python", "x = 1")
        assert (fourth.kind, fourth.not_run) == ("other", {})

    def test_a_mark_is_for_the_next_block(self, tmp_path: Path) -> None:
        (block,) = self.blocks(tmp_path, "<!-- not run: x -->\nwords\n\n```sh\nls\n```\n")
        assert not block.not_run

    @pytest.mark.parametrize(("line", "command"), [("a#b", "a#b"), ('a "#" # c', 'a "#"'), ("# all", ""), ("a", "a")])
    def test_comments(self, line: str, command: str) -> None:
        assert without_comment(line) == command

    def test_options(self) -> None:
        assert options_of("bottlenet x --a 1 -b c --d=e - -5 > f") == ["--a", "-b", "--d"]

    def test_commands_in_the_text(self, tmp_path: Path) -> None:
        (tmp_path / "page.md").write_text(
            "| `bottlenet x --y` | ``bottlenet`` `python benchmarks/z.py`\n```\n`bottlenet no`\n```\n"
        )
        assert inline_commands(tmp_path / "page.md") == ["bottlenet x --y", "python benchmarks/z.py"]


def test_git_ignores_what_the_tutorial_writes() -> None:
    """It is read in a checkout, whose changes are not the reader's."""
    commands = "\n".join(command for block in BLOCKS["docs/tutorial.md"] for command in block.commands)
    written = {"photos", *re.findall(r"(?:-o|--out|--spool|>) (\S+)", commands)}
    patterns = [line for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines() if line]
    assert {"cat.frame", "first.bundle", "spool", "report.html"} <= written
    for name in written:
        path = f"/{name}"
        assert any(fnmatch(path, pattern.rstrip("/")) or path.startswith(pattern) for pattern in patterns if pattern), (
            name
        )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```\nbottlenet evaluate my.bundle --data nothing\n```\n", AssertionError),
        ("```sh\nls nothing\n```\n", subprocess.CalledProcessError),
        ("```python\nassert 1 == 2\n```\n", AssertionError),
    ],
)
@pytest.mark.parametrize("page", ["x.md"])
def test_a_page_that_is_wrong_is_seen(
    page: str, reader: Reader, text: str, error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / page).write_text(text)
    (block,) = blocks_of(tmp_path / page)
    with pytest.raises(error):
        reader.read(block)
