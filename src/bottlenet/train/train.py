"""Train the unit, and gently the tail behind it, through the real codec; or end to end, with the head.

A head that stays as it is has its features computed once or in every pass (`features.py`), and the hours go into steps;
end to end the photos stand in their place. The target is the uncut network's own scores on the same crop, or where its
answers are about places its features (`objective.py`): no labels are needed, but they can be used. Several processes
may train together (`team.py`). A run starts at the principal components of its features, as loud as its codec wants
them, or at another run's weights. The loop is in `train`, to be read top to bottom.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from bottlenet.errors import InputError
from bottlenet.net.build import check_patch, insert, start_from_components
from bottlenet.net.export import check_exportable
from bottlenet.net.model import BottleNet, Output
from bottlenet.net.models import load_model, pinned
from bottlenet.net.unit import DividedTail
from bottlenet.task import is_dense
from bottlenet.train import runs
from bottlenet.train.adversary import Adversary, with_adversary
from bottlenet.train.config import TrainConfig
from bottlenet.train.features import REPORTED, Cached, Direct, Selection, Source, components_of
from bottlenet.train.objective import Objective, agreement, check_task, learning_rate, objective_of, target_error
from bottlenet.train.team import Team

__all__ = ["AstrayError", "TrainConfig", "train"]

LOG_STEPS = 20  # steps that a line of the log is the mean of
PRIOR_LR = 5e-3  # peak learning rate of the prior: it follows a latent that moves

ObjectiveFor = Callable[[BottleNet, TrainConfig, runs.Position], Objective]


class AstrayError(InputError):
    """A training whose loss is no number any more. Its last checkpoint is from before."""


def train(
    config: TrainConfig,
    progress: Progress,
    *,
    net: BottleNet | None = None,
    objective_for: ObjectiveFor = objective_of,
    steps: int | None = None,
) -> BottleNet:
    """Train, or go on with what `config.out` holds; return the network with averaged weights.

    A benchmark may pass its own `net`, as `insert` would return it, its objective, and `steps` in place of `epochs`.

    InputError: folders, cut or numbers that can't be, or a run of another configuration in `config.out`. AstrayError:
    the loss is no number any more.
    """
    run, team = Path(config.out), Team(config)
    torch.manual_seed(config.seed)
    config = replace(config, model=pinned(config.model))
    classifier = load_model(config.model)
    check_task(classifier, config)
    net = insert(classifier, **config.unit_numbers()) if net is None else net
    config = replace(config, channels=config.channels or net.codec.mosaic.channels)  # the folder has what it came to
    if net.layout is not None and (config.unit == "residual" or config.components):
        check_patch(net.layout.grid[0], config.stride)  # before features are computed
    tail_learns = config.tail_lr > 0 and not classifier.features_alone
    if tail_learns:
        check_apart(net)
    runs.check_run(run, config)
    if team.is_main and net.origin is not None and not (run / runs.CHECKPOINT).exists():
        check_exportable(net)
    published = {id(p): p.detach().to(team.device, copy=True) for own in own_layers(net) for p in own.parameters()}
    if config.start and not (run / runs.CHECKPOINT).exists():  # a run that goes on has its own weights
        runs.load_start(Path(config.start), net)
    net.adversary = Adversary(net.codec.mosaic.symbols_shape, config.adversarial) if config.adversarial else None
    net.to(team.device)
    parts = config, classifier, net, team
    source: Source = Direct(*parts) if config.no_cache else Cached(*parts, progress)
    if len(source.train_set) < config.batch:
        few = len(source.train_set)
        raise InputError(f"{few} photos to train on, fewer than one batch of {config.batch}; give more")
    with team.state.main_process_first():
        runs.claim(run, config)
    if not config.start:
        sample = components_of(source.train_set, few=config.end_to_end or is_dense(classifier.task))
        init_unit(net, config, [batch.features for batch in source.reported(sample)])
    freeze(net, tail=tail_learns, kernels=config.kernels, end_to_end=config.end_to_end, norms=config.norms)
    team.agree(net)
    optimizer = build_optimizer(net, config)
    averaged = runs.Averaged(net)
    at = runs.Position(lmbda=config.first_lmbda)
    runs.load_checkpoint(run, net, optimizer, averaged, at)
    team.state.wait_for_everyone()  # none writes before all have read
    objective = objective_for(net, config, at)

    per_epoch = len(source.train_set) // config.batch
    total = steps or per_epoch * config.epochs
    task = progress.add_task("training", total=total, completed=at.steps)
    began, first = time.monotonic(), at.steps
    window: list[tuple[float, float, float]] = []
    saved = began
    while at.steps < total:
        order = np.random.default_rng((config.seed, at.epoch)).permutation(source.train_set)
        ahead = range(at.step, min(per_epoch, at.step + total - at.steps))
        batches = source.batches(at.epoch, selections(order, ahead, config.batch, team))
        for _ in ahead:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate(at.steps / total)
            optimizer.zero_grad(set_to_none=True)
            measured = []
            for batch_slice in team.slices:
                batch = next(batches)
                with team.precision():
                    learned = batch.features, batch.uncut_scores, batch.labels
                    step = objective.step(*learned, at.steps / total, batch_slice)
                (with_adversary(net, step, batch.pixels) / len(team.slices)).backward()  # type: ignore[no-untyped-call]
                loss = step.loss.detach().expand(len(batch.labels))
                measured.append(torch.stack((loss, step.distillation, step.payload_bytes), dim=1))
            team.mean_gradients(averaged.live.values())
            norm = torch.nn.utils.clip_grad_norm_(averaged.live.values(), 1.0)
            check_finite(config, at.steps + 1, norm.item())  # before it is in the weights
            optimizer.step()
            pull(optimizer, published, config.anchor)
            averaged.update()

            losses, distilled, payload_bytes = team.gathered(measured).T.contiguous()  # one exchange
            objective.after(distilled, payload_bytes, at.steps / total)
            at.step, at.steps = at.step + 1, at.steps + 1
            window.append((losses.mean().item(), distilled.mean().item(), payload_bytes.mean().item()))
            check_finite(config, at.steps, *window[-1])
            progress.update(task, completed=at.steps)
            if at.steps % LOG_STEPS == 0:
                rate = (at.steps - first) * config.batch / max(1e-9, time.monotonic() - began)
                record = log_record(at, window, rate)
                window.clear()
                team.write(runs.append, run / runs.LOG, record)
                shown = f"loss {record['loss']:.3f}, {record['payload_bytes']:.0f} bytes, {rate:.0f} images/s"
                progress.update(task, completed=at.steps, description=shown)
            if time.monotonic() - saved > config.checkpoint_minutes * 60:
                team.write(runs.save_checkpoint, run, net, optimizer, averaged, at)
                saved = time.monotonic()
        at.epoch, at.step = at.epoch + 1, 0
        team.agree(net)  # on the norms' statistics, which each has of its own parts
        with averaged.swapped_in():
            report = held_out_report(net, source, team, reported_budgets(config), labels=config.label_weight > 0)
        set_training_mode(net, norms=config.norms)
        check_finite(config, at.steps, *(value for row in report for value in row.values()))
        team.write(runs.append, run / runs.LOG, {"epoch": at.epoch, "steps": at.steps, "held_out": report})
        team.write(runs.save_checkpoint, run, net, optimizer, averaged, at)
    team.state.wait_for_everyone()
    averaged.copy_in()
    net.adversary = None
    return net.eval()


def selections(order: NDArray[np.int64], ahead: Iterable[int], batch: int, team: Team) -> Iterator[Selection]:
    """Yield this process's slices of the steps ahead, of an epoch that goes through `order`."""
    for number in ahead:
        positions = order[number * batch : (number + 1) * batch]
        for each in team.slices:
            yield Selection(each.of(positions), each.before(positions))


