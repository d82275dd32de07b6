"""Make the reference: every public name of the package with its docstring, read from the source and never imported.

Docstrings are sentences, drawings and tables, and are shown as that; of a dataclass, its fields with their comments.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "bottlenet"
SOURCE = f"src/{PACKAGE}/"
# One page each, in the order in which a photo walks through them; "" has the modules at the top.
PARTS = {
    "": "What both sides hold",
    "wire": "What crosses the network",
    "edge": "On the device",
    "cloud": "On the server",
    "plan": "Which partition is best",
    "net": "The network that is cut",
    "photos": "Photos on disk",
    "train": "Training",
    "measure": "Measuring",
    "privacy": "An attacker",
    "report": "Reports",
}
SPECIAL = re.compile(r"[\\*_\[\]<>#|{}&]")  # of Markdown
FENCE = "`" * 4
MOST_LINES = 40  # of a class's fields


def pages(package: Path) -> dict[str, str]:
    """Write the Markdown of each page."""
    made = {}
    for part, title in PARTS.items():
        folder = package / part
        files = sorted(folder.glob("*.py") if not part else folder.rglob("*.py"))
        modules = [module for file in files if (module := of_module(file, package))]
        made[page_of(part)] = f"# {title}\n\n" + "\n\n".join(modules) + "\n"
    return made


def page_of(part: str) -> str:
    return f"reference/{part or PACKAGE}.md"


def part_of(target: str) -> tuple[str, str] | None:
    """Find the page and anchor of a module of the package, or None for any other file."""
    if not target.startswith(SOURCE) or not target.endswith(".py"):
        return None
    folders = target.removeprefix(SOURCE).split("/")[:-1]
    part = folders[0] if folders else ""
    return (page_of(part), dotted(target.removeprefix(SOURCE))) if part in PARTS else None


def dotted(path: str) -> str:
    """Turn edge/client.py into bottlenet.edge.client."""
    return ".".join([PACKAGE, *path.removesuffix(".py").removesuffix("__init__").strip("/").split("/")]).strip(".")


def of_module(file: Path, package: Path) -> str | None:
    """Describe a module; None if it is private."""
    name = dotted(file.relative_to(package).as_posix())
    if file.name == "__main__.py":
        return None
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    parts = [f"## {name} {{ #{name} }}", docstring(tree)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and is_public(node.name):
            parts += of_definition(node, name, source.splitlines())
    return "\n\n".join(part for part in parts if part)


def is_public(name: str) -> bool:
    return not name.startswith("_")


def of_definition(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, inside: str, lines: list[str]
) -> Iterator[str]:
    """Describe a class with its fields and methods, or a function."""
    name = f"{inside}.{node.name}"
    yield f"### {node.name} {{ #{name} }}"
    if not isinstance(node, ast.ClassDef):
        yield fenced(signature(node), "python")
        yield docstring(node)
        return
    yield fenced("\n".join(class_lines(node, lines)), "python")
    yield docstring(node)
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(method.name):
            yield f"#### {node.name}.{method.name} {{ #{name}.{method.name} }}"
            yield fenced(signature(method), "python")
            yield docstring(method)


def class_lines(node: ast.ClassDef, lines: list[str]) -> Iterator[str]:
    """Give decorators, bases, constructor, and fields as they are in the source."""
    yield from (f"@{ast.unparse(decorator)}" for decorator in node.decorator_list)
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    body = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_public(item.target.id):
            body += lines[item.lineno - 1 : item.end_lineno]
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            body += [f"    {line}" for line in signature(item).splitlines()]
    yield from body[:MOST_LINES] or ["    ..."]


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Write a signature on one line, or each argument on its own."""
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    whole = f"{start} {node.name}({ast.unparse(node.args)}){returns}"
    decorators = "".join(f"@{ast.unparse(each)}\n" for each in node.decorator_list)
    if len(whole) <= 100:
        return decorators + whole
    arguments = "".join(f"    {each},\n" for each in split_arguments(node.args))
    return f"{decorators}{start} {node.name}(\n{arguments}){returns}"


def split_arguments(arguments: ast.arguments) -> list[str]:
    """Write each argument; none of ours are positional only."""
    required = len(arguments.args) - len(arguments.defaults)
    words = [
        argument(each, arguments.defaults[number - required] if number >= required else None)
        for number, each in enumerate(arguments.args)
    ]
    if arguments.vararg or arguments.kwonlyargs:
        words.append(f"*{argument(arguments.vararg, None)}" if arguments.vararg else "*")
    words += map(argument, arguments.kwonlyargs, arguments.kw_defaults)
    return [*words, f"**{argument(arguments.kwarg, None)}"] if arguments.kwarg else words


def argument(each: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(each) + (f" = {ast.unparse(default)}" if default is not None else "")


def docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Give sentences as text, drawings and tables as they are drawn."""
    blocks: list[str] = []
    for block in (ast.get_docstring(node) or "").split("\n\n"):
        drawn = any(line.startswith("    ") or "   " in line or "-->" in line for line in block.splitlines())
        if drawn and blocks and blocks[-1].startswith(FENCE):  # one drawing with a gap in it
            blocks[-1] = blocks[-1].removesuffix(FENCE) + f"\n{block}\n{FENCE}"
        else:
            blocks.append(fenced(block, "text") if drawn else sentences(block))
    return "\n\n".join(blocks)


def sentences(block: str) -> str:
    """Escape text for Markdown, except code in backticks."""
    parts = re.split(r"(`[^`]+`)", block)
    return "".join(part if part.startswith("`") else SPECIAL.sub(r"\\\g<0>", part) for part in parts)


def fenced(content: str, language: str) -> str:
    return f"{FENCE}{language}\n{content}\n{FENCE}"
