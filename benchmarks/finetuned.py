"""A classifier fine-tuned on other classes: `--model finetuned:classifier`, with its weights where FINETUNED says.

    photo -> [start, as it was] -> features on disk -> [later layers, then a new last one] -> scores

The new layer learns alone for the first pass, then the layers behind the cut with it. The norms' statistics and the
depthwise kernels stay, as they do when a bottleneck unit is trained.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.net.cut import Split, split
from bottlenet.net.models import Classifier, Normalize, fingerprint, load_model
from bottlenet.photos.folders import list_photos
from bottlenet.runtime import open_session, run_graph
from bottlenet.train.features import FeatureCache, Frozen, graph_of, read_features, train_and_held_out
from bottlenet.train.objective import learning_rate
from bottlenet.train.runs import Averaged
from record import write_whole

WEIGHTS = "FINETUNED"  # environment variable: the file that `fine_tune` wrote
SMOOTHING = 0.1  # of the labels


@dataclass(frozen=True)
class FineTuning:
    """What the classifier was told."""

    model: str  # what it starts from
    cut: str  # the layers behind it learn
    epochs: int  # passes over the photos; in the first one only the new layer learns
    crops: int  # sets of random crops that the passes take in turn
    batch: int = 32
    layer_lr: float = 1e-3  # peak learning rate of the new layer
    lr: float = 1e-4  # of the layers before it
    seed: int = 0


def classifier() -> Classifier:
    """Load the classifier that the environment names. InputError: it names none, or the file is damaged."""
    if not (path := os.environ.get(WEIGHTS)):
        raise InputError(f"no weights: set {WEIGHTS} to the file that caltech101.py wrote, finetuned.safetensors")
    return load(Path(path))


def load(path: Path) -> Classifier:
    """Load the classifier of a file. InputError: there is none, or it is damaged."""
    told, state = contents(path)
    made = with_classes(load_model(told["tuning"]["model"]), told["labels"], told["dataset"])
    made.module.load_state_dict(state)
    return made


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a file says about the weights, and the weights."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["told"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} can't be used as weights ({error}); remove it, and it is made again") from error


def with_classes(base: Classifier, labels: tuple[str, ...] | list[str], dataset: str) -> Classifier:
    """Copy a classifier with a new last layer, for other classes. InputError: the network has no linear layer."""
    module = copy.deepcopy(base.module)
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError(f"{base.name} has no linear layer to give other classes; give a model that ends with one")
    name, last = layers[-1]
    new = nn.Linear(last.in_features, len(labels))
    nn.init.normal_(new.weight, std=0.01)
    nn.init.zeros_(new.bias)
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, new)
    return replace(
        base,
        name=f"{base.name} on {dataset}",
        module=module,
        labels=tuple(labels),
        weights_licence=f"{base.weights_licence}; fine-tuned on {dataset}",
    )


def fine_tune(
    tuning: FineTuning, photos: Path, labels: tuple[str, ...], dataset: str, work: Path, progress: Progress
) -> Path:
    """Train on the folder `photos`, unless it was done before, and say where the weights are, below `work`.

    InputError: weights of another tuning or other classes are there.
    """
    path = work / "finetuned.safetensors"
    told: dict[str, Any] = {"tuning": asdict(tuning), "labels": list(labels), "dataset": dataset}
    if path.exists():
        there = contents(path)[0]
        if any(there[key] != value for key, value in told.items()):
            raise InputError(f"{path} is of another fine-tuning, {there['tuning']}; give a new --work")
        return path
    torch.manual_seed(tuning.seed)
    made = with_classes(load_model(tuning.model), labels, dataset)
    told["passes"] = learn(tuning, made, photos, work / "features", progress)
    state = {key: value.detach().contiguous() for key, value in made.module.state_dict().items()}
    write_whole(path, save(state, metadata={"told": json.dumps(told)}))
    return path


def learn(
    tuning: FineTuning, made: Classifier, photos: Path, features_folder: Path, progress: Progress
) -> list[dict[str, float]]:
    """Train the module; returns loss and top-1, percent, on the photos that were held out, pass by pass."""
    halves = split(made.module, tuning.cut, made.input_size)
    start = fixed_start(made, halves)
    cache = open_cache(tuning, made, halves, photos, features_folder)
    layer = [m for m in made.module.modules() if isinstance(m, nn.Linear)][-1]
    earlier = freeze(made.module, halves.tail, layer)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(layer.parameters()), "peak": tuning.layer_lr, "weight_decay": 1e-2},
            {"params": earlier, "peak": tuning.lr, "weight_decay": 1e-4},
        ],
        betas=(0.9, 0.98),
    )
    averaged, passes, steps = Averaged(made.module), list[dict[str, float]](), 0
    for epoch in range(tuning.epochs):
        crop_set = epoch % tuning.crops
        fill(cache, crop_set, start, progress)
        train_set, held_out = train_and_held_out(cache)
        per_epoch = len(train_set) // tuning.batch
        if not per_epoch:
            raise InputError(f"{len(train_set)} photos to learn from, fewer than a batch of {tuning.batch}; give more")
        for p in earlier:
            p.requires_grad_(epoch > 0)
        order = np.random.default_rng((tuning.seed, epoch)).permutation(train_set)
        task = progress.add_task(f"fine-tuning, pass {epoch + 1} of {tuning.epochs}", total=per_epoch)
        for step in range(per_epoch):
            positions = order[step * tuning.batch : (step + 1) * tuning.batch]
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate(steps / (per_epoch * tuning.epochs))
            scores = halves.tail(read_features(cache, crop_set, positions)[0])
            loss = F.cross_entropy(scores, labels_of(cache, positions), label_smoothing=SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            averaged.update()
            steps += 1
            progress.update(task, completed=step + 1)
        progress.remove_task(task)
        with averaged.swapped_in():
            passes.append({"epoch": epoch + 1, **judged(halves.tail, cache, held_out)})
        progress.console.print(f"fine-tuning: {passes[-1]}", highlight=False, soft_wrap=True)
    averaged.copy_in()
    return passes


def freeze(module: nn.Module, tail: nn.Module, layer: nn.Linear) -> list[nn.Parameter]:
    """Only `tail` may learn, without its depthwise kernels and statistics; what that is beside `layer` comes back."""
    module.eval().requires_grad_(False)
    tail.requires_grad_(True)
    for part in tail.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            part.requires_grad_(False)
    own = {id(p) for p in layer.parameters()}
    return [p for p in tail.parameters() if p.requires_grad and id(p) not in own]


def fixed_start(made: Classifier, halves: Split) -> Frozen:
    """Run the layers before the cut in onnxruntime. The cache wants scores too: they are one 0 a photo."""
    size, normalize = made.preprocess.size, Normalize(made.mean, made.std)
    graph = graph_of(nn.Sequential(normalize, halves.head), size, "features")
    session = open_session(graph, threads=torch.get_num_threads())

    def run(pixels: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return run_graph(session, pixels=pixels), np.zeros((len(pixels), 1), np.float32)

    return run


def open_cache(tuning: FineTuning, made: Classifier, halves: Split, photos: Path, folder: Path) -> FeatureCache:
    """Open the features of the layers before the cut, which any last layer shares."""
    size = made.preprocess.size
    c, height, width = halves.cut.shape
    return FeatureCache(
        folder,
        list_photos(photos),
        (size, size),
        network=f"{tuning.cut} {fingerprint(load_model(tuning.model))}",
        shape=(c, height, width),
        classes=1,
        seed=tuning.seed,
    )


def fill(cache: FeatureCache, crop_set: int, start: Frozen, progress: Progress) -> None:
    """Fill a set of crops, if it is missing."""
    if cache.has(crop_set):
        return
    task = progress.add_task(f"features, crops {crop_set + 1}", total=len(cache.photos))
    for done in cache.fill(crop_set, start):
        progress.update(task, completed=done)
    progress.remove_task(task)


def labels_of(cache: FeatureCache, positions: np.ndarray) -> Tensor:
    """Return (B,) class indices."""
    return torch.tensor([cache.photos[i].label for i in positions])


@torch.no_grad()
def judged(tail: nn.Module, cache: FeatureCache, held_out: np.ndarray) -> dict[str, float]:
    """Compute loss and top-1 on crops that were not learned from."""
    loss, right = 0.0, 0
    for start in range(0, len(held_out), 32):
        positions = held_out[start : start + 32]
        scores, labels = tail(read_features(cache, 0, positions)[0]), labels_of(cache, positions)
        loss += F.cross_entropy(scores, labels, reduction="sum").item()
        right += int((scores.argmax(1) == labels).sum())
    count = max(1, len(held_out))
    return {"photos": count, "loss": loss / count, "top1": 100 * right / count}
