"""Measure accuracy and bytes of a bundle on a folder of photos, beside the uncut network on the same photos.

    photo ----Encoder------> frame --bytes--> parse_frame, Decoder--> scores      compared and counted
      |        `-----------> answer, where the bundle has an exit that is sure
      `---photo_to_pixels--> pixels -----------uncut.onnx-----------> scores

What is measured is what is deployed: the device's encoder, a frame as it goes over the network, the server's decoder.
No torch. One batch of photos is in memory at a time, however many there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import InputError
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.crops import Damaged
from bottlenet.photos.folders import Photo, label_array, photos_for
from bottlenet.records import Sizes, percent, sizes
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.task import Classification, needs_one_label, same_answers
from bottlenet.wire.answer import Answer, best
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES, Frame, parse_frame

UNLIKELY = -1000.0  # logit of a class that an answer does not name: less than of any that it does
LEAST = 1e-300  # share of one that it does
BATCH = 8  # photos that both networks take at once; more is no faster on a CPU

Array = NDArray[np.int64]
Progress = Callable[[int, int], None]  # called after each batch with (photos done, photos in all)
Prepared = tuple[int, Frame | Answer, NDArray[np.uint8] | None]  # position, frame or own answer, pixels for the uncut


@dataclass(frozen=True)
class Evaluation:
    """Rates in percent, 0..100; None where the folder has no labels, or the bundle no uncut network."""

    top1: float | None
    top5: float | None
    # photos to which the uncut network gives the same answer, labelled or not; or the same cells of maps, and boxes
    agreement: float | None
    top1_uncut: float | None
    top1_drop: float | None  # points: top1_uncut - top1
    payload_bytes: Sizes  # of the photos that are sent; zeros where none is
    frame_bytes: Sizes  # self-contained frames; the same
    head_flops_share: float  # the device's FLOPs for a photo that is sent, as a share of the network's, 0 or more
    photos: int  # that were evaluated
    labelled: int  # of them; the rest counts for agreement and bytes only
    skipped: int  # damaged; the log names them
    # The rest is None in results from before there were exits.
    sent_share: float | None = None  # of the photos, 0..1; the others the device answers by itself
    decision_bytes: Sizes | None = None  # payload of a photo, 0 where it is not sent
    mean_flops_share: float | None = None  # the same over all photos


@dataclass(frozen=True)
class Comparison:
    """One photo through the split network and the uncut one."""

    position: int  # of the photo in the list
    frame: Frame | None = field(repr=False)  # None: the device answers by itself
    scores: NDArray[np.float32] = field(repr=False)  # (classes,) logits; of the device's answer the best alone
    uncut: NDArray[np.float32] | None = field(repr=False)  # (classes,) logits; None: the bundle has no uncut network


class Deployment:
    """Run the device's half, the server's half and the uncut network of a bundle in this process.

    With `budget` no payload has more bytes than that; `sure` is the exit's bound, see `Encoder`. BundleError: a graph
    can't be loaded or run.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, budget: int | None = None, sure: float | None = None) -> None:
        self.bundle = bundle
        limit = None if budget is None else budget + HEADER_BYTES
        self.encoder = Encoder(bundle, threads, budget_bytes=limit, sure=sure)
        self.decoder = Decoder(bundle, threads)
        self.uncut = open_uncut(bundle, threads) if bundle.uncut_path is not None else None

    def compare(
        self, photos: Sequence[Photo], damaged: Damaged, on_progress: Progress = lambda done, total: None
    ) -> Iterator[Comparison]:
        """Yield a comparison for each readable photo. InputError: too many are damaged, or the budget is too small."""
        batch: list[Prepared] = []
        for position, photo in enumerate(photos):
            with damaged.skipping(photo.path):
                result = self.encoder.work(photo.path).result
                pixels = None
                if self.uncut is not None:
                    pixels = photo_to_pixels(photo.path, self.bundle.manifest.uncut_preprocess)
                batch.append((position, result, pixels))
            if len(batch) == BATCH or position + 1 == len(photos):
                yield from self._compare(batch)
                batch = []
                on_progress(position + 1, len(photos))

    def _compare(self, batch: Sequence[Prepared]) -> Iterator[Comparison]:
        if not batch:
            return
        tag, limit = self.bundle.tag, MAX_PAYLOAD_BYTES
        sent = [result.to_bytes() for _, result, _ in batch if isinstance(result, Frame)]
        frames = [parse_frame(data, max_payload_bytes=limit, bundle_tag=tag) for data in sent]
        if frames:
            answered = self.decoder.scores(frames)
            for error in filter(None, answered.errors):
                raise error
            received = iter(zip(frames, answered.scores, strict=True))
        uncut: Iterable[NDArray[np.float32] | None] = [None] * len(batch)
        if self.uncut is not None:
            uncut = run_graph(self.uncut, pixels=np.stack([pixels for _, _, pixels in batch if pixels is not None]))
        for (position, result, _), reference in zip(batch, uncut, strict=True):
            if isinstance(result, Frame):
                frame, scores = next(received)
                yield Comparison(position, frame, scores, reference)
            else:
                yield Comparison(position, None, self._scores_of(result), reference)

    def _scores_of(self, answer: Answer) -> NDArray[np.float32]:
        scores = np.full(self.bundle.manifest.num_classes, UNLIKELY, np.float32)
        for index, share in answer.top:
            scores[index] = np.log(max(share, LEAST))
        return scores


