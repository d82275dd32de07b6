"""A finished training run as a bundle: what `bottlenet export RUN -o BUNDLE` does.

run.json -> TrainConfig -> BottleNet <- averaged weights <- checkpoint.safetensors
                               `-- net.export, compared on photos of the run --> bundle
"""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bottlenet.bundle import Bundle, Manifest
from bottlenet.edge.photo import photo_to_pixels
from bottlenet.errors import InputError, PhotoError
from bottlenet.lab.checkpoint import FILE
from bottlenet.lab.data import list_photos
from bottlenet.lab.train import TrainConfig
from bottlenet.net.build import insert
from bottlenet.net.export import DeviceGraph, Fidelity, export
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, load_model
from bottlenet.net.split import count_flops

COMPARED = 32  # photos on which onnxruntime must agree with torch
MAX_RUN_BYTES = 2**20


def export_run(run: str | Path, path: str | Path, *, weights: str = "int8") -> tuple[Bundle, Fidelity]:
    """Writes the bundle of the run in the folder `run` to the folder `path`.

    InputError: no run there, no checkpoint yet, or its photos are gone. BundleError: see `net.export.export`.
    """
    folder = Path(run)
    config = read_config(folder)
    net = insert(load_model(config.model), config.unit_config())
    load_averaged(folder, net)
    classifier = load_model(config.model)  # afresh: `net` has a tail of its own by now
    pixels = photos_of(config, classifier)
    manifest = describe(folder, config, net, classifier)
    return export(net, classifier, path, manifest=manifest, pixels=pixels, weights=weights)


def read_config(folder: Path) -> TrainConfig:
    """What the run was started with. InputError: no run is there, or one of another version."""
    try:
        with open(folder / "run.json", "rb") as file:
            values = json.loads(file.read(MAX_RUN_BYTES))
        return TrainConfig(**{**values, "data": tuple(values["data"])})
    except OSError as error:
        raise InputError(f"{folder}: no run is there ({error.strerror}); give a folder of bottlenet train") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}: run.json is damaged or of another version ({error}); train again") from error


def load_averaged(folder: Path, net: BottleNet) -> None:
    """The checkpoint's weights, averaged where there is an average. InputError: there is none, or it does not fit."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            names = set(file.keys())
            state = {name.removeprefix("net."): file.get_tensor(name) for name in names if name.startswith("net.")}
            averaged = {
                name.removeprefix("average."): file.get_tensor(name) for name in names if name.startswith("average.")
            }
        missing, unexpected = net.load_state_dict(state | averaged, strict=False)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: it has no checkpoint yet; go on training") from error
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{folder}: its checkpoint can't be used ({' '.join(str(error).split()):.200})") from error
    if unexpected or any(not name.startswith("head.") for name in missing):
        raise InputError(f"{folder}: its checkpoint is of another network than run.json says; train again")


def photos_of(config: TrainConfig, classifier: Classifier) -> NDArray[np.uint8]:
    """(N, S, S, 3) of the run's photos, evenly spread. InputError: there are not two to be read."""
    photos = [photo for folder in dict.fromkeys(config.data) for photo in list_photos(folder)]
    count = min(COMPARED, len(photos))
    pixels = []
    for number in range(count):
        try:
            pixels.append(photo_to_pixels(photos[number * len(photos) // count].path, classifier.preprocess))
        except PhotoError:  # training counted and named it
            continue
    if len(pixels) < 2:
        raise InputError(f"{', '.join(config.data)}: fewer than 2 photos can be read; export compares on real photos")
    return np.stack(pixels)


def describe(folder: Path, config: TrainConfig, net: BottleNet, classifier: Classifier) -> Manifest:
    """What the bundle says about itself; its files are added when it is written."""
    mosaic = net.codec.mosaic
    example = torch.zeros(1, classifier.preprocess.size, classifier.preprocess.size, 3, dtype=torch.uint8)
    device_flops = count_flops(DeviceGraph(net).eval(), example)
    uncut_flops = count_flops(classifier.module, torch.zeros(1, *classifier.input_size))
    return Manifest(
        name=folder.resolve().name,
        model=config.model,
        cut=config.cut,
        unit=f"{config.unit}, {config.channels} channels, stride {config.stride}",
        preprocess=classifier.preprocess,
        latent=(mosaic.channels, mosaic.height, mosaic.width),
        layout=mosaic.layout,
        align=mosaic.align,
        codec=net.codec.name,
        setting=net.codec.setting,
        head_flops_share=min(1.0, device_flops / uncut_flops),
        num_classes=len(classifier.labels),
        extra={
            "training": command_of(config),
            "weights_licence": classifier.weights_licence,
            "bottlenet": installed("bottlenet"),
            "torch": installed("torch"),
        },
    )


def command_of(config: TrainConfig) -> str:
    """The command line that makes this run again, without the options that were left alone."""
    words = ["bottlenet train"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        values = value if isinstance(value, tuple) else (value,)
        words += [flag if one is True else f"{flag} {one}" for one in values]
    return " ".join(words)[:4000]


def installed(package: str) -> str:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source
        return "not installed"
