"""Export a BottleNet as a bundle: graphs that onnxruntime runs alone, compared with torch before anything is written.

    head.onnx    pixels uint8 (B, S, S, 3) -> normalise, head, reduction, rounding -> symbols uint8 (B, c', h, w)
    exit.onnx    pixels -> what the device answers by itself: another network's scores, or normalise, head, exit ->
                 scores, features, and head.onnx has the reduction alone
    tail.onnx    symbols -> dequantise, restoration, tail -> scores float32 (B, classes), or the output of another task
    uncut.onnx   pixels -> the same: the network as it was before anyone cut it

With `weights="int8"` tail, exit and uncut network have their weights in a quarter of the bytes: int8 with a float32
scale for each output channel. Only storage changes: a graph casts each stored weight back and multiplies it by its
scale, which onnxruntime does once, when it loads the graph. Rounding to 8 bits moves the scores a little; whoever asks
for it measures what that costs.
"""

import copy
import dataclasses
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bottlenet.bundle import Bundle, Preprocess, check_replaceable, write_bundle
from bottlenet.bundle.manifest import Exit, Manifest
from bottlenet.errors import BundleError, InputError, reason
from bottlenet.net.detectors import kept_in_onnx
from bottlenet.net.model import BottleNet, Origin, in_order
from bottlenet.net.models import Classifier, Normalize, fingerprint
from bottlenet.net.trace import count_flops, quiet
from bottlenet.runtime import Head, open_session, open_tail, open_uncut, run_all, run_graph
from bottlenet.task import Detection, Segmentation, Task, same_answers, share_found
from bottlenet.wire.entropy import Entropy

Modules = Mapping[str, nn.Module]  # each by the name of its graph, as the next two
Graphs = Mapping[str, bytes]
Photos = Mapping[str, np.ndarray]  # (N, S, S, 3) uint8, as a graph takes them

MAX_SCORES_DIFFERENCE = 1e-3  # of a score, relative to the largest; of a map, the share of its places
TINY = float(np.finfo(np.float32).tiny)  # what scores that are all 0 are divided by
MAX_BOXES_DIFFERENCE = 0.05  # the share of the boxes
MIN_SYMBOLS_EQUAL = 0.999  # share of the symbols that must equal torch's
WEIGHTS = ("float32", "int8")
CHECKED: set[str] = set()  # what `check_exportable` was through with in this process


@dataclass(frozen=True)
class Fidelity:
    """How near onnxruntime came to torch on the photos that were compared, and what rounding the weights did."""

    photos: int
    symbols_equal: float  # share, 0..1
    scores_difference: float  # largest, of both networks, relative to the largest score; of maps and boxes a share
    rounded_agreement: float  # share of the photos whose answer stays the same with the weights as they are stored
    rounded_uncut_agreement: float  # the same for the uncut network
    rounded_exit_agreement: float | None = None  # the same for the exit, where there is one


@dataclass(frozen=True)
class OwnNetwork:
    """A network that the device has to itself, to answer what it is sure of."""

    module: nn.Module  # pixels (B, S, S, 3) uint8 -> scores (B, classes)
    entry: Exit  # for the manifest
    pixels: np.ndarray = field(repr=False)  # (N, S, S, 3) uint8: real photos as it takes them