def check_finite(config: TrainConfig, steps: int, *values: float) -> None:
    """Raise AstrayError where a value of step number `steps` is no number."""
    if not all(map(math.isfinite, values)):
        advice = f"give a lower lr than {config.lr:g}, or a lower tail_lr than {config.tail_lr:g}, and a new folder"
        what = f"the loss is no number any more at step {steps}"
        raise AstrayError(f"{what}: {advice}; the last checkpoint stays as it was")


def check_apart(net: BottleNet) -> None:
    """Raise InputError where a weight that learns belongs to two parts, such as head and tail, which then differ."""
    learns = {id(p) for layers in own_layers(net) for p in layers.parameters()}
    parts: dict[int, set[str]] = {}
    for name, p in net.named_parameters(remove_duplicate=False):
        parts.setdefault(id(p), set()).add(name.partition(".")[0])
        if id(p) in learns and len(parts[id(p)]) > 1:
            what = f"{name} belongs to a layer that runs before the cut and behind it, and can't learn for one alone"
            raise InputError(f"{what}; give another cut, or tail_lr 0 and a head that stays as it is")


def init_unit(net: BottleNet, config: TrainConfig, batches: Sequence[Tensor]) -> None:
    """Start a residual unit at the principal components of `batches` of features (B, c, H, W), and a paper's unit too,
    where `config.components` says so.

    Whole payloads of the entropy codec that are to have `target_bytes` start at twice as many, where their steering
    starts too. From the codec's usual start, which may be ten times as large, a short run never comes down: the weight
    of a byte rises until nothing else counts.
    """
    amplitude = config.amplitude
    if net.prior is not None and config.target_bytes and not amplitude:
        amplitude = amplitude_of(net, batches, 2 * config.target_bytes)
    start_from_components(net, batches, amplitude=amplitude, paper=config.components)


