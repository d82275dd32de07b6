"""torchvision's networks of other tasks than one label: `torchvision/lraspp_mobilenet_v3_large`, and its kin.

    photo -> backbone -> classifier -> scores (B, classes, h, w) -> as large as the photo        segmentation
    photo -> backbone -> head -> corrections of anchors, logits -> suppression -> boxes          detection

Size, normalisation and labels are those of the weights. They were made for whole photos; here a network sees a square,
which unless told otherwise is the largest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.net.detectors import FasterDetector, SsdDetector
from bottlenet.net.models import Classifier
from bottlenet.net.named import Metadata, Named, assemble
from bottlenet.net.own_weights import load_weights, safe_download
from bottlenet.task import Detection, Segmentation

UNUSED = ("aux_classifier.",)  # for training alone


class Segmenter(nn.Module):
    """A segmentation of torchvision as one module from tensor to tensor, with its own layers, and names for them.

    (B, 3, S, S) -> backbone -> features, by name -> classifier -> resized -> logits (B, classes, S, S)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        children = dict(network.named_children())
        self.backbone, self.classifier = children["backbone"], children["classifier"]
        # DeepLab and FCN look at one of the features; LRASPP at two, which it takes by name itself.
        self.one = "out" in getattr(self.backbone, "return_layers", {}).values()

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        scores = self.classifier(features["out"] if self.one else features)  # (B, classes, h, w)
        return F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False)


def load_segmentation(models: Any, named: Named) -> Classifier:
    """The network. InputError: unknown weights, or see `load_model`."""
    from bottlenet.net.from_torchvision import chosen

    weights = chosen(models, named)
    transforms = weights.transforms()
    metadata = Metadata(
        size=transforms.resize_size[0],
        crop=1.0,
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        labels=tuple(weights.meta["categories"]),
        licence=str(weights.meta.get("license", "not stated")),
    )
    network, metadata = network_of(models, named, weights, metadata)
    made = assemble(named, Segmenter(network), metadata)
    side = made.preprocess.size
    try:
        made = replace(made, task=Segmentation(side, side))
    except InputError as error:
        raise InputError(f"{named.whole}: {error}; give a smaller size") from error
    return filled(made, named)


def network_of(models: Any, named: Named, weights: Any, metadata: Metadata) -> tuple[Any, Metadata]:
    """The network with the weights that were asked for, or with random ones; and what is known of them.

    InputError: weights that can't be had, or a task that is not the network's.
    """
    if "task" in named.settings:
        raise InputError(f"{named.whole}: this network's task is its own; leave task out")
    if named.weights_file is None and named.weights != "random":
        with safe_download(named):
            network = models.get_model(named.network, weights=weights, progress=False)
        return network, metadata
    if named.weights_file is not None:
        metadata = replace(metadata, labels=None, licence="not stated")
    labels = named.labels() or weights.meta["categories"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about defaults that will be others one day
        network = models.get_model(named.network, weights=None, weights_backbone=None, num_classes=len(labels))
    return network, metadata


def filled(made: Classifier, named: Named) -> Classifier:
    """With the weights of the file that was named, if one was. InputError: they don't fit."""
    if named.weights_file is not None:
        load_weights(made, named.weights_file, ignored=UNUSED)
    return made


def load_detection(models: Any, named: Named) -> Classifier:
    """The network. InputError: unknown weights, a network of another kind, or see `load_model`."""
    from bottlenet.net.from_torchvision import chosen

    if named.network not in DETECTORS:
        raise InputError(
            f"{named.whole}: of torchvision's detectors {', '.join(DETECTORS)} can be cut; give one of them"
        )
    weights = chosen(models, named)
    network, metadata = network_of(models, named, weights, Metadata(labels=tuple(weights.meta["categories"])))
    transform = network.transform
    metadata = replace(
        metadata,
        size=transform.min_size[-1],
        crop=1.0,
        interpolation="bilinear",
        mean=tuple(transform.image_mean),
        std=tuple(transform.image_std),
    )
    side = named.size or transform.min_size[-1]
    threshold = named.number("threshold", 0, 1) if "threshold" in named.settings else THRESHOLD
    rest = {name: value for name, value in named.settings.items() if name != "threshold"}
    made = assemble(replace(named, settings=rest), DETECTORS[named.network](network.eval(), side), metadata)
    most: Any = made.module.most
    return filled(replace(made, task=Detection(most, threshold)), named)


THRESHOLD = 0.05  # unless told otherwise: an SSD of torchvision would tell of everything from 0.001 on
DETECTORS: dict[str, Callable[[Any, int], nn.Module]] = {
    "ssdlite320_mobilenet_v3_large": SsdDetector,
    "ssd300_vgg16": SsdDetector,
    "fasterrcnn_mobilenet_v3_large_320_fpn": FasterDetector,
    "fasterrcnn_mobilenet_v3_large_fpn": FasterDetector,
    "fasterrcnn_resnet50_fpn": FasterDetector,
    "fasterrcnn_resnet50_fpn_v2": FasterDetector,
}