def export(
    net: BottleNet,
    path: str | Path,
    *,
    pixels: np.ndarray,
    uncut_pixels: np.ndarray | None = None,
    own: OwnNetwork | None = None,
    weights: str = "float32",
    budget_bytes: int = 0,
    extra: Mapping[str, str | float | int] | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> tuple[Bundle, Fidelity]:
    """Write the bundle of `net`, which `insert` returned, to the folder `path`.

    `pixels` (N, S, S, 3) uint8, N >= 2: real photos as the head takes them, on which both runtimes must agree;
    `uncut_pixels` the same as the uncut network takes them, None where both are one. `own` answers on the device, in
    place of an exit that `net` may have. `weights` "int8" stores those of
    tail.onnx and uncut.onnx in a quarter of the bytes; head.onnx, whose every symbol counts, stays float32.
    `budget_bytes` is the largest payload of a device unless it sets its own, 0 for none. `extra` goes into the
    manifest, to say where the bundle comes from. `say` is called with what is done next, as it takes a minute.

    InputError: another kind of `weights`, or a BottleNet without an origin. BundleError: fewer than 99.9 % of the
    symbols are equal, scores differ by more than 1e-3 of the largest, or the bundle can't be written.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights {weights!r}: one of {', '.join(WEIGHTS)} is possible")
    check_replaceable(Path(path).resolve())  # minutes of work come before the bundle is written
    uncut_pixels = pixels if uncut_pixels is None else uncut_pixels
    origin, modules = origin_of(net), modules_of(net, own)
    check_pixels("pixels", pixels, net.head_size)
    check_pixels("uncut_pixels", uncut_pixels, origin.classifier.preprocess.size)
    photos = {"head.onnx": pixels, "exit.onnx": pixels if own is None else own.pixels, "uncut.onnx": uncut_pixels}
    say("converting")
    graphs = convert(modules, {name: each[:2] for name, each in photos.items()}, origin.classifier)
    stored = dict(graphs)
    if weights == "int8":
        stored |= {name: store_as_int8(graphs[name]) for name in ("tail.onnx", "uncut.onnx")}
        if "exit.onnx" in graphs:  # up to features that are sent every weight counts, as in head.onnx
            stored["exit.onnx"] = store_as_int8(graphs["exit.onnx"], "exit." if own is None else "")
    say("comparing with torch")
    task = origin.classifier.task
    fidelity = compare(task, modules, graphs, stored, photos)
    check_fidelity(fidelity, tolerance(task))
    manifest = dataclasses.replace(describe(net, origin, dict(extra or {}), own), budget_bytes=budget_bytes)
    files = files_of(net, stored)
    say("reading it back")
    with tempfile.TemporaryDirectory() as folder:
        read_back(write_bundle(Path(folder) / "bundle", manifest, files))
    return write_bundle(path, manifest, files), fidelity


def check_exportable(net: BottleNet) -> None:
    """Raise InputError or BundleError for what no bundle can hold, before it is trained, by a trial export."""
    origin = origin_of(net)
    shape = (type(net.reduction).__name__, type(net.restoration).__name__, net.codec.name, origin.unit, bool(net.exit))
    key = f"{fingerprint(origin.classifier)} {origin.cut.name} {net.head_size} {shape}"
    if key in CHECKED:  # the trials of a sweep
        return
    sides = {"head.onnx": net.head_size, "exit.onnx": net.head_size, "uncut.onnx": origin.classifier.preprocess.size}
    photos = {name: np.zeros((2, side, side, 3), np.uint8) for name, side in sides.items()}
    graphs = convert(modules_of(net), photos, origin.classifier)
    with tempfile.TemporaryDirectory() as folder:
        read_back(write_bundle(Path(folder) / "bundle", describe(net, origin, {}), files_of(net, graphs)))
    CHECKED.add(key)


def check_pixels(what: str, pixels: object, size: int) -> None:
    """Raise InputError unless these are photos of `size`, as `export` wants them."""
    if not isinstance(pixels, np.ndarray):
        raise InputError(f"{what} is a {type(pixels).__name__}; give an array of uint8, (photos, {size}, {size}, 3)")
    if pixels.dtype != np.uint8 or len(pixels) == 0 or pixels.shape[1:] != (size, size, 3):
        given = f"{what} has shape {pixels.shape}, {pixels.dtype}"
        raise InputError(f"{given}; give uint8 of shape (photos, {size}, {size}, 3)")


def origin_of(net: BottleNet) -> Origin:
    """Return where the network comes from. InputError: nobody knows."""
    if net.origin is None:
        raise InputError("this BottleNet was put together by hand; only one that `insert` made knows what to export")
    return net.origin


def modules_of(net: BottleNet, own: OwnNetwork | None = None) -> dict[str, nn.Module]:
    """Copy the network as the modules of the graphs. With `own` an exit of `net` has no place."""
    classifier = origin_of(net).classifier
    copied, answer = copy.deepcopy(net).eval(), answer_layer(classifier)
    if own is not None:
        copied.exit = None
    uncut = nn.Sequential(Normalize(classifier.mean, classifier.std), classifier.module, answer).eval()
    modules = {"head.onnx": DeviceGraph(copied), "tail.onnx": ServerGraph(copied, answer), "uncut.onnx": uncut}
    if own is not None:
        return {"exit.onnx": own.module.eval(), **modules}
    return modules if copied.exit is None else {"exit.onnx": ExitGraph(copied, copied.exit), **modules}


def convert(modules: Modules, photos: Photos, classifier: Classifier) -> dict[str, bytes]:
    """Convert the modules of the graphs, for two photos as each takes them."""
    output = classifier.task.output(len(classifier.labels)).name
    examples = {name: torch.from_numpy(each) for name, each in photos.items()}
    takes, graphs = "pixels", {}
    with torch.no_grad():
        if (own := modules.get("exit.onnx")) is not None:
            outputs = [output]
            if isinstance(own, ExitGraph):
                takes, examples["head.onnx"] = "features", own(examples["exit.onnx"])[1]
                outputs.append(takes)
            graphs["exit.onnx"] = to_onnx(own, examples["exit.onnx"], inputs=["pixels"], outputs=outputs)
        symbols = modules["head.onnx"](examples["head.onnx"])
    return {
        **graphs,
        "head.onnx": to_onnx(modules["head.onnx"], examples["head.onnx"], inputs=[takes], outputs=["symbols"]),
        "tail.onnx": to_onnx(modules["tail.onnx"], symbols, inputs=["symbols"], outputs=[output]),
        "uncut.onnx": to_onnx(modules["uncut.onnx"], examples["uncut.onnx"], inputs=["pixels"], outputs=[output]),
    }


def files_of(net: BottleNet, graphs: Graphs) -> dict[str, bytes]:
    """Add to the graphs what else a bundle holds."""
    files = {**graphs, "labels.txt": ("\n".join(origin_of(net).classifier.labels) + "\n").encode()}
    if isinstance(net.codec, Entropy):
        files["tables.bin"] = net.codec.tables.to_bytes()
    return files


def read_back(bundle: Bundle) -> None:
    """Open and run a bundle's graphs as device and server do, on one photo and on two. BundleError: one can't."""
    head, tail, uncut = Head(bundle), open_tail(bundle), open_uncut(bundle)
    for count in (1, 2):
        manifest = bundle.manifest

        def blank(preprocess: Preprocess, count: int = count) -> NDArray[np.uint8]:
            return np.zeros((count, preprocess.size, preprocess.size, 3), np.uint8)

        answers = (
            run_graph(tail, symbols=head(blank(manifest.preprocess))),
            run_graph(uncut, pixels=blank(manifest.uncut_preprocess)),
            *([] if manifest.exit is None else [head.look(blank(manifest.exit.preprocess))[0]]),
        )
        expected = (count, *bundle.manifest.output.shape)
        if shapes := [answer.shape for answer in answers if answer.shape != expected]:
            what = f"for {count} photos the exported network gives {shapes[0]}, not {expected}"
            advice = "give it a forward that keeps the batch, without squeeze() of all dimensions"
            raise BundleError(f"{what}, so no bundle was written; {advice}")


def describe(
    net: BottleNet, origin: Origin, extra: dict[str, str | float | int], own: OwnNetwork | None = None
) -> Manifest:
    """Write the manifest, without the files' hashes."""
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
        head_flops_share=head_flops_share(net, origin, with_exit=own is None),
        exit=exit_entry(net, origin) if own is None else own.entry,
        num_classes=len(classifier.labels),
        task=classifier.task,
        extra={"weights_licence": classifier.weights_licence, **extra},
    )


