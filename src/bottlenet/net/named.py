"""The name of a classifier from elsewhere, taken apart, and what its weights don't say about themselves, filled in.

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
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError
from bottlenet.manifest import MAX_CLASSES
from bottlenet.net.models import Classifier, Triple, imagenet_labels
from bottlenet.task import Classification, Multilabel, Task

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
