"""torchvision's segmentations and detectors with random weights that tell things apart, and photos to look at.

Weights as torch draws them would say the same everywhere: norms see photos first, and no class is likelier than others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from bottlenet.bundle import Bundle, Preprocess
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.export import export
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.photo import photo_to_pixels

SIDE = 64  # of a segmentation's input
DETECTOR_SIDE = 160
SSD_SIDE = 300  # it takes no other
CLASSES = 6  # of a detector
LAST = ("classifier.low_classifier", "classifier.4")  # layers of the classes of LRASPP, and of DeepLab and FCN
# name: a cut with one tensor, and its channels
SEGMENTATIONS = {"lraspp_mobilenet_v3_large": ("backbone.4", 40), "deeplabv3_mobilenet_v3_large": ("backbone.6", 40)}
DETECTIONS = {
    "ssdlite320_mobilenet_v3_large": ("backbone.features.0.6", 40),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone.body.6", 40),
}


def photo(seed: int, width: int = 130, height: int = 100) -> np.ndarray:
    """Soft random colours, so that every place says something."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def pixels(preprocess: Preprocess, count: int, first: int = 0) -> np.ndarray:
    """Load that many photos, (count, S, S, 3) uint8."""
    return np.stack([photo_to_pixels(photo(first + seed), preprocess) for seed in range(count)])


def uncut(classifier: Classifier, seen: np.ndarray) -> Tensor:
    """Run the unchanged network in torch on pixels (B, S, S, 3)."""
    with torch.no_grad():
        output: Tensor = classifier.module(Normalize(classifier.mean, classifier.std)(torch.from_numpy(seen)))
    return output


def count_what_is_seen(network: nn.Module) -> None:
    """Have norms take the mean of all that they see from now on, in place of a little of it each time."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train().momentum = None


def segmentation(name: str) -> Classifier:
    """Build a network of torchvision's, with norms that have seen photos."""
    torch.manual_seed(0)
    classifier = load_model(f"torchvision/{name}:random,size={SIDE}")
    module = classifier.module
    count_what_is_seen(module)
    module.train()
    seen = pixels(classifier.preprocess, 8, 500)
    uncut(classifier, seen)
    module.eval()
    last = [layer for key, layer in module.named_modules() if key in LAST]
    if last:
        last[0].bias.data -= uncut(classifier, seen).mean((0, 2, 3))  # type: ignore[operator]
    return classifier


def detector(name: str, folder: Path) -> tuple[nn.Module, str]:
    """Build a detector of torchvision's, and write its weights to `folder` for ours, whose name is returned."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    count_what_is_seen(network)
    side, transform = SSD_SIDE if name == "ssd300_vgg16" else DETECTOR_SIDE, network.transform
    transform.min_size = (side,)
    transform.fixed_size = transform.fixed_size and (side, side)
    seen = torch.from_numpy(pixels(Preprocess(side, 1.0, "bilinear"), 4, 500))
    with torch.no_grad():
        network(list(seen.permute(0, 3, 1, 2) / 255))
        for key, layer in network.named_modules():
            in_head = key.startswith("head.classification_head") and isinstance(layer, nn.Conv2d)
            if (in_head and layer.bias is not None) or key == "roi_heads.box_predictor.cls_score":
                layer.weight *= 0.05 if "vgg" in name else 4  # type: ignore[operator]  # VGG has no norms
    network.eval()
    save_file(network.state_dict(), folder / "own.safetensors")
    (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(CLASSES)))
    return network, f"torchvision/{name}:{folder / 'own.safetensors'},labels={folder / 'labels.txt'},size={side}"


def rows_of(network: nn.Module, seen: np.ndarray, most: int) -> np.ndarray:
    """Run torchvision's detector on (S, S, 3) uint8, with its own suppression: rows (most, 6)."""
    with torch.no_grad():
        (given,) = network([torch.from_numpy(seen).permute(2, 0, 1) / 255])
    made = np.zeros((most, 6), np.float32)
    columns = (given["boxes"] / seen.shape[0], given["scores"][:, None], given["labels"][:, None])
    made[: len(given["boxes"])] = torch.cat(columns, 1).numpy()
    return made


def exported(classifier: Classifier, cut: str, channels: int, folder: Path) -> Bundle:
    """Export with as many channels as the features have, at the finest setting."""
    net = insert(classifier, cut=cut, channels=channels, codec="raw", quality=0)
    seen = pixels(classifier.preprocess, 16, 300)
    with torch.no_grad():
        start_from_components(net, [net.head(torch.from_numpy(seen))], amplitude=4.0)
    bundle, _ = export(net.eval(), folder, pixels=seen[:2])
    return bundle
