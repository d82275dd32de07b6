"""The options of a training run."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bottlenet.errors import InputError
from bottlenet.records import check_choice

RUN = "run.json"  # the configuration, in the run's folder

COUNTS = {"epochs": 10**6, "crops": 10**6, "batch": 10**6, "accumulate": 10**4, "processes": 256}  # name: at most
MAX_WORKERS = 256
MAX_SEED = 2**62  # more is too much for torch
SHARES = ("blend", "whole_share")
USUAL_QUALITY = {"deflate": 9, "raw": 0}  # of the others 50


@dataclass(frozen=True)
class TrainConfig:
    """One training run. A field's comment is the help of its option, so this file needs no torch.

    InputError: numbers that can't be, or a rate asked for without the jpeg codec in the loop.
    """

    model: str  # efficientnet_lite0 | torchvision/NAME | timm/NAME | hf:FOLDER | FILE.onnx | package.module:function
    data: tuple[str, ...]  # folders of photos; a folder given twice counts twice
    out: str  # folder of the run: run.json, log.jsonl, checkpoint.safetensors
    cut: str  # where the network is cut: a name from `bottlenet cuts`; A+B+C where several tensors cross
    head_size: int = 0  # side of the head's input in pixels; 0: as the uncut network's
    tail_size: int = 0  # the tail gets features resized to those of an input of this side, pixels; 0: not resized
    learn_from: str = ""  # layers of the head after this cut are trained too; empty: the whole head is frozen
    learn_to: str = ""  # the tail is trained up to this cut, and frozen after it; empty: the whole tail is trained
    end_to_end: bool = False  # train head, unit and tail together; needs --no-cache
    norms: bool = False  # update the statistics of the classifier's norms after the frozen head; else they stay
    exit: bool = False  # give the device the rest of the classifier too, so that it answers by itself where it is sure
    exit_without: str = ""  # blocks that the exit leaves out, separated by commas, such as blocks.10
    only_exit: bool = False  # train only the exit and the end of the head before it, for export --exit
    unit: str = "residual"  # kind of bottleneck: residual | paper
    channels: int = 0  # c', channels of the latent; 0: 48, or as many as the features have
    stride: int = 1  # s, spatial reduction of the unit
    codec: str = "jpeg"  # jpeg | webp | deflate | raw | entropy
    quality: int = -1  # quality of jpeg and webp, level of deflate; -1: 50, for deflate 9, for raw 0
    naive: bool = False  # train without the codec in the loop
    start: str = ""  # folder of a run whose averaged weights this one starts from; empty: principal components
    epochs: int = 8  # passes over the photos
    crops: int = 8  # sets of random crops, used by the passes in turn
    blend: float = 0.5  # share of the crops that are blended with another
    batch: int = 32  # photos per step, over all processes
    accumulate: int = 1  # parts into which a process splits its share of a step, to save memory
    optimizer: str = "adamw"  # adamw | sgd, with a momentum of 0.9
    lr: float = 4e-4  # peak learning rate of the unit
    tail_lr: float = 1e-4  # peak learning rate of the classifier's own layers; 0: frozen, as always for maps and boxes
    anchor: float = 0.0  # pull of those layers to their published weights; a step moves lr * anchor of the way
    kernels: bool = False  # also train depthwise kernels of the head's end and the exit, which depend on scale
    target_bytes: float = 0.0  # mean payload to aim for (codec jpeg or entropy); 0: none
    lmbda: float = 0.0  # weight of a byte in the loss at the start, for --target-bytes; 0: the codec's default
    smallest_bytes: float = 40.0  # codec entropy: smallest of the random sizes that payloads are cut to
    largest_bytes: float = 1200.0  # largest of these sizes; 0, or with --target-bytes: payloads are not cut
    whole_share: float = 0.0  # share of the photos, 0 to 1, whose payloads stay whole where others are cut at random
    amplitude: float = 0.0  # initial standard deviation of a residual unit's first component; 0: the codec's default
    components: bool = False  # start the paper's unit near principal components, not from random weights
    label_weight: float = 0.0  # weight of cross-entropy on labelled photos; a blend has the label of its larger share
    distillation_weight: float = 1.0  # weight of the distance to the uncut network; 0: it does not run in training
    scores_weight: float = 0.0  # weight of the scores' relative squared error, where payloads are cut at random
    feature_weight: float = 0.1  # weight of the features' relative squared error
    adversarial: float = 0.0  # weight of an adversary that learns to rebuild the photos; needs --no-cache; 0: none
    photos: int = 0  # use only this many photos, spread evenly over the folders; 0: all
    held_out: int = 50  # one photo in this many is kept out of training, for the reports
    seed: int = 0  # seed of crops, order and weights
    cache: str = "cache"  # folder for cached head features, a few GB
    no_cache: bool = False  # decode photos and run the head in every pass, instead of caching head features on disk
    workers: int = 2  # with --no-cache: decoding processes for each training process; 0: none
    processes: int = 1  # processes that train together on this machine, one per GPU; or use accelerate launch
    precision: str = "float32"  # float32 | bf16, of head and tail; unit, codec and losses always use float32
    checkpoint_minutes: float = 5.0  # minutes between checkpoints

    def __post_init__(self) -> None:
        from bottlenet.wire.codecs import CODECS  # which needs numpy, and --help does not

        choices = {"codec": tuple(CODECS), "precision": ("float32", "bf16"), "optimizer": ("adamw", "sgd")}
        for name, allowed in choices.items():
            check_choice(name, getattr(self, name), allowed)
        if self.quality == -1:
            object.__setattr__(self, "quality", USUAL_QUALITY.get(self.codec, 50))
        for name, most in COUNTS.items():
            if not 1 <= (count := getattr(self, name)) <= most:
                raise InputError(f"{name} is {count}; give 1 or more, up to {most}")
        if self.seed > MAX_SEED:
            raise InputError(f"seed is {self.seed}; give 0 to {MAX_SEED}")
        if not 0 <= self.workers <= MAX_WORKERS:
            raise InputError(f"workers is {self.workers}; give 0 to {MAX_WORKERS}")
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type in (int, float) and each.name != "quality" and not 0 <= value < math.inf:
                raise InputError(f"{each.name} is {value}; give a number that is not below 0")
            if each.name in SHARES and value > 1:
                raise InputError(f"{each.name} is {value}; give a share from 0 to 1")
        for wrong, what in self.contradictions():
            if wrong:
                raise InputError(what)

    def contradictions(self) -> tuple[tuple[object, str], ...]:
        """Pair each condition that can't be with what to do about it."""
        teaches, whole = self.distillation_weight, self.end_to_end
        least, most, labels = self.smallest_bytes, self.largest_bytes, self.label_weight
        cut = f"payloads cut to {least:g} to {most:g} bytes"
        needs_cut = "is for payloads cut at random: give codec entropy and largest_bytes"
        needs_exit = "is for a run with an exit: give exit, too"
        one_of_two = "and with end_to_end all layers learn: give one of the two"
        entropy = self.codec == "entropy"
        steered = (entropy or self.codec == "jpeg") and not self.naive
        return (
            (self.held_out < 2, f"held_out is {self.held_out}; give 2 or more: one photo of so many is not trained on"),
            (not self.lr, "lr is 0: with that nothing would be learned; give more"),
            (self.naive and entropy, "naive is for codecs in the loop; entropy is in none: leave it out"),
            (not labels and not teaches, "nothing says what is right: give label_weight, or distillation_weight"),
            (self.embedded and not teaches, f"{cut} need the uncut network: give distillation_weight, or target_bytes"),
            (self.exit and not teaches, "an exit learns from the uncut network: give distillation_weight"),
            (whole and self.learn_from, f"learn_from is {self.learn_from}, {one_of_two}"),
            (whole and self.learn_to, f"learn_to is {self.learn_to}, {one_of_two}"),
            (whole and not self.no_cache, "end_to_end has no features to keep, as the head learns: give no_cache, too"),
            (whole and not self.tail_lr, "tail_lr is 0, and with end_to_end head and tail learn at it: give more"),
            (self.adversarial and not self.no_cache, "adversarial needs photos in every pass: give no_cache, too"),
            (self.whole_share and not self.embedded, f"whole_share {needs_cut}"),
            (self.scores_weight and not self.embedded, f"scores_weight {needs_cut}"),
            (self.exit_without and not self.exit, f"exit_without {needs_exit}"),
            (self.only_exit and not self.exit, f"only_exit {needs_exit}"),
            (self.only_exit and not self.tail_lr, "tail_lr is 0, and with only_exit the exit learns at it: give more"),
            *(
                (self.only_exit and getattr(self, name), f"with only_exit nothing learns from {name}: leave it out")
                for name in ("label_weight", "adversarial", "target_bytes", "scores_weight", "whole_share")
            ),
            (self.kernels and not self.learn_from, "kernels are of the head's end: give learn_from, or leave them out"),
            (self.target_bytes and not steered, "target_bytes needs jpeg in the loop, or the entropy codec; give one"),
            (self.embedded and not 1 <= least < most, f"{cut}: give 1 or more smallest_bytes, more largest_bytes"),
        )

    def check_folders(self) -> None:
        """Raise InputError, before torch is imported, for photos that are missing or an `out` that is no run."""
        if "" in self.data:
            raise InputError("the name of the folder is empty; give a folder of photos")
        for folder in map(Path, self.data):
            if not folder.is_dir():
                what = "it is no" if folder.exists() else "no such"
                raise InputError(f"{folder}: {what} folder; give a folder of photos")
        if self.start and not Path(self.start).is_dir():
            raise InputError(f"start is {self.start}, which is no folder; give that of a run")
        self.check_out()

    def check_out(self) -> None:
        """Raise InputError where something is in the way of the run that is no run."""
        run = Path(self.out)
        try:
            free = not run.exists() or (run.is_dir() and not any(run.iterdir()))
        except OSError as error:
            raise InputError(f"{run}: can't be read ({error.strerror}); give another folder") from error
        if not free and not (run / RUN).is_file():
            raise InputError(f"{run} is there already and holds no run; give a new folder")

    @property
    def first_lmbda(self) -> float:
        """Weight of a byte, nats, where the steering starts: what a byte is worth at the target, where it is known."""
        if self.lmbda or self.codec != "entropy" or not self.target_bytes:
            return self.lmbda or 1e-4
        return 0.5 / self.target_bytes  # e times the bytes save about half a nat

    @property
    def embedded(self) -> bool:
        """True where payloads are cut at random in training, so that any prefix of one decodes well."""
        return self.codec == "entropy" and not self.target_bytes and self.largest_bytes > 0

    @property
    def frozen_to(self) -> str:
        """The cut up to which nothing learns; empty where everything does."""
        return "" if self.end_to_end else self.learn_from or self.cut

    def unit_numbers(self) -> dict[str, Any]:
        """Return the arguments of `net.build.insert`."""
        unit = ("cut", "unit", "channels", "stride", "codec", "quality")
        names = (*unit, "head_size", "tail_size", "learn_from", "learn_to", "end_to_end", "exit", "exit_without")
        return {name: getattr(self, name) for name in names}


def read_config(run: Path) -> TrainConfig:
    """Read the configuration of the run in that folder. InputError: it is no folder of a run."""
    try:
        values = json.loads((run / RUN).read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not isinstance(values.get("data"), list):
            raise InputError(f"{run / RUN} can't be used (it has no data); give a new folder, and train again")
        return TrainConfig(**{**values, "data": tuple(values["data"])})
    except OSError as error:
        raise InputError(f"{run}: no {RUN} in it; give the folder that `bottlenet train --out` filled") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{run / RUN} can't be used ({error}); give a new folder, and train again") from error
