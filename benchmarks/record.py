"""What every benchmark shares: a JSON file with the command, commit and machine beside the numbers, and a table.

Records are committed and published, so they say what kind of machine it was and never which one: no host name, and of
a folder outside the current one only its name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bottlenet.errors import BottleNetError
from bottlenet.records import without_root

if TYPE_CHECKING:
    from bottlenet.report.charts import Drawing

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    "bottlenet",
    "numpy",
    "onnxruntime",
    "pillow",
    "ray",
    "simplejpeg",
    "torch",
    "torchvision",
    "timm",
    "transformers",
)

Json = None | bool | int | float | str | Sequence["Json"] | dict[str, "Json"]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the one option that all scripts have."""
    made = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    made.add_argument("--out", type=Path, default=RESULTS, help="folder for the record; results/ beside this script")
    return made


def add_network(made: argparse.ArgumentParser) -> None:
    """Add options for a classifier and its cut: those of the shipped bundle, unless others are given."""
    made.add_argument("--model", default="efficientnet_lite0", help="efficientnet_lite0, or package.module:function")
    made.add_argument("--cut", default="blocks.8", help="a name from `bottlenet cuts`")


def run_script(made: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """Run with what was typed. An error that the user can mend is one line, and exit code 2."""
    try:
        run(made.parse_args())
    except BottleNetError as error:
        made.exit(2, f"error: {error}\n")


def write_record(name: str, results: Json, folder: Path) -> Path:
    """Write `folder`/`name`.json, whole or not at all, and say so."""
    record: Json = {
        "command": command(sys.argv),
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "results": results,
    }
    path = folder / f"{name}.json"
    write_whole(path, json.dumps(record, indent=2, allow_nan=False).encode() + b"\n")
    Console(stderr=True).print(f"written: {path.name}", highlight=False)
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write into a file beside `path`, which then takes its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_drawing(path: Path, *drawings: Drawing) -> None:
    """Write charts, one below the other, as a file of its own, which says what drew it."""
    whole, *more = drawings
    for each in more:
        body = [*whole.body, f'<g transform="translate(0 {whole.height:g})">', *each.body, "</g>"]
        words = f"{whole.description} {each.description}"
        whole = replace(whole, description=words, height=whole.height + each.height, body=body)
    mark = f"<!-- drawn by benchmarks/{Path(sys.argv[0]).name} -->"
    write_whole(path, whole.document(mark.encode()).encode())


def command(arguments: Sequence[str]) -> str:
    """Return what was typed; of a path that starts at the root, or at home, only its last part."""
    return shlex.join(["python", f"benchmarks/{Path(arguments[0]).name}", *(without_root(a) for a in arguments[1:])])


def commit() -> str:
    """Return the commit, with "-dirty" where the work tree differs, results aside; "unknown" outside git."""
    root = Path(__file__).parent.parent
    head = git(root, "rev-parse", "--verify", "HEAD")
    if head is None:
        return "unknown"
    changed = git(root, "status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return head + ("-dirty" if changed else "")


def git(root: Path, *arguments: str) -> str | None:
    """Return what git prints; None where there is no git or it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, Json]:
    """Describe the kind of machine, and the libraries that did the work."""
    from bottlenet.measure.profile import cpu_model

    versions: dict[str, Json] = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": versions,
    }


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    console = Console()
    console.print(title, highlight=False)
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
