"""A handful of photos laid out as ImageNet-1k is: FOLDER/train and FOLDER/val, sub-folders that are classes.

The photos are the ten of the demo, each under two names. Of the labels nothing is true. Two folders are not as many
as a network has classes, so a labels.csv says which they are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from bottlenet.demo.run import shipped_photos
from bottlenet.photos.folders import LABELS_CSV

CLASSES = ("n00000001", "n00000002")


def main() -> None:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("folder", type=Path)
    folder = made.parse_args().folder
    for part in ("train", "val"):
        for number, photo in enumerate(shipped_photos()):
            for label in CLASSES:
                path = folder / part / label / f"{label}_{part}_{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(photo, path)
        files = sorted((folder / part).glob("*/*"))
        rows = [f"{path.parent.name}/{path.name},{CLASSES.index(path.parent.name)}" for path in files]
        (folder / part / LABELS_CSV).write_text("\n".join(["file,class_index", *rows, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
