"""timm's classifiers: `timm/NAME[:TAG]`, TAG as timm calls its weights, the default one where none is named.

Size, crop, normalisation and labels are those of the weights, for testing where those for training are others. timm
notes no labels for most of them: what a tag ends with, such as `in1k`, is the data that the classes are of.
"""

import importlib
import re
from dataclasses import replace
from typing import Any

from bottlenet.errors import InputError, reason
from bottlenet.net import models


def load(named: models.Named) -> models.Classifier:
    """Load a classifier. InputError: an unknown network or weights, or see `load_model`."""
    timm = models.import_extra("timm", named)
    network, _, tag = named.network.partition(".")
    if not timm.is_model(network):
        raise named.unknown_network(timm.list_models())
    file = named.weights_file
    if named.weights not in ("", "DEFAULT", "random") and file is None:
        tag = named.weights
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{network}.*")]
    if tag and tag not in tags:
        raise named.unknown_weights(network, tag, tags)
    name, config = f"{network}.{tag}" if tag else network, None
    if timm.get_pretrained_cfg(network) is not None:  # else it knows of no weights at all
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    options: dict[str, Any] = {}
    if config is not None and config.fixed_input_size and named.size:
        options["img_size"] = named.size
    metadata = metadata_of(config)
    if file is None and named.weights != "random":
        with models.safe_download(named):
            return models.assemble(named, timm.create_model(name, pretrained=True, **options), metadata)
    if labels := named.labels():
        options["num_classes"] = len(labels)
    if file is not None:
        metadata = replace(metadata, labels=None, licence="not stated", remark="")
    try:
        module = timm.create_model(network, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        why = f"timm can't build it so ({reason(error)})"
        raise InputError(f"{named.whole}: {why}; give another size, or none") from error
    classifier = models.assemble(named, module, metadata)
    if file is not None:
        models.load_weights(classifier, file)
    return classifier


def metadata_of(config: Any) -> models.Metadata:
    """Collect what timm says about the weights; nothing where it knows none."""
    if config is None:
        return models.Metadata(remark="timm has no weights for it")
    centre = config.crop_mode in (None, "center")
    return models.Metadata(
        size=(config.test_input_size or config.input_size)[1],
        crop=(config.test_crop_pct or config.crop_pct) if centre else None,
        interpolation=config.interpolation if config.interpolation in ("bicubic", "bilinear") else None,
        mean=tuple(config.mean),
        std=tuple(config.std),
        labels=labels_of(config),
        licence=config.license or "not stated",
        remark="" if centre else f"they take the photo by {config.crop_mode!r}, which no centre crop is",
    )


SUBSETS = {  # what a tag says -> the sets of classes that go by that
    "1k": ("imagenet-1k",),
    "12k": ("imagenet-12k",),
    "21k": ("imagenet-21k-goog", "imagenet-21k-miil", "imagenet-22k"),
    "22k": ("imagenet-22k", "imagenet-22k-ms"),
}


def labels_of(config: Any) -> tuple[str, ...] | None:
    """Return the labels, where the weights name them or the data that they are of."""
    if config.label_names:
        described = config.label_descriptions or {}
        return tuple(str(described.get(name, name)) for name in config.label_names)
    data = importlib.import_module("timm.data")  # heavy
    subset = data.infer_imagenet_subset({"num_classes": config.num_classes})
    said = re.findall(r"in(\d+k)", config.tag or "")
    if subset is None or not said or subset not in SUBSETS.get(said[-1], ()):
        return None
    return (
        models.imagenet_labels() if subset == "imagenet-1k" else tuple(data.ImageNetInfo(subset).label_descriptions())
    )
