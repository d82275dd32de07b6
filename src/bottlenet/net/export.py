"""BottleNet -> bundle: graphs that onnxruntime runs alone, compared with torch before anything is written.

head.onnx    pixels uint8 (B, S, S, 3) -> normalise, head, reduction, rounding -> symbols uint8 (B, c', h, w)
tail.onnx    symbols -> dequantise, restoration, tail -> scores float32 (B, classes), or what another task gives
uncut.onnx   pixels -> the same: the network as it was before anyone cut it

How near two runtimes, or two kinds of weights, come to each other, by task: what is allowed, and what counts as one.

output of a graph (B, ...) x2 -> difference -> compared with `allowed`
                              -> same, 0..1 a photo

Attention spelled out while a network is exported.

The exporter knows `scaled_dot_product_attention` for four dimensions alone, and with a mask takes its result to lie in
memory in another order than it does. Its products and its softmax it knows.

Weights in a quarter of the bytes: int8 with a float32 scale for each output channel; computed with in float32.

Only storage changes: a graph casts each stored weight back and multiplies it by its scale, which onnxruntime does once,
when it loads the graph. Rounding to 8 bits moves the scores a little; whoever asks for it measures what that costs.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bottlenet.bundle import Bundle, check_replaceable, write_bundle
from bottlenet.bundle.manifest import Manifest
from bottlenet.errors import BundleError, InputError
from bottlenet.net.cut import count_flops, split
from bottlenet.net.detectors import translations
from bottlenet.net.model import BottleNet, Origin
from bottlenet.net.models import Normalize
from bottlenet.net.unit import LearnedReduction
from bottlenet.runtime import open_session, run_graph
from bottlenet.task import Detection, Multilabel, Segmentation, Task
from bottlenet.wire.entropy import Entropy

MAX_SCORES_DIFFERENCE = 1e-3  # of a score, relative to the largest; of a map, the share of its places
TINY = float(np.finfo(np.float32).tiny)  # what scores that are all 0 are divided by
MAX_BOXES_DIFFERENCE = 0.05  # the share of the boxes
OVERLAP = 0.5  # from which on two boxes are of one thing: intersection over union
NEAR = 0.01  # of a score, and of the square's side: boxes that are nearer are one


class BestClass(nn.Module):
    """Logits (B, classes, rows, columns) -> the map (B, rows, columns) uint8."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.argmax(1).to(torch.uint8)


def answering(task: Task) -> nn.Module:
    """What stands behind a module of that task, so that a graph gives what the task says."""
    return BestClass() if isinstance(task, Segmentation) else nn.Identity()


def allowed(task: Task) -> float:
    """The largest difference: of scores relative to the largest; of a map, or of boxes, the share of them."""
    # In a crowd of boxes one decides about others.
    return MAX_BOXES_DIFFERENCE if isinstance(task, Detection) else MAX_SCORES_DIFFERENCE


