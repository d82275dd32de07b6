"""Compiles src/bottlenet/wire/entropy.c, for wheels and editable installs; where that fails, the install goes on.

Any C compiler will do, `cc` or what $CC says: the file needs neither Python's headers nor any library, so the wheel is
for one platform and every Python. Without a compiler the wheel is for all platforms, and Python does the same work.

    python hatch_build.py       compiles it in place
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    BuildHookInterface = object

SOURCE = Path(__file__).parent / "src" / "bottlenet" / "wire" / "entropy.c"
BUILT = SOURCE.with_name("_entropy.so")


def compile_library(source: Path = SOURCE, built: Path = BUILT) -> str | None:
    """Compile, and say in one line what went wrong, if anything did."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    fresh = built.with_suffix(f".{os.getpid()}")  # programs may have the old one open
    command = [*shlex.split(os.environ.get("CC") or "cc"), "-O2", "-shared", "-fPIC", f'-DSOURCE_SHA256="{digest}"']
    try:
        subprocess.run(
            [*command, "-o", str(fresh), str(source)], check=True, capture_output=True, text=True, timeout=120
        )
        fresh.replace(built)
    except (OSError, subprocess.SubprocessError) as error:
        built.unlink(missing_ok=True)
        output = getattr(error, "stderr", None) or str(error)
        return " ".join(output.split())[:200]
    finally:
        fresh.unlink(missing_ok=True)
    return None


class EntropyLibrary(BuildHookInterface):  # type: ignore[misc]
    """The hook that pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are gathered."""
        if failed := compile_library():
            self.app.display_warning(f"The codec is not compiled, and runs in Python: {failed}")
            return
        build_data["artifacts"].append("src/bottlenet/wire/_entropy.so")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


if __name__ == "__main__":
    raise SystemExit(compile_library())
