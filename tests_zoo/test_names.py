"""Classifiers of torchvision, timm and transformers by name: what their weights say, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torchvision.models import ResNet50_Weights, get_model, list_models

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError
from bottlenet.net import from_torchvision
from bottlenet.net.cut import cuts, split
from bottlenet.net.models import imagenet_labels, load_model


def test_torchvisions_weights_say_everything() -> None:
    made = load_model("torchvision/resnet50:random")
    said = ResNet50_Weights.DEFAULT
    assert made.preprocess == Preprocess(224, 224 / 232, "bilinear")
    assert made.labels == tuple(said.meta["categories"])
    assert made.mean == pytest.approx([255 * value for value in said.transforms().mean])
    assert made.std == pytest.approx([255 * value for value in said.transforms().std])
    assert made.name == "torchvision/resnet50:random"


@pytest.mark.parametrize("network", ["resnet50", "vit_b_16", "inception_v3", "regnet_y_16gf"])
def test_every_weights_of_torchvision_can_be_described(network: str) -> None:
    import torchvision.models as models

    for weights in models.get_model_weights(network):
        said = from_torchvision.metadata_of(weights)
        assert said.size == weights.transforms().crop_size[0]
        assert 0.5 < said.crop <= 1
        assert len(said.labels) == 1000
    assert from_torchvision.metadata_of(models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1).licence.startswith("https://")


def test_weights_are_loaded_by_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub stands in for by a state dict that is there already."""
    theirs = get_model("resnet18", weights=None).state_dict()
    asked = []

    def download(url: str, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        asked.append(url)
        return theirs

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    made = load_model("torchvision/resnet18")
    assert made.name == "torchvision/resnet18"
    assert asked[0].endswith(".pth")
    assert all(torch.equal(value, theirs[name]) for name, value in made.module.state_dict().items())
    assert not made.module.training
    load_model("torchvision/resnet18:IMAGENET1K_V1")
    assert len(asked) == 2


def test_a_network_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(InputError, match="torchvision/resnet18: its weights can't be had .URLError") as caught:
        load_model("torchvision/resnet18")
    assert ":random" in str(caught.value)
    with pytest.raises(InputError, match="timm/resnet18: its weights can't be had"):  # the hub is set to be offline
        load_model("timm/resnet18")


def refuse(*arguments: Any, **options: Any) -> None:
    from urllib.error import URLError

    raise URLError("no network in tests")


def test_timms_weights_say_everything() -> None:
    made = load_model("timm/resnet50:random")
    said = timm.get_pretrained_cfg("resnet50")
    assert made.preprocess.size == said.test_input_size[1]  # what its accuracy is stated for
    assert made.preprocess.crop_fraction == said.test_crop_pct
    assert made.labels == imagenet_labels()
    assert made.weights_licence == said.license


def test_timms_tags_say_the_classes() -> None:
    from bottlenet.net.from_timm import labels_of

    known = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained()}
    for name, config in known.items():
        labels = labels_of(config)
        assert labels is None or len(labels) == config.num_classes, name
    assert labels_of(known["resnet50.a1_in1k"]) == imagenet_labels()
    assert labels_of(known["mixer_b16_224.miil_in21k"])[0] != "tench"
    assert labels_of(known["vit_base_patch16_clip_224.openai"]) is None  # no classifier


