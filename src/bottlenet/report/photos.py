"""Show photos through a bundle: what is sent for each, what is answered, and where the answer suffers most.

    photo --Deployment.compare--> frame, scores      beside those of the uncut network
                      `--> mosaic, as the server decodes it

How much an answer suffers: the probability that the uncut network gives its own answer, less what is left of it.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.measure.evaluate import Comparison, Deployment, Progress
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.crops import Damaged
from bottlenet.photos.folders import Photo, choose, photos_for
from bottlenet.report.sections import Cell, Picture, Section, Table, data_url, stretched
from bottlenet.runtime import open_uncut
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import best
from bottlenet.wire.frame import Frame

SHOWN, MOST_SHOWN = 8, 60  # photos in each of the two tables
LIMIT = 200  # photos among which the worst are looked for
SIDE = 112  # pixels of a photo in the report
MOST_PIXELS = 512  # along a side of a mosaic
QUALITY = 78
ANSWERS = 3
COLUMNS = ("photo", "file", "what is sent", "bytes", "split", "uncut", "answers")


@dataclass(frozen=True)
class PhotoWish:
    """Whose photos are shown. InputError: a number out of range."""

    bundle: Bundle
    data: str
    shown: int = SHOWN
    limit: int = LIMIT
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.shown <= MOST_SHOWN:
            raise InputError(f"photos is {self.shown}; give 1 to {MOST_SHOWN}")
        if self.limit < self.shown:
            raise InputError(f"limit is {self.limit}; give at least the {self.shown} photos that are shown")


@dataclass(frozen=True)
class Answered:
    """One photo with both answers, without its pictures."""

    photo: Photo
    frame: Frame | None = field(repr=False)  # None: the device answered by itself
    split: tuple[tuple[int, float], ...]  # (class, probability), best first
    uncut: tuple[tuple[int, float], ...]
    lost: float  # of the probability that the uncut network gives its answer; below 0: it grew

    @property
    def same(self) -> bool:
        return self.split[0][0] == self.uncut[0][0]


def photo_sections(wish: PhotoWish, on_progress: Progress = lambda done, total: None) -> tuple[Section, Section]:
    """Show photos spread over the folder, and those of `limit` that suffer most. InputError: as `evaluate`."""
    bundle = wish.bundle
    needs_one_label(bundle.manifest.task, "`bottlenet report`")
    if bundle.uncut_path is None:
        open_uncut(bundle)  # says what to do
    deployment = Deployment(bundle, budget=wish.budget_bytes)
    photos = photos_for(bundle, wish.data, wish.limit)
    spread = {photo.path for photo in choose(photos, min(wish.shown, len(photos)))}
    some: list[Answered] = []
    worst: list[tuple[float, int, Answered]] = []
    same = count = 0
    for each in deployment.compare(photos, Damaged(len(photos)), on_progress):
        answered = answered_of(photos[each.position], each)
        count, same = count + 1, same + answered.same
        if answered.photo.path in spread:
            some.append(answered)
        heapq.heappush(worst, (answered.lost, -each.position, answered))
        if len(worst) > wish.shown:
            heapq.heappop(worst)
    failures = [each for lost, _, each in sorted(worst, reverse=True) if lost > 0 and not each.same]
    counted = f"{same:,} of {count:,} photos get the uncut network's answer"
    return table_section(deployment, some, counted), failure_section(deployment, failures, counted)


def answered_of(photo: Photo, compared: Comparison) -> Answered:
    """Turn scores into answers, and say how much the uncut network's answer suffers."""
    assert compared.uncut is not None
    split, uncut = best(compared.scores), best(compared.uncut)
    answer, probability = uncut[0]
    left = np.exp(compared.scores.astype(np.float64) - compared.scores.max())
    lost = probability - float(left[answer] / left.sum())
    return Answered(photo, compared.frame, split[:ANSWERS], uncut[:ANSWERS], lost)


def table_section(deployment: Deployment, some: Sequence[Answered], counted: str) -> Section:
    bundle = deployment.bundle
    caption = f"Bundle {bundle.manifest.name} ({bundle.id.hex()[:12]}), cut at {bundle.manifest.cut}; {counted}"
    table = Table(caption, COLUMNS, tuple(row(deployment, each) for each in some), numeric=False)
    intro = (
        "The photo stays on the device. What is sent is drawn as one grey picture, a tile a channel, as the server "
        "decodes it, its contrast stretched. This is no measure of privacy."
    )
    return Section("photos", "Photos, what is sent of them, and the answers", intro, tables=(table,))


def failure_section(deployment: Deployment, failures: Sequence[Answered], counted: str) -> Section:
    columns = (*COLUMNS[:-1], "lost")
    rows = tuple((*row(deployment, each)[:-1], f"{100 * each.lost:.0f} points") for each in failures)
    intro = "Photos with another answer than the uncut network's; first those whose answer lost most probability."
    tables = (Table(f"Worst first; {counted}", columns, rows, numeric=False),) if rows else ()
    return Section("failures", "The worst failures", intro, tables=tables)


def row(deployment: Deployment, answered: Answered) -> tuple[Cell, ...]:
    bundle, frame, path, label = deployment.bundle, answered.frame, answered.photo.path, answered.photo.label
    small = within(photo_to_pixels(path, bundle.manifest.uncut_preprocess), SIDE)
    known = () if label is None else (f"labelled: {bundle.labels[label]}",)
    answers = (answered.split, answered.uncut)
    return (
        Picture(data_url(small, "JPEG", quality=QUALITY), f"The photo {path.name}", small.shape[1], small.shape[0]),
        (path.name, *known),
        "nothing: the device was sure" if frame is None else mosaic_picture(deployment, frame, path.name),
        "0" if frame is None else f"{len(frame.payload):,}",
        *(tuple(f"{bundle.labels[index]}, {share:.0%}" for index, share in top) for top in answers),
        "same" if answered.same else "other",
    )


def mosaic_picture(deployment: Deployment, frame: Frame, name: str) -> Picture:
    """Draw what the server decodes from a frame."""
    mosaic = deployment.bundle.mosaic.tile(deployment.decoder.decode(frame))
    rows, columns = mosaic.shape
    scale = SIDE / max(rows, columns)
    return Picture(
        data_url(within(stretched(mosaic), MOST_PIXELS), "PNG", optimize=True),
        f"What is sent for {name}: a grey mosaic of {columns} by {rows} pixels",
        *(max(1, round(columns * scale)), max(1, round(rows * scale)), True),
    )


def within(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Make (H, W, 3) or (H, W) smaller where a side is longer."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)
