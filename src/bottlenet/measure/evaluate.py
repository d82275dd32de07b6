"""How good a bundle is and what it costs, on a folder of photos, beside the uncut network on the same photos.

    photo ----Encoder------> frame bytes --parse_frame, Decoder--> scores      counted and compared
      `---photo_to_pixels--> pixels -----------uncut.onnx--------> scores

What is measured is what is deployed: the device's encoder, a frame as it goes over the network, the server's decoder.
No torch. One batch of photos is in memory at a time, however many there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import BottleNetError, InputError, PhotoError
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.crops import Damaged
from bottlenet.photos.folders import (
    Photo,
    photos_for,
)
from bottlenet.records import Sizes, percent, sizes
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, parse_frame

BATCH = 8  # photos that the server's half takes at once; more is no faster on a CPU

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called after each batch with (photos done, photos in all)."""


@dataclass(frozen=True)
class Evaluation:
    """Rates in percent, 0..100; None where the folder has no labels, or the bundle no uncut network."""

    top1: float | None
    top5: float | None
    agreement: float | None  # photos to which the uncut network gives the same answer, labelled or not
    top1_uncut: float | None
    top1_drop: float | None  # points: top1_uncut - top1
    payload_bytes: Sizes
    frame_bytes: Sizes  # self-contained frames
    head_flops_share: float  # share of the network's FLOPs that the device runs, 0..1
    photos: int  # that were evaluated
    labelled: int  # of them; the rest counts for agreement and bytes only
    skipped: int  # damaged; the log names them


@dataclass(frozen=True)
class Outcome:
    """What came out for some photos."""

    labels: NDArray[np.int64]  # (B,); -1: not known
    best: NDArray[np.int64]  # (B, 5 or fewer) class indices, best first
    uncut: NDArray[np.int64] | None  # (B,) the uncut network's answer
    payload_bytes: NDArray[np.int64]  # (B,)
    frame_bytes: NDArray[np.int64]  # (B,)


class Deployed:
    """Both halves of a bundle and, where it has it, the whole."""

    def __init__(self, bundle: Bundle, threads: int, budget: int | None = None) -> None:
        self.bundle = bundle
        self.encoder = Encoder(bundle, threads, budget_bytes=None if budget is None else budget + HEADER_BYTES)
        self.decoder = Decoder(bundle, threads)
        self.uncut = open_uncut(bundle, threads) if bundle.uncut_path is not None else None

    def run(self, photos: Sequence[Photo], damaged: Damaged) -> Outcome | None:
        """The photos of one batch; None where all of them are damaged."""
        labels: list[int] = []
        sent: list[bytes] = []
        pixels: list[NDArray[np.uint8]] = []
        for photo in photos:
            try:
                frame = self.encoder.encode(photo.path, sequence=len(sent)).frame
                if self.uncut is not None:
                    pixels.append(photo_to_pixels(photo.path, self.bundle.manifest.uncut_preprocess))
            except PhotoError as error:
                damaged.add(photo.path, error)
                continue
            sent.append(frame.to_bytes())
            labels.append(-1 if photo.label is None else photo.label)
        if not sent:
            return None
        frames = [parse_frame(data, max_payload_bytes=MAX_PAYLOAD_BYTES, bundle_tag=self.bundle.tag) for data in sent]
        best = np.array([self._top(answer) for answer in self.decoder.answers(frames)])
        uncut = None if self.uncut is None else run_graph(self.uncut, pixels=np.stack(pixels)).argmax(1)
        return Outcome(
            np.array(labels),
            best,
            uncut,
            np.array([len(frame.payload) for frame in frames]),
            np.array([len(data) for data in sent]),
        )

    @staticmethod
    def _top(answer: Answer | BottleNetError) -> list[int]:
        if isinstance(answer, BottleNetError):
            raise answer  # a server would go on; a bundle that can't decode its own frames has no accuracy
        return [class_index for class_index, _ in answer.top]


def evaluate(
    bundle: Bundle,
    data: str | Path,
    *,
    limit: int | None = None,
    budget: int | None = None,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Runs every photo below the folder `data` through `bundle`, or `limit` of them, evenly spread over the folder.

    With `budget` no payload has more bytes than that. `data` is a folder as `photos.folders` has it. Damaged photos
    are skipped, counted and named in the log.

    InputError: no classifier, no such folder or nothing in it, a label that is none of the bundle's classes, a limit
    below 1, more than 1 % of the photos are damaged, or a photo whose smallest payload is above the budget.
    BundleError: a graph that can't be loaded or run.
    """
    needs_one_label(bundle.manifest.task, "`bottlenet evaluate`")
    photos = photos_for(bundle, data, limit)
    split = Deployed(bundle, threads, budget)
    damaged = Damaged(len(photos))
    batches: list[Outcome] = []
    for done, batch in batched(photos):
        out = split.run(batch, damaged)
        if out is not None:
            batches.append(out)
        if on_progress is not None:
            on_progress(done, len(photos))
    return summarise(batches, bundle.manifest.head_flops_share, skipped=len(damaged.paths))


def batched(photos: Sequence[Photo]) -> Iterator[tuple[int, Sequence[Photo]]]:
    """(photos done after this batch, the batch)."""
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        yield start + len(batch), batch


def summarise(batches: Sequence[Outcome], head_flops_share: float, *, skipped: int) -> Evaluation:
    """All batches -> rates and sizes. InputError: there is nothing to summarise."""
    if not batches:
        raise InputError("no photo could be read, so there is nothing to report; give a folder of photos")
    labels = np.concatenate([batch.labels for batch in batches])
    best = np.concatenate([batch.best for batch in batches])
    uncut = np.concatenate([batch.uncut for batch in batches if batch.uncut is not None] or [np.empty(0, np.int64)])
    known = labels >= 0
    hits = best == labels[:, None]
    top1 = percent(hits[known, 0])
    top1_uncut = percent((uncut == labels)[known]) if len(uncut) else None
    return Evaluation(
        top1=top1,
        top5=percent(hits[known].any(1)),
        agreement=percent(best[:, 0] == uncut) if len(uncut) else None,
        top1_uncut=top1_uncut,
        top1_drop=None if top1 is None or top1_uncut is None else top1_uncut - top1,
        payload_bytes=sizes(np.concatenate([batch.payload_bytes for batch in batches])),
        frame_bytes=sizes(np.concatenate([batch.frame_bytes for batch in batches])),
        head_flops_share=head_flops_share,
        photos=len(labels),
        labelled=int(known.sum()),
        skipped=skipped,
    )
