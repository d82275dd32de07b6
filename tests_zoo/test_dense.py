"""torchvision's segmentations and detectors through the whole path, to a server on a socket, beside the uncut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from bottlenet.bundle import Bundle
from bottlenet.edge import Edge, Prediction, photo_to_pixels
from bottlenet.errors import InputError
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.export import export
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.net.split import cuts, split
from bottlenet.task import Segmentation

SIDE = 96
LAST = ("classifier.low_classifier", "classifier.4")  # layers of the classes of LRASPP, and of DeepLab and FCN
# name: a cut with one tensor, and its channels
SEGMENTATIONS = {"lraspp_mobilenet_v3_large": ("backbone.4", 40), "deeplabv3_mobilenet_v3_large": ("backbone.6", 40)}


def photo(seed: int, width: int = 130, height: int = 100) -> np.ndarray:
    """Soft random colours, so that every place says something."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def pixels(classifier: Classifier, count: int, first: int = 0) -> np.ndarray:
    return np.stack([photo_to_pixels(photo(first + seed), classifier.preprocess) for seed in range(count)])


def alive(classifier: Classifier) -> Classifier:
    """With norms that have seen photos, and no class more likely than others: else it would say the same everywhere."""
    module = classifier.module.train()
    seen = Normalize(classifier.mean, classifier.std)(torch.from_numpy(pixels(classifier, 8, 500)))
    with torch.no_grad():
        for _ in range(20):
            module(seen)
        module.eval()
        last = [layer for name, layer in module.named_modules() if name in LAST]
        if last:
            last[0].bias -= module(seen).mean((0, 2, 3))
    return classifier


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """A server process; gives its address."""
    command = [
        sys.executable,
        "-m",
        "bottlenet.cli",
        "serve",
        str(bundle),
        "--port",
        "0",
        "--json",
        "--stop-with-input",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            lines = []
            while not lines or lines[-1] != "}\n":
                lines.append(process.stdout.readline())
                assert lines[-1], "the server did not start"
            yield json.loads("".join(lines))["listening"]
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def exported(classifier: Classifier, cut: str, channels: int, folder: Path) -> Bundle:
    """As many channels as the features have, and every symbol as it is: the finest setting."""
    net = insert(classifier, cut=cut, channels=channels, codec="raw", quality=0)
    seen = pixels(classifier, 16, 300)
    with torch.no_grad():
        start_from_components(net, [net.head(torch.from_numpy(seen))], amplitude=4.0)
    bundle, _ = export(net.eval(), folder, pixels=seen[:4])
    return bundle


def answered(bundle: Bundle, sources: list[np.ndarray]) -> list[Prediction]:
    """Through a socket, by another process."""
    with serving(bundle.path) as url, Edge(bundle, url) as edge:
        return list(edge.classify_many(sources))


def uncut(classifier: Classifier, source: np.ndarray) -> Tensor:
    """What torch gives for the photo with the network as it was."""
    seen = torch.from_numpy(photo_to_pixels(source, classifier.preprocess)[None])
    with torch.no_grad():
        output: Tensor = classifier.module(Normalize(classifier.mean, classifier.std)(seen))
    return output[0]


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_a_segmentation_through_a_server(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = alive(load_model(f"torchvision/{name}:random,size={SIDE}"))
    assert classifier.task == Segmentation(SIDE, SIDE)
    assert (classifier.preprocess.crop_fraction, len(classifier.labels)) == (1.0, 21)
    bundle = exported(classifier, *SEGMENTATIONS[name], tmp_path / "bundle")
    sources = [photo(seed) for seed in range(4)]
    shares, received = [], []
    for answer, source in zip(answered(bundle, sources), sources, strict=True):
        assert answer.segments is not None
        shares.append(np.mean(answer.segments.classes == uncut(classifier, source).argmax(0).numpy()))
        received.append(answer.received_bytes)
        assert (answer.segments.square.left, answer.segments.square.side) == (15, 100)  # type: ignore[union-attr]
        assert len(answer.segments.shares) >= 5
    print(name, bundle.manifest.latent, shares, received)
    assert np.mean(shares) >= 0.95


@pytest.mark.parametrize("name", [*SEGMENTATIONS, "fcn_resnet50"])
def test_its_halves_are_the_network_of_torchvision(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 21}
    network = torchvision.models.get_model(name, **options).eval()
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(21)))
    settings = f"labels={tmp_path / 'labels.txt'},size=64"
    classifier = load_model(f"torchvision/{name}:{tmp_path / 'own.safetensors'},{settings}")
    x = torch.randn(2, 3, 64, 64)
    found = [cut for cut in cuts(classifier.module, classifier.input_size) if cut.layout is not None]
    with torch.no_grad():
        whole = network(x)["out"]
        for cut in (found[0], found[len(found) // 2], found[-1]):
            halves = split(classifier.module, cut.name, classifier.input_size)
            assert torch.equal(halves.tail(halves.head(x)), whole), cut


def test_a_segmentation_trained_by_the_command(tmp_path: Path) -> None:
    """`train`, `export`, `serve` and `classify`, on little data."""
    (tmp_path / "photos").mkdir()
    for seed in range(24):
        Image.fromarray(photo(seed)).save(tmp_path / "photos" / f"{seed}.png")
    save_file(
        alive(load_model("torchvision/lraspp_mobilenet_v3_large:random,size=64")).module.state_dict(),
        tmp_path / "own.safetensors",
    )
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(21)))

    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "bottlenet.cli", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env={**os.environ, "COLUMNS": "120"}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    model = "torchvision/lraspp_mobilenet_v3_large:own.safetensors,labels=labels.txt,size=64"
    common = ["--model", model, "--cut", "backbone.4", "--data", "photos", "--out", "run", "--held-out", 6]
    rate = ["--channels", 24, "--epochs", 6, "--crops", 2, "--batch", 8, "--codec", "raw", "--quality", 0]
    told = json.loads(run("train", *common, *rate, "--json"))["last"]["held_out"][-1]
    assert told["agreement"] > 0.8
    run("export", "run", "-o", "bundle")
    with serving(tmp_path / "bundle") as url:
        shown = run("classify", "photos/0.png", "--to", url, "--bundle", "bundle", "--maps", ".")
    assert "class" in shown
    with Image.open(tmp_path / "0.png.png") as image:
        assert image.size == (64, 64)


def test_a_map_that_is_too_large() -> None:
    with pytest.raises(InputError, match="a map of 1100 x 1100; it can have 1 to 1048576 places; give a smaller size"):
        load_model("torchvision/lraspp_mobilenet_v3_large:random,size=1100")
