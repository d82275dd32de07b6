"""Which photos an attacker learns from, and which it has to rebuild: never the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.lab.crops import is_held_out
from bottlenet.lab.data import Photo, list_photos
from bottlenet.lab.evaluate import check_labels, choose
from bottlenet.lab.privacy.config import PrivacyConfig

FEWEST = 8  # photos to learn from


@dataclass(frozen=True)
class Divided:
    """Both lists, and how many of `data` were left out as they are to be rebuilt, too."""

    train: Sequence[Photo]
    test: Sequence[Photo]
    left_out: int


def divided(bundle: Bundle, config: PrivacyConfig) -> Divided:
    """By `config.test`, or else by what is held out of `config.data`. A photo is known again by what is in its file.

    InputError: a folder that can't be used, or too few photos on one side.
    """
    known = dict.fromkeys(photo for folder in config.data for photo in labelled(bundle, folder))
    photos = list(choose(list(known), config.photos or None))
    if config.test:
        test = choose(labelled(bundle, config.test), config.limit)
        train = photos
    else:
        test = choose([photo for photo in photos if is_held_out(photo, config.held_out)], config.limit)
        train = [photo for photo in photos if not is_held_out(photo, config.held_out)]
    rebuilt = {content(photo) for photo in test}
    kept = [photo for photo in train if content(photo) not in rebuilt]
    where = ", ".join(config.data)
    if len(kept) < FEWEST:
        raise InputError(f"{where}: {len(kept)} photos to learn from that are not to be rebuilt; give {FEWEST} or more")
    if len(test) < 2:
        raise InputError(f"{config.test or where}: {len(test)} photos to rebuild; give 2 or more")
    return Divided(kept, test, len(train) - len(kept))


def labelled(bundle: Bundle, folder: str) -> Sequence[Photo]:
    """The photos of a folder, without labels where these are not the bundle's classes."""
    return check_labels(list_photos(folder), bundle, folder)


def content(photo: Photo) -> str:
    """Of the file. InputError: it can't be read."""
    try:
        return hashlib.sha256(photo.path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{photo.path}: it can't be read; remove it, or mend it") from error
