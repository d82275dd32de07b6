"""An ONNX file: `FILE.onnx`, from any exporter.

    file --read--> model --fold--> shapes are numbers --Network--> modules, one a node --compare--> Classifier

Nothing that an ONNX file says of itself is code. Shapes that it computes are worked out by onnxruntime, for photos of
one size. The network in torch must give what onnxruntime gives for the file, on photos, before it is used for anything.
A softmax or sigmoid at the end is left out: answers come from logits.

Cuts have the names of the file's nodes, with dots between their parts, less what all have in front.
"""

import ast
import hashlib
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data
from onnx.inliner import inline_local_functions
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError, reason
from bottlenet.files import read_bounded
from bottlenet.net.cut import close
from bottlenet.net.detectors import RowsToBoxes, grid_of
from bottlenet.net.models import SETTINGS, Classifier, Metadata, Named, Normalize, assemble
from bottlenet.net.operators import Node, UnknownOperatorError, module_of
from bottlenet.photo import photo_to_pixels
from bottlenet.runtime import InferenceSession, SessionOptions
from bottlenet.task import Detection

MAX_BYTES = 2**31 - 1  # of an ONNX file, and of all its values: protobuf has no more
PHOTOS = 4  # of the demo, on which torch and onnxruntime must agree
BATCH = 1009  # photos while shapes are worked out: a prime that is no side, so that a multiple of it is the batch
FIRST_OPSET = 7  # before it, operators say on which axis they broadcast
ID_DIGITS = 16


def load(named: Named) -> Classifier:
    """Load a network. InputError: no such file, nothing to convert, not what onnxruntime gives, or see `load_model`."""
    path = Path(named.network)
    model, entry = understood(named)
    worked_out, batch = fold(path, model, entry)
    detects = named.settings.get("task") == Detection.name
    if not detects:
        check_rows(path, worked_out.graph)
    network = Network(path, worked_out, batch, entry)
    own = ("task", "threshold") if detects else ()
    rest = replace(named, settings={name: value for name, value in named.settings.items() if name not in own})
    classifier = assemble(rest, network, replace(metadata_of(model), size=entry.size))
    found = compare(path, model, entry, classifier, probabilities_of(model.graph).op_type)
    if detects:
        return detector(named, classifier, found)
    network.name_both(len(classifier.labels))
    return classifier


MOST_FOUND = 100  # boxes of a photo, as COCO counts them
LEAST_SIDE = 2  # pixels, of the largest box: with less they are shares
THRESHOLD = 0.05  # unless told otherwise, as of torchvision's


def detector(named: Named, classifier: Classifier, found: Tensor) -> Classifier:
    """Make a detector of a network that gives rows, `found` of photos. InputError: they are no rows of a YOLO."""
    side, columns = classifier.preprocess.size, 5 + len(classifier.labels)
    gives = f"{named.whole}: its output is {shown((0, *found.shape[1:]))}"
    if found.ndim != 3:
        what = "and a detection's is rows of 4 + 1 + classes numbers, all in one"
        raise InputError(f"{gives}, {what}; export it so, or give it as package.module:function")
    if found.shape[2] != columns:
        what = f"and {columns - 5:,} labels need rows of {columns:,}: a box of 4, 1 for whether, and one a class"
        raise InputError(f"{gives}, {what}; give one label a class")
    if found[..., 4:].min() < 0 or found[..., 4:].max() > 1:
        what = "and from the fifth number of a row on there are others than 0 to 1"
        raise InputError(f"{gives}, {what}; export it with a sigmoid on those, or give it as package.module:function")
    corners, cells = grid_of(side)
    in_cells = False
    if found.shape[1] == len(corners):  # a centre is near its cell, or it counts from there
        away = found[..., :2] - (corners + cells / 2)
        in_cells = bool(found[..., :2].abs().mean() < away.abs().mean())
    centres, sides = found[..., :2], found[..., 2:4]
    if not in_cells and (sides.min() < 0 or sides.max() < LEAST_SIDE or not -side < centres.mean() < 2 * side):
        what = "and its first four numbers are no centre and sides, in pixels or from the cells of strides 8, 16 and 32"
        raise InputError(f"{gives}, {what}; export it so, or give it as package.module:function")
    least = named.number("threshold", 0, 1) if "threshold" in named.settings else THRESHOLD
    most = min(MOST_FOUND, found.shape[1])
    answer = RowsToBoxes(side, in_cells=in_cells, most=most, least=least)
    return replace(classifier, task=Detection(most, least), answer=answer)


