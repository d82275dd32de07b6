"""Fetches onnxruntime-web, in which the page runs the head, from npm: one version, checked byte for byte.

    python -m bottlenet.cloud.vendor        into page/vendor/ beside this file; `make page` does this

It is not in the repository: 14 MB of WebAssembly. Wheels that are built afterwards have it inside. Needs npm, which
knows the registry; nothing of the package is run.
"""

import base64
import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bottlenet.errors import BottleNetError, InputError
from bottlenet.files import write_whole

FOLDER = Path(__file__).parent / "page" / "vendor"
COMMAND = "python -m bottlenet.cloud.vendor"
PACKED = ".gz"  # browsers take a quarter of the bytes, and unpack them themselves
FETCH_S = 600


@dataclass(frozen=True)
class Package:
    """One version of an npm package, and which of its files are wanted."""

    name: str
    version: str
    sha512: str  # of the package, in base64, as npm lists it
    files: Mapping[str, str] = field(repr=False)  # path in it -> name here; with PACKED at its end gzip goes over it


RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    {
        "package/dist/ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.mjs",
        "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm.gz",
    },
)


def fetch(package: Package, folder: Path) -> None:
    """Put its files into `folder`, each whole. InputError: no npm, it fails, or it fetches another package."""
    spec = f"{package.name}@{package.version}"
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", spec, "--ignore-scripts", "--silent", "--pack-destination", scratch]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False, cwd=scratch)
        except FileNotFoundError:
            raise InputError(f"npm is not installed, and fetches {spec}; install Node.js, which brings it") from None
        except subprocess.TimeoutExpired:
            raise InputError(f"npm did not fetch {spec} within {FETCH_S} s; try again") from None
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            why = " ".join(done.stderr.split())[-200:] or f"exit code {done.returncode}"
            raise InputError(f"npm can't fetch {spec} ({why}); look at its settings and the network")
        digest = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if digest != package.sha512:
            raise InputError(f"{spec} has the SHA-512 {digest}, not {package.sha512}: it is another package; use none")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for path, name in package.files.items():
                file = archive.extractfile(path)
                assert file is not None, path  # the digest was right, so it is there
                data = file.read()
                write_whole(folder / name, gzip.compress(data, mtime=0) if name.endswith(PACKED) else data)


def installed(package: Package, folder: Path = FOLDER) -> bool:
    """Tell whether all its files are there, as they are in a wheel that was built after they were fetched."""
    return all((folder / name).is_file() for name in package.files.values())


def main() -> None:
    try:
        fetch(RUNTIME, FOLDER)
    except BottleNetError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: can't write {error.filename}: {error.strerror}")
    print(f"{RUNTIME.name} {RUNTIME.version} is in {FOLDER}")


if __name__ == "__main__":
    main()
