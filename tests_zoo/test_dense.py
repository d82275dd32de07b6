"""torchvision's segmentations and detectors through the whole path, to a server on a socket, beside the uncut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from bottlenet.edge import photo_to_pixels
from bottlenet.errors import InputError
from bottlenet.measure.bench import split_server
from bottlenet.net.cut import cuts, split
from bottlenet.net.export import difference
from bottlenet.net.from_torchvision import DETECTORS
from bottlenet.net.models import Normalize, load_model
from bottlenet.task import Detection, Multilabel, Segmentation
from dense import detected, segmented
from dense_networks import DETECTIONS, SEGMENTATIONS, SIDE, detector, photo, rows_of, segmentation


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_a_segmentation_through_a_server(name: str, tmp_path: Path) -> None:
    classifier = segmentation(name)
    assert classifier.task == Segmentation(SIDE, SIDE)
    assert (classifier.preprocess.crop_fraction, len(classifier.labels)) == (1.0, 21)
    row, answers = segmented(name, tmp_path, [photo(seed) for seed in range(4)])
    for answer in answers:
        assert answer.segments is not None
        assert (answer.segments.square.left, answer.segments.square.side) == (15, 100)  # type: ignore[union-attr]
    print(row)
    assert len({each.class_index for answer in answers for each in answer.segments.shares}) >= 3  # type: ignore[union-attr]
    assert row.compared == 4 * SIDE**2
    assert row.same >= 0.95
    assert row.another < 0.5


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
    save_file(segmentation("lraspp_mobilenet_v3_large").module.state_dict(), tmp_path / "own.safetensors")
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
    assert told["agreement"] > 0.5  # after 12 steps; by chance a twelfth would agree
    run("export", "run", "-o", "bundle")
    with split_server([tmp_path / "bundle"]) as port:
        shown = run("classify", "photos/0.png", "--to", f"ws://127.0.0.1:{port}", "--bundle", "bundle", "--maps", ".")
    assert "class" in shown
    with Image.open(tmp_path / "0.png.png") as image:
        assert image.size == (64, 64)


@pytest.mark.parametrize("name", DETECTIONS)
def test_a_detector_through_a_server(name: str, tmp_path: Path) -> None:
    """Beside torchvision's own forward, with its own suppression, on the same pixels."""
    row, _ = detected(name, tmp_path, [photo(seed) for seed in range(3)])
    print(row)
    assert row.compared >= 30
    # With random weights thousands of places are nearly as sure as each other: 8 bits a symbol decide which is first.
    assert row.same >= (0.6 if "faster" in name else 0.8)
    assert row.another < row.same - 0.1


def detectors() -> list[str]:
    """With ZOO_EXPORT=all the slow one too."""
    slow = () if os.environ.get("ZOO_EXPORT") == "all" else ("fasterrcnn_resnet50_fpn_v2",)
    return [name for name in DETECTORS if name not in slow]


@pytest.mark.parametrize("name", detectors())
def test_detectors_find_what_torchvision_finds(name: str, tmp_path: Path) -> None:
    network, named = detector(name, tmp_path)
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
    with pytest.raises(InputError, match="of torchvision's detectors give one of ssdlite320_mobilenet_v3_large, "):
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