def understood(named: Named) -> tuple[onnx.ModelProto, "Entry"]:
    """Read a file as a network from photos to scores, and find out how they go in. InputError: it is none."""
    path = Path(named.network)
    model, found = read(path)
    if named.settings.get("id", found) != found:
        what = f"it holds something else than when it was named (id {named.settings['id']}, now {found})"
        raise InputError(f"{path}: {what}; give the file of then, or train anew in a new folder")
    check_float(path, model)
    widen(model)
    spell_out(model.graph)
    keep_scores(model)
    entry = entry_of(named, model)
    check_output(path, model)
    return model, entry


def file_id(path: Path) -> str:
    """Return a short hash of the file and of the values that it keeps in others. InputError: see `read`."""
    return read(path)[1]


def read(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read a file with all its values. InputError: it is no ONNX, or values are missing or outside its folder."""
    try:
        data = read_bounded(path, MAX_BYTES)
        model = onnx.load_model_from_string(data)
    except (OSError, InputError) as error:
        raise InputError(f"{path}: {reason(error)}; give an ONNX file") from error
    except Exception as error:  # protobuf's own
        raise InputError(f"{path}: this is no ONNX file; give one that an exporter has written") from error
    if not model.graph.node or not model.opset_import:
        raise InputError(f"{path}: this is no ONNX file, or one without a network; give another")
    digest = hashlib.sha256(data)
    folder = path.resolve().parent
    tensors = inside(model, onnx.TensorProto)
    elsewhere = (ExternalDataInfo(tensor) for tensor in tensors if uses_external_data(tensor))
    for place in sorted({each.location for each in elsewhere}):
        file = (folder / place).resolve()
        if not file.is_relative_to(folder):
            what = f"it has values in {place}, outside its folder, which is not read"
            raise InputError(f"{path}: {what}; give another file")
        try:
            digest.update(read_bounded(file, MAX_BYTES))
        except (OSError, InputError) as error:
            raise InputError(f"{path}: it has values in {place}: {reason(error)}; put that file beside it") from error
    try:
        load_external_data_for_model(model, str(folder))
    except Exception as error:  # a length or an offset that the file has not
        raise InputError(f"{path}: its values can't be read ({reason(error)}); give the whole file") from error
    return model, digest.hexdigest()[:ID_DIGITS]


def inside(message: Any, kind: type) -> Iterator[Any]:
    """Yield everything of a kind in a model, in nodes, functions and inner graphs too."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else (value,):
                yield from inside(each, kind)


INTEGERS = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantize")


def check_float(path: Path, model: onnx.ModelProto) -> None:
    """Raise InputError for a quantised network, one in parts of precision, or one that is too old."""
    for node in model.graph.node:
        if node.op_type.startswith(INTEGERS):
            what = f"it is quantised (node {title(node)}, {node.op_type})"
            advice = "a bundle's weights become int8 by export --weights int8"
            raise InputError(f"{path}: {what}; give the float32 file that it was made of: {advice}")
    opset = opset_of(model)
    if opset < FIRST_OPSET:
        advice = "convert it with onnx.version_converter.convert_version(model, 13)"
        raise InputError(f"{path}: its opset is {opset}, which is before {FIRST_OPSET}; {advice}")


HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def widen(model: onnx.ModelProto) -> None:
    """Compute in float32 what the file computes in 16 bits; its weights stay the same numbers."""
    for tensor in inside(model, onnx.TensorProto):
        if tensor.data_type in HALVES:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for attribute in inside(model, onnx.AttributeProto):
        if attribute.name in ("to", "dtype") and attribute.i in HALVES:
            attribute.i = onnx.TensorProto.FLOAT
    for kind in inside(model, onnx.TypeProto.Tensor):
        if kind.elem_type in HALVES:
            kind.elem_type = onnx.TensorProto.FLOAT


def spell_out(graph: onnx.GraphProto) -> None:
    """Write an ImageScaler, which ONNX no longer has, as the normalisation that it is."""
    for node in graph.node:
        if node.op_type == "ImageScaler":
            given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            bias = np.array(given["bias"], np.float32)
            scale, zero, one = np.full_like(bias, given.get("scale", 1)), np.zeros_like(bias), np.ones_like(bias)
            names = [f"{node.output[0]} {each}" for each in ("scale", "bias", "mean", "variance")]
            for name, value in zip(names, (scale, bias, zero, one), strict=True):
                graph.initializer.append(numpy_helper.from_array(value, name))
            taken = [node.input[0], *names]
            node.CopyFrom(onnx.helper.make_node("BatchNormalization", taken, node.output, node.name, epsilon=0.0))


def keep_scores(model: onnx.ModelProto) -> None:
    """Leave out what gives the scores their names, as in files of Custom Vision, and take those as the labels."""
    graph = model.graph
    naming = next((node for node in graph.node if node.op_type == "ZipMap"), None)
    if naming is None:
        return
    labels = [label.decode() for each in naming.attribute for label in each.strings]
    onnx.helper.set_model_props(model, {"names": str(dict(enumerate(labels)))} | metadata_settings(model))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(naming.input[0], onnx.TensorProto.FLOAT, None))
    wanted = {naming.input[0]}
    for node in reversed(list(graph.node)):
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            wanted.update(node.input)


