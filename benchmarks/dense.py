"""Is a map of classes, or what was found, the same through a unit, a server and back as the uncut network's?

photo -> head, raw codec at its finest -> socket -> a server process -> answer  <-compare->  the uncut network in torch

torchvision's segmentations and detectors, with random weights that tell things apart: what they say means nothing, and
how much of it comes through does. Needs torchvision: run it with `.venv-zoo/bin/python`, after `make test-zoo`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bottlenet.bundle import Bundle
from bottlenet.edge import Edge, Prediction
from bottlenet.errors import InputError
from bottlenet.measure.bench import split_server
from bottlenet.net.models import load_model
from bottlenet.photo import photo_to_pixels
from bottlenet.task import OVERLAP, Detection, share_found
from dense_networks import DETECTIONS, SEGMENTATIONS, detector, exported, photo, rows_of, segmentation, uncut
from record import parser, run_script, show, write_record

PHOTOS = 16
THRESHOLD = 0.2  # of a detector
WANTED = 0.3  # some way above it: a box beside the threshold may fall below


@dataclass(frozen=True)
class Row:
    """One network. Bytes are means of a photo, without the opening of the connection."""

    network: str
    task: str
    size: int  # of the photo, pixels
    cut: str
    latent: tuple[int, int, int]  # channels, rows, columns
    compared: int  # places of the maps; boxes of the uncut network whose score is at least `WANTED`
    same: float  # share of them that came back: with the same class; of boxes, with `OVERLAP` of the area too
    another: float  # the same share where the uncut network saw the next photo: what comes of saying the same to all
    payload_bytes: float
    frame_bytes: float  # as one message of a stream
    received_bytes: float  # of the answer, on the socket


def segmented(name: str, folder: Path, sources: Sequence[np.ndarray]) -> tuple[Row, list[Prediction]]:
    """Compare the map of each photo with the uncut network's, place by place."""
    classifier = segmentation(name)
    bundle = exported(classifier, *SEGMENTATIONS[name], folder / "bundle")
    answers = answered(bundle, sources)
    expected = uncut(classifier, np.stack([photo_to_pixels(each, classifier.preprocess) for each in sources])).argmax(1)
    maps = np.stack([answer.segments.classes for answer in answers if answer.segments is not None])
    same, another = ((maps == np.roll(expected.numpy(), by, 0)).mean() for by in (0, -1))
    return row_of(name, bundle, answers, maps.size, (float(same), float(another))), answers


def detected(name: str, folder: Path, sources: Sequence[np.ndarray]) -> tuple[Row, list[Prediction]]:
    """Compare what is found in each photo with torchvision's own forward and suppression on the same pixels."""
    network, named = detector(name, folder)
    classifier = load_model(f"{named},threshold={THRESHOLD}")
    assert isinstance(classifier.task, Detection)
    bundle = exported(classifier, *DETECTIONS[name], folder / "bundle")
    answers = answered(bundle, sources)
    wanted = []
    for source in sources:
        rows = rows_of(network, photo_to_pixels(source, classifier.preprocess), classifier.task.boxes)
        wanted.append(rows[rows[:, 4] >= WANTED])
    mine = [as_rows(answer, source) for answer, source in zip(answers, sources, strict=True)]
    count = sum(map(len, wanted))
    shares = []
    for theirs in (wanted, [*wanted[1:], wanted[0]]):
        shares.append(sum(share_found(a, b) * len(a) for a, b in zip(theirs, mine, strict=True)) / count)
    return row_of(name, bundle, answers, count, (shares[0], shares[1])), answers


def as_rows(answer: Prediction, source: np.ndarray) -> np.ndarray:
    """Convert objects to a detector's output: (K, 6), edges as shares of the square in the middle of the photo."""
    height, width = source.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    made = [
        [
            (one.left - left) / side,
            (one.top - top) / side,
            (one.right - left) / side,
            (one.bottom - top) / side,
            one.score,
            one.class_index,
        ]
        for one in answer.objects
    ]
    return np.array(made, np.float32).reshape(-1, 6)


def answered(bundle: Bundle, sources: Sequence[np.ndarray]) -> list[Prediction]:
    """Through a socket, by another process. A photo before them opens the connection."""
    with split_server([bundle.path]) as port, Edge(bundle, f"ws://127.0.0.1:{port}") as edge:
        edge.classify(sources[0])
        return list(edge.classify_many(sources))


def row_of(name: str, bundle: Bundle, answers: Sequence[Prediction], compared: int, shares: tuple[float, float]) -> Row:
    """Make a record's row, with the means over the photos."""
    manifest = bundle.manifest
    sizes = [(each.payload_bytes, each.frame_bytes, each.received_bytes) for each in answers]
    means = [statistics.fmean(column) for column in zip(*sizes, strict=True)]
    size, latent = manifest.preprocess.size, manifest.latent
    return Row(f"torchvision/{name}", manifest.task.name, size, manifest.cut, latent, compared, *shares, *means)


def cells(row: Row) -> list[str]:
    sizes = [f"{each:,.0f}" for each in (row.payload_bytes, row.received_bytes)]
    return [row.network, *sizes, f"{row.compared:,}", *(f"{100 * share:.1f} %" for share in (row.same, row.another))]


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if args.photos < 2:
        raise InputError(f"{args.photos} photos; give 2 or more, as each is compared with the next one too")
    sources = [photo(seed) for seed in range(args.photos)]
    rows = []
    for measure, names in ((segmented, SEGMENTATIONS), (detected, DETECTIONS)):
        for name in names:
            if args.only in (None, name):
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(measure(name, Path(folder), sources)[0])
    show(
        "Dense",
        ["network", "payload", "answer", "places or boxes", "the same", "next photo's"],
        [cells(row) for row in rows],
    )
    results = {
        "networks": [asdict(row) for row in rows],
        "photos": args.photos,
        "photo": sources[0].shape[1::-1],
        "overlap": OVERLAP,
        "threshold": THRESHOLD,
        "wanted": WANTED,
    }
    write_record("dense", results, args.out)


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--only", choices=[*SEGMENTATIONS, *DETECTIONS], help="one network")
    made.add_argument("--photos", type=int, default=PHOTOS, help="how many")
    run_script(made, main)
