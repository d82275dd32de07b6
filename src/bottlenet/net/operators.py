"""ONNX's operators in torch: a node of a graph -> a module of the tensors that the photo decides.

    Node (operator, attributes, constants, shapes) --module_of--> nn.Module: tensors -> tensor

Shapes are known, as a file is read for photos of one size; of the batch alone nothing may depend. What has weights
becomes torch's own layer, so that it trains as any other. A new version of an operator mostly takes as an input what
was an attribute, so `Node.value` looks at both.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

Shape = tuple[int, ...]
Function = Callable[..., Any]


class UnknownOperatorError(Exception):
    """No module does what the node does; the message says what of it."""


@dataclass(frozen=True)
class Node:
    """A node, and what is known before a photo comes. The batch is `batch` in shapes."""

    operator: str
    attributes: dict[str, Any]
    constants: dict[int, NDArray[Any]]  # by the position of the input
    shapes: tuple[Shape | None, ...]  # of the inputs
    output: Shape | None
    outputs: int
    opset: int
    batch: int

    def value(self, name: str, position: int = -1, default: Any = None) -> Any:
        """Return an attribute, or the constant input that it became, as Python's own numbers."""
        if position in self.constants:
            return self.constants[position].tolist()
        if position >= 0 and position < len(self.shapes) and self.shapes[position] is not None:
            raise UnknownOperatorError(f"with a {name} that is computed")
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def shape(self, position: int = 0) -> Shape:
        """Return an input's shape. UnknownOperatorError: nobody knows it."""
        if position in self.constants:
            return self.constants[position].shape
        found = self.shapes[position]
        if found is None or not found:
            raise UnknownOperatorError("on a tensor whose shape depends on more than the photo's size")
        return found

    def weight(self, position: int) -> NDArray[np.float32]:
        """Return a constant input of floats. UnknownOperatorError: it is computed."""
        if position not in self.constants:
            raise UnknownOperatorError("with weights that are computed")
        return self.constants[position].astype(np.float32)


class Operation(nn.Module):
    """Tensors -> `function` of them and of the node's constants, in the order of its inputs."""

    def __init__(self, function: Function, count: int = 1, constants: dict[int, NDArray[Any]] | None = None) -> None:
        super().__init__()
        self.function, self.count = function, count
        self.names = {}
        for position, value in (constants or {}).items():
            self.names[position] = f"constant_{position}"
            tensor = torch.from_numpy(np.array(value))
            if tensor.is_floating_point():
                self.register_parameter(self.names[position], nn.Parameter(tensor.float()))
            else:
                self.register_buffer(self.names[position], tensor)

    def forward(self, *tensors: Tensor) -> Any:
        rest, names = iter(tensors), self.names
        return self.function(*(getattr(self, names[at]) if at in names else next(rest) for at in range(self.count)))


class Padded(nn.Module):
    """Pads, where the layer itself can't, and runs the layer."""

    def __init__(self, layer: nn.Module, pads: Sequence[int], value: float = 0.0) -> None:
        super().__init__()
        self.layer, self.pads, self.value = layer, list(pads), value

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(F.pad(x, self.pads, value=self.value))
        return y


def module_of(node: Node) -> nn.Module:
    """Build the module of a node. UnknownOperatorError: there is none."""
    if node.operator in LAYERS:
        return LAYERS[node.operator](node)
    if node.operator in TENSORS:  # the first input is the photo's, the rest says how
        if 0 in node.constants:
            raise UnknownOperatorError("on a constant")
        return Operation(TENSORS[node.operator](node))
    if node.operator in ELEMENTWISE:
        return Operation(ELEMENTWISE[node.operator], len(node.shapes), node.constants)
    raise UnknownOperatorError("")


# Convolutions, products and norms: torch's own layers.


Pair = tuple[int, int]


