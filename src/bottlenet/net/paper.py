"""The paper's Table 4 beside the structure of a network: `paper_cuts(classifier)`.

BottleNet (arXiv 1902.01000v1) cuts ResNet-50 after each of its 16 residual blocks and states c', s and the bytes of the
payload. Of VGG-19 it has no figures: cut after each pooling, its units take the c' that the paper has for features of
that side, and there is none for the first, whose 112 pixels ResNet-50 does not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch

from bottlenet.errors import InputError
from bottlenet.net.models import Classifier
from bottlenet.net.split import Cut, count_flops, cuts
from bottlenet.net.unit import PaperReduction, UnitSpec
from bottlenet.wire.codecs import make_codec
from bottlenet.wire.mosaic import Mosaic

STRIDE = 2  # s, everywhere
BLOCKS = (3, 4, 6, 3)  # residual blocks in the stages of ResNet-50
BYTES = (316, 317, 314, 166, 171, 168, 170, 96, 90, 98, 101, 101, 95, 52, 52, 53)  # Table 4: RB1..RB16
CHANNELS = {56: 1, 28: 2, 14: 5, 7: 10}  # c', by the side of the features


@dataclass(frozen=True)
class PaperCut:
    """One cut of the paper: our structure, its bytes."""

    name: str  # RB1, or pool1
    cut: str
    shape: tuple[int, ...]  # (C, H, W) of the features
    head_flops: int  # of head and unit, on the device, for one photo
    head_flops_share: float  # of the uncut network's
    latent: tuple[int, int, int] | None  # (c', h, w); None where the paper has no c'
    latent_elements: int | None
    raw_bytes: int | None  # the latent's symbols as the raw codec sends them, one byte each
    paper_bytes: int | None  # the paper's, with JPEG at quality 20


def paper_cuts(classifier: Classifier) -> tuple[PaperCut, ...]:
    """ResNet-50 cut after RB1 to RB16, or VGG-19 after its five poolings, with the paper's unit.

    InputError: another network, by its name, or one that has no such cuts or takes photos of another size.
    """
    kind = re.match(r"(?:\w+/)?([a-z0-9_]+)", classifier.name)
    if kind is None or kind[1] not in PLACES:
        raise InputError(
            f"{classifier.name}: the paper's table is for {' and '.join(PLACES)}; give torchvision/resnet50 or "
            "torchvision/vgg19, with :random where no weights are at hand"
        )
    found = {cut.name: cut for cut in cuts(classifier.module, classifier.input_size)}
    places = PLACES[kind[1]]
    if missing := [path for path in places.values() if path not in found]:
        raise InputError(f"{classifier.name} has no cut {missing[0]}, so it is not the paper's {kind[1]}")
    sizes = BYTES if kind[1] == "resnet50" else (None,) * len(places)
    return tuple(
        paper_cut(name, found[path], paper_bytes)
        for (name, path), paper_bytes in zip(places.items(), sizes, strict=True)
    )


def paper_cut(name: str, cut: Cut, paper_bytes: int | None) -> PaperCut:
    """One of them, its reduction counted and its symbols encoded."""
    total = cut.head_flops / cut.head_flops_share
    c, height, width = cut.shape
    channels = CHANNELS.get(height)
    if channels is None:
        return PaperCut(name, cut.name, cut.shape, cut.head_flops, cut.head_flops_share, None, None, None, paper_bytes)
    spec = UnitSpec(c, channels, STRIDE, (height, width))
    flops = cut.head_flops + count_flops(PaperReduction(spec).eval(), torch.zeros(1, *cut.shape))
    mosaic = Mosaic(*spec.latent_shape)
    symbols = np.zeros(mosaic.symbols_shape, np.uint8)
    raw_bytes = len(make_codec("raw", mosaic, 0).encode(symbols))
    return PaperCut(
        name, cut.name, cut.shape, flops, flops / total, spec.latent_shape, symbols.size, raw_bytes, paper_bytes
    )


def residual_blocks() -> dict[str, str]:
    """RB1 .. RB16 -> the blocks, as torchvision and timm call them: a stage's last is the stage."""
    paths = []
    for stage, blocks in enumerate(BLOCKS, 1):
        paths += [f"layer{stage}.{block}" for block in range(blocks - 1)] + [f"layer{stage}"]
    return {f"RB{number}": path for number, path in enumerate(paths, 1)}


PLACES = {
    "resnet50": residual_blocks(),
    "vgg19": {
        "pool1": "features.4",
        "pool2": "features.9",
        "pool3": "features.18",
        "pool4": "features.27",
        "pool5": "features",  # which ends with it
    },
}