def test_weights_are_loaded_by_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = timm.create_model("resnet10t").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **options: dict(theirs))
    for name in ("timm/resnet10t", "timm/resnet10t.c3_in1k", "timm/resnet10t:c3_in1k"):
        made = load_model(name)
        assert all(torch.equal(value, theirs[key]) for key, value in made.module.state_dict().items())


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_weights_of_ones_own(source: str, tmp_path: Path) -> None:
    make = get_model if source == "torchvision" else timm.create_model
    theirs = make("resnet18", num_classes=3)
    save_file(theirs.state_dict(), tmp_path / "pets.safetensors")
    (tmp_path / "pets.txt").write_text("cat\ndog\nbird\n")
    name = f"{source}/resnet18:{tmp_path / 'pets.safetensors'}"
    with pytest.raises(InputError, match="its weights don't say labels; put .*labels="):
        load_model(name)
    made = load_model(f"{name},labels={tmp_path / 'pets.txt'},size=64")
    assert (made.labels, made.preprocess.size) == (("cat", "dog", "bird"), 64)
    assert made.name == f"{source}/resnet18:pets.safetensors"
    assert made.weights_licence == "not stated"
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_same(made.module(x), theirs.eval()(x))
    (tmp_path / "pets.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"2 labels, but the weights in pets\.safetensors are for 3 classes"):
        load_model(f"{name},labels={tmp_path / 'pets.txt'}")
    with pytest.raises(InputError, match=r"does not fit .*: it lacks .* more; it has besides bn1\.bias"):
        load_model(f"{source}/vgg11:{tmp_path / 'pets.safetensors'},labels=imagenet-1k")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet5", r"torchvision has no classifier 'resnet5': nearest are resnet50, "),
        ("torchvision/raft_small", "torchvision has no classifier 'raft_small'"),  # says what moves, does not classify
        ("torchvision/xyz", r"has no classifier 'xyz': it has \d+"),
        ("torchvision/resnet50:IMAGENET1K_V3", "no weights 'IMAGENET1K_V3': nearest are IMAGENET1K_V"),
        ("torchvision/vit_b_16:random,size=100", "vit_b_16:random,size=100: Input shape indivisible by patch size"),
        ("torchvision/resnet50:mine.pth", "mine.pth holds a pickle"),
        ("torchvision/resnet50:none.safetensors,labels=imagenet-1k", "none.safetensors: "),
        ("timm/resnet5", "timm has no classifier 'resnet5': nearest are "),
        ("timm/resnet50:a99_in1k", "resnet50 has no weights 'a99_in1k': nearest are "),
        ("timm/resnet50.a99_in1k:random", "resnet50 has no weights 'a99_in1k'"),
        ("timm/vit_base_patch16_clip_224.openai:random", "don't say labels"),
        ("hf:no_such_folder", "no_such_folder/config.json: No such file or directory; give a folder"),
    ],
)
def test_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_what_a_centre_crop_is_not_is_asked_for() -> None:
    known = timm.list_pretrained("vit_base*")
    squashed = next(name for name in known if timm.get_pretrained_cfg(name).crop_mode == "squash")
    with pytest.raises(InputError, match="don't say crop.*'squash'"):
        load_model(f"timm/{squashed}:random,labels=imagenet-1k")


def test_every_classifier_of_torchvision_is_known() -> None:
    import torchvision.models as models

    assert {"resnet50", "vit_b_16", "maxvit_t"} <= set(list_models(module=models))
    assert not any("fcn" in name for name in list_models(module=models))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
PROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 36},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}
FOLDERS = {
    "beit": lambda names: transformers.BeitConfig(**SMALL, intermediate_size=64, **names),
    "convnext": lambda names: transformers.ConvNextConfig(num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], **names),
    "dinov2": lambda names: transformers.Dinov2Config(**SMALL, **names),
    "mobilenet_v2": lambda names: transformers.MobileNetV2Config(image_size=32, **names),
    "resnet": lambda names: transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], **names),
    "swin": lambda names: transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, **names
    ),
    "vit": lambda names: transformers.ViTConfig(**SMALL, intermediate_size=64, **names),
}


