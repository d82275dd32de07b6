"""How much memory do evaluation, training and a device take, and how much disk does an installation?

Evaluation and training run over few and many photos: what they take must not depend on how many there are. The many
are links to the photos of one folder. Each job has a process of its own, whose peak of resident memory is read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from bottlenet.demo.run import PHOTOS as DEMO_PHOTOS
from bottlenet.errors import InputError
from bottlenet.photos.folders import list_photos
from record import Json, add_network, parser, run_script, show, write_record

JOBS = ("device", "evaluate", "train")
TARGET_BYTES = {"device": 150e6, "evaluate": 2e9, "train": 2e9, "install": 250e6}
LARGE_PHOTO = (4000, 3000)  # a telephone's
MEASURED = Path(__file__).with_name("memory_jobs.py")


def link_photos(source: str, folder: Path, count: int) -> str:
    """Fill a folder with `count` links to the photos of `source`, each in turn."""
    folder.mkdir()
    for number, photo in enumerate(islice(cycle(list_photos(source)), count)):
        (folder / f"{number:06}{photo.path.suffix}").symlink_to(photo.path.resolve())
    return str(folder)


def job(name: str, *arguments: str) -> dict[str, float]:
    """Run a job: resident_bytes at its end, peak_bytes, seconds. InputError: it failed, and said why."""
    done = subprocess.run(
        [sys.executable, str(MEASURED), name, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise InputError(f"the job {name!r} ended with {done.returncode}; its error is above")
    took: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return took


def measure_device(bundle: str, source: str, work: Path) -> list[dict[str, float]]:
    """Run a photo of the folder, and one of 12 megapixels."""
    first = list_photos(source)[0].path
    large = work / "large.jpg"
    with Image.open(first) as picture:
        size = picture.size
        picture.convert("RGB").resize(LARGE_PHOTO).save(large, quality=90)
    sizes = ((size, first), (LARGE_PHOTO, large))
    return [{"megapixels": w * h / 1e6, **job("device", bundle, str(path))} for (w, h), path in sizes]


def measure_many(name: str, arguments: argparse.Namespace, work: Path) -> list[dict[str, float]]:
    """Run `evaluate` or `train` for each number of photos."""
    took: list[dict[str, float]] = []
    for count in arguments.photos:
        with TemporaryDirectory(dir=work) as fresh:
            data = link_photos(arguments.data, Path(fresh, "photos"), count)
            if name == "evaluate":
                one = job(name, arguments.bundle, data)
            else:
                one = job(name, arguments.model, arguments.cut, data, fresh, str(arguments.train_steps))
        took.append({"photos": count, **one})
    return took


def measure_install(venv: Path) -> dict[str, Json]:
    """Measure a virtual environment on disk, and what is largest in it. InputError: it is none."""
    packages = [p for p in (*venv.glob("lib/python*/site-packages"), venv / "Lib" / "site-packages") if p.is_dir()]
    if not packages:
        raise InputError(f"{venv}: no site-packages in it; give the folder of a virtual environment")
    sizes = {entry.name: disk_bytes(entry) for entry in packages[0].iterdir()}
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:8]
    return {"bytes": disk_bytes(venv), "largest": {name: sizes[name] for name in largest}}


def disk_bytes(path: Path) -> int:
    """Add up bytes on disk, links not followed, a file with two names once."""
    found = {(s.st_dev, s.st_ino): s for s in (p.lstat() for p in (path, *path.rglob("*")))}
    return sum(s.st_blocks * 512 for s in found.values())


def rows_of(results: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """Make the table's rows, in MB."""
    rows = []
    for name, runs in results.items():
        for took in runs:
            over = f"{took['photos']:.0f} photos" if "photos" in took else f"1 photo, {took['megapixels']:.1f} MP"
            megabytes = [f"{took[kind] / 1e6:.0f}" for kind in ("resident_bytes", "peak_bytes")]
            rows.append([f"{name}, {over}", *megabytes, f"{TARGET_BYTES[name] / 1e6:.0f}", f"{took['seconds']:.0f}"])
    return rows


def met(name: str, runs: Sequence[dict[str, float]]) -> bool:
    """Compare with the target: the device's is for what stays resident, the others' for the peak."""
    kind = "resident_bytes" if name == "device" else "peak_bytes"
    return all(took[kind] < TARGET_BYTES[name] for took in runs)


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    took: dict[str, list[dict[str, float]]] = {}
    with TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        for name in arguments.jobs:
            if name == "device":
                took[name] = measure_device(arguments.bundle, arguments.data, work)
            else:
                took[name] = measure_many(name, arguments, work)
    show("memory, MB = 10**6 bytes", ["job", "resident at the end", "peak", "target", "seconds"], rows_of(took))
    results: dict[str, Json] = {
        name: {"runs": list(runs), "target_bytes": TARGET_BYTES[name], "met": met(name, runs)}
        for name, runs in took.items()
    }
    if arguments.venv:
        install = measure_install(arguments.venv)
        size = int(str(install["bytes"]))
        print(f"installation: {size / 1e6:.0f} MB on disk, target {TARGET_BYTES['install'] / 1e6:.0f}")
        results["install"] = {**install, "target_bytes": TARGET_BYTES["install"], "met": size < TARGET_BYTES["install"]}
    write_record("memory", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", default=str(DEMO_PHOTOS), help="folder of photos to take in turn; the demo photos")
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    add_network(made)  # for `train`
    made.add_argument("--photos", type=int, nargs="+", default=[1000, 20000], help="how many, for evaluate and train")
    made.add_argument("--train-steps", type=int, default=50, help="rounded up to what the loop reports")
    made.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    made.add_argument("--venv", type=Path, help="virtual environment whose size on disk is measured: the base install")
    made.add_argument("--work", type=Path, help="folder for links and feature cache: 1 GB for 20,000 photos")
    run_script(made, run)


if __name__ == "__main__":
    main()