def difference(task: Task, mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The largest of any photo."""
    if isinstance(task, Segmentation):
        return float((mine != theirs).mean(axis=(1, 2)).max())
    if isinstance(task, Detection):
        pairs = zip(mine, theirs, strict=True)
        return max(1 - min(found(a, b, exact=True), found(b, a, exact=True)) for a, b in pairs)
    return relative_difference(mine, theirs)


def same(task: Task, mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """So many photos have the same answer; of maps and boxes the shares that are the same, summed up."""
    if isinstance(task, Segmentation):
        return float((mine == theirs).mean(axis=(1, 2)).sum())
    if isinstance(task, Detection):
        return sum(found(a[task.above(a)], b) for a, b in zip(mine, theirs, strict=True))
    if isinstance(task, Multilabel):
        logits = np.log(np.clip(task.thresholds, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(task.thresholds, 1e-9, 1 - 1e-9))
        return float(((mine >= logits) == (theirs >= logits)).all(axis=1).sum())
    return float((mine.argmax(1) == theirs.argmax(1)).sum())


def found(wanted: NDArray[np.float32], rows: NDArray[np.float32], *, exact: bool = False) -> float:
    """The share of the boxes `wanted` (K, 6) that are among `rows` too, with the same class; 1 where none is wanted.

    There, a box is the same if most of it is; with `exact` its edges and score must be nearly equal.
    """
    wanted, rows = (each[each[:, 4] > 0] for each in (wanted, rows))
    if not len(wanted):
        return 1.0
    if not len(rows):
        return 0.0
    alike = wanted[:, None, 5] == rows[None, :, 5]
    if exact:
        alike &= np.abs(wanted[:, None, :5] - rows[None, :, :5]).max(axis=2) <= NEAR
    else:
        alike &= overlaps(wanted[:, :4], rows[:, :4]) >= OVERLAP
    return float(alike.any(axis=1).mean())


def overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of boxes (K, 4) and (L, 4) -> (K, L)."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = sides.clip(0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b)]
    shares: NDArray[np.float32] = common / np.maximum(areas[0][:, None] + areas[1][None, :] - common, 1e-12)
    return shares


def relative_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Largest absolute difference, as a share of the largest score; NaN where a score is no number."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    return float(np.abs(a - b).max() / max(TINY, float(np.abs(a).max())))


class AttentionSpelledOut(TorchFunctionMode):
    """Inside, `scaled_dot_product_attention` is products and a softmax, where it is neither causal nor random."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        plain = kwargs.keys() <= {"query", "key", "value", "attn_mask", "scale", "dropout_p", "is_causal"}
        if func is not F.scaled_dot_product_attention or not plain or len(args) > 4:
            return func(*args, **kwargs)
        if kwargs.get("is_causal") or kwargs.get("dropout_p"):
            return func(*args, **kwargs)
        return attention(*args, **{name: kwargs[name] for name in kwargs if name not in ("is_causal", "dropout_p")})


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """(..., L, E), (..., S, E), (..., S, V) -> (..., L, V); the mask is added to the products, or says which count."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    products = (query * scale) @ key.transpose(-2, -1)  # (..., L, S)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        products = products.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        products = products + attn_mask
    return products.softmax(-1) @ value


SMALLEST = 1024  # elements; smaller tensors, such as biases, stay float32


def store_as_int8(graph: bytes) -> bytes:
    """An ONNX graph -> the same graph with its large float32 weights as int8."""
    model = onnx.load_model_from_string(graph)
    transposed = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    initializers: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.dtype == np.float32 and weight.ndim >= 2 and weight.size >= SMALLEST:
            axis = 1 if tensor.name in transposed else 0
            tensors, restoring = _stored(tensor.name, weight, axis)
            initializers += tensors
            nodes += restoring
        else:
            initializers.append(tensor)
    nodes += list(model.graph.node)
    for field, values in ((model.graph.initializer, initializers), (model.graph.node, nodes)):
        del field[:]
        field.extend(values)
    data: bytes = model.SerializeToString()
    return data


def _stored(name: str, weight: np.ndarray, axis: int) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """What replaces one weight: its integers and scales, and the two nodes that make it again under its old name."""
    integers, scale = to_int8(weight, axis)
    tensors = [numpy_helper.from_array(integers, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
    nodes = [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
    ]
    return tensors, nodes


def to_int8(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 -> int8 in -127..127 and float32 scales, one an index of `axis`: weight = int8 * scale, nearly."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.round(weight / scale), -127, 127).astype(np.int8), scale


MIN_SYMBOLS_EQUAL = 0.999  # share of the symbols that must equal torch's
WEIGHTS = ("float32", "int8")


@dataclass(frozen=True)
class Fidelity:
    """How near onnxruntime came to torch on the photos that were compared, and what rounding the weights did."""

    photos: int
    symbols_equal: float  # share, 0..1
    scores_difference: float  # largest, of both networks, relative to the largest score; of maps and boxes a share
    rounded_agreement: float  # share of the photos whose answer stays the same with the weights as they are stored
    rounded_uncut_agreement: float  # the same for the uncut network


class DeviceGraph(nn.Module):
    """pixels -> symbols."""

    def __init__(self, net: BottleNet) -> None:
        super().__init__()
        self.head, self.reduction, self.quantizer = net.head, net.reduction, net.quantizer

    def forward(self, pixels: Tensor) -> Tensor:
        latent = self.reduction(self.head(pixels))
        return self.quantizer.continuous(latent).round().to(torch.uint8)


class ServerGraph(nn.Module):
    """symbols -> scores."""

    def __init__(self, net: BottleNet, answering: nn.Module) -> None:
        super().__init__()
        self.quantizer, self.restoration, self.tail = net.quantizer, net.restoration, net.tail
        self.answering = answering

    def forward(self, symbols: Tensor) -> Tensor:
        features_hat = self.restoration(self.quantizer.dequantize(symbols.float()))
        answers: Tensor = self.answering(self.tail(features_hat))
        return answers


def export(
    net: BottleNet,
    path: str | Path,
    *,
    pixels: np.ndarray,
    uncut_pixels: np.ndarray | None = None,
    weights: str = "float32",
    budget_bytes: int = 0,
    extra: Mapping[str, str | float | int] | None = None,
) -> tuple[Bundle, Fidelity]:
    """Writes the bundle of `net`, which `build.insert` made, to the folder `path`.

    `pixels` (N, S, S, 3) uint8, N >= 2: real photos as the head takes them, on which both runtimes must agree;
    `uncut_pixels` the same as the uncut network takes them, None where both are one. `weights` "int8" stores those
    of tail.onnx and uncut.onnx in a quarter of the bytes; head.onnx, whose every symbol counts, stays float32.
    `budget_bytes` is the largest payload of a device that is not told otherwise, 0 for none. `extra` goes into the
    manifest: where the bundle comes from.

    InputError: another kind of `weights`, or a BottleNet without an origin. BundleError: fewer than 99.9 % of the
    symbols are equal, scores differ by more than 1e-3 of the largest, or the bundle can't be written.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights {weights!r}: one of {', '.join(WEIGHTS)} is possible")
    if net.origin is None:
        raise InputError("this BottleNet was put together by hand; only one that `insert` made knows what to export")
    check_replaceable(Path(path).resolve())  # minutes of work come before the bundle is written
    origin, classifier = net.origin, net.origin.classifier
    net = copy.deepcopy(net).eval()
    task, output = classifier.task, classifier.task.output(len(classifier.labels)).name
    device, server = DeviceGraph(net), ServerGraph(net, answering(task))
    uncut = nn.Sequential(Normalize(classifier.mean, classifier.std), classifier.module, answering(task)).eval()
    example = torch.from_numpy(pixels[:2])
    uncut_pixels = pixels if uncut_pixels is None else uncut_pixels
    uncut_example = torch.from_numpy(uncut_pixels[:2])
    with torch.no_grad():
        symbols = device(example)
    graphs = {
        "head.onnx": to_onnx(device, example, inputs=["pixels"], outputs=["symbols"]),
        "tail.onnx": to_onnx(server, symbols, inputs=["symbols"], outputs=[output]),
        "uncut.onnx": to_onnx(uncut, uncut_example, inputs=["pixels"], outputs=[output]),
    }
    stored = dict(graphs)
    if weights == "int8":
        stored |= {name: store_as_int8(graphs[name]) for name in ("tail.onnx", "uncut.onnx")}
    fidelity = compare(task, (device, server, uncut), graphs, stored, (pixels, uncut_pixels))
    check(fidelity, allowed(task))
    labels = "\n".join(classifier.labels) + "\n"
    manifest = dataclasses.replace(describe(net, origin, dict(extra or {})), budget_bytes=budget_bytes)
    files = {**stored, "labels.txt": labels.encode()}
    if isinstance(net.codec, Entropy):
        files["tables.bin"] = net.codec.tables.to_bytes()
    return write_bundle(path, manifest, files), fidelity


def describe(net: BottleNet, origin: Origin, extra: dict[str, str | float | int]) -> Manifest:
    """The manifest, without the files' hashes."""
    classifier, mosaic = origin.classifier, net.codec.mosaic
    return Manifest(
        name=f"{classifier.name} at {origin.cut.name}",
        model=classifier.name,
        cut=origin.cut.name,
        unit=origin.unit,
        preprocess=dataclasses.replace(classifier.preprocess, size=net.head_size),
        uncut_preprocess=classifier.preprocess,
        latent=mosaic.symbols_shape,
        align=mosaic.align,
        codec=net.codec.name,
        setting=net.codec.setting,
        head_flops_share=head_flops_share(net, origin),
        num_classes=len(classifier.labels),
        task=classifier.task,
        extra={"weights_licence": classifier.weights_licence, **extra},
    )


def head_flops_share(net: BottleNet, origin: Origin) -> float:
    """FLOPs of head and reduction, over the uncut network's with the photos that it takes."""
    classifier = origin.classifier
    reduction = net.reduction.reduction if isinstance(net.reduction, LearnedReduction) else net.reduction
    device_flops = origin.cut.head_flops + count_flops(reduction, torch.zeros(1, *origin.cut.shape))
    whole = split(classifier.module, origin.cut.name, classifier.input_size).cut
    return device_flops / (whole.head_flops / whole.head_flops_share)


@torch.no_grad()
def compare(
    task: Task,
    modules: tuple[nn.Module, nn.Module, nn.Module],
    graphs: Mapping[str, bytes],
    stored: Mapping[str, bytes],
    pixels: tuple[np.ndarray, np.ndarray],
) -> Fidelity:
    """Runs torch and onnxruntime on the same photos, a few at a time; both tails get onnxruntime's symbols.

    `pixels` are the same photos twice: for the head, and for the uncut network.
    """
    device, server, uncut = modules
    exact = {name: open_session(graph) for name, graph in graphs.items()}
    rounded = {name: open_session(stored[name]) for name in ("tail.onnx", "uncut.onnx")}
    equal, agreed, uncut_agreed, largest = 0.0, 0.0, 0.0, 0.0
    count = len(pixels[0])
    for start in range(0, count, 8):
        batch, uncut_batch = (each[start : start + 8] for each in pixels)
        photos = torch.from_numpy(batch)
        symbols = run_graph(exact["head.onnx"], pixels=batch)
        equal += float((device(photos).numpy() == symbols).mean()) * len(batch)
        ours = run_graph(exact["tail.onnx"], symbols=symbols)
        theirs = run_graph(exact["uncut.onnx"], pixels=uncut_batch)
        differences = (
            difference(task, server(torch.from_numpy(symbols)).numpy(), ours),
            difference(task, uncut(torch.from_numpy(uncut_batch)).numpy(), theirs),
        )
        largest = float(np.max([largest, *differences]))  # max() would lose NaN
        agreed += same(task, ours, run_graph(rounded["tail.onnx"], symbols=symbols))
        uncut_agreed += same(task, theirs, run_graph(rounded["uncut.onnx"], pixels=uncut_batch))
    return Fidelity(count, equal / count, largest, agreed / count, uncut_agreed / count)


def check(fidelity: Fidelity, most: float = MAX_SCORES_DIFFERENCE) -> None:
    """BundleError where onnxruntime is not torch: answers differ by more than `most`."""
    if not fidelity.symbols_equal >= MIN_SYMBOLS_EQUAL:
        raise BundleError(
            f"onnxruntime gives other symbols than torch for {1 - fidelity.symbols_equal:.2%} of the elements; "
            f"at most {1 - MIN_SYMBOLS_EQUAL:.1%} is allowed, so no bundle was written"
        )
    if math.isnan(fidelity.scores_difference):
        raise BundleError(
            "the network gives scores that are no numbers, so no bundle was written; train anew, with a lower lr if "
            "the uncut network gives numbers"
        )
    if not fidelity.scores_difference <= most:
        raise BundleError(
            f"onnxruntime's scores differ from torch's by {fidelity.scores_difference:.2g} of the largest score; "
            f"at most {most} is allowed, so no bundle was written"
        )


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Errors only from a logger and those below it."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def to_onnx(module: nn.Module, example: Tensor, *, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A module with one input as an ONNX graph whose batch size is free. `example` needs a batch of 2 or more."""
    # The exporter's own warnings are about parts of torch that it meets and we do not use.
    with warnings.catch_warnings(), quiet("torch.onnx"), AttentionSpelledOut():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim.AUTO},),
            custom_translation_table=translations(),
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    # the exporter notes for every node which line of Python it came from: size without use, and paths of this machine
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:]
    graph: bytes = model.SerializeToString()
    return graph
