"""miniImageNet-100 out of an ImageNet-1k folder: OUT/train and OUT/val, links with a labels.csv each.

The paper: 100 classes of 600 photos, 85 % to train on. It does not name them. `--classes FILE` takes a list, one
folder's name a line, such as the 100 of Vinyals et al. (2016) or Ravi & Larochelle (2017); without it they are drawn by
`--seed`, as the photos of each class are. All come from IMAGENET's own `train`, so that its `val` stays untouched.

A class keeps its number among all of ImageNet-1k's, by the order of the folders' names, which is that of the networks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from bottlenet.errors import BottleNetError, InputError
from bottlenet.photos.folders import SUFFIXES
from caltech101_photos import link

Labelled = list[tuple[Path, int]]


def chosen(folders: list[Path], arguments: argparse.Namespace) -> list[int]:
    """Positions of the classes in `folders`. InputError: a name that is not there, or too few."""
    if arguments.classes is None:
        if len(folders) < arguments.count:
            raise InputError(f"{arguments.imagenet}: {len(folders)} classes, fewer than {arguments.count}")
        drawn = np.random.default_rng(arguments.seed).permutation(len(folders))[: arguments.count]
        return sorted(drawn.tolist())
    number = {folder.name: position for position, folder in enumerate(folders)}
    names = Path(arguments.classes).read_text(encoding="utf-8").split()
    if unknown := [name for name in names if name not in number]:
        raise InputError(f"{arguments.classes}: {unknown[0]!r:.60} is no sub-folder of {arguments.imagenet}/train")
    return sorted({number[name] for name in names})


def divided(folder: Path, number: int, arguments: argparse.Namespace) -> tuple[Labelled, Labelled]:
    """One class's photos: to train on, and to be judged by. InputError: too few."""
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(photos) < arguments.photos:
        raise InputError(f"{folder}: {len(photos)} photos, fewer than {arguments.photos}; give --photos")
    order = np.random.default_rng((arguments.seed, number)).permutation(len(photos))[: arguments.photos].tolist()
    count = round(arguments.train_share * arguments.photos)
    labelled = [(photos[position], number) for position in order]
    return labelled[:count], labelled[count:]


def run(arguments: argparse.Namespace) -> None:
    """Draw, divide, link."""
    folders = sorted(path for path in (arguments.imagenet / "train").glob("*") if path.is_dir())
    if len(folders) != arguments.folders:
        raise InputError(
            f"{arguments.imagenet}/train has {len(folders)} sub-folders, not {arguments.folders}: a class's number is "
            "its place among all of the network's; give a whole ImageNet-1k, or --folders"
        )
    train: Labelled = []
    val: Labelled = []
    for number in chosen(folders, arguments):
        for part, photos in zip((train, val), divided(folders[number], number, arguments), strict=True):
            part += photos
    link(train, arguments.out / "train")
    link(val, arguments.out / "val")
    print(f"{len(train)} photos to train on, {len(val)} to be judged by: {arguments.out}")


def main() -> None:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("imagenet", type=Path, help="folder with train/, a sub-folder for each class")
    made.add_argument("out", type=Path)
    made.add_argument("--classes", type=Path, help="file of sub-folders' names; without it they are drawn")
    made.add_argument("--count", type=int, default=100, help="classes that are drawn")
    made.add_argument("--photos", type=int, default=600, help="of each class")
    made.add_argument("--train-share", type=float, default=0.85)
    made.add_argument("--folders", type=int, default=1000, help="sub-folders that train/ must have")
    made.add_argument("--seed", type=int, default=0)
    try:
        run(made.parse_args())
    except (BottleNetError, OSError) as error:
        made.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
