"""Writes what the Docker images install, to the byte: python3.11 deploy/lock.py

    pyproject.toml + constraints.txt -> pip, for each machine -> device.txt, server.txt, ray.txt

A lock names the packages of one image with the SHA-256 of the wheel that pip chooses on each machine, and pip installs
no other. hatchling is in it, which builds BottleNet itself. Run this after a change of either file, with the images'
Python.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import tomllib

IMAGES = {"device": "mqtt", "server": "cloud,mqtt", "ray": "ray"}  # and BottleNet's extras in each
MACHINES = ("x86_64", "aarch64")
GLIBC = 36  # 2.36 of Debian 12; wheels for an older one run there, too
ROOT = Path(__file__).parent.parent
HEAD = "# Written by deploy/lock.py; don't edit it.\n"


def main() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for image, extras in IMAGES.items():
        wheels: dict[str, dict[str, str]] = defaultdict(dict)  # package==version -> machine -> SHA-256
        for machine in MACHINES:
            for package, digest in resolve([f".[{extras}]", *build], machine):
                wheels[package][machine] = digest
        text = HEAD + "".join(entry(package, wheels[package]) for package in sorted(wheels))
        (ROOT / "deploy" / f"{image}.txt").write_text(text)


def resolve(requirements: list[str], machine: str) -> list[tuple[str, str]]:
    """Let pip choose the wheels for a machine: package==version, and the SHA-256 in hex."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)]
    platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
        command += [f"--platform={platform}" for platform in [*platforms, f"linux_{machine}"]]
        command += ["--constraint", "constraints.txt", "--target", folder, "--report", f"{folder}/report.json"]
        subprocess.run([*command, *requirements], cwd=ROOT, check=True)
        report = json.loads(Path(folder, "report.json").read_text())
    return [
        (f"{normal(each['metadata']['name'])}=={each['metadata']['version']}", archive["hashes"]["sha256"])
        for each in report["install"]
        if (archive := each["download_info"].get("archive_info"))  # BottleNet has none, as a folder
    ]


def normal(name: str) -> str:
    """Spell a package as constraints.txt does (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entry(package: str, wheels: dict[str, str]) -> str:
    """Write the lines of one package."""
    where = "" if len(wheels) == len(MACHINES) else f' ; platform_machine == "{next(iter(wheels))}"'
    digests = sorted(set(wheels.values()))
    return package + where + "".join(f" \\\n    --hash=sha256:{digest}" for digest in digests) + "\n"


if __name__ == "__main__":
    main()