QUIETEST, LOUDEST, HALVINGS = 0.05, 50.0, 12  # of the search for an amplitude
MATCHED = 2  # batches whose payloads are looked at


def amplitude_of(net: BottleNet, batches: Sequence[Tensor], payload_bytes: float) -> float:
    """Search the amplitude at which whole payloads have about so many bytes. Leaves `net` at some other."""
    low, high = QUIETEST, LOUDEST
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        start_from_components(net, batches, amplitude=middle)
        low, high = (middle, high) if mean_bytes(net, batches[:MATCHED]) < payload_bytes else (low, middle)
    return math.sqrt(low * high)


@torch.no_grad()
def mean_bytes(net: BottleNet, batches: Sequence[Tensor]) -> float:
    """Average whole payloads' bytes, by `net.unit`."""
    sizes = [net.forward_within(batch, batch.new_full((len(batch),), math.inf)).payload_bytes for batch in batches]
    return torch.cat([size for size in sizes if size is not None]).mean().item()


def freeze(net: BottleNet, *, tail: bool, kernels: bool = False, end_to_end: bool = False, norms: bool = False) -> None:
    """Let only the unit and the classifier's layers behind the frozen head learn; of those no depthwise kernels, but
    with `kernels` those of the head's end and of the exit, and `end_to_end` all. Only with `norms` the norms'
    statistics follow.

    Depthwise kernels are 4 % of the tail's weights; their gradients take a third of a step on a CPU.
    """
    net.use_channels_last()
    net.head.requires_grad_(False)
    net.tail.requires_grad_(False)
    learned_end, _ = net.learned_and_reduction
    for layers in own_layers(net):
        layers.requires_grad_(tail)
        for module in layers.modules():
            if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
                module.requires_grad_(tail and (end_to_end or (kernels and layers in (learned_end, net.exit))))
    if net.exit is not None:  # its last layer stays as published, and is stored once for all that end in it
        [*(m for m in net.exit.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))][-1].requires_grad_(False)
    set_training_mode(net, norms=norms)


def own_layers(net: BottleNet) -> list[torch.nn.Module]:
    """List the classifier's own layers that may learn: the tail, the end of the head that joined the unit, the exit."""
    tail = net.tail.learned if isinstance(net.tail, DividedTail) else net.tail
    learned, _ = net.learned_and_reduction
    return [tail, learned, *([] if net.exit is None else [net.exit])]


def set_training_mode(net: BottleNet, *, norms: bool = False) -> None:
    """Put the unit in training mode, and with `norms` the classifier's layers that learn, too."""
    net.train()
    for own in (net.head, net.tail, *own_layers(net)):
        own.eval()
    for module in (module for own in own_layers(net) for module in own.modules()):
        module.training = norms and isinstance(module, torch.nn.modules.batchnorm._BatchNorm)