def opset_of(model: onnx.ModelProto) -> int:
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


@dataclass(frozen=True)
class Entry:
    """How the photos go in."""

    name: str
    layout: str  # nchw | nhwc
    size: int
    batch: int  # 0: any
    blue_first: bool

    @property
    def sides(self) -> tuple[int, int, int]:
        return (3, self.size, self.size) if self.layout == "nchw" else (self.size, self.size, 3)

    def arranged(self, photos: Tensor) -> Tensor:
        """Turn (B, 3, S, S), red first, into what the file takes."""
        photos = photos.flip(1) if self.blue_first else photos
        return photos if self.layout == "nchw" else photos.permute(0, 2, 3, 1)


def entry_of(named: Named, model: onnx.ModelProto) -> Entry:
    """Find out what the network takes. InputError: something else than photos, or what nobody says."""
    name, sides = input_of(named, model)
    said = metadata_settings(model)
    layout = named.settings.get("layout", said.get("layout", "")).lower() or layout_of(sides)
    if layout not in ("nchw", "nhwc"):
        given = f"its input is {shown(sides)}, so the file does not say where the three channels are"
        raise InputError(f"{named.whole}: {given}; put behind the name ,layout=nchw or ,layout=nhwc")
    channels, height, width = sides[1:] if layout == "nchw" else (sides[3], sides[1], sides[2])
    size = named.size or height
    if not size:
        given = f"its input is {shown(sides)}, so the file does not say its side"
        raise InputError(f"{named.whole}: {given}; put behind the name ,size= and {SETTINGS['size']}")
    if channels not in (0, 3) or height not in (0, size) or width not in (0, size):
        what = f"its input is {shown(sides)}, not {layout} of three channels and {size} x {size} pixels"
        raise InputError(f"{named.whole}: {what}; give another layout or size, or export it for square photos")
    colours = named.settings.get("colours", said.get("colours", "rgb")).lower()
    if colours not in ("rgb", "bgr"):
        raise InputError(f"{named.whole}: colours is {colours!r}; give rgb or bgr")
    return Entry(name, layout, size, sides[0], colours == "bgr")


def input_of(named: Named, model: onnx.ModelProto) -> tuple[str, tuple[int, int, int, int]]:
    """Return the input's name and sides, 0 for what is free. InputError: it is not one of photos."""
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        advice = "give a network of one input, such as onnx.utils.extract_model cuts out of it"
        raise InputError(f"{named.whole}: it has {len(inputs)} inputs ({names}), and a photo is one; {advice}")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise InputError(f"{named.whole}: its input is {name}, and photos go in as float32; export it so")
    sides = [max(0, side.dim_value) for side in kind.shape.dim] if kind.HasField("shape") else [0] * 4
    if len(sides) != 4:
        what = f"its input has {len(sides)} dimensions, and photos have 4"
        raise InputError(f"{named.whole}: {what}; give a network of photos")
    return inputs[0].name, (sides[0], sides[1], sides[2], sides[3])


def shown(sides: Sequence[int]) -> str:
    return "x".join(str(side or "?") for side in sides)


def layout_of(sides: Sequence[int]) -> str:
    """Tell the layout by where the three channels are; empty where that does not say."""
    places = [at for at, side in enumerate(sides) if side == 3 and at]
    return "nchw" if places == [1] else "nhwc" if places == [3] else ""


RANGES = {  # ONNX's own metadata of image inputs -> mean, std
    "NominalRange_0_255": (0.0, 1 / 255),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (0.5, 0.5),
}


