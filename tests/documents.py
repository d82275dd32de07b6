"""What the documentation tells people to type: blocks of commands and of Python, and commands in the text.

A block is fenced, or indented by four spaces. It is Python where the fence says so, and shell where the fence says `sh`
or a line of it starts with one of PROGRAMS. A comment before a block says what is done with it:

    <!-- not run: needs a broker -->                      the options of its commands are checked, and that is all
    <!-- not run (bottlenet x): needs a broker -->        the same for those of its commands that start like this
    <!-- run with --limit 3: bottlenet bench -->          added to those of its commands that start like this
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "README.md",
    ROOT / "recipes" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS = {"bottlenet", "python", "pip", "make", "curl", "docker", "kubectl", "ray", "mosquitto_passwd"}
SHELL = {"sh", "bash", "shell", "console"}
FENCE = re.compile(r"^(`{3,}|~{3,})(.*)$")
MARK = re.compile(r"^<!-- (?:not run(?: \((?P<start>.+?)\))?|run with (?P<more>.+?)): (?P<what>.+?) -->$")
INLINE = re.compile(r"(?<!`)`((?:bottlenet|python benchmarks/)[^`\n]*)`(?!`)")


@dataclass
class Block:
    """Lines as they are written, without fence and indentation."""

    page: Path
    line: int  # of its first line, from 1
    kind: str  # "python", "shell" or "other"
    lines: list[str] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)  # start of a command, "" for all -> why
    more: dict[str, str] = field(default_factory=dict)  # start of a command -> what is added to it

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def commands(self) -> list[str]:
        """Without comments, each on one line."""
        whole = re.sub(r"\\\n\s*", "", self.text)
        return [command for line in whole.split("\n") if (command := without_comment(line))]


def without_comment(line: str) -> str:
    """`#` starts one at the start of a word that is not quoted."""
    quote = ""
    for place, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place].strip()
    return line.strip()


def blocks_of(page: Path) -> Iterator[Block]:
    """In their order."""
    marks: list[re.Match[str]] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        fence = FENCE.match(line)
        if fence is None and not (line.startswith("    ") and not lines[number - 1].strip()):
            if mark := MARK.match(line):
                marks.append(mark)
            elif line.strip():
                marks = []
            number += 1
            continue
        found, end = (fenced if fence else indented)(lines, number)
        block = Block(page, number + 1, kind_of(found, fence[2].strip() if fence else ""), found)
        for mark in marks:
            if mark["more"]:
                block.more[mark["what"]] = mark["more"]
            else:
                block.not_run[mark["start"] or ""] = mark["what"]
        marks, number = [], end
        yield block


def fenced(lines: list[str], start: int) -> tuple[list[str], int]:
    """(lines, where it goes on)."""
    fence = FENCE.match(lines[start])
    assert fence is not None
    end = next(n for n in range(start + 1, len(lines)) if lines[n].strip() == fence[1])
    return lines[start + 1 : end], end + 1


def indented(lines: list[str], start: int) -> tuple[list[str], int]:
    """The same without a fence."""
    end = start
    while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
        end += 1
    return [line[4:] for line in lines[start:end] if line.strip()], end


def kind_of(lines: list[str], language: str) -> str:
    """By the fence, or by what is in it."""
    if language:
        return "python" if language == "python" else "shell" if language in SHELL else "other"
    return "shell" if any(line.split()[:1] and line.split()[0] in PROGRAMS for line in lines) else "other"


def inline_commands(page: Path) -> list[str]:
    """Commands in the text, such as those of tables."""
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [match[1] for match in INLINE.finditer(text)]


def options_of(command: str) -> list[str]:
    """Those that are named in it: --data, -o."""
    words = shlex.split(command.replace("<", " ").replace(">", " "))
    return [word.partition("=")[0] for word in words if re.fullmatch(r"--?[A-Za-z][\w-]*(=.*)?", word)]
