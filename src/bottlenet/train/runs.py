"""A run's folder: its configuration, its log, its checkpoint, and the bundle that is exported from it.

run.json                 the configuration that the folder belongs to
log.jsonl                a line every few steps, and one a pass
checkpoint.safetensors   everything a run needs to go on exactly where it was, with the average of its weights
"""

import contextlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from bottlenet.bundle import Bundle, Preprocess
from bottlenet.bundle.manifest import Exit
from bottlenet.errors import InputError, PhotoError, reason
from bottlenet.files import write_whole
from bottlenet.net.build import insert
from bottlenet.net.export import ExitGraph, Fidelity, OwnNetwork, exit_entry, export, origin_of
from bottlenet.net.model import BottleNet, Origin, to_uint8
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.net.trace import count_flops
from bottlenet.net.unit import LearnedReduction
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.crops import is_held_out
from bottlenet.photos.folders import list_samples
from bottlenet.records import is_number
from bottlenet.task import needs_one_label
from bottlenet.train.config import RUN, TrainConfig, read_config
from bottlenet.wire.codecs import make_codec
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.tables import Bins, fit_tables

CHECKPOINT = "checkpoint.safetensors"

LOG = "log.jsonl"
NEAR_TARGET = 0.1  # above what was asked for, as a share, that counts as reached
FREE = ("processes", "workers")  # what a run may go on with otherwise: neither changes what it learns from
COMPARED_PHOTOS = 32  # of the training folders, on which torch and onnxruntime must agree
BOUND_PHOTOS = 2000  # of those held out, on which the exit's confidence is calibrated
TABLE_PHOTOS = 6000  # of the same, on whose symbols the entropy codec's tables are counted

# What all channels do at a place is worth a tenth of a percent of the bytes on real latents, and makes the file four
# times as large.
TABLE_BINS = Bins(energy=())


def check_run(run: Path, config: TrainConfig) -> None:
    """Raise InputError where the folder holds something else than a run of this configuration, which would mix two."""
    config.check_out()
    if not (run / RUN).exists():
        return
    there, mine = asdict(read_config(run)), asdict(config)
    if different := [name for name in mine if name not in FREE and there[name] != mine[name]]:
        name = different[0]
        raise InputError(f"{run} holds a run with {name} {there[name]!r}, not {mine[name]!r}; give a new folder")


def claim(run: Path, config: TrainConfig) -> None:
    """Write down whose folder it is, whole or not at all, where `check_run` found nothing. InputError: it can't."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not (run / RUN).exists():
            write_whole(run / RUN, json.dumps(asdict(config), indent=1).encode() + b"\n")
    except OSError as error:
        raise InputError(f"{run}: no run can be kept there ({error.strerror}); give another folder") from error


def summary(config: TrainConfig, held_out: Sequence[Mapping[str, float]]) -> tuple[str, bool | None]:
    """Describe a run's last report, and tell if it reached its target of bytes; None without one."""
    row = held_out[-1]
    size, asked = row["payload_bytes"], config.target_bytes
    if not row["photos"]:
        advice = f"or train on more photos (one of {config.held_out} is held out)"
        what = "no photo was held out, so bytes and answers are not known"
        return f"{what}: measure them with bottlenet evaluate, {advice}", None
    text = f"on {row['photos']:,.0f} photos held out: {size:,.0f} bytes, {row['agreement']:.1%} with the uncut"
    text += f" network's answer, loss {row['distillation']:.3f}"
    if "top1" in row:
        text += f", {row['top1']:.1f} % top-1"
    if not asked:
        return text, None
    if size <= asked * (1 + NEAR_TARGET):
        return f"{text}\nasked for {asked:,.0f} bytes: reached", True
    advice = "train more epochs on more photos, give fewer channels or a larger stride, or a larger lmbda to start with"
    return f"{text}\nasked for {asked:,.0f} bytes: not reached, {size / asked - 1:.0%} above; {advice}", False