def metadata_settings(model: onnx.ModelProto) -> dict[str, str]:
    said = {each.key: each.value for each in model.metadata_props}
    if said.get("Image.BitmapPixelFormat") in ("Bgr8", "Rgb8"):
        said.setdefault("colours", said["Image.BitmapPixelFormat"][:3])
    return said


def metadata_of(model: onnx.ModelProto) -> Metadata:
    """Collect what the file says of itself: ONNX's image metadata, Ultralytics' names, or settings by our names."""
    said = metadata_settings(model)

    def numbers(name: str) -> Any:
        try:
            values = [float(text) for text in re.split("[/, ]+", said[name].strip("[]() "))]
        except (KeyError, ValueError):
            return None
        return tuple((values * 3)[:3]) if len(values) in (1, 3) and all(map(math.isfinite, values)) else None

    mean, std = RANGES.get(said.get("Image.NominalPixelRange", ""), (None, None))
    crop = numbers("crop")
    return Metadata(
        crop=None if crop is None else crop[0],
        interpolation=said.get("interpolation"),
        mean=numbers("mean") or (None if mean is None else (mean,) * 3),
        std=numbers("std") or (None if std is None else (std,) * 3),
        labels=names_of(said.get("names", "")),
        remark="an ONNX file seldom does",
    )


def names_of(text: str) -> tuple[str, ...] | None:
    """Read labels as Ultralytics writes them, {0: 'person', ...}."""
    try:
        names = ast.literal_eval(text)
        return tuple(str(names[number]) for number in range(len(names))) or None
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return None


ENDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "Softmax": lambda x: x.softmax(1),
    "Sigmoid": torch.sigmoid,
}
ARRANGING = ("Identity", "Reshape", "Flatten", "Squeeze", "Cast", "Dropout")


def probabilities_of(graph: onnx.GraphProto) -> onnx.NodeProto:
    """Return the softmax or sigmoid at the end; a node without a kind where there is none."""
    made = {name: node for node in graph.node for name in node.output}
    node = made.get(graph.output[0].name)
    while node is not None and node.op_type in ARRANGING:
        node = made.get(node.input[0])
    return node if node is not None and node.op_type in ENDINGS else onnx.NodeProto()


def check_output(path: Path, model: onnx.ModelProto) -> None:
    """Raise InputError for several outputs."""
    if len(model.graph.output) != 1:
        names = ", ".join(each.name for each in model.graph.output)
        advice = "keep that of the scores: onnx.utils.extract_model(FILE, NEW, [input], [output])"
        raise InputError(f"{path}: it has {len(model.graph.output)} outputs ({names}), and scores are one; {advice}")


def check_rows(path: Path, graph: onnx.GraphProto) -> None:
    """Raise InputError for scores of more than the whole photo."""
    sides = shapes_in(graph).get(graph.output[0].name, ())
    if math.prod(sides[2:]) != 1:
        what = f"its output is {shown((0, *sides[1:]))}, as of a detector or of a map, and scores are one row a photo"
        advice = (
            "for rows of 4 + 1 + classes put ,task=detection behind the name; others give as package.module:function"
        )
        raise InputError(f"{path}: {what}; {advice}")


def fold(path: Path, model: onnx.ModelProto, entry: Entry) -> tuple[onnx.ModelProto, int]:
    """Let onnxruntime work out the shapes, for a number of photos that is recognised, or else for the file's own.

    Return the model with the shapes of all its tensors, and that number.
    """
    failed: Exception | None = None
    for batch in ([BATCH] if not entry.batch else []) + [entry.batch or 1]:
        try:
            return folded(model, entry, batch), batch
        except Exception as error:  # onnxruntime's, of many kinds
            failed = error
    assert failed is not None
    what = f"onnxruntime can't load it for photos of {entry.size} pixels ({reason(failed)})"
    raise InputError(f"{path}: {what}; give the size that it was made for, or export it again") from failed


def folded(model: onnx.ModelProto, entry: Entry, batch: int) -> onnx.ModelProto:
    fixed = inline_local_functions(model)
    for value in list(fixed.graph.input):
        if value.name != entry.name:  # a weight, which is an input in files of an IR before 4
            fixed.graph.input.remove(value)
        else:
            value.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, (batch, *entry.sides)))
    fixed.ir_version = max(fixed.ir_version, 4)
    for value in fixed.graph.output:  # what it says of its shape is for other batches
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    with tempfile.TemporaryDirectory() as folder:
        options = SessionOptions()
        options.graph_optimization_level = type(options.graph_optimization_level).ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = FATAL
        options.add_session_config_entry("session.disable_aot_function_inlining", "1")  # of such as HardSwish
        data, here = fixed.SerializeToString(), ["CPUExecutionProvider"]
        InferenceSession(data, options, providers=here, disabled_optimizers=NOT_WANTED)
        found = onnx.load_model(options.optimized_model_filepath)
    notes = {node.name: node.metadata_props for node in model.graph.node if node.name}
    for node in found.graph.node:  # onnxruntime keeps them, unless it takes a node apart anywhere
        if not node.metadata_props and node.name in notes:
            node.metadata_props.extend(notes[node.name])
    return shape_inference.infer_shapes(found, data_prop=True)