def head_flops_share(net: BottleNet, origin: Origin, *, with_exit: bool = True) -> float:
    """Divide the FLOPs of head, exit and reduction by the uncut network's, each with the photos that it takes."""
    _, reduction = net.learned_and_reduction
    features = torch.zeros(1, *origin.cut.shape)
    device_flops = origin.cut.head_flops + count_flops(reduction, features)
    if net.exit is not None and with_exit:
        device_flops += count_flops(net.exit, features)
    return device_flops / origin.uncut_flops


def exit_entry(net: BottleNet, origin: Origin) -> Exit | None:
    """Describe the exit for the manifest."""
    if net.exit is None:
        return None
    flops = origin.cut.head_flops + count_flops(net.exit, torch.zeros(1, *origin.cut.shape))
    channels, height, width = origin.cut.shape
    preprocess = dataclasses.replace(origin.classifier.preprocess, size=net.head_size)
    return Exit(preprocess, flops / origin.uncut_flops, (channels, height, width), net.sure, net.temperature)


class ExitGraph(nn.Module):
    """exit.onnx: pixels -> scores, features at the cut."""

    def __init__(self, net: BottleNet, own: nn.Module) -> None:
        super().__init__()
        self.head, self.exit = net.head, own
        self.learned, _ = net.learned_and_reduction
        self.head_order, self.order = net.head_order, net.tail_order

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.learned(in_order(self.head(pixels), self.head_order))
        return self.exit(in_order(features, self.order)), features