def saved(kind: str, folder: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    names = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}
    module = transformers.AutoModelForImageClassification.from_config(FOLDERS[kind](names)).eval()
    module.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return module


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """But for the last bits: weights mapped from a file lie elsewhere in memory, which changes how sums are taken."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_transformers(kind: str, tmp_path: Path) -> None:
    module = saved(kind, tmp_path)
    made = load_model(f"hf:{tmp_path}")
    assert load_model(str(tmp_path)).name == made.name == f"hf/{tmp_path.name}"
    assert made.labels == ("cat", "dog", "bird")
    assert made.preprocess == Preprocess(32, 32 / 36, "bilinear")
    assert made.mean == pytest.approx((127.5, 102, 76.5))
    x = torch.randn(2, 3, 32, 32)
    found = cuts(made.module, made.input_size)
    assert sum(cut.layout is not None for cut in found) >= 4
    with torch.no_grad():
        whole = made.module(x)
        assert_same(whole, module(x).logits)
        for cut in found:
            halves = split(made.module, cut.name, made.input_size)
            assert torch.equal(halves.tail(halves.head(x)), whole), cut


def test_blue_may_come_first(tmp_path: Path) -> None:
    module = saved("resnet", tmp_path)
    changed = {**PROCESSOR, "do_flip_channel_order": True, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(changed))
    made = load_model(f"hf:{tmp_path}")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_same(made.module(x), module(x[:, [2, 1, 0]]).logits)
    assert (made.mean, made.std) == ((0,) * 3, (255,) * 3)


def test_weights_that_do_not_fit_a_folder(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bias = tensors.pop("classifier.bias")
    tensors["vit.layernorm.weight"] = torch.zeros(5)
    save_file({**tensors, "classifier.gain": bias}, tmp_path / "model.safetensors", {"format": "pt"})
    message = r"they lack classifier\.bias; they have besides classifier\.gain; other shapes: vit\.layernorm\.weight"
    with pytest.raises(InputError, match=message):
        load_model(str(tmp_path))


def broken(folder: Path, what: str) -> None:
    saved("resnet", folder)
    config = json.loads((folder / "config.json").read_text())
    if what == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif what == "no weights":
        (folder / "model.safetensors").unlink()
    elif what == "code":
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    elif what == "unknown kind":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_kind"}))
    elif what == "no JSON":
        (folder / "config.json").write_text("{")
    elif what == "squash":
        squashed = {**PROCESSOR, "size": {"height": 32, "width": 32}, "do_center_crop": False}
        (folder / "preprocessor_config.json").write_text(json.dumps(squashed))
    elif what == "no labels":
        config["id2label"] = {number: f"LABEL_{number}" for number in range(3)}
        (folder / "config.json").write_text(json.dumps(config))
    elif what == "labels":
        (folder / "labels.txt").write_text("cat\ndog\n")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("pickle", r"no model\.safetensors in it; pytorch_model\.bin is a pickle"),
        ("no weights", r"no model\.safetensors in it"),
        ("code", "names code of its own, which is not run"),
        ("unknown kind", "transformers can't load an image classifier from it"),
        ("no JSON", r"config\.json: .*Expecting property name"),
        ("squash", r"don't say crop \(its processor squashes the photo to a square: crop=1 takes the centre square"),
        ("no labels", "don't say labels"),
        ("labels", "2 labels, but the network gives 3 scores"),
    ],
)
def test_a_folder_that_can_not_be_used(what: str, message: str, tmp_path: Path) -> None:
    broken(tmp_path, what)
    settings = f",labels={tmp_path / 'labels.txt'}" if what == "labels" else ""
    with pytest.raises(InputError, match=message) as caught:
        load_model(f"hf:{tmp_path}{settings}")
    assert "\n" not in str(caught.value)


def test_the_command(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    command = [sys.executable, "-m", "bottlenet.cli", "cuts"]
    listed = subprocess.run([*command, str(tmp_path), "--json"], capture_output=True, text=True, timeout=120)
    assert (listed.returncode, listed.stderr) == (0, "")
    found = {cut["name"]: cut for cut in json.loads(listed.stdout)["cuts"]}
    assert found["model.vit.layers.0"]["layout"] == {"kind": "tokens", "grid": [32, 4, 4], "extra": 1, "parts": []}
    wrong = subprocess.run([*command, "timm/resnet5"], capture_output=True, text=True, timeout=120)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: timm/resnet5: timm has no classifier")
    assert wrong.stderr.count("\n") == 1