def evaluate(
    bundle: Bundle,
    data: str | Path,
    *,
    limit: int | None = None,
    budget: int | None = None,
    sure: float | None = None,
    threads: int = 1,
    on_progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Run every photo below the folder `data` through `bundle`, or `limit` of them, evenly spread over the folder.

    With `budget` no payload has more bytes than that; `sure` is the exit's bound, see `Encoder`. `data` is a folder as
    `photos.folders` has it. Damaged photos are skipped, counted and named in the log.

    InputError: no classifier, no such folder or nothing in it, a label that is none of the bundle's classes, a limit
    below 1, most of the photos are damaged, a photo whose smallest payload is above the budget, or `sure`
    without an exit.
    BundleError: a graph that can't be loaded or run.
    """
    needs_one_label(bundle.manifest.task, "`bottlenet evaluate`")
    photos = photos_for(bundle, data, limit)
    damaged = Damaged(len(photos))
    read: list[Photo] = []
    answers: list[list[int]] = []
    uncut: list[int] = []
    payload_bytes: list[int] = []
    deployment = Deployment(bundle, threads, budget, sure)
    for each in deployment.compare(photos, damaged, on_progress):
        read.append(photos[each.position])
        answers.append([index for index, _ in best(each.scores)])
        payload_bytes.append(-1 if each.frame is None else len(each.frame.payload))
        if each.uncut is not None:
            uncut.append(int(each.uncut.argmax()))
    if not read:
        raise InputError(f"{data}: no photo could be read, so there is nothing to report; give a folder of photos")
    measured = label_array(read), np.array(answers), np.array(uncut) if uncut else None, np.array(payload_bytes)
    return evaluation_of(*measured, deployment.encoder.flops_shares, skipped=len(damaged.paths))


def evaluate_budgets(
    bundle: Bundle,
    photos: Sequence[Photo],
    budgets: Sequence[int],
    *,
    threads: int = 1,
    on_progress: Progress = lambda done, total: None,
) -> list[Evaluation]:
    """Do the same on photos within each budget, and last with whole payloads; each photo is encoded once.

    Networks of other tasks than one label are measured, too: `agreement` alone.

    InputError: a codec whose payloads can't be truncated, or as `evaluate`.
    """
    if not isinstance(bundle.codec, Entropy):
        what = f"payloads of bundle {bundle.manifest.name} can't be cut, as its codec is {bundle.manifest.codec}"
        raise InputError(f"{what}; give one of the entropy codec")
    damaged, deployment = Damaged(len(photos)), Deployment(bundle, threads, MAX_PAYLOAD_BYTES, sure=1)
    task, one_label = bundle.manifest.task, isinstance(bundle.manifest.task, Classification)
    read: list[Photo] = []
    answers: list[list[list[int]]] = []  # by photo, by budget
    agreed: list[list[float]] = []  # the same, of another task than one label
    payload_bytes: list[list[int]] = []
    uncut: list[int] = []
    for each in deployment.compare(photos, damaged, on_progress):
        assert each.frame is not None
        whole = each.frame.payload
        frames = [replace(each.frame, payload=whole[:budget]) for budget in budgets]
        found = [*(deployment.decoder.scores(frames).scores if frames else ()), each.scores]
        read.append(photos[each.position])
        payload_bytes.append([*(len(frame.payload) for frame in frames), len(whole)])
        answers.append([[index for index, _ in best(row)] if one_label else [-1] for row in found])
        if each.uncut is not None and one_label:
            uncut.append(int(each.uncut.argmax()))
        elif each.uncut is not None:
            agreed.append([100 * same_answers(task, each.uncut[None], row[None]) for row in found])
    if not read:
        raise InputError("no photo could be read, so there is nothing to report; give other photos")
    labels = label_array(read) if one_label else np.full(len(read), -1)  # a label says nothing about a map or boxes
    names, shares = np.array(uncut) if uncut else None, deployment.encoder.flops_shares
    by_budget = zip(np.moveaxis(np.array(answers), 1, 0), np.array(payload_bytes).T, strict=True)
    skipped = len(damaged.paths)
    results = [evaluation_of(labels, found, names, lengths, shares, skipped) for found, lengths in by_budget]
    means = np.mean(agreed, axis=0).tolist() if agreed else [each.agreement for each in results]
    return [replace(each, agreement=mean) for each, mean in zip(results, means, strict=True)]


def evaluation_of(
    labels: Array,
    answers: Array,
    uncut: Array | None,
    lengths: Array,
    shares: tuple[float, float],
    skipped: int,
) -> Evaluation:
    """Turn labels (N,), -1 where not known, answers (N, 5), best first, those of the uncut network (N,), and payload
    bytes (N,), -1 where not sent, into rates and sizes. `shares` of FLOPs are of a photo that is sent, and of one not.
    """
    known, sent, hits = labels >= 0, lengths >= 0, answers == labels[:, None]
    top1 = percent(hits[known, 0])
    top1_uncut = None if uncut is None else percent((uncut == labels)[known])
    return Evaluation(
        top1=top1,
        top5=percent(hits[known].any(1)),
        agreement=None if uncut is None else percent(answers[:, 0] == uncut),
        top1_uncut=top1_uncut,
        top1_drop=None if top1 is None or top1_uncut is None else top1_uncut - top1,
        payload_bytes=sizes(lengths[sent]),
        frame_bytes=sizes(lengths[sent] + HEADER_BYTES),
        head_flops_share=shares[0],
        photos=len(labels),
        labelled=int(known.sum()),
        skipped=skipped,
        sent_share=float(sent.mean()),
        decision_bytes=sizes(np.maximum(lengths, 0)),
        mean_flops_share=float(np.where(sent, *shares).mean()),
    )