# They make nodes that the file has not, with names of their own.
NOT_WANTED = ["MatMulAddFusion", "GeluFusionL1", "LayerNormFusionL1", "ReshapeFusion", "ConvActivationFusion"]


@dataclass(frozen=True)
class Step:
    """A node: its module, by name, and the values that it takes and gives."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Network(nn.Module):
    """The graph as modules: (B, 3, S, S) normalised -> scores (B, classes)."""

    def __init__(self, path: Path, model: onnx.ModelProto, batch: int, entry: Entry) -> None:
        super().__init__()
        graph = model.graph
        self._entry, self._output = entry, graph.output[0].name
        constants = {each.name: one_photo(numpy_helper.to_array(each), batch) for each in graph.initializer}
        shapes = shapes_in(graph)
        ending = probabilities_of(graph)
        self._one, self._both = math.prod(shapes.get(self._output, (1, 0))[1:]) == 1, False
        self._flat = len(shapes.get(self._output, ())) > 2 and math.prod(shapes[self._output][2:]) == 1
        self._steps: list[Step] = []
        for node, name in zip(graph.node, readable(graph.node), strict=True):
            inputs = list(node.input)
            while inputs and not inputs[-1]:  # left out at the end
                inputs.pop()
            described = Node(
                operator="Identity" if node is ending else node.op_type,
                attributes={each.name: onnx.helper.get_attribute_value(each) for each in node.attribute},
                constants={at: constants[each] for at, each in enumerate(inputs) if each in constants},
                shapes=tuple(shapes.get(each, ()) if each else None for each in inputs),
                output=shapes.get(node.output[0]),
                outputs=len(node.output),
                opset=opset_of(model),
                batch=batch,
            )
            put(self, name, convert(path, node, described))
            taken = [each for each in inputs if each and each not in constants]
            self._steps.append(Step(name, tuple(taken), tuple(node.output)))

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {self._entry.name: self._entry.arranged(x)}
        for step in self._steps:
            given = self.get_submodule(step.name)(*[values[each] for each in step.inputs])
            if len(step.outputs) == 1:
                values[step.outputs[0]] = given
            else:
                values.update((each, given[at]) for at, each in enumerate(step.outputs))
        scores: Tensor = values[self._output]
        scores = scores.flatten(1) if self._flat else scores
        return F.pad(scores, (1, 0)) if self._both else scores

    def name_both(self, labels: int) -> None:
        """Give, for two labels, the one logit as that of the second, beside 0 for the first."""
        self._both = self._one and labels == 2


def shapes_in(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Map the tensors whose every side is known to their shapes."""
    found = {}
    for each in (*graph.value_info, *graph.input, *graph.output):
        sides = [side.dim_value for side in each.type.tensor_type.shape.dim]
        if all(sides):
            found[each.name] = tuple(sides)
    return found


def convert(path: Path, node: onnx.NodeProto, described: Node) -> nn.Module:
    """Build a node's module. InputError: there is none."""
    known = node.domain in ("", "ai.onnx")
    try:
        if not known:
            raise UnknownOperatorError("")
        return module_of(described)
    except Exception as error:  # of nodes as they should not be, too
        why = f" {error}" if isinstance(error, UnknownOperatorError) else f" ({reason(error)})"
        operator = f"{node.op_type}{why.rstrip()}" if known else f"{node.domain}.{node.op_type}"
        what = f"operator {operator} has no counterpart in torch here, at node {title(node)}"
        advice = FREE_BATCH if "photos" in why else "export the network without it"
        raise InputError(f"{path}: {what}; {advice}, or give it as package.module:function") from error


def title(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])


