"""A handful of photos laid out as ImageNet-1k is: FOLDER/train and FOLDER/val, sub-folders that are classes.

The photos are the ten of the demo, each under two names. Of the labels nothing is true.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from bottlenet.demo.run import shipped_photos

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


if __name__ == "__main__":
    main()