class DeviceGraph(nn.Module):
    """head.onnx: pixels -> symbols; from the features at the cut where there is an exit."""

    def __init__(self, net: BottleNet) -> None:
        super().__init__()
        self.head, self.reduction, self.quantizer = net.head, net.reduction, net.quantizer
        self.order = net.head_order
        if net.exit is not None:
            self.head, self.order = nn.Identity(), None
            _, self.reduction = net.learned_and_reduction

    def forward(self, taken: Tensor) -> Tensor:
        latent = self.reduction(in_order(self.head(taken), self.order))
        return self.quantizer.continuous(latent).round().to(torch.uint8)


class ServerGraph(nn.Module):
    """tail.onnx: symbols -> scores."""

    def __init__(self, net: BottleNet, answer_layer: nn.Module) -> None:
        super().__init__()
        self.quantizer, self.restoration, self.tail = net.quantizer, net.restoration, net.tail
        self.answer_layer, self.order = answer_layer, net.tail_order

    def forward(self, symbols: Tensor) -> Tensor:
        features_hat = self.restoration(self.quantizer.dequantize(symbols.float()))
        return cast(Tensor, self.answer_layer(self.tail(in_order(features_hat, self.order))))


class BestClass(nn.Module):
    """Logits (B, classes, rows, columns) -> the map (B, rows, columns) uint8."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.argmax(1).to(torch.uint8)


def answer_layer(classifier: Classifier) -> nn.Module:
    """Return the layer that makes a classifier's output its task's."""
    if classifier.answer is not None:
        return classifier.answer
    return BestClass() if isinstance(classifier.task, Segmentation) else nn.Identity()


@torch.no_grad()
def compare(task: Task, modules: Modules, graphs: Graphs, stored: Graphs, photos: Photos) -> Fidelity:
    """Run both runtimes on the same photos, which each graph has in `photos`; both tails get onnxruntime's symbols."""
    exact = {name: open_session(graph) for name, graph in graphs.items()}
    rounded = {name: open_session(stored[name]) for name in graphs if name != "head.onnx"}
    equal, largest = 0.0, 0.0
    agreed = dict.fromkeys(rounded, 0.0)
    count = len(photos["head.onnx"])
    for start in range(0, count, 8):
        inputs = {name: {"pixels": photos[name][start : start + 8]} for name in graphs if name in photos}
        taken = inputs.pop("head.onnx")
        if isinstance(modules.get("exit.onnx"), ExitGraph):
            taken = {"features": run_all(exact["exit.onnx"], **taken)[1]}
        symbols = run_graph(exact["head.onnx"], **taken)
        inputs["tail.onnx"] = {"symbols": symbols}
        expected = modules["head.onnx"](*map(torch.from_numpy, taken.values())).numpy()
        equal += float((expected == symbols).mean()) * len(symbols)
        for name, given in inputs.items():
            scores = run_graph(exact[name], **given)
            wanted = modules[name](*map(torch.from_numpy, given.values()))
            wanted = wanted[0] if isinstance(wanted, tuple) else wanted
            largest = float(np.max([largest, difference(task, wanted.numpy(), scores)]))  # max() would lose NaN
            agreed[name] += same_answers(task, scores, run_graph(rounded[name], **given)) / count
    return Fidelity(count, equal / count, largest, agreed["tail.onnx"], agreed["uncut.onnx"], agreed.get("exit.onnx"))


def check_fidelity(fidelity: Fidelity, most: float = MAX_SCORES_DIFFERENCE) -> None:
    """Raise BundleError where onnxruntime is not torch: answers differ by more than `most`."""
    if not fidelity.symbols_equal >= MIN_SYMBOLS_EQUAL:
        what = f"onnxruntime gives other symbols than torch for {1 - fidelity.symbols_equal:.2%} of the elements"
        raise BundleError(f"{what}; at most {1 - MIN_SYMBOLS_EQUAL:.1%} is allowed, so no bundle was written")
    if math.isnan(fidelity.scores_difference):
        advice = "train anew, with a lower lr if the uncut network gives numbers"
        raise BundleError(f"the network gives scores that are no numbers, so no bundle was written; {advice}")
    if not fidelity.scores_difference <= most:
        what = f"onnxruntime's scores differ from torch's by {fidelity.scores_difference:.2g} of the largest score"
        raise BundleError(f"{what}; at most {most} is allowed, so no bundle was written")