def build_optimizer(net: BottleNet, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer of what `freeze` lets learn. A group's `peak` is its highest learning rate."""
    own = [p for layers in own_layers(net) for p in layers.parameters() if p.requires_grad]
    prior = [] if net.prior is None else list(net.prior.parameters())
    known = {id(p) for p in (*own, *prior)}
    unit = [p for p in net.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": unit, "peak": config.lr, "weight_decay": 1e-4},
        {"params": own, "peak": config.tail_lr, "weight_decay": 0.0},
        {"params": prior, "peak": PRIOR_LR, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


@torch.no_grad()
def pull(optimizer: torch.optim.Optimizer, published: Mapping[int, Tensor], anchor: float) -> None:
    """Move what learns towards its published weights, by `anchor` times its group's learning rate of the way.

    So a network keeps what it knew and no photo of the run asks for. `published` has the weights by the `id` of their
    parameter. Li et al., "Explicit inductive bias for transfer learning", ICML 2018, have the pull in the loss.
    """
    for group in optimizer.param_groups if anchor else ():
        for p in group["params"]:
            if id(p) in published:
                p.lerp_(published[id(p)], min(1.0, anchor * group["lr"]))


@torch.no_grad()
def held_out_report(
    net: BottleNet, source: Source, team: Team, budgets: Sequence[float | None], *, labels: bool
) -> list[dict[str, float]]:
    """Measure for each budget (None: whole payloads) distillation loss, agreement with the uncut network (0..1) and
    mean bytes, as `objective.py` has them, on photos that were not trained on, which the processes share; and with
    `labels` top-1, percent.
    """
    net.eval()
    held_out = source.held_out
    mine = range(team.number * REPORTED, len(held_out), team.count * REPORTED)
    sums = np.zeros((len(budgets), 6))  # loss, agreed, bytes, photos, right, labelled
    for batch in source.reported(held_out[first : first + REPORTED] for first in mine):
        for row, budget in enumerate(budgets):
            with team.precision():
                output = forward(net, batch.features, budget)
                agreed = agreement(net, output, batch.features, batch.uncut_scores)
            assert output.payload_bytes is not None
            loss = target_error(net, output, batch.features, batch.uncut_scores).sum().item()
            sums[row, :4] += loss, agreed, output.payload_bytes.sum().item(), len(batch.labels)
            if labels:
                pairs = zip(output.scores.argmax(1).tolist(), batch.labels, strict=True)
                right = [best == label for best, label in pairs if label is not None]
                sums[row, 4:] += sum(right), len(right)
    rows = []
    for budget, (loss, agreed, size, photos, right, labelled) in zip(budgets, team.summed(sums).tolist(), strict=True):
        count = max(1, int(photos))  # of a handful of photos none may be held out
        named = {"photos": int(photos), "distillation": loss / count, "agreement": agreed / count}
        named["payload_bytes"] = size / count
        if labelled:
            named["top1"] = 100 * right / labelled
        rows.append(named if budget is None else {"budget": budget, **named})
    return rows


def forward(net: BottleNet, features: Tensor, budget: float | None) -> Output:
    """Run with the real codec, or the entropy codec's estimate, without a dense tail; within 0 bytes the exit alone."""
    if budget == 0:
        scores = net.exit_scores(features)
        return Output(scores, features, features, features, scores.new_zeros(len(scores)))
    with_tail = not net.features_alone
    if net.prior is None:
        return net.forward_features(features, with_tail=with_tail)
    budgets = features.new_full((len(features),), math.inf if budget is None else budget)
    return net.forward_within(features, budgets, with_tail=with_tail)


def reported_budgets(config: TrainConfig) -> Sequence[float | None]:
    """List budgets, doubling, from the smallest; with whole payloads where some are not cut, and 0 for an exit."""
    if config.only_exit:
        return (0,)
    if config.exit:
        return (0, *reported_budgets(replace(config, exit=False, exit_without="")))
    if not config.embedded:
        return (None,)
    count = int(math.log2(config.largest_bytes / config.smallest_bytes)) + 1
    cut = [config.largest_bytes / 2**number for number in reversed(range(count))]
    return [*cut, None] if config.whole_share else cut


def log_record(at: runs.Position, window: Sequence[tuple[float, float, float]], rate: float) -> dict[str, float]:
    """Write a line of the log: means of (loss, distillation, payload bytes) since the last one."""
    loss, distilled, size = (float(mean) for mean in np.mean(window, axis=0))
    return {
        "steps": at.steps,
        "epoch": at.epoch,
        "loss": round(loss, 4),
        "distillation": round(distilled, 4),
        "payload_bytes": round(size, 1),
        "lmbda": round(at.lmbda, 8),
        "images_per_s": round(rate, 1),
    }
