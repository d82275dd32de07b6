"""Photos through a bundle: what is sent for each, what is answered, and where the answer suffers most.

    photo --Encoder--> frame --Decoder--> scores      beside those of uncut.onnx
            `--> mosaic, as the server decodes it

How much an answer suffers: the probability that the uncut network gives its own answer, less what is left of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import PhotoError
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.crops import Damaged
from bottlenet.photos.folders import Photo, choose, photos_for
from bottlenet.report.markup import data_url, stretched
from bottlenet.report.sections import Picture, Section, Table
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.task import needs_one_label
from bottlenet.wire.frame import HEADER_BYTES, Frame

SHOWN, MOST_SHOWN = 8, 60  # photos in each of the two tables
LIMIT = 200  # photos among which the worst are looked for
SIDE = 112  # pixels of a photo in the report
MOST_PIXELS = 512  # along a side of a mosaic
QUALITY = 78
ANSWERS = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Looked:
    """One photo, without its pictures."""

    photo: Photo
    frame: Frame = field(repr=False)
    split: tuple[tuple[int, float], ...]  # (class, probability), best first
    uncut: tuple[tuple[int, float], ...]
    lost: float  # of the probability that the uncut network gives its answer; below 0: it grew

    @property
    def same(self) -> bool:
        """Whether both give the same answer."""
        return self.split[0][0] == self.uncut[0][0]


class Looker:
    """A bundle's two halves and the whole. InputError: it has no uncut.onnx, or no room for a budget."""

    def __init__(self, bundle: Bundle, budget_bytes: int | None) -> None:
        self.bundle = bundle
        frame_bytes = None if budget_bytes is None else budget_bytes + HEADER_BYTES
        self.encoder, self.decoder = Encoder(bundle, budget_bytes=frame_bytes), Decoder(bundle)
        self.uncut = open_uncut(bundle)

    def look(self, photo: Photo) -> Looked:
        """PhotoError: it can't be used. InputError: no frame of it fits the budget."""
        frame = self.encoder.encode(photo.path).frame
        split = shares(self.decoder.scores([frame]).scores[0])
        pixels = photo_to_pixels(photo.path, self.bundle.manifest.uncut_preprocess)
        uncut = shares(run_graph(self.uncut, pixels=pixels[None])[0])
        answer = int(uncut.argmax())
        return Looked(photo, frame, best(split), best(uncut), float(uncut[answer] - split[answer]))

    def row(self, looked: Looked) -> tuple[Picture | str | tuple[str, ...], ...]:
        """For a table."""
        name = looked.photo.path.name
        small = within(photo_to_pixels(looked.photo.path, self.bundle.manifest.uncut_preprocess), SIDE)
        mosaic = self.bundle.mosaic.tile(self.decoder.decode([looked.frame])[0])
        rows, columns = mosaic.shape
        scale = SIDE / max(rows, columns)
        label = looked.photo.label
        known = () if label is None else (f"labelled: {self.bundle.labels[label]}",)
        return (
            Picture(data_url(small, "JPEG", quality=QUALITY), f"The photo {name}", small.shape[1], small.shape[0]),
            (name, *known),
            Picture(
                data_url(within(stretched(mosaic), MOST_PIXELS), "PNG", optimize=True),
                f"What is sent for {name}: a grey mosaic of {columns} by {rows} pixels",
                *(max(1, round(columns * scale)), max(1, round(rows * scale)), True),
            ),
            f"{len(looked.frame.payload):,}",
            self.answers(looked.split),
            self.answers(looked.uncut),
            "same" if looked.same else "other",
        )

    def answers(self, top: Sequence[tuple[int, float]]) -> tuple[str, ...]:
        """In words."""
        return tuple(f"{self.bundle.labels[index]}, {share:.0%}" for index, share in top)


def within(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, 3) or (H, W), made smaller where a side is longer."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def shares(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits -> probabilities."""
    powers: NDArray[np.float64] = np.exp(scores.astype(np.float64) - scores.max())
    powers /= powers.sum()
    return powers


def best(probabilities: NDArray[np.float64]) -> tuple[tuple[int, float], ...]:
    """The first few."""
    order = np.argsort(-probabilities, kind="stable")[:ANSWERS]
    return tuple((int(index), float(probabilities[index])) for index in order)


def photo_sections(
    bundle: Bundle,
    data: str,
    *,
    shown: int = SHOWN,
    limit: int = LIMIT,
    budget_bytes: int | None = None,
    on_progress: Progress | None = None,
) -> tuple[Section, Section]:
    """Some photos, evenly spread over the folder; and those of `limit` that suffer most.

    InputError: as `measure.evaluate.evaluate`, or a bundle without its uncut network.
    """
    needs_one_label(bundle.manifest.task, "`bottlenet report`")
    looker = Looker(bundle, budget_bytes)
    photos = photos_for(bundle, data, limit)
    damaged = Damaged(len(photos))
    spread = {photo.path for photo in choose(photos, min(shown, len(photos)))}
    some: list[Looked] = []
    worst: list[tuple[float, int, Looked]] = []
    same = count = 0
    for number, photo in enumerate(photos):
        try:
            looked = looker.look(photo)
        except PhotoError as error:
            damaged.add(photo.path, error)
            continue
        count, same = count + 1, same + looked.same
        if photo.path in spread:
            some.append(looked)
        heapq.heappush(worst, (looked.lost, -number, looked))
        if len(worst) > shown:
            heapq.heappop(worst)
        if on_progress is not None:
            on_progress(number + 1, len(photos))
    failures = [each for lost, _, each in sorted(worst, reverse=True) if lost > 0 and not each.same]
    of = f"{same:,} of {count:,} photos get the uncut network's answer"
    return table_section(looker, some, of), failure_section(looker, failures, of)


COLUMNS = ("photo", "file", "what is sent", "bytes", "split", "uncut", "answers")


def table_section(looker: Looker, some: Sequence[Looked], of: str) -> Section:
    """With pictures."""
    manifest = looker.bundle.manifest
    caption = f"Bundle {manifest.name} ({looker.bundle.id.hex()[:12]}), cut at {manifest.cut}; {of}"
    table = Table(caption, COLUMNS, tuple(looker.row(each) for each in some), numeric=False)
    intro = (
        "The photo stays on the device. What is sent is drawn as one grey picture, a tile a channel, as the server "
        "decodes it, its contrast stretched. This is no measure of privacy."
    )
    return Section("photos", "Photos, what is sent of them, and the answers", intro, tables=(table,))


def failure_section(looker: Looker, failures: Sequence[Looked], of: str) -> Section:
    """Worst first."""
    columns = (*COLUMNS[:-1], "lost")
    rows = tuple((*looker.row(each)[:-1], f"{100 * each.lost:.0f} points") for each in failures)
    intro = (
        "Photos with another answer than the uncut network's, worst first: most of its answer's probability is lost."
    )
    tables = (Table(f"Worst first; {of}", columns, rows, numeric=False),) if rows else ()
    return Section("failures", "The worst failures", intro, tables=tables)