def append(path: Path, record: dict[str, object] | dict[str, float]) -> None:
    """Add a line of JSON. InputError: it can't."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: can't be written ({reason(error)}); make room, and the same command goes on")


@dataclass
class Position:
    """Where a run is, as its checkpoint says it."""

    epoch: int = 0
    step: int = 0  # in the epoch
    steps: int = 0  # since the start
    lmbda: float = 0.0  # weight of a byte
    mean_bytes: float = 0.0  # of the last batches
    curve: list[float] = field(default_factory=list)  # distillation by budget, see `objective.Embedded`


class Averaged:
    """Exponential moving average of what is trained, over about `1 / (1 - decay)` steps, and fewer at the start."""

    def __init__(self, net: nn.Module, decay: float = 0.999) -> None:
        self.live = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Advance by one step."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.live.values()], weight)

    @torch.no_grad()
    def copy_in(self) -> None:
        """Set the network's parameters to their averages."""
        for name, p in self.live.items():
            p.copy_(self.average[name])

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Set them for as long as the block runs."""
        kept = {name: p.detach().clone() for name, p in self.live.items()}
        self.copy_in()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.live.items():
                    p.copy_(kept[name])


def save_checkpoint(run: Path, net: nn.Module, optimizer: Optimizer, averaged: Averaged, at: Position) -> None:
    """Write beside the old one, sync, then rename over it: a crash leaves one of the two. InputError: it can't."""
    tensors: dict[str, Tensor] = {f"net.{k}": v for k, v in trained_state(net).items()}
    tensors |= {f"average.{k}": v for k, v in averaged.average.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    progress = {"at": json.dumps(asdict(at)), "updates": str(averaged.updates)}
    unfinished = run / (CHECKPOINT + ".part")
    try:
        save_file(tensors, unfinished, metadata=progress)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(run / CHECKPOINT)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise unwritable(run / CHECKPOINT, error) from error


def load_checkpoint(run: Path, net: nn.Module, optimizer: Optimizer, averaged: Averaged, at: Position) -> None:
    """Restore everything from the checkpoint, if there is one. InputError: it is damaged, or another network's."""
    if not (run / CHECKPOINT).exists():
        return
    tensors, metadata = read_tensors(run)
    load_state(net, strip_prefix("net.", tensors))
    averaged.average = {k: tensors[f"average.{k}"].to(mine.device) for k, mine in averaged.average.items()}
    averaged.updates = int(metadata["updates"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in strip_prefix("optimizer.", tensors).items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for name, value in json.loads(metadata["at"]).items():
        setattr(at, name, value)


def load_averaged(run: Path, net: nn.Module) -> int:
    """Load a run's averaged weights, and return their steps. InputError: no checkpoint, damaged, another network's."""
    state, metadata = averaged_state(run)
    load_state(net, state)
    return cast(int, json.loads(metadata["at"])["steps"])


def load_start(run: Path, net: BottleNet) -> None:
    """Do the same to start another run; layers of the head that only learn here keep what they have."""
    state, _ = averaged_state(run)
    if isinstance(net.reduction, LearnedReduction):
        if not any(name.startswith("reduction.learned.") for name in state):
            state = {re.sub(r"^reduction\.", "reduction.reduction.", name): value for name, value in state.items()}
        mine = trained_state(net)
        state = {name: mine[name] for name in mine if name.startswith("reduction.learned.")} | state
    load_state(net, state)


def averaged_state(run: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a run's averaged weights, and what its checkpoint says beside them."""
    if not (run / CHECKPOINT).exists():
        raise InputError(f"{run}: no {CHECKPOINT} in it yet; train until the first checkpoint")
    tensors, metadata = read_tensors(run)
    state = {**strip_prefix("net.", tensors), **strip_prefix("average.", tensors)}
    return {name: value for name, value in state.items() if not name.startswith("adversary.")}, metadata


def saved_position(run: Path) -> Position:
    """Return where a run was at its last checkpoint. InputError: there is none, or it is damaged."""
    try:
        with safe_open(run / CHECKPOINT, framework="pt") as file:
            return Position(**json.loads(file.metadata()["at"]))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{run / CHECKPOINT} can't be read ({error}); remove {run}, and train again") from error


def read_tensors(run: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a checkpoint, and its metadata. InputError: it is damaged."""
    try:
        with safe_open(run / CHECKPOINT, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(f"{run / CHECKPOINT} is damaged ({error}); remove it, and the run starts again") from error


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select those whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_state(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Load the trained layers of a network. InputError: they are another network's."""
    mine = trained_state(net)
    wrong = mine.keys() ^ state.keys() or {name for name in mine if mine[name].shape != state[name].shape}
    if wrong:
        what = f"{CHECKPOINT} is of another network: {min(wrong)} differs"
        raise InputError(f"{what}; was the run trained with other code?")
    net.load_state_dict(state, strict=False)


def trained_state(net: nn.Module) -> dict[str, Tensor]:
    """Select the unit and the tail; the head is the classifier's own."""
    return {k: v for k, v in net.state_dict().items() if not k.startswith("head.")}


def export_run(
    run: str | Path,
    output: str | Path,
    *,
    weights: str = "float32",
    align: int | None = None,
    budget_bytes: int | None = None,
    mean_bytes: float | None = None,
    exit_from: str | None = None,
    extra: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> tuple[Bundle, Fidelity]:
    """Export the bundle of a run's averaged weights, whole or not at all.

    `align` pads the mosaic's tiles to multiples of it; None: as in training. `budget_bytes` becomes the bundle's own;
    None: none, or where payloads may be cut the largest one of the training. `exit_from` is another network for the
    device to answer with: the folder of a run with an exit, or NAME[:SIZE], a classifier of the same classes on a photo
    of that side. `mean_bytes` decides how sure the device
    has to be of an answer that it gives by itself: so that payloads take that many bytes a photo, over the photos that
    were held out; None: a quarter of them is sent. `weights`: see `net.export.export`.
    `extra` goes into the manifest, too. `say` is called with what is done next.

    InputError: no run, or none of its photos are there any more. BundleError: see `net.export.export`.
    """
    folder = Path(run)
    config = replace(read_config(folder), out=str(folder))  # which may have moved
    say("loading")
    if config.only_exit:
        what = f"{run} trained only its exit, so it has nothing to send"
        raise InputError(f"{what}; give it as the exit of another run: bottlenet export RUN --exit {run}")
    classifier = load_model(config.model)
    net = insert(classifier, **config.unit_numbers())
    if exit_from is not None:
        needs_one_label(classifier.task, "an exit")
    steps = load_averaged(folder, net)
    origin = {"steps": steps, "target_bytes": config.target_bytes, "seed": config.seed, "naive": int(config.naive)}
    net.eval()
    head_preprocess = replace(classifier.preprocess, size=net.head_size)
    if isinstance(net.codec, Entropy):
        say("counting tables")
        net.codec = with_tables(net, net.codec, some_pixels(config, head_preprocess, TABLE_PHOTOS))
    elif align is not None:
        net.codec = make_codec(net.codec.name, replace(net.codec.mosaic, align=align), net.codec.setting)
    pixels, uncut_pixels = (
        np.stack(list(some_pixels(config, preprocess, COMPARED_PHOTOS)))
        for preprocess in (head_preprocess, classifier.preprocess)
    )
    if budget_bytes is None:
        budget_bytes = int(config.largest_bytes) if config.embedded else 0
    own: OwnNetwork | None = None
    if exit_from is not None or net.exit is not None:
        share = sent_share(mean_bytes, budget_bytes)
        say("finding out how sure the device is")
        if exit_from is not None:
            module, preprocess, flops_share = own_network(exit_from, classifier, origin_of(net))
        else:
            assert net.exit is not None
            module, preprocess = ExitGraph(net, net.exit), head_preprocess
        temperature, sure = calibrate_exit(module, preprocess, config, classifier, share)
        if exit_from is not None:
            entry = Exit(preprocess, flops_share, None, sure, temperature)
            own = OwnNetwork(module, entry, np.stack(list(some_pixels(config, preprocess, COMPARED_PHOTOS))))
        net.temperature, net.sure = temperature, sure
    elif mean_bytes is not None:
        raise InputError("mean_bytes is for a device that answers what it is sure of: train with exit, or give one")
    return export(
        net,
        output,
        pixels=pixels,
        uncut_pixels=uncut_pixels,
        own=own,
        weights=weights,
        budget_bytes=budget_bytes,
        extra={**origin, **(extra or {})},
        say=say,
    )


def sent_share(mean_bytes: float | None, budget_bytes: int) -> float:
    """Return the share of the photos that may be sent. InputError: bytes that no share of the photos takes."""
    if mean_bytes is None:
        return 0.25
    if not budget_bytes:
        raise InputError("mean_bytes needs a budget, from which follows how many photos may be sent: give both")
    if not is_number(mean_bytes) or not 0 <= mean_bytes <= budget_bytes:
        raise InputError(f"mean_bytes is {mean_bytes!r}; give 0 to {budget_bytes}, the budget of a payload")
    return mean_bytes / budget_bytes


def own_network(source: str, classifier: Classifier, origin: Origin) -> tuple[nn.Module, Preprocess, float]:
    """Load a run's exit, or the classifier NAME[:SIZE], and its share of FLOPs. InputError: none, or other classes."""
    if (Path(source) / RUN).is_file():
        config = replace(read_config(Path(source)), out=source)
        theirs = load_model(config.model)
        net = insert(theirs, **config.unit_numbers())
        load_averaged(Path(source), net)
        if (entry := exit_entry(net, origin_of(net))) is None:
            raise InputError(f"{source} is a run without an exit; give one that was trained with exit")
        assert net.exit is not None
        module: nn.Module = ScoresAlone(ExitGraph(net.eval(), net.exit))
        preprocess = entry.preprocess
        flops = entry.flops_share * origin_of(net).uncut_flops
    else:
        name, _, side = source.rpartition(":")
        name, side = (name, side) if side.isdecimal() else (source, "")
        if side and not 8 <= int(side[:5]) <= 4096:
            raise InputError(f"exit {source!r:.80}: give the folder of a run, or NAME:SIZE with 8 to 4096 pixels")
        theirs = load_model(name)
        preprocess = replace(theirs.preprocess, size=int(side)) if side else theirs.preprocess
        module = nn.Sequential(Normalize(theirs.mean, theirs.std), theirs.module)
        try:
            flops = count_flops(theirs.module, torch.zeros(1, 3, preprocess.size, preprocess.size))
        except Exception as error:  # code that is not ours
            what = f"{theirs.name} does not run on photos of {preprocess.size} pixels ({reason(error)})"
            raise InputError(f"{what}; give another size") from error
    needs_one_label(theirs.task, "an exit")
    if theirs.labels != classifier.labels:
        raise InputError(f"{source} has other classes than {classifier.name}; give a network with the same labels")
    return module, preprocess, flops / origin.uncut_flops


class ScoresAlone(nn.Module):
    """pixels -> the first output of a graph of several."""

    def __init__(self, graph: ExitGraph) -> None:
        super().__init__()
        self.whole = graph

    def forward(self, pixels: Tensor) -> Tensor:
        return cast(Tensor, self.whole(pixels)[0])


TEMPERATURES = np.geomspace(0.25, 4, 65)


@torch.no_grad()
def calibrate_exit(
    own: nn.Module, preprocess: Preprocess, config: TrainConfig, classifier: Classifier, share: float
) -> tuple[float, float]:
    """Find, on the run's held-out photos, the temperature at which the confidence in the uncut network's answer is
    right, and the confidence that all but `share` of the photos reach. `own` gives scores, alone or first.
    """
    uncut = nn.Sequential(Normalize(classifier.mean, classifier.std), classifier.module).eval()
    both = preprocess, classifier.preprocess
    pairs = zip(*(some_pixels(config, each, BOUND_PHOTOS, held_out=True) for each in both), strict=True)
    scores, answers = [], []
    while batch := list(itertools.islice(pairs, 16)):
        mine, whole = (torch.from_numpy(np.stack(pixels)) for pixels in zip(*batch, strict=True))
        found = own(mine)
        scores.append(found[0] if isinstance(found, tuple) else found)
        answers.append(uncut(whole).argmax(1))
    mine, wanted = torch.cat(scores).double(), torch.cat(answers)
    if not mine.isfinite().all():
        raise InputError("the exit gives scores that are no numbers; train it anew, or give another network")
    losses = [F.cross_entropy(mine / temperature, wanted).item() for temperature in TEMPERATURES]
    temperature = float(TEMPERATURES[int(np.argmin(losses))])
    confidences = (mine / temperature).softmax(1).amax(1)
    # At 1 nothing is answered, and many confidences may round to 1.
    return temperature, 1.0 if share == 1 else min(confidences.quantile(share).item(), math.nextafter(1.0, 0.0))


@torch.no_grad()
def with_tables(net: BottleNet, codec: Entropy, pixels: Iterator[np.ndarray]) -> Entropy:
    """Return the codec with tables counted on the network's symbols of `pixels`, (S, S, 3) each."""

    def symbols() -> Iterator[np.ndarray]:
        while batch := list(itertools.islice(pixels, 16)):
            latent = net.reduction(net.head(torch.from_numpy(np.stack(batch))))
            yield to_uint8(net.quantizer.quantize(latent))

    return Entropy(codec.mosaic, fit_tables(symbols(), codec.tables.passes, bins=TABLE_BINS))


def some_pixels(
    config: TrainConfig, preprocess: Preprocess, count: int, *, held_out: bool = False
) -> Iterator[np.ndarray]:
    """Yield centre crops (S, S, 3) uint8 of 2 to `count` of the run's photos, or of those `held_out` from it."""
    folders = [find_folder(data, Path(config.out)) for data in config.data]
    photos = list(dict.fromkeys(photo for folder in folders for photo in list_samples(folder)))
    if held_out:
        photos = [photo for photo in photos if is_held_out(photo, config.held_out)]
    found = 0
    for position in np.random.default_rng(0).permutation(len(photos)):
        with contextlib.suppress(PhotoError):  # training has named it
            pixels = photo_to_pixels(photos[position].source(), preprocess)
            found += 1
            yield pixels
        if found == count:
            return
    if found < 2:
        purpose = "that were held out, to calibrate an exit" if held_out else "to compare torch and onnxruntime on"
        raise InputError(f"{', '.join(config.data)}: fewer than 2 photos {purpose}")


def find_folder(data: str, run: Path) -> Path:
    """Find a folder of photos by a relative name: from here, or from a folder that the run is in, as it was trained."""
    places = [Path(data), *(parent / data for parent in run.absolute().parents)]
    return next((place for place in places if place.is_dir()), Path(data))
