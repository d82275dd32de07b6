"""torchvision's networks: `torchvision/NAME[:WEIGHTS]`, DEFAULT where no weights are named.

Crop, resize, normalisation and labels are those of the weights. `random` takes them from the default weights, which
have as many scores; weights of one's own, a safetensors file, take only the geometry and normalisation from there, as
their classes are others. Besides classifiers there are networks of other tasks:

    photo -> backbone -> classifier -> scores (B, classes, h, w) -> as large as the photo        segmentation
    photo -> backbone -> head -> corrections of anchors, logits -> suppression -> boxes          detection

They were trained on whole photos; here a network gets a square, which unless set otherwise is the largest.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.net.detectors import FasterDetector, SsdDetector
from bottlenet.net.models import Classifier, Metadata, Named, assemble, import_extra, load_weights, safe_download
from bottlenet.task import Detection, Segmentation


def load(named: Named) -> Classifier:
    """Load a network. InputError: an unknown network or weights, or see `load_model`."""
    models = import_extra("torchvision.models", named)
    known = models.list_models(module=models)
    if named.network in (segmentations := models.list_models(module=models.segmentation)):
        return load_segmentation(models, named)
    if named.network in (detectors := models.list_models(module=models.detection)):
        return load_detection(models, named)
    if named.network not in known:
        raise named.unknown_network(known + segmentations + detectors)
    weights = weights_of(models, named)
    module, metadata = network_of(models, named, weights, metadata_of(weights))
    return with_file_weights(assemble(named, module, metadata), named)


# Their weights want it so. The second head, which is for training alone, is left out of networks without these weights.
AUXILIARY = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}


def network_of(models: Any, named: Named, weights: Any, metadata: Metadata, **backbone: None) -> tuple[Any, Metadata]:
    """Build the network with its weights, or random ones, and collect what is known. InputError: it can't be had."""
    if named.weights_file is None and named.weights != "random":
        with safe_download(named):
            network = models.get_model(named.network, weights=weights, progress=False, **size_of(named))
        return network, metadata
    if named.weights_file is not None:
        metadata = replace(metadata, labels=None, licence="not stated")
    classes = len(named.labels() or weights.meta["categories"])
    options = {"num_classes": classes, **AUXILIARY.get(named.network, {}), **size_of(named), **backbone}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about defaults that will be others one day
        try:
            return models.get_model(named.network, weights=None, **options), metadata
        except (AssertionError, TypeError, ValueError) as error:
            raise InputError(f"{named.whole}: {error}; give another size, or none") from error


def size_of(named: Named) -> dict[str, Any]:
    """Return the arguments of a network whose weights depend on the photo's size."""
    if named.size is None:
        return {}
    if named.network.startswith("vit_"):
        return {"image_size": named.size}
    return {"input_size": (named.size, named.size)} if named.network.startswith("maxvit") else {}


def weights_of(models: Any, named: Named) -> Any:
    """Look up the weights by their name; the default ones stand for random ones and those of a file."""
    every = models.get_model_weights(named.network)
    if named.weights in ("", "random") or named.weights_file is not None:
        return every.DEFAULT
    if named.weights not in every.__members__:
        raise named.unknown_weights(named.network, named.weights, every.__members__)
    return every[named.weights]


def metadata_of(weights: Any) -> Metadata:
    """Collect what the weights say: the short side becomes `resize_size`, the centre crop is `crop_size`."""
    transforms = weights.transforms()
    resized = transforms.resize_size[0]
    size = getattr(transforms, "crop_size", [resized])[0]  # segmentations take all of a photo
    return Metadata(
        size=size,
        crop=size / resized,
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        labels=tuple(weights.meta["categories"]),
        licence=str(weights.meta.get("license", "not stated")),
    )


UNUSED = ("aux_classifier.", "AuxLogits.", "aux1.", "aux2.")  # for training alone


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
    weights = weights_of(models, named)
    network, metadata = dense_network(models, named, weights, metadata_of(weights))
    classifier = assemble(named, Segmenter(network), metadata)
    side = classifier.preprocess.size
    try:
        classifier = replace(classifier, task=Segmentation(side, side))
    except InputError as error:
        raise InputError(f"{named.whole}: {error}; give a smaller size") from error
    return with_file_weights(classifier, named)


def dense_network(models: Any, named: Named, weights: Any, metadata: Metadata) -> tuple[Any, Metadata]:
    """Build it without a download of its backbone's weights. InputError: as `network_of`, or another task."""
    if "task" in named.settings:
        raise InputError(f"{named.whole}: this network's task is its own; leave task out")
    return network_of(models, named, weights, metadata, weights_backbone=None)


def with_file_weights(classifier: Classifier, named: Named) -> Classifier:
    """Load the weights of the file that was named, if one was. InputError: they don't fit."""
    if named.weights_file is not None:
        load_weights(classifier, named.weights_file, ignored=UNUSED)
    return classifier


def load_detection(models: Any, named: Named) -> Classifier:
    if named.network not in DETECTORS:
        raise InputError(f"{named.whole}: of torchvision's detectors give one of {', '.join(DETECTORS)}")
    weights = weights_of(models, named)
    network, metadata = dense_network(models, named, weights, Metadata(labels=tuple(weights.meta["categories"])))
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
    classifier = assemble(replace(named, settings=rest), DETECTORS[named.network](network.eval(), side), metadata)
    most: Any = classifier.module.most
    return with_file_weights(replace(classifier, task=Detection(most, threshold)), named)


THRESHOLD = 0.05  # unless told otherwise: an SSD of torchvision would tell of everything from 0.001 on
DETECTORS: dict[str, Callable[[Any, int], nn.Module]] = {
    "ssdlite320_mobilenet_v3_large": SsdDetector,
    "ssd300_vgg16": SsdDetector,
    "fasterrcnn_mobilenet_v3_large_320_fpn": FasterDetector,
    "fasterrcnn_mobilenet_v3_large_fpn": FasterDetector,
    "fasterrcnn_resnet50_fpn": FasterDetector,
    "fasterrcnn_resnet50_fpn_v2": FasterDetector,
}
