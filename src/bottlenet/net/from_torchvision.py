"""torchvision's classifiers: `torchvision/NAME[:WEIGHTS]`, DEFAULT where no weights are named. Segmentations and
detectors stand in `from_torchvision_dense.py`.

Crop, resize, normalisation and labels are those of the weights. `random` takes them from the default weights, which
have as many scores; weights of one's own, a safetensors file, take only the geometry and normalisation from there, as
their classes are others.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from torch import nn

from bottlenet.errors import InputError
from bottlenet.net.from_torchvision_dense import load_detection, load_segmentation
from bottlenet.net.models import Classifier
from bottlenet.net.named import Metadata, Named, assemble, nearest, unknown_network
from bottlenet.net.own_weights import load_weights, needed, safe_download

# Their weights want it so. The second head, which is for training alone, is left out of networks without these weights.
AUXILIARY = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}


def load(named: Named) -> Classifier:
    """The classifier. InputError: an unknown network or weights, or see `load_model`."""
    models = needed("torchvision.models", named)
    known = models.list_models(module=models)
    if named.network in (segmentations := models.list_models(module=models.segmentation)):
        return load_segmentation(models, named)
    if named.network in (detectors := models.list_models(module=models.detection)):
        return load_detection(models, named)
    if named.network not in known:
        raise unknown_network(named, known + segmentations + detectors)
    weights = chosen(models, named)
    metadata = described(weights)
    file = named.weights_file
    if file is None and named.weights != "random":
        with safe_download(named):
            module = models.get_model(named.network, weights=weights, progress=False, **size_of(named))
        return assemble(named, module, metadata)
    labels = named.labels()
    if file is not None:
        metadata = replace(metadata, labels=None, licence="not stated")
    classifier = assemble(named, build(models, named, len(labels) if labels else 1000), metadata)
    if file is not None:
        load_weights(classifier, file, ignored=("AuxLogits.", "aux1.", "aux2."))
    return classifier


def build(models: Any, named: Named, classes: int) -> nn.Module:
    """The network with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about defaults that will be others one day
        try:
            module: nn.Module = models.get_model(
                named.network, weights=None, num_classes=classes, **AUXILIARY.get(named.network, {}), **size_of(named)
            )
        except (AssertionError, TypeError, ValueError) as error:
            what = str(error).partition("\n")[0]
            raise InputError(f"{named.whole}: {what}; give another size, or none") from error
    return module


def size_of(named: Named) -> dict[str, Any]:
    """What a network whose weights depend on the photo's size is told."""
    if named.size is None:
        return {}
    if named.network.startswith("vit_"):
        return {"image_size": named.size}
    return {"input_size": (named.size, named.size)} if named.network.startswith("maxvit") else {}


def chosen(models: Any, named: Named) -> Any:
    """The weights by their name; the default ones stand for random ones and those of a file."""
    every = models.get_model_weights(named.network)
    if named.weights in ("", "random") or named.weights_file is not None:
        return every.DEFAULT
    if named.weights not in every.__members__:
        near = nearest(named.weights, every.__members__)
        raise InputError(
            f"{named.whole}: {named.network} has no weights {named.weights!r}{near}; "
            f"give {', '.join(every.__members__)}, random, or a .safetensors file"
        )
    return every[named.weights]


def described(weights: Any) -> Metadata:
    """What the weights say: the short side becomes `resize_size`, of which `crop_size` is taken from the centre."""
    transforms = weights.transforms()
    size, resized = transforms.crop_size[0], transforms.resize_size[0]
    return Metadata(
        size=size,
        crop=size / resized,
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        labels=tuple(weights.meta["categories"]),
        licence=str(weights.meta.get("license", "not stated")),
    )
