"""Weights from outside: downloaded without running code that is in them, or read from a safetensors file."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bottlenet.errors import BottleNetError, InputError, MissingExtraError
from bottlenet.net.models import Classifier
from bottlenet.net.named import Named

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
            f'pip install --upgrade torch "bottlenet[{name}]"'
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