def tolerance(task: Task) -> float:
    """Return the largest difference allowed: of scores relative to the largest, of a map or of boxes a share."""
    # In a crowd of boxes one decides about others.
    return MAX_BOXES_DIFFERENCE if isinstance(task, Detection) else MAX_SCORES_DIFFERENCE


def difference(task: Task, mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Return the largest difference of a photo between two runtimes' outputs (B, ...), as in `tolerance`."""
    if isinstance(task, Segmentation):
        return float((mine != theirs).mean(axis=(1, 2)).max())
    if isinstance(task, Detection):
        pairs = zip(mine, theirs, strict=True)
        return max(1 - min(share_found(a, b, exact=True), share_found(b, a, exact=True)) for a, b in pairs)
    if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        return math.nan  # a score is no number
    return float(np.abs(mine - theirs).max() / max(TINY, float(np.abs(mine).max())))


def to_onnx(module: nn.Module, example: Tensor, *, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Convert a module with one input to an ONNX graph whose batch size is free; `example` has 2 photos or more."""
    # The exporter's own warnings are about parts of torch that it meets and we do not use.
    with warnings.catch_warnings(), quiet("torch.onnx"), AttentionSpelledOut():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim.AUTO},),
                custom_translation_table={torch.ops.bottlenet.kept.default: kept_in_onnx},
                verbose=False,
            )
        except Exception as error:  # of many kinds, and of many lines
            first: BaseException = error
            while first.__cause__ is not None:
                first = first.__cause__
            advice = "replace what it names, or cut where it is not needed"
            raise InputError(f"the network can't be converted to ONNX ({reason(first)}); {advice}") from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    # the exporter notes for every node which line of Python it came from: size without use, and paths of this machine
    for element in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        del element.metadata_props[:]
        element.doc_string = ""
    del model.metadata_props[:]
    return cast(bytes, model.SerializeToString())


class AttentionSpelledOut(TorchFunctionMode):
    """Inside, `scaled_dot_product_attention` is products and a softmax, where it is neither causal nor random.

    The exporter knows it for four dimensions alone, and with a mask takes its result to lie in memory in another order
    than it does. Its products and its softmax it knows.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = kwargs.keys() <= {"query", "key", "value", "attn_mask", "scale", "dropout_p", "is_causal"}
        plain = known and len(args) <= 4 and not kwargs.get("is_causal") and not kwargs.get("dropout_p")
        if func is not F.scaled_dot_product_attention or not plain:
            return func(*args, **kwargs)
        return attention(*args, **{name: kwargs[name] for name in kwargs if name not in ("is_causal", "dropout_p")})


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """Attend: (..., L, E), (..., S, E), (..., S, V) -> (..., L, V); the mask is added, or says which count."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    products = (query * scale) @ key.transpose(-2, -1)  # (..., L, S)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        products = products.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        products = products + attn_mask
    return products.softmax(-1) @ value


MIN_INT8_ELEMENTS = 1024  # elements; smaller tensors, such as biases, stay float32


def store_as_int8(graph: bytes, prefix: str = "") -> bytes:
    """Store the large float32 weights of an ONNX graph as int8; of those whose names start with `prefix`."""
    model = onnx.load_model_from_string(graph)
    transposed = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    initializers: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        large = weight.dtype == np.float32 and weight.ndim >= 2 and weight.size >= MIN_INT8_ELEMENTS
        if large and tensor.name.startswith(prefix):
            axis = 1 if tensor.name in transposed else 0
            tensors, restoring = _stored(tensor.name, weight, axis)
            initializers += tensors
            nodes += restoring
        else:
            initializers.append(tensor)
    nodes += list(model.graph.node)
    for part, values in ((model.graph.initializer, initializers), (model.graph.node, nodes)):
        del part[:]
        part.extend(values)
    return cast(bytes, model.SerializeToString())


def _stored(name: str, weight: np.ndarray, axis: int) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Replace one weight by its integers and scales, and two nodes that compute it under its old name."""
    integers, scale = to_int8(weight, axis)
    tensors = [numpy_helper.from_array(integers, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
    nodes = [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
    ]
    return tensors, nodes


def to_int8(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Round float32 to int8 in -127..127 and float32 scales, one for each index of `axis`."""
    other_axes = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=other_axes, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.round(weight / scale), -127, 127).astype(np.int8), scale
