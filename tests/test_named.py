"""Names of classifiers from elsewhere, what is asked for, and weights that don't fit. The libraries that they come
from are in tests_zoo.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError, MissingExtraError
from bottlenet.net import from_transformers
from bottlenet.net.models import (
    SETTINGS,
    Classifier,
    Metadata,
    assemble,
    check_classifier,
    load_model,
    load_weights,
    parse_name,
    safe_download,
)

SAID = Metadata(224, 0.875, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), ("a", "b"), "MIT")


def small(classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def classifier(classes: int = 2) -> Classifier:
    labels = tuple(f"class {number}" for number in range(classes))
    return Classifier("small", small(classes), Preprocess(32, 1.0, "bicubic"), (0,) * 3, (1,) * 3, labels, "MIT")


@given(
    st.sampled_from(["resnet50", "vit_tiny_patch16_224.augreg_in1k"]),
    st.sampled_from(["", "DEFAULT", "random", "a/b.safetensors"]),
    st.dictionaries(st.sampled_from(list(SETTINGS)), st.sampled_from(["224", "0.5", "pets.txt", "a=b"])),
)
def test_a_name_is_its_parts(network: str, weights: str, settings: dict[str, str]) -> None:
    rest = network + (f":{weights}" if weights else "") + "".join(f",{key}={value}" for key, value in settings.items())
    named = parse_name(f"timm/{rest}", "timm", rest)
    assert (named.network, named.weights, named.settings) == (network, weights, settings)
    assert named.whole == f"timm/{rest}"


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("", "names no network; give timm/NAME"),
        ("resnet18,sise=3", "'sise=3' is no setting: nearest is size; behind commas can stand size=, crop="),
        ("resnet18,size", "'size' is no setting"),
        ("resnet18,size=", "'size=' is no setting"),
        ("resnet18,size=32,size=64", "'size=64' is no setting"),
    ],
)
def test_a_name_that_is_none(rest: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_name(f"timm/{rest}", "timm", rest)
    assert "\n" not in str(caught.value)


def assembled(settings: str, metadata: Metadata = SAID) -> Classifier:
    return assemble(parse_name(f"timm/x{settings}", "timm", f"x{settings}"), small(), metadata)


def test_settings_go_before_what_the_weights_say(tmp_path: Path) -> None:
    (tmp_path / "pets.txt").write_text("cat\ndog\n\n")
    made = assembled(f",size=64,crop=1,interpolation=bicubic,mean=0.1/0.2/0.4,std=0.5,labels={tmp_path / 'pets.txt'}")
    assert made.preprocess == Preprocess(64, 1.0, "bicubic")
    assert made.labels == ("cat", "dog")
    assert made.mean == pytest.approx((25.5, 51, 102))
    assert made.std == pytest.approx((127.5,) * 3)
    assert made.weights_licence == "MIT"


def test_what_the_weights_say_is_taken() -> None:
    made = assembled("")
    assert made.preprocess == Preprocess(224, 0.875, "bilinear")
    assert made.mean == pytest.approx((127.5, 102, 76.5))
    assert (made.labels, made.name) == (("a", "b"), "timm/x")


def test_imagenet_labels_have_a_name_of_their_own() -> None:
    assert len(assembled(",labels=imagenet-1k").labels) == 1000


@pytest.mark.parametrize("missing", ["size", "crop", "interpolation", "mean", "std", "labels"])
def test_what_nobody_says_is_asked_for(missing: str) -> None:
    without = dataclasses.replace(SAID, **{missing: None}, remark="as it squashes")
    with pytest.raises(InputError, match=rf"don't say {missing} \(as it squashes\); put .*: {missing}=\.\.\. \("):
        assembled("", without)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (",size=huge", "size is 'huge'; give the side of the network's input, pixels, 8 to 4096"),
        (",size=4", "size is '4'"),
        (",size=32.5", "size is '32.5'"),
        (",crop=0", "crop is '0'; give the centre crop's share"),
        (",crop=nan", "crop is 'nan'"),
        (",interpolation=nearest", "choose one of bicubic, bilinear"),
        (",mean=1/2", "mean is '1/2'; give three numbers such as 0.5/0.5/0.5"),
        (",mean=a", "mean is 'a'"),
        (",mean=inf", "mean is 'inf'"),
        (",std=0", "std above 0"),
        (",labels=none.txt", "none.txt: No such file or directory; give a file with one class a line"),
    ],
)
def test_settings_that_can_not_be(settings: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        assembled(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"cat\n\ndog\n", b"\xff\xfe\n"])
def test_labels_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"labels\.txt: .*one class a line"):
        assembled(f",labels={tmp_path / 'labels.txt'}")


def test_a_bundle_tells_no_folder() -> None:
    named = parse_name("x", "timm", "resnet18:/home/me/pets.safetensors,labels=/home/me/pets.txt")
    assert named.short == "timm/resnet18:pets.safetensors"
    assert parse_name("x", "hf", "/home/me/vit").short == "hf/vit"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_a_pickle_is_refused(suffix: str) -> None:
    with pytest.raises(InputError, match="holds a pickle, which can run any code; write its tensors with safetensors"):
        _ = parse_name("x", "timm", f"resnet18:mine{suffix}").weights_file


def test_weights_of_ones_own(tmp_path: Path) -> None:
    made, other = classifier(), classifier()
    save_file(other.module.state_dict(), tmp_path / "own.safetensors")
    load_weights(made, tmp_path / "own.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(made.module.parameters(), other.module.parameters(), strict=True))


def changed(tmp_path: Path, change: dict[str, torch.Tensor | None]) -> Path:
    tensors = {**small().state_dict(), **change}
    path = tmp_path / "own.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"3.bias": None}, r"does not fit small: it lacks 3\.bias; give weights of that network"),
        ({"9.bias": torch.zeros(1)}, r"it has besides 9\.bias"),
        ({"0.bias": torch.zeros(5)}, r"other shapes: 0\.bias is \(5,\), not \(4,\)"),
        (
            {"0.bias": None, "0.weight": None, "3.bias": None, "3.weight": None},
            r"it lacks 0\.weight, 0\.bias, 3\.weight and 1 more",
        ),
        (
            {"3.weight": torch.zeros(37, 4), "3.bias": torch.zeros(37)},
            r"2 labels, but the weights in own\.safetensors are for 37 classes; give one label a class",
        ),
    ],
)
def test_weights_that_do_not_fit(change: dict[str, torch.Tensor | None], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_weights(classifier(), changed(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_second_head_may_be_left_out(tmp_path: Path) -> None:
    path = changed(tmp_path, {"aux1.weight": torch.zeros(3)})
    load_weights(classifier(), path, ignored=("aux1.",))
    with pytest.raises(InputError, match=r"besides aux1\.weight"):
        load_weights(classifier(), path)


def test_counters_of_norms_may_be_missing(tmp_path: Path) -> None:
    made = dataclasses.replace(classifier(), module=nn.Sequential(nn.BatchNorm2d(3), *small().children()))
    tensors = {name: value for name, value in made.module.state_dict().items() if "num_batches" not in name}
    save_file({**tensors, "0.weight": torch.full((3,), 2.0)}, tmp_path / "own.safetensors")
    load_weights(made, tmp_path / "own.safetensors")
    assert made.module[0].weight.tolist() == [2, 2, 2]


def test_a_file_that_holds_no_weights(tmp_path: Path) -> None:
    (tmp_path / "own.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=r"own\.safetensors: .*give the weights of small as safetensors"):
        load_weights(classifier(), tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="none.safetensors: "):
        load_weights(classifier(), tmp_path / "none.safetensors")


def test_a_download_that_fails_is_one_line() -> None:
    message = "its weights can't be had .OSError: no route.; without a network give weights of your own"
    with pytest.raises(InputError, match=message) as caught, safe_download(parse_name("timm/x", "timm", "x")):
        raise OSError("no route\nto host")
    assert "\n" not in str(caught.value)


def test_a_download_runs_no_code(tmp_path: Path) -> None:
    """Whatever a library asks for, torch reads tensors and nothing else."""
    file = tmp_path / "weights.pth"
    torch.save({"weights": Path()}, file)
    named = parse_name("timm/x", "timm", "x")
    with pytest.raises(InputError, match="weights can't be had .UnpicklingError"), safe_download(named):
        torch.load(file, weights_only=False)
    torch.load(file, weights_only=False)  # what follows is as it was


def test_labels_are_as_many_as_scores() -> None:
    assert check_classifier(classifier(3)).labels == ("class 0", "class 1", "class 2")
    with pytest.raises(InputError, match="small: 3 labels, but the network gives 2 scores; give one label a score"):
        check_classifier(dataclasses.replace(classifier(3), module=small(2)))
    with pytest.raises(InputError, match=r"the network gives \(2, 4, 30, 30\) for 2 photos"):
        check_classifier(dataclasses.replace(classifier(), module=nn.Conv2d(3, 4, 3)))
    with pytest.raises(InputError, match="does not run on 2 photos of 32 x 32 pixels .RuntimeError: "):
        check_classifier(dataclasses.replace(classifier(), module=nn.Linear(5, 2)))


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("torchvision/resnet50", "torchvision.models", "torchvision"),
        ("timm/resnet50", "timm", "timm"),
        ("hf:folder", "transformers", "transformers"),
    ],
)
def test_a_missing_extra_says_how_to_install_it(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'^{name} .*: pip install "\.\[{extra}\]"'):
        load_model(name)


PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.5, 0.5],
}
NAMED = {"id2label": {"0": "cat", "1": "dog"}}
NEXT = {"image_processor_type": "ConvNextImageProcessor", "do_center_crop": False, "crop_pct": 0.875}


def test_a_processor_is_read() -> None:
    found = from_transformers.metadata_of(NAMED, PROCESSOR)
    assert (found.size, found.crop, found.interpolation) == (224, 0.875, "bicubic")
    assert found.mean == pytest.approx((0.5, 0.4, 0.3))
    assert (found.labels, found.remark) == (("cat", "dog"), "")


@pytest.mark.parametrize(
    ("changes", "size", "crop", "remark"),
    [
        ({"size": {"height": 224, "width": 224}, "do_center_crop": False}, 224, None, "squashes"),
        ({"size": 224, "do_center_crop": False}, 224, None, "squashes"),
        ({"size": {"height": 256, "width": 256}}, 224, None, "squashes"),
        ({"do_resize": False}, 224, None, "as large as it is"),
        ({"crop_size": {"height": 288, "width": 288}}, 288, None, "no square"),  # pads
        ({"crop_size": {"height": 224, "width": 200}}, None, None, "no square"),
        ({"image_processor_type": "LevitImageProcessor"}, 224, None, "in its own way"),
        ({**NEXT, "size": {"shortest_edge": 224}}, 224, 0.875, ""),
        ({**NEXT, "size": {"shortest_edge": 384}}, 384, None, "squashes"),
        ({"size": None, "crop_size": None}, None, None, "no square"),
    ],
)
def test_what_a_centre_crop_is_not(
    changes: dict[str, object], size: int | None, crop: float | None, remark: str
) -> None:
    found = from_transformers.metadata_of(NAMED, {**PROCESSOR, **changes})
    assert (found.size, found.crop) == (size, crop)
    assert remark in found.remark
    assert bool(remark) == bool(found.remark)


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({"do_normalize": False}, (0.0,) * 3, (1.0,) * 3),
        ({"do_normalize": False, "rescale_factor": 2 / 255}, (0.0,) * 3, (0.5,) * 3),
        ({"image_mean": 0.5}, (0.5,) * 3, (0.5,) * 3),
        ({"image_mean": [0.5]}, None, (0.5,) * 3),
        ({"image_mean": None}, None, (0.5,) * 3),
        ({"rescale_offset": True}, None, None),
    ],
)
def test_normalisation(changes: dict[str, object], mean: object, std: object) -> None:
    found = from_transformers.metadata_of(NAMED, {**PROCESSOR, **changes})
    assert found.mean == (mean and pytest.approx(mean))
    assert found.std == (std and pytest.approx(std))


@pytest.mark.parametrize(
    "config", [{}, {"id2label": {}}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {"id2label": {"0": "a", "2": "b"}}]
)
def test_classes_without_names_have_no_labels(config: dict[str, object]) -> None:
    assert from_transformers.labels_of(config) is None


def test_without_a_processor_everything_is_asked_for() -> None:
    found = from_transformers.metadata_of(NAMED, {})
    assert (found.size, found.crop, found.mean, found.std) == (None,) * 4
    assert found.remark == "it has no preprocessor_config.json"
