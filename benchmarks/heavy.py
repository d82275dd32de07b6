"""Writes a ladder of a heavy network with random weights: for timing `bench.py`, `regret.py` and `live.py` on it.

The paper's ResNet-50 and VGG-19 compute many times what EfficientNet-Lite0 does, and their trained weights are not on
every machine. What they take does not depend on weights, so times are right. Bytes are those of features that mean
nothing, and accuracy is none: each bundle says so in its manifest. So the qualities at which `bottlenet profile` finds
that JPEG, WebP and AVIF lose little mean nothing either: of cloud-only, look at JPEG 75 and 95. Needs torchvision: run
it with `.venv-zoo/bin/python`, after `make test-zoo`.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from architectures import full_name
from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import write_ladder
from bottlenet.errors import InputError, PhotoError
from bottlenet.net.build import CHANNELS, STRIDE, insert, start_from_components
from bottlenet.net.cut import cuts
from bottlenet.net.export import export
from bottlenet.net.models import Classifier, load_model
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.folders import list_samples
from record import run_script

SIDE = 224
COMPARED = 4  # photos, on which torch and onnxruntime must agree
CUTS = {
    "torchvision/resnet50": ("layer1.0", "layer1", "layer2", "layer3"),  # the paper's RB1, RB3, RB7 and RB13
    "torchvision/vgg19": ("features.9", "features.18", "features.27"),  # after the second to the fourth pooling
}
NOTE = {"weights": "random: times are right, bytes and accuracy are of no network that was trained"}


@dataclass(frozen=True)
class Size:
    """Of a unit."""

    cut: str
    unit: str
    channels: int  # c'
    quality: int  # of JPEG


def rung(classifier: Classifier, size: Size, pixels: np.ndarray, path: Path) -> Bundle:
    """Export one cut. A residual unit starts at principal components of a few photos: its bytes are no noise."""
    net = insert(classifier, **asdict(size), stride=STRIDE, codec="jpeg")
    with torch.no_grad():
        start_from_components(net, [net.head(torch.from_numpy(pixels))])
    return export(net.eval(), path, pixels=pixels, extra=NOTE)[0]


def pixels_of(data: str, classifier: Classifier) -> np.ndarray:
    """Load (4, S, S, 3) uint8. InputError: there are not so many photos."""
    found: list[np.ndarray] = []
    for sample in list_samples(data):
        try:
            found.append(photo_to_pixels(sample.source(), classifier.preprocess))
        except PhotoError:
            continue
        if len(found) == COMPARED:
            return np.stack(found)
    raise InputError(f"{data}: {len(found)} photos can be used; give a folder with {COMPARED}")


def run(arguments: argparse.Namespace) -> None:
    """Build, cut, export, share."""
    places = arguments.cuts.split(",") if arguments.cuts else CUTS.get(arguments.model)
    if not places:
        raise InputError(f"{arguments.model}: where to cut it? Give --cuts, names from bottlenet cuts")
    torch.manual_seed(0)
    name = full_name(arguments.model, SIDE) if arguments.model in CUTS else arguments.model
    classifier = load_model(name)
    pixels = pixels_of(str(arguments.data), classifier)
    sides = {each.name: each.shape[-1] for each in cuts(classifier.module, classifier.input_size)}
    # If none are given, c' is the paper's for features of that side, or 1.
    channels = arguments.channels or [CHANNELS.get(sides.get(cut, 0), 1) for cut in places]
    if len(channels) != len(places):
        raise InputError(f"{len(channels)} numbers of channels for {len(places)} cuts; give one for each")
    with tempfile.TemporaryDirectory() as folder:
        rungs = [
            rung(classifier, Size(cut, arguments.unit, each, arguments.quality), pixels, Path(folder) / cut)
            for cut, each in zip(places, channels, strict=True)
        ]
        ladder = write_ladder(arguments.out, rungs)
    print(f"written: {arguments.out}: {len(ladder.rungs)} cuts, {ladder.size / 1e6:,.0f} MB; weights are random")


def main() -> None:
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("model", help=f"{' or '.join(CUTS)}; or package.module:function")
    made.add_argument(
        "--data", required=True, type=Path, help="folder of photos: torch and onnxruntime must agree on some"
    )
    made.add_argument("--cuts", help="names from bottlenet cuts, with commas between them; else some of the paper's")
    made.add_argument("--unit", choices=["paper", "residual"], default="paper")
    made.add_argument("--channels", type=int, nargs="+", help="c' of each cut; else the paper's")
    made.add_argument("--quality", type=int, default=20, help="of JPEG; the paper's is 20")
    made.add_argument("--out", required=True, type=Path, help="the ladder's folder")
    run_script(made, run)


if __name__ == "__main__":
    main()
