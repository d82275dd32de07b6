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
from torch import Tensor, nn

from bottlenet.bundle import Bundle, Preprocess
from bottlenet.edge import Edge, Prediction, photo_to_pixels
from bottlenet.errors import InputError
from bottlenet.net.alike import difference, found
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.export import export
from bottlenet.net.from_torchvision_dense import DETECTORS
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.net.split import cuts, split
from bottlenet.task import Detection, Multilabel, Segmentation

SIDE = 64
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
    bundle, _ = export(net.eval(), folder, pixels=seen[:2])
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


def torchvisions(name: str, folder: Path) -> tuple[nn.Module, str]:
    """A detector of torchvision with random weights that tell things apart, and the name of ours with the same."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=6).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train().momentum = None  # the mean of what it sees
    side, transform = 300 if name == "ssd300_vgg16" else 160, network.transform
    transform.min_size = (side,)
    transform.fixed_size = transform.fixed_size and (side, side)
    seen = torch.from_numpy(
        np.stack([photo_to_pixels(photo(seed), Preprocess(side, 1.0, "bilinear")) for seed in range(500, 504)])
    )
    with torch.no_grad():
        network(list(seen.permute(0, 3, 1, 2) / 255))
        for key, layer in network.named_modules():
            last = (
                key.startswith("head.classification_head") and isinstance(layer, nn.Conv2d) and layer.bias is not None
            )
            if last or key == "roi_heads.box_predictor.cls_score":
                layer.weight *= 0.05 if "vgg" in name else 4  # type: ignore[operator]  # VGG has no norms
    network.eval()
    save_file(network.state_dict(), folder / "own.safetensors")
    (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(6)))
    return network, f"torchvision/{name}:{folder / 'own.safetensors'},labels={folder / 'labels.txt'},size={side}"


def rows_of(network: nn.Module, seen: np.ndarray, most: int) -> np.ndarray:
    """What torchvision itself finds in (S, S, 3) uint8, as rows (most, 6)."""
    with torch.no_grad():
        (given,) = network([torch.from_numpy(seen).permute(2, 0, 1) / 255])
    made = np.zeros((most, 6), np.float32)
    columns = (given["boxes"] / seen.shape[0], given["scores"][:, None], given["labels"][:, None])
    made[: len(given["boxes"])] = torch.cat(columns, 1).numpy()
    return made


DETECTORS_ZOO = {
    "ssdlite320_mobilenet_v3_large": ("backbone.features.0.6", 40),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone.body.6", 40),
}


@pytest.mark.parametrize("name", DETECTORS_ZOO)
def test_a_detector_through_a_server(name: str, tmp_path: Path) -> None:
    """Beside torchvision's own forward, with its own suppression, on the same pixels."""
    network, named = torchvisions(name, tmp_path)
    classifier = load_model(f"{named},threshold=0.2")
    task = classifier.task
    assert isinstance(task, Detection)
    sources = [photo(seed) for seed in range(3)]
    seen = np.stack([photo_to_pixels(source, classifier.preprocess) for source in sources])
    expected = np.stack([rows_of(network, each, task.boxes) for each in seen])
    with torch.no_grad():
        whole = classifier.module(Normalize(classifier.mean, classifier.std)(torch.from_numpy(seen))).numpy()
    assert difference(task, whole, expected) <= 0.03  # where scores are equal but for rounding, either box may stay
    bundle = exported(classifier, *DETECTORS_ZOO[name], tmp_path / "bundle")
    square = np.array([15, 0, 15, 0])
    agreed, told = 0.0, []
    for answer, rows in zip(answered(bundle, sources), expected, strict=True):
        edges = [np.array([one.left, one.top, one.right, one.bottom]) for one in answer.objects]
        mine = np.array(
            [
                [*(edge - square) / 100, one.score, one.class_index]
                for edge, one in zip(edges, answer.objects, strict=True)
            ]
        )
        wanted = rows[rows[:, 4] >= 0.3]  # some way above the threshold: one beside it may fall below
        agreed += found(wanted, mine.astype(np.float32).reshape(-1, 6)) * len(wanted)
        told.append((len(wanted), len(mine), answer.received_bytes, answer.payload_bytes))
    count = sum(each for each, *_ in told)
    print(name, bundle.manifest.latent, difference(task, whole, expected), agreed / count, told)
    assert count >= 30
    # With random weights thousands of places are nearly as sure as each other: 8 bits a symbol decide which is first.
    assert agreed / count >= (0.6 if "faster" in name else 0.8)


def others() -> list[str]:
    """With ZOO_EXPORT=all the slow one too."""
    slow = () if os.environ.get("ZOO_EXPORT") == "all" else ("fasterrcnn_resnet50_fpn_v2",)
    return [name for name in DETECTORS if name not in (*DETECTORS_ZOO, *slow)]


@pytest.mark.parametrize("name", others())
def test_other_detectors_find_what_torchvision_finds(name: str, tmp_path: Path) -> None:
    network, named = torchvisions(name, tmp_path)
    classifier = load_model(named)
    seen = photo_to_pixels(photo(1), classifier.preprocess)
    x = Normalize(classifier.mean, classifier.std)(torch.from_numpy(seen[None]))
    places = [cut for cut in cuts(classifier.module, classifier.input_size) if cut.layout is not None]
    halves = split(classifier.module, places[-1].name, classifier.input_size)
    assert isinstance(classifier.task, Detection)
    with torch.no_grad():
        whole = classifier.module(x)
        assert torch.equal(halves.tail(halves.head(x)), whole)
    expected = rows_of(network, seen, classifier.task.boxes)
    assert (expected[:, 4] > 0).sum() >= 5
    assert difference(classifier.task, whole.numpy(), expected[None]) <= 0.03


def test_a_detector_that_can_not_be_cut() -> None:
    with pytest.raises(InputError, match="of torchvision's detectors ssdlite320_mobilenet_v3_large, .* can be cut"):
        load_model("torchvision/retinanet_resnet50_fpn:random")


def test_several_labels_by_name(tmp_path: Path) -> None:
    names = (("0.5", (0.5,) * 3), ("thresholds.txt", (0.1, 0.2, 0.3)))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    (tmp_path / "thresholds.txt").write_text("0.1\n0.2\n0.3\n")
    base = f"torchvision/mobilenet_v3_small:random,size=64,labels={tmp_path / 'labels.txt'}"
    for given, expected in names:
        threshold = given if given[0] == "0" else tmp_path / given
        assert load_model(f"{base},task=multilabel,threshold={threshold}").task == Multilabel(expected)
    for wrong, says in (
        ("task=detection", "task is 'detection'; give multilabel, or leave it out"),
        ("threshold=0.5", "threshold is for detectors, or with task=multilabel"),
        ("task=multilabel,threshold=2", "threshold is '2'; give"),
        (f"task=multilabel,threshold={tmp_path / 'labels.txt'}", "give a file with a number from 0 to 1 a line"),
    ):
        with pytest.raises(InputError, match=says):
            load_model(f"{base},{wrong}")


def test_a_task_of_its_own() -> None:
    for name in ("lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"):
        with pytest.raises(InputError, match="this network's task is its own; leave task out"):
            load_model(f"torchvision/{name}:random,task=multilabel")


def test_a_map_that_is_too_large() -> None:
    with pytest.raises(InputError, match="a map of 1100 x 1100; it can have 1 to 1048576 places; give a smaller size"):
        load_model("torchvision/lraspp_mobilenet_v3_large:random,size=1100")