def one_photo(value: NDArray[Any], batch: int) -> NDArray[Any]:
    """Keep one photo's share of what was worked out for a whole batch of the same."""
    for axis, side in enumerate(value.shape):
        if side == batch > 1:
            value = value.take([0], axis)
    return value


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Add a module below a dotted name."""
    *front, last = name.split(".")
    for part in front:
        if part not in network._modules:
            network.add_module(part, nn.Module())
        network = network.get_submodule(part)
    network.add_module(last, module)


def readable(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Make names of cuts of the nodes' names: /layer1/layer1.0/conv1/Conv -> layer1.0.conv1.Conv."""
    names = [".".join(parts_of(node)) for node in nodes]
    front = common_front(names)
    names = [name[len(front) :] for name in names]
    taken: set[str] = set()
    inner = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
    found = []
    for name, node in zip(names, nodes, strict=True):
        if name in inner:  # a node can't be a part of another's name
            name = f"{name}.{node.op_type}"
        unique, again = name, 0
        while unique in taken or unique in inner:
            again += 1
            unique = f"{name}_{again}"
        taken.add(unique)
        found.append(unique)
    return found


def parts_of(node: onnx.NodeProto) -> list[str]:
    """Take a node's name apart, without what a part says again; torch's own exporter notes the modules beside it."""
    noted = {each.key: each.value for each in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "")
    scopes = re.findall(r"'([^']*)'", noted)[:-1]
    name = "/".join([*scopes, node.op_type]) if any(scopes) else title(node).removesuffix("_output_0")
    parts: list[str] = []
    for part in re.split(r"[/:;]+", name):
        if parts and part.startswith(parts[-1] + "."):  # features/features.0
            parts.pop()
        if part := re.sub(r"[^A-Za-z0-9_.]+", "_", part).strip("."):
            parts.append(part)
    dotted = [part for each in parts for part in each.split(".") if part] or [node.op_type]
    return [part + "_" * hasattr(PLAIN, part) for part in dotted]


PLAIN = nn.Module()  # whose attributes no module can be called


def common_front(names: Sequence[str]) -> str:
    """Return what all names have in front, up to a dot."""
    low, high = min(names), max(names)
    same = next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: low.rfind(".", 0, same) + 1]


@torch.no_grad()
def compare(path: Path, model: onnx.ModelProto, entry: Entry, classifier: Classifier, ending: str) -> Tensor:
    """Return what torch gives for photos of the demo. InputError: onnxruntime gives something else for the file."""
    files = sorted((each for each in DEMO_PHOTOS.iterdir() if each.name.endswith(".jpg")), key=lambda each: each.name)
    pixels = np.stack([photo_to_pixels(each.read_bytes(), classifier.preprocess) for each in files[:PHOTOS]])
    photos = Normalize(classifier.mean, classifier.std)(torch.from_numpy(pixels))
    try:
        expected = torch.from_numpy(run_file(model, entry, entry.arranged(photos).numpy())).flatten(1)
    except Exception as error:  # onnxruntime's, of many kinds
        what = f"onnxruntime can't run it ({reason(error)})"
        raise InputError(f"{path}: {what}; give another size, or export it again") from error
    try:
        given = classifier.module(photos)
        found = ENDINGS[ending](given).flatten(1)
    except Exception as error:  # of a network whose shapes are those of one photo
        what = f"in torch it does not run on {PHOTOS} photos at once ({reason(error)})"
        raise InputError(f"{path}: {what}; {FREE_BATCH}") from error
    if not close(found, expected):
        what = f"in torch its scores, {tuple(found.shape)}, are not those of onnxruntime, {tuple(expected.shape)}"
        if found.shape == expected.shape:
            most, of = float((found - expected).abs().max()), float(expected.abs().max())
            what = f"in torch its scores are not those of onnxruntime: they differ by {most:.2g}, of {of:.2g}"
        raise InputError(f"{path}: {what}; {FREE_BATCH}")
    return cast(Tensor, given)


FREE_BATCH = "export it with a number of photos that is free, as by dynamic_axes or dynamic_shapes"


def run_file(model: onnx.ModelProto, entry: Entry, photos: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the file itself, on as many photos at once as it takes."""
    options = SessionOptions()
    options.log_severity_level = FATAL
    session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    step, rows = entry.batch or 1, []
    for at in range(0, len(photos), step):
        full = np.resize(photos[at : at + step], (step, *photos.shape[1:]))
        rows.append(session.run(None, {entry.name: full})[0][: len(photos) - at])
    return np.concatenate(rows)


FATAL = 4  # of onnxruntime's log, which says on lines of its own what it raises
DEMO_PHOTOS = resources.files("bottlenet") / "demo" / "photos"