def window(node: Node, kernel: Sequence[int]) -> tuple[Pair, Pair, list[int], bool]:
    """Return strides, dilations, pads (left, right, top, bottom), and whether those are the same on both sides."""
    if len(kernel) != 2:
        raise UnknownOperatorError(f"over {len(kernel)} dimensions")
    strides, dilations = (tuple(node.value(name, default=[1, 1])) for name in ("strides", "dilations"))
    automatic = node.value("auto_pad", default="NOTSET")
    top, left, bottom, right = node.value("pads", default=[0, 0, 0, 0]) if automatic == "NOTSET" else (0, 0, 0, 0)
    if automatic.startswith("SAME"):
        sides = []
        for side, k, s, d in zip(node.shape()[2:], kernel, strides, dilations, strict=True):
            most = max(0, (math.ceil(side / s) - 1) * s + (k - 1) * d + 1 - side)
            sides.append((most // 2, most - most // 2) if automatic == "SAME_UPPER" else (most - most // 2, most // 2))
        (top, bottom), (left, right) = sides
    return strides, dilations, [left, right, top, bottom], (left, top) == (right, bottom)


def convolution(node: Node) -> nn.Module:
    weight = node.weight(1)
    groups = node.value("group", default=1)
    strides, dilations, pads, even = window(node, weight.shape[2:])
    layer = empty(
        nn.Conv2d,
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        strides,
        (pads[2], pads[0]) if even else 0,
        dilations,
        groups,
        bias=len(node.shapes) > 2,
    )
    fill(layer, weight, node.weight(2) if len(node.shapes) > 2 else None)
    convolved: nn.Module = layer if even else Padded(layer, pads)
    return convolved


def transposed_convolution(node: Node) -> Any:
    weight = node.weight(1)
    groups = node.value("group", default=1)
    strides, dilations, pads, even = window(node, weight.shape[2:])
    if not even or "output_shape" in node.attributes or node.value("auto_pad", default="NOTSET") != "NOTSET":
        raise UnknownOperatorError("with pads that differ from side to side")
    more = node.value("output_padding", default=[0, 0])
    layer = empty(
        nn.ConvTranspose2d,
        weight.shape[0],
        weight.shape[1] * groups,
        weight.shape[2:],
        strides,
        (pads[2], pads[0]),
        more,
        groups,
        bias=len(node.shapes) > 2,
        dilation=dilations,
    )
    fill(layer, weight, node.weight(2) if len(node.shapes) > 2 else None)
    return layer


def empty(kind: Callable[..., nn.Module], *sizes: Any, **more: Any) -> Any:
    """Make a layer without the random weights that `fill` replaces."""
    return skip_init(kind, *sizes, **more)  # type: ignore[no-untyped-call]


@torch.no_grad()
def fill(layer: Any, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
    layer.weight.copy_(torch.from_numpy(weight))
    if bias is not None:
        layer.bias.copy_(torch.from_numpy(np.broadcast_to(bias, layer.bias.shape).copy()))


def gemm(node: Node) -> Any:
    weight = node.weight(1) * node.value("alpha", default=1.0)
    weight = weight if node.value("transB", default=0) else weight.T
    if node.value("transA", default=0):
        raise UnknownOperatorError("with transA")
    bias = node.weight(2) * node.value("beta", default=1.0) if len(node.shapes) > 2 else None
    if bias is not None and bias.size not in (1, len(weight)):
        raise UnknownOperatorError("with a bias of two dimensions")
    layer = empty(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    fill(layer, weight, None if bias is None else bias.reshape(-1))
    return layer


def product(node: Node) -> Any:
    if 1 in node.constants and node.constants[1].ndim == 2:
        weight = node.weight(1).T
        layer = empty(nn.Linear, weight.shape[1], weight.shape[0], bias=False)
        fill(layer, weight, None)
        return layer
    return Operation(torch.matmul, 2, node.constants)


def batch_norm(node: Node) -> nn.Module:
    scale, bias, mean, variance = (torch.from_numpy(node.weight(position)) for position in range(1, 5))
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(len(node.shape()))
    if node.value("training_mode", default=0) or kind is None:
        raise UnknownOperatorError("of a network in training, or of more than maps")
    layer = kind(len(scale), eps=node.value("epsilon", default=1e-5))
    layer.load_state_dict({"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}, strict=False)
    return layer


def layer_norm(node: Node) -> nn.Module:
    shape, axis = node.shape(), node.value("axis", default=-1)
    layer = nn.LayerNorm(shape[axis:], node.value("epsilon", default=1e-5), bias=len(node.shapes) > 2)
    fill(layer, node.weight(1), node.weight(2) if len(node.shapes) > 2 else None)
    return layer


def instance_norm(node: Node) -> nn.Module:
    channels = node.shape()[1]
    layer = nn.GroupNorm(channels, channels, node.value("epsilon", default=1e-5))
    fill(layer, node.weight(1), node.weight(2))
    return layer


def max_pool(node: Node) -> nn.Module:
    kernel = node.value("kernel_shape")
    strides, dilations, pads, even = window(node, kernel)
    ceil = bool(node.value("ceil_mode", default=0))
    fits = even and all(2 * pad <= k for pad, k in zip((pads[2], pads[0]), kernel, strict=True))
    layer = nn.MaxPool2d(kernel, strides, (pads[2], pads[0]) if fits else 0, dilations, ceil_mode=ceil)
    return layer if fits else Padded(layer, pads, -math.inf)


def average_pool(node: Node) -> nn.Module:
    kernel = node.value("kernel_shape")
    strides, dilations, pads, even = window(node, kernel)
    if dilations != (1, 1):
        raise UnknownOperatorError("with dilations")
    ceil, whole = bool(node.value("ceil_mode", default=0)), bool(node.value("count_include_pad", default=0))
    if even and all(2 * pad <= k for pad, k in zip((pads[2], pads[0]), kernel, strict=True)):
        return nn.AvgPool2d(kernel, strides, (pads[2], pads[0]), ceil, whole)
    layer = nn.AvgPool2d(kernel, strides, 0, ceil)
    if whole:
        return Padded(layer, pads)
    with torch.no_grad():
        share = Padded(layer, pads)(torch.ones(1, 1, *node.shape()[2:])).numpy()  # of the window, what is no pad
    return nn.Sequential(Padded(layer, pads), Operation(torch.div, 2, {1: share}))


def gather(node: Node) -> nn.Module:
    axis = node.value("axis", default=0) % len(node.shape())
    indices, side = np.asarray(node.value("indices", 1)), node.shape()[axis]
    if 0 in node.constants or (axis == 0 and node.batch > 1 and side % node.batch == 0):
        raise UnknownOperatorError("of photos or of a constant")
    if indices.ndim == 0:
        return Operation(lambda x: x.select(axis, int(indices) % side))
    return Operation(
        lambda x, order: x.index_select(axis, order.flatten()).unflatten(axis, order.shape), 2, {1: indices % side}
    )


LAYERS: dict[str, Callable[[Node], nn.Module]] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": gemm,
    "MatMul": product,
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "Gather": gather,
    "Concat": lambda node: Operation(joined(node), len(node.shapes), node.constants),
}


def joined(node: Node) -> Function:
    """Join; constants come once for all photos."""
    axis = node.value("axis")
    if axis in (0, -len(node.output or ())):
        raise UnknownOperatorError("of photos")

    def concat(*tensors: Tensor) -> Tensor:
        photos = next(each.shape[0] for at, each in enumerate(tensors) if at not in node.constants)
        return torch.cat(
            [each.expand(photos, *each.shape[1:]) if at in node.constants else each for at, each in enumerate(tensors)],
            axis,
        )

    return concat


# What arranges one tensor, or sums it up: a function of it, made from the attributes.


def reshape(node: Node) -> Function:
    if node.output is None:
        raise UnknownOperatorError("to a shape that is computed")
    sizes = list(node.output)
    photos = [at for at, size in enumerate(sizes) if node.batch > 1 and size and size % node.batch == 0]
    if len(photos) > 1:
        raise UnknownOperatorError("to a shape with two batches in it")
    sizes[photos[0] if photos else 0] = -1  # without a mark it comes first
    return lambda x: x.reshape(sizes)


def expand(node: Node) -> Function:
    size = list(node.output or ())
    shape = (1,) * (len(size) - len(node.shape())) + node.shape()
    size = [-1 if now == then else then for now, then in zip(shape, size, strict=True)]
    if not size or any(each > 0 and each % node.batch == 0 for each in size if node.batch > 1):
        raise UnknownOperatorError("to the number of photos")
    return lambda x: x.expand(size)


def slices(node: Node) -> Function:
    starts, ends = node.value("starts", 1), node.value("ends", 2)
    axes = node.value("axes", 3) or list(range(len(starts)))
    steps = node.value("steps", 4) or [1] * len(starts)
    shape = node.shape()
    at: list[slice] = [slice(None)] * len(shape)
    flipped: list[int] = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, _ = slice(start, None if end < -(2**31) else end, step).indices(shape[axis])
        if (first, last, step) == (0, shape[axis], 1):
            continue
        if axis % len(shape) == 0 and shape[0] % node.batch == 0 and shape[0] >= node.batch > 1:
            raise UnknownOperatorError("of photos")
        if step == -1 and (first, last) == (shape[axis] - 1, -1):
            flipped.append(axis)
        elif step < 0:
            raise UnknownOperatorError("backwards")
        else:
            at[axis] = slice(first, last, step)
    whole = all(each == slice(None) for each in at)

    def cut(x: Tensor) -> Tensor:
        x = x if whole else x[tuple(at)]
        return x.flip(flipped) if flipped else x

    return cut


def split(node: Node) -> Function:
    axis = node.value("axis", default=0)
    side = node.shape()[axis]
    sizes = node.value("split", 1)
    if sizes is None:
        each = math.ceil(side / node.outputs)
        sizes = [min(each, side - first) for first in range(0, side, each)]
    return lambda x: x.split(sizes, axis)


def pad(node: Node) -> Function:
    pads, mode = node.value("pads", 1), node.value("mode", default="constant")
    value = node.value("value", 2, 0.0)
    value = value[0] if isinstance(value, list) else value
    rank = len(node.shape())
    axes = [axis % rank for axis in node.value("axes", 3) or range(rank)]
    both = {axis: (pads[at], pads[at + len(axes)]) for at, axis in enumerate(axes)}
    if any(both.get(0, (0, 0))) or mode not in ("constant", "reflect", "edge"):
        raise UnknownOperatorError(f"of mode {mode}, or of photos")
    last = min((axis for axis, sides in both.items() if any(sides)), default=rank)
    flat = [side for axis in range(rank - 1, last - 1, -1) for side in both.get(axis, (0, 0))]
    if not flat:
        return lambda x: x
    if mode == "constant":
        return lambda x: F.pad(x, flat, value=value)
    return lambda x: F.pad(x, flat, mode="replicate" if mode == "edge" else mode)


def resize(node: Node) -> Function:
    """Resize maps as torch does, where ONNX's many ways come to the same."""
    shape, output = node.shape(), node.output
    if output is None or len(shape) != 4 or shape[:2] != output[:2]:
        raise UnknownOperatorError("of something else than maps")
    mode = node.value("mode", default="nearest")
    usual = "asymmetric" if node.operator == "Upsample" else "half_pixel"
    where = node.value("coordinate_transformation_mode", default=usual)
    size = output[2:]
    times = [new / old for new, old in zip(size, shape[2:], strict=True)]
    odd = node.value("antialias", default=0) or node.value("exclude_outside", default=0)
    aligned = where == "align_corners"
    if mode == "nearest" and not odd:
        rounded = node.value("nearest_mode", default="floor" if node.operator == "Upsample" else "round_prefer_floor")
        if all(each >= 1 and each.is_integer() for each in times) and (where != "asymmetric" or rounded == "floor"):
            return lambda x: F.interpolate(x, size, mode="nearest")
        if where == "asymmetric" and rounded == "floor":
            return lambda x: F.interpolate(x, size, mode="nearest")
    if mode == "linear" and not odd and (aligned or "half_pixel" in where):
        return lambda x: F.interpolate(x, size, mode="bilinear", align_corners=aligned)
    cubic = node.value("cubic_coeff_a", default=-0.75) == -0.75
    if mode == "cubic" and not odd and cubic and (aligned or "half_pixel" in where):
        return lambda x: F.interpolate(x, size, mode="bicubic", align_corners=aligned)
    raise UnknownOperatorError(f"of mode {mode}, {where}")


def reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Node], Function]:
    def of(node: Node) -> Function:
        rank = len(node.shape())
        axes = node.value("axes", 1)
        if axes is None and node.value("noop_with_empty_axes", default=0):
            return lambda x: x
        axes = [axis % rank for axis in axes or range(rank)]
        if 0 in axes:
            raise UnknownOperatorError("over photos")
        keep = bool(node.value("keepdims", default=1))
        return lambda x: function(x, axes, keep)

    return of


def pooled(function: Function) -> Callable[[Node], Function]:
    return lambda node: lambda x: function(x, list(range(2, len(node.shape()))), True)


def softmax(function: Function) -> Callable[[Node], Function]:
    """Take one axis; before opset 13 that one and all behind it are one."""

    def of(node: Node) -> Function:
        old = node.opset < 13
        shape = node.shape()
        axis = node.value("axis", default=1 if old else -1) % len(shape)
        if old and math.prod(shape[axis + 1 :]) != 1:
            return lambda x: function(x.flatten(axis), axis).reshape(x.shape)
        return lambda x: function(x, axis)

    return of


def depth_to_space(node: Node) -> Function:
    size, mode = node.value("blocksize"), node.value("mode", default="DCR")
    if mode == "CRD":
        return lambda x: F.pixel_shuffle(x, size)
    _, c, h, w = node.shape()

    def shuffled(x: Tensor) -> Tensor:
        parts = x.reshape(-1, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(-1, c // size**2, h * size, w * size)

    return shuffled


def space_to_depth(node: Node) -> Function:
    size = node.value("blocksize")
    _, c, h, w = node.shape()

    def folded(x: Tensor) -> Tensor:
        parts = x.reshape(-1, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(-1, c * size**2, h // size, w // size)

    return folded


def clip(node: Node) -> Function:
    low, high = node.value("min", 1), node.value("max", 2)
    return lambda x: x.clamp(low, high)


def cast(node: Node) -> Function:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
    kind = kinds.get(node.value("to"))
    if kind is None:
        raise UnknownOperatorError("to a type of few bits")
    return lambda x: x if x.dtype == kind else x.to(kind)


def transposed(node: Node) -> Function:
    order = node.value("perm") or list(range(len(node.shape())))[::-1]
    return lambda x: x.permute(order)


def flattened(node: Node) -> Function:
    axis = node.value("axis", default=1) % len(node.shape())
    if axis == 0:
        raise UnknownOperatorError("of photos")
    return lambda x: x.flatten(0, axis - 1).flatten(1) if axis > 1 else x.flatten(1)


def squeezed(node: Node) -> Function:
    shape = node.shape()
    axes = node.value("axes", 1) or [axis for axis, side in enumerate(shape) if side == 1 and axis]
    axes = tuple(axis % len(shape) for axis in axes)
    if 0 in axes and node.batch > 1 and shape[0] == node.batch:
        raise UnknownOperatorError("of photos")
    return lambda x: x.squeeze(axes)


def unsqueezed(node: Node) -> Function:
    axes = node.value("axes", 1)
    rank = len(node.shape()) + len(axes)

    def wider(x: Tensor) -> Tensor:
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return wider


def with_attributes(function: Function, **named: tuple[str, Any]) -> Callable[[Node], Function]:
    """Pass a node's attributes to torch's function, by its own names for them, with ONNX's defaults."""

    def of(node: Node) -> Function:
        known = {mine: node.value(theirs, default=default) for mine, (theirs, default) in named.items()}
        return lambda x: function(x, **known)

    return of


TENSORS: dict[str, Callable[[Node], Function]] = {
    "Identity": lambda node: lambda x: x,
    "Dropout": lambda node: lambda x: x,
    "Reshape": reshape,
    "Flatten": flattened,
    "Squeeze": squeezed,
    "Unsqueeze": unsqueezed,
    "Transpose": transposed,
    "Expand": expand,
    "Slice": slices,
    "Split": split,
    "Pad": pad,
    "Resize": resize,
    "Upsample": resize,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Clip": clip,
    "Cast": cast,
    "Softmax": softmax(torch.softmax),
    "LogSoftmax": softmax(torch.log_softmax),
    "GlobalAveragePool": pooled(torch.mean),
    "GlobalMaxPool": pooled(torch.amax),
    "ReduceMean": reduced(torch.mean),
    "ReduceSum": reduced(torch.sum),
    "ReduceMax": reduced(torch.amax),
    "ReduceMin": reduced(torch.amin),
    "ReduceL2": reduced(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "ReduceSumSquare": reduced(lambda x, axes, keep: x.square().sum(axes, keep)),
    "LRN": with_attributes(
        F.local_response_norm, size=("size", 5), alpha=("alpha", 1e-4), beta=("beta", 0.75), k=("bias", 1.0)
    ),
    "HardSigmoid": with_attributes(
        lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), alpha=("alpha", 0.2), beta=("beta", 0.5)
    ),
    "LeakyRelu": with_attributes(F.leaky_relu, negative_slope=("alpha", 0.01)),
    "Elu": with_attributes(F.elu, alpha=("alpha", 1.0)),
    "Celu": with_attributes(F.celu, alpha=("alpha", 1.0)),
    "Gelu": with_attributes(F.gelu, approximate=("approximate", "none")),
}


# What goes element by element, with constants on either side.


def divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() or y.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


ELEMENTWISE: dict[str, Function] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": divide,
    "Pow": torch.pow,
    "Min": lambda *tensors: reduce(torch.minimum, tensors),
    "Max": lambda *tensors: reduce(torch.maximum, tensors),
    "Sum": lambda *tensors: reduce(torch.add, tensors),
    "Mean": lambda *tensors: reduce(torch.add, tensors) / len(tensors),
    "PRelu": lambda x, slope: torch.where(x >= 0, x, slope * x),
    "Where": torch.where,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Not": torch.logical_not,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
    "Swish": F.silu,
    "Mish": F.mish,
    "Selu": F.selu,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sign": torch.sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sin": torch.sin,
    "Cos": torch.cos,
}
